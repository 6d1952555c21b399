"""What a run of the benchmark found: rows, the ratios that have to hold, a table for people and JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .load import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case on one server at one number of connections: medians over the rounds.

    ``of_noop`` is the median of each round's share of the no-op's requests a second with the same body, ``p50_of_noop``
    that of its p50.
    """

    server: str
    path: str
    case: str
    size: int
    connections: int
    rps: float
    p50: float
    p99: float
    cpu: float
    of_noop: float
    p50_of_noop: float


def row(pairs: Sequence[tuple[Measured, Measured]], **place: Any) -> Row:
    """The row of what was measured, in each round with the no-op just before."""
    measured = [own for _, own in pairs]
    return Row(
        **place,
        rps=median(m.rps for m in measured),
        p50=median(m.p50 for m in measured),
        p99=median(m.p99 for m in measured),
        cpu=median(m.cpu for m in measured),
        of_noop=median(own.rps / noop.rps for noop, own in pairs),
        p50_of_noop=median(own.p50 / noop.p50 for noop, own in pairs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Something that has to hold. ``bound`` is the least that is good enough, or the most where ``at_most``."""

    what: str
    found: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.found <= self.bound if self.at_most else self.found >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that a run found. ``resident`` in bytes by server, ``decide`` in seconds by case, the least of many."""

    machine: str
    rows: Sequence[Row]
    resident: Mapping[str, int]
    decide: Mapping[str, float]
    instructions: int | None
    goals: Sequence[Goal]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {**asdict(self), "goals": [{**asdict(goal), "met": goal.met} for goal in self.goals]}


def machine() -> str:
    """This machine in words."""
    model = "an unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def text(result: Result) -> str:
    """The tables, in Markdown."""
    parts = [f"{result.machine}; one core for the server, one for the load.", ""]
    head = ("server", "review", "bytes", "conns", "req/s", "p50 ms", "p99 ms", "CPU s/1,000", "of no-op")
    parts += _table(
        head,
        (
            (
                f"{row.server} {row.path}",
                row.case,
                f"{row.size:,}",
                str(row.connections),
                f"{row.rps:,.0f}",
                f"{row.p50 * 1e3:.2f}",
                f"{row.p99 * 1e3:.2f}",
                f"{row.cpu:.3f}" if row.cpu else "",
                f"{row.of_noop:.2f}",
            )
            for row in result.rows
        ),
    )
    memory = ((name, f"{size / 1e6:.0f}") for name, size in result.resident.items())
    parts += ["", *_table(("server at start", "resident MB"), memory)]
    inside = ((name, f"{seconds * 1e6:,.0f}") for name, seconds in result.decide.items())
    parts += ["", *_table(("inside the process, bytes to bytes", "µs"), inside)]
    if result.instructions is not None:
        parts += ["", f"Instructions of one denied UPDATE: {result.instructions:,}"]
    goals = (
        (
            goal.what,
            f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}",
            f"{goal.found:.2f}",
            "yes" if goal.met else "NO",
        )
        for goal in result.goals
    )
    parts += ["", *_table(("what has to hold", "bound", "found", "holds"), goals)]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]]
