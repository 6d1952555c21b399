"""The report of a replay as one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from webhook.outcome import ALLOWED
from webhook.replay_report import Report
from webhook.replay_text import KNOWN, SKIPPED, TITLES
from webhook.tally import VERDICTS, Tally
from webhook.text import escaped

# Rows of one table: a page that is scrolled takes more than a terminal.
_ROWS: Final = 50
_BARS: Final = 12
# The chart's own units; it is as wide as the page.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 960, 220, 56, 22
_BAR_HEIGHT, _LABEL = 22, 330

_STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1d2733; --dim: #5b6876; --paper: #fff; --panel: #f5f7f9; --line: #d8dee5;
  --denied: #c62828; --warned: #d97706; --tagged: #7c5cbf; --dryRun: #2f74c0; --allowed: #2e7d4f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --dim: #9aa7b5; --paper: #12171d; --panel: #1b222b;
  --line: #303a46; --denied: #ef6a6a; --warned: #f0a94a; --tagged: #a98ae6; --dryRun: #6aa8ec; --allowed: #62bd86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 2rem 1.25rem 4rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .dim { color: var(--dim); }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0 .5rem; }
.card { flex: 1 1 8rem; background: var(--panel); border-left: 4px solid var(--line); padding: .6rem .9rem;
  border-radius: 4px; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.card.denied { border-color: var(--denied); } .card.warned { border-color: var(--warned); }
.card.tagged { border-color: var(--tagged); } .card.dryRun { border-color: var(--dryRun); }
.card.allowed { border-color: var(--allowed); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--dim); font-weight: 600; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: 13px/1.45 ui-monospace, monospace; } pre { background: var(--panel); padding: .7rem .9rem;
  border-radius: 4px; overflow-x: auto; margin: .4rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--dim); font: 12px system-ui, sans-serif; }
svg .name { fill: var(--ink); } svg line { stroke: var(--line); }
.denied-bar { fill: var(--denied); } .warned-bar { fill: var(--warned); } .tagged-bar { fill: var(--tagged); }
.dryRun-bar { fill: var(--dryRun); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 .9em;
  vertical-align: -1px; }
"""


def page(report: Report) -> str:
    """The whole page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing is loaded and nothing runs, whatever a name in the log may hold.
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>driftwall replay</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>"
    yield from _head(report)
    yield from _timeline(report)
    for title, tally in (("By policy", report.policies), ("By user", report.users)):
        yield from _bars(title, tally)
    yield from _tables(report)
    yield from _automation(report)
    yield from _ignore(report)
    yield from _comparison(report)
    yield from _examples(report)
    yield "</body>\n</html>"


def _head(report: Report) -> Iterator[str]:
    yield "<h1>What these policies would have done</h1>"
    writes = f"{report.reviewed + report.not_known:,} writes in {report.lines:,} lines"
    if report.first is not None and report.last is not None:
        writes += f", {report.first:%Y-%m-%d %H:%M:%S} to {report.last:%Y-%m-%d %H:%M:%S} UTC"
    yield f'<p class="dim">{_text(writes)}</p>\n<div class="cards">'
    for verdict in (*VERDICTS, ALLOWED):
        number = report.counts[verdict]
        share = f" {number / report.reviewed:.1%}" if report.reviewed else ""
        yield f'<div class="card {verdict}"><b>{number:,}</b>{TITLES[verdict]}<span class="dim">{share}</span></div>'
    yield f'<div class="card"><b>{report.not_known:,}</b>cannot be known</div>\n</div>'
    for what, text in SKIPPED.items():
        if (number := report.skipped.get(what, 0)) > 0:
            yield f'<p class="dim">{number:,} lines passed over: {_text(text)}.</p>'
    for known, text in KNOWN.items():
        if (number := report.known[known]) > 0:
            yield f'<p class="dim">{number:,} {_text(text)}.</p>'
    if report.unreadable:
        yield f'<p class="dim">{report.unreadable:,} lines could not be read.</p>'
    if report.not_known:
        rows = [(row.total, reason) for reason, row in report.unknown.top()]
        yield from _table("Cannot be known", ("Writes", "Why"), rows)


def _timeline(report: Report) -> Iterator[str]:
    rows = list(report.timeline.rows())
    highest = max((sum(counts[v] for v in VERDICTS) for _, counts in rows), default=0)
    if not highest:
        return
    yield "<h2>Over time</h2>"
    keys = "".join(f'<span class="key" style="background:var(--{v})"></span>{TITLES[v]}' for v in VERDICTS)
    yield f'<p class="dim">Each bar is {_duration(report.timeline.seconds)}.{keys}</p>'
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Writes over time, by verdict">'
    depth = _HEIGHT - _BOTTOM - 10
    step = (_WIDTH - _LEFT) / len(rows)
    for part in (0, 0.5, 1):
        y = 10 + depth * (1 - part)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{round(highest * part):,}</text>'
    for index, (time, counts) in enumerate(rows):
        y = 10.0 + depth
        for verdict in VERDICTS:
            if number := counts[verdict]:
                height = depth * number / highest
                y -= height
                x, w = _LEFT + index * step, max(1.0, min(step - 1, 40))
                yield (
                    f'<rect class="{verdict}-bar" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{height:.1f}">'
                    f"<title>{time:%Y-%m-%d %H:%M:%S}: {number:,} {TITLES[verdict]}</title></rect>"
                )
    first, last = rows[0][0], rows[-1][0]
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{first:%Y-%m-%d %H:%M}</text>'
    yield f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{last:%Y-%m-%d %H:%M}</text>\n</svg>'


def _bars(title: str, tally: Tally) -> Iterator[str]:
    rows = tally.top(_BARS)
    if not rows:
        return
    highest = rows[0][1].total
    height = len(rows) * _BAR_HEIGHT
    yield f'<h2>{title}</h2>\n<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
    for index, (name, row) in enumerate(rows):
        y, x = index * _BAR_HEIGHT, float(_LABEL)
        shown = name if len(name) <= 38 else f"{name[:15]}…{name[-22:]}"  # in capitals, that is the room there is
        yield (
            f'<text class="name" x="{_LABEL - 10}" y="{y + 15}" text-anchor="end">{_text(shown)}'
            f"<title>{_text(name)}</title></text>"
        )
        for verdict, number in row.counts.items():
            if number:
                width = (_WIDTH - _LABEL - 70) * number / highest
                yield f'<rect class="{verdict}-bar" x="{x:.1f}" y="{y + 3}" width="{max(1.0, width):.1f}" height="16"/>'
                x += width
        yield f'<text x="{x + 6:.1f}" y="{y + 15}">{row.total:,}</text>'
    yield "</svg>"
    if more := tally.more(len(rows)):
        yield f'<p class="dim">… and {more:,} more</p>'


def _tables(report: Report) -> Iterator[str]:
    head = tuple(TITLES[verdict].capitalize() for verdict in VERDICTS)
    users = [
        (name, *row.counts.values(), ", ".join(field for field, _ in row.below["fields"].top(5)))
        for name, row in report.users.top(_ROWS)
    ]
    yield from _table("Who", ("User", *head, "Most often"), users, report.users)
    policies = [
        (name, *row.counts.values(), ", ".join(field for field, _ in row.below["fields"].top(5)))
        for name, row in report.policies.top(_ROWS)
    ]
    yield from _table("Policies", ("Policy", *head, "Most often"), policies, report.policies)
    for title, column, tally in (
        ("Objects", "Object", report.objects),
        ("Fields", "Field", report.fields),
        ("Managed by", "Tool and application", report.applications),
    ):
        rows = [(name, *row.counts.values()) for name, row in tally.top(_ROWS)]
        yield from _table(title, (column, *head), rows, tally)


def _automation(report: Report) -> Iterator[str]:
    suggestions = report.suggestions()
    if suggestions:
        yield "<h2>Automation that would be hit</h2>"
        yield "<p>What it may write goes under <code>spec</code> of the DriftwallConfig, or of one policy.</p>"
    for suggestion in suggestions[:_ROWS]:
        yield f"<p><code>{_text(suggestion.user)}</code>: {suggestion.writes:,} writes</p>"
        if suggestion.impersonated:
            yield (
                '<p class="dim">It never wrote with a token of its own: somebody impersonates it. Only an entry with '
                "<code>verify: none</code> lets that through, and then whoever may impersonate it passes for it.</p>"
            )
        if suggestion.entry:
            yield f"<pre>{_text(suggestion.entry, lines=True)}</pre>"
        for rest in suggestion.rest:
            yield f'<p class="dim">{_text(rest)} is nothing for an automation; it takes <code>trusted</code>.</p>'


def _ignore(report: Report) -> Iterator[str]:
    rows = [(each.policy, each.path, each.silenced, each.writes) for each in report.ignorable()]
    head = ("Policy", "Path under protect.ignore", "Silences", "Of")
    yield from _table("What an ignore rule would silence", head, rows[:_ROWS])


def _comparison(report: Report) -> Iterator[str]:
    compared = report.comparison
    if compared is None:
        return
    yield "<h2>Under the other policies</h2>"
    yield f"<p>{compared.changed:,} writes would be told otherwise.</p>"
    verdicts = [(TITLES[v], report.counts[v], compared.counts[v]) for v in (*VERDICTS, ALLOWED)]
    yield from _table("", ("Verdict", "Now", "Then"), verdicts)
    for (one, other), number in sorted(compared.verdicts.items(), key=lambda item: -item[1]):
        tally = compared.changes[one, other]
        rows = [(row.total, name) for name, row in tally.top(_ROWS)]
        yield from _table(f"{TITLES[one]} → {TITLES[other]}: {number:,}", ("Writes", "What"), rows, tally)


def _examples(report: Report) -> Iterator[str]:
    if report.examples:
        yield "<h2>What people would have read</h2>"
    for outcome in report.examples.values():
        yield f"<p><b>{_text(outcome.user)}</b>, {_text(outcome.operation)} {_text(outcome.object)}</p>"
        yield f"<pre>{_text(outcome.message, lines=True)}</pre>"


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[object]], tally: Tally | None = None
) -> Iterator[str]:
    if not rows:
        return
    if title:
        yield f"<h2>{_text(title)}</h2>"
    classes = [' class="n"' if isinstance(cell, int) else "" for cell in rows[0]]
    yield '<div class="scroll"><table>\n<thead><tr>'
    yield (
        "".join(f"<th{of}>{_text(name)}</th>" for name, of in zip(head, classes, strict=True))
        + "</tr></thead>\n<tbody>"
    )
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else _text(str(cell)) for cell in row)
        yield "<tr>" + "".join(f"<td{of}>{cell}</td>" for cell, of in zip(cells, classes, strict=True)) + "</tr>"
    yield "</tbody></table></div>"
    if tally is not None and (more := tally.more(len(rows))):
        yield f'<p class="dim">… and {more:,} more</p>'


def _text(text: str, *, lines: bool = False) -> str:
    """Text from outside, fit for HTML; ``lines``: its line breaks stay."""
    if lines:
        return "\n".join(escape(escaped(line)) for line in text.splitlines())
    return escape(escaped(text))


def _duration(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = seconds / length
            return f"{number:.3g} {unit}{'' if number == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
