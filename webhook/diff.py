"""The structural difference of two objects.

Maps are compared field by field, keyed lists by key, sets as sets, atomic lists whole. Types are strict: ``1``,
``1.0``, ``true`` and ``"1"`` differ, and so do null and absent. How a list is keyed is the :class:`Schema`'s word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, Final, Protocol, TypeAlias

from webhook.fieldpath import Element, Index, Item, Member, Path, format_path
from webhook.listkeys import ATOMIC, KEY_DEFAULTS, SET, Schema


class _Absent:
    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


#: The value of a field that is not there; null is a value of its own.
ABSENT: Final = _Absent()


#: What strictly_equal found of pairs of containers, by their ids: for as long as they live.
_Known: TypeAlias = dict[tuple[int, int], bool]

#: Changes that one diff tells of. A person's edit has a few; more of them are told as changes of what holds them.
MAX_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One place that differs. ``old`` or ``new`` is ABSENT where the place was added or removed."""

    old: Any
    new: Any
    schema: Schema
    # A path is made when it is asked for: a hostile object has a hundred thousand places, hundreds of levels deep.
    _above: Change | None = field(repr=False)
    _element: Element = field(repr=False)
    _known: _Known = field(repr=False)

    @property
    def path(self) -> Path:
        """Where it is; empty for the object itself."""
        elements: list[Element] = []
        change = self
        while change._above is not None:
            elements.append(change._element)
            change = change._above
        return tuple(reversed(elements))

    @property
    def operation(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        if self.old is ABSENT:
            return "added"
        return "removed" if self.new is ABSENT else "changed"

    def expand(self) -> Iterator[Change]:
        """The difference one level down, as if what is absent were an empty container. Nothing for scalars."""
        if isinstance(self.old, dict) or isinstance(self.new, dict):
            yield from self._fields(_dict(self.old), _dict(self.new))
        if isinstance(self.old, list) or isinstance(self.new, list):
            old, new = _list(self.old), _list(self.new)
            places = _places(old, new, self.schema)
            yield from self._positions(old, new) if places is None else self._items(places)

    def inner(self) -> Iterator[Change] | None:
        """The differences that this one is made of, one level down; None if it is one by itself."""
        if isinstance(self.old, dict) and isinstance(self.new, dict):
            return self._fields(self.old, self.new)
        if isinstance(self.old, list) and isinstance(self.new, list):
            places = _places(self.old, self.new, self.schema)
            return None if places is None else self._items(places)
        return None

    def _fields(self, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
        for name, value in old.items():
            other = new.get(name, ABSENT)
            if not strictly_equal(value, other, self._known):
                yield self._below(name, value, other, self.schema.field(name))
        for name, value in new.items():
            if name not in old:
                yield self._below(name, ABSENT, value, self.schema.field(name))

    def _items(self, places: _Places) -> Iterator[Change]:
        inner = self.schema.item()
        for element, old, new in places.values():
            # A key may occur twice (ports, env): items that share one are paired in their order.
            for before, after in zip_longest(old, new, fillvalue=ABSENT):
                if not strictly_equal(before, after, self._known):
                    place = Item(element.keys, (before, after)) if isinstance(element, Item) else element
                    yield self._below(place, before, after, inner)

    def _positions(self, old: list[Any], new: list[Any]) -> Iterator[Change]:
        inner = self.schema.item()
        for position, (before, after) in enumerate(zip_longest(old, new, fillvalue=ABSENT)):
            if not strictly_equal(before, after, self._known):
                yield self._below(Index(position, (before, after)), before, after, inner)

    def _below(self, element: Element, old: Any, new: Any, schema: Schema) -> Change:
        return Change(old, new, schema, self, element, self._known)

    def __str__(self) -> str:
        return f"{format_path(self.path)} {self.operation}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_CONTAINERS: Final = (dict, list)


def strictly_equal(old: Any, new: Any, known: _Known | None = None) -> bool:
    """Equality of JSON values by type and value.

    With ``known``, no pair of containers is compared twice: a difference ten levels deep is looked for ten times.
    """
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if not isinstance(old, _CONTAINERS):
        return bool(old == new)
    if len(old) != len(new) or (isinstance(old, dict) and old.keys() != new.keys()):
        return False
    pair = (id(old), id(new))
    if known is not None and pair in known:
        return known[pair]
    equal = True
    # A loop rather than all(): one frame a level, so that what the parser can nest can be compared.
    pairs = zip(old, new, strict=True) if isinstance(old, list) else ((old[key], new[key]) for key in old)
    for before, after in pairs:
        if not strictly_equal(before, after, known):
            equal = False
            break
    if known is not None:
        known[pair] = equal
    return equal


def diff(old: dict[str, Any], new: dict[str, Any], schema: Schema) -> list[Change]:
    """Every place where ``new`` differs from ``old``, sorted by path.

    A place that is there on one side alone is one change, whatever is below it, and so is one that holds more than
    MAX_CHANGES differences; :meth:`Change.expand` goes further.
    """
    changes: list[Change] = []
    waiting = deque(Change(old, new, schema, None, "", {}).expand())
    while waiting:
        change = waiting.popleft()
        inner = change.inner()
        if inner is None:
            changes.append(change)
            continue
        room = max(0, MAX_CHANGES - len(changes) - len(waiting))
        further = list(islice(inner, room + 1))
        if len(further) > room:
            changes.append(change)
        else:
            waiting.extend(further)
    changes.sort(key=lambda change: format_path(change.path))
    return changes


_Places: TypeAlias = dict[str, tuple[Item | Member, list[Any], list[Any]]]


def _places(old: list[Any], new: list[Any], schema: Schema) -> _Places | None:
    """Old and new items by the identity of their place; None if the list is atomic, or its items fit no other type."""
    list_type = schema.list_type()
    if list_type == ATOMIC:
        return None
    places: _Places = {}
    for side, items in ((1, old), (2, new)):
        for item in items:
            element = _member(item) if list_type == SET else _item(item, list_type)
            if element is None:
                return None
            # The text of the element tells 1, 1.0, True and "1" apart, which their equality does not.
            place = places.setdefault(repr(element), (element, [], []))
            (place[1] if side == 1 else place[2]).append(item)
    return places


def _member(item: Any) -> Member | None:
    return None if isinstance(item, dict | list) else Member(item)


def _item(item: Any, keys: Iterable[str]) -> Item | None:
    if not isinstance(item, dict):
        return None
    values = tuple((key, item.get(key, KEY_DEFAULTS.get(key))) for key in keys)
    return None if any(isinstance(value, dict | list) for _, value in values) else Item(values)


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
        if len(parts) == 1:
            return parts[0]
        return Union(parts) if parts else None


def select(changes: Iterable[Change], wanted: Position, ignored: Position | None = None) -> list[Change]:
    """The changes that touch ``wanted`` in a place that is not in ``ignored``, in their order.

    An added container is reported by those of its parts that are wanted, if they are not very many; anything else by
    its own path.
    """
    found: list[Change] = []
    for change in changes:
        position: Position | None = wanted
        besides = ignored
        for element in change.path:
            if position is not None and not position.covers:
                position = position.step(element)
            if besides is not None and not besides.covers:
                besides = besides.step(element)
        if position is not None:
            touched = _touched(change, position, besides)
            found += touched if len(found) + len(touched) <= MAX_CHANGES else [change] if touched else []
    return found


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
        element = child._element
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
