"""Places of objects, for tests."""

from __future__ import annotations

from typing import Any

from webhook.fieldpath import Item, Path
from webhook.selection import Position


def holds(position: Position | None, path: Path) -> bool:
    """Whether the place, or one above it, is in the set."""
    for element in path:
        if position is None or position.covers:
            break
        position = position.step(element)
    return position is not None and position.covers


def item(**keys: Any) -> Item:
    return Item(tuple(keys.items()))
