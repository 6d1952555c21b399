"""The webhook itself: ``/validate`` and ``/mutate`` as a plain ASGI application.

bytes -> :func:`webhook.admission.parse` -> ``decide`` over one snapshot -> :func:`webhook.admission.respond` -> bytes.
Whatever goes wrong is answered with an HTTP error, never with an allow: then the webhook's failurePolicy decides. The
body of an error is a ``Status`` of Kubernetes, whose message client-go shows to the person who wrote.

How long a caller may take is bounded by :mod:`webhook.connections`, what all reviews take together by
:mod:`webhook.budget`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from webhook import admission
from webhook.admission import ObjectRef, Review
from webhook.audit import MAX_TEXT, DecisionLog
from webhook.budget import Budget, Share
from webhook.decision import Decision, LookupNeeded
from webhook.errors import LookupFailed, MalformedReview, Overloaded
from webhook.metrics import Metrics
from webhook.mutation import Mutation
from webhook.policy import Snapshot
from webhook.text import cut, escaped

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# The API server takes 3 MiB from a client, but a review holds old and new and escapes much: 18.8 MB was seen.
MAX_BODY: Final = 32 * 1024 * 1024
# A parent, its owners up to the top and a Namespace are five; the verdict of a write that needs more is none.
MAX_LOOKUPS: Final = 8
# Together, in one review. Webhooks are called with a timeout of 3 s or so, and the write waits.
LOOKUP_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Objects(Protocol):
    """Where the server looks up what a verdict needs beside the review."""

    async def get(self, ref: ObjectRef, *, fresh: bool = False) -> dict[str, Any] | None:
        """The object, or None where the API server says that it does not exist; raises LookupFailed.

        ``fresh``: as it is now, not as it was a moment ago.
        """

    def holds(self, ref: ObjectRef) -> bool:
        """Whether :meth:`get` would answer with what it has kept."""


class Policies(Protocol):
    """Where the server takes the policies in force from; None: not loaded yet."""

    @property
    def snapshot(self) -> Snapshot | None: ...  # noqa: D102


class Traces(Protocol):
    """Where the server leaves what a decision asks for beside its answer: Events, marks."""

    def leave(self, review: Review, decision: Decision, now: datetime) -> None:
        """Never waits, never raises."""


Found = Mapping[ObjectRef, dict[str, Any] | None]
Decide = Callable[[Review, Snapshot, Found, datetime], Decision]
Mutate = Callable[[Review, Snapshot, Found, datetime], Mutation]
Clock = Callable[[], datetime]


class _Reply(NamedTuple):
    """An HTTP response as the two messages that ASGI sends; without a verdict, why: one of ERROR_REASONS."""

    start: Message
    body: Message
    reason: str = ""


class _Decided(NamedTuple):
    """What metrics and log are told once the answer is out."""

    review: Review
    outcome: Decision | Mutation
    time: datetime
    seconds: float
    size: int


def _reply(status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), reason: str = "") -> _Reply:
    length = str(len(body)).encode()
    all_headers = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    return _Reply(
        {"type": "http.response.start", "status": status, "headers": all_headers},
        {"type": "http.response.body", "body": body},
        reason,
    )


# HTTP status -> reason, as k8s.io/apimachinery names them (metav1.StatusReason).
_REASONS: Final = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def _failure(
    status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = (), *, reason: str = "request"
) -> _Reply:
    body = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(status, "Unknown"),
        "code": status,
    }
    return _reply(status, msgspec.json.encode(body), headers, reason)


# Made once: what is answered when memory or patience runs out must not need much of either.
_NOT_ALLOWED: Final = _failure(405, "a review is sent with POST", ((b"allow", b"POST"),))
_TOO_LARGE: Final = _failure(
    413, f"the review has more than {MAX_BODY // 2**20} MiB, which is as much as driftwall reads"
)
_NOT_JSON: Final = _failure(415, "a review is sent with Content-Type: application/json")
_INTERNAL: Final = _failure(
    500, "driftwall failed while it decided this write; the reason is in its log", reason="internal"
)
_NO_POLICIES: Final = _failure(503, "driftwall has not loaded its policies yet", reason="policies")
# The API server tries again by itself if it is told when, and its own time is not up.
_TRY_AGAIN: Final = ((b"retry-after", b"1"),)


class _Gone(Exception):
    """The caller closed the connection before its body was complete."""


class _TooLarge(Exception):
    """The body has more than MAX_BODY bytes."""


class ReviewServer:
    """The ASGI application that the API server calls.

    Everything it works with is handed in: the policies in force, ``decide``, the objects that can be looked up, the
    clock that ``decide`` is told the time from, and where each decision is counted and logged.
    """

    def __init__(  # noqa: PLR0913 - its collaborators, by keyword
        self,
        *,
        policies: Policies,
        decide: Decide,
        mutate: Mutate,
        objects: Objects,
        metrics: Metrics,
        log: DecisionLog,
        traces: Traces,
        budget: Budget,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._policies = policies
        self._objects = objects
        self._metrics = metrics
        self._log = log
        self._traces = traces
        self._budget = budget
        self._clock = clock
        #: Calls that are being read or answered.
        self.in_flight = 0
        self._endpoints: dict[str, Decide | Mutate] = {"/validate": decide, "/mutate": mutate}
        paths = " or ".join(self._endpoints)
        self._not_found = _failure(404, f"there is nothing here; reviews are sent to {paths}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._budget.share() as share:
            await self._serve(scope, receive, send, share)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        self.in_flight += 1
        try:
            reply, decided = await self._answer(scope, receive, share)
        except _Gone:
            return
        finally:
            self.in_flight -= 1
        await send(reply.start)
        await send(reply.body)
        # After the answer is out: nobody waits for metrics or log, and their failure is no longer the write's.
        if decided is None:
            self._metrics.error(reply.start["status"], reply.reason)
            return
        review, outcome = decided.review, decided.outcome
        if isinstance(outcome, Mutation):
            self._metrics.mutation(patched=bool(outcome.patch), seconds=decided.seconds, size=decided.size)
            return
        self._metrics.review(review, outcome, seconds=decided.seconds, size=decided.size)
        self._log.write(review, outcome, time=decided.time, seconds=decided.seconds)
        self._traces.leave(review, outcome, decided.time)

    async def _answer(self, scope: Scope, receive: Receive, share: Share) -> tuple[_Reply, _Decided | None]:
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            return self._not_found, None
        if scope["method"] != "POST":
            return _NOT_ALLOWED, None
        refusal, length = _looked_at(scope["headers"])
        if refusal:
            return refusal, None
        review = None
        try:
            share.arrives(length)
            body = await _read(receive, share)
            if (snapshot := self._policies.snapshot) is None:
                return _NO_POLICIES, None
            share.is_decided(body)
            started = time.perf_counter()
            now = self._clock()
            review = admission.parse(body)
            outcome = await self._decide(endpoint, review, snapshot, now)
            if isinstance(outcome, Mutation) and outcome.refusal is not None:
                outcome = outcome.refusal
            reply = _reply(200, rendered(review, outcome))
            return reply, _Decided(review, outcome, now, time.perf_counter() - started, len(body))
        except _TooLarge:
            return _TOO_LARGE, None
        except Overloaded as error:
            _log.warning("a review is told to come again: %s", error)
            return _failure(503, str(error), _TRY_AGAIN, reason="memory"), None
        except MalformedReview as error:
            _log.warning("a call that is no review: %s", error)
            return _failure(error.status, str(error)), None
        except LookupFailed as error:
            _log.error("no verdict on %s: %s", _shown(review), error)
            return _failure(500, str(error), reason="lookup"), None
        except _Gone:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, RecursionError and MemoryError too, it is no allow
            _log.exception("no verdict on %s: driftwall failed", _shown(review))
            return _INTERNAL, None

    async def _decide(
        self, endpoint: Decide | Mutate, review: Review, snapshot: Snapshot, now: datetime
    ) -> Decision | Mutation:
        """Decide, and look up what the decision turns out to need.

        Raises:
            LookupFailed: an object could not be had, or not in time.
        """
        try:
            return endpoint(review, snapshot, {}, now)
        except LookupNeeded:
            pass
        objects: dict[ObjectRef, dict[str, Any] | None] = {}
        kept = fresh = False
        ref: ObjectRef | None = None
        optional = False
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                while True:
                    try:
                        outcome = endpoint(review, snapshot, objects, now)
                    except LookupNeeded as needed:
                        ref, optional = needed.ref, needed.optional
                        if len(objects) == MAX_LOOKUPS:
                            break
                        kept = kept or self._objects.holds(ref)
                        objects[ref] = await self._look_up(needed, fresh=fresh)
                        continue
                    denied = outcome.denied if isinstance(outcome, Mutation) else not outcome.allowed
                    if fresh or not kept or not denied:
                        return outcome
                    # Somebody who has broken the glass a moment ago is not to be denied for what we have kept.
                    objects, fresh = {}, True
        except TimeoutError:
            late = f"{ref} could not be looked up within {LOOKUP_SECONDS:g} s; try again"
            if ref is None or not optional:
                raise LookupFailed(late) from None
            _log.warning("going on without a look-up: %s", late)
            return endpoint(review, snapshot, {**objects, ref: None}, now)
        raise LookupFailed(f"the verdict on this write needs more than {MAX_LOOKUPS} look-ups; the last is {ref}")

    async def _look_up(self, needed: LookupNeeded, *, fresh: bool) -> dict[str, Any] | None:
        try:
            return await self._objects.get(needed.ref, fresh=fresh)
        except LookupFailed as error:
            if not needed.optional:
                raise
            # It could have opened the object; without it the object stays closed.
            _log.warning("going on without a look-up: %s", error)
            return None


def _shown(review: Review | None) -> str:
    """What was reviewed, for a message: nothing of the object but its place."""
    if review is None:
        return "an unreadable review"
    what = f"{review.operation} of {review.qualified_resource} (uid {review.uid}) by {review.user.username}"
    return cut(escaped(what), MAX_TEXT)


def rendered(review: Review, outcome: Decision | Mutation) -> bytes:
    """The body of the answer."""
    if isinstance(outcome, Mutation):
        return admission.respond(review, allowed=True, patch=outcome.patch)
    return admission.respond(
        review,
        allowed=outcome.allowed,
        message=outcome.message,
        warnings=outcome.warnings,
        audit_annotations=outcome.audit_annotations,
    )


def _looked_at(headers: list[tuple[bytes, bytes]]) -> tuple[_Reply | None, int]:
    """Why a request with these headers is not read, if it is not, and how many bytes it says that it has."""
    content_type = b""
    length = 0
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length" and (length := int(value)) > MAX_BODY:
            return _TOO_LARGE, length
    # The API server sends it bare; people's tools add a charset.
    if content_type != b"application/json" and content_type.partition(b";")[0].strip().lower() != b"application/json":
        return _NOT_JSON, length
    return None, length


async def _read(receive: Receive, share: Share) -> bytes:
    """The body, as long as it is no longer than MAX_BODY."""
    message = await receive()
    chunks: list[bytes] = []
    length = 0
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        length += len(chunk)
        if length > MAX_BODY:
            raise _TooLarge
        share.arrives(length)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        message = await receive()
    raise _Gone
