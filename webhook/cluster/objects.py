"""Objects that a verdict depends on beside the review: read by reference, bounded in time, cached for a moment."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from webhook import meta
from webhook.admission import ObjectRef
from webhook.cluster.connection import Answer, Connection, json_object
from webhook.errors import LookupFailed
from webhook.subject import LookupNeeded

# One look-up. An API server that is well answers in milliseconds; the write that waits here may wait 34 s in all.
CALL_SECONDS: Final = 1.0
# The same, where nothing but a person waits.
PATIENT_SECONDS: Final = 10.0
# The same parent is asked for by both webhooks of one write, and by writers that scale in bursts. A person who changes
# it because of our answer and then tries again needs longer than this.
CACHE_SECONDS: Final = 2.0
# Objects in the cache: more than are scaled within CACHE_SECONDS. Bytes of their JSON: decoded they take about ten
# times as much.
CACHE_OBJECTS: Final = 512
CACHE_BYTES: Final = 4 * 1024 * 1024
# Calls at once. A call takes milliseconds, so these make a thousand a second; more would only press an API server that
# is slow already.
CALLS: Final = 8

# What Kubernetes allows as a name in a path (IsValidPathSegmentName in k8s.io/apimachinery): anything without / and %
# but "." and "..". The server splits the path after decoding it, so a quoted slash would lead to another object.
_SEGMENT: Final = re.compile(r"(?!\.{1,2}\Z)[^/%\x00-\x20\x7f]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    value: dict[str, Any] | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cached:
    value: dict[str, Any]
    size: int
    expires: float


class ObjectReader:
    """Reads objects for one event loop.

    Concurrent calls for the same object share one call to the API server. A missing object is not cached: it may be
    created the next moment, and a write to the subresource of what does not exist is rare.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_result: Callable[[str], None] | None = None,
    ) -> None:
        """``on_result`` is told of each look-up: hit, found, missing or failed. ``clock`` is the cache's (seconds)."""
        self._connection = connection
        self._clock = clock
        self._on_result = on_result or (lambda _: None)
        self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="lookup")
        self._flights: dict[ObjectRef, asyncio.Future[_Found]] = {}
        self._cache: dict[ObjectRef, _Cached] = {}
        self._cached_bytes = 0

    async def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        """The object as it is now, or None where the API server says that there is none. Not to be changed.

        A reference without a resource stands for the list of resources that a group's version serves.

        Raises:
            LookupFailed: it could not be read within CALL_SECONDS; the message says why.
        """
        try:
            # The call itself goes on when its time is up, or this caller gives up: others may wait for it.
            found = await asyncio.wait_for(asyncio.shield(self._flight(ref)), CALL_SECONDS)
        except TimeoutError:
            self._on_result("failed")
            raise LookupFailed(f"{ref} could not be looked up within {CALL_SECONDS:g} s; try again") from None
        except asyncio.CancelledError:
            # Whoever asked has less time than we have.
            self._on_result("failed")
            raise
        except LookupFailed as error:
            self._on_result("failed")
            raise LookupFailed(f"{ref} could not be looked up: {error}") from None
        self._on_result("missing" if found.value is None else "found")
        return found.value

    def cached(self, ref: ObjectRef) -> dict[str, Any] | None:
        """The object as it was when it was read not long ago; None if it was not. Not to be changed by the caller."""
        cached = self._cache.get(ref)
        if cached is None or self._clock() >= cached.expires:
            return None
        self._on_result("hit")
        return cached.value

    def close(self) -> None:
        """Start no more calls. Those under way end by themselves within a few seconds."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _flight(self, ref: ObjectRef) -> asyncio.Future[_Found]:
        """The call for ``ref`` that is under way, or a new one."""
        flight = self._flights.get(ref)
        if flight is None:
            deadline = time.monotonic() + CALL_SECONDS
            loop = asyncio.get_running_loop()
            flight = self._flights[ref] = loop.run_in_executor(self._threads, self._fetch, ref, deadline)
            flight.add_done_callback(lambda done: self._landed(ref, done))
        return flight

    def _landed(self, ref: ObjectRef, flight: asyncio.Future[_Found]) -> None:
        del self._flights[ref]
        # Asking for the exception marks it as seen, should everybody who waited have given up.
        if flight.cancelled() or flight.exception() is not None:
            return
        found = flight.result()
        if found.value is not None:
            self._keep(ref, _Cached(value=found.value, size=found.size, expires=self._clock() + CACHE_SECONDS))

    def _keep(self, ref: ObjectRef, entry: _Cached) -> None:
        self._drop(ref)
        if entry.size > CACHE_BYTES:
            return
        self._cache[ref] = entry
        self._cached_bytes += entry.size
        # In order of insertion, which is that of expiry too.
        while len(self._cache) > CACHE_OBJECTS or self._cached_bytes > CACHE_BYTES:
            self._drop(next(iter(self._cache)))

    def _drop(self, ref: ObjectRef) -> None:
        if (entry := self._cache.pop(ref, None)) is not None:
            self._cached_bytes -= entry.size

    def _fetch(self, ref: ObjectRef, deadline: float) -> _Found:
        """Read ``ref`` from the API server; runs in a thread."""
        return _fetch(self._connection, ref, deadline)


class LiveObjects:
    """Reads objects one after the other, for who decides one write and can wait; ``notes`` say what was not had."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.notes: list[str] = []

    def look_up(self, needed: LookupNeeded) -> dict[str, Any] | None:
        """The object that is needed; None if it does not exist, or could not be had and is optional.

        Raises:
            LookupFailed: it could not be had; the message says why.
        """
        try:
            return self.get(needed.ref)
        except LookupFailed as error:
            if not needed.optional:
                raise
            self.notes.append(f"going on without a look-up: {error}")
            return None

    def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        """The object, or None where there is none.

        Raises:
            LookupFailed: it could not be had; the message says why.
        """
        try:
            return _fetch(self._connection, ref, time.monotonic() + PATIENT_SECONDS).value
        except LookupFailed as error:
            raise LookupFailed(f"{ref} could not be looked up: {error}") from None


def _fetch(connection: Connection, ref: ObjectRef, deadline: float) -> _Found:
    answer = connection.get(path(ref), deadline)
    if answer.status == 200:
        return _Found(value=_decode(answer.body), size=len(answer.body))
    # Without a resource it is the version of a group that is asked for.
    if answer.status == 404 and (not ref.resource or _names(answer, ref)):
        return _Found(value=None, size=0)
    raise LookupFailed(_REFUSALS.get(answer.status, f"the API server answered with HTTP {answer.status}"))


_REFUSALS: Final = {
    401: "the API server does not accept driftwall's credentials",
    403: "driftwall may not read it; its role needs the verb get on this resource",
    404: "the API server does not serve this resource",
    429: "the API server has too much to do; try again",
}


def path(ref: ObjectRef) -> str:
    """The path of ``ref`` in the API.

    Raises:
        LookupFailed: a part of ``ref`` can be no part of a path.
    """
    group = ("apis", ref.group) if ref.group else ("api",)
    namespace = ("namespaces", ref.namespace) if ref.namespace else ()
    segments = (*group, ref.version, *namespace, *((ref.resource, ref.name) if ref.resource or ref.name else ()))
    for segment in segments:
        if not _SEGMENT.match(segment):
            raise LookupFailed("its name can be no part of a path in the API")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _decode(body: bytes) -> dict[str, Any]:
    if (value := json_object(body)) is None:
        raise LookupFailed("the API server's answer is no object that driftwall can read")
    return value


def _names(answer: Answer, ref: ObjectRef) -> bool:
    """Whether a 404 is about this object. One about its group or resource says nothing of whether it exists."""
    status = json_object(answer.body) or {}
    return bool(meta.mapping(status.get("details")).get("name") == ref.name)
