"""Patterns that select places of an object (:mod:`webhook.fieldpath`).

A pattern is what a policy writes::

    spec.template.spec.containers[name=web].env[name=LOG_*].value
    metadata.annotations['example.com/*']
    data.*
    spec.ports[*].nodePort

A pattern covers the place that it names and all below. ``*`` and ``?`` are wildcards in names and in key values;
``[*]`` and ``.*`` stand for every item of a list and every field of a map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from webhook.fieldpath import Element, Index, Item, Member, scalar_text
from webhook.globs import Glob, is_glob


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
