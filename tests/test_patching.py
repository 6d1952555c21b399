from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.listkeys import Schema
from webhook.patching import PatchError, json_patch, merge_patch, strategic_merge

SERVICE = Schema.of("", "Service")
DEPLOYMENT = Schema.of("apps", "Deployment")


def operation(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **more}


@pytest.mark.parametrize(
    ("operations", "after"),
    [
        ([operation("add", "/b", value=2)], {"a": [1, 2], "b": 2}),
        ([operation("add", "/a/-", value=3)], {"a": [1, 2, 3]}),
        ([operation("add", "/a/0", value=0)], {"a": [0, 1, 2]}),
        ([operation("replace", "/a/1", value=5)], {"a": [1, 5]}),
        ([operation("remove", "/a/0")], {"a": [2]}),
        ([operation("add", "/x~1y~0z", value=1)], {"a": [1, 2], "x/y~z": 1}),
        ([operation("move", "/b", **{"from": "/a"})], {"b": [1, 2]}),
        ([operation("copy", "/b", **{"from": "/a/1"})], {"a": [1, 2], "b": 2}),
        ([operation("test", "/a/0", value=1), operation("remove", "/a")], {}),
        ([operation("replace", "", value={"c": 1})], {"c": 1}),
    ],
)
def test_a_json_patch_does_what_rfc_6902_says(operations: list[Any], after: dict[str, Any]) -> None:
    before = {"a": [1, 2]}
    assert json_patch(before, operations) == after
    assert before == {"a": [1, 2]}


@pytest.mark.parametrize(
    "wrong",
    [
        operation("remove", "/b"),
        operation("replace", "/a/2", value=1),
        operation("add", "/a/3", value=1),
        operation("add", "/a/01x", value=1),
        operation("add", "/b/c", value=1),
        operation("test", "/a/0", value=2),
        operation("turn", "/a"),
        operation("add", "a", value=1),
        operation("replace", "", value=[]),
        {"op": "add"},
        "add",
    ],
)
def test_a_json_patch_that_does_not_apply_is_refused(wrong: Any) -> None:
    with pytest.raises(PatchError):
        json_patch({"a": [1, 2]}, [wrong])


def test_a_merge_patch_merges_maps_replaces_lists_and_removes_by_null() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 5}
    patch = {"a": {"b": None, "x": {"y": None, "z": 1}}, "d": [3], "e": {"f": 1}}
    assert merge_patch(before, patch) == {"a": {"c": 2, "x": {"z": 1}}, "d": [3], "e": {"f": 1}}


def test_a_strategic_merge_patch_merges_items_by_key_whose_default_may_be_left_out() -> None:
    before = {"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}, {"port": 443}]}}
    patch = {
        "spec": {
            "$setElementOrder/ports": [{"port": 443}, {"port": 80}],
            "ports": [{"port": 80, "targetPort": 9090}, {"port": 53, "protocol": "UDP"}],
        }
    }
    assert strategic_merge(before, patch, SERVICE) == {
        "spec": {
            "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 9090},
                {"port": 443},
                {"port": 53, "protocol": "UDP"},
            ]
        }
    }


def test_a_strategic_merge_patch_knows_its_directives() -> None:
    containers = [{"name": "web", "image": "a", "args": ["x"]}, {"name": "log", "image": "b"}]
    before = {
        "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}},
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": containers, "tolerations": [{"key": "k"}]}},
        },
    }
    patch = {
        "metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "finalizers": ["c", "b"],
            "labels": {"$patch": "replace", "y": "2"},
        },
        "spec": {
            "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
            "template": {
                "spec": {
                    "containers": [{"name": "log", "$patch": "delete"}, {"name": "web", "args": ["y"]}],
                    "tolerations": [{"key": "other"}],
                }
            },
        },
    }
    assert strategic_merge(before, patch, DEPLOYMENT) == {
        "metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}},
        "spec": {
            "strategy": {"type": "Recreate"},
            "template": {
                "spec": {
                    "containers": [{"name": "web", "image": "a", "args": ["y"]}],
                    "tolerations": [{"key": "other"}],
                }
            },
        },
    }


def test_a_map_or_a_list_can_be_deleted_or_replaced_whole() -> None:
    before = {"spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}
    patch = {"spec": {"selector": {"$patch": "delete"}, "ports": [{"$patch": "replace"}, {"port": 1}]}}
    assert strategic_merge(before, patch, SERVICE) == {"spec": {"ports": [{"port": 1}]}}


def test_a_directive_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(PatchError):
        strategic_merge({}, {"spec": {"$patch": "turn"}}, SERVICE)
    with pytest.raises(PatchError):
        strategic_merge({}, {"spec": {"ports": [80]}}, SERVICE)


KEYS = st.sampled_from(
    ["op", "path", "value", "from", "a", "ports", "spec", "port", "$patch", "$retainKeys", "$deleteFromPrimitiveList/a"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "/a", "delete", "replace"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(obj=st.dictionaries(KEYS, values, max_size=3), patch=st.dictionaries(KEYS, values, max_size=3))
def test_whatever_is_sent_gives_an_object_or_is_refused(obj: dict[str, Any], patch: dict[str, Any]) -> None:
    ways: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: json_patch(obj, [patch, *patch.values()]),
        lambda: merge_patch(obj, patch),
        lambda: strategic_merge(obj, patch, SERVICE),
    )
    for way in ways:
        try:
            assert isinstance(way(), dict)
        except PatchError:
            continue
