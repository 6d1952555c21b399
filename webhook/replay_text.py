"""The report of a replay for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from webhook.outcome import ALLOWED
from webhook.replay import AS_LOGGED, AS_SENT, AS_TOLD, FAILED, NEVER_SENT, READS, STAGES
from webhook.replay_report import Report
from webhook.tally import DENIED, DRY_RUN, TAGGED, VERDICTS, WARNED, Tally
from webhook.terminal import BOLD, DIM, RED, YELLOW, coloured, table
from webhook.text import cut, escaped

#: Rows of one table; -o json has them all.
ROWS = 10
#: The verdicts for a person.
TITLES = {DENIED: "denied", WARNED: "warned", TAGGED: "tagged", DRY_RUN: "dry run", ALLOWED: "allowed"}
_COLOURS = {DENIED: RED, WARNED: YELLOW, TAGGED: YELLOW}
SKIPPED = {
    READS: "reads",
    FAILED: "requests that failed for another reason",
    NEVER_SENT: "writes of leases and events, which the API server does not send to driftwall",
    STAGES: "events of a stage before ResponseComplete",
}
KNOWN = {
    AS_SENT: "judged by what was sent: driftwall denied them then, or the log does not hold what was stored",
    AS_TOLD: "denied by driftwall then, and what was sent does not tell why: by the policies that it named, in their "
    "modes of now",
    AS_LOGGED: "from the decision log, which holds no objects: the policies violated then, in their modes of now. What "
    "only other policies would protect cannot be known",
}


def lines(report: Report, columns: int) -> Iterator[str]:
    """The report, a line each; tables are no wider than ``columns``."""
    yield from _head(report)
    yield ""
    yield from _verdicts(report)
    yield from _not_known(report, columns)
    severities = {policy.name: (policy.mode, policy.severity) for policy in report.snapshot.policies}
    rows = [
        (name, *severities.get(name, ("enforce", "")), *row.counts.values()) for name, row in report.policies.top(ROWS)
    ]
    yield from _section("Policies", ("POLICY", "MODE", "SEVERITY", *_HEAD), rows, report.policies, columns)
    users = [
        (name, *row.counts.values(), ", ".join(field for field, _ in row.below["fields"].top(3)))
        for name, row in report.users.top(ROWS)
    ]
    yield from _section("Who", ("USER", *_HEAD, "MOST OFTEN"), users, report.users, columns)
    for title, column, tally in (
        ("Objects", "OBJECT", report.objects),
        ("Fields", "FIELD", report.fields),
        ("Managed by", "TOOL AND APPLICATION", report.applications),
    ):
        rows = [(name, *row.counts.values()) for name, row in tally.top(ROWS)]
        yield from _section(title, (column, *_HEAD), rows, tally, columns)
    yield from _automation(report, columns)
    yield from _ignore(report, columns)
    yield from _comparison(report, columns)


_HEAD = ("DENIED", "WARNED", "TAGGED", "DRY RUN")


def _section(
    title: str, head: Sequence[str], rows: Sequence[Sequence[object]], tally: Tally, columns: int
) -> Iterator[str]:
    if not rows:
        return
    # A verdict that nobody got needs no column.
    used = [i for i, name in enumerate(head) if name not in _HEAD or any(row[i] for row in rows)]
    yield ""
    yield coloured(title, BOLD)
    yield from table([head[i] for i in used], [[row[i] for i in used] for row in rows], columns, "  ")
    if more := tally.more(len(rows)):
        yield f"  … and {more:,} more"


def _head(report: Report) -> Iterator[str]:
    yield f"{_count(report.reviewed + report.not_known, 'write')} in {_count(report.lines, 'line')}"
    if report.first is not None and report.last is not None:
        yield f"from {report.first:%Y-%m-%d %H:%M:%S} to {report.last:%Y-%m-%d %H:%M:%S} UTC"
    for what, text in SKIPPED.items():
        if number := report.skipped.get(what):
            yield coloured(f"  {_count(number, 'line')} passed over: {text}", DIM)


def _verdicts(report: Report) -> Iterator[str]:
    for verdict in (*VERDICTS, ALLOWED):
        number = report.counts[verdict]
        share = f"{number / report.reviewed:6.1%}" if report.reviewed else ""
        text = f"  {TITLES[verdict]:<8}{number:>12,}  {share}".rstrip()
        yield coloured(text, _COLOURS[verdict]) if number and verdict in _COLOURS else text
    if report.break_glass:
        yield f"  {report.break_glass:,} of them broke glass, or came under broken glass"
    if report.dry_run_requests:
        yield f"  {report.dry_run_requests:,} of them asked for a dry run"


def _not_known(report: Report, columns: int) -> Iterator[str]:
    if report.not_known:
        yield ""
        yield coloured(f"Cannot be known: {report.not_known:,}", YELLOW)
        rows = [(row.total, reason) for reason, row in report.unknown.top()]
        yield from table(("WRITES", "WHY"), rows, columns, "  ")
        if report.forgotten:
            yield f"  {_count(report.forgotten, 'object')} had to be forgotten; --memory takes more MiB"
    for known, text in KNOWN.items():
        if number := report.known[known]:
            yield ""
            yield from _wrapped(f"{number:,} {text}.", columns)


def _wrapped(text: str, columns: int, indent: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(text, min(columns, 120), initial_indent=indent, subsequent_indent=indent)


def _automation(report: Report, columns: int) -> Iterator[str]:
    suggestions = report.suggestions()
    if not suggestions:
        return
    yield ""
    yield coloured("Automation that would be hit", BOLD)
    yield "  What it may write goes under spec of the DriftwallConfig, or of one policy."
    for suggestion in suggestions[:ROWS]:
        yield ""
        yield f"  # {escaped(suggestion.user)}: {_count(suggestion.writes, 'write')}"
        if suggestion.impersonated:
            yield from _wrapped(
                "It never wrote with a token of its own: somebody impersonates it. Only an entry with verify: none "
                "lets that through, and then whoever may impersonate it passes for it.",
                columns,
                "  # ",
            )
        yield from (f"  {line}" for line in suggestion.entry.splitlines())
        for rest in suggestion.rest:
            text = f"{escaped(rest)} is nothing to give to an automation; whoever may do that is named under trusted."
            yield from _wrapped(text, columns, "  # ")
    if len(suggestions) > ROWS:
        yield f"  … and {len(suggestions) - ROWS:,} more"


def _ignore(report: Report, columns: int) -> Iterator[str]:
    rows = [(each.policy, each.path, each.silenced, f"of {each.writes:,}") for each in report.ignorable()]
    if not rows:
        return
    yield ""
    yield coloured("Under protect.ignore, this would silence", BOLD)
    yield from table(("POLICY", "PATH", "WRITES", ""), rows[:ROWS], columns, "  ")
    if len(rows) > ROWS:
        yield f"  … and {len(rows) - ROWS:,} more"


def _comparison(report: Report, columns: int) -> Iterator[str]:
    compared = report.comparison
    if compared is None:
        return
    yield ""
    yield coloured(f"Under the other policies: {_count(compared.changed, 'write')} would be told otherwise", BOLD)
    rows = [
        (
            TITLES[verdict],
            report.counts[verdict],
            compared.counts[verdict],
            f"{compared.counts[verdict] - report.counts[verdict]:+,}",
        )
        for verdict in (*VERDICTS, ALLOWED)
    ]
    yield from table(("VERDICT", "NOW", "THEN", "CHANGE"), rows, columns, "  ")
    for (one, other), number in sorted(compared.verdicts.items(), key=lambda item: -item[1]):
        yield ""
        yield f"  {TITLES[one]} -> {TITLES[other]}: {number:,}"
        tally = compared.changes[one, other]
        for name, row in tally.top(ROWS):
            yield "    " + cut(f"{row.total:>7,}  {escaped(name)}", max(20, columns - 4))
        if more := tally.more(ROWS):
            yield f"    … and {more:,} more"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
