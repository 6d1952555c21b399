"""The old object of a review before Kubernetes v1.23, which comes without its managedFields."""

from __future__ import annotations

import copy

import pytest

from tests.reviews import FLUX_LABELS, NOW, Cluster, Json, review, snapshot_of
from webhook.admission import ObjectRef
from webhook.decision import LookupNeeded, decide
from webhook.policy import Snapshot

POLICIES = """
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: p}
spec: {mode: enforce, protect: {%s}}
"""
DECLARED = snapshot_of(POLICIES % "declared: true")


def config_map(*declared: str, **data: str) -> Json:
    """A ConfigMap of Flux's with the keys that it declares; without any, it has no managedFields."""
    metadata: Json = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": FLUX_LABELS}
    if declared:
        fields: Json = {"f:data": {f"f:{key}": {} for key in declared}}
        entry = {"manager": "kustomize-controller", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields}
        metadata["managedFields"] = [entry]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


STORED = config_map("a", a="1", b="1")
OLD = config_map(a="1", b="1")


def test_what_is_declared_is_read_from_the_stored_object() -> None:
    refused = Cluster([STORED]).decide(review(OLD, config_map("b", a="2", b="1")), DECLARED)
    assert [field.path for each in refused.violations for field in each.fields] == ["data.a"]
    assert Cluster([STORED]).decide(review(OLD, config_map("a", a="1", b="2")), DECLARED).allowed


def test_taking_the_ownership_away_is_found_out() -> None:
    cleared = Cluster([STORED]).decide(review(OLD, config_map(a="1", b="1")), DECLARED)
    assert [field.path for each in cleared.violations for field in each.fields] == ["metadata.managedFields"]


def test_an_apply_that_changes_nothing_but_the_ownership_is_found_out() -> None:
    shown = config_map("b", a="1", b="1")  # by the server, as old and as new object
    taken = Cluster([STORED]).decide(review(shown, shown), DECLARED)
    assert [field.path for each in taken.violations for field in each.fields] == ["metadata.managedFields"]
    assert Cluster([shown]).decide(review(shown, shown), DECLARED).allowed
    later = {**STORED, "metadata": {**STORED["metadata"], "resourceVersion": "8"}}
    assert Cluster([later]).decide(review(shown, shown), DECLARED).allowed
    with pytest.raises(LookupNeeded) as asked:
        decide(review(shown, shown), DECLARED, {}, NOW)
    assert (asked.value.required, asked.value.optional) == (False, True)


def test_the_stored_object_is_asked_for_at_the_version_that_is_written_to() -> None:
    with pytest.raises(LookupNeeded) as asked:
        decide(review(OLD, config_map("a", a="1", b="2")), DECLARED, {}, NOW)
    assert asked.value.ref == ObjectRef("", "v1", "configmaps", "shop", "web", "7")
    assert (asked.value.required, asked.value.optional) == (False, False)


def test_an_object_that_came_in_its_place_says_nothing_of_it() -> None:
    other = copy.deepcopy(STORED)
    other["metadata"]["uid"] = "another"
    assert Cluster([other]).decide(review(OLD, config_map("b", a="2", b="1")), DECLARED).allowed


@pytest.mark.parametrize(
    ("old", "policies"),
    [(STORED, DECLARED), (OLD, snapshot_of(POLICIES % "fields: [data.c]"))],
    ids=["it is there already", "no policy is about what is declared"],
)
def test_nothing_is_looked_up_where_that_changes_nothing(old: Json, policies: Snapshot) -> None:
    assert decide(review(old, config_map("a", a="1", b="2")), policies, {}, NOW).allowed


def test_a_custom_resource_whose_kind_has_the_name_of_a_part_is_an_object_like_any_other() -> None:
    old = {**config_map("a", a="1"), "apiVersion": "example.com/v1", "kind": "EphemeralContainers"}
    old["metadata"]["managedFields"][0]["apiVersion"] = "example.com/v1"
    new = {**old, "data": {"a": "2"}}
    refused = decide(review(old, new), DECLARED, {}, NOW)
    assert [field.path for each in refused.violations for field in each.fields] == ["data.a"]
