"""Decisions without a cluster: what a verdict must look up is taken from the objects that were shown before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import msgspec

from webhook.admission import ObjectRef, Review
from webhook.decision import Decision, LookupNeeded, decide
from webhook.errors import LookupFailed
from webhook.meta import metadata_of
from webhook.mutation import Mutation, mutate
from webhook.policy import Snapshot
from webhook.subject import Answers, Objects

_T = TypeVar("_T")

# Kinds that a subresource takes or gives in place of the object itself.
NOT_THE_OBJECT: Final = frozenset({"Scale", "Eviction", "Binding", "TokenRequest", "EphemeralContainers"})

# Bytes that an entry takes beside its state: four strings, a tuple, and its place in the table.
_OVERHEAD: Final = 600
#: The state of an object that is known to be gone.
GONE: Final = b"null"

#: Group, resource, namespace (empty for a cluster-scoped object) and name.
Place = tuple[str, str, str, str]


class Recorded(Protocol):
    """Where look-ups are answered from."""

    def look_up(self, needed: LookupNeeded) -> Mapping[str, Any] | None:
        """The object that is needed, or None for one that does not exist. Raises LookupFailed if that is not known."""


class RecordedObjects:
    """The newest state of every object that was shown, whatever became of the write.

    With a ``limit``, in bytes, those are forgotten first that were shown longest ago, and ``forgotten`` counts them.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._size = 0
        self._states: OrderedDict[Place, bytes] = OrderedDict()
        self.forgotten = 0

    def remember(self, review: Review) -> None:
        """Keep the object of ``review`` for the look-ups of later ones."""
        if review.kind.kind in NOT_THE_OBJECT or review.operation == "CONNECT":
            return
        if (obj := review.new or review.old) is not None:
            namespace = str(metadata_of(obj).get("namespace") or "")
            self.put((review.resource.group, review.resource.resource, namespace, review.name), review.state)

    def put(self, place: Place, state: bytes) -> None:
        """Keep the ``state`` of an object, as JSON; GONE for one that was deleted."""
        self.pop(place)
        self._size += len(state) + _OVERHEAD
        self._states[place] = state
        while self._limit is not None and self._size > self._limit and self._states:
            _, oldest = self._states.popitem(last=False)
            self._size -= len(oldest) + _OVERHEAD
            self.forgotten += 1

    def pop(self, place: Place) -> bytes | None:
        """Forget the object at ``place``, and give what was known of it."""
        state = self._states.pop(place, None)
        if state is not None:
            self._size -= len(state) + _OVERHEAD
        return state

    def state(self, place: Place) -> bytes | None:
        """The state of the object at ``place``, as JSON; None if it was never shown."""
        return self._states.get(place)

    def look_up(self, needed: LookupNeeded) -> Mapping[str, Any] | None:
        """The object in the version it was last seen in; None for one that was never shown and is not required."""
        found = self.get(needed.ref)
        if found is None and needed.required:
            raise LookupFailed(
                f"the verdict depends on {needed.ref}, which no review before has shown; give one that does first"
            )
        return found

    def get(self, ref: ObjectRef) -> Mapping[str, Any] | None:
        """The object at ``ref`` in the version it was last seen in, or None."""
        state = self.state((ref.group, ref.resource, ref.namespace, ref.name))
        return None if state is None else msgspec.json.decode(state)


def decide_offline(review: Review, snapshot: Snapshot, recorded: Recorded, now: datetime) -> Decision:
    """As :func:`webhook.decision.decide`, with look-ups answered from ``recorded``.

    Raises:
        LookupFailed: ``recorded`` does not know an object that the verdict depends on.
        MalformedReview: as ``decide``.
    """
    return with_look_ups(decide, review, snapshot, recorded, now)


def mutate_offline(review: Review, snapshot: Snapshot, recorded: Recorded, now: datetime) -> Mutation:
    """As :func:`webhook.mutation.mutate`; look-ups and errors as in :func:`decide_offline`."""
    return with_look_ups(mutate, review, snapshot, recorded, now)


def with_look_ups(
    ask: Callable[[Review, Snapshot, Objects, datetime], _T],
    review: Review,
    snapshot: Snapshot,
    recorded: Recorded,
    now: datetime,
) -> _T:
    """What ``ask`` says once it has all that it asks for; LookupFailed where ``recorded`` does not know something."""
    return ask(review, snapshot, Answers(recorded.look_up), now)
