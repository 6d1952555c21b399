"""Places of an object that somebody holds, each a :class:`~webhook.selection.Position` to step along a path with.

Two forms: a fieldsV1 document of managedFields, and a JSON value, as the annotation last-applied-configuration has it.

The format of fieldsV1 is that of sigs.k8s.io/structured-merge-diff: ``f:name`` a field, ``k:{…}`` an item of a keyed
list, ``v:…`` a member of a set, ``.`` the container itself, ``{}`` a value owned whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.fieldpath import Element, Identity, Index, Item, Member, identity
from webhook.listkeys import KEY_DEFAULTS, parse_item_key

Fields = Mapping[str, Any]

# Ways in which the items of one list are told apart; there is one, unless somebody makes others up.
_MAX_INDEXES: Final = 4

_decode: Final = msgspec.json.Decoder().decode


class OwnedFields:
    """A position in a fieldsV1 document."""

    __slots__ = ("_children", "_indexes", "covers", "node", "owns_container")

    def __init__(self, node: Fields) -> None:
        self.node = node
        self._children: dict[str, OwnedFields] = {}
        self._indexes: dict[tuple[str, ...], dict[Identity, str]] = {}
        self.covers = not node
        self.owns_container = "." in node

    def step(self, element: Element) -> OwnedFields | None:
        """See :class:`webhook.selection.Position`."""
        if isinstance(element, str):
            return self._child("f:" + element)
        if isinstance(element, Item):
            return self._child(element.key) or self._item(element.keys)
        if isinstance(element, Member):
            return self._child(self._index(()).get(identity((element.value,)) or _NONE))
        # A list that is compared by position was keyed when it was declared: its items cannot be told apart.
        return _WHOLE

    def _item(self, keys: tuple[tuple[str, Any], ...]) -> OwnedFields | None:
        """The item by its keys, however the document writes them."""
        index = self._index(tuple([name for name, _ in keys]))
        # An item that is not found by these keys may be there by the others.
        found = self._child(index.get(identity([value for _, value in keys]) or _NONE))
        return found or (_WHOLE if _OTHER_KEYS in index else None)

    def _child(self, key: str | None) -> OwnedFields | None:
        if key is None:
            return None
        child = self._children.get(key)
        if child is None and isinstance(node := self.node.get(key), dict):
            child = self._children[key] = OwnedFields(node)
        return child

    def _index(self, names: tuple[str, ...]) -> dict[Identity, str]:
        """The keys of the items, known by the fields ``names``, or of a set's members, by what they stand for."""
        index = self._indexes.get(names)
        if index is None:
            index = {}
            for key in self.node:
                if (found := _item_identity(key, names) if names else _member_identity(key)) is not None:
                    index.setdefault(found, key)
            if len(self._indexes) < _MAX_INDEXES:
                self._indexes[names] = index
        return index


_WHOLE: Final = OwnedFields({})
#: Stands in an index for items that are known by other fields than those asked for.
_OTHER_KEYS: Final[Identity] = ((), ())
#: Of an element whose keys are no scalars; no key of fieldsV1 has it.
_NONE: Final[Identity] = ((), (None,))


def _item_identity(key: str, names: tuple[str, ...]) -> Identity | None:
    if not key.startswith("k:"):
        return None
    fields = {name: KEY_DEFAULTS[name] for name in names if name in KEY_DEFAULTS} | parse_item_key(key)
    return identity([fields[name] for name in names]) if fields.keys() == set(names) else _OTHER_KEYS


def _member_identity(key: str) -> Identity | None:
    element = element_of(key)
    return identity((element.value,)) if isinstance(element, Member) else None


class HeldValue:
    """A position in a JSON value: what it holds is in the set, down to its scalars."""

    __slots__ = ("_children", "_indexes", "covers", "value")

    owns_container = True

    def __init__(self, value: Any) -> None:
        self.value = value
        self._children: dict[str, HeldValue] = {}
        self._indexes: dict[tuple[str, ...], dict[Identity, HeldValue]] = {}
        self.covers = not (meta.is_map(value) or isinstance(value, list)) or not value

    def step(self, element: Element) -> HeldValue | None:
        """See :class:`webhook.selection.Position`."""
        value = self.value
        match element:
            case str():
                child = self._children.get(element)
                if child is None and meta.is_map(value) and element in value:
                    child = self._children[element] = HeldValue(value[element])
                return child
            case Member(member):
                return self._find((), (member,))
            case Item(keys):
                names, values = tuple([name for name, _ in keys]), [value for _, value in keys]
                return self._find(names, values) or self._incomplete(keys)
            case Index():
                return HeldValue(None)

    def _items(self) -> list[Any]:
        return self.value if isinstance(self.value, list) else []

    def _find(self, names: tuple[str, ...], values: Sequence[Any]) -> HeldValue | None:
        """The item whose fields ``names`` have these values, or the member of a set, without ``names``."""
        wanted = identity(values)
        if wanted is None:
            return None
        index = self._indexes.get(names)
        if index is None:
            index = {}
            for item in self._items():
                if not names:
                    found = identity((item,))
                elif isinstance(item, dict):
                    found = identity([item.get(name, KEY_DEFAULTS.get(name)) for name in names])
                else:
                    continue
                if found is not None and found not in index:
                    index[found] = HeldValue(item if names else None)
            self._indexes[names] = index
        return index.get(wanted)

    def _incomplete(self, keys: tuple[tuple[str, Any], ...]) -> HeldValue | None:
        """The item that lacks key fields, since the server fills them in, and has the others."""
        for item in self._items():
            if not isinstance(item, dict) or not any(name in item for name, _ in keys):
                continue
            if all(repr(item.get(name, KEY_DEFAULTS.get(name, want))) == repr(want) for name, want in keys):
                return HeldValue(item)
        return None


def element_of(key: str) -> Element | None:
    """The place that a key of a fieldsV1 document stands for; None for ``.`` and for what cannot be read."""
    if key.startswith("f:"):
        return key[2:]
    if key.startswith("k:") and (fields := parse_item_key(key)):
        return Item(tuple(fields.items()))
    if key.startswith("v:"):
        try:
            return Member(_decode(key[2:]))
        except (msgspec.DecodeError, RecursionError):
            return None
    return None
