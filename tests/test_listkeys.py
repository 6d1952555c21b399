from __future__ import annotations

from typing import Any

import pytest

from webhook.listkeys import ATOMIC, SET, ListType, Schema, canonical_group


def list_type(group: str, kind: str, path: str, *tiers: list[dict[str, Any]]) -> ListType:
    """The type of the list at ``path``, in which ``[]`` stands for any item."""
    schema = Schema.of(group, kind, *tiers)
    for name in path.split("."):
        schema = schema.field(name.removesuffix("[]"))
        if name.endswith("[]"):
            schema = schema.item()
    return schema.list_type()


def fields(list_node: dict[str, Any]) -> dict[str, Any]:
    return {"f:spec": {"f:list": list_node}}


@pytest.mark.parametrize(
    ("group", "kind", "path", "expected"),
    [
        ("", "Pod", "spec.containers", ("name",)),
        ("apps", "Deployment", "spec.template.spec.containers", ("name",)),
        ("apps", "Deployment", "spec.template.spec.initContainers[].env", ("name",)),
        ("apps", "Deployment", "spec.template.spec.containers[].ports", ("containerPort", "protocol")),
        ("extensions", "Deployment", "spec.template.spec.volumes", ("name",)),
        ("batch", "CronJob", "spec.jobTemplate.spec.template.spec.containers", ("name",)),
        ("apps", "Deployment", "spec.template.spec.containers[].args", ATOMIC),
        ("", "Service", "spec.ports", ("port", "protocol")),
        ("", "Service", "spec.externalIPs", ATOMIC),
        ("networking.k8s.io", "NetworkPolicy", "spec.ingress", ATOMIC),
        ("rbac.authorization.k8s.io", "Role", "rules", ATOMIC),
        ("example.com", "Widget", "metadata.ownerReferences", ("uid",)),
        ("example.com", "Widget", "metadata.finalizers", SET),
        ("example.com", "Widget", "spec.list", ATOMIC),
        ("example.com", "Deployment", "spec.template.spec.containers", ATOMIC),
    ],
)
def test_the_table_knows_the_lists_of_built_in_kinds(group: str, kind: str, path: str, expected: ListType) -> None:
    assert list_type(group, kind, path) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({'k:{"name":"a"}': {}}, ("name",)),
        ({'k:{"a":1,"b":2}': {}}, ("a", "b")),
        ({'v:"x"': {}}, SET),
        ({}, ATOMIC),
        ({".": {}}, ATOMIC),
        ({"k:not json": {}}, ATOMIC),
        ({"k:{}": {}}, ATOMIC),
        ({"k:[1]": {}}, ATOMIC),
        ({"k:" + "[" * 100_000: {}}, ATOMIC),
        ({'k:{"name":"a"}': {}, 'v:"x"': {}}, ATOMIC),
        ({'k:{"name":"a"}': {}, 'k:{"id":1}': {}}, ATOMIC),
        ({"i:0": {}}, ATOMIC),
    ],
)
def test_managed_fields_tell_how_a_list_is_keyed_and_a_contradiction_makes_it_atomic(
    node: dict[str, Any], expected: ListType
) -> None:
    assert list_type("example.com", "Widget", "spec.list", [fields(node)]) == expected


def test_a_list_owned_whole_is_atomic_even_if_another_document_claims_keys() -> None:
    whole, forged = fields({}), fields({'k:{"name":"a"}': {}})
    tiers: list[list[dict[str, Any]]]
    for tiers in ([[whole, forged]], [[forged, whole]], [[whole], [forged]], [[], [whole, forged]]):
        assert list_type("example.com", "Widget", "spec.list", *tiers) == ATOMIC


def test_the_lists_in_what_is_owned_whole_are_atomic() -> None:
    forged = fields({'k:{"name":"a"}': {}})
    assert list_type("example.com", "Widget", "spec.list", [{"f:spec": {}}], [forged]) == ATOMIC
    assert list_type("example.com", "Widget", "spec.list", [{}], [forged]) == ATOMIC


def test_an_empty_map_in_one_item_says_nothing_of_the_lists_in_another() -> None:
    empty: dict[str, Any] = {"f:map": {}}
    filled: dict[str, Any] = {"f:map": {"f:list": {'v:"x"': {}}}}
    document = fields({'k:{"name":"a"}': empty, 'k:{"name":"b"}': filled})
    assert list_type("example.com", "Widget", "spec.list[].map.list", [document]) == SET
    alone, forged = fields({'k:{"name":"a"}': empty}), fields({'k:{"name":"b"}': filled})
    assert list_type("example.com", "Widget", "spec.list[].map.list", [alone], [forged]) == ATOMIC


def test_the_documents_of_the_tool_are_believed_before_those_of_others() -> None:
    honest, forged = fields({'k:{"name":"a"}': {}}), fields({'k:{"x":1}': {}})
    assert list_type("example.com", "Widget", "spec.list", [honest], [forged]) == ("name",)
    assert list_type("example.com", "Widget", "spec.list", [fields({".": {}})], [honest]) == ("name",)


def test_no_document_changes_what_the_table_knows() -> None:
    forged: dict[str, Any] = {"f:spec": {"f:ports": {'k:{"name":"a"}': {}}}}
    assert list_type("", "Service", "spec.ports", [forged]) == ("port", "protocol")


def test_the_lists_in_items_are_keyed_as_in_any_item_that_tells() -> None:
    document = fields({'k:{"name":"a"}': {".": {}}, 'k:{"name":"b"}': {"f:inner": {'v:"x"': {}}}})
    assert list_type("example.com", "Widget", "spec.list[].inner", [document]) == SET


def test_documents_of_odd_shape_say_nothing() -> None:
    odd: list[dict[str, Any]] = [{"f:spec": None}, {"f:spec": {"f:list": 1}}, {"f:spec": {"f:list": []}}, {"spec": {}}]
    assert list_type("example.com", "Widget", "spec.list", odd) == ATOMIC


def test_kinds_that_have_moved_from_extensions_are_known_by_their_new_group() -> None:
    assert canonical_group("extensions", "Deployment") == "apps"
    assert canonical_group("extensions", "Ingress") == "networking.k8s.io"
    assert canonical_group("extensions", "Widget") == "extensions"
    assert canonical_group("apps", "Deployment") == "apps"
