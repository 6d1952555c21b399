"""Places inside an object, and patterns that select such places.

A place (:data:`Path`) is a tuple of elements: a field name (``str``), an item of a keyed list (:class:`Item`), a
member of a set (:class:`Member`), or a position in an atomic list (:class:`Index`). A pattern is what a policy writes::

    spec.template.spec.containers[name=web].env[name=LOG_*].value
    metadata.annotations['example.com/*']
    data.*
    spec.ports[*].nodePort

A pattern covers the place that it names and all below. ``*`` and ``?`` are wildcards in names and in key values;
``[*]`` and ``.*`` stand for every item of a list and every field of a map.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from webhook.globs import Glob, is_glob
from webhook.lazyjson import decoded


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
        self._values = tuple([decoded(value) for value in self._values])
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
# Elements that are written at once: all of a real path.
_STRIDE: Final = 16

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_/:@-][A-Za-z0-9_./:@-]*\Z")


def identity(values: Sequence[Any]) -> Identity | None:
    """What tells an item of a list from the others, given the values of its keys; None if one is no scalar."""
    kinds = tuple(map(type, values))
    return None if dict in kinds or list in kinds else (kinds, tuple(values))


def format_path(path: Path) -> str:
    """The place as a policy would write it: ``spec.containers[name=web].env[name='A B'].value``.

    At most MAX_TEXT characters of it, so that a thousand places of a hostile object fit into memory.
    """
    text = ""
    for start in range(0, len(path), _STRIDE):
        text += "".join(
            [_element_text(e) if not isinstance(e, str) else _field_text(e) for e in path[start : start + _STRIDE]]
        )
        if len(text) > MAX_TEXT + 1:
            return text.removeprefix(".")[: MAX_TEXT - 1] + "…"
    text = text.removeprefix(".")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _field_text(name: str) -> str:
    return _short_text(name) if len(name) <= _SHORT else _named(name[: MAX_TEXT + 1])


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


@dataclass(frozen=True, slots=True)
class AnyChild:
    """``[*]`` and ``.*``: every item or field."""


@dataclass(frozen=True, slots=True)
class NameGlob:
    """A field name with wildcards."""

    glob: Glob


@dataclass(frozen=True, slots=True)
class KeyMatch:
    """``[name=web,protocol=T*]``: the items whose fields have these values."""

    keys: tuple[tuple[str, str | Glob], ...]

    def matches(self, element: Item | Index) -> bool:
        """Whether the list's own keys, or the item's old or new value, have all the fields asked for."""
        own = dict(element.keys) if isinstance(element, Item) else {}
        if all(name in own and _value_matches(want, own[name]) for name, want in self.keys):
            return True
        return any(
            isinstance(value, dict)
            and all(name in value and _value_matches(want, value[name]) for name, want in self.keys)
            for value in element.values
        )


PatternElement: TypeAlias = str | NameGlob | KeyMatch | AnyChild
Pattern: TypeAlias = tuple[PatternElement, ...]

_ANY = AnyChild()


def _value_matches(want: str | Glob, value: Any) -> bool:
    if isinstance(value, dict | list):
        return False
    text = scalar_text(value)
    return text == want if isinstance(want, str) else want.matches(text)


def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ValueError: it is none; the message says what is wrong at which character (counted from 1).
    """
    elements: list[PatternElement] = []
    position = 0
    while position < len(text):
        if text[position] == "[":
            element, position = _bracket(text, position)
        else:
            if elements:
                if text[position] != ".":
                    raise ValueError(f"expected '.' or '[' at character {position + 1} of {text!r}")
                position += 1
            end = position
            while end < len(text) and text[end] not in ".[]'\"":
                end += 1
            if end == position:
                raise ValueError(f"a field name is missing at character {position + 1} of {text!r}")
            element, position = _name(text[position:end]), end
        elements.append(element)
    if not elements:
        raise ValueError("an empty path names no field")
    return tuple(elements)


def _name(text: str) -> PatternElement:
    if text == "*":
        return _ANY
    return NameGlob(Glob(text)) if is_glob(text) else text


def _bracket(text: str, start: int) -> tuple[PatternElement, int]:
    position = start + 1
    if text.startswith("*]", position):
        return _ANY, position + 2
    if position < len(text) and text[position] in "'\"":
        name, position = _quoted(text, position)
        return _name(name), _closing(text, position)
    keys: list[tuple[str, str | Glob]] = []
    while True:
        end = position
        while end < len(text) and text[end] not in "=],['\"":
            end += 1
        key = text[position:end].strip()
        if end >= len(text) or text[end] != "=":
            if key.isdigit():
                raise ValueError(
                    f"an index such as [{key}] is no stable place in a list; use [*] or [name=…] in {text!r}"
                )
            raise ValueError(f"expected [*], [key=value] or ['name'] at character {start + 1} of {text!r}")
        if not key:
            raise ValueError(f"a key is missing before '=' at character {end + 1} of {text!r}")
        position = end + 1
        if position < len(text) and text[position] in "'\"":
            value, position = _quoted(text, position)
        else:
            end = position
            while end < len(text) and text[end] not in ",]":
                end += 1
            value, position = text[position:end].strip(), end
        keys.append((key, Glob(value) if is_glob(value) else value))
        if position < len(text) and text[position] == ",":
            position += 1
            continue
        return KeyMatch(tuple(keys)), _closing(text, position)


def _quoted(text: str, start: int) -> tuple[str, int]:
    quote, value, position = text[start], "", start + 1
    while position < len(text):
        character = text[position]
        if character == "\\" and position + 1 < len(text):
            value += text[position + 1]
            position += 2
            continue
        if character == quote:
            return value, position + 1
        value += character
        position += 1
    raise ValueError(f"the quote at character {start + 1} of {text!r} is not closed")


def _closing(text: str, position: int) -> int:
    if position >= len(text) or text[position] != "]":
        raise ValueError(f"expected ']' at character {position + 1} of {text!r}")
    return position + 1


class _Node:
    __slots__ = ("any", "covers", "globs", "keyed", "names")

    def __init__(self) -> None:
        self.covers = False
        self.names: dict[str, _Node] = {}
        self.globs: list[tuple[Glob, _Node]] = []
        self.keyed: list[tuple[KeyMatch, _Node]] = []
        self.any: _Node | None = None

    def child(self, element: PatternElement) -> _Node:
        match element:
            case str():
                return self.names.setdefault(element, _Node())
            case AnyChild():
                self.any = self.any or _Node()
                return self.any
            case NameGlob(glob):
                return _child_of(self.globs, glob)
            case KeyMatch():
                return _child_of(self.keyed, element)

    def step(self, element: Element) -> list[_Node]:
        """The children that take ``element`` in."""
        found = [] if self.any is None else [self.any]
        if isinstance(element, str):
            if (child := self.names.get(element)) is not None:
                found.append(child)
            found += [child for glob, child in self.globs if glob.matches(element)]
        elif not isinstance(element, Member):
            found += [child for match, child in self.keyed if match.matches(element)]
        return found


def _child_of(children: list[tuple[Any, _Node]], key: Any) -> _Node:
    for known, node in children:
        if known == key:
            return node
    node = _Node()
    children.append((key, node))
    return node


#: Stands for an element that no pattern names.
_OTHER: Final = Member(None)


class PathSet:
    """Patterns as a trie, and a position in it: ``covers`` says that a pattern ends here or above."""

    __slots__ = ("_globs", "_keyed", "_named", "_nodes", "_others", "covers", "texts")

    #: A path set says nothing about a container's mere existence; a declared field can (see ownership).
    owns_container = False

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        root = _Node()
        for pattern in patterns:
            node = root
            for element in pattern:
                node = node.child(element)
            node.covers = True
        self._stand((root,))
        #: What was written, where the set was made from text; for people.
        self.texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, *texts: str) -> PathSet:
        """The set of the patterns written in ``texts``. Raises ValueError as :func:`parse_pattern` does."""
        made = cls(parse_pattern(text) for text in texts)
        made.texts = texts
        return made

    @classmethod
    def _at(cls, nodes: tuple[_Node, ...]) -> PathSet:
        found = cls.__new__(cls)
        found._stand(nodes)
        found.texts = ()
        return found

    def _stand(self, nodes: tuple[_Node, ...]) -> None:
        self._nodes = nodes
        self.covers = any(node.covers for node in nodes)
        self._globs = any(node.globs for node in nodes)
        self._keyed = any(node.keyed for node in nodes)
        self._named: dict[str, PathSet | None] | None = None
        self._others: tuple[PathSet | None] | None = None

    def __or__(self, other: PathSet) -> PathSet:
        return PathSet._at(self._nodes + other._nodes)

    def step(self, element: Element) -> PathSet | None:
        """The position one element further, or None where no pattern leads on."""
        if self.covers:
            return self
        if isinstance(element, str):
            if self._globs:
                return self._next(element)
            # Without wildcards the next positions are few, and made once: policies live longer than writes.
            if self._named is None:
                self._named = {name: self._next(name) for node in self._nodes for name in node.names}
            if element in self._named:
                return self._named[element]
        elif self._keyed and not isinstance(element, Member):
            return self._next(element)
        if self._others is None:
            self._others = (self._next(_OTHER),)
        return self._others[0]

    def _next(self, element: Element) -> PathSet | None:
        nodes = tuple([child for node in self._nodes for child in node.step(element)])
        return PathSet._at(nodes) if nodes else None

    def __bool__(self) -> bool:
        return any(node.covers or node.names or node.globs or node.keyed or node.any for node in self._nodes)
