"""States of objects as they are kept, in JSON: what is read of them without decoding the whole, and what is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from webhook import breakglass, meta, tags
from webhook.subject import with_value

#: No object at all; of one that was deleted this is all that is left.
NULL: Final = b"null"


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What tells one version of an object from another."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""


class Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What an object is."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()


_object = msgspec.json.Decoder(Object)
NOTHING: Final = Object()


def read_state(state: bytes) -> Object:
    """Kind and metadata of an object; nothing of what is none."""
    if state == NULL:
        return NOTHING
    try:
        return _object.decode(state)
    except (msgspec.DecodeError, RecursionError):
        return NOTHING


def unmarked(before: bytes, answer: bytes) -> bytes:
    """``answer`` without what driftwall's own mutating webhook put on it: under other policies it might not have."""
    old, new = msgspec.json.decode(before) or {}, msgspec.json.decode(answer)
    for name, keys in (
        ("labels", (tags.LABEL,)),
        ("annotations", (tags.ANNOTATION, breakglass.BY, breakglass.EXPIRES)),
    ):
        was = meta.mapping(meta.metadata_of(old).get(name))
        there = {key: value for key, value in meta.mapping(meta.metadata_of(new).get(name)).items() if key not in keys}
        there |= {key: was[key] for key in keys if key in was}
        new["metadata"] = {key: value for key, value in new["metadata"].items() if key != name} | (
            {name: there} if there else {}
        )
    return msgspec.json.encode(new)


def scaled(parent: Mapping[str, Any], path: Sequence[str], number: Any, version: str) -> bytes:
    """``parent`` after a write through its scale: the number, and that nobody else owns it any more."""
    value: Any = parent
    for field in path:
        value = meta.mapping(value).get(field)
    metadata = {**meta.metadata_of(parent), "resourceVersion": version}
    if value != number:
        steps = [f"f:{field}" for field in path]
        metadata["managedFields"] = [
            {**entry, "fieldsV1": _disowned(meta.mapping(entry.get("fieldsV1")), steps)}
            for entry in meta.managed_entries(parent)
        ]
    return msgspec.json.encode(with_value({**parent, "metadata": metadata}, path, number))


def _disowned(fields: Mapping[str, Any], steps: Sequence[str]) -> dict[str, Any]:
    step, *rest = steps
    if step not in fields:
        return dict(fields)
    others = {key: child for key, child in fields.items() if key != step}
    inner = _disowned(meta.mapping(fields[step]), rest) if rest else {}
    return {**others, step: inner} if inner else others
