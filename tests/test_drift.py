"""Whose fields are drift, by managedFields alone: people's, and nothing that controllers write for a living."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from webhook.admission import ObjectRef
from webhook.drift import Inspector
from webhook.drift_model import DriftedField, Target
from webhook.policy import Snapshot
from webhook.policy_compiler import Texts, compile_texts

Object = dict[str, Any]

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MADE, LATER = "2026-01-31T08:00:00Z", "2026-01-31T09:00:00Z"
FLUX = {"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
TARGET = Target(ref=ObjectRef("apps", "v1", "deployments", "shop", "web"), kind="Deployment")
WIDGET = Target(ref=ObjectRef("example.com", "v1", "widgets", "shop", "web"), kind="Widget")
IMAGE: Object = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"main"}': {"f:image": {}}}}}}}
NAMED: Object = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:name": {}}}}}}}


def snapshot(**spec: Any) -> Snapshot:
    """One policy about declared fields, with more in its specification; `config` is the configuration's."""
    config = {"spec": spec.pop("config", {}), "metadata": {"name": "default"}, "kind": "DriftwallConfig"}
    policy = {"kind": "DriftPolicy", "metadata": {"name": "all"}, "spec": {"protect": {"declared": True}, **spec}}
    text = yaml.safe_dump_all([{"apiVersion": "driftwall.io/v1alpha1", **each} for each in (config, policy)])
    return compile_texts(Texts(texts=(("all.yaml", text.encode()),), problems=()), "all.yaml")


def entry(manager: str, fields: Object, *, time: str = LATER, operation: str = "Update", **more: str) -> Object:
    return {
        "manager": manager,
        "operation": operation,
        "apiVersion": "apps/v1",
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **more,
    }


OF_FLUX = entry("kustomize-controller", NAMED, time=MADE, operation="Apply")


def live(*entries: Object, **metadata: Any) -> Object:
    container = {"name": "main", "image": "shop:2", "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "labels": FLUX,
            "creationTimestamp": MADE,
            "managedFields": list(entries),
            **metadata,
        },
        "spec": {"replicas": 3, "minReadySeconds": 5, "template": {"spec": {"containers": [container]}}},
        "status": {"replicas": 3},
    }


def inspector(policies: Snapshot | None = None, **more: Any) -> Inspector:
    return Inspector(snapshot=policies or snapshot(), now=NOW, objects={}, **more)


def inspected(obj: Object, policies: Snapshot | None = None, **more: Any) -> dict[str, DriftedField]:
    return {field.path: field for field in inspector(policies, **more).inspect(obj, TARGET)}


REPLICAS: Object = {"f:spec": {"f:replicas": {}}}
PATH = "spec.template.spec.containers[name=main].image"


def test_a_field_that_kubectl_owns_is_drift_with_who_and_when() -> None:
    (field,) = inspected(live(OF_FLUX, entry("kubectl-edit", IMAGE))).values()
    assert (field.path, field.change, field.live) == (PATH, "set", "shop:2")
    assert (field.manager, field.at, field.policies) == ("kubectl-edit", datetime(2026, 1, 31, 9, tzinfo=UTC), ("all",))


@pytest.mark.parametrize(
    "entry_of_other",
    [
        entry("kube-controller-manager", REPLICAS),
        entry("kube-controller-manager", REPLICAS, subresource="scale"),
        entry("kubelet", {"f:status": {"f:replicas": {}}}),
        entry("kubectl-edit", {"f:status": {"f:replicas": {}}}, subresource="status"),
        entry("before-first-apply", IMAGE),
        entry("helm-controller", IMAGE),
        entry("driftwall", {"f:metadata": {"f:labels": {"f:driftwall.io/drifted": {}}}}),
        entry("kubectl-edit", {"f:metadata": {"f:annotations": {"f:driftwall.io/break-glass": {}}}}),
    ],
    ids=lambda each: f"{each['manager']} {each['fieldsV1']}",
)
def test_what_the_control_plane_and_the_tools_write_is_none(entry_of_other: Object) -> None:
    assert inspected(live(OF_FLUX, entry_of_other), all_managers=True) == {}


def test_a_field_that_flux_owns_as_well_has_its_value() -> None:
    both = entry("kustomize-controller", IMAGE, time=MADE, operation="Apply")
    assert inspected(live(both, entry("kubectl-edit", IMAGE))) == {}


def test_what_the_object_was_made_with_before_flux_took_it_over_is_none() -> None:
    taken_over = {**OF_FLUX, "time": LATER}
    by_hand = entry("kubectl-create", IMAGE, time=MADE)
    assert inspected(live(taken_over, by_hand)) == {}
    assert set(inspected(live(taken_over, {**by_hand, "time": LATER}))) == {PATH}


def test_of_a_client_side_apply_only_what_it_declared_counts_and_not_its_defaults() -> None:
    pull: Object = {'k:{"name":"main"}': {"f:image": {}, "f:imagePullPolicy": {}}}
    fields = {
        "f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": pull}}},
    }
    applied = '{"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "shop:2"}]}}}}'
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": applied}
    obj = live(OF_FLUX, entry("kubectl-client-side-apply", fields), annotations=annotations)
    assert set(inspected(obj)) == {PATH}


def test_an_added_container_is_one_finding_and_not_one_for_each_default() -> None:
    whole: Object = {'k:{"name":"main"}': {".": {}, "f:name": {}, "f:image": {}, "f:imagePullPolicy": {}}}
    added = {"f:spec": {"f:template": {"f:spec": {"f:containers": whole}}}}
    tool = entry("kustomize-controller", {"f:metadata": {"f:labels": {"f:app": {}}}}, time=MADE, operation="Apply")
    (field,) = inspected(live(tool, entry("kubectl-edit", added))).values()
    assert (field.path, field.change) == ("spec.template.spec.containers[name=main]", "added")


def test_a_data_that_the_tool_owned_empty_is_not_its_own_once_somebody_has_filled_it() -> None:
    target = Target(ref=ObjectRef("", "v1", "secrets", "shop", "keys"), kind="Secret")
    tool = entry("kustomize-controller", {"f:data": {}}, time=MADE)
    hand = entry("kubectl-patch", {"f:data": {"f:password": {}}})
    obj = {**live(tool, hand), "apiVersion": "v1", "kind": "Secret"}
    (field,) = inspector().inspect({key: obj[key] for key in ("apiVersion", "kind", "metadata")}, target)
    assert (field.path, field.live) == ("data.password", "(hidden)")


# Managers that nobody knows


UNKNOWN = entry("some-operator", {"f:metadata": {"f:finalizers": {'v:"example.com/x"': {}}}})


def test_what_controllers_leave_in_the_metadata_of_others_is_counted_and_no_drift() -> None:
    obj = live(OF_FLUX, UNKNOWN, finalizers=["example.com/x"])
    looking = inspector()
    assert looking.inspect(obj, TARGET) == ()
    assert looking.undecided == {"some-operator": 1}
    assert set(inspected(obj, all_managers=True)) == {"metadata.finalizers[=example.com/x]"}


def test_an_opt_out_is_drift_whoever_set_it() -> None:
    key = "kustomize.toolkit.fluxcd.io/reconcile"
    other = entry("some-operator", {"f:metadata": {"f:annotations": {f"f:{key}": {}}}})
    obj = live(OF_FLUX, other, annotations={key: "disabled"})
    assert set(inspected(obj)) == {f"metadata.annotations['{key}']"}


def test_a_manager_that_nobody_knows_is_suspected_in_a_built_in_kind_and_trusted_with_its_own() -> None:
    other = entry("some-operator", IMAGE)
    assert set(inspected(live(OF_FLUX, other))) == {PATH}
    custom = {**live(OF_FLUX, entry("some-operator", REPLICAS)), "apiVersion": "example.com/v1", "kind": "Widget"}
    assert inspector().inspect(custom, WIDGET) == ()
    assert [each.path for each in inspector(all_managers=True).inspect(custom, WIDGET)] == []  # of an automation
    by_hand = {**custom, "metadata": {**custom["metadata"], "managedFields": [OF_FLUX, entry("kubectl", REPLICAS)]}}
    assert [each.path for each in inspector().inspect(by_hand, WIDGET)] == ["spec.replicas"]


def test_a_field_that_an_automation_is_given_is_drift_only_where_kubectl_wrote_it() -> None:
    assert inspected(live(OF_FLUX, entry("keda-operator", REPLICAS))) == {}
    assert set(inspected(live(OF_FLUX, entry("kubectl", REPLICAS, subresource="scale")))) == {"spec.replicas"}


def test_what_a_policy_ignores_and_what_no_policy_is_about_is_none() -> None:
    obj = live(OF_FLUX, entry("kubectl-edit", IMAGE))
    assert inspected(obj, snapshot(protect={"declared": True, "ignore": ["spec.template"]})) == {}
    assert inspected(obj, snapshot(match={"excludeNamespaces": ["shop"]})) == {}
    assert inspected(obj, snapshot(protect={"fieldSets": ["openedPorts"]})) == {}
    assert set(inspected(obj, snapshot(protect={"fieldSets": ["images"]}))) == {PATH}


def test_the_fields_of_a_tag_count_with_the_person_it_names() -> None:
    drift = '{"by":"alice","at":"2026-01-31T10:00:00Z","policy":"all","fields":["spec.minReadySeconds"],"reason":""}'
    obj = live(OF_FLUX, labels={**FLUX, "driftwall.io/drifted": "true"}, annotations={"driftwall.io/drift": drift})
    (field,) = inspected(obj).values()
    assert (field.path, field.live, field.user, field.evidence) == ("spec.minReadySeconds", 5, "alice", "tag")


def test_a_tag_that_a_controller_has_copied_is_none() -> None:
    drift = '{"by":"alice","at":"2026-01-31T10:00:00Z","policy":"all","fields":["spec.minReadySeconds"],"reason":""}'
    assert inspected(live(OF_FLUX, annotations={"driftwall.io/drift": drift})) == {}


# Compared with what was declared


def compared(declared: Object, obj: Object, policies: Snapshot | None = None, **more: Any) -> dict[str, str]:
    fields = inspector(policies, **more).compare(declared, obj, TARGET)
    return {field.path: field.manager for field in fields}


def changed(obj: Object, **spec: Any) -> Object:
    return {**obj, "spec": {**obj["spec"], **spec}}


def test_what_differs_is_told_with_its_owner_unless_the_control_plane_owns_it() -> None:
    obj = live(OF_FLUX, entry("kubectl-edit", {"f:spec": {"f:minReadySeconds": {}}}))
    assert compared(changed(obj, minReadySeconds=0), obj) == {"spec.minReadySeconds": "kubectl-edit"}
    scaled = live(OF_FLUX, entry("kube-controller-manager", REPLICAS, subresource="scale"))
    assert compared(changed(scaled, replicas=1), scaled) == {}


def test_replicas_that_nobody_is_known_to_have_written_are_drift_unless_an_autoscaler_is_there() -> None:
    obj = live(OF_FLUX)
    assert compared(changed(obj, replicas=1), obj) == {"spec.replicas": ""}
    assert compared(changed(obj, replicas=1), obj, is_scaled=lambda target: target is TARGET) == {}


def test_what_a_policy_ignores_differs_as_it_likes() -> None:
    obj = live(OF_FLUX)
    ignoring = snapshot(protect={"declared": True, "ignore": ["spec.minReadySeconds"]})
    assert compared(changed(obj, minReadySeconds=0), obj, ignoring) == {}
