"""Counts of verdicts by a name that others choose, in bounded memory: a log may have a million users and objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: How a write is told: the strictest mode among the policies that it violates.
DENIED, WARNED, TAGGED, DRY_RUN = "denied", "warned", "tagged", "dryRun"
VERDICTS: Final = (DENIED, WARNED, TAGGED, DRY_RUN)
_INDEX: Final = {verdict: index for index, verdict in enumerate(VERDICTS)}
_NONE: Final[Mapping[str, Any]] = {}


class Row:
    """The counts of one name. ``below`` are tallies of what else is counted for it."""

    __slots__ = ("_numbers", "below")

    def __init__(self, below: Mapping[str, int]) -> None:
        self._numbers = [0] * len(VERDICTS)  # a dict for each row would be most of the memory
        self.below: Mapping[str, Tally] = {name: Tally(limit) for name, limit in below.items()} if below else _NONE

    def add(self, verdict: str) -> None:
        """Count one more."""
        self._numbers[_INDEX[verdict]] += 1

    @property
    def counts(self) -> dict[str, int]:
        """The number of each verdict."""
        return dict(zip(VERDICTS, self._numbers, strict=True))

    @property
    def total(self) -> int:
        """All verdicts together."""
        return sum(self._numbers)


class Tally:
    """Rows by name. Of more than ``limit`` names those are kept that were counted most often.

    A name that was given up and comes again counts as a new one: its row tells of what came since, and ``forgotten``,
    the number of names given up, is at least what it says and may count a name twice. With ``below`` each row has
    tallies of its own, by name and limit.
    """

    def __init__(self, limit: int, **below: int) -> None:
        self._limit = limit
        self._below = below
        self._rows: dict[str, Row] = {}
        self.forgotten = 0

    def count(self, name: str, verdict: str) -> Row:
        """Count one more, and give the row."""
        row = self._rows.get(name)
        if row is None:
            # Twice as many are let in before some have to go, so that sorting them is rare.
            if len(self._rows) >= 2 * self._limit:
                self._give_up()
            row = self._rows[name] = Row(self._below)
        row.add(verdict)
        return row

    def __len__(self) -> int:
        """The names that are kept."""
        return len(self._rows)

    def top(self, number: int | None = None) -> list[tuple[str, Row]]:
        """The rows counted most often, at most ``limit`` of them; names of equal counts in their own order."""
        ranked = sorted(self._rows.items(), key=lambda item: (-item[1].total, item[0]))
        return ranked[: self._limit if number is None else min(number, self._limit)]

    def more(self, shown: int) -> int:
        """How many names there are beyond so many."""
        return max(0, len(self._rows) - shown) + self.forgotten

    def as_json(self) -> dict[str, Any]:
        """The counts by name, the most frequent first."""
        return {name: row.counts for name, row in self.top()}

    def _give_up(self) -> None:
        kept = sorted(self._rows.items(), key=lambda item: -item[1].total)[: self._limit]
        self.forgotten += len(self._rows) - len(kept)
        self._rows = dict(kept)
