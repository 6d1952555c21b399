"""Decisions without a cluster: what a verdict must look up is taken from the reviews given before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from webhook.admission import ObjectRef, Review
from webhook.decision import Decision, LookupNeeded, decide
from webhook.errors import LookupFailed
from webhook.meta import metadata_of
from webhook.mutation import Mutation, mutate
from webhook.policy import Snapshot
from webhook.subject import Objects

_T = TypeVar("_T")

# Kinds that a subresource takes or gives in place of the object itself.
_NOT_THE_OBJECT = frozenset({"Scale", "Eviction", "Binding", "TokenRequest", "EphemeralContainers"})


class RecordedObjects:
    """The newest state of every object that a review has shown, whatever became of the write."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}

    def remember(self, review: Review) -> None:
        """Keep the object of ``review`` for the look-ups of later ones."""
        if review.kind.kind in _NOT_THE_OBJECT or review.operation == "CONNECT":
            return
        if (obj := review.new or review.old) is not None:
            namespace = str(metadata_of(obj).get("namespace") or "")
            key = (review.resource.group, review.resource.resource, namespace, review.name)
            self._objects[key] = obj

    def get(self, ref: ObjectRef) -> Mapping[str, Any] | None:
        """The object at ``ref`` in the version it was last seen in, or None."""
        return self._objects.get((ref.group, ref.resource, ref.namespace, ref.name))


def decide_offline(review: Review, snapshot: Snapshot, recorded: RecordedObjects, now: datetime) -> Decision:
    """As :func:`webhook.decision.decide`, with look-ups answered from ``recorded``.

    Raises:
        LookupFailed: no review before has shown an object that the verdict depends on.
        MalformedReview: as ``decide``.
    """
    return _with_look_ups(decide, review, snapshot, recorded, now)


def mutate_offline(review: Review, snapshot: Snapshot, recorded: RecordedObjects, now: datetime) -> Mutation:
    """As :func:`webhook.mutation.mutate`; look-ups and errors as in :func:`decide_offline`."""
    return _with_look_ups(mutate, review, snapshot, recorded, now)


def _with_look_ups(
    ask: Callable[[Review, Snapshot, Objects, datetime], _T],
    review: Review,
    snapshot: Snapshot,
    recorded: RecordedObjects,
    now: datetime,
) -> _T:
    objects: dict[ObjectRef, Mapping[str, Any] | None] = {}
    while True:
        try:
            return ask(review, snapshot, objects, now)
        except LookupNeeded as needed:
            found = recorded.get(needed.ref)
            if found is None and needed.required:
                raise LookupFailed(
                    f"the verdict depends on {needed.ref}, which no review before has shown; give one that does first"
                ) from None
            objects[needed.ref] = found
