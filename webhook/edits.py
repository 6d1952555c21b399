"""Changes of an object as a person writes them: ``spec.replicas=3``, ``spec.containers[name=web].image``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec

from webhook.errors import SettingsError
from webhook.fieldpath import Index
from webhook.globs import Glob
from webhook.patterns import KeyMatch, parse_pattern

Element = str | KeyMatch


class _Other:
    """Any other value than the one that is there."""


OTHER: Final = _Other()
#: Kinds whose data are strings, whatever they look like.
_OF_STRINGS: Final = frozenset({"ConfigMap", "Secret"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """``value`` for the place ``path``: as it was typed, None to take the field away, OTHER for any other value."""

    path: str
    elements: tuple[Element, ...]
    value: str | _Other | None


def parse_field(text: str) -> Edit:
    """A field that is to be changed to whatever else.

    Raises:
        SettingsError: it is no path of one field.
    """
    return Edit(path=text, elements=_elements(text), value=OTHER)


def parse_set(text: str) -> Edit:
    """``PATH=VALUE``; ``null`` takes the field away.

    Raises:
        SettingsError: there is no ``=``, or before it no path of one field.
    """
    depth, quote = 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]":
            depth += 1 if character == "[" else -1
        elif character == "=" and depth == 0:
            path, value = text[:position], text[position + 1 :]
            return Edit(path=path, elements=_elements(path), value=None if value == "null" else value)
    raise SettingsError(f"--set: {text!r} is not PATH=VALUE, such as spec.replicas=3")


def applied(obj: dict[str, Any], edits: Iterable[Edit]) -> dict[str, Any]:
    """A copy of ``obj`` with the changes in it.

    Raises:
        SettingsError: a path leads through what is neither a map nor a list of maps.
    """
    changed = copy.deepcopy(obj)
    for edit in edits:
        _apply(changed, edit)
    return changed


def _elements(text: str) -> tuple[Element, ...]:
    try:
        pattern = parse_pattern(text)
    except ValueError as error:
        raise SettingsError(f"no path of a field: {error}") from None
    elements: list[Element] = []
    for element in pattern:
        exact = isinstance(element, KeyMatch) and not any(isinstance(value, Glob) for _, value in element.keys)
        if not isinstance(element, str | KeyMatch) or (isinstance(element, KeyMatch) and not exact):
            raise SettingsError(f"{text!r} has a wildcard; name one field")
        elements.append(element)
    return tuple(elements)


def _apply(obj: dict[str, Any], edit: Edit) -> None:
    if obj.get("kind") == "Secret" and edit.elements[0] == "stringData":
        raise SettingsError("a Secret is stored without stringData; write data.KEY")
    last = edit.elements[-1]
    parent: Any = obj
    for element, following in pairwise(edit.elements):
        parent = _into(parent, element, following, edit)
    there = _at(parent, last, edit)
    if edit.value is None or (edit.value is OTHER and isinstance(there, dict | list)):
        _remove(parent, last, there)
        return
    value = _other(there) if isinstance(edit.value, _Other) else _typed(edit.value, there, _is_text(obj, edit))
    if isinstance(last, str):
        parent[last] = value
    elif there is None:
        parent.append(_new_item(last))
    else:
        raise SettingsError(f"{edit.path}: name a field of the item, such as {edit.path}.value")


def _into(parent: Any, element: Element, following: Element, edit: Edit) -> Any:
    """The map or list at ``element``, made for ``following`` if it is missing."""
    there = _at(parent, element, edit)
    if there is None and edit.value is not None:
        if isinstance(element, KeyMatch):
            parent.append(there := _new_item(element))
        else:
            there = parent[element] = [] if isinstance(following, KeyMatch) else {}
    return there


def _at(parent: Any, element: Element, edit: Edit) -> Any:
    if parent is None:
        return None
    if isinstance(element, str) and isinstance(parent, dict):
        return parent.get(element)
    if isinstance(element, KeyMatch) and isinstance(parent, list):
        found = (item for index, item in enumerate(parent) if element.matches(Index(index, (item,))))
        return next(found, None)
    raise SettingsError(f"{edit.path}: there is no such field in this object")


def _new_item(element: KeyMatch) -> dict[str, Any]:
    return {name: _decoded(str(value)) for name, value in element.keys}


def _remove(parent: Any, last: Element, there: Any) -> None:
    if there is None and not (isinstance(parent, dict) and last in parent):
        return
    if isinstance(last, str):
        del parent[last]
    else:
        parent.remove(there)


def _is_text(obj: dict[str, Any], edit: Edit) -> bool:
    """Whether Kubernetes knows nothing but strings there."""
    first = edit.elements[0]
    if first == "metadata" and len(edit.elements) > 2:
        return edit.elements[1] in ("labels", "annotations")
    return obj.get("kind") in _OF_STRINGS and first in ("data", "binaryData")


def _typed(text: str, there: Any, is_text: bool) -> Any:
    """What was typed, in the type of what is ``there``; else as JSON where it is JSON."""
    value = _decoded(text)
    if isinstance(value, str) or not (is_text or isinstance(there, str)):
        return value
    return text


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case _:
            return f"{value or ''}-changed"
