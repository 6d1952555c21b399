"""The policies in force: one immutable snapshot, swapped as a whole."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from webhook.metrics import Metrics
from webhook.policy import Snapshot
from webhook.policy_source import Source, Update
from webhook.readiness import Health

#: What readiness calls the subject.
SUBJECT: Final = "policies"
LAST_GOOD: Final = "not all is well; what was good stays in force:"
# Problems that readiness tells of; the log has them all.
_TOLD: Final = 20

_log = logging.getLogger(__name__)


class PolicyStore:
    """Holds the snapshot that every review is decided with, and follows its source.

    ``snapshot`` is None until the source has given one. A request takes it once and keeps it to the end, so a swap
    never shows a request two sets of policies. Policies that do not load never take effect: what was in force stays.
    """

    def __init__(
        self,
        source: Source,
        *,
        metrics: Metrics,
        health: Health,
        on_problems: Callable[[Sequence[str]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_problems`` is told of all problems whenever there are others; ``clock`` gives seconds since 1970."""
        self._source = source
        self._metrics = metrics
        self._health = health
        self._on_problems = on_problems or (lambda _: None)
        self._clock = clock
        self._problems: tuple[str, ...] = ()
        self.snapshot: Snapshot | None = None
        #: Set once the source has said what it has found, be it good or bad.
        self.looked = asyncio.Event()

    async def follow(self) -> None:
        """Put in force what the source holds, and every change of it, until cancelled."""
        await self._source.follow(self.take)

    def take(self, update: Update) -> None:
        """Put an update in force, as far as it is good, and say so."""
        if update.snapshot is not None:
            if self.snapshot is not None:
                _log.info("policies changed", extra={"data": {"policies": len(update.snapshot.policies)}})
            self.snapshot = update.snapshot
            self._metrics.policies_in_force(update.snapshot, self._clock())
        if not update.problems:
            self._health.clear(SUBJECT)
        elif self.snapshot is None:
            self._health.block(SUBJECT, *_told(update.problems))
        else:
            self._health.note(SUBJECT, LAST_GOOD, *_told(update.problems))
        changed = update.problems != self._problems
        if changed or update.snapshot is not None:
            self._metrics.policies_loaded(well=not update.problems)
        if changed:
            self._problems = update.problems
            self._tell(update.problems)
        self.looked.set()

    def _tell(self, problems: Sequence[str]) -> None:
        for problem in problems:
            _log.warning("policies: %s", problem)
        if problems:
            self._on_problems(problems)
        else:
            _log.info("policies: all problems are gone")


def _told(problems: Sequence[str]) -> list[str]:
    told = list(problems[:_TOLD])
    if more := len(problems) - len(told):
        told.append(f"… and {more} more; the log has them all")
    return told
