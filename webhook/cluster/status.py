"""The status of policies in the cluster: the condition Accepted, with every problem. Written by one replica."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from webhook import meta
from webhook.admission import ObjectRef
from webhook.breakglass import write_time
from webhook.cluster.connection import Answer
from webhook.cluster.objects import path
from webhook.errors import LookupFailed
from webhook.text import cut

ACCEPTED: Final = "Accepted"
# Characters of a condition's message, as k8s.io/apimachinery has it (metav1.Condition).
MAX_MESSAGE: Final = 32768
# One call. Nobody waits for it but the next one.
_CALL_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Writes(Protocol):
    """What writing takes of a connection."""

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be said of one version of an object."""

    uid: str
    generation: int
    accepted: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An object, as it was last seen, and the verdict that its status is to tell."""

    obj: meta.Object
    verdict: Verdict


class StatusWriter:
    """Writes verdicts that are not there yet, while ``is_leader``. For one thread.

    What was written once is not written again, whatever becomes of it: two replicas that both think they lead, and do
    not agree, write once each instead of for ever.
    """

    def __init__(
        self,
        connection: Writes,
        is_leader: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connection = connection
        self._is_leader = is_leader
        self._clock = clock
        self._written: dict[ObjectRef, Verdict] = {}
        self._problem = ""
        self._stop = threading.Event()

    def stop(self) -> None:
        """Write no more than what is under way."""
        self._stop.set()

    def write(self, wanted: Mapping[ObjectRef, Wanted]) -> None:
        """Bring the statuses up to date as far as the API server takes them. Never raises."""
        if not self._is_leader():
            self._written.clear()
            return
        self._written = {ref: verdict for ref, verdict in self._written.items() if ref in wanted}
        problem = ""
        for ref, each in wanted.items():
            if self._stop.is_set():
                return
            if self._written.get(ref) == each.verdict:
                continue
            if not _tells(each) and (found := self._patch(ref, each)):
                problem = problem or f"{ref}: {found}"
                continue
            self._written[ref] = each.verdict
        if problem != self._problem:
            self._problem = problem
            if problem:
                _log.warning("could not write the status of %s", problem)

    def _patch(self, ref: ObjectRef, wanted: Wanted) -> str:
        """Write one status; why not, if not."""
        body = {"status": status(wanted, self._clock())}
        try:
            answer = self._connection.send(
                "PATCH",
                f"{path(ref)}/status?fieldManager=driftwall",
                msgspec.json.encode(body),
                "application/merge-patch+json",
                time.monotonic() + _CALL_SECONDS,
            )
        except LookupFailed as error:
            return str(error)
        # 404: deleted meanwhile.
        return (
            "" if answer.status < 300 or answer.status == 404 else f"the API server answered with HTTP {answer.status}"
        )


def status(wanted: Wanted, now: datetime) -> dict[str, Any]:
    """The status that tells the verdict; the time of the last transition is kept where there was none."""
    verdict = wanted.verdict
    value = "True" if verdict.accepted else "False"
    there = _condition(wanted.obj)
    since = there.get("lastTransitionTime") if there.get("status") == value else None
    condition = {
        "type": ACCEPTED,
        "status": value,
        "reason": verdict.reason,
        "message": cut(verdict.message, MAX_MESSAGE),
        "observedGeneration": verdict.generation,
        "lastTransitionTime": since or write_time(now),
    }
    return {"observedGeneration": verdict.generation, "conditions": [condition]}


def _tells(wanted: Wanted) -> bool:
    """Whether the object's status tells the verdict already."""
    verdict, there = wanted.verdict, _condition(wanted.obj)
    return (
        there.get("status") == ("True" if verdict.accepted else "False")
        and there.get("reason") == verdict.reason
        and there.get("message") == cut(verdict.message, MAX_MESSAGE)
        and meta.mapping(wanted.obj.get("status")).get("observedGeneration") == verdict.generation
    )


def _condition(obj: meta.Object) -> Mapping[str, Any]:
    conditions = meta.mapping(obj.get("status")).get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("type") == ACCEPTED:
            return condition
    return {}
