"""What a decision leaves in the cluster: Events, and marks that no patch of a review could set. Never waited for."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from webhook import tags
from webhook.admission import Review
from webhook.cluster import events
from webhook.cluster.connection import Connection, Offline
from webhook.cluster.events import Due, Event
from webhook.cluster.objects import path
from webhook.decision import Decision, drift_of
from webhook.errors import LookupFailed
from webhook.subject import place_of

# What waits for a slow API server: minutes of break-glass in a large incident, and a few megabytes. Denials leave half
# of the room to what was let through: anybody can have as many as they like.
_MAX_WAITING: Final = 1000
_MAX_DENIALS: Final = _MAX_WAITING // 2
# One call. Nobody waits for it but the next one.
_CALL_SECONDS: Final = 5.0
# Seconds for what still waits at shutdown.
_CLOSE_SECONDS: Final = 5.0

# Of an Event that is to be changed: it lives for an hour, or until somebody deletes it. Of a new one: its namespace is
# no more.
_GONE: Final = "HTTP 404"
# In the answer to one for a namespace that is going away (k8s.io/api/core/v1, NamespaceTerminatingCause).
_TERMINATING: Final = b'"NamespaceTerminating"'

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    kind: str
    method: str
    path: str
    body: bytes
    content_type: str


class Traces:
    """Writes Events and marks from a thread of its own. ``on_result`` is told kind and result of each.

    Of very many denials most are only counted, by whoever leaves them: to wake up the thread for each would slow down
    the replies.
    """

    def __init__(self, connection: Connection, *, on_result: Callable[[str, str], None]) -> None:
        self._connection = connection
        self._on_result = on_result
        self._events = events.Correlator()
        self._problem = ""
        self._waiting: queue.SimpleQueue[_Call | Due | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def leave(self, review: Review, decision: Decision, now: datetime) -> None:
        """Leave what ``decision`` asks for; nothing for a dry run. Never waits, never raises; for one thread."""
        if review.dry_run:
            return
        if not decision.allowed:
            if self._waiting.qsize() >= _MAX_DENIALS:
                self._on_result("event", "dropped")
            elif not events.is_about_events(review) and (event := self._due(review, events.DENIED, now)):
                self._put_event(event, events.denial(review, decision), now)
            return
        if (use := decision.break_glass) is not None and (event := self._due(review, events.GLASS[use.action], now)):
            self._put_event(event, events.break_glass(review, use), now)
        # Of the object itself the mutating webhook has the labels in hand; of a scale's parent nobody has.
        if review.subresource and review.operation == "UPDATE" and decision.tagged:
            try:
                self._put("mark", _mark(review, decision, now))
            except LookupFailed:  # a name that no object has
                self._on_result("mark", "failed")

    def event(self, body: Mapping[str, Any]) -> None:
        """Leave an Event; one of the same name that is there already counts as this one. Never waits, never raises."""
        self._put("event", _event_call(body))

    def close(self) -> None:
        """Write what waits, for a few seconds."""
        self._waiting.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _due(self, review: Review, reason: str, now: datetime) -> Event | None:
        """The Event to write about this; None where it was only counted."""
        event = self._events.take(events.about(review, reason, now))
        if event is None:
            self._on_result("event", "limited")
        return event

    def _put_event(self, event: Event, message: str, now: datetime) -> None:
        self._put("event", Due(event=event, message=message, count=event.count, at=now))

    def _put(self, kind: str, what: _Call | Due) -> None:
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(what)
        else:
            self._on_result(kind, "dropped")

    def _run(self) -> None:
        while (what := self._waiting.get()) is not None:
            if isinstance(what, _Call):
                self._on_result(what.kind, "failed" if self._call(what) else "written")
            else:
                self._on_result("event", self._write(what))

    def _write(self, due: Due) -> str:
        """Write an Event, or how it has changed; what became of that."""
        event = due.event
        if event.written:
            problem = self._call(_change_call(due), expected=_GONE)
            if problem != _GONE:
                return "failed" if problem else "written"
            event.rename()
        problem = self._call(_event_call(due.body()), expected=_GONE)
        event.written = not problem
        return "gone" if problem == _GONE else "failed" if problem else "written"

    def _call(self, call: _Call, *, expected: str = "") -> str:
        """Make a call; gives what is wrong, if anything, and logs that unless it is ``expected``."""
        try:
            answer = self._connection.send(
                call.method, call.path, call.body, call.content_type, time.monotonic() + _CALL_SECONDS
            )
            there = answer.status == 409 and call.method == "POST"
            gone = answer.status == 403 and _TERMINATING in answer.body
            problem = "" if answer.status < 300 or there else _GONE if gone else f"HTTP {answer.status}"
        except LookupFailed as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever one call brings
            problem = type(error).__name__
        if not problem or problem != expected:
            self._say(call, problem)
        return problem

    def _say(self, call: _Call, problem: str) -> None:
        """Log a problem once while it lasts: each is counted, and there may be one for every denial."""
        if problem and problem != self._problem and not isinstance(self._connection, Offline):  # told at the start
            _log.warning("could not write the %s to %s: %s", call.kind, call.path, problem)
        self._problem = problem


def _event_call(body: Mapping[str, Any]) -> _Call:
    return _Call(
        kind="event",
        method="POST",
        path=_events_path(body["metadata"]["namespace"]),
        body=msgspec.json.encode(body),
        content_type="application/json",
    )


def _change_call(due: Due) -> _Call:
    event = due.event
    return _Call(
        kind="event",
        method="PATCH",
        path=f"{_events_path(event.namespace)}/{quote(event.name, safe='')}",
        body=msgspec.json.encode(due.change()),
        content_type="application/merge-patch+json",
    )


def _events_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/events"


def _mark(review: Review, decision: Decision, now: datetime) -> _Call:
    metadata = {"labels": {tags.LABEL: "true"}, "annotations": {tags.ANNOTATION: drift_of(review, decision, now)}}
    return _Call(
        kind="mark",
        method="PATCH",
        path=path(place_of(review)) + "?fieldManager=driftwall",
        body=msgspec.json.encode({"metadata": metadata}),
        content_type="application/merge-patch+json",
    )
