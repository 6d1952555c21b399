"""A review made of manifests: what the API server would send if somebody wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.admission import GroupVersionKind, GroupVersionResource, Parts, Review, UserInfo, assemble
from webhook.identity import service_account
from webhook.listkeys import ATOMIC, KEY_DEFAULTS, SET, Schema
from webhook.states import NULL
from webhook.subject import plural
from webhook.tools import Marker, claims

Object = Mapping[str, Any]

# What the API server writes itself, which nobody declares.
_SERVER: Final = frozenset(
    {"name", "namespace", "generateName", "managedFields", "uid", "resourceVersion", "generation"}
)
_NOT_DECLARED: Final = frozenset({"apiVersion", "kind", "metadata", "status"})


def review_of(
    write: Object, *, old: Object | None, new: Object | None, of: Object | None, markers: Iterable[Marker]
) -> Review:
    """The review of a ``write`` as a case gives it: ``user``, ``operation``, ``resource``, ``subresource``, ``dryRun``.

    An ``old`` without managedFields counts as declared by the tool among ``markers`` that it bears. ``of`` is what a
    subresource belongs to.

    Raises ValueError where old and new are not the same object, or the operation does not fit them.
    """
    place = of or old or new
    thing = new or old
    if place is None:
        raise ValueError("writes no object: give old, new or of")
    subresource = write.get("subresource", "")
    operation = write.get("operation") or _operation(old, new, subresource)
    _check(operation, old, new, subresource)
    if old is not None and new is not None and of is None and _identity(old) != _identity(new):
        raise ValueError("old and new are not the same object: apiVersion, kind, namespace and name must be")
    if old is not None:
        old = as_declared(old, markers)
    if new is not None and old is not None and not meta.metadata_of(new).get("managedFields"):
        new = {
            **new,
            "metadata": {**meta.metadata_of(new), "managedFields": meta.metadata_of(old).get("managedFields")},
        }
    group, version = meta.group_version(place.get("apiVersion"))
    kind_group, kind_version = meta.group_version((thing or {}).get("apiVersion"))
    kind, name = str(place["kind"]), str(meta.metadata_of(place).get("name", ""))
    resource = write.get("resource") or plural(kind)
    is_namespace = (group, resource) == ("", "namespaces")
    return assemble(
        Parts(
            uid="driftwall-test",
            kind=GroupVersionKind(group=kind_group, version=kind_version, kind=str((thing or {}).get("kind", ""))),
            resource=GroupVersionResource(group=group, version=version, resource=resource),
            operation=operation,
            user=_user(write["user"]),
            subresource=subresource,
            # The review of a Namespace bears its own name there.
            namespace=name if is_namespace else str(meta.metadata_of(place).get("namespace", "")),
            name=name,
            old=NULL if old is None else msgspec.json.encode(old),
            new=NULL if new is None else msgspec.json.encode(new),
            dry_run=write.get("dryRun", False),
        ),
        Review,
    )


def _operation(old: Object | None, new: Object | None, subresource: str) -> str:
    if old is None:
        return "CREATE" if new is not None or subresource else "CONNECT"
    return "UPDATE" if new is not None else "DELETE"


def _check(operation: str, old: Object | None, new: Object | None, subresource: str) -> None:
    needed = {"UPDATE": "old and new", "DELETE": "old"}.get(operation, "")
    needed = "new" if operation == "CREATE" and not subresource else needed
    given = {"old": old, "new": new}
    if missing := [side for side in given if side in needed and given[side] is None]:
        raise ValueError(f"{operation} needs {needed}; {' and '.join(missing)} is missing")


def _identity(obj: Object) -> tuple[Any, ...]:
    metadata = meta.metadata_of(obj)
    return (obj.get("apiVersion"), obj.get("kind"), metadata.get("namespace"), metadata.get("name"))


def _user(said: str | Object) -> UserInfo:
    """UserInfo as the API server knows it; what a mapping leaves out is not there."""
    if not isinstance(said, str):
        return msgspec.convert(said, UserInfo)
    groups = ["system:authenticated"]
    if (account := service_account(said)) is not None:
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}", *groups]
    return UserInfo(username=said, uid=f"uid-of-{said}", groups=tuple(groups))


def as_declared(obj: Object, markers: Iterable[Marker]) -> Object:
    """``obj`` as if the tool that manages it had applied all that it says; as it is with managedFields, or no tool."""
    found = claims(obj, markers)
    if not found or meta.metadata_of(obj).get("managedFields"):
        return obj
    group = meta.group_version(obj.get("apiVersion"))[0]
    schema = Schema.of(group, str(obj.get("kind", "")))
    metadata = meta.metadata_of(obj)
    declared = {key: value for key, value in obj.items() if key not in _NOT_DECLARED}
    declared["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER}
    entry = {
        "manager": found[0].marker.managers[0],
        "operation": "Apply",
        "apiVersion": obj.get("apiVersion"),
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields(declared, schema),
    }
    return {**obj, "metadata": {**metadata, "managedFields": [entry]}}


def _fields(value: Object, schema: Schema) -> dict[str, Any]:
    return {f"f:{name}": _owned(child, schema.field(name)) for name, child in value.items()}


def _owned(value: Any, schema: Schema) -> dict[str, Any]:
    """The fieldsV1 of a value of which somebody owns all."""
    if isinstance(value, dict):
        return _fields(value, schema)
    if not isinstance(value, list) or (list_type := schema.list_type()) == ATOMIC:
        return {}
    if list_type == SET:
        return {f"v:{msgspec.json.encode(item).decode()}": {} for item in value}
    return {f"k:{_key(item, list_type)}": {".": {}, **_owned(item, schema.item())} for item in value}


def _key(item: Any, keys: Sequence[str]) -> str:
    fields = meta.mapping(item)
    return msgspec.json.encode({key: fields.get(key, KEY_DEFAULTS.get(key)) for key in keys}).decode()
