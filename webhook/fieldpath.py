"""Places inside an object.

A place (:data:`Path`) is a tuple of elements: a field name (``str``), an item of a keyed list (:class:`Item`), a
member of a set (:class:`Member`), or a position in an atomic list (:class:`Index`). Patterns that select places are in
:mod:`webhook.patterns`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from webhook.lazyjson import whole


class Item:
    """An item of a keyed list. ``values`` are the item's old and new value, for keys that are not the list's own.

    Items with the same keys are equal. No dataclass, since one is made for each item that a write changes.
    """

    __match_args__ = ("keys",)
    __slots__ = ("_key", "_values", "keys")

    def __init__(self, keys: tuple[tuple[str, Any], ...], values: tuple[Any, ...] = ()) -> None:
        self.keys = keys
        self._values = values
        self._key = ""

    @property
    def values(self) -> tuple[Any, ...]:
        """See the class. They are decoded only if somebody asks, and once."""
        self._values = tuple([whole(value) for value in self._values])
        return self._values

    @property
    def key(self) -> str:
        """What fieldsV1 calls it, as the API server writes that: ``k:{"name":"web"}``."""
        if not self._key:
            self._key = "k:" + _encode(dict(self.keys)).decode()
        return self._key

    def __eq__(self, other: object) -> bool:
        return self.keys == other.keys if isinstance(other, Item) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.keys)

    def __repr__(self) -> str:
        return f"Item({self.keys!r})"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a set."""

    value: Any

    @property
    def key(self) -> str:
        """What fieldsV1 calls it: ``v:"finalizer"``."""
        return "v:" + _encode(self.value).decode()


@dataclass(frozen=True, slots=True)
class Index:
    """A position in an atomic list; ``values`` as in :class:`Item`."""

    position: int
    values: tuple[Any, ...] = field(default=(), compare=False, repr=False)


Element: TypeAlias = str | Item | Member | Index
Path: TypeAlias = tuple[Element, ...]
#: Scalars with their types, without which 1, 1.0 and true would be the same.
Identity: TypeAlias = tuple[tuple[type, ...], tuple[Any, ...]]

#: Characters of one path as text. Those of real objects have a few hundred.
MAX_TEXT: Final = 2000
# Characters of a name whose text is kept: those of real fields have thirty, and a thousand of them take little memory.
_SHORT: Final = 64

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_/:@-][A-Za-z0-9_./:@-]*\Z")


def identity(values: Sequence[Any]) -> Identity | None:
    """What tells an item of a list from the others, given the values of its keys; None if one is no scalar."""
    kinds = tuple([type(value) for value in values])
    return None if dict in kinds or list in kinds else (kinds, tuple(values))


def format_path(path: Path) -> str:
    """The place as a policy would write it: ``spec.containers[name=web].env[name='A B'].value``.

    At most MAX_TEXT characters of it, so that a thousand places of a hostile object fit into memory.
    """
    text = ""
    for element in path:
        if isinstance(element, str):
            text += _short_text(element) if len(element) <= _SHORT else _named(element[: MAX_TEXT + 1])
        else:
            text += _element_text(element)
        if len(text) > MAX_TEXT + 1:
            return text.removeprefix(".")[: MAX_TEXT - 1] + "…"
    text = text.removeprefix(".")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _element_text(element: Item | Member | Index) -> str:
    if isinstance(element, Item):
        return "[" + ",".join([_key_text(name, value) for name, value in element.keys]) + "]"
    return f"[={_scalar(element.value)}]" if isinstance(element, Member) else f"[{element.position}]"


def _key_text(name: str, value: Any) -> str:
    if type(value) is str and len(name) + len(value) <= _SHORT:
        return _short_key(name, value)
    return f"{name}={_scalar(value)}"


def _named(name: str) -> str:
    return f".{name}" if _PLAIN_NAME.match(name) else f"[{_quote(name)}]"


_short_text: Final = lru_cache(maxsize=1024)(_named)
_short_key: Final = lru_cache(maxsize=1024)(lambda name, value: f"{name}={_scalar(value)}")


def scalar_text(value: Any) -> str:
    """A scalar as JSON shows it, a string without its quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _scalar(value: Any) -> str:
    text = scalar_text(value)[: MAX_TEXT + 1]
    return text if _PLAIN_VALUE.match(text) else _quote(text)


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
