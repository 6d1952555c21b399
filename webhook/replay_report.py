"""What a replay has found, counted in bounded memory: of so many writes, how many, by whom, on what, under what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from webhook.breakglass import write_time
from webhook.outcome import ALLOWED, Outcome
from webhook.policy import Snapshot
from webhook.replay import AS_LOGGED, AS_SENT, AS_TOLD, DECIDED, Result, Skipped, Unknown, Verdict
from webhook.suggestions import automation, can_be_allowed, general, is_automation
from webhook.tally import VERDICTS, Tally
from webhook.text import cut

# Names of one tally: more than anybody reads, and a few MiB in all. What is beyond is counted.
_NAMES: Final = 1000
# Names in a row of a tally, the fields that one user touched, say; and of the tallies whose rows have some: together
# some 30 MiB at the worst.
_BELOW: Final = 20
_ROWS: Final = 200
# Characters of a name; Kubernetes' own have at most 253, and a key of a map, part of a path, may have megabytes.
_MAX_NAME: Final = 300
_EXAMPLES: Final = 10
_PROBLEMS: Final = 20
# Bars of the chart over time. With more the width of a bar doubles.
_BUCKETS: Final = 120

# Where a path stands in the tables, for a write that changes no field.
DELETION, ACCESS, NOT_KNOWN = "(deletion)", "(reaching into it)", "(not known)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """An automation that would be hit, how often, and the entry with which it would not be. ``rest`` is what stays.

    ``impersonated``: it never wrote with a token of its own, so no entry is of use that asks for one.
    """

    user: str
    writes: int
    entry: str
    rest: tuple[str, ...]
    impersonated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignorable:
    """An ignore rule: ``silenced`` writes violate ``policy`` in nothing else, of ``writes`` that violate it at all."""

    policy: str
    path: str
    silenced: int
    writes: int


class Timeline:
    """Writes over time, in at most so many buckets."""

    def __init__(self) -> None:
        self.seconds = 1
        self.buckets: dict[int, dict[str, int]] = {}
        self._first = self._last = 0

    def add(self, time: datetime, verdict: str) -> None:
        """Count a write."""
        at = int(time.timestamp()) // self.seconds
        bucket = self.buckets.setdefault(at, dict.fromkeys((ALLOWED, *VERDICTS), 0))
        bucket[verdict] += 1
        self._first, self._last = min(self._first or at, at), max(self._last, at)
        while self._last - self._first >= _BUCKETS:
            self._double()

    def _double(self) -> None:
        self.seconds *= 2
        self._first //= 2
        self._last //= 2
        merged: dict[int, dict[str, int]] = {}
        for at, counts in self.buckets.items():
            there = merged.setdefault(at // 2, dict.fromkeys(counts, 0))
            for name, number in counts.items():
                there[name] += number
        self.buckets = merged

    def rows(self) -> Iterator[tuple[datetime, dict[str, int]]]:
        """Every bucket from the first to the last, the empty ones too."""
        if self.buckets:
            for at in range(min(self.buckets), max(self.buckets) + 1):
                empty = dict.fromkeys((ALLOWED, *VERDICTS), 0)
                yield datetime.fromtimestamp(at * self.seconds, UTC), self.buckets.get(at, empty)


class Comparison:
    """What is otherwise under other policies. ``changes`` counts by from, to, user, object and policies."""

    def __init__(self) -> None:
        self.verdicts: dict[tuple[str, str], int] = {}
        self.counts = dict.fromkeys((ALLOWED, *VERDICTS), 0)
        self.changed = 0
        self.users = Tally(_NAMES)
        self.changes: dict[tuple[str, str], Tally] = {}

    def add(self, one: Outcome, other: Outcome) -> None:
        """Count a write that was decided by both."""
        self.counts[other.verdict] += 1
        if one.verdict == other.verdict and one.broken == other.broken:
            return
        self.changed += 1
        pair = (one.verdict, other.verdict)
        self.verdicts[pair] = self.verdicts.get(pair, 0) + 1
        # The policies of the side that objects more loudly tell what the change is about.
        told = other if other.broken else one
        fields = sorted({general(path) for broken in told.broken for path in broken.fields})
        what = f"{', '.join(broken.name for broken in told.broken)}: {', '.join(fields) or _without_fields(told, '')}"
        tally = self.changes.setdefault(pair, Tally(_NAMES // 10))
        verdict = told.verdict if told.verdict in VERDICTS else VERDICTS[0]
        tally.count(cut(f"{one.user}  {one.object}  {what}", _MAX_NAME), verdict)


class Report:
    """Counts results of a replay under ``snapshot``, and under another if there is a ``comparison``."""

    def __init__(self, snapshot: Snapshot, *, compare: bool = False) -> None:
        self.snapshot = snapshot
        self.lines = 0
        self.counts = dict.fromkeys((ALLOWED, *VERDICTS), 0)
        self.known = dict.fromkeys((DECIDED, AS_SENT, AS_TOLD, AS_LOGGED), 0)
        self.skipped: dict[str, int] = {}
        self.unknown = Tally(_BELOW)
        self.break_glass = self.dry_run_requests = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.writer_counts: dict[str, int] = {}
        self.policies = Tally(_ROWS, fields=_BELOW, sole=_BELOW)
        self.users = Tally(_ROWS, fields=_BELOW, exact=_BELOW, policies=_BELOW, proven=2)
        self.objects = Tally(_NAMES)
        self.fields = Tally(_NAMES)
        self.applications = Tally(_NAMES)
        self.timeline = Timeline()
        self.examples: dict[tuple[str, str, str], Outcome] = {}
        self.comparison = Comparison() if compare else None
        self.problems: list[str] = []
        self.unreadable = 0
        self.torn: list[str] = []
        self.forgotten = 0

    # ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, result: Result) -> None:
        """Count what one line told."""
        match result:
            case Skipped(what=what):
                self.skipped[what] = self.skipped.get(what, 0) + 1
            case Unknown(reason=reason):
                self.unknown.count(cut(reason, _MAX_NAME), VERDICTS[0])
            case Verdict(outcome=outcome, other=other, known=known):
                self.known[known] += 1
                self._add(outcome, known)
                if self.comparison is not None and other is not None:
                    self.comparison.add(outcome, other)

    def problem(self, text: str) -> None:
        """Keep that a line could not be read."""
        self.unreadable += 1
        if len(self.problems) < _PROBLEMS:
            self.problems.append(text)

    def _add(self, outcome: Outcome, known: str) -> None:
        self.counts[outcome.verdict] += 1
        self.break_glass += outcome.break_glass
        self.dry_run_requests += outcome.dry_run
        writer = outcome.writer
        if writer in self.writer_counts or len(self.writer_counts) < _NAMES:
            self.writer_counts[writer] = self.writer_counts.get(writer, 0) + 1
        if (time := outcome.time) is not None:
            self.first = min(self.first or time, time)
            self.last = max(self.last or time, time)
            self.timeline.add(time, outcome.verdict)
        if outcome.verdict != ALLOWED:
            self._add_violation(outcome, known)

    def _add_violation(self, outcome: Outcome, known: str) -> None:
        verdict = outcome.verdict
        user = self.users.count(cut(outcome.user, _MAX_NAME), verdict)
        user.below["proven"].count("yes" if outcome.proven else "no", verdict)
        self.objects.count(cut(outcome.object, _MAX_NAME), verdict)
        if outcome.application:
            self.applications.count(cut(outcome.application, _MAX_NAME), verdict)
        touched: set[str] = set()
        for broken in outcome.broken:
            row = self.policies.count(broken.name, broken.verdict)
            user.below["policies"].count(broken.name, broken.verdict)
            fields = {cut(general(path), _MAX_NAME) for path in broken.fields}
            for field in fields:
                row.below["fields"].count(field, broken.verdict)
            if len(fields) == 1 and can_be_allowed(path := next(iter(fields))):
                row.below["sole"].count(path, broken.verdict)
            for path in broken.fields:
                user.below["exact"].count(cut(path, _MAX_NAME), broken.verdict)
            touched |= fields or {_without_fields(outcome, known)}
        for field in touched:
            self.fields.count(field, verdict)
            user.below["fields"].count(field, verdict)
        if outcome.message and len(self.examples) < _EXAMPLES:
            self.examples.setdefault((outcome.user, outcome.broken[0].name, min(touched)), outcome)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def reviewed(self) -> int:
        """Writes with a verdict."""
        return sum(self.counts.values())

    @property
    def not_known(self) -> int:
        """Writes without one."""
        return sum(row.total for _, row in self.unknown.top())

    def suggestions(self) -> list[Suggestion]:
        """The automations that would be hit."""
        found = []
        for name, row in self.users.top():
            if is_automation(name):
                unproven = not any(mark == "yes" for mark, _ in row.below["proven"].top())
                exact = [path for path, _ in row.below["exact"].top()]
                rest = [path for path, _ in row.below["fields"].top() if not automation(name, [path])]
                found.append(
                    Suggestion(
                        user=name,
                        writes=row.total,
                        entry="" if unproven else automation(name, exact),
                        rest=() if unproven else tuple(rest),
                        impersonated=unproven,
                    )
                )
        return found

    def ignorable(self) -> list[Ignorable]:
        """The ignore rules that would silence something, those first that silence most."""
        found = [
            Ignorable(policy=policy, path=path, silenced=sole.total, writes=row.total)
            for policy, row in self.policies.top()
            for path, sole in row.below["sole"].top()
        ]
        return sorted(found, key=lambda each: (-each.silenced, each.policy, each.path))

    def as_json(self) -> dict[str, Any]:
        """All of it, as INTERFACE.md begins it."""
        told: dict[str, Any] = {
            "lines": self.lines,
            "from": _time(self.first),
            "to": _time(self.last),
            "reviewed": self.reviewed,
            **self.counts,
            "breakGlass": self.break_glass,
            "dryRunRequests": self.dry_run_requests,
            "knownBy": self.known,
            "unknown": {reason: row.total for reason, row in self.unknown.top()},
            "forgottenObjects": self.forgotten,
            "skipped": dict(sorted(self.skipped.items())),
            "unreadable": {"lines": self.unreadable, "first": self.problems},
            "byWriter": dict(sorted(self.writer_counts.items(), key=lambda item: (-item[1], item[0]))),
        }
        tallies = {
            "byPolicy": self.policies,
            "byUser": self.users,
            "byObject": self.objects,
            "byField": self.fields,
            "byApplication": self.applications,
        }
        told |= {name: tally.as_json() for name, tally in tallies.items()}
        told["more"] = {name: tally.more(len(told[name])) for name, tally in tallies.items()}
        told["automation"] = [
            {"user": s.user, "writes": s.writes, "entry": s.entry, "notCovered": s.rest, "impersonated": s.impersonated}
            for s in self.suggestions()
        ]
        told["ignore"] = [
            {"policy": i.policy, "path": i.path, "silences": i.silenced, "of": i.writes} for i in self.ignorable()
        ]
        told["timeline"] = {
            "seconds": self.timeline.seconds,
            "buckets": [{"from": _time(time), **counts} for time, counts in self.timeline.rows()],
        }
        told["examples"] = [
            {"time": _time(e.time), "user": e.user, "operation": e.operation, "object": e.object, "message": e.message}
            for e in self.examples.values()
        ]
        if (compared := self.comparison) is not None:
            told["compare"] = {
                **compared.counts,
                "changed": compared.changed,
                "changes": [
                    {"from": one, "to": other, "writes": number, "what": _plain(compared.changes[one, other])}
                    for (one, other), number in sorted(compared.verdicts.items(), key=lambda item: -item[1])
                ],
            }
        return told


def _plain(tally: Tally) -> dict[str, int]:
    return {name: row.total for name, row in tally.top(_BELOW)}


def _without_fields(outcome: Outcome, known: str) -> str:
    if known == AS_TOLD:
        return NOT_KNOWN
    deleted = outcome.operation == "DELETE" or outcome.object.partition(" ")[0].endswith("/eviction")
    return DELETION if deleted else ACCESS


def _time(time: datetime | None) -> str | None:
    return write_time(time) if time is not None else None
