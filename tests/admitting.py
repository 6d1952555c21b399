"""A write on its way through the API server: mutated, mutated again, decided; what then is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from tests.patches import applied
from tests.reviews import NOW, Cluster, Json, person, plain
from webhook.admission import ObjectRef, Review
from webhook.decision import Decision, LookupNeeded, decide
from webhook.mutation import Mutation, mutate
from webhook.policy import Snapshot
from webhook.subject import Objects

REASON: Final = "driftwall.io/break-glass"
BY: Final = "driftwall.io/break-glass-by"
EXPIRES: Final = "driftwall.io/break-glass-expires"
LABEL: Final = "driftwall.io/drifted"
DRIFT: Final = "driftwall.io/drift"

SAM: Final = person("sam", "sre")

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What became of a write. ``stored`` is the new object with our patch, or the old one where it was denied."""

    decision: Decision
    patch: tuple[Mapping[str, Any], ...]
    stored: Json
    asked: list[ObjectRef]

    @property
    def annotations(self) -> Json:
        return self.stored["metadata"].get("annotations") or {}

    @property
    def labels(self) -> Json:
        return self.stored["metadata"].get("labels") or {}

    @property
    def glass(self) -> tuple[Any, Any, Any]:
        """Reason, who, and until when, as they are stored."""
        return self.annotations.get(REASON), self.annotations.get(BY), self.annotations.get(EXPIRES)


def admit(
    written: Review, snapshot: Snapshot, *there: Json, now: datetime = NOW, mutating: bool = True, late: datetime = NOW
) -> Admitted:
    """Send a write through both webhooks; ``there`` are the objects that can be looked up.

    It asserts that the patch applies and that calling the mutating webhook again, as the API server may, changes
    nothing more. ``mutating=False``: that webhook is down. ``late``: when the validating one is called, if after
    ``now``.
    """
    cluster = Cluster(there)
    asked: list[ObjectRef] = []
    patch: tuple[Mapping[str, Any], ...] = ()
    if mutating:
        patch = mutated(written, snapshot, cluster, now).patch
        if patch:
            assert written.new is not None
            written = written.with_new(applied(patch, plain(written.new)))
        assert mutated(written, snapshot, cluster, now).patch == ()
    decision = looked_up(decide, written, snapshot, cluster, max(now, late), asked)
    stored = written.new if decision.allowed else written.old
    return Admitted(decision=decision, patch=patch, stored=plain(stored), asked=asked)


def mutated(written: Review, snapshot: Snapshot, cluster: Cluster, now: datetime = NOW) -> Mutation:
    """What the mutating webhook says."""
    return looked_up(mutate, written, snapshot, cluster, now, [])


def looked_up(
    ask: Callable[[Review, Snapshot, Objects, datetime], _T],
    written: Review,
    snapshot: Snapshot,
    cluster: Cluster,
    now: datetime,
    asked: list[ObjectRef],
) -> _T:
    """What ``ask`` says once it has all that it needs from ``cluster``; ``asked`` is told what that was."""
    found: dict[ObjectRef, Mapping[str, Any] | None] = {}
    while True:
        try:
            return ask(written, snapshot, found, now)
        except LookupNeeded as needed:
            asked.append(needed.ref)
            found[needed.ref] = cluster.get(needed.ref)


def refused(decision: Decision) -> str:
    """Why a denied write may not break glass, or end it, as its message says."""
    assert not decision.allowed
    head = f"  metadata.annotations['{REASON}']: "
    (line,) = [line for line in decision.message.splitlines() if line.startswith(head)]
    return line.removeprefix(head)
