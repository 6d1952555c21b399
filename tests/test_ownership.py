from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import shapes
from tests.places import holds
from webhook.diff import differences
from webhook.disowning import disowned
from webhook.globs import Globs
from webhook.listkeys import Schema
from webhook.ownership import declared, field_documents, owned
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED

FLUX = Globs(["kustomize-controller"])
LABEL: dict[str, Any] = {"f:metadata": {"f:labels": {"f:app": {}}}}


def entry(manager: str, fields: Any, operation: str = "Apply", **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "example.com/v1", "fieldsV1": fields, **more}


def widget(*entries: Any, spec: Any = None, annotations: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "annotations": annotations or {}, "managedFields": list(entries)},
        "spec": spec if spec is not None else {},
        **more,
    }


def applied(spec: Any, **more: Any) -> dict[str, str]:
    return {LAST_APPLIED: json.dumps({"apiVersion": "example.com/v1", "kind": "Widget", "spec": spec, **more})}


# ── last-applied-configuration ───────────────────────────────────────────────────────────────────────────────────────


def test_last_applied_tells_what_was_declared_and_the_server_s_defaults_are_not() -> None:
    fields = {"f:metadata": {"f:annotations": {f"f:{LAST_APPLIED}": {}}}, "f:spec": {"f:a": {}, "f:defaulted": {}}}
    obj = widget(
        entry("argocd-controller", fields, "Update"), spec={"a": 1, "defaulted": 2}, annotations=applied({"a": 1})
    )
    found = declared(obj, Globs(["argocd-controller"]))
    assert holds(found, ("spec", "a"))
    assert not holds(found, ("spec", "defaulted"))


def test_last_applied_of_a_person_does_not_count() -> None:
    fields: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{LAST_APPLIED}": {}}}}
    person = widget(entry("kubectl-client-side-apply", fields, "Update"), annotations=applied({"a": 1}))
    assert declared(person, FLUX) is None


def test_last_applied_counts_where_nobody_is_on_record_for_it() -> None:
    assert holds(declared(widget(annotations=applied({"a": 1})), FLUX), ("spec", "a"))
    assert holds(declared(widget(entry("eve", LABEL), annotations=applied({"a": 1})), FLUX), ("spec", "a"))


def test_empty_annotations_in_last_applied_declare_nothing() -> None:
    obj = widget(annotations=applied({}, metadata={"name": "w", "annotations": {}, "labels": {"app": "w"}}))
    found = declared(obj, FLUX)
    assert not holds(found, ("metadata", "annotations", "x"))
    assert holds(found, ("metadata", "labels", "app"))


@pytest.mark.parametrize("text", ["", "null", "[]", "1", "{", '"x"', "[" * 100_000, '{"metadata":[]}'])
def test_last_applied_that_is_no_object_declares_nothing(text: str) -> None:
    assert not holds(declared(widget(annotations={LAST_APPLIED: text}), FLUX), ("spec", "a"))


def test_what_was_declared_as_string_data_of_a_secret_is_declared_as_data() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"managedFields": [entry("kustomize-controller", {"f:stringData": {"f:a": {}}}, apiVersion="v1")]},
    }
    assert holds(declared(secret, FLUX), ("data", "a"))
    assert not holds(declared(secret, FLUX), ("data", "b"))
    client_side = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"annotations": {LAST_APPLIED: json.dumps({"stringData": {"a": "x"}, "data": {"c": "eA=="}})}},
    }
    found = declared(client_side, FLUX)
    assert [key for key in "abc" if holds(found, ("data", key))] == ["a", "c"]


def test_declared_fields_of_config_sync_count_on_its_objects_alone() -> None:
    obj = widget(annotations={DECLARED_FIELDS: json.dumps({"f:spec": {"f:a": {}}})})
    assert holds(declared(obj, FLUX, config_sync=True), ("spec", "a"))
    assert declared(obj, FLUX) is None


# ── whose entries ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_entries_of_the_tool_count_and_not_those_of_others_or_of_subresources() -> None:
    one: dict[str, Any] = {"f:spec": {"f:a": {}}}
    two: dict[str, Any] = {"f:spec": {"f:b": {}}}
    three: dict[str, Any] = {"f:status": {"f:c": {}}}
    obj = widget(
        entry("kustomize-controller", one),
        entry("alice", two),
        entry("kustomize-controller", three, "Update", subresource="status"),
    )
    assert owned(obj, FLUX) == [one]
    assert field_documents([obj, obj], FLUX) == ([one, three], [two])


def test_fields_of_another_version_that_cannot_be_found_make_their_parent_declared_whole() -> None:
    fields = {"f:spec": {"f:metrics": {}, "f:behavior": {"f:x": {}}, "f:gone": {}}, **LABEL}
    old_version = entry("kustomize-controller", fields, apiVersion="example.com/v2")
    assert owned(widget(old_version, spec={"metrics": 1, "behavior": {}, "gone": 1}), FLUX) == [
        {"f:spec": {"f:metrics": {}, "f:behavior": {}, "f:gone": {}}, **LABEL}
    ]
    assert owned(widget(old_version, spec={"behavior": {"x": 1}}), FLUX) == [{"f:spec": {}, **LABEL}]


@pytest.mark.parametrize(
    "managed_fields", [None, [], {}, "x", [None], [1], [{}], [{"manager": None, "fieldsV1": None}], [{"fieldsV1": []}]]
)
def test_managed_fields_of_odd_shape_declare_nothing(managed_fields: Any) -> None:
    obj = {"apiVersion": "v1", "kind": "X", "metadata": {"managedFields": managed_fields}}
    assert declared(obj, FLUX) is None
    assert field_documents([obj, None], FLUX) == ([], [])
    assert not disowned(obj, obj, FLUX)


# ── disowned ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SPEC: dict[str, Any] = {"a": 1, "l": [{"name": "x", "v": 1}]}
OWNED: dict[str, Any] = {
    "f:spec": {"f:a": {}, "f:l": {'k:{"name":"x"}': {".": {}, "f:name": {}, "f:v": {}}}, "f:absent": {}}
}


def lost(before: Any, after: Any, spec: Any = SPEC) -> bool:
    return disowned(widget(before, spec=SPEC), widget(after, spec=spec), FLUX)


def test_ownership_that_stays_is_not_lost() -> None:
    assert not lost(entry("kustomize-controller", OWNED), entry("kustomize-controller", OWNED))
    more = {"f:spec": {**OWNED["f:spec"], "f:more": {}}}
    assert not lost(entry("kustomize-controller", OWNED), entry("kustomize-controller", more))
    assert not lost(entry("kustomize-controller", OWNED), entry("kustomize-controller", {"f:spec": {}}))


def test_ownership_of_a_field_that_is_not_there_cannot_be_lost() -> None:
    less = {"f:spec": {key: value for key, value in OWNED["f:spec"].items() if key != "f:absent"}}
    assert not lost(entry("kustomize-controller", OWNED), entry("kustomize-controller", less))


@pytest.mark.parametrize(
    "after",
    [
        {},
        entry("alice", OWNED),
        entry("kustomize-controller", OWNED, subresource="status"),
        entry("kustomize-controller", {"f:spec": {"f:a": {}}}),
        entry("kustomize-controller", {"f:spec": {"f:a": {}, "f:l": {'k:{"name":"x"}': {".": {}, "f:name": {}}}}}),
        entry("kustomize-controller", {"f:spec": {"f:l": OWNED["f:spec"]["f:l"]}}),
    ],
)
def test_ownership_that_vanishes_from_an_unchanged_field_is_lost(after: dict[str, Any]) -> None:
    assert lost(entry("kustomize-controller", OWNED), after)


def test_ownership_of_a_changed_field_moves_and_is_not_lost() -> None:
    before = entry("kustomize-controller", OWNED)
    without_a = entry("kustomize-controller", {"f:spec": {"f:l": OWNED["f:spec"]["f:l"]}})
    assert lost(before, without_a)
    for other in ({"a": 2}, {"a": {"below": 1}}, {"a": True}, {}):
        assert not lost(before, without_a, {**other, "l": SPEC["l"]})
    assert not lost(before, without_a, None)
    assert lost(before, without_a, {"a": 1, "l": []})
    without_item = entry("kustomize-controller", {"f:spec": {"f:a": {}}})
    assert not lost(before, without_item, {"a": 1, "l": [{"name": "y", "v": 1}]})
    assert not lost(before, without_item, {"a": 1})
    assert lost(before, without_item, {"a": 2, "l": SPEC["l"]})
    assert lost(before, without_item, {"a": 1, "l": [{"name": "y"}, {"name": "x", "v": 2}]})


@st.composite
def takings(draw: st.DrawFn) -> tuple[shapes.Shape, Any, Any, Any, Any]:
    """A shape, two values of it, what was owned of the first, and what is still owned of it."""
    shape = draw(shapes.map_shapes)
    old, other = draw(shapes.values(shape)), draw(shapes.values(shape))
    new = {name: draw(st.sampled_from([value, other.get(name, value)])) for name, value in old.items()}
    fields = shapes.fields_of(shape, old)
    return shape, old, new, fields, draw(remaining(fields))


@st.composite
def remaining(draw: st.DrawFn, fields: Any) -> Any:
    kept = {key: node for key, node in fields.items() if draw(st.integers(0, 4))}
    return {key: draw(remaining(node)) if node and draw(st.booleans()) else node for key, node in kept.items()}


@given(takings())
def test_what_is_known_of_the_changes_makes_no_difference_to_what_ownership_is_lost(
    taking: tuple[shapes.Shape, Any, Any, Any, Any],
) -> None:
    _, old, new, before, after = taking
    one, other = (
        widget(entry("kustomize-controller", {"f:spec": fields}), spec=spec)
        for fields, spec in ((before, old), (after, new))
    )
    schema = Schema.of("example.com", "Widget", [{"f:spec": before}])
    found = differences({"spec": old}, {"spec": new}, schema)
    assert disowned(one, other, FLUX, found) is disowned(one, other, FLUX)


def test_entries_that_no_api_server_writes_are_looked_at_all_the_same() -> None:
    odd, kept = (entry("kustomize-controller", fields) for fields in ({"f:spec": "text"}, LABEL))
    one, other = widget(odd, spec={"a": 1}), widget(kept, spec={"a": 2})
    found = differences({"spec": {"a": 1}}, {"spec": {"a": 2}}, Schema.of("example.com", "Widget", []))
    assert disowned(one, other, FLUX, found) is disowned(one, other, FLUX)


def test_ownership_of_an_item_is_kept_by_its_own_key_alone() -> None:
    other_keys: dict[str, Any] = {"f:spec": {"f:a": {}, "f:l": {'k:{"id":1}': {}}, "f:absent": {}}}
    assert lost(entry("kustomize-controller", OWNED), entry("kustomize-controller", other_keys))


def test_ownership_of_what_is_owned_whole_moves_with_any_change_of_it() -> None:
    document: dict[str, Any] = {"f:spec": {"f:l": {}, "f:a": {}}}
    less: dict[str, Any] = {"f:spec": {"f:a": {}}}
    before, after = entry("kustomize-controller", document), entry("kustomize-controller", less)
    assert lost(before, after)
    assert not lost(before, after, {"a": 1, "l": [{"name": "x", "v": 2}]})


def test_the_entry_of_a_client_side_apply_is_a_source_too() -> None:
    fields = {"f:metadata": {"f:annotations": {f"f:{LAST_APPLIED}": {}}}, "f:spec": {"f:a": {}}}
    annotations = applied({"a": 1})

    def obj(*entries: Any) -> dict[str, Any]:
        return widget(*entries, spec={"a": 1}, annotations=annotations)

    argocd = Globs(["argocd-controller"])
    mine = entry("argocd-controller", fields, "Update")
    assert not disowned(obj(mine), obj(mine), argocd)
    assert disowned(obj(mine), obj(entry("eve", fields, "Update")), argocd)
    assert disowned(obj(mine), obj({}), argocd)
    assert disowned(obj(mine), obj(), argocd)


def test_thousands_of_items_are_looked_through_once() -> None:
    count = 3000
    spec = {"l": [{"name": f"i{number}"} for number in range(count)]}
    document: dict[str, Any] = {
        "f:spec": {"f:l": {f'k:{{"name":"i{number}"}}': {".": {}, "f:name": {}} for number in range(count)}}
    }
    less = {"f:spec": {"f:l": {key: node for key, node in document["f:spec"]["f:l"].items() if '"i2999"' not in key}}}
    old = widget(entry("kustomize-controller", document), spec=spec)
    new = widget(entry("kustomize-controller", less), spec=spec)
    assert disowned(old, new, FLUX)
    changed = widget(entry("kustomize-controller", less), spec={"l": spec["l"][:-1]})
    assert not disowned(old, changed, FLUX)
