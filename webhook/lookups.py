"""A decision with what it turns out to need beside its review: looked up, bounded in number and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias

from webhook.admission import ObjectRef, Review
from webhook.decision import Decision, LookupNeeded
from webhook.errors import LookupFailed
from webhook.mutation import Mutation
from webhook.policy import Snapshot

# A parent, its owners up to the top and a Namespace are five; the verdict of a write that needs more is none.
MAX_LOOKUPS: Final = 8
# Together, in one review. Webhooks are called with a timeout of 3 s or so, and the write waits.
LOOKUP_SECONDS: Final = 1.0


class Objects(Protocol):
    """Where the server looks up what a verdict needs beside the review."""

    async def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        """The object as it is now, or None where the API server says that it does not exist; raises LookupFailed."""

    def cached(self, ref: ObjectRef) -> dict[str, Any] | None:
        """The object as it was a moment ago; None if it was not looked up then."""


Outcome: TypeAlias = Decision | Mutation
Found: TypeAlias = Mapping[ObjectRef, dict[str, Any] | None]
Decide: TypeAlias = Callable[[Review, Snapshot, Found, datetime], Decision]
Mutate: TypeAlias = Callable[[Review, Snapshot, Found, datetime], Mutation]

_log = logging.getLogger(__name__)


class Lookups:
    """Decides with the help of ``objects``."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def at_hand(self, endpoint: Decide | Mutate, review: Review, snapshot: Snapshot, now: datetime) -> Outcome | None:
        """The outcome; None if it needs an object that is not kept, or would deny by one that is."""
        objects: dict[ObjectRef, dict[str, Any] | None] = {}
        while True:
            try:
                outcome = _concluded(endpoint(review, snapshot, objects, now))
            except LookupNeeded as needed:
                found = self._objects.cached(needed.ref)
                if found is None or len(objects) == MAX_LOOKUPS:
                    return None
                objects[needed.ref] = found
            else:
                return None if objects and _denies(outcome) else outcome

    async def decide(self, endpoint: Decide | Mutate, review: Review, snapshot: Snapshot, now: datetime) -> Outcome:
        """Decide, and look up what the decision turns out to need.

        Raises:
            LookupFailed: an object could not be had, or not in time.
        """
        objects: dict[ObjectRef, dict[str, Any] | None] = {}
        kept = fresh = False
        ref: ObjectRef | None = None
        optional = False
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                while True:
                    try:
                        outcome = _concluded(endpoint(review, snapshot, objects, now))
                    except LookupNeeded as needed:
                        ref, optional = needed.ref, needed.optional
                        if len(objects) == MAX_LOOKUPS:
                            break
                        found = None if fresh else self._objects.cached(ref)
                        kept = kept or found is not None
                        objects[ref] = await self._look_up(needed) if found is None else found
                        continue
                    if fresh or not kept or not _denies(outcome):
                        return outcome
                    # Somebody who has broken the glass a moment ago is not to be denied for what we have kept.
                    objects, fresh = {}, True
        except TimeoutError:
            late = f"{ref} could not be looked up within {LOOKUP_SECONDS:g} s; try again"
            if ref is None or not optional:
                raise LookupFailed(late) from None
            _log.warning("going on without a look-up: %s", late)
            return _concluded(endpoint(review, snapshot, {**objects, ref: None}, now))
        raise LookupFailed(f"the verdict on this write needs more than {MAX_LOOKUPS} look-ups; the last is {ref}")

    async def _look_up(self, needed: LookupNeeded) -> dict[str, Any] | None:
        try:
            return await self._objects.get(needed.ref)
        except LookupFailed as error:
            if not needed.optional:
                raise
            # It could have opened the object; without it the object stays closed.
            _log.warning("going on without a look-up: %s", error)
            return None


def _concluded(outcome: Outcome) -> Outcome:
    """What is answered: the mutating webhook may have a denial of its own."""
    return outcome.refusal if isinstance(outcome, Mutation) and outcome.refusal is not None else outcome


def _denies(outcome: Outcome) -> bool:
    return outcome.denied if isinstance(outcome, Mutation) else not outcome.allowed
