"""The objects of one resource, kept as the API server has them: by a list, and a watch from there on."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlencode

import msgspec

from webhook.cluster.connection import Answer, Stream
from webhook.errors import LookupFailed

# Objects in one answer: a policy has some kilobytes, an answer at most MAX_OBJECT.
PAGE: Final = 100
# Seconds of one watch, which then goes on where it was. The API server ends it, so one that goes on for longer is on a
# connection that is dead without knowing: found out after at most this and QUIET_SECONDS.
WATCH_SECONDS: Final = 30
QUIET_SECONDS: Final = 10
# Seconds of one list; nobody waits for it.
_LIST_SECONDS: Final = 10.0
# Seconds until the next try after a failure, twice as many after each further one: an API server that restarts is back
# in service seconds later, and is not to be pressed by all replicas at once, so up to half is taken off at random.
_FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
# Seconds: a watch that ends sooner and has brought nothing was none.
_NO_WATCH: Final = 1.0

Object = Mapping[str, Any]

_log = logging.getLogger(__name__)


class Listing(Protocol):
    """What a list asks of a connection."""

    def get(self, path: str, deadline: float) -> Answer: ...  # noqa: D102


class Streams(Listing, Protocol):
    """What a mirror asks of a connection."""

    def stream(self, path: str, quiet: float) -> Stream: ...  # noqa: D102


class _Again(LookupFailed):
    """The version that was watched from is too old: only a list tells what there is now."""

    def __init__(self) -> None:
        super().__init__("the API server has forgotten that version; try again")


class Mirror:
    """Follows the cluster-scoped collection at ``path`` from a thread of its own, once started.

    ``objects`` are the objects there by name, replaced as a whole by each change and never altered; None until they
    were first listed. ``problem`` says why they may be out of date; empty while they are not. ``on_change`` is called
    in the thread after a change of either.
    """

    def __init__(
        self,
        connection: Streams,
        path: str,
        on_change: Callable[[], None],
        *,
        watch_seconds: int = WATCH_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self._connection = connection
        self._path = path
        self._on_change = on_change
        self._watch_seconds = watch_seconds
        self._quiet = watch_seconds + quiet_seconds
        self._longest_pause = longest_pause
        self._version = ""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path.rpartition('/')[2]}", daemon=True)
        self.objects: Mapping[str, Object] | None = None
        self.problem = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, seconds: float = 0.0) -> None:
        """End, and wait ``seconds`` at most for the thread, which ends with the call that is under way."""
        self._stop.set()
        with self._lock:
            if self._stream is not None:
                self._stream.stop()
        self._thread.join(seconds)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                if not self._version:
                    self._list()
                failures = 0 if self._watch() else failures + 1
            except _Again:
                _log.info("%s: the API server has forgotten what was seen last (410 Gone): listing anew", self._path)
                self._version = ""
                failures += 1
            except LookupFailed as error:
                failures += 1
                if not self._stop.is_set():
                    self._say(str(error))
            except Exception:  # noqa: BLE001 - the thread must outlive whatever one answer brings
                _log.exception("%s: driftwall failed to follow it", self._path)
                self._version = ""
                failures += 1
                self._say("driftwall failed; the reason is in its log")
            if failures:
                pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), self._longest_pause)
                self._stop.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - it spreads load, it hides nothing

    def _list(self) -> None:
        """Take over all objects as they are now."""
        objects, self._version = listed(self._connection, self._path)
        self._replace(objects)

    def _watch(self) -> bool:
        """Take over changes until the watch ends; whether there was any watch."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(self._watch_seconds),
        }
        began = time.monotonic()
        with self._connection.stream(f"{self._path}?{urlencode(query)}", self._quiet) as stream:
            if stream.status != 200:
                self._version = ""
                _refused(stream.status)
            with self._lock:
                if self._stop.is_set():
                    return True
                self._stream = stream
            try:
                self._well()
                told = False
                for line in stream.lines():
                    if self._stop.is_set():
                        break
                    self._take(_object(line))
                    told = True
            except LookupFailed:
                # From here on it would come again and again.
                self._version = ""
                raise
            finally:
                with self._lock:
                    self._stream = None
        return told or time.monotonic() - began >= _NO_WATCH

    def _take(self, event: Object) -> None:
        """Take over one event of the watch."""
        kind, obj = event.get("type"), _object_at(event, "object")
        if kind == "ERROR":
            _refused(obj.get("code", 500))
        version = str(_object_at(obj, "metadata").get("resourceVersion", ""))
        if kind in ("ADDED", "MODIFIED"):
            self._replace({**(self.objects or {}), _name(obj): obj})
        elif kind == "DELETED":
            self._replace({name: kept for name, kept in (self.objects or {}).items() if name != _name(obj)})
        # Only now: what was not taken over is to come again.
        self._version = version or self._version

    def _replace(self, objects: Mapping[str, Object]) -> None:
        self.objects = objects
        self.problem = ""
        self._on_change()

    def _well(self) -> None:
        if self.problem:
            self.problem = ""
            self._on_change()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._on_change()


def listed(connection: Listing, path: str) -> tuple[Mapping[str, Object], str]:
    """The objects of the collection at ``path`` by name, as they are now, and the version to watch them from.

    Raises:
        LookupFailed: they could not be read.
    """
    objects: dict[str, Object] = {}
    more = ""
    while True:
        query = {"limit": str(PAGE), **({"continue": more} if more else {})}
        answer = connection.get(f"{path}?{urlencode(query)}", time.monotonic() + _LIST_SECONDS)
        if answer.status != 200:
            _refused(answer.status)
        page = _object(answer.body)
        metadata = _object_at(page, "metadata")
        items = page.get("items")
        for item in items if isinstance(items, list) else ():
            objects[_name(item)] = item
        more = str(metadata.get("continue") or "")
        if not more:
            return objects, str(metadata.get("resourceVersion", ""))


def _refused(status: int) -> NoReturn:
    if status == 410:
        raise _Again
    raise LookupFailed(_REFUSALS.get(status, f"the API server answered with HTTP {status}"))


_REFUSALS: Final = {
    401: "the API server does not accept driftwall's credentials",
    403: "driftwall may not read it; its role needs the verbs list and watch on this resource",
    404: "the API server does not serve this resource; its CustomResourceDefinition is missing",
    429: "the API server has too much to do",
}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LookupFailed("the API server's answer is nothing that driftwall can read")
    return value


def _object_at(obj: Object, key: str) -> Object:
    value = obj.get(key)
    return value if isinstance(value, dict) else {}


def _name(obj: Object) -> str:
    name = _object_at(obj, "metadata").get("name")
    if not isinstance(name, str) or not name:
        raise LookupFailed("the API server's answer has an object without a name")
    return name
