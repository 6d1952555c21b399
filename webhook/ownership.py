"""Which fields of an object its GitOps tool declared.

Three sources, each a :class:`~webhook.selection.Position` to step along a path with: the tool's entries in
managedFields, the annotation last-applied-configuration, and Config Sync's annotation declared-fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.globs import Globs
from webhook.lazyjson import Entry, LazyMetadata, decoded
from webhook.positions import Fields, HeldValue, OwnedFields, element_of
from webhook.selection import Position, union
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED

# fieldsV1 documents that are kept decoded: both webhooks are shown one and the same for each write, and so is every
# write to an object until its tool applies it anew. Those of real objects have hundreds of bytes, and take ten times as
# much decoded.
_KEPT: Final = 128
_KEPT_BYTES: Final = 4096


def document(entry: Entry) -> OwnedFields:
    """The fieldsV1 document of an entry as a position."""
    kept = entry.__dict__
    found: OwnedFields | None = kept.get("document")
    if found is None:
        raw = bytes(entry.raw)
        found = kept["document"] = _kept_document(raw) if len(raw) <= _KEPT_BYTES else _document(raw)
    return found


def _document(raw: bytes) -> OwnedFields:
    return OwnedFields(decoded(msgspec.Raw(raw)))


_kept_document: Final = lru_cache(maxsize=_KEPT)(_document)

_decode: Final = msgspec.json.Decoder().decode


def entries(obj: Mapping[str, Any] | None) -> Sequence[Entry]:
    """All of metadata.managedFields; empty if there are none."""
    metadata = meta.metadata_of(obj)
    if type(metadata) is LazyMetadata:
        return metadata.entries
    # Such as no API server sends, or of an object that was looked up.
    return [_entry(value) for value in meta.managed_entries(obj)]


def _entry(value: Mapping[str, Any]) -> Entry:
    texts = (value.get(key) for key in ("manager", "operation", "apiVersion", "subresource"))
    manager, operation, api_version, subresource = (None if text is None else str(text) for text in texts)
    raw = msgspec.Raw(msgspec.json.encode(value.get("fieldsV1")))
    return Entry(manager=manager, operation=operation, api_version=api_version, subresource=subresource, raw=raw)


def managed_fields(obj: Mapping[str, Any] | None) -> list[Entry]:
    """The entries of metadata.managedFields that bring fields."""
    return [entry for entry in entries(obj) if entry.has_fields]


def field_documents(objects: Iterable[Mapping[str, Any] | None], managers: Globs) -> tuple[list[Fields], list[Fields]]:
    """All fieldsV1 documents of ``objects``: those of ``managers``, who are believed first, and those of others."""
    tiers: tuple[list[Fields], list[Fields]] = ([], [])
    for obj in objects:
        for entry in managed_fields(obj):
            tier = tiers[0 if managers.matches(entry.manager or "") else 1]
            if (fields := document(entry).node) not in tier:
                tier.append(fields)
    return tiers


def owned(obj: Mapping[str, Any], managers: Globs) -> list[Fields]:
    """The fieldsV1 documents of ``obj`` that tell what ``managers`` declared.

    An ``Update`` entry that also owns last-applied-configuration is a client-side apply: it holds the server's
    defaults too, and the annotation says what was declared.
    """
    return [found.node for found in _declaring(obj, managers)]


def _declaring(obj: Mapping[str, Any], managers: Globs) -> list[OwnedFields]:
    return [
        as_called(entry, obj)
        for entry in own_entries(obj, managers)
        if entry.operation == "Apply" or not owns_last_applied(document(entry).node)
    ]


def own_entries(obj: Mapping[str, Any], managers: Globs) -> list[Entry]:
    """The entries of ``managers`` in the object's managedFields, but for those of its subresources."""
    metadata = meta.metadata_of(obj)
    if type(metadata) is not LazyMetadata:
        return _own(entries(obj), managers)
    own = metadata.own.get(managers.patterns)
    if own is None:
        own = metadata.own[managers.patterns] = _own(metadata.entries, managers)
    return own


def _own(every: Iterable[Entry], managers: Globs) -> list[Entry]:
    return [e for e in every if not e.subresource and managers.matches(e.manager or "") and e.has_fields]


def as_called(entry: Entry, obj: Mapping[str, Any]) -> OwnedFields:
    """The fields of an entry as they are called in ``obj``."""
    found, version = document(entry), obj.get("apiVersion")
    fields = found.node
    if version == "v1" and obj.get("kind") == "Secret":
        fields = _string_data(fields)
    if entry.api_version != version:
        fields = _widened(fields, obj)
    return found if fields is found.node else OwnedFields(fields)


def declared(obj: Mapping[str, Any], managers: Globs, *, config_sync: bool = False) -> Position | None:
    """The fields of ``obj`` that were declared, from all sources; None if there are none.

    ``config_sync`` takes in the annotation declared-fields, which counts on an object of Config Sync alone.
    """
    positions: list[Position] = [found for found in _declaring(obj, managers) if found.node]
    if (applied := last_applied(obj, managers)) is not None:
        positions.append(HeldValue(applied))
    if config_sync and (fields := _annotated(obj, DECLARED_FIELDS)):
        positions.append(OwnedFields(fields))
    return union(positions) if positions else None


def made_by_controller(obj: Mapping[str, Any]) -> Position:
    """The fields of an object that the controller which made it has written: who wrote its ownerReferences.

    Without a record of that, all of it.
    """
    made = [OwnedFields(fields) for fields in owning(obj)]
    return union(made) if made else OwnedFields({})


def owning(obj: Mapping[str, Any]) -> list[Fields]:
    """The fieldsV1 documents that hold the ownerReferences of ``obj``."""
    return [
        fields
        for entry in managed_fields(obj)
        if isinstance(metadata := (fields := document(entry).node).get("f:metadata"), dict)
        and "f:ownerReferences" in metadata
    ]


def owns_last_applied(fields: Fields) -> bool:
    """Whether the fieldsV1 document has last-applied-configuration: its manager applies from the client's side."""
    metadata = fields.get("f:metadata")
    annotations = metadata.get("f:annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and f"f:{LAST_APPLIED}" in annotations


def last_applied(obj: Mapping[str, Any], managers: Globs) -> Fields | None:
    """What ``managers`` applied from the client's side, by last-applied-configuration; None if they did not."""
    applied = _annotated(obj, LAST_APPLIED)
    if applied is None:
        return None
    owners = [entry for entry in managed_fields(obj) if owns_last_applied(document(entry).node)]
    # Left behind by a person's kubectl apply: it tells what that person declared, not what the tool did.
    if owners and not any(managers.matches(entry.manager or "") for entry in owners):
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
    text = meta.annotations_of(obj).get(key)
    if not isinstance(text, str):
        return None
    try:
        value = _decode(text)
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
    held = HeldValue(obj)
    return {key: child if key == "f:metadata" else _widen(key, child, held) for key, child in fields.items()}


def _widen(key: str, node: Any, parent: HeldValue) -> Fields:
    element = element_of(key)
    if element is None or not isinstance(node, dict) or not node:
        return node if isinstance(node, dict) else {}
    value = parent.step(element)
    for inner_key in node:
        inner = element_of(inner_key)
        if inner is not None and (value is None or value.step(inner) is None):
            return {}
    return {} if value is None else {inner_key: _widen(inner_key, child, value) for inner_key, child in node.items()}
