"""What a person reads: denials and warnings. Nothing of a Secret's values, no control characters, bounded length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from webhook.admission import ObjectRef
from webhook.diff import ABSENT, Change
from webhook.fieldpath import format_path
from webhook.policy import Policy
from webhook.text import cut, escaped
from webhook.tools import Claim

#: INTERFACE: a denial has at most this many characters; the rest is in the log.
MAX_MESSAGE: Final = 1024
_MAX_PATH: Final = 160  # characters: a path of a container's environment variable has about 70
_MAX_VALUE: Final = 100  # characters: an image with its digest, or a port with all its fields
_MAX_USER: Final = 100  # characters: a service account of long names; user names have no limit of their own
_MAX_TEXT: Final = 200  # characters of a policy's description, and of its own message


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a message tells of: the object, who wrote, and what each violated policy objects to."""

    ref: ObjectRef
    user: str
    writer_note: str
    claims: Sequence[Claim]
    deletion: bool
    creation: bool
    secret: bool
    changes: Sequence[tuple[Change | str, Policy]]
    policies: Sequence[Policy]


def denial(refusal: Refusal) -> str:
    """The text of a denial, one block of lines of at most 1,024 characters."""
    head = [_subject(refusal)]
    who = _clip(refusal.user, _MAX_USER) + (f" ({refusal.writer_note})" if refusal.writer_note else "")
    if refusal.deletion:
        head.append(f"{who} may not delete it.")
        fields: list[str] = []
    else:
        what = "may not create it with" if refusal.creation else "may not change"
        head.append(f"{who} {what}:")
        fields = [f"  {line}" for line in _lines(refusal)]
    tail = [f"Policy {_policy(policy)}" for policy in refusal.policies]
    tail.append(way_out(refusal))
    for policy in refusal.policies:
        if policy.message:
            tail.append(_clip(policy.message, _MAX_TEXT))
    return _fit(head, fields, tail)


def warning(refusal: Refusal) -> str:
    """One line for a client whose write is let through in mode warn; at most 256 characters, which servers keep."""
    places = [format_path(c.path) if isinstance(c, Change) else c for c, _ in refusal.changes]
    what = "deletion" if refusal.deletion else ", ".join(dict.fromkeys(places))
    names = ", ".join(policy.name for policy in refusal.policies)
    return cut(escaped(f"driftwall: {refusal.ref} {_managed(refusal)}; policy {names} warns of: {what}"), 256)


def value_text(value: Any, *, secret: bool) -> str:
    """A field's value for a message: shortened to its first line, or hidden if the object is a Secret."""
    if value is ABSENT:
        return "(none)"
    if secret:
        return "(hidden)"
    if isinstance(value, str):
        first, newline, _ = value.partition("\n")
        text = escaped(first)
        return f'"{cut(text, _MAX_VALUE)}"' if not newline else f'"{cut(text, _MAX_VALUE - 1).removesuffix("…")}…"'
    if isinstance(value, dict | list):
        noun = ("field" if isinstance(value, dict) else "item") + ("" if len(value) == 1 else "s")
        text = msgspec.json.encode(value).decode() if _is_small(value) else ""
        return escaped(text) if text and len(text) <= _MAX_VALUE else f"({len(value)} {noun})"
    return cut(msgspec.json.encode(value).decode(), _MAX_VALUE)


def _is_small(value: Any) -> bool:
    # Only a flat and short value is shown: a deep one would be cut in the middle of something.
    children = value.values() if isinstance(value, dict) else value
    return len(value) <= 4 and not any(
        isinstance(c, dict | list) or (isinstance(c, str) and "\n" in c) for c in children
    )


def way_out(refusal: Refusal) -> str:
    """What to do instead."""
    if refusal.claims:
        return refusal.claims[0].marker.way_out
    return "Ask whoever owns this policy."


def _subject(refusal: Refusal) -> str:
    return f"{_clip(str(refusal.ref), _MAX_PATH)} {_managed(refusal)}."


def _managed(refusal: Refusal) -> str:
    if not refusal.claims:
        return "is protected"
    titles = _clip(" and ".join(claim.managed_by.title for claim in refusal.claims), _MAX_PATH)
    return f"bears the mark of {titles}" if refusal.creation else f"is managed by {titles}"


def _lines(refusal: Refusal) -> list[str]:
    lines: dict[str, None] = {}
    for change, _ in refusal.changes:
        if isinstance(change, str):
            lines[f"{change}: takes away the record of what was declared"] = None
            continue
        path = _clip(format_path(change.path), _MAX_PATH)
        old = value_text(change.old, secret=refusal.secret)
        new = value_text(change.new, secret=refusal.secret)
        match change.operation:
            case "added":
                lines[f"{path}: added {new}"] = None
            case "removed":
                lines[f"{path}: removed, was {old}"] = None
            case _:
                lines[f"{path}: {old} -> {new}"] = None
    return list(lines)


def _policy(policy: Policy) -> str:
    text = f"{policy.name} ({policy.mode}, {policy.severity})"
    return f"{text}: {_clip(policy.description, _MAX_TEXT)}" if policy.description else text


def _clip(text: str, limit: int) -> str:
    return cut(escaped(text), limit)


def _fit(head: list[str], fields: list[str], tail: list[str]) -> str:
    fixed = sum(len(line) + 1 for line in (*head, *tail))
    room = MAX_MESSAGE - fixed
    kept: list[str] = []
    for index, line in enumerate(fields):
        rest = len(fields) - index - 1
        more = f"  … and {rest} more; the log has them all" if rest else ""
        if len(line) + 1 + (len(more) + 1 if more else 0) > room:
            kept.append(
                f"  … and {rest + 1} more; the log has them all"
                if kept
                else f"  {rest + 1} fields; the log has them all"
            )
            break
        kept.append(line)
        room -= len(line) + 1
    return cut("\n".join([*head, *kept, *tail]), MAX_MESSAGE)
