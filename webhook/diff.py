"""The structural difference of two objects.

Maps are compared field by field, keyed lists by key, sets as sets, atomic lists whole. Types are strict: ``1``,
``1.0``, ``true`` and ``"1"`` differ, and so do null and absent. How a list is keyed is the :class:`Schema`'s word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Raw

from webhook.equality import Known, alike, strictly_equal
from webhook.fieldpath import Element, Identity, Index, Item, Member, Path, format_path, identity
from webhook.lazyjson import decoded, split, whole
from webhook.listkeys import ATOMIC, KEY_DEFAULTS, SET, ListType, Schema


class _Absent:
    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


#: The value of a field that is not there; null is a value of its own.
ABSENT: Final = _Absent()


#: Changes that one diff tells of. A person's edit has a few; more of them are told as changes of what holds them.
MAX_CHANGES: Final = 1000
#: Levels of which each compares all below it, at C speed: a CronJob's environment variable is 12 deep. Further down,
#: what is equal is remembered instead, so that a hostile object of hundreds of levels is not read as many times.
QUICK_LEVELS: Final = 16
#: Bytes of two values that are looked at closer, and of a part of one: a Deployment has 29 for each of its fields, and
#: an undecoded value takes 56 of memory.
_MUCH: Final = 16 * 1024
_SMALL_PART: Final = 16
#: Types of which no value is equal to one of another type.
_EXACT: Final = frozenset({str, Raw})


class _Scope(NamedTuple):
    """What all changes of one diff share."""

    schema: Schema
    known: Known


class Change:
    """One place that differs. ``old`` or ``new`` is ABSENT where the place was added or removed.

    ``is_shared`` tells that it is in an item of a list whose key another item may have, too.
    """

    __slots__ = (
        "_above",
        "_new",
        "_old",
        "_path",
        "_scope",
        "_text",
        "_unread",
        "_unsure",
        "element",
        "is_shared",
        "level",
    )

    def __init__(self, old: Any, new: Any, element: Element, above: Change | None, scope: _Scope) -> None:
        self._old = old
        self._new = new
        # A path is made when it is asked for: a hostile object has a hundred thousand places, hundreds of levels deep.
        self.element = element
        self._above = above
        self._scope = scope
        self.level: int = 0 if above is None else above.level + 1
        self.is_shared: bool = False if above is None else above.is_shared
        self._path: Path | None = () if above is None else None
        self._text: str | None = None
        self._unread: bool = False
        self._unsure: bool = False

    @classmethod
    def at(cls, pair: _Pair, scope: _Scope) -> Change:
        """The change at a path of the object."""
        path, old, new, is_shared = pair
        made = cls(old, new, path[-1], None, scope)
        made.level = len(path)
        made._path = path
        made.is_shared = is_shared
        made._unsure = made._unread = True
        return made

    @property
    def old(self) -> Any:
        """The value that was there."""
        if self._unread:
            self._read()
        return self._old

    @property
    def new(self) -> Any:
        """The value that is to be there."""
        if self._unread:
            self._read()
        return self._new

    def _read(self) -> None:
        self._old, self._new, self._unread = whole(self._old), whole(self._new), False

    @property
    def is_real(self) -> bool:
        """Whether the values differ, and not only their bytes."""
        is_in_both = self._old is not ABSENT and self._new is not ABSENT
        return not (self._unsure and is_in_both and strictly_equal(self.old, self.new))

    @property
    def path(self) -> Path:
        """Where it is; empty for the object itself."""
        path = self._path
        if path is None:
            path = self._path = tuple(self._elements())
        return path

    def _elements(self) -> list[Element]:
        elements: list[Element] = []
        change = self
        while change._path is None and change._above is not None:
            elements.append(change.element)
            change = change._above
        elements.reverse()
        return [*(change._path or ()), *elements]

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
            list_type = self._list_type()
            places = _places(old, new, list_type)
            yield from self._positions(old, new) if places is None else self._items(places, list_type)

    def inner(self) -> Iterator[Change] | None:
        """What differs one level down; None if this is one difference by itself."""
        if isinstance(self.old, dict) and isinstance(self.new, dict):
            return self._fields(self.old, self.new)
        if isinstance(self.old, list) and isinstance(self.new, list):
            list_type = self._list_type()
            places = _places(self.old, self.new, list_type)
            return None if places is None else self._items(places, list_type)
        return None

    def _list_type(self) -> ListType:
        return self._scope.schema.list_type_at(self._elements())

    def _known(self) -> Known | None:
        return None if self.level < QUICK_LEVELS else self._scope.known

    def _fields(self, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
        known = self._known()
        for name, value in old.items():
            other = new.get(name, ABSENT)
            # Most values are text, and most are the same.
            if type(value) is str and value == other:
                continue
            if not strictly_equal(value, other, known):
                yield Change(value, other, name, self, self._scope)
        if len(new) != len(old) or new.keys() != old.keys():
            for name, value in new.items():
                if name not in old:
                    yield Change(ABSENT, value, name, self, self._scope)

    def _items(self, places: Iterable[_Place], list_type: ListType) -> Iterator[Change]:
        known = self._known()
        for before, after, place, shared in places:
            if not strictly_equal(before, after, known):
                change = Change(before, after, _element(before, after, place, list_type), self, self._scope)
                change.is_shared = change.is_shared or shared
                yield change

    def _positions(self, old: list[Any], new: list[Any]) -> Iterator[Change]:
        known = self._known()
        for position, (before, after) in enumerate(zip_longest(old, new, fillvalue=ABSENT)):
            if not strictly_equal(before, after, known):
                yield Change(before, after, Index(position, (before, after)), self, self._scope)

    def __str__(self) -> str:
        return f"{self.text} {self.operation}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def diff(old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema) -> list[Change]:
    """As :func:`differences`, sorted by path."""
    return sorted(differences(old, new, schema), key=lambda change: change.text)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema) -> list[Change]:
    """Every place where ``new`` differs from ``old``.

    A place that is there on one side alone is one change, whatever is below it, and so is one that holds more than
    MAX_CHANGES differences; :meth:`Change.expand` goes further.
    """
    changes: list[Change] = []
    scope = _Scope(schema, {})
    waiting: deque[_Pair | Change] = deque(_differing_fields(old, new, (), False, len(old) + len(new)) or ())
    while waiting:
        pair = waiting.popleft()
        room = MAX_CHANGES - len(changes) - len(waiting)
        if isinstance(pair, Change):
            change = pair
        else:
            further = _inside(pair, schema, room) if len(pair[0]) < QUICK_LEVELS else None
            if further is not None:
                waiting += further
                continue
            change = Change.at(pair, scope)
        if change.level >= QUICK_LEVELS and (inner := change.inner()) is not None:
            changed = list(islice(inner, max(0, room) + 1))
            if len(changed) <= room:
                waiting += changed
                continue
        if change.is_real:
            changes.append(change)
    return changes


#: A place that differs, or may: its path, old and new value, and whether others may have the same path.
_Pair: TypeAlias = tuple[Path, Any, Any, bool]


def _inside(pair: _Pair, schema: Schema, room: int) -> list[_Pair] | None:
    """What differs one level down, by bytes as long as they tell; None if nothing is there, or more than ``room``."""
    path, old, new, is_shared = pair
    if type(old) is Raw and type(new) is Raw:
        if len(memoryview(old)) + len(memoryview(new)) > _MUCH and (_is_dense(old) or _is_dense(new)):
            old, new = decoded(old), decoded(new)
        else:
            old, new = split(old, new)
    kind = type(old)
    if kind is not type(new):
        return None
    if kind is dict:
        return _differing_fields(old, new, path, is_shared, room)
    if kind is not list or (places := _places(old, new, list_type := schema.list_type_at(path))) is None:
        return None
    found: list[_Pair] = []
    for before, after, place, shared in places:
        if before != after or not alike(before, after):
            element = _element(before, after, place, list_type)
            found.append(((*path, element), before, after, is_shared or shared))
            if len(found) > room:
                return None
    return found


def _differing_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], path: Path, is_shared: bool, room: int
) -> list[_Pair] | None:
    found: list[_Pair] = []
    in_both = len(old)
    for name, value in old.items():
        other = new.get(name, ABSENT)
        # Most values are the same, and most of them texts, or not decoded.
        if value == other and (type(value) in _EXACT or alike(value, other)):
            continue
        if other is ABSENT:
            in_both -= 1
        found.append(((*path, name), value, other, is_shared))
        if len(found) > room:
            return None
    if len(new) > in_both:
        found += [((*path, name), ABSENT, value, is_shared) for name, value in new.items() if name not in old]
    return found if len(found) <= room else None


def _is_dense(raw: Raw) -> bool:
    """Whether this comes in very small parts: undecoded they would take more memory than decoded."""
    return bytes(raw).count(b",") * _SMALL_PART > len(memoryview(raw))


#: What tells an item of a list from the others: most have a name.
_Key: TypeAlias = str | Identity
#: An item's old and new value, its key, and whether another has that key, too.
_Place: TypeAlias = tuple[Any, Any, _Key, bool]


def _places(old: list[Any], new: list[Any], list_type: ListType) -> list[_Place] | None:
    """Old and new items side by side; None if the list is atomic, or its items fit no other type."""
    if list_type == ATOMIC:
        return None
    ours, theirs = _by_key(old, list_type), _by_key(new, list_type)
    if ours is None or theirs is None:
        return None
    places: list[_Place] = []
    for key, before in ours.items():
        after = theirs.get(key)
        if len(before) == 1 and (after is None or len(after) == 1):
            places.append((before[0], ABSENT if after is None else after[0], key, False))
            continue
        # A key may occur twice (ports, env): items that share one are paired in their order.
        places += [(*pair, key, True) for pair in zip_longest(before, after or (), fillvalue=ABSENT)]
    for key, after in theirs.items():
        if key not in ours:
            places += [(ABSENT, item, key, len(after) > 1) for item in after]
    return places


def _by_key(items: list[Any], list_type: ListType) -> dict[_Key, list[Any]] | None:
    """The items by what tells them apart, whatever its type is; None if one has no such thing."""
    found: dict[_Key, list[Any]] = {}
    name = list_type[0] if len(list_type) == 1 else None
    for item in items:
        # Most have a name.
        key = decoded(item[name]) if type(item) is dict and name in item else None
        if type(key) is not str:
            key = _key(item, list_type)
        if key is None:
            return None
        if key in found:
            found[key].append(item)
        else:
            found[key] = [item]
    return found


def _key(item: Any, list_type: ListType) -> _Key | None:
    value = item
    if list_type != SET:
        if type(item) is not dict:
            return None
        if len(list_type) > 1:
            return identity([_key_field(item, name) for name in list_type])
        value = _key_field(item, list_type[0])
    return value if type(value) is str else identity((value,))


def _key_field(item: dict[str, Any], name: str) -> Any:
    return decoded(item[name]) if name in item else KEY_DEFAULTS.get(name)


def _element(before: Any, after: Any, key: _Key, list_type: ListType) -> Element:
    if list_type == SET:
        return Member(key if isinstance(key, str) else key[1][0])
    keys = ((list_type[0], key),) if isinstance(key, str) else tuple(zip(list_type, key[1], strict=True))
    return Item(keys, (before, after))
