"""Text from outside, made fit for one line of a terminal, a log or an error."""

from __future__ import annotations

import json
from typing import Any

SHOWN = 60  # characters: room for a file name, a path and a sentence beside it on a line


def escaped(text: str) -> str:
    """``text`` with everything that does not print written as an escape: controls, bidirectional marks, odd spaces."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: Any, limit: int = SHOWN) -> str:
    """A JSON value as a message shows it: text in single quotes, escaped, at most ``limit`` characters."""
    if isinstance(value, str):
        return f"'{cut(escaped(value[: limit + 1]), limit - 2)}'"
    if isinstance(value, dict):
        return f"a mapping of {len(value)}" if value else "{}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "[]"
    return cut(json.dumps(value), limit)


def cut(text: str, limit: int) -> str:
    """``text``, its end replaced by ``…`` where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
