"""An object's metadata, read without trusting its shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from webhook.lazyjson import LAZY, LazyObject

Object = Mapping[str, Any]

_EMPTY: Final[Mapping[str, Any]] = {}


def is_map(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether ``value`` is a map of an object, be it decoded or not."""
    return isinstance(value, dict) or type(value) in LAZY


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a map, else an empty one."""
    return value if is_map(value) else _EMPTY


def metadata_of(obj: Object | None) -> Mapping[str, Any]:
    """``metadata``; empty for no object."""
    if obj is None:
        return _EMPTY
    if type(obj) is LazyObject and obj.metadata is not None:
        return obj.metadata
    return mapping(obj.get("metadata"))


def labels_of(obj: Object | None) -> Mapping[str, Any]:
    """``metadata.labels``."""
    value = metadata_of(obj).get("labels")
    return value if isinstance(value, dict) else _EMPTY


def annotations_of(obj: Object | None) -> Mapping[str, Any]:
    """``metadata.annotations``."""
    value = metadata_of(obj).get("annotations")
    return value if isinstance(value, dict) else _EMPTY


def managed_entries(obj: Object | None) -> Iterator[Mapping[str, Any]]:
    """The entries of ``metadata.managedFields``."""
    entries = metadata_of(obj).get("managedFields")
    return (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, dict))


def controller_of(obj: Object | None) -> Mapping[str, Any] | None:
    """The entry of ``metadata.ownerReferences`` that has ``controller: true``, or None."""
    owners = metadata_of(obj).get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        if isinstance(owner, dict) and owner.get("controller") is True:
            return owner
    return None


def group_version(api_version: Any) -> tuple[str, str]:
    """Group and version of an ``apiVersion``: ``("apps", "v1")``, ``("", "v1")``."""
    group, slash, version = str(api_version or "").partition("/")
    return (group, version) if slash else ("", group)
