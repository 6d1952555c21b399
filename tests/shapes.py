"""Random objects of random structure, and a naive second opinion on what differs between two of them.

A shape says how a value is built: a scalar, a map, an atomic list, a set, or a list keyed by some fields of its items.
:func:`flat` takes a value apart into places and scalars without any of driftwall's own code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hypothesis import assume
from hypothesis import strategies as st

#: Names that a path has to quote are among them.
NAMES = ("a", "b", "c-d", "e.f", "g/h", "it's", "x*", "ключ", "", "back\\slash", "line\nbreak")
KEYS = ("name", "port")


@dataclass(frozen=True)
class Scalar:
    pass


@dataclass(frozen=True)
class Map:
    fields: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True)
class Atomic:
    pass


@dataclass(frozen=True)
class Set:
    pass


@dataclass(frozen=True)
class Keyed:
    keys: tuple[str, ...]
    item: Map


Shape: TypeAlias = Scalar | Map | Atomic | Set | Keyed

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**53 + 1, -(2**63)]),
    st.sampled_from([0.0, 1.0, -1.5, 1e300]),
    st.sampled_from(["", "0", "1", "true", "null", "x", "é", "{}", "a\nb"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)


def _maps(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Map]:
    fields = st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=4, unique_by=lambda field: field[0])
    return fields.map(lambda drawn: Map(tuple(drawn)))


def _extend(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    keys = st.sampled_from([("name",), ("port",), ("name", "port")])
    return _maps(inner) | st.builds(Keyed, keys, _maps(inner))


shapes: st.SearchStrategy[Shape] = st.recursive(st.sampled_from([Scalar(), Atomic(), Set()]), _extend, max_leaves=6)
map_shapes = _maps(shapes)


@st.composite
def values(draw: st.DrawFn, shape: Shape) -> Any:
    """A value of the shape; any field of a map may be left out."""
    match shape:
        case Scalar():
            return draw(scalars)
        case Atomic():
            return draw(st.lists(anything, max_size=3))
        case Set():
            return draw(st.lists(scalars, max_size=4))
        case Map(fields):
            return {name: draw(values(inner)) for name, inner in fields if draw(st.integers(0, 3))}
        case Keyed(keys, item):
            return [
                {**draw(values(item)), **{key: draw(scalars.filter(lambda v: v is not None)) for key in keys}}
                for _ in range(draw(st.integers(0, 3)))
            ]


def fields_of(shape: Shape, value: Any) -> dict[str, Any]:
    """What managedFields would say of the value, owned by one manager."""
    match shape:
        case Map(fields) if isinstance(value, dict):
            inner = dict(fields)
            return {"f:" + name: fields_of(inner.get(name, Scalar()), child) for name, child in value.items()}
        case Set() if isinstance(value, list) and value:
            return {"v:" + json.dumps(member): {} for member in value}
        case Keyed(keys, item) if isinstance(value, list) and value:
            items: dict[str, Any] = {}
            for child in value:
                key = "k:" + json.dumps({name: child[name] for name in keys}, sort_keys=True)
                items[key] = _merged(items.get(key, {}), {".": {}, **fields_of(item, child)})
            return items
        case Keyed() | Set():
            return {".": {}}
        case _:
            return {}


def _merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    return {key: _merged(one.get(key, {}), two.get(key, {})) for key in {**one, **two}}


def text(value: Any) -> str:
    """A JSON value as text that tells types apart; maps without their order."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{text(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(text(item) for item in value) + "]"
    return f"{type(value).__name__} {value!r}"


Place: TypeAlias = tuple[tuple[str, str], ...]


def flat(shape: Shape, value: Any, place: Place = ()) -> dict[Place, str]:
    """Every place of the value and what is there; order is in it only where it counts."""
    match shape:
        case Map(fields) if isinstance(value, dict):
            inner = dict(fields)
            found = {place: "map"}
            for name, child in value.items():
                found |= flat(inner.get(name, Scalar()), child, (*place, ("f", name)))
            return found
        case Set() if isinstance(value, list):
            members = Counter(text(member) for member in value)
            return {place: "list"} | {(*place, ("v", member)): str(count) for member, count in members.items()}
        case Keyed(keys, item) if isinstance(value, list) and all(_has(child, keys) for child in value):
            found = {place: "list"}
            seen: Counter[str] = Counter()
            for child in value:
                key = text({key: child[key] for key in keys})
                found |= flat(item, child, (*place, ("k", key), ("#", str(seen[key]))))
                seen[key] += 1
            return found
        case _:
            return {place: text(value)}


def _has(item: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(item, dict) and all(key in item for key in keys)


def shuffled(shape: Shape, value: Any) -> Any:
    """The same value, every keyed list and set turned round. Items that share a key keep their order."""
    match shape:
        case Map(fields):
            inner = dict(fields)
            return {name: shuffled(inner[name], child) for name, child in reversed(value.items())}
        case Set():
            return value[::-1]
        case Keyed(keys, item):
            groups: dict[str, list[Any]] = {}
            for child in value:
                inner_child = shuffled_item(item, child)
                groups.setdefault(text({key: child[key] for key in keys}), []).append(inner_child)
            return [child for group in reversed(groups.values()) for child in group]
        case _:
            return value


def shuffled_item(shape: Map, value: Mapping[str, Any]) -> dict[str, Any]:
    inner = dict(shape.fields)
    return {name: shuffled(inner.get(name, Scalar()), child) for name, child in value.items()}


@dataclass(frozen=True)
class Spot:
    """A value inside another: the keys that lead to it, and a pattern that names it."""

    steps: tuple[str | int, ...]
    pattern: str


def quoted(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@st.composite
def spots(draw: st.DrawFn, shape: Shape, value: Any) -> Spot:
    """A random place in the value, at least one step down, with a random pattern for it."""
    steps: list[str | int] = []
    pattern = ""
    while isinstance(value, dict | list) and value and (not steps or draw(st.booleans())):
        if isinstance(value, dict):
            name = draw(st.sampled_from(sorted(value)))
            steps.append(name)
            pattern += draw(
                st.sampled_from([f"[{quoted(name)}]", ".*" if pattern else "*", f"[{quoted(name[:1] + '*')}]"])
            )
            shape = dict(shape.fields).get(name, Scalar()) if isinstance(shape, Map) else Scalar()
            value = value[name]
            continue
        position = draw(st.integers(0, len(value) - 1))
        steps.append(position)
        value = value[position]
        bracket = "[*]"
        if isinstance(shape, Keyed):
            keys = draw(st.lists(st.sampled_from(shape.keys), unique=True))
            if keys:
                bracket = "[" + ",".join(f"{key}={quoted(_plain(value[key]))}" for key in keys) + "]"
        pattern += bracket
        shape = shape.item if isinstance(shape, Keyed) else Scalar()
    return Spot(tuple(steps), pattern)


_GONE = object()


def replaced(value: Any, steps: tuple[str | int, ...], new: Any) -> Any:
    """A copy of the value with ``new`` at ``steps``, or with nothing there."""
    if not steps:
        return new
    step, *rest = steps
    copy = value.copy()
    inner = replaced(value[step], tuple(rest), new)
    if inner is _GONE:
        del copy[step]
    else:
        copy[step] = inner
    return copy


@st.composite
def mutations(draw: st.DrawFn, value: Any, spot: Spot) -> Any:
    """A copy of the value with something else at the spot, or somewhere below it."""
    target = value
    for step in spot.steps:
        target = target[step]
    steps = list(spot.steps)
    while isinstance(target, dict | list) and target and draw(st.booleans()):
        step = draw(st.sampled_from(sorted(target)) if isinstance(target, dict) else st.integers(0, len(target) - 1))
        steps.append(step)
        target = target[step]
    new = draw(st.just(_GONE) | anything.filter(lambda other: text(other) != text(target)))
    return replaced(value, tuple(steps), new)


@st.composite
def leaf_mutations(draw: st.DrawFn, value: Any) -> Any:
    """A copy of the value in which one scalar is something else, or gone."""
    steps: list[str | int] = []
    target = value
    while isinstance(target, dict | list) and target:
        step = draw(st.sampled_from(sorted(target)) if isinstance(target, dict) else st.integers(0, len(target) - 1))
        steps.append(step)
        target = target[step]
    assume(not isinstance(target, dict | list))
    new = draw(st.just(_GONE) | anything.filter(lambda other: text(other) != text(target)))
    return replaced(value, tuple(steps), new)
