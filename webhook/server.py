"""The webhook itself: ``/validate`` and ``/mutate`` as a plain ASGI application.

bytes -> :func:`webhook.admission.parse` -> ``decide`` over one snapshot -> :func:`webhook.admission.respond` -> bytes.
A review of ordinary size whose verdict needs nothing that would have to be waited for goes the short way, which is that
without a task and ASGI's messages (:class:`webhook.connections.Prompt`). All else, and all that goes wrong, is ASGI's.

Whatever goes wrong is answered with an HTTP error, never with an allow: then the webhook's failurePolicy decides. The
body of an error is a ``Status`` of Kubernetes, whose message client-go shows to the person who wrote.

How long a caller may take is bounded by :mod:`webhook.connections`, what all reviews take together by
:mod:`webhook.budget`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from webhook import admission
from webhook.admission import Review
from webhook.audit import MAX_TEXT, DecisionLog
from webhook.budget import Budget, Share
from webhook.decision import Decision
from webhook.errors import LookupFailed, MalformedReview, Overloaded
from webhook.lookups import Decide, Lookups, Mutate, Objects, Outcome
from webhook.metrics import Metrics
from webhook.mutation import Mutation
from webhook.policy import Snapshot
from webhook.replies import (
    INTERNAL,
    MAX_BODY,
    NO_POLICIES,
    NOT_ALLOWED,
    NOT_JSON,
    TOO_LARGE,
    TRY_AGAIN,
    Message,
    Reply,
    failure,
    reply,
    verdict,
)
from webhook.text import cut, escaped

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Bytes of a review that may be answered on the short way: nearly all, and 64 MiB where they arrive on as many
# connections as there may be. What a larger one takes besides, beside its decision, is little.
MAX_SHORT: Final = 64 * 1024
# Reviews that are decided before the first of them is answered. Each is decided faster than by itself, and none waits
# for more than some milliseconds of others'.
MAX_TOGETHER: Final = 32
_log = logging.getLogger(__name__)


class Policies(Protocol):
    """Where the server takes the policies in force from; None: not loaded yet."""

    @property
    def snapshot(self) -> Snapshot | None: ...  # noqa: D102


class Traces(Protocol):
    """Where the server leaves what a decision asks for beside its answer: Events, marks."""

    def leave(self, review: Review, decision: Decision, now: datetime) -> None:
        """Never waits, never raises."""


Clock = Callable[[], datetime]


class _Decided(NamedTuple):
    """What metrics and log are told once the answer is out."""

    review: Review
    outcome: Outcome
    time: datetime
    seconds: float
    size: int


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
        self._lookups = Lookups(objects)
        self._metrics = metrics
        self._log = log
        self._traces = traces
        self._budget = budget
        self._clock = clock
        #: Calls that are being read or answered.
        self.in_flight = 0
        self._endpoints: dict[str, Decide | Mutate] = {"/validate": decide, "/mutate": mutate}
        paths = " or ".join(self._endpoints)
        self._not_found = failure(404, f"there is nothing here; reviews are sent to {paths}")
        self._waiting: list[ShortCall] = []
        self._untold: list[tuple[_Decided, Share]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._budget.share() as share:
            await self._serve(scope, receive, send, share)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        self.in_flight += 1
        try:
            answer, decided = await self._answer(scope, receive, share)
        except _Gone:
            return
        finally:
            self.in_flight -= 1
        await send(answer.start)
        await send(answer.body)
        # After the answer is out: nobody waits for metrics or log, and their failure is no longer the write's.
        if decided is None:
            self._metrics.error(answer.start["status"], answer.reason)
        else:
            self._tell(decided)

    def _tell(self, decided: _Decided) -> None:
        review, outcome = decided.review, decided.outcome
        if isinstance(outcome, Mutation):
            self._metrics.mutation(patched=bool(outcome.patch), seconds=decided.seconds, size=decided.size)
            return
        self._metrics.review(review, outcome, seconds=decided.seconds, size=decided.size)
        self._log.write(review, outcome, time=decided.time, seconds=decided.seconds)
        self._traces.leave(review, outcome, decided.time)

    # The short way

    def begin(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> ShortCall | None:
        """See :class:`webhook.connections.Prompt`: a review that has a length, and is small."""
        endpoint = self._endpoints.get(target.partition(b"?")[0].decode("latin-1"))
        if endpoint is None:
            return None
        refusal, length = _looked_at(headers)
        if refusal or not 0 < length <= MAX_SHORT:
            return None
        share = self._budget.share()
        try:
            share.arrives(length)
        except Overloaded:
            return None
        self.in_flight += 1
        return ShortCall(self, endpoint, share)

    def take(self, call: ShortCall) -> None:
        """Answer ``call``, which is complete, in the next turn of the event loop."""
        self._waiting.append(call)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._answer_waiting)

    def _answer_waiting(self) -> None:
        """Decide all, then answer all, and then tell of all: each time the code that does it is at hand already."""
        calls, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
        answers = [(call.answered, self._at_once(call)) for call in calls if call.answered is not None]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer_waiting)
        for answered, response in answers:
            answered(response)

    def _at_once(self, call: ShortCall) -> bytes | None:
        """The response with the verdict; None if there is none yet, for whatever reason."""
        if (snapshot := self._policies.snapshot) is None:
            return None
        try:
            call.share.is_decided(call.body)
            started = time.perf_counter()
            now = self._clock()
            review = admission.parse(call.body)
            outcome = self._lookups.at_hand(call.endpoint, review, snapshot, now)
            if outcome is None:
                return None
            response = verdict(rendered(review, outcome))
        except BaseException:  # noqa: BLE001 - the long way comes upon it, too, and says what it is
            return None
        self.in_flight -= 1
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._untold.append((_Decided(review, outcome, now, time.perf_counter() - started, len(call.body)), call.share))
        return response

    def _tell_all(self) -> None:
        untold, self._untold = self._untold, []
        for decided, share in untold:
            try:
                self._tell(decided)
            except Exception:  # noqa: BLE001 - whatever it is, it is not the others' failure
                _log.exception("the decision on %s was not counted or not logged", _shown(decided.review))
            share.give_back()

    def leave(self, call: ShortCall) -> None:
        """Not answer ``call``."""
        call.answered = None
        self.in_flight -= 1
        call.share.give_back()

    # The long way

    async def _answer(self, scope: Scope, receive: Receive, share: Share) -> tuple[Reply, _Decided | None]:
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            return self._not_found, None
        if scope["method"] != "POST":
            return NOT_ALLOWED, None
        refusal, length = _looked_at(scope["headers"])
        if refusal:
            return refusal, None
        review = None
        try:
            share.arrives(length)
            body = await _read(receive, share)
            if (snapshot := self._policies.snapshot) is None:
                return NO_POLICIES, None
            share.is_decided(body)
            started = time.perf_counter()
            now = self._clock()
            review = admission.parse(body)
            outcome = self._lookups.at_hand(endpoint, review, snapshot, now)
            if outcome is None:
                outcome = await self._lookups.decide(endpoint, review, snapshot, now)
            answer = reply(200, rendered(review, outcome))
            return answer, _Decided(review, outcome, now, time.perf_counter() - started, len(body))
        except _TooLarge:
            return TOO_LARGE, None
        except Overloaded as error:
            _log.warning("a review is told to come again: %s", error)
            return failure(503, str(error), TRY_AGAIN, reason="memory"), None
        except MalformedReview as error:
            _log.warning("a call that is no review: %s", error)
            return failure(error.status, str(error)), None
        except LookupFailed as error:
            _log.error("no verdict on %s: %s", _shown(review), error)
            return failure(500, str(error), reason="lookup"), None
        except _Gone:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, RecursionError and MemoryError too, it is no allow
            _log.exception("no verdict on %s: driftwall failed", _shown(review))
            return INTERNAL, None


class ShortCall:
    """A review on the short way; see :class:`webhook.connections.Call`."""

    __slots__ = ("_server", "answered", "body", "endpoint", "share")

    def __init__(self, server: ReviewServer, endpoint: Decide | Mutate, share: Share) -> None:
        self._server = server
        self.endpoint = endpoint
        self.share = share
        self.body = b""
        self.answered: Callable[[bytes | None], None] | None = None

    def complete(self, body: bytes, answered: Callable[[bytes | None], None]) -> None:
        """Its body is there."""
        self.body = body
        self.answered = answered
        self._server.take(self)

    def end(self) -> None:
        """It is not to be answered."""
        self._server.leave(self)


def _shown(review: Review | None) -> str:
    """What was reviewed, for a message: nothing of the object but its place."""
    if review is None:
        return "an unreadable review"
    what = f"{review.operation} of {review.qualified_resource} (uid {review.uid}) by {review.user.username}"
    return cut(escaped(what), MAX_TEXT)


def rendered(review: Review, outcome: Outcome) -> bytes:
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


def _looked_at(headers: list[tuple[bytes, bytes]]) -> tuple[Reply | None, int]:
    """Why a request with these headers is not read, if it is not, and how many bytes it says that it has."""
    content_type = b""
    length = 0
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length" and (length := int(value)) > MAX_BODY:
            return TOO_LARGE, length
    # The API server sends it bare; people's tools add a charset.
    if content_type != b"application/json" and content_type.partition(b";")[0].strip().lower() != b"application/json":
        return NOT_JSON, length
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
