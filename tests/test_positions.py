from __future__ import annotations

from typing import Any

import pytest

from tests.places import holds, item
from webhook.fieldpath import Index, Member, Path
from webhook.positions import HeldValue, OwnedFields

# ── fieldsV1 ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DOCUMENT = {
    "f:spec": {
        "f:whole": {},
        "f:map": {".": {}, "f:a": {}},
        "f:list": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}, 'k:{"port":81}': {"f:port": {}}},
        "f:set": {'v:"a"': {}, "v:1": {}},
    }
}


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "whole"),
        ("spec", "whole", "below", Index(1)),
        ("spec", "map", "a"),
        ("spec", "list", item(port=80, protocol="TCP"), "port"),
        ("spec", "list", item(port=81, protocol="TCP"), "port"),
        ("spec", "list", Index(7), "anything"),
        ("spec", "set", Member("a")),
        ("spec", "set", Member(1)),
    ],
)
def test_what_a_document_owns_is_in_the_set_and_all_below_a_leaf(path: Path) -> None:
    assert holds(OwnedFields(DOCUMENT), path)


@pytest.mark.parametrize(
    "path",
    [
        ("spec",),
        ("spec", "other"),
        ("spec", "map"),
        ("spec", "map", "b"),
        ("spec", "list", item(port=82, protocol="TCP"), "port"),
        ("spec", "list", item(port=80, protocol="TCP"), "name"),
        ("spec", "list", item(port="80", protocol="TCP"), "port"),
        ("spec", "set", Member("b")),
        ("spec", "set", Member("1")),
        ("spec", "set", Member(True)),
    ],
)
def test_what_a_document_does_not_own_is_not(path: Path) -> None:
    assert not holds(OwnedFields(DOCUMENT), path)


def test_an_item_that_is_known_by_other_keys_than_those_asked_for_may_be_any() -> None:
    document = OwnedFields({"f:l": {'k:{"id":1}': {"f:id": {}}}})
    assert holds(document, ("l", item(name="a"), "anything"))
    assert holds(document, ("l", item(name="a", id=1), "anything"))
    assert not holds(document, ("l", item(id=2), "anything"))


def test_documents_of_odd_shape_own_nothing_and_break_nothing() -> None:
    odd: dict[str, Any] = {
        "f:a": None,
        "f:b": 1,
        "f:c": [],
        "f:l": {"v:": {}, "v:{": {}, 'k:{"a":1}': None, "v:2": 5},
    }
    document = OwnedFields(odd)
    places: list[Path] = [("a",), ("b",), ("c",), ("l", Member(2)), ("l", Member(3)), ("l", item(a=1))]
    assert [path for path in places if holds(document, path)] == []


@pytest.mark.parametrize("key", ["k:", "k:nonsense", "k:[]", "k:{}"])
def test_an_item_whose_key_cannot_be_read_may_be_any(key: str) -> None:
    assert holds(OwnedFields({"f:l": {key: {"f:a": {}}}}), ("l", item(name="a"), "anything"))


# ── a JSON value ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_value_holds_its_scalars_and_empty_containers_and_items_by_key() -> None:
    value = HeldValue({"a": 1, "b": {}, "c": {"d": None}, "l": [{"name": "x", "v": 1}], "s": ["m"], "at": [[1]]})
    declared_places: list[Path] = [
        ("a",),
        ("b", "below"),
        ("c", "d"),
        ("l", item(name="x"), "v"),
        ("s", Member("m")),
        ("at", Index(0)),
    ]
    other_places: list[Path] = [
        ("z",),
        ("c",),
        ("c", "e"),
        ("l", item(name="y")),
        ("l", item(name="x"), "w"),
        ("s", Member("n")),
    ]
    assert [path for path in declared_places + other_places if holds(value, path)] == declared_places


def test_an_item_is_found_by_the_keys_that_were_declared_where_the_server_fills_in_the_others() -> None:
    value = HeldValue([{"port": 80}, {"port": 81, "protocol": "UDP"}, {"name": "x", "v": 1}])
    assert holds(value, (item(port=80, protocol="TCP"), "port"))
    assert not holds(value, (item(port=80, protocol="UDP"), "port"))
    assert holds(value, (item(port=81, protocol="UDP"), "protocol"))
    assert holds(value, (item(name="x", kind="default"), "v"))
