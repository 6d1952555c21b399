from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import shapes
from tests.shapes import Map, Place, Shape, flat, text
from webhook.diff import ABSENT, MAX_CHANGES, QUICK_LEVELS, Change, diff
from webhook.equality import strictly_equal
from webhook.fieldpath import Element, Item, Member, format_path
from webhook.listkeys import Schema
from webhook.patterns import PathSet
from webhook.selection import select

NOTHING_KNOWN = Schema.of("example.com", "Widget")
DEPLOYMENT = Schema.of("apps", "Deployment")


def changes(old: dict[str, Any], new: dict[str, Any], schema: Schema = NOTHING_KNOWN) -> list[tuple[str, str]]:
    return [(format_path(change.path), change.operation) for change in diff(old, new, schema)]


def schema_of(*fields: dict[str, Any]) -> Schema:
    return Schema.of("example.com", "Widget", list(fields))


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": spec}}}


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", "changed")]),
        ({}, {"a": 1}, [("a", "added")]),
        ({"a": 1}, {}, [("a", "removed")]),
        ({}, {"a": None}, [("a", "added")]),
        ({"a": None}, {"a": 0}, [("a", "changed")]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [("a.b.c", "changed")]),
        ({"a": {"b": 1}}, {"a": {}}, [("a.b", "removed")]),
        ({"a": {"b": 1}}, {"a": []}, [("a", "changed")]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, [("a", "changed"), ("b", "changed")]),
    ],
)
def test_maps_differ_by_field(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert changes(old, new) == expected


DIFFERENT = [None, False, True, 0, 1, 0.0, 1.0, "", "0", "1", "1.0", "true", "null", [], {}, [None], {"a": None}]


def test_values_of_different_types_differ_though_they_look_alike() -> None:
    for i, old in enumerate(DIFFERENT):
        for j, new in enumerate(DIFFERENT):
            assert strictly_equal(old, new) is (i == j)
            assert (changes({"a": old}, {"a": new}) == []) is (i == j)


def test_the_items_of_a_keyed_list_are_compared_by_key_whatever_their_order() -> None:
    old = pod(containers=[{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])
    new = pod(containers=[{"name": "b", "image": "2"}, {"name": "a", "image": "1"}, {"name": "c"}])
    assert changes(old, new, DEPLOYMENT) == [
        ("spec.template.spec.containers[name=b].image", "changed"),
        ("spec.template.spec.containers[name=c]", "added"),
    ]


def test_a_key_that_is_left_out_has_its_default_and_is_still_a_difference_of_the_item() -> None:
    old = pod(containers=[{"name": "a", "ports": [{"containerPort": 80}]}])
    new = pod(containers=[{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}])
    place = "spec.template.spec.containers[name=a].ports[containerPort=80,protocol=TCP].protocol"
    assert changes(old, new, DEPLOYMENT) == [(place, "added")]


def test_an_only_key_that_is_left_out_has_its_default_too() -> None:
    schema = schema_of({"f:ports": {'k:{"protocol":"TCP"}': {}}})
    old = {"ports": [{"number": 1}, {"protocol": "UDP"}]}
    new = {"ports": [{"protocol": "UDP"}, {"protocol": "TCP", "number": 2}]}
    item = "ports[protocol=TCP]"
    assert changes(old, new, schema) == [(f"{item}.number", "changed"), (f"{item}.protocol", "added")]


def test_a_field_without_a_name_is_no_key() -> None:
    old = pod(containers=[{"name": "a", "ports": [{"": "x", "containerPort": 80}, {"": "x", "containerPort": 81}]}])
    new = pod(containers=[{"name": "a", "ports": [{"": "x", "containerPort": 81}]}])
    place = "spec.template.spec.containers[name=a].ports[containerPort=80,protocol=TCP]"
    assert changes(old, new, DEPLOYMENT) == [(place, "removed")]


def test_keys_of_different_types_are_different_items() -> None:
    schema = schema_of({"f:l": {'k:{"id":1}': {}}})
    assert changes({"l": [{"id": 1}]}, {"l": [{"id": "1"}]}, schema) == [("l[id=1]", "removed"), ("l[id=1]", "added")]
    assert changes({"l": [{"id": 1}]}, {"l": [{"id": True}]}, schema) == [
        ("l[id=1]", "removed"),
        ("l[id=true]", "added"),
    ]


def test_items_that_share_a_key_are_compared_in_their_order() -> None:
    old = pod(containers=[{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}])
    new = pod(containers=[{"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "X", "value": "1"}]}])
    place = "spec.template.spec.containers[name=a].env[name=X].value"
    assert changes(old, new, DEPLOYMENT) == [(place, "changed"), (place, "changed")]
    less = pod(containers=[{"name": "a", "env": [{"name": "X", "value": "1"}]}])
    assert changes(old, less, DEPLOYMENT) == [
        ("spec.template.spec.containers[name=a].env[name=X]", "removed"),
    ]


def test_a_set_differs_by_member() -> None:
    old, new = {"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"finalizers": ["c", "a"]}}
    assert changes(old, new) == [("metadata.finalizers[=b]", "removed"), ("metadata.finalizers[=c]", "added")]
    assert changes(old, {"metadata": {"finalizers": ["b", "a"]}}) == []
    assert changes(old, {"metadata": {"finalizers": ["a", "b", "b"]}}) == [("metadata.finalizers[=b]", "added")]


def test_an_atomic_list_is_one_value_and_its_order_counts() -> None:
    assert changes({"l": [1, 2]}, {"l": [2, 1]}) == [("l", "changed")]
    assert changes({"l": [1, 2]}, {"l": [1, 2]}) == []


@pytest.mark.parametrize("odd", [None, "x", 1, [], [{"name": "a"}]])
def test_a_keyed_list_with_an_item_that_is_no_map_is_compared_whole(odd: object) -> None:
    schema = schema_of({"f:l": {'k:{"name":"a"}': {}}})
    assert changes({"l": [{"name": "a"}, odd]}, {"l": [odd, {"name": "a"}]}, schema) == [("l", "changed")]


def test_a_keyed_list_whose_key_is_no_scalar_is_compared_whole() -> None:
    schema = schema_of({"f:l": {'k:{"name":"a"}': {}}})
    assert changes({"l": [{"name": {}}]}, {"l": [{"name": []}]}, schema) == [("l", "changed")]


def test_a_set_with_a_member_that_is_no_scalar_is_compared_whole() -> None:
    schema = schema_of({"f:l": {'v:"a"': {}}})
    assert changes({"l": ["a", {}]}, {"l": [{}, "a"]}, schema) == [("l", "changed")]


def test_an_object_as_deep_as_the_parser_reads_is_compared() -> None:
    def deep(leaf: int) -> dict[str, Any]:
        value: dict[str, Any] = {"leaf": leaf}
        for _ in range(700):
            value = {"n": value, "same": [1]}
        return value

    assert changes(deep(1), deep(2)) == [(".".join(["n"] * 700) + ".leaf", "changed")]
    assert changes(deep(1), deep(1)) == []


def test_a_difference_below_many_levels_is_not_looked_for_at_each_of_them() -> None:
    compared = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def deep(leaf: str) -> dict[str, Any]:
        value: dict[str, Any] = {"leaf": leaf}
        for _ in range(100):
            value = {"same": [Counted("x")], "n": value}
        for _ in range(QUICK_LEVELS):
            value = {"n": value}
        return value

    assert len(diff(deep("a"), deep("b"), NOTHING_KNOWN)) == 1
    # The quick levels look at all below them, each once; the other hundred do so together.
    assert compared <= (QUICK_LEVELS + 1) * 100


def test_very_many_differences_are_told_as_one_of_what_holds_them() -> None:
    old, new = ({f"k{number}": value for number in range(MAX_CHANGES + 1)} for value in (1, 2))
    less = {name: 2 if number else 1 for number, name in enumerate(old)}
    assert changes({"a": old, "b": {"c": 1}}, {"a": new, "b": {"c": 2}}) == [("a", "changed"), ("b.c", "changed")]
    assert len(changes({"a": old}, {"a": less})) == MAX_CHANGES
    assert selected({"a": old}, {"a": new}, "a.k7") == [("a", "changed")]
    assert selected({"a": old}, {"a": {**new, "k7": 1}}, "a.k7") == []
    assert selected({}, {"a": old}, "a.*") == [("a", "added")]
    assert len(selected({}, {"a": dict.fromkeys(list(old)[1:], 1)}, "a.*")) == MAX_CHANGES


@pytest.mark.parametrize(("levels", "width"), [(10, 20_000), (600, 20_000)])
def test_a_hundred_thousand_differences_hundreds_of_levels_deep_make_no_more_changes(levels: int, width: int) -> None:
    def deep(leaf: int) -> dict[str, Any]:
        value: dict[str, Any] = {f"k{number}": leaf for number in range(width)}
        for _ in range(levels):
            value = {"n": value}
        return value

    place = ".".join(["n"] * levels)
    assert changes(deep(1), deep(2)) == [(place, "changed")]
    assert selected(deep(1), deep(2), "n.n") == [(place, "changed")]
    assert selected(deep(1), deep(2), "n.m") == []


# ── what is selected ─────────────────────────────────────────────────────────────────────────────────────────────────


def selected(
    old: dict[str, Any], new: dict[str, Any], wanted: str, *ignored: str, schema: Schema = NOTHING_KNOWN
) -> list[tuple[str, str]]:
    found = select(diff(old, new, schema), PathSet.of(wanted), PathSet.of(*ignored) if ignored else None)
    return [(format_path(change.path), change.operation) for change in found]


def test_a_change_is_selected_if_it_is_at_below_or_above_what_is_wanted() -> None:
    assert selected({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b") == [("a.b", "changed")]
    assert selected({"a": {"b": 1}}, {"a": {"b": 2}}, "a") == [("a.b", "changed")]
    assert selected({"a": {"b": 1}}, {}, "a.b") == [("a", "removed")]
    assert selected({"a": {"b": 1}}, {"a": "x"}, "a.b") == [("a", "changed")]
    assert selected({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, "a.b") == []
    assert selected({"a": {"c": 1}}, {}, "a.b") == []


def test_an_added_container_is_told_by_its_wanted_parts() -> None:
    new = {"a": {"b": {"x": 1}, "c": 2, "l": [{"x": 3}, {"y": 4}]}}
    assert selected({}, new, "a.b") == [("a.b", "added")]
    assert selected({}, new, "a.*.x") == [("a.b.x", "added")]
    assert selected({}, new, "a.l[*].x") == [("a.l[0].x", "added")]
    assert selected({}, new, "a.z") == []


def test_a_keyed_pattern_finds_its_item_in_an_atomic_list() -> None:
    old, new = (
        {"l": [{"host": "a", "p": 1}, {"host": "b", "p": 1}]},
        {"l": [{"host": "a", "p": 2}, {"host": "b", "p": 1}]},
    )
    assert selected(old, new, "l[host=a].p") == [("l", "changed")]
    assert selected(old, new, "l[host=b].p") == []


def test_what_is_ignored_is_not_selected_and_wins() -> None:
    assert selected({"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 2}}, "a", "a.b") == [("a.c", "changed")]
    assert selected({"a": {"b": 1}}, {}, "a", "a.b") == []
    assert selected({}, {"a": {"b": 1}}, "a", "a.b") == []
    assert selected({"a": {"b": 1, "c": 1}}, {}, "a", "a.b") == [("a", "removed")]
    assert selected({"a": {"b": 1}}, {"a": {"b": 2}}, "a", "a") == []


@pytest.mark.parametrize("instead", ["x", 5, None, [], [1]])
def test_something_else_in_the_place_of_a_container_is_selected_though_all_its_parts_are_ignored(
    instead: object,
) -> None:
    assert selected({"a": {"b": 1}}, {"a": instead}, "a", "a.b") == [("a", "changed")]


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Map, dict[str, Any], dict[str, Any]]:
    """A shape and two values of it, of which the second is often much like the first."""
    shape = draw(shapes.map_shapes)
    old = draw(shapes.values(shape))
    new = draw(shapes.values(shape))
    if draw(st.booleans()):
        new = {name: draw(st.sampled_from([old[name], child])) if name in old else child for name, child in new.items()}
    return shape, old, new


def known(shape: Shape, *sides: dict[str, Any]) -> Schema:
    return Schema.of("example.com", "Widget", [shapes.fields_of(shape, side) for side in sides])


def place_of(change: Change) -> Place:
    return tuple(_step(element) for element in change.path)


def _step(element: Element) -> tuple[str, str]:
    match element:
        case str():
            return "f", element
        case Item(keys):
            return "k", text(dict(keys))
        case Member(value):
            return "v", text(value)
        case _:
            raise AssertionError(element)


def without_number(place: Place) -> Place:
    return tuple(step for step in place if step[0] != "#")


@given(pairs())
def test_an_object_does_not_differ_from_itself(pair: tuple[Map, dict[str, Any], dict[str, Any]]) -> None:
    shape, old, _ = pair
    assert diff(old, old, known(shape, old)) == []
    assert diff(old, shapes.shuffled(Map(()), {}) | old, NOTHING_KNOWN) == []


@given(pairs())
def test_two_objects_differ_exactly_where_a_naive_comparison_finds_a_difference(
    pair: tuple[Map, dict[str, Any], dict[str, Any]],
) -> None:
    shape, old, new = pair
    found = diff(old, new, known(shape, old, new))
    before, after = flat(shape, old), flat(shape, new)
    differing = {without_number(place) for place in before | after if before.get(place) != after.get(place)}
    told = {place_of(change) for change in found}
    assert bool(found) is bool(differing)
    for place in differing:
        assert any(place[: len(above)] == above for above in told), place
    for place in told:
        assert any(below[: len(place)] == place for below in differing), place


def undecoded(value: dict[str, Any], **written: Any) -> dict[str, Any]:
    """The fields of ``value`` as bytes, the way that ``written`` says."""
    return dict(msgspec.json.decode(json.dumps(value, **written), type=dict[str, msgspec.Raw]))


WAYS = ({"separators": (",", ":")}, {"ensure_ascii": False, "indent": 1}, {"sort_keys": True})


def told_of(changes: list[Change]) -> list[tuple[str, str, str, str]]:
    def shown(value: object) -> str:
        return "ABSENT" if value is ABSENT else text(value)

    return sorted((change.text, change.operation, shown(change.old), shown(change.new)) for change in changes)


@given(pairs(), st.sampled_from(WAYS), st.sampled_from(WAYS))
def test_objects_that_are_not_decoded_differ_as_decoded_ones_do_however_they_are_written(
    pair: tuple[Map, dict[str, Any], dict[str, Any]], one: dict[str, Any], other: dict[str, Any]
) -> None:
    shape, old, new = pair
    documents = [{"f:x": shapes.fields_of(shape, side)} for side in (old, new)]
    for schema in (schema_of(*documents), NOTHING_KNOWN):
        found = diff(undecoded({"x": old}, **one), undecoded({"x": new}, **other), schema)
        assert told_of(found) == told_of(diff({"x": old}, {"x": new}, schema))
        assert diff(undecoded({"x": old}, **one), undecoded({"x": old}, **other), schema) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":true}'),
        ('{"a":0}', '{"a":false}'),
        ('{"a":"1"}', '{"a":1}'),
        ('{"a":null}', "{}"),
        ('{"a":[1]}', '{"a":[1.0]}'),
        ('{"a":1000}', '{"a":1e3}'),
        ('{"a":{"b":1}}', '{"a":{"b":true}}'),
        ('{"a":[1]}', '{"a":[true]}'),
        ('{"a":["1"]}', '{"a":[1]}'),
        ('{"a":[[1]]}', '{"a":[[1.0]]}'),
        ('{"a":[{"b":1}]}', '{"a":[{"b":1.0}]}'),
    ],
)
def test_types_are_strict_where_nothing_is_decoded_yet(old: str, new: str) -> None:
    before, after = (msgspec.json.decode(f'{{"x":{side}}}', type=dict[str, msgspec.Raw]) for side in (old, new))
    assert [change.text for change in diff(before, after, NOTHING_KNOWN)] in (["x.a"], ["x.a.b"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"a":"A"}', '{"a":"\\u0041"}'),
        ('{"a":1e3}', '{"a":1000.0}'),
        ('{"a":1,"b":2}', '{"b":2, "a":1}'),
        ('{"a":1}', '{"a":2,"a":1}'),
        ('{"a":1}', '{"\\u0061":1}'),
        ('{"a":[{"b":"x"}]}', '{ "a" : [ {"b": "\\u0078" } ] }'),
        ('{"a":[[{"b":"x"}]]}', '{"a":[[{"b":"\\u0078"}]]}'),
        ('{"a":' * 20 + '["x"]' + "}" * 20, '{"a":' * 20 + '["\\u0078"]' + "}" * 20),
    ],
)
def test_the_same_value_in_other_bytes_is_no_difference(old: str, new: str) -> None:
    before, after = (msgspec.json.decode(f'{{"x":{side}}}', type=dict[str, msgspec.Raw]) for side in (old, new))
    assert diff(before, after, NOTHING_KNOWN) == []


@given(pairs())
def test_the_order_of_keyed_lists_sets_and_maps_is_no_difference(
    pair: tuple[Map, dict[str, Any], dict[str, Any]],
) -> None:
    shape, old, _ = pair
    assert diff(old, shapes.shuffled(shape, old), known(shape, old)) == []


@given(st.lists(shapes.anything, min_size=2, max_size=4))
def test_the_order_of_an_atomic_list_is_a_difference(items: list[Any]) -> None:
    assume(text(items) != text(items[::-1]))
    assert changes({"l": items}, {"l": items[::-1]}) == [("l", "changed")]


@given(pairs())
def test_the_result_is_sorted_and_the_same_each_time_and_no_change_is_below_another(
    pair: tuple[Map, dict[str, Any], dict[str, Any]],
) -> None:
    shape, old, new = pair
    found = diff(old, new, known(shape, old, new))
    told = [(format_path(change.path), text([change.old is ABSENT, change.new is ABSENT])) for change in found]
    again = diff(shapes.shuffled(shape, old), new, known(shape, new, old))
    assert [path for path, _ in told] == sorted(path for path, _ in told)
    assert sorted(told) == sorted((format_path(c.path), text([c.old is ABSENT, c.new is ABSENT])) for c in again)
    places = sorted(change.path for change in found if all(isinstance(element, str) for element in change.path))
    assert not any(lower[: len(upper)] == upper for upper, lower in pairwise(places))


@given(st.data())
def test_any_mutation_at_or_below_a_protected_path_is_found(data: st.DataObject) -> None:
    shape = data.draw(shapes.map_shapes)
    old = data.draw(shapes.values(shape).filter(bool))
    spot = data.draw(shapes.spots(shape, old))
    new = data.draw(shapes.mutations(old, spot))
    before, after = flat(shape, old), flat(shape, new)
    assume(before != after)  # in a set or a keyed list, what was moved may be what was there
    found = select(diff(old, new, known(shape, old)), PathSet.of(spot.pattern))
    assert found != [], (spot.pattern, old, new)
