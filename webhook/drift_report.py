"""What a scan has found, for people and for programs: a table, JSON, Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from webhook.breakglass import write_time
from webhook.diff import ABSENT
from webhook.drift_model import CHANGED, EXTRA, MISSING, DriftedField, DriftedObject
from webhook.messages import value_text
from webhook.terminal import BOLD, DIM, RED, YELLOW
from webhook.text import cut, escaped

# Characters: from here on a field, what became of it, who and when fit side by side.
WIDE: Final = 120
_MAX_TITLE: Final = 160  # characters of a tool and its application
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))

Paint = Callable[[str, str], str]


def place(drifted: DriftedObject) -> str:
    """Where an object is, as kubectl writes it: ``deployments.apps shop/web``."""
    ref = drifted.target.ref
    resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
    return escaped(f"{resource} {ref.namespace}/{ref.name}" if ref.namespace else f"{resource} {ref.name}")


def state(drifted: DriftedObject) -> str:
    """What became of the object as a whole; empty where some of its fields differ."""
    if drifted.state == MISSING:
        return "missing: it is in the manifests and not in the cluster"
    if drifted.state == EXTRA and not drifted.fields:
        return "extra: it is in the cluster and not in the manifests"
    if drifted.state == EXTRA:
        return "extra: it was made by hand with a mark of the tool, which never wrote it"
    return ""


def title(drifted: DriftedObject) -> str:
    """Who manages the object."""
    return cut(escaped(drifted.managed_by.title), _MAX_TITLE) if drifted.managed_by is not None else ""


def what(field: DriftedField, *, secret: bool) -> str:
    """What became of a field."""
    declared, live = (value_text(value, secret=secret) for value in (field.declared, field.live))
    match field.change:
        case "added":
            return f"added {live}" if field.live is not ABSENT else "added"
        case "removed":
            return f"removed, was {declared}" if field.declared is not ABSENT else "removed"
        case "set":
            return f"set to {live}" if field.live is not ABSENT else "set"
        case _:
            return f"{declared} -> {live}"


def who(field: DriftedField) -> str:
    """Who wrote it: the user, where a tag tells, and the name that managedFields have."""
    if field.user and field.manager:
        return escaped(f"{field.user} ({field.manager})")
    return escaped(field.user or field.manager) or "unknown"


def age(at: datetime | None, now: datetime) -> str:
    """How long ago, as kubectl writes it: ``5m``."""
    if at is None:
        return "unknown"
    seconds = max(0, int((now - at).total_seconds()))
    return next((f"{seconds // size}{unit}" for size, unit in _UNITS if seconds >= size), "0s")


def summary(objects: Sequence[DriftedObject], managed: int, scanned: int) -> str:
    """One line: how much of what has drifted."""
    fields = sum(len(each.fields) for each in objects)
    seen = f"{_count(managed, 'managed object')} of {_count(scanned, 'object')} looked at"
    if not objects:
        return f"No drift: {seen}."
    have = "has" if len(objects) == 1 else "have"
    return f"{_count(len(objects), 'object')} {have} drifted, in {_count(fields, 'field')}; {seen}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(objects: Sequence[DriftedObject], now: datetime, *, width: int, paint: Paint) -> list[str]:
    """Lines for a terminal of ``width`` columns: side by side where that fits, else one below the other.

    ``paint`` gives a text its colour.
    """
    rows = [
        (escaped(each.path), what(each, secret=obj.target.secret), who(each), age(each.at, now))
        for obj in objects
        for each in obj.fields
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    # What became of it may be long; the rest is not cut.
    room = width - widths[0] - widths[2] - max(widths[3], 4) - 8
    wide = width >= WIDE and room >= 30  # characters: less of a value tells nothing
    widths[1] = min(widths[1], room)
    lines: list[str] = []
    if wide and rows:
        head = f"  {'FIELD':<{widths[0]}}  {'CHANGE':<{widths[1]}}  {'BY':<{widths[2]}}  AGE"
        lines.append(paint(head, DIM))
    for obj in objects:
        lines += _wrapped(_head(obj), width, 0, lambda text: paint(text, BOLD))
        if note := state(obj):
            lines += _wrapped(note, width, 2, lambda text: paint(text, RED))
        for field in obj.fields:
            if obj.state == EXTRA:
                lines.append(f"  by {who(field)}, {age(field.at, now)} ago")
            elif wide:
                text = cut(what(field, secret=obj.target.secret), widths[1])
                padding = " " * (widths[1] - len(text))
                cells = f"{who(field):<{widths[2]}}  {age(field.at, now)}"
                lines.append(f"  {escaped(field.path):<{widths[0]}}  {paint(text, YELLOW)}{padding}  {cells}")
            else:
                lines += _wrapped(escaped(field.path), width, 2, lambda text: text)
                lines += _wrapped(what(field, secret=obj.target.secret), width, 4, lambda text: paint(text, YELLOW))
                when = f", {age(field.at, now)} ago" if field.at is not None else ""
                lines += _wrapped(f"by {who(field)}{when}", width, 4, lambda text: text)
    return lines


def _head(obj: DriftedObject) -> str:
    managed = f"  {title(obj)}" if obj.managed_by is not None else ""
    return place(obj) + managed


def _wrapped(text: str, width: int, indent: int, paint: Callable[[str], str]) -> list[str]:
    """``text`` in lines of at most ``width``: paths have no spaces to break them at."""
    room = max(20, width - indent)
    first, rest = text[:room], text[room:]
    lines = [" " * indent + paint(first)]
    deeper = indent + 2
    while rest:
        step = max(20, width - deeper)
        lines.append(" " * deeper + paint(rest[:step]))
        rest = rest[step:]
    return lines


def document(drifted: DriftedObject) -> dict[str, Any]:
    """An object with drift as JSON has it. No value of a Secret."""
    ref, managed_by = drifted.target.ref, drifted.managed_by
    found: dict[str, Any] = {
        "apiVersion": drifted.target.api_version,
        "kind": drifted.target.kind,
        "resource": f"{ref.resource}.{ref.group}" if ref.group else ref.resource,
        "namespace": ref.namespace,
        "name": ref.name,
        "managedBy": None
        if managed_by is None
        else {"tool": managed_by.tool, "kind": managed_by.kind, "application": managed_by.application},
        "state": drifted.state,
        "fields": [_field(each, secret=drifted.target.secret) for each in drifted.fields],
    }
    if drifted.file:
        found |= {"file": drifted.file, "line": drifted.line}
    return found


def _field(field: DriftedField, *, secret: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"path": field.path, "change": field.change}
    if not secret:
        values = (("declared", field.declared), ("live", field.live))
        found |= {key: value for key, value in values if value is not ABSENT}
    return found | {
        "user": field.user or None,
        "fieldManager": field.manager or None,
        "at": write_time(field.at) if field.at is not None else None,
        "policies": list(field.policies),
        "severity": field.severity or None,
        "evidence": field.evidence,
    }


def as_json(
    objects: Sequence[DriftedObject],
    *,
    now: datetime,
    managed: int,
    scanned: int,
    incomplete: Sequence[str],
    undecided: Mapping[str, int],
) -> str:
    """One JSON object."""
    found = {
        "time": write_time(now),
        "scanned": scanned,
        "managed": managed,
        "drifted": len(objects),
        "fields": sum(len(each.fields) for each in objects),
        "incomplete": list(incomplete),
        "undecided": dict(sorted(undecided.items())),
        "objects": [document(each) for each in objects],
    }
    return json.dumps(found, indent=2, ensure_ascii=False)


def markdown(objects: Sequence[DriftedObject], now: datetime, *, managed: int, scanned: int) -> list[str]:
    """Lines for a pull request: a table, one row for each field."""
    lines = ["## driftwall scan", "", _cell(summary(objects, managed, scanned))]
    if objects:
        lines += ["", "| object | managed by | field | change | by | age |", "|---|---|---|---|---|---|"]
    for obj in objects:
        secret = obj.target.secret
        rows = [(each.path, what(each, secret=secret), who(each), age(each.at, now)) for each in obj.fields]
        if obj.state != CHANGED:
            rows = [("", state(obj), *(rows[0][2:] if rows else ("", "")))]
        for path, change, by, when in rows:
            cells = (_code(place(obj)), _cell(title(obj)), _code(path), _code(change), _cell(by), when)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(text: str) -> str:
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text


def _code(text: str) -> str:
    """``text`` as code in a cell, where a bar still has to be escaped and a backtick needs a longer fence."""
    if not text:
        return ""
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{escaped(text).replace('|', chr(92) + '|')}{pad}{fence}"


def lines_of(objects: Iterable[DriftedObject]) -> list[str]:
    """One sentence for each field or object, for reports that hold plain text."""
    found = []
    for obj in objects:
        if obj.state != CHANGED:
            found.append(f"{place(obj)} is {state(obj)}")
            continue
        for each in obj.fields:
            when = f" at {write_time(each.at)}" if each.at is not None else ""
            found.append(f"{place(obj)}: {each.path}: {what(each, secret=obj.target.secret)}, by {who(each)}{when}")
    return found
