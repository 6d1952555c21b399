"""The structural difference of two objects.

Maps are compared field by field, keyed lists by key, sets as sets, atomic lists whole. Types are strict: ``1``,
``1.0``, ``true`` and ``"1"`` differ, and so do null and absent. How a list is keyed is the :class:`Schema`'s word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import Raw

from webhook.fieldpath import Element, Identity, Index, Item, Member, Path, format_path, identity
from webhook.lazyjson import LazyObject, decoded, split
from webhook.listkeys import ATOMIC, KEY_DEFAULTS, SET, ListType, Schema


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
#: Levels of which each compares all below it, at C speed: a CronJob's environment variable is 12 deep. Further down,
#: what is equal is remembered instead, so that a hostile object of hundreds of levels is not read as many times.
QUICK_LEVELS: Final = 16


class Change:
    """One place that differs. ``old`` or ``new`` is ABSENT where the place was added or removed."""

    __slots__ = ("_above", "_element", "_known", "_level", "_new", "_old", "_path", "_text", "schema")

    def __init__(
        self, old: Any, new: Any, schema: Schema, above: Change | None, element: Element, known: _Known
    ) -> None:
        self._old = old
        self._new = new
        self.schema = schema
        # A path is made when it is asked for: a hostile object has a hundred thousand places, hundreds of levels deep.
        self._above = above
        self._element = element
        self._known = known
        self._level: int = 0 if above is None else above._level + 1
        self._path: Path | None = None
        self._text: str | None = None

    @property
    def old(self) -> Any:
        """The value that was there."""
        self._old = decoded(self._old)
        return self._old

    @property
    def new(self) -> Any:
        """The value that is to be there."""
        self._new = decoded(self._new)
        return self._new

    @property
    def is_real(self) -> bool:
        """Whether the values differ, and not only their bytes."""
        return type(self._old) is not Raw or type(self._new) is not Raw or not strictly_equal(self.old, self.new)

    @property
    def path(self) -> Path:
        """Where it is; empty for the object itself."""
        if self._path is None:
            elements: list[Element] = []
            change = self
            while change._above is not None:
                elements.append(change._element)
                change = change._above
            self._path = tuple(reversed(elements))
        return self._path

    @property
    def text(self) -> str:
        """The path as text."""
        if self._text is None:
            self._text = format_path(self.path)
        return self._text

    @property
    def operation(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        if self._old is ABSENT:
            return "added"
        return "removed" if self._new is ABSENT else "changed"

    def expand(self) -> Iterator[Change]:
        """The difference one level down, as if what is absent were an empty container. Nothing for scalars."""
        if isinstance(self.old, dict) or isinstance(self.new, dict):
            yield from self._fields(_dict(self.old), _dict(self.new))
        if isinstance(self.old, list) or isinstance(self.new, list):
            old, new = _list(self.old), _list(self.new)
            list_type = self.schema.list_type()
            places = _places(old, new, list_type)
            yield from self._positions(old, new) if places is None else self._items(places, list_type)

    def inner(self) -> Iterator[Change] | None:
        """What may differ one level down, if this is not one difference by itself."""
        if type(self._old) is Raw and type(self._new) is Raw and self._level < QUICK_LEVELS:
            ours, theirs = split(self._old), split(self._new)
            if isinstance(ours, dict) and isinstance(theirs, dict):
                return self._fields(ours, theirs)
            if isinstance(ours, list) and isinstance(theirs, list):
                list_type = self.schema.list_type()
                if list_type == ATOMIC:
                    return None
                in_place = _in_place(ours, theirs, list_type)
                if in_place is not None:
                    return (self._below(element, *pair, self.schema.item()) for element, *pair in in_place)
        if isinstance(self.old, dict) and isinstance(self.new, dict):
            return self._fields(self.old, self.new)
        if isinstance(self.old, list) and isinstance(self.new, list):
            list_type = self.schema.list_type()
            places = _places(self.old, self.new, list_type)
            return None if places is None else self._items(places, list_type)
        return None

    def _fields(self, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
        known = None if self._level < QUICK_LEVELS else self._known
        for name, value in old.items():
            other = new.get(name, ABSENT)
            # Most are the same, and most of them text, or not decoded.
            if type(value) in _BY_VALUE and value == other:
                continue
            if not strictly_equal(value, other, known):
                yield self._below(name, value, other, self.schema.field(name))
        if len(new) != len(old) or new.keys() != old.keys():
            for name, value in new.items():
                if name not in old:
                    yield self._below(name, ABSENT, value, self.schema.field(name))

    def _items(self, places: Iterable[_Place], list_type: ListType) -> Iterator[Change]:
        known = None if self._level < QUICK_LEVELS else self._known
        inner = self.schema.item()
        for _, before, after in places:
            if not strictly_equal(before, after, known):
                yield self._below(_element(before, after, list_type), before, after, inner)

    def _positions(self, old: list[Any], new: list[Any]) -> Iterator[Change]:
        known = None if self._level < QUICK_LEVELS else self._known
        inner = self.schema.item()
        for position, (before, after) in enumerate(zip_longest(old, new, fillvalue=ABSENT)):
            if not strictly_equal(before, after, known):
                yield self._below(Index(position, (before, after)), before, after, inner)

    def _below(self, element: Element, old: Any, new: Any, schema: Schema) -> Change:
        return Change(old, new, schema, self, element, self._known)

    def __str__(self) -> str:
        return f"{self.text} {self.operation}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_BY_VALUE: Final = frozenset({str, Raw})
_encode: Final = msgspec.json.Encoder().encode


def strictly_equal(old: Any, new: Any, known: _Known | None = None) -> bool:
    """Equality of JSON values by type and value.

    With ``known``, no pair of containers is compared twice: a difference hundreds of levels deep is looked for as many
    times. Without, containers are compared at C speed.
    """
    if old is new:
        return True
    kind = type(old)
    if kind is not type(new):
        return False
    if kind is not dict and kind is not list:
        return _same_objects(old, new) if kind is LazyObject else bool(old == new)
    if known is not None:
        return _equal_once(old, new, known)
    # Python takes 1, 1.0 and true for equal, and never equal values for different. What it takes for equal is equal if
    # it reads the same; it may still be, if its maps are in another order.
    if old != new:
        return False
    return _encode(old) == _encode(new) or _equal_once(old, new, {})


def _equal_once(old: Any, new: Any, known: _Known) -> bool:
    if len(old) != len(new) or (type(old) is dict and old.keys() != new.keys()):
        return False
    pair = (id(old), id(new))
    if pair in known:
        return known[pair]
    equal = True
    # A loop rather than all(): one frame a level, so that what the parser can nest can be compared.
    pairs = zip(old, new, strict=True) if type(old) is list else ((old[key], new[key]) for key in old)
    for before, after in pairs:
        if before is after:
            continue
        kind = type(before)
        if kind is not type(after) or not (
            _equal_once(before, after, known) if kind is dict or kind is list else before == after
        ):
            equal = False
            break
    known[pair] = equal
    return equal


def _same_objects(old: LazyObject, new: LazyObject) -> bool:
    if old.raw.keys() != new.raw.keys():
        return False
    pairs = [(old.raw[name], new.raw[name]) for name in differing(old, new)]
    ours, theirs = old.get("metadata"), new.get("metadata")
    if isinstance(ours, LazyObject) and isinstance(theirs, LazyObject):
        if ours.raw.keys() != theirs.raw.keys():
            return False
        pairs = [pair for pair in pairs if pair[0] is not old.raw["metadata"]]
        pairs += [(ours.raw[name], theirs.raw[name]) for name in differing(ours, theirs)]
    # The smallest first: it takes the least to be found different, and metadata.generation tells most changes.
    pairs.sort(key=lambda pair: len(memoryview(pair[0])))
    return all(strictly_equal(decoded(before), decoded(after)) for before, after in pairs)


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The fields that may have changed: all but those whose bytes are the same."""
    if isinstance(old, LazyObject) and isinstance(new, LazyObject):
        before, after = old.raw, new.raw
        for name, raw in before.items():
            if name not in after or raw != after[name]:
                yield name
    else:
        yield from old
    for name in new:
        if name not in old:
            yield name


def diff(old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema) -> list[Change]:
    """Every place where ``new`` differs from ``old``, sorted by path.

    A place that is there on one side alone is one change, whatever is below it, and so is one that holds more than
    MAX_CHANGES differences; :meth:`Change.expand` goes further.
    """
    changes: list[Change] = []
    waiting = deque(Change(old, new, schema, None, "", {}).expand())
    while waiting:
        change = waiting.popleft()
        inner = change.inner()
        room = max(0, MAX_CHANGES - len(changes) - len(waiting))
        further = None if inner is None else list(islice(inner, room + 1))
        if further is not None and len(further) <= room:
            waiting.extend(further)
        elif change.is_real:
            changes.append(change)
    if len(changes) > 1:
        changes.sort(key=lambda change: change.text)
    return changes


#: What tells an item of a list from the others, and its old and new value.
_Place: TypeAlias = tuple[Identity, Any, Any]


def _places(old: list[Any], new: list[Any], list_type: ListType) -> Iterable[_Place] | None:
    """Old and new items side by side; None if the list is atomic, or its items fit no other type."""
    if list_type == ATOMIC:
        return None
    before, after = _identities(old, list_type), _identities(new, list_type)
    if before is None or after is None:
        return None
    if before == after:
        return zip(before, old, new, strict=True)
    places: dict[Identity, tuple[list[Any], list[Any]]] = {}
    for place, item in zip(before, old, strict=True):
        places.setdefault(place, ([], []))[0].append(item)
    for place, item in zip(after, new, strict=True):
        places.setdefault(place, ([], []))[1].append(item)
    # A key may occur twice (ports, env): items that share one are paired in their order.
    return (
        (place, *pair)
        for place, (ours, theirs) in places.items()
        for pair in zip_longest(ours, theirs, fillvalue=ABSENT)
    )


def _in_place(old: list[Raw], new: list[Raw], list_type: ListType) -> list[tuple[Element, Raw, Raw]] | None:
    """The items that differ, if each is where it was; None if that cannot be told so easily.

    Then it does not matter that a key may occur twice: items that share one are paired in their order, which is this.
    """
    if len(old) != len(new) or list_type == SET:
        return None
    found: list[tuple[Element, Raw, Raw]] = []
    for before, after in zip(old, new, strict=True):
        if before == after:
            continue
        ours, theirs = split(before), split(after)
        if not (isinstance(ours, dict) and isinstance(theirs, dict)):
            return None
        keys = []
        for name in list_type:
            value = decoded(ours.get(name, KEY_DEFAULTS.get(name)))
            place = identity((value,))
            if place is None or place != identity((decoded(theirs.get(name, KEY_DEFAULTS.get(name))),)):
                return None
            keys.append((name, value))
        found.append((Item(tuple(keys), (before, after)), before, after))
    return found


def _identities(items: list[Any], list_type: ListType) -> list[Identity] | None:
    """For each item what tells it from the others, whatever its type is; None if one has no such thing."""
    found: list[Identity] = []
    for item in items:
        if list_type == SET:
            place = identity((item,))
        elif type(item) is dict:
            place = identity([item.get(name, KEY_DEFAULTS.get(name)) for name in list_type])
        else:
            return None
        if place is None:
            return None
        found.append(place)
    return found


def _element(before: Any, after: Any, list_type: ListType) -> Element:
    item = after if before is ABSENT else before
    if list_type == SET:
        return Member(item)
    return Item(tuple([(name, item.get(name, KEY_DEFAULTS.get(name))) for name in list_type]), (before, after))


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
            if position is None:
                break
            if not position.covers:
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
