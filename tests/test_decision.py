from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import shapes
from tests.reviews import ALICE, FLUX, FLUX_LABELS, Cluster, Json, person, plain, review, service_account, snapshot_of
from webhook.admission import parse
from webhook.decision import Decision, FieldChange
from webhook.errors import LookupFailed, MalformedReview

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller, flux-system/helm-controller]
      fieldManagers: [kustomize-controller, helm-controller]
    - name: argocd
      serviceAccounts: [argocd/argocd-application-controller]
      fieldManagers: [argocd-controller]
  automation:
    - name: injector
      serviceAccounts: [cert-manager/cainjector]
      fields: [spec.caBundle]
"""


def policy(protect: str, name: str = "p", mode: str = "enforce", match: str = "{}", more: str = "") -> str:
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: {mode}, protect: {protect}, match: {match}{more}}}
"""


DECLARED = CONFIG + policy("{declared: true}", "declared")
ANN = "kubectl.kubernetes.io/last-applied-configuration"
TRACKING = "argocd.argoproj.io/tracking-id"

LABELS_OWNED: Json = {"f:labels": {f"f:{key}": {} for key in FLUX_LABELS}}


def entry(manager: str, fields: Json, operation: str = "Apply", **more: str) -> Json:
    return {
        "manager": manager,
        "operation": operation,
        "apiVersion": "example.com/v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **more,
    }


def widget(spec: Any = None, *entries: Json, **metadata: Any) -> Json:
    """A custom resource that Flux manages, unless ``labels`` say something else."""
    meta: Json = {"name": "w", "namespace": "shop", "labels": dict(FLUX_LABELS), "managedFields": list(entries)}
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": meta | metadata,
        "spec": spec if spec is not None else {},
    }


def owned(spec: Json) -> Json:
    return entry("kustomize-controller", {"f:metadata": LABELS_OWNED, "f:spec": spec})


ITEMS: Json = {"items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}], "rules": [{"n": 1}, {"n": 2}]}
ITEMS_OWNED = owned(
    {
        "f:items": {
            'k:{"name":"a"}': {".": {}, "f:name": {}, "f:v": {}},
            'k:{"name":"b"}': {".": {}, "f:name": {}, "f:v": {}},
        },
        "f:rules": {},
    }
)


def decide(old: Json | None, new: Json | None, policies: str = DECLARED, *there: Json, **how: Any) -> Decision:
    return Cluster(there).decide(review(old, new, **how), snapshot_of(policies))


def found(decision: Decision) -> list[str]:
    """The fields that the write is refused for."""
    assert not decision.allowed
    return [field.path for violation in decision.violations for field in violation.fields]


def passes(old: Json | None, new: Json | None, policies: str = DECLARED, *there: Json, **how: Any) -> bool:
    decision = decide(old, new, policies, *there, **how)
    assert decision.allowed is (not [each for each in decision.violations if each.mode == "enforce"])
    return decision.allowed


# ── 1. in scope ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_in_an_exempt_namespace_is_not_judged() -> None:
    inside = widget({"a": 1}, owned({"f:a": {}}), namespace="kube-system")
    assert passes(inside, {**inside, "spec": {"a": 2}})


def test_a_label_on_the_namespace_exempts_nothing() -> None:
    old, new = widget({"a": 1}, owned({"f:a": {}})), widget({"a": 2}, owned({"f:a": {}}))
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"driftwall.io/exempt": "true", "control-plane": "x"}},
    }
    assert found(decide(old, new, DECLARED, namespace)) == ["spec.a"]


def test_a_write_that_no_policy_selects_is_allowed() -> None:
    old, new = widget({"a": 1}, owned({"f:a": {}})), widget({"a": 2}, owned({"f:a": {}}))
    for match in (
        "{namespaces: [other]}",
        "{excludeNamespaces: ['sh*']}",
        "{operations: [DELETE]}",
        "{tools: [argocd]}",
        "{resources: [{apiGroups: [example.com], resources: [gadgets]}]}",
        "{resources: [{apiGroups: [''], resources: ['*/*']}]}",
        "{objectSelector: {matchLabels: {tier: gold}}}",
    ):
        assert passes(old, new, CONFIG + policy("{declared: true}", match=match)), match


def test_the_object_selector_looks_at_the_old_and_the_new_object() -> None:
    policies = CONFIG + policy("{declared: true}", match="{objectSelector: {matchLabels: {tier: gold}}}")
    plain = widget({"a": 1}, owned({"f:a": {}}))
    gold = widget({"a": 2}, owned({"f:a": {}}), labels={**FLUX_LABELS, "tier": "gold"})
    assert found(decide(plain, gold, policies)) == ["spec.a"]
    assert found(decide(gold, plain, policies)) == ["spec.a"]


def test_the_namespace_selector_asks_for_the_namespace_only_when_the_write_would_violate_the_policy() -> None:
    policies = CONFIG + policy("{declared: true}", match="{namespaceSelector: {matchLabels: {env: prod}}}")
    old, new = widget({"a": 1}, owned({"f:a": {}})), widget({"a": 2}, owned({"f:a": {}}))

    def namespace(env: str) -> Json:
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"env": env}}}

    assert found(decide(old, new, policies, namespace("prod"))) == ["spec.a"]
    assert passes(old, new, policies, namespace("test"))
    assert passes(old, old, policies)
    with pytest.raises(LookupFailed):
        decide(old, new, policies)


# ── 2. managed ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_object_that_no_tool_manages_is_left_alone() -> None:
    old, new = widget({"a": 1}, labels={}), widget({"a": 2}, labels={"x": "y"})
    assert passes(old, new)
    assert passes(None, new)
    assert passes(old, None)


def test_a_policy_for_all_objects_judges_those_that_no_tool_manages_too() -> None:
    policies = CONFIG + policy("{fields: [spec.a], deletion: true}", match="{scope: All}")
    old, new = widget({"a": 1}, labels={}), widget({"a": 2}, labels={})
    assert found(decide(old, new, policies)) == ["spec.a"]
    assert found(decide(None, new, policies)) == ["spec.a"]
    assert not decide(old, None, policies).allowed
    assert passes(old, {**old, "spec": {"a": 1, "b": 2}}, policies)


def test_an_unmanaged_object_is_judged_by_the_fields_alone_and_has_no_marker_to_guard() -> None:
    policies = CONFIG + policy("{fields: [spec.a]}", match="{scope: All}")
    old = widget({"a": 1}, labels={})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}
    assert passes(old, widget({"a": 1}, labels={}, ownerReferences=[owner]), policies)


def test_the_decision_names_the_tool_and_the_application() -> None:
    managed_by = decide(widget(), widget()).managed_by
    assert managed_by is not None
    assert (managed_by.tool, managed_by.application) == ("flux", "flux-system/shop")
    assert decide(widget(labels={}), widget(labels={})).managed_by is None


@pytest.mark.parametrize("key", FLUX_LABELS)
def test_stripping_the_marker_is_denied(key: str) -> None:
    stripped = {k: v for k, v in FLUX_LABELS.items() if k != key}
    assert found(decide(widget(), widget(labels=stripped))) == [f"metadata.labels['{key}']"]
    assert found(decide(widget(), widget(labels=None))) == ["metadata.labels"]
    assert found(decide(widget(), widget(labels={}))) == sorted(f"metadata.labels['{k}']" for k in FLUX_LABELS)


def test_stripping_the_marker_and_changing_a_field_in_one_write_is_denied_for_both() -> None:
    old = widget({"a": 1}, owned({"f:a": {}}))
    new = widget({"a": 2}, owned({}), labels={"kustomize.toolkit.fluxcd.io/name": "shop"})
    assert found(decide(old, new)) == ["metadata.labels['kustomize.toolkit.fluxcd.io/namespace']", "spec.a"]


def test_a_forged_marker_is_denied_on_create_and_on_update() -> None:
    forged = sorted(f"metadata.labels['{key}']" for key in FLUX_LABELS)
    assert found(decide(None, widget())) == forged
    assert found(decide(widget(labels={}), widget())) == forged


def test_a_marker_that_was_copied_from_another_object_is_none() -> None:
    copied = {TRACKING: "shop:example.com/Widget:shop/other"}
    assert passes(None, widget({"a": 1}, labels={}, annotations=copied))
    assert passes(None, widget({"a": 1}, ownerReferences=[{"kind": "X", "uid": "u", "controller": True}]))


def test_the_marker_of_a_second_tool_cannot_be_added_by_hand() -> None:
    second = widget(annotations={TRACKING: "shop:example.com/Widget:shop/w"})
    assert found(decide(widget(), second)) == [f"metadata.annotations['{TRACKING}']"]


@pytest.mark.parametrize("where", ["labels", "annotations"])
@pytest.mark.parametrize("key", ["reconcile", "prune", "ssa", "force"])
def test_what_ends_the_tool_s_care_is_denied_wherever_the_tool_looks_for_it(where: str, key: str) -> None:
    name = f"kustomize.toolkit.fluxcd.io/{key}"
    old = widget(annotations={})
    new = widget(annotations={})
    new["metadata"][where] = {**old["metadata"][where], name: "disabled"}
    assert found(decide(old, new)) == [f"metadata.{where}['{name}']"]


# ── 3. who writes ────────────────────────────────────────────────────────────────────────────────────────────────────


def changed(**spec: Any) -> tuple[Json, Json]:
    before: Json = {"a": 1, "caBundle": "", "replicas": 1}
    entries = owned({"f:a": {}, "f:caBundle": {}, "f:replicas": {}})
    return widget(before, entries), widget(before | spec, entries)


@pytest.mark.parametrize(
    ("user", "writer", "allowed"),
    [
        (ALICE, "untrusted", False),
        (person("kubernetes-admin", "system:masters"), "untrusted", False),
        (FLUX, "trusted:flux", True),
        (service_account("argocd", "argocd-application-controller"), "trusted:argocd", True),
        (service_account("flux-system", "kustomize-controller", uid=""), "untrusted", False),
        (service_account("flux-system-x", "kustomize-controller"), "untrusted", False),
        (service_account("kube-system", "evil"), "untrusted", False),
        (service_account("kube-system", "deployment-controller"), "system", True),
        (service_account("kube-system", "deployment-controller", uid=""), "untrusted", False),
        ({"username": "system:kube-controller-manager"}, "system", True),
        ({"username": "system:node:n1", "groups": ["system:nodes"]}, "system", True),
        ({"username": "system:node:n1", "groups": ["system:authenticated"]}, "untrusted", False),
        (service_account("cert-manager", "cainjector"), "automation:injector", False),
    ],
)
def test_who_writes_is_told_by_user_info_alone(user: Json, writer: str, *, allowed: bool) -> None:
    decision = decide(*changed(a=2), user=user)
    assert (decision.writer, decision.allowed) == (writer, allowed)


def test_a_field_manager_is_no_identity() -> None:
    old = widget({"a": 1}, owned({"f:a": {}}))
    written = review(old, widget({"a": 2}, owned({"f:a": {}})))
    body = json.loads(
        json.dumps(
            {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "request": {
                    "uid": written.uid,
                    "kind": {"group": "example.com", "version": "v1", "kind": "Widget"},
                    "resource": {"group": "example.com", "version": "v1", "resource": "widgets"},
                    "name": "w",
                    "namespace": "shop",
                    "operation": "UPDATE",
                    "userInfo": ALICE,
                    "object": plain(written.new),
                    "oldObject": plain(written.old),
                    "options": {"fieldManager": "kustomize-controller", "kind": "UpdateOptions"},
                },
            }
        )
    )
    spoofed = parse(json.dumps(body).encode())
    assert found(Cluster().decide(spoofed, snapshot_of(DECLARED))) == ["spec.a"]


def test_automation_may_write_the_fields_that_it_is_given_and_nothing_else() -> None:
    injector = service_account("cert-manager", "cainjector")
    assert passes(*changed(caBundle="x"), user=injector)
    assert found(decide(*changed(caBundle="x", a=2), user=injector)) == ["spec.a"]
    assert found(decide(*changed(caBundle="x"), user=service_account("cert-manager", "cainjector", uid=""))) == [
        "spec.caBundle"
    ]


def test_a_policy_s_own_trusted_writers_are_trusted_for_that_policy_alone() -> None:
    policies = DECLARED + policy("{fields: [spec.a]}", "own", more=", trusted: [{name: ci, users: [ci]}]")
    assert [violation.name for violation in decide(*changed(a=2), policies, user=person("ci")).violations] == [
        "declared"
    ]
    only = CONFIG + policy("{declared: true}", more=", trusted: [{name: ci, users: [ci]}]")
    decision = decide(*changed(a=2), only, user=person("ci"))
    assert (decision.allowed, decision.writer) == (True, "trusted:ci")


# ── 4. what changes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_that_changes_nothing_is_allowed() -> None:
    assert passes(widget(ITEMS, ITEMS_OWNED), widget(ITEMS, ITEMS_OWNED))


@pytest.mark.parametrize("key", ["resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"])
def test_what_the_server_keeps_is_no_change(key: str) -> None:
    assert passes(widget(), widget(**{key: "2"}), CONFIG + policy("{fields: [metadata]}"))


def test_the_times_in_managed_fields_are_no_change() -> None:
    old, new = owned({"f:a": {}}), owned({"f:a": {}})
    assert passes(widget({"a": 1}, old | {"time": "1"}), widget({"a": 1}, new | {"time": "2"}))


def test_status_is_no_change_where_it_is_a_subresource() -> None:
    everything = CONFIG + policy("{fields: ['*']}")
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": widget()["metadata"]}
    for how in ({}, {"subresource": "status"}):
        assert passes({**deployment, "status": {"a": 1}}, {**deployment, "status": {"a": 2}}, everything, **how)
    assert passes({**widget(), "status": 1}, {**widget(), "status": 2}, everything, subresource="status")


def test_status_is_a_field_like_any_other_of_a_custom_resource_written_as_a_whole() -> None:
    document = entry("kustomize-controller", {"f:metadata": LABELS_OWNED, "f:status": {"f:v": {}}})
    old, new = {**widget({}, document), "status": {"v": 1}}, {**widget({}, document), "status": {"v": 2}}
    assert found(decide(old, new)) == ["status.v"]
    forged = entry("alice", {"f:status": {"f:v": {}}}, "Update", subresource="status")
    new["metadata"]["managedFields"].append(forged)
    assert found(decide(old, new)) == ["status.v"]
    old["metadata"]["managedFields"].append(forged)
    assert found(decide(old, new)) == ["status.v"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (True, 1),
        (1, True),
        (1, 1.0),
        (80, "80"),
        (False, None),
        (0, False),
        ("", None),
        ({}, []),
        ({}, None),
        ([], None),
    ],
)
def test_a_value_of_another_type_is_a_change(old: Any, new: Any) -> None:
    assert found(decide(widget({"a": old}, owned({"f:a": {}})), widget({"a": new}, owned({"f:a": {}})))) == ["spec.a"]


def test_null_and_absent_are_different() -> None:
    for old, new in (({"a": None}, {}), ({"a": 1}, {}), ({"a": 1}, {"a": None})):
        assert found(decide(widget(old, owned({"f:a": {}})), widget(new, owned({"f:a": {}})))) == ["spec.a"]


def test_a_reordered_keyed_list_is_no_change_and_a_reordered_atomic_list_is_one() -> None:
    old = widget(ITEMS, ITEMS_OWNED)
    assert passes(old, widget({**ITEMS, "items": ITEMS["items"][::-1]}, ITEMS_OWNED))
    assert found(decide(old, widget({**ITEMS, "rules": ITEMS["rules"][::-1]}, ITEMS_OWNED))) == ["spec.rules"]


def test_a_duplicate_of_a_declared_item_is_a_change() -> None:
    twice = {**ITEMS, "items": [*ITEMS["items"], {"name": "a", "v": 9}]}
    assert found(decide(widget(ITEMS, ITEMS_OWNED), widget(twice, ITEMS_OWNED))) == [
        "spec.items[name=a].name",
        "spec.items[name=a].v",
    ]


@pytest.mark.parametrize(
    "key",
    ["a.b", "a/b", "it's", 'q"uote', "back\\slash", "ключ", "\u202eevil", "new\nline", "\x00", "", "[*]", "a" * 65536],
)
def test_a_field_of_any_name_is_found(key: str) -> None:
    old, new = widget({key: 1}, owned({f"f:{key}": {}})), widget({key: 2}, owned({f"f:{key}": {}}))
    decision = decide(old, new)
    assert len(found(decision)) == 1
    assert len(decision.message) <= 1024
    assert decision.message.replace("\n", "").isprintable()


# ── 5. what is protected ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_declared_field_is_protected_and_one_beside_it_is_not() -> None:
    document = owned({"f:a": {}, "f:map": {"f:x": {}}})
    old = widget({"a": 1, "map": {"x": 1, "y": 1}, "b": 1}, document)
    assert passes(old, widget({"a": 1, "map": {"x": 1, "y": 2, "z": 1}, "b": 2}, document))
    new = widget({"a": 2, "map": {"x": 2, "y": 2}, "b": 2}, document)
    assert decide(old, new).violations[0].fields == (
        FieldChange(path="spec.a", change="changed"),
        FieldChange(path="spec.map.x", change="changed"),
    )
    assert found(decide(old, widget({"a": 1, "b": 1}, document))) == ["spec.map"]


def test_an_item_that_was_not_declared_may_be_added_changed_and_removed() -> None:
    more = {**ITEMS, "items": [{"name": "c", "v": 1}, *ITEMS["items"]]}
    other = {**ITEMS, "items": [*ITEMS["items"], {"name": "c", "v": 2}]}
    for old, new in ((ITEMS, more), (more, other), (other, ITEMS)):
        assert passes(widget(old, ITEMS_OWNED), widget(new, ITEMS_OWNED))


@pytest.mark.parametrize("instead", ["evil", 5, None, [], [1]])
def test_something_else_in_the_place_of_a_declared_map_is_found_though_its_fields_were_not_declared(
    instead: object,
) -> None:
    document = owned({"f:map": {".": {}, "f:gone": {}}})
    old, new = widget({"map": {"mine": 1}}, document), widget({"map": instead}, document)
    assert found(decide(old, new)) == ["spec.map"]


def test_ignore_wins_over_all_that_is_protected() -> None:
    policies = CONFIG + policy("{declared: true, fields: [spec.a], ignore: [spec.a]}")
    assert passes(*changed(a=2), policies)
    assert found(decide(*changed(a=2, caBundle="x"), policies)) == ["spec.caBundle"]


def test_ignore_does_not_open_the_marker() -> None:
    policies = CONFIG + policy("{declared: true, ignore: [metadata]}")
    assert found(decide(widget(), widget(labels={"x": "y"}), policies)) == sorted(
        f"metadata.labels['{key}']" for key in FLUX_LABELS
    )


@pytest.mark.parametrize("instead", ["evil", 5, None, []])
def test_an_ignored_field_does_not_open_the_container_that_holds_it(instead: object) -> None:
    policies = CONFIG + policy("{fields: [spec.config], ignore: [spec.config.replicas]}")
    old = widget({"config": {"replicas": 1}})
    assert found(decide(old, widget({"config": instead}), policies)) == ["spec.config"]
    assert passes(old, widget({"config": {"replicas": 2}}), policies)
    assert passes(old, widget({}), policies)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {**FLUX_LABELS, "driftwall.io/drifted": "true"}},
        {"annotations": {"driftwall.io/drift": "{}"}},
        {"annotations": {"driftwall.io/break-glass": "INC-1: mine"}},
        {"annotations": {"driftwall.io/break-glass-by": "sre"}},
        {"annotations": {ANN: "{}"}},
        {"annotations": {"configsync.gke.io/declared-fields": "{}"}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "mine", "uid": "u"}]},
    ],
)
def test_metadata_that_is_protected_on_every_managed_object_is_denied_under_any_policy(metadata: Json) -> None:
    for policies in (DECLARED, CONFIG + policy("{fields: [spec.unrelated]}")):
        old, new = widget(annotations={}), widget(annotations={}, **metadata) if "annotations" not in metadata else None
        new = new or widget(**metadata)
        assert len(found(decide(old, new, policies))) == 1
        assert len(found(decide(new, old, policies))) == 1


def test_only_the_strictest_policy_tells_what_is_protected_on_every_managed_object() -> None:
    policies = (
        CONFIG
        + policy("{fields: [spec.x]}", "a-warns", "warn")
        + policy("{fields: [spec.x]}", "b-denies")
        + policy("{fields: [spec.x]}", "c-denies")
    )
    decision = decide(widget(), widget(labels={}), policies)
    assert [violation.name for violation in decision.violations] == ["b-denies"]


def test_deletion_is_protected_with_what_is_declared_unless_the_policy_says_otherwise() -> None:
    for protect, allowed in (
        ("{declared: true}", False),
        ("{declared: true, deletion: false}", True),
        ("{fields: [spec.a]}", True),
        ("{fields: [spec.a], deletion: true}", False),
        ("{deletion: true}", False),
    ):
        assert passes(widget(), None, CONFIG + policy(protect)) is allowed, protect
    assert passes(widget(), None, user=FLUX)
    assert decide(widget(), None).violations[0].fields == ()


def test_an_eviction_is_a_deletion_of_the_pod() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "labels": FLUX_LABELS}}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "shop"}}
    how: Json = {"subresource": "eviction", "parent": pod}
    assert not passes(None, eviction, DECLARED, pod, **how)
    assert passes(None, eviction, DECLARED, {**pod, "metadata": {"name": "p", "namespace": "shop"}}, **how)
    for match, allowed in (
        ("{resources: [{apiGroups: [''], resources: [pods]}]}", False),
        ("{resources: [{apiGroups: [''], resources: [pods]}], operations: [UPDATE]}", True),
        ("{resources: [{apiGroups: [''], resources: [pods/eviction]}], operations: [CREATE]}", False),
        ("{resources: [{apiGroups: [''], resources: [services]}]}", True),
    ):
        named = CONFIG + policy("{declared: true}", match=match)
        assert passes(None, eviction, named, pod, **how) is allowed, match


def test_the_name_of_an_object_in_a_deletion_of_many_is_in_the_old_object_alone() -> None:
    request: Json = {
        "uid": "u",
        "kind": {"group": "example.com", "version": "v1", "kind": "Widget"},
        "resource": {"group": "example.com", "version": "v1", "resource": "widgets"},
        "namespace": "shop",
        "operation": "DELETE",
        "userInfo": ALICE,
        "oldObject": widget(),
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    decision = Cluster().decide(parse(json.dumps(body).encode()), snapshot_of(DECLARED))
    assert decision.message.startswith('widgets.example.com "w" in namespace "shop" is managed by Flux')


# ── subresources ─────────────────────────────────────────────────────────────────────────────────────────────────────

DEPLOYMENT: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "labels": {**FLUX_LABELS, "app": "web"},
        "managedFields": [
            {
                "manager": "kustomize-controller",
                "operation": "Apply",
                "apiVersion": "apps/v1",
                "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {}}},
            }
        ],
    },
    "spec": {"replicas": 2},
}


def relabelled(labels: Json, **metadata: Any) -> Json:
    return {**DEPLOYMENT, "metadata": {**DEPLOYMENT["metadata"], "labels": labels, **metadata}}


NAMED = "{resources: [{apiGroups: [apps], resources: [deployments]}]}"


@pytest.mark.parametrize("match", ["{}", NAMED, "{resources: [{apiGroups: ['*'], resources: ['*/*']}]}"])
def test_metadata_counts_on_every_subresource_though_the_policy_names_the_resource_alone(match: str) -> None:
    policies = CONFIG + policy("{declared: true}", match=match)
    for how in ({}, {"subresource": "status"}):
        assert found(decide(DEPLOYMENT, relabelled({**FLUX_LABELS, "app": "evil"}), policies, **how)) == [
            "metadata.labels.app"
        ]
        assert len(found(decide(DEPLOYMENT, relabelled({"app": "web"}), policies, **how))) == 2
        owner = [{"kind": "X", "name": "x", "uid": "u"}]
        adopted = relabelled({**FLUX_LABELS, "app": "web"}, ownerReferences=owner)
        assert found(decide(DEPLOYMENT, adopted, policies, **how)) == ["metadata.ownerReferences"]
        assert passes(DEPLOYMENT, relabelled({**FLUX_LABELS, "app": "web", "mine": "x"}), policies, **how)


def scale(replicas: int) -> Json:
    spec = {"replicas": replicas} if replicas else {}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }


HPA = service_account("kube-system", "horizontal-pod-autoscaler")


def test_a_scale_is_judged_by_its_parent() -> None:
    how: Json = {"subresource": "scale", "parent": DEPLOYMENT}
    assert found(decide(scale(2), scale(0), DECLARED, DEPLOYMENT, **how)) == ["spec.replicas"]
    assert passes(scale(2), scale(2), DECLARED, DEPLOYMENT, **how)
    assert passes(scale(2), scale(0), DECLARED, DEPLOYMENT, **how, user=HPA)
    assert decide(scale(2), scale(5), DECLARED, DEPLOYMENT, **how, user=HPA).writer == "automation:hpa"
    unmanaged = relabelled({})
    assert passes(scale(2), scale(0), DECLARED, unmanaged, **how)


def test_a_scale_whose_parent_is_not_there_has_no_verdict() -> None:
    with pytest.raises(LookupFailed, match="does not exist, so its write cannot be judged; try again"):
        decide(scale(2), scale(0), DECLARED, subresource="scale", parent=DEPLOYMENT)


def test_the_autoscaler_may_write_nothing_but_replicas() -> None:
    new = relabelled({**FLUX_LABELS, "app": "evil"})
    assert found(decide(DEPLOYMENT, new, user=HPA)) == ["metadata.labels.app"]


@pytest.mark.parametrize(
    ("path", "expected"), [(".spec.size", "spec.size"), (".spec.pool.size", "spec.pool.size"), ("", "spec.replicas")]
)
def test_a_custom_resource_s_scale_changes_the_field_that_its_definition_names(path: str, expected: str) -> None:
    fields: Json = {}
    node = fields
    for name in expected.split("."):
        node = node.setdefault("f:" + name, {})
    parent = widget({}, entry("kustomize-controller", {"f:metadata": LABELS_OWNED, **fields}), name="web")
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"versions": [{"name": "v1", "subresources": {"scale": {"specReplicasPath": path}}}]},
    }
    how: Json = {"subresource": "scale", "parent": parent}
    assert found(decide(scale(2), scale(3), DECLARED, parent, definition, **how)) == [expected]


# ── the sources of what is declared ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("managed_fields", [[], [{}], None])
def test_clearing_managed_fields_is_denied(managed_fields: Any) -> None:
    old, new = widget({"a": 1}, owned({"f:a": {}})), widget({"a": 1})
    new["metadata"]["managedFields"] = managed_fields
    assert found(decide(old, new)) == ["metadata.managedFields"]


def test_sharing_ownership_and_then_dropping_that_of_the_tool_is_denied() -> None:
    mine = entry("alice", {"f:spec": {"f:a": {}}})
    spec = {"a": 1, "b": 1}
    alone = widget(spec, owned({"f:a": {}, "f:b": {}}))
    shared = widget(spec, owned({"f:a": {}, "f:b": {}}), mine)
    assert passes(alone, shared)
    assert found(decide(shared, widget(spec, owned({"f:b": {}}), mine))) == ["metadata.managedFields"]


def test_claiming_more_for_the_tool_opens_nothing() -> None:
    """Its entry may be made to own the whole spec, and another's to claim keys: it is still one atomic list."""
    claimed, forged = owned({}), entry("alice", FORGED_KEYS)
    old, new = widget(ITEMS, claimed, forged), widget({**ITEMS, "rules": ITEMS["rules"][::-1]}, claimed, forged)
    assert passes(widget(ITEMS, ITEMS_OWNED), old)
    assert found(decide(old, new)) == ["spec.rules"]


def test_a_change_of_an_ignored_field_does_not_cover_up_that_ownership_is_taken_away() -> None:
    policies = CONFIG + policy('{declared: true, ignore: ["spec.items[*].v"]}')
    before = widget(ITEMS, ITEMS_OWNED)
    changed_items = {**ITEMS, "items": [{"name": "a", "v": 9}, ITEMS["items"][1]]}
    assert passes(before, widget(changed_items, ITEMS_OWNED), policies)
    assert found(decide(before, widget(changed_items, owned({"f:rules": {}})), policies)) == ["metadata.managedFields"]
    # The same with a forged entry, under which the list counts as one value.
    forged = entry("helm-controller", FORGED_KEYS)
    before, after = widget(ITEMS, ITEMS_OWNED, forged), widget(changed_items, owned({"f:rules": {}}), forged)
    assert found(decide(before, after, policies)) == ["metadata.managedFields"]


def test_very_many_changes_do_not_cover_up_that_ownership_is_taken_away() -> None:
    many, other = ({f"x{number}": value for number in range(2000)} for value in (1, 2))
    old, new = widget({"a": 1, **many}, owned({"f:a": {}})), widget({"a": 1, **other}, owned({}))
    assert passes(old, widget({"a": 1, **other}, owned({"f:a": {}})))
    assert passes(old, new)  # it owns more than before
    nothing = entry("kustomize-controller", {"f:metadata": LABELS_OWNED})
    assert found(decide(old, widget({"a": 1, **other}, nothing))) == ["metadata.managedFields"]
    assert found(decide(old, widget({"a": 2, **other}, owned({"f:a": {}})))) == ["spec"]


def client_side(spec: Json, manager: str = "argocd-controller", applied: Json | None = None) -> Json:
    """What Argo CD applies client-side: the server's defaults are in its entry, too."""
    declared = {"apiVersion": "example.com/v1", "kind": "Widget", "spec": applied or {"v": 1}}
    fields = {
        "f:metadata": {"f:annotations": {".": {}, f"f:{TRACKING}": {}, f"f:{ANN}": {}}},
        "f:spec": {".": {}, **{f"f:{name}": {} for name in spec}},
    }
    return widget(
        spec,
        entry(manager, fields, "Update"),
        labels={},
        annotations={TRACKING: "shop:example.com/Widget:shop/w", ANN: json.dumps(declared)},
    )


def test_what_was_applied_client_side_is_declared_and_the_server_s_defaults_are_not() -> None:
    old = client_side({"v": 1, "defaulted": 1})
    assert found(decide(old, client_side({"v": 2, "defaulted": 1}))) == ["spec.v"]
    assert passes(old, client_side({"v": 1, "defaulted": 2}))


def test_taking_last_applied_over_is_denied_since_it_is_believed_for_its_owner_s_sake() -> None:
    assert found(decide(client_side({"v": 1}), client_side({"v": 1}, "eve"))) == ["metadata.managedFields"]


def test_editing_last_applied_is_denied() -> None:
    edited = client_side({"v": 1}, applied={"other": 1})
    assert found(decide(client_side({"v": 1}), edited)) == [f"metadata.annotations['{ANN}']"]


FORGED_KEYS = {"f:spec": {"f:items": {'k:{"x":1}': {".": {}}}, "f:rules": {'k:{"n":1}': {}}}}


@pytest.mark.parametrize("manager", ["alice", "helm-controller", "kustomize-controller"])
@pytest.mark.parametrize("first", [True, False])
def test_forged_list_keys_hide_neither_a_changed_item_nor_another_order(manager: str, *, first: bool) -> None:
    forged = entry(manager, FORGED_KEYS)
    entries = [forged, ITEMS_OWNED] if first else [ITEMS_OWNED, forged]
    changed_item = {**ITEMS, "items": [{"name": "a", "v": 9}, ITEMS["items"][1]]}
    reordered = {**ITEMS, "rules": ITEMS["rules"][::-1]}
    for old in (widget(ITEMS, *entries), widget(ITEMS, ITEMS_OWNED)):
        assert found(decide(old, widget(changed_item, *entries)))[0].startswith("spec.items")
        assert found(decide(old, widget(reordered, *entries))) == ["spec.rules"]


def test_a_declared_field_is_found_in_another_version_of_the_object() -> None:
    document = owned({"f:metrics": {"f:cpu": {}}})
    old, new = widget({"targetCPU": 50}, document), widget({"targetCPU": 99}, document)
    for side in (old, new):
        side["apiVersion"] = "example.com/v1beta1"
    assert found(decide(old, new)) == ["spec.targetCPU"]


def test_a_write_to_an_object_that_is_being_deleted_is_judged_like_any_other() -> None:
    ending = {"deletionTimestamp": "2026-11-22T07:00:00Z", "finalizers": ["example.com/x"]}
    old = widget({"a": 1}, owned({"f:a": {}}), **ending)
    assert found(decide(old, widget({"a": 2}, owned({"f:a": {}}), **ending))) == ["spec.a"]
    assert passes(old, widget({"a": 1}, owned({"f:a": {}}), **{**ending, "finalizers": []}))


def test_a_declared_finalizer_is_protected() -> None:
    document = entry("kustomize-controller", {"f:metadata": {"f:finalizers": {'v:"example.com/x"': {}}}})
    old = widget({}, document, finalizers=["example.com/x", "example.com/y"])
    assert found(decide(old, widget({}, document, finalizers=["example.com/y"]))) == [
        "metadata.finalizers[=example.com/x]"
    ]
    assert passes(old, widget({}, document, finalizers=["example.com/x"]))


# ── guardIdentities ──────────────────────────────────────────────────────────────────────────────────────────────────

ACCOUNT = {
    "apiVersion": "v1",
    "kind": "ServiceAccount",
    "metadata": {"name": "kustomize-controller", "namespace": "flux-system"},
}


def token_request(account: Json, user: Json, policies: str = DECLARED) -> bool:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": account["metadata"]}
    return passes(None, request, policies, user=user, subresource="token", parent=account)


def test_nobody_but_the_control_plane_mints_a_token_for_a_trusted_service_account() -> None:
    assert not token_request(ACCOUNT, ALICE)
    assert not token_request(ACCOUNT, FLUX)
    assert token_request(ACCOUNT, {"username": "system:node:n1", "groups": ["system:nodes"]})
    other = {**ACCOUNT, "metadata": {"name": "other", "namespace": "flux-system"}}
    assert token_request(other, ALICE)
    off = DECLARED.replace(
        "metadata: {name: default}\nspec:", "metadata: {name: default}\nspec:\n  guardIdentities: false"
    )
    assert token_request(ACCOUNT, ALICE, off)


def token_secret(name: str, **annotations: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "t",
            "namespace": "flux-system",
            "annotations": {"kubernetes.io/service-account.name": name, **annotations},
        },
    }


def test_a_secret_that_the_token_controller_would_fill_for_a_trusted_service_account_is_denied() -> None:
    secret = token_secret("kustomize-controller")
    decision = decide(None, secret)
    assert [violation.name for violation in decision.violations] == ["(guardIdentities)"]
    assert not passes(token_secret("other"), secret)
    assert passes(None, token_secret("other"))
    assert passes(None, secret, user=FLUX)
    assert passes(secret, token_secret("kustomize-controller", note="x"))
    assert passes(None, {**secret, "type": "Opaque"})
    elsewhere = {**secret, "metadata": {**secret["metadata"], "namespace": "shop"}}
    assert passes(None, elsewhere)


# ── 7. modes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "allowed", "verdict"), [("enforce", False, "deny"), ("warn", True, "warn"), ("dryRun", True, "dryRun")]
)
def test_the_mode_says_what_follows_from_a_violation(mode: str, verdict: str, *, allowed: bool) -> None:
    decision = decide(*changed(a=2), CONFIG + policy("{declared: true}", mode=mode))
    assert (decision.allowed, decision.mode) == (allowed, mode)
    assert [(each.name, each.mode, each.verdict) for each in decision.violations] == [("p", mode, verdict)]
    assert bool(decision.message) is not allowed
    assert bool(decision.warnings) is (mode == "warn")


def test_the_strictest_mode_that_is_violated_decides_and_every_violated_policy_is_told() -> None:
    policies = CONFIG + policy("{declared: true}", "a", "dryRun") + policy("{fields: [spec.a]}", "b", "warn")
    decision = decide(*changed(a=2), policies)
    assert (decision.allowed, decision.mode) == (True, "warn")
    assert [(each.name, each.verdict) for each in decision.violations] == [("a", "dryRun"), ("b", "warn")]
    stricter = decide(*changed(a=2), policies + policy("{fields: [spec.a]}", "c"))
    assert (stricter.allowed, stricter.mode, stricter.warnings) == (False, "enforce", ())
    assert [each.name for each in stricter.violations] == ["a", "b", "c"]


def test_a_dry_run_gets_the_same_verdict() -> None:
    old, new = changed(a=2)
    assert decide(old, new, dry_run=True) == decide(old, new)


# ── ordinary writes ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": None},
        {"annotations": None},
        {"managedFields": None},
        {"ownerReferences": None},
        {"finalizers": None},
        {"managedFields": [None, 1, "x", [], {}, {"manager": 1, "fieldsV1": {"f:spec": None}}]},
        {"annotations": {ANN: "not json", TRACKING: ":"}},
        {"annotations": {ANN: "[]", TRACKING: "a:b:c"}},
        {"annotations": {"": "", TRACKING: ""}},
        {"ownerReferences": [{}]},
    ],
)
@pytest.mark.parametrize(
    "spec", [None, {}, [], "x", {"a": [None, {}, [None]]}, {"": {"": ""}}, {"n": 2**63, "f": 1e300}]
)
def test_an_object_of_odd_shape_has_a_verdict(metadata: Json, spec: Any) -> None:
    choices: list[Json] = [{}, dict(FLUX_LABELS)]
    for labels in choices:
        odd: Json = widget(None, **{"labels": labels, **metadata})
        odd["spec"] = spec
        plain = widget({"a": 1}, labels=labels)
        for old, new in ((odd, odd), (odd, plain), (plain, odd), (None, odd), (odd, None)):
            for policies in (DECLARED, CONFIG + policy("{fields: ['*.a', 'spec.n']}", match="{scope: All}")):
                decide(old, new, policies)


def test_an_object_without_spec_or_metadata_has_a_verdict() -> None:
    bare = {"apiVersion": "example.com/v1", "kind": "Widget"}
    for old, new in (
        (bare, widget()),
        (widget(), bare),
        (None, bare),
        (bare, None),
        ({**bare, "metadata": None}, bare),
    ):
        decide(old, new)


def test_an_object_nested_hundreds_of_levels_deep_has_a_verdict() -> None:
    def deep(leaf: int) -> Json:
        value: Any = leaf
        for level in range(400):
            value = {"n": value} if level % 2 else [value]
        return {"deep": value, "a": 1}

    document = owned({"f:a": {}})
    assert passes(widget(deep(1), document), widget(deep(2), document))
    assert found(decide(widget(deep(1), owned({"f:deep": {}})), widget(deep(2), owned({"f:deep": {}})))) == [
        "spec.deep.n"
    ]


@pytest.mark.parametrize("shapes", ["l", "m", "lm", "mml", "ll" * 2 + "m"])
def test_a_field_that_becomes_hundreds_of_levels_deep_or_ceases_to_be_has_a_verdict(shapes: str) -> None:
    nested: Any = 1
    for level in range(700):
        nested = [nested] if shapes[level % len(shapes)] == "l" else {"n": nested}
    document = owned({"f:deep": {}})
    for other in ("shallow", [], {}, None, ["shallow"], [{"n": 1}], {"n": "shallow"}):
        for old, new in ((other, nested), (nested, other)):
            decision = decide(widget({"deep": old}, document), widget({"deep": new}, document))
            assert [path.partition(".n")[0].partition("[")[0] for path in found(decision)] == ["spec.deep"]


def test_an_object_that_is_none_is_a_malformed_review() -> None:
    choices: list[Any] = ["x", 1, [], True]
    for odd in choices:
        body = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "kind": {"group": "example.com", "version": "v1", "kind": "Widget"},
                "resource": {"group": "example.com", "version": "v1", "resource": "widgets"},
                "operation": "CREATE",
                "userInfo": ALICE,
                "object": odd,
            },
        }
        with pytest.raises(MalformedReview, match=r"request\.object must be a JSON object"):
            Cluster().decide(parse(json.dumps(body).encode()), snapshot_of(DECLARED))


def test_ordinary_writes_of_operators_and_people_are_not_hindered() -> None:
    injector = service_account("cert-manager", "other")
    webhook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": "w",
            "labels": dict(FLUX_LABELS),
            "managedFields": [
                {
                    "manager": "kustomize-controller",
                    "operation": "Apply",
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "fieldsV1": {
                        "f:webhooks": {
                            'k:{"name":"a.b.c"}': {".": {}, "f:clientConfig": {"f:service": {}}, "f:name": {}}
                        }
                    },
                }
            ],
        },
        "webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "x"}}}],
    }
    injected = {
        **webhook,
        "webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "x"}, "caBundle": "Cg=="}}],
    }
    assert passes(webhook, injected, user=injector)
    # kubectl apply, client-side, of an object that no tool manages
    mine = widget({"a": 1}, labels={}, annotations={ANN: json.dumps({"spec": {"a": 1}})})
    theirs = widget({"a": 2}, labels={}, annotations={ANN: json.dumps({"spec": {"a": 2}})})
    assert passes(None, mine)
    assert passes(mine, theirs)
    # an operator's child that bears the labels of what it belongs to
    child = widget({"a": 1}, ownerReferences=[{"kind": "Widget", "name": "w", "uid": "u", "controller": True}])
    assert passes(None, child, user=injector)
    assert passes(child, {**child, "spec": {"a": 2}}, user=injector)
    assert passes(child, None, user=injector)
    # a field that Git does not mention, as kubectl rollout restart writes it
    document = entry("kustomize-controller", {"f:spec": {"f:template": {"f:metadata": {"f:labels": {"f:app": {}}}}}})
    before = widget({"template": {"metadata": {"labels": {"app": "x"}}}}, document)
    after = widget({"template": {"metadata": {"labels": {"app": "x"}, "annotations": {"restartedAt": "1"}}}}, document)
    assert passes(before, after)
    assert passes(after, before)


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

DECLARED_SNAPSHOT = snapshot_of(DECLARED)


@st.composite
def forgeries(draw: st.DrawFn) -> list[Json]:
    """Entries that somebody may have put into managedFields, with claims about lists of all sorts."""
    made = []
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(shapes.map_shapes)
        fields = {"f:spec": shapes.fields_of(shape, draw(shapes.values(shape)))}
        manager = draw(st.sampled_from(["alice", "kustomize-controller", "helm-controller"]))
        made.append(entry(manager, fields, draw(st.sampled_from(["Apply", "Update"]))))
    return made


def with_entries(spec: Json, honest: Json, forged: list[Json], *, first: bool) -> Json:
    return widget(spec, *((*forged, honest) if first else (honest, *forged)))


@given(st.data())
def test_any_change_below_a_protected_path_is_denied_whatever_managed_fields_claim(data: st.DataObject) -> None:
    shape = data.draw(shapes.map_shapes)
    old = data.draw(shapes.values(shape).filter(bool))
    spot = data.draw(shapes.spots(shape, old))
    new = data.draw(shapes.mutations(old, spot))
    assume(shapes.flat(shape, old) != shapes.flat(shape, new))
    pattern = "spec" + (spot.pattern if spot.pattern.startswith("[") else "." + spot.pattern)
    snapshot = snapshot_of(CONFIG + policy(f"{{fields: [{json.dumps(pattern)}]}}"))
    honest = owned(shapes.fields_of(shape, old) or {".": {}})
    first, forged = data.draw(st.booleans()), data.draw(forgeries())
    written = review(
        with_entries(old, honest, data.draw(st.sampled_from([forged, []])), first=first),
        with_entries(new, honest, forged, first=first),
    )
    assert not Cluster().decide(written, snapshot).allowed, (pattern, old, new)


@given(st.data())
def test_any_change_of_a_declared_value_is_denied_whatever_managed_fields_claim(data: st.DataObject) -> None:
    shape = data.draw(shapes.map_shapes)
    old = data.draw(shapes.values(shape).filter(bool))
    new = data.draw(shapes.leaf_mutations(old))
    assume(shapes.flat(shape, old) != shapes.flat(shape, new))
    honest = owned(shapes.fields_of(shape, old))
    first, forged = data.draw(st.booleans()), data.draw(forgeries())
    written = review(
        with_entries(old, honest, data.draw(st.sampled_from([forged, []])), first=first),
        with_entries(new, honest, forged, first=first),
    )
    assert not Cluster().decide(written, DECLARED_SNAPSHOT).allowed, (old, new)


@given(st.data())
def test_any_change_of_what_was_not_declared_is_allowed(data: st.DataObject) -> None:
    shape = data.draw(shapes.map_shapes)
    spec = data.draw(shapes.values(shape))
    honest = owned(shapes.fields_of(shape, spec) or {".": {}})
    before, after = data.draw(shapes.anything), data.draw(shapes.anything)
    written = review(
        widget({"undeclared": before, **spec}, honest),
        widget({**shapes.shuffled(shape, spec), "undeclared": after, "added": after}, honest),
    )
    assert Cluster().decide(written, DECLARED_SNAPSHOT).allowed
