"""What a decision leaves in the cluster: Events, and marks that no patch of a review could set. Never waited for."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from webhook import tags
from webhook.admission import ObjectRef, Review
from webhook.breakglass import write_time
from webhook.cluster.connection import Connection
from webhook.cluster.objects import path
from webhook.decision import BreakGlassUse, Decision, drift_of
from webhook.errors import LookupFailed
from webhook.subject import place_of
from webhook.text import cut, escaped

# What waits for a slow API server: minutes of break-glass in a large incident, and a few megabytes.
_MAX_WAITING: Final = 1000
# One call. Nobody waits for it but the next one.
_CALL_SECONDS: Final = 5.0
# Characters of an Event's message, as k8s.io/kubernetes validates it.
_MAX_MESSAGE: Final = 1024
# Seconds for what still waits at shutdown.
_CLOSE_SECONDS: Final = 5.0
_REASONS: Final = {"set": "GlassBroken", "removed": "GlassMended", "used": "WriteUnderBreakGlass"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    kind: str
    method: str
    path: str
    body: bytes
    content_type: str


class Traces:
    """Writes Events and marks from a thread of its own. ``on_result`` is told kind and result of each."""

    def __init__(self, connection: Connection, *, on_result: Callable[[str, str], None]) -> None:
        self._connection = connection
        self._on_result = on_result
        self._calls: queue.Queue[_Call | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def leave(self, review: Review, decision: Decision, now: datetime) -> None:
        """Leave what ``decision`` asks for; nothing for a dry run. Never waits, never raises."""
        if review.dry_run or not decision.allowed:
            return
        if decision.break_glass is not None:
            self._put(_event(review, decision.break_glass, now))
        # Of the object itself the mutating webhook has the labels in hand; of a scale's parent nobody has.
        if decision.tagged and review.subresource and review.operation == "UPDATE":
            try:
                self._put(_mark(review, decision, now))
            except LookupFailed:  # a name that no object has
                self._on_result("mark", "failed")

    def event(self, body: Mapping[str, Any]) -> None:
        """Leave an Event; one of the same name that is there already counts as this one. Never waits, never raises."""
        self._put(_event_call(body))

    def close(self) -> None:
        """Write what waits, for a few seconds."""
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, call: _Call) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._on_result(call.kind, "dropped")

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                answer = self._connection.send(
                    call.method, call.path, call.body, call.content_type, time.monotonic() + _CALL_SECONDS
                )
                there = answer.status == 409 and call.method == "POST"
                problem = "" if answer.status < 300 or there else f"HTTP {answer.status}"
            except LookupFailed as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever one call brings
                problem = type(error).__name__
            if problem:
                _log.warning("could not write the %s to %s: %s", call.kind, call.path, problem)
            self._on_result(call.kind, "failed" if problem else "written")


def _event(review: Review, use: BreakGlassUse, now: datetime) -> _Call:
    ref = place_of(review)
    # The API server takes Events about what has no namespace, a Namespace too, in this one alone.
    namespace = ref.namespace or "default"
    message = f"{use.action} by {review.user.username}: {use.reason}"
    if use.violations:
        fields = dict.fromkeys(change.path for violation in use.violations for change in violation.fields)
        what = ", ".join(fields) or review.operation.lower()
        message = (
            f"{review.user.username} wrote {what} under break-glass ({use.reason}, by {use.by}), against policy "
            + ", ".join(violation.name for violation in use.violations)
        )
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:200]}.{secrets.token_hex(8)}", "namespace": namespace},
        "involvedObject": _involved(review, ref),
        "reason": _REASONS[use.action],
        "message": cut(escaped(message), _MAX_MESSAGE),
        "type": "Warning",
        "count": 1,
        "firstTimestamp": write_time(now),
        "lastTimestamp": write_time(now),
        "source": {"component": "driftwall"},
        "reportingComponent": "driftwall.io/webhook",
        "reportingInstance": "",
    }
    return _event_call(body)


def _event_call(body: Mapping[str, Any]) -> _Call:
    namespace = str(body["metadata"]["namespace"])
    return _Call(
        kind="event",
        method="POST",
        path=f"/api/v1/namespaces/{quote(namespace, safe='')}/events",
        body=msgspec.json.encode(body),
        content_type="application/json",
    )


def _involved(review: Review, ref: ObjectRef) -> dict[str, str]:
    obj: dict[str, Any] = review.new or review.old or {}
    metadata = obj.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    api_version = f"{ref.group}/{ref.version}" if ref.group else ref.version
    # A Scale's uid is its parent's; its kind is not.
    kind = review.kind.kind if not review.subresource or review.subresource == "status" else ""
    involved = {"apiVersion": api_version, "kind": kind, "namespace": ref.namespace, "name": ref.name, "uid": uid}
    return {key: value for key, value in involved.items() if isinstance(value, str) and value}


def _mark(review: Review, decision: Decision, now: datetime) -> _Call:
    metadata = {"labels": {tags.LABEL: "true"}, "annotations": {tags.ANNOTATION: drift_of(review, decision, now)}}
    return _Call(
        kind="mark",
        method="PATCH",
        path=path(place_of(review)) + "?fieldManager=driftwall",
        body=msgspec.json.encode({"metadata": metadata}),
        content_type="application/merge-patch+json",
    )
