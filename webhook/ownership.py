"""Which fields of an object its GitOps tool declared.

Three sources, each a :class:`~webhook.diff.Position` to step along a path with: the tool's entries in managedFields,
the annotation last-applied-configuration, and Config Sync's annotation declared-fields.

The format of fieldsV1 is that of sigs.k8s.io/structured-merge-diff: ``f:name`` a field, ``k:{…}`` an item of a keyed
list, ``v:…`` a member of a set, ``.`` the container itself, ``{}`` a value owned whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from webhook.diff import Position, Union
from webhook.fieldpath import Element, Index, Item, Member, Path
from webhook.globs import Globs
from webhook.listkeys import KEY_DEFAULTS, parse_item_key
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED

Fields = Mapping[str, Any]


class OwnedFields:
    """A position in a fieldsV1 document."""

    __slots__ = ("_node", "covers", "owns_container")

    def __init__(self, node: Fields) -> None:
        self._node = node
        self.covers = not node
        self.owns_container = "." in node

    def step(self, element: Element) -> Position | None:
        """See :class:`webhook.diff.Position`."""
        node = _child(self._node, element)
        return None if node is None else OwnedFields(node)


def _child(node: Fields, element: Element) -> Fields | None:
    found: Any = None
    match element:
        case str():
            found = node.get("f:" + element)
        case Member(value):
            found = next((child for key, child in node.items() if key.startswith("v:") and _same(key, value)), None)
        case Item(keys):
            wanted = repr(dict(keys))
            found = next(
                (child for key, child in node.items() if key.startswith("k:") and _key(key, keys) == wanted), None
            )
        case Index():
            # A list that is compared by position here was keyed when it was declared: its items cannot be told apart.
            found = {}
    return found if isinstance(found, dict) else None


def _same(key: str, value: Any) -> bool:
    try:
        return repr(msgspec.json.decode(key[2:])) == repr(value)
    except (msgspec.DecodeError, RecursionError):
        return False


def _key(key: str, like: tuple[tuple[str, Any], ...]) -> str:
    fields = parse_item_key(key)
    return repr({name: fields.pop(name, KEY_DEFAULTS.get(name)) for name, _ in like} | fields)


class AppliedValue:
    """A position in the document of last-applied-configuration: what it holds is declared, down to its scalars."""

    __slots__ = ("_value", "covers")

    owns_container = True

    def __init__(self, value: Any) -> None:
        self._value = value
        self.covers = not isinstance(value, dict | list) or not value

    def step(self, element: Element) -> Position | None:
        """See :class:`webhook.diff.Position`."""
        value = self._value
        match element:
            case str():
                return AppliedValue(value[element]) if isinstance(value, dict) and element in value else None
            case Member(member):
                held = isinstance(value, list) and any(repr(item) == repr(member) for item in value)
                return AppliedValue(None) if held else None
            case Item(keys):
                if isinstance(value, list):
                    for item in value:
                        if isinstance(item, dict) and all(
                            repr(item.get(name, KEY_DEFAULTS.get(name))) == repr(want) for name, want in keys
                        ):
                            return AppliedValue(item)
                return None
            case Index():
                return AppliedValue(None)


def managed_fields(obj: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The entries of metadata.managedFields that bring fields."""
    metadata = (obj or {}).get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("fieldsV1"), dict):
            yield entry


def field_documents(objects: Iterable[Mapping[str, Any] | None], managers: Globs) -> list[Fields]:
    """All fieldsV1 documents of ``objects``, those of ``managers`` first: the order in which list keys are believed."""
    entries = [entry for obj in objects for entry in managed_fields(obj)]
    entries.sort(key=lambda entry: not managers.matches(str(entry.get("manager", ""))))
    return [entry["fieldsV1"] for entry in entries]


def owned(obj: Mapping[str, Any], managers: Globs) -> list[Fields]:
    """The fieldsV1 documents of ``obj`` that tell what ``managers`` declared.

    An ``Update`` entry that also owns last-applied-configuration is a client-side apply: it holds the server's
    defaults too, and the annotation says what was declared.
    """
    is_secret = obj.get("kind") == "Secret" and obj.get("apiVersion") == "v1"
    documents = []
    for entry in managed_fields(obj):
        if not managers.matches(str(entry.get("manager", ""))) or entry.get("subresource"):
            continue
        fields = entry["fieldsV1"]
        if entry.get("operation") != "Apply" and _owns_last_applied(fields):
            continue
        if is_secret:
            fields = _string_data(fields)
        if entry.get("apiVersion") != obj.get("apiVersion"):
            fields = _widened(fields, obj)
        documents.append(fields)
    return documents


def declared(obj: Mapping[str, Any], managers: Globs, *, config_sync: bool = False) -> Position | None:
    """The fields of ``obj`` that were declared, from all sources; None if there are none.

    ``config_sync`` takes in the annotation declared-fields, which counts on an object of Config Sync alone.
    """
    positions: list[Position] = [OwnedFields(fields) for fields in owned(obj, managers) if fields]
    if (applied := _last_applied(obj, managers)) is not None:
        positions.append(AppliedValue(applied))
    if config_sync and (fields := _annotated(obj, DECLARED_FIELDS)):
        positions.append(OwnedFields(fields))
    return Union(positions) if positions else None


def disowned(old: Mapping[str, Any], new: Mapping[str, Any], managers: Globs, changed: Iterable[Path]) -> bool:
    """Whether ``new`` takes the ownership of a declared field away without changing the field itself.

    A changed field moves to its writer's entry; that is no more than the change. Ownership that vanishes from an
    unchanged field is an attempt on the source of what is declared.
    """
    before, after = owned(old, managers), owned(new, managers)
    if not before:
        return False
    kept = [OwnedFields(fields) for fields in after]
    moved = [tuple(_identity(element) for element in path) for path in changed]
    return any(_lost(fields, kept, old, (), moved) for fields in before)


def _identity(element: Element) -> str:
    return repr(element)


def _lost(
    node: Fields,
    kept: list[OwnedFields],
    value: Any,
    path: tuple[str, ...],
    moved: list[tuple[str, ...]],
) -> bool:
    if any(path[: len(place)] == place for place in moved):
        return False
    if not node:
        return not any(k.covers for k in kept) and not any(place[: len(path)] == path for place in moved)
    if any(k.covers for k in kept):
        return False
    for key, child in node.items():
        element = _element(key)
        if element is None or not isinstance(child, dict):
            continue
        present, inner = _value_at(value, element)
        if not present:
            continue
        further = [k.step(element) for k in kept]
        if _lost(
            child,
            [k for k in further if isinstance(k, OwnedFields)],
            inner,
            (*path, _identity(element)),
            moved,
        ):
            return True
    return False


def _element(key: str) -> Element | None:
    if key.startswith("f:"):
        return key[2:]
    if key.startswith("k:") and (fields := parse_item_key(key)):
        return Item(tuple(fields.items()))
    if key.startswith("v:"):
        try:
            return Member(msgspec.json.decode(key[2:]))
        except (msgspec.DecodeError, RecursionError):
            return None
    return None


def _value_at(value: Any, element: Element) -> tuple[bool, Any]:
    match element:
        case str():
            return (True, value[element]) if isinstance(value, dict) and element in value else (False, None)
        case Item(keys) if isinstance(value, list):
            for item in value:
                if isinstance(item, dict) and all(
                    repr(item.get(name, KEY_DEFAULTS.get(name))) == repr(want) for name, want in keys
                ):
                    return True, item
        case Member(member) if isinstance(value, list):
            return any(repr(item) == repr(member) for item in value), member
    return False, None


def _owns_last_applied(fields: Fields) -> bool:
    metadata = fields.get("f:metadata")
    annotations = metadata.get("f:annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and f"f:{LAST_APPLIED}" in annotations


def _last_applied(obj: Mapping[str, Any], managers: Globs) -> Fields | None:
    applied = _annotated(obj, LAST_APPLIED)
    if applied is None:
        return None
    owners = [str(e.get("manager", "")) for e in managed_fields(obj) if _owns_last_applied(e["fieldsV1"])]
    # Left behind by a person's kubectl apply: it tells what that person declared, not what the tool did.
    if owners and not any(managers.matches(owner) for owner in owners):
        return None
    if obj.get("kind") == "Secret" and isinstance(applied.get("stringData"), dict):
        data = applied.get("data")
        applied = {**applied, "data": {**(data if isinstance(data, dict) else {}), **applied["stringData"]}}
    # kubectl writes `annotations: {}` where a manifest has none: that declares nothing.
    metadata = applied.get("metadata")
    declared_metadata = (
        {key: value for key, value in metadata.items() if value != {}} if isinstance(metadata, dict) else {}
    )
    return {**applied, "metadata": declared_metadata}


def _annotated(obj: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    text = annotations.get(key) if isinstance(annotations, dict) else None
    if not isinstance(text, str):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _string_data(fields: Fields) -> Fields:
    """A Secret's ``stringData`` becomes ``data`` when it is stored; what was declared there is declared here."""
    strings = fields.get("f:stringData")
    if not isinstance(strings, dict):
        return fields
    data = fields.get("f:data")
    return {**fields, "f:data": {**data, **strings} if isinstance(data, dict) else strings}


def _widened(fields: Fields, obj: Any) -> Fields:
    """``fields`` of another API version of ``obj``, as far as they can be found in this one.

    A declared field that this version of the object does not have goes by another name here. Which one cannot be
    told without the schema, so its parent counts as declared whole. Metadata is the same in all versions.
    """
    return {key: child if key == "f:metadata" else _widen(key, child, obj) for key, child in fields.items()}


def _widen(key: str, node: Any, parent: Any) -> Fields:
    element = _element(key)
    if element is None or not isinstance(node, dict) or not node:
        return node if isinstance(node, dict) else {}
    _, value = _value_at(parent, element)
    for inner_key in node:
        inner = _element(inner_key)
        if inner is not None and not _value_at(value, inner)[0]:
            return {}
    return {inner_key: _widen(inner_key, child, value) for inner_key, child in node.items()}
