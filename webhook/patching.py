"""What a patch makes of an object, as the API server does it, for requests of which nothing but the patch is known.

JSON patch is RFC 6902 and merge patch RFC 7386. Strategic merge patch is Kubernetes's own, as described in
https://git.k8s.io/community/contributors/devel/sig-api-machinery/strategic-merge-patch.md; its keys of lists are taken
from where :mod:`webhook.listkeys` knows them, so that both it and an apply patch merge as the diff compares.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from webhook.listkeys import ATOMIC, KEY_DEFAULTS, SET, Schema

_DIRECTIVE: Final = "$patch"
_RETAIN: Final = "$retainKeys"
_ORDER: Final = "$setElementOrder/"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"


class PatchError(ValueError):
    """The patch does not apply to this object."""


def json_patch(obj: Mapping[str, Any], operations: Sequence[Any]) -> dict[str, Any]:
    """``obj`` after a JSON patch. Raises PatchError where an operation does not apply."""
    holder: dict[str, Any] = {"": copy.deepcopy(dict(obj))}
    for operation in operations:
        if not isinstance(operation, dict):
            raise PatchError("an operation that is no object")
        path = operation.get("path")
        match operation.get("op"):
            case "add":
                _put(holder, path, copy.deepcopy(operation.get("value")))
            case "replace":
                _take(holder, path)
                _put(holder, path, copy.deepcopy(operation.get("value")))
            case "remove":
                _take(holder, path)
            case "move":
                _put(holder, path, _take(holder, operation.get("from")))
            case "copy":
                _put(holder, path, copy.deepcopy(_get(holder, operation.get("from"))))
            case "test":
                if _get(holder, path) != operation.get("value"):
                    raise PatchError("a test that fails")
            case _:
                raise PatchError("an operation that RFC 6902 does not have")
    return _object(holder.get(""))


def merge_patch(obj: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``obj`` after a JSON merge patch: maps are merged, null removes, anything else replaces."""
    merged = dict(obj)
    for name, value in patch.items():
        there = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = merge_patch(there if isinstance(there, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def strategic_merge(obj: Mapping[str, Any], patch: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """``obj`` after a strategic merge patch, or an apply patch of somebody who owned nothing of it.

    ``schema`` tells how lists are keyed. Raises PatchError for a directive that Kubernetes does not have.
    """
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {name: value for name, value in patch.items() if not name.startswith("$")}
    if directive not in (None, "merge"):
        raise PatchError(f"the directive {directive!r} in a map")
    merged = dict(obj)
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            field = name.removeprefix(_DELETE_FROM)
            there = merged.get(field)
            merged[field] = [item for item in there if item not in value] if isinstance(there, list) else []
        elif name in (_DIRECTIVE, _RETAIN) or name.startswith(_ORDER):
            continue  # the order of keyed items means nothing to a diff
        elif value is None:
            merged.pop(name, None)
        else:
            inner = _merged(merged.get(name), value, schema.field(name))
            if inner is None:
                merged.pop(name, None)
            else:
                merged[name] = inner
    if isinstance(retained := patch.get(_RETAIN), list):
        merged = {name: value for name, value in merged.items() if name in retained}
    return merged


def _merged(there: Any, value: Any, schema: Schema) -> Any:
    if isinstance(value, dict):
        if value.get(_DIRECTIVE) == "delete":
            return None
        return strategic_merge(there if isinstance(there, dict) else {}, value, schema)
    if isinstance(value, list):
        return _merged_list(there if isinstance(there, list) else [], value, schema)
    return value


def _merged_list(there: list[Any], value: list[Any], schema: Schema) -> list[Any]:
    list_type = schema.list_type()
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in value):
        return [item for item in value if not (isinstance(item, dict) and item.get(_DIRECTIVE) == "replace")]
    if list_type == ATOMIC:
        return value
    if list_type == SET:
        return [*there, *(item for item in value if item not in there)]
    merged = list(there)
    for item in value:
        if not isinstance(item, dict):
            raise PatchError("an item of a keyed list that is no object")
        key = _key(item, list_type)
        at = next(
            (i for i, other in enumerate(merged) if isinstance(other, dict) and _key(other, list_type) == key), -1
        )
        if item.get(_DIRECTIVE) == "delete":
            if at >= 0:
                del merged[at]
        elif at >= 0:
            merged[at] = strategic_merge(merged[at], item, schema.item())
        else:
            merged.append(strategic_merge({}, item, schema.item()))
    return merged


def _key(item: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    return [item.get(key, KEY_DEFAULTS.get(key)) for key in keys]


# ── JSON pointers (RFC 6901) ─────────────────────────────────────────────────────────────────────────────────────────


def _steps(path: Any) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise PatchError("a path that is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _index(step: str, *, end: int) -> int:
    if not (step.isascii() and step.isdigit()) or int(step) > end:
        raise PatchError("a place that is not there")
    return int(step)


def _down(place: Any, step: str) -> Any:
    if isinstance(place, list):
        return place[_index(step, end=len(place) - 1)]
    if isinstance(place, dict) and step in place:
        return place[step]
    raise PatchError("a place that is not there")


def _get(holder: dict[str, Any], path: Any) -> Any:
    place: Any = holder
    for step in _steps(path):
        place = _down(place, step)
    return place


def _take(holder: dict[str, Any], path: Any) -> Any:
    *parents, last = _steps(path)
    place: Any = holder
    for step in parents:
        place = _down(place, step)
    taken = _down(place, last)
    del place[int(last) if isinstance(place, list) else last]
    return taken


def _put(holder: dict[str, Any], path: Any, value: Any) -> None:
    *parents, last = _steps(path)
    place: Any = holder
    for step in parents:
        place = _down(place, step)
    if isinstance(place, list):
        place.insert(len(place) if last == "-" else _index(last, end=len(place)), value)
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise PatchError("a place that is not there")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PatchError("what is left is no object")
    return value
