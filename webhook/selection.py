"""Which changes touch a set of protected fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from webhook.diff import ABSENT, MAX_CHANGES, Change
from webhook.fieldpath import Element, Path


class Position(Protocol):
    """A place in a set of protected fields, reached by stepping along a path."""

    @property
    def covers(self) -> bool:
        """Whether this place and all below it are in the set."""

    @property
    def owns_container(self) -> bool:
        """Whether the container here is in the set, though not all that it holds."""

    def step(self, element: Element) -> Position | None:
        """The position one element further; None if nothing below it is in the set."""


class Union:
    """What is in any of several sets."""

    __slots__ = ("_parts", "covers", "owns_container")

    def __init__(self, parts: Iterable[Position]) -> None:
        self._parts = tuple(parts)
        self.covers = any(part.covers for part in self._parts)
        self.owns_container = any(part.owns_container for part in self._parts)

    def step(self, element: Element) -> Position | None:
        """See :class:`Position`."""
        parts = [part for position in self._parts if (part := position.step(element)) is not None]
        return union(parts) if parts else None


def union(parts: Sequence[Position]) -> Position:
    """What is in any of ``parts``, of which there is at least one."""
    return parts[0] if len(parts) == 1 else Union(parts)


def select(changes: Iterable[Change], wanted: Position, ignored: Position | None = None) -> list[Change]:
    """The changes that touch ``wanted`` in a place that is not in ``ignored``, in their order.

    An added container is reported by those of its parts that are wanted, if they are not very many; anything else by
    its own path.
    """
    found: list[Change] = []
    # Changes come side by side: what holds one often holds the next.
    above: Path = ()
    want: Position | None = wanted
    leave = ignored
    for change in changes:
        path = change.path
        if path[:-1] != above:
            above = path[:-1]
            want, leave = _at(wanted, above), _at(ignored, above)
        if want is None:
            continue
        last = path[-1:]
        position = _at(want, last)
        if position is not None:
            touched = _touched(change, position, _at(leave, last))
            found += touched if len(found) + len(touched) <= MAX_CHANGES else [change] if touched else []
    return found


def _at(position: Position | None, path: Path) -> Position | None:
    """Where ``path`` leads to; None if nothing there is in the set."""
    for element in path:
        if position is None or position.covers:
            break
        position = position.step(element)
    return position


def _touched(change: Change, wanted: Position, ignored: Position | None) -> list[Change]:
    if ignored is not None and ignored.covers:
        return []
    if wanted.covers and ignored is None:
        return [change]
    if (wanted.covers or wanted.owns_container) and _replaced(change, ignored):
        return [change]
    found: list[Change] = []
    is_scalar = True
    for child in change.expand():
        is_scalar = False
        element = child.element
        inner = wanted if wanted.covers else wanted.step(element)
        if inner is not None:
            found += _touched(child, inner, ignored.step(element) if ignored is not None else None)
        if found and (change.old is not ABSENT or len(found) > MAX_CHANGES):
            return [change]
    return [change] if is_scalar and wanted.covers else found


def _replaced(change: Change, ignored: Position | None) -> bool:
    """Whether the container itself is gone, or something of another type is in its place."""
    if change.new is ABSENT and ignored is not None:
        return False  # what it held may have been all ignored
    return change.old is not ABSENT and type(change.old) is not type(change.new)
