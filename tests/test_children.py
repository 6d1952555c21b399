from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.admitting import BY, EXPIRES, REASON, SAM, Admitted, admit, refused
from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, Json, person, review, service_account, snapshot_of
from webhook.admission import ObjectRef, Review
from webhook.decision import Decision, LookupNeeded, decide

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  breakGlass: {groups: [sre]}
"""


def policy(
    match: str = "{}", protect: str = "{declared: true, children: true}", name: str = "p", glass: str = ""
) -> str:
    own = f", breakGlass: {glass}" if glass else ""
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: enforce, match: {match}, protect: {protect}{own}}}
"""


CHILDREN = snapshot_of(CONFIG + policy())
WITHOUT = snapshot_of(CONFIG + policy(protect="{declared: true}"))


def made(kind: str, name: str, owner: Json | None, spec: Json, *, version: str = "apps/v1", **metadata: Any) -> Json:
    """An object as the control plane makes it for ``owner``: what it wrote is in one entry of managedFields."""
    whole: Json = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": {"app": "web"}, **metadata}
    if owner is not None:
        whole["ownerReferences"] = [reference(owner)]
    fields: Json = {
        "f:metadata": {
            "f:labels": {".": {}, "f:app": {}},
            "f:ownerReferences": {".": {}, f'k:{{"uid":"{owner and owner["metadata"]["uid"]}"}}': {}},
            **({"f:annotations": {f"f:{key}": {} for key in whole["annotations"]}} if "annotations" in whole else {}),
        },
        "f:spec": {f"f:{key}": {} for key in spec},
    }
    whole["managedFields"] = [entry("kube-controller-manager", fields, version)] if owner is not None else []
    return {"apiVersion": version, "kind": kind, "metadata": whole, "spec": spec}


def entry(manager: str, fields: Json, version: str = "v1") -> Json:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": version,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def reference(owner: Json, **more: Any) -> Json:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        **more,
    }


WEB = made("Deployment", "web", None, {"replicas": 2}, labels=FLUX_LABELS)
SET = made("ReplicaSet", "web-1", WEB, {"replicas": 2})
POD = made("Pod", "web-1-a", SET, {"containers": "one"}, version="v1")
NAMESPACE: Json = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
CHAIN = (WEB, SET, POD, NAMESPACE)


def ref(resource: str, name: str, group: str = "apps") -> ObjectRef:
    return ObjectRef(group, "v1", resource, "shop", name)


DEPLOYMENT, REPLICA_SET = ref("deployments", "web"), ref("replicasets", "web-1")


def change(obj: Json, **changes: Any) -> Json:
    """``obj`` with other metadata, or another ``spec``."""
    spec = changes.pop("spec", obj["spec"])
    return {**obj, "metadata": {**obj["metadata"], **changes}, "spec": spec}


def write(old: Json | None, new: Json | None, user: Json = ALICE, *there: Json, **how: Any) -> Admitted:
    policies = how.pop("policies", CHILDREN)
    return admit(review(old, new, user=user, **how), policies, *(there or CHAIN))


def part(kind: str, version: str = "v1", **content: Any) -> Json:
    """What is sent to a subresource in place of the pod."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "web-1-a", "namespace": "shop"}, **content}


def reach(subresource: str, operation: str, kind: str, user: Json = ALICE, *there: Json, **how: Any) -> Admitted:
    """A write to a subresource of the pod that brings something else than the pod."""
    version = {"Eviction": "policy/v1", "TokenRequest": "authentication.k8s.io/v1"}.get(kind, "v1")
    content = {"metadata": how.pop("metadata")} if "metadata" in how else {}
    sent = {**part(kind, version), **content}
    policies = how.pop("policies", CHILDREN)
    written = review(None, sent, user=user, operation=operation, subresource=subresource, parent=POD)
    return admit(written, policies, *(there or CHAIN))


def denied(admitted: Admitted) -> list[str]:
    """The fields for which a write was denied."""
    assert not admitted.decision.allowed
    return [field.path for violation in admitted.decision.violations for field in violation.fields]


# ── whose child it is ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pod_belongs_to_the_deployment_at_the_top_of_its_chain() -> None:
    written = write(POD, change(POD, spec={"containers": "two"}))
    assert denied(written) == ["spec.containers"]
    assert written.asked == [REPLICA_SET, DEPLOYMENT, ObjectRef("", "v1", "namespaces", "", "shop")]
    assert written.decision.message == (
        'pods "web-1-a" in namespace "shop" belongs to deployments.apps "web" in namespace "shop", '
        "which is managed by Flux (Kustomization flux-system/shop).\n"
        "alice may not change:\n"
        '  spec.containers: "one" -> "two"\n'
        "Policy p (enforce, medium)\n"
        "Change it in Git and let Flux apply it.\n"
        "In an incident, ask group sre to break glass."
    )
    assert written.decision.managed_by is not None
    assert written.decision.managed_by.application == "flux-system/shop"


def test_without_children_a_pod_is_nobodys_and_nothing_is_looked_up() -> None:
    written = write(POD, change(POD, spec={"containers": "two"}), policies=WITHOUT)
    assert (written.decision.allowed, written.decision.managed_by, written.asked) == (True, None, [])


def test_the_chain_ends_at_an_owner_of_another_uid() -> None:
    for owner, asked in ((change(SET, uid="other"), 1), (change(WEB, uid="other"), 2), (change(SET, uid=None), 1)):
        there = tuple(owner if owner["kind"] == each["kind"] else each for each in CHAIN)
        written = write(POD, change(POD, spec={"containers": "two"}), ALICE, *there)
        assert (written.decision.allowed, len(written.asked)) == (True, asked)


def test_the_chain_ends_at_an_owner_that_does_not_exist() -> None:
    for there in ((NAMESPACE,), (SET, NAMESPACE)):
        assert write(POD, change(POD, spec={"containers": "two"}), ALICE, *there).decision.allowed


@pytest.mark.parametrize(
    "owners",
    [
        None,
        [],
        {},
        "x",
        [None, 5],
        [reference(SET, controller=False)],
        [reference(SET, controller=None)],
        [reference(SET, controller="true")],
        [{key: value for key, value in reference(SET).items() if key != "controller"}],
    ],
)
def test_who_does_not_control_owns_nothing(owners: Any) -> None:
    orphan = change(POD, ownerReferences=owners)
    assert write(orphan, change(orphan, spec={"containers": "two"})).decision.allowed


def test_a_write_that_takes_the_owner_away_does_not_thereby_escape_it() -> None:
    for owners in (None, [], [reference(SET, controller=False)], [reference(made("ReplicaSet", "mine", None, {}))]):
        adopted = write(POD, change(POD, ownerReferences=owners, spec={"containers": "two"}))
        assert denied(adopted)[-1] == "spec.containers"
        assert any(path.startswith("metadata.ownerReferences") for path in denied(adopted))


def test_a_loop_of_owners_ends() -> None:
    one, two = made("ReplicaSet", "one", None, {}), made("ReplicaSet", "two", None, {})
    one, two = change(one, ownerReferences=[reference(two)]), change(two, ownerReferences=[reference(one)])
    child = made("Pod", "p", one, {"a": 1}, version="v1")
    written = write(child, change(child, spec={"a": 2}), ALICE, one, two)
    assert written.decision.allowed
    assert sorted(written.asked) == [ref("replicasets", "one"), ref("replicasets", "two")]
    itself = change(one, ownerReferences=[reference(one)])
    assert write(itself, change(itself, spec={"a": 2}), ALICE, itself).decision.allowed


def test_a_chain_is_followed_five_owners_up_and_no_further() -> None:
    top = made("ReplicaSet", "r0", None, {}, labels=FLUX_LABELS)
    chain = [top]
    for number in range(1, 6):
        chain.append(made("ReplicaSet", f"r{number}", chain[-1], {}))
    within = made("Pod", "p", chain[4], {"a": 1}, version="v1")
    beyond = made("Pod", "p", chain[5], {"a": 1}, version="v1")
    assert denied(write(within, change(within, spec={"a": 2}), ALICE, *chain)) == ["spec.a"]
    assert write(beyond, change(beyond, spec={"a": 2}), ALICE, *chain).decision.allowed


def test_a_pod_that_a_tool_manages_itself_needs_no_owner() -> None:
    managed = change(POD, labels=FLUX_LABELS)
    managed["metadata"]["managedFields"].append(entry("kustomize-controller", {"f:spec": {"f:containers": {}}}))
    written = write(managed, change(managed, spec={"containers": "two"}))
    assert denied(written) == ["spec.containers"]
    assert ObjectRef("apps", "v1", "replicasets", "shop", "web-1") not in written.asked


def test_a_custom_owner_is_found_by_the_resource_that_its_version_serves() -> None:
    mouse = made("Mouse", "m", None, {}, version="example.com/v1", labels=FLUX_LABELS)
    child = made("Pod", "p", mouse, {"a": 1}, version="v1")
    group, owner = ObjectRef("example.com", "v1", "", "", ""), ObjectRef("example.com", "v1", "mice", "shop", "m")
    served: Json = {
        "kind": "APIResourceList",
        "resources": [
            {"name": "mice/status", "kind": "Mouse", "namespaced": True},
            {"name": "mice", "kind": "Mouse", "namespaced": True},
        ],
    }
    written = review(child, change(child, spec={"a": 2}), user=ALICE)
    decision, asked = answered(written, {group: served, owner: mouse})
    assert not decision.allowed
    assert asked == [group, owner, ObjectRef("", "v1", "namespaces", "", "shop")]
    # A cluster-scoped one, and one that is not served: then Kubernetes's own rule for names.
    served["resources"][1]["namespaced"] = False
    at_the_top = owner._replace(namespace="")
    assert answered(written, {group: served, at_the_top: mouse})[1][:2] == [group, at_the_top]
    assert answered(written, {})[1] == [group, owner._replace(resource="mouses")]


def answered(written: Review, found: Mapping[ObjectRef, Json]) -> tuple[Decision, list[ObjectRef]]:
    """The decision, and what it asked for; what is not ``found`` does not exist."""
    known: dict[ObjectRef, Json | None] = {}
    while True:
        try:
            return decide(written, CHILDREN, known, NOW), list(known)
        except LookupNeeded as needed:
            known[needed.ref] = found.get(needed.ref)


# ── what is done to it ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_its_controller_wrote_is_protected_and_the_rest_is_not() -> None:
    assert denied(write(POD, change(POD, labels={"app": "other"}))) == ["metadata.labels.app"]
    assert denied(write(SET, change(SET, spec={"replicas": 0}))) == ["spec.replicas"]
    for new in (
        change(POD, annotations={"note": "x"}),
        change(POD, labels={"app": "web", "debug": "on"}),
        change(POD, finalizers=["example.com/hold"]),
        change(POD, spec={"containers": "one", "priority": 5}),
    ):
        assert write(POD, new).decision.allowed


def test_a_field_that_another_has_added_is_not_its_controllers() -> None:
    noted = change(POD, annotations={"note": "x"})
    noted["metadata"]["managedFields"] = [
        *POD["metadata"]["managedFields"],
        entry("kubectl-annotate", {"f:metadata": {"f:annotations": {".": {}, "f:note": {}}}}),
    ]
    assert write(noted, change(noted, annotations={"note": "y"})).decision.allowed


def test_without_a_record_of_what_its_controller_wrote_all_of_it_is_protected() -> None:
    nothing: tuple[Any, ...] = (None, [], [{}])
    for fields in nothing:
        unknown = change(POD, managedFields=fields)
        assert denied(write(unknown, change(unknown, annotations={"note": "x"}))) == ["metadata.annotations.note"]


def test_the_record_of_what_its_controller_wrote_is_not_to_be_taken_away() -> None:
    less = entry("kube-controller-manager", {"f:metadata": {"f:ownerReferences": {}}})
    mine = entry("alice", POD["metadata"]["managedFields"][0]["fieldsV1"])
    part_of_it: Json = {"f:metadata": POD["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]}
    moved = entry("alice", {"f:spec": {"f:containers": {}}})
    rewritten: tuple[list[Json], ...] = ([less], [{}], [less, moved], [entry("x", part_of_it)])
    for fields in rewritten:
        assert denied(write(POD, change(POD, managedFields=fields))) == ["metadata.managedFields"]
    # In whose name it is does not matter: what is in it stays protected.
    renamed = write(POD, change(POD, managedFields=[mine]))
    assert renamed.decision.allowed
    assert denied(write(renamed.stored, change(renamed.stored, spec={"containers": "two"}))) == ["spec.containers"]


def test_its_owner_and_our_own_annotations_are_protected_on_it_too() -> None:
    for new, path in (
        (change(POD, ownerReferences=[]), "metadata.ownerReferences[uid=uid-web-1]"),
        (change(POD, labels={"app": "web", "driftwall.io/x": "y"}), "metadata.labels['driftwall.io/x']"),
        (change(POD, labels={"app": "web", **FLUX_LABELS}), "metadata.labels['kustomize.toolkit.fluxcd.io/name']"),
    ):
        assert denied(write(POD, new))[0] == path


def test_it_is_not_deleted() -> None:
    written = write(POD, None)
    assert denied(written) == []
    assert "alice may not delete it.\n" in written.decision.message
    assert write(
        POD, None, policies=snapshot_of(CONFIG + policy(protect="{fields: [spec], children: true}"))
    ).decision.allowed


def test_it_is_not_evicted() -> None:
    written = reach("eviction", "CREATE", "Eviction")
    assert denied(written) == []
    assert "alice may not evict it.\n" in written.decision.message
    assert reach("eviction", "CREATE", "Eviction", policies=WITHOUT).decision.allowed
    # A drain that comes late finds the pod gone.
    assert reach("eviction", "CREATE", "Eviction", ALICE, NAMESPACE).decision.allowed


@pytest.mark.parametrize(
    ("subresource", "kind", "verb"),
    [
        ("exec", "PodExecOptions", "exec into"),
        ("attach", "PodAttachOptions", "attach to"),
        ("portforward", "PodPortForwardOptions", "forward a port of"),
        ("proxy", "PodProxyOptions", "proxy to"),
    ],
)
def test_nobody_reaches_into_it(subresource: str, kind: str, verb: str) -> None:
    written = reach(subresource, "CONNECT", kind)
    assert denied(written) == []
    assert f"alice may not {verb} it.\n" in written.decision.message
    assert written.asked[0] == ref("pods", "web-1-a", "")
    assert reach(subresource, "CONNECT", kind, ALICE, change(POD, ownerReferences=[]), NAMESPACE).decision.allowed
    # Without children it costs nothing.
    free = reach(subresource, "CONNECT", kind, policies=WITHOUT)
    assert (free.decision.allowed, free.asked) == (True, [])


def test_it_is_not_bound() -> None:
    written = reach("binding", "CREATE", "Binding")
    assert "alice may not bind it.\n" in written.decision.message
    assert reach("binding", "CREATE", "Binding", person("system:kube-scheduler")).decision.allowed
    assert reach("binding", "CREATE", "Binding", policies=WITHOUT).asked == []


@pytest.mark.parametrize("key", [REASON, BY, EXPIRES])
def test_a_binding_brings_no_break_glass_to_any_pod(key: str) -> None:
    # The API server copies a Binding's annotations to the pod.
    metadata = {"name": "web-1-a", "namespace": "shop", "annotations": {key: "x"}}
    for policies in (CHILDREN, WITHOUT):
        for pod in (POD, change(POD, ownerReferences=[]), change(POD, ownerReferences=[], labels=FLUX_LABELS)):
            written = reach(
                "binding", "CREATE", "Binding", ALICE, *CHAIN[:2], pod, policies=policies, metadata=metadata
            )
            assert refused(written.decision) == "only group sre may break glass, or end it"


def test_a_binding_brings_no_marker_to_a_pod_that_is_managed() -> None:
    managed = change(POD, ownerReferences=[], labels=FLUX_LABELS)
    name = {"name": "web-1-a", "namespace": "shop"}
    note: Json = {**name, "annotations": {"note": "x"}, "labels": {"a": "b"}}
    opt_out: Json = {**name, "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled", "note": "x"}}
    written = reach("binding", "CREATE", "Binding", ALICE, managed, NAMESPACE, policies=WITHOUT, metadata=opt_out)
    assert denied(written) == ["metadata.annotations['kustomize.toolkit.fluxcd.io/reconcile']"]
    harmless = reach("binding", "CREATE", "Binding", ALICE, managed, policies=WITHOUT, metadata=note)
    assert harmless.decision.allowed


@pytest.mark.parametrize(("subresource", "verb"), [("ephemeralcontainers", "debug"), ("resize", "resize")])
def test_nothing_is_put_into_it(subresource: str, verb: str) -> None:
    new = change(POD, spec={"containers": "one", "ephemeralContainers": [{"name": "debug"}]})
    written = write(POD, new, subresource=subresource)
    assert denied(written) == ["spec.ephemeralContainers"]
    assert f"alice may not {verb} it with:\n" in written.decision.message
    assert write(POD, new, subresource=subresource, policies=WITHOUT).decision.allowed


def test_a_scale_of_a_child_is_its_controllers_business() -> None:
    def scale(replicas: int) -> Json:
        return {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": {"replicas": replicas},
        }

    written = write(scale(2), scale(0), subresource="scale", parent=SET)
    assert denied(written) == ["spec.replicas"]
    assert write(scale(2), scale(0), subresource="scale", parent=SET, policies=WITHOUT).decision.allowed


# ── who does it ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "user",
    [
        *(
            service_account("kube-system", name)
            for name in (
                *("replicaset-controller", "deployment-controller", "statefulset-controller", "daemon-set-controller"),
                *("job-controller", "cronjob-controller", "generic-garbage-collector", "pod-garbage-collector"),
                *("taint-eviction-controller", "node-controller", "namespace-controller", "disruption-controller"),
            )
        ),
        person("system:kube-controller-manager"),
        person("system:kube-scheduler"),
        {"username": "system:node:one", "groups": ["system:nodes"]},
        FLUX,
    ],
    ids=lambda user: user["username"],
)
def test_no_controller_is_ever_in_its_own_way(user: Json) -> None:
    for written in (
        write(None, POD, user),
        write(POD, change(POD, spec={"containers": "two"}, labels={}), user),
        write(POD, change(POD, ownerReferences=[]), user),
        write(SET, change(SET, spec={"replicas": 0}), user),
        write(POD, None, user),
        reach("eviction", "CREATE", "Eviction", user),
        reach("exec", "CONNECT", "PodExecOptions", user),
        reach("binding", "CREATE", "Binding", user),
    ):
        assert written.decision.allowed
        assert written.decision.violations == ()
        assert written.asked == []


def test_nobody_makes_a_child_by_hand() -> None:
    written = write(None, POD)
    assert denied(written) == ["metadata.ownerReferences"]
    assert write(None, POD, policies=WITHOUT).decision.allowed


def test_an_automation_writes_to_children_what_it_is_given() -> None:
    given = CONFIG + policy().replace(
        "mode: enforce",
        "mode: enforce, automation: [{name: vpa, serviceAccounts: [vpa/updater], fields: [spec.containers]}]",
    )
    vpa = service_account("vpa", "updater")
    policies = snapshot_of(given)
    assert write(POD, change(POD, spec={"containers": "two"}), vpa, policies=policies).decision.allowed
    assert denied(write(POD, change(POD, labels={}), vpa, policies=policies)) == ["metadata.labels.app"]


# ── which policies ───────────────────────────────────────────────────────────────────────────────────────────────────

BY_OWNER = "{resources: [{apiGroups: [apps], resources: [deployments]}]}"


def test_a_policy_that_names_the_owner_is_about_its_children_in_whatever_way_they_are_written() -> None:
    policies = snapshot_of(CONFIG + policy(BY_OWNER))
    assert denied(write(POD, change(POD, spec={"containers": "two"}), policies=policies)) == ["spec.containers"]
    assert not write(POD, None, policies=policies).decision.allowed
    assert not reach("eviction", "CREATE", "Eviction", policies=policies).decision.allowed
    assert not reach("exec", "CONNECT", "PodExecOptions", policies=policies).decision.allowed


@pytest.mark.parametrize("pods", ["pods", "pods/log", "'*'"])
def test_a_policy_that_names_the_owner_and_its_children_guards_no_less(pods: str) -> None:
    resources = f"{{resources: [{{apiGroups: ['', apps], resources: [deployments, {pods}]}}]}}"
    policies = snapshot_of(CONFIG + policy(resources))
    assert not reach("exec", "CONNECT", "PodExecOptions", policies=policies).decision.allowed
    assert not reach("eviction", "CREATE", "Eviction", policies=policies).decision.allowed


@pytest.mark.parametrize(
    "match",
    [
        "{resources: [{apiGroups: [apps], resources: [statefulsets]}]}",
        "{resources: [{apiGroups: [apps], resources: [replicasets]}]}",
        "{namespaces: [other]}",
        "{tools: [argocd]}",
        "{operations: [CREATE]}",
        "{objectSelector: {matchLabels: {app: api}}}",
    ],
)
def test_a_policy_about_other_owners_leaves_children_alone(match: str) -> None:
    policies = snapshot_of(CONFIG + policy(match))
    assert write(POD, change(POD, spec={"containers": "two"}), policies=policies).decision.allowed
    assert reach("exec", "CONNECT", "PodExecOptions", policies=policies).decision.allowed


def test_a_policy_about_pods_guards_those_that_a_managed_object_owns() -> None:
    pods = "{resources: [{apiGroups: [''], resources: [pods]}]}"
    policies = snapshot_of(CONFIG + policy(pods))
    assert denied(write(POD, change(POD, spec={"containers": "two"}), policies=policies)) == ["spec.containers"]
    assert write(SET, change(SET, spec={"replicas": 0}), policies=policies).decision.allowed
    # As in a webhook configuration, it is not about subresources that it does not name.
    assert reach("exec", "CONNECT", "PodExecOptions", policies=policies).decision.allowed
    named = snapshot_of(CONFIG + policy("{resources: [{apiGroups: [''], resources: [pods/exec]}]}"))
    assert not reach("exec", "CONNECT", "PodExecOptions", policies=named).decision.allowed


def test_a_policy_without_children_takes_a_child_for_unmanaged_even_beside_one_with_them() -> None:
    policies = snapshot_of(
        CONFIG
        + policy(BY_OWNER, "{deletion: true, children: true}")
        + policy(protect="{fields: [spec.containers]}", name="q")
        + policy("{scope: All}", "{fields: [spec.priority]}", name="r")
    )
    assert write(POD, change(POD, spec={"containers": "two"}), policies=policies).decision.allowed
    raised = change(POD, spec={"containers": "one", "priority": 5})
    assert denied(write(POD, raised, policies=policies)) == ["spec.priority"]


# ── break-glass ──────────────────────────────────────────────────────────────────────────────────────────────────────

GLASS = {REASON: "fire", BY: "sam", EXPIRES: "2026-11-22T08:00:00Z"}
OPEN_WEB = change(WEB, annotations=GLASS)


def test_the_broken_glass_of_the_owner_opens_its_children() -> None:
    there = (OPEN_WEB, SET, POD, NAMESPACE)
    for written in (
        write(POD, change(POD, spec={"containers": "two"}), ALICE, *there),
        write(POD, None, ALICE, *there),
        reach("eviction", "CREATE", "Eviction", ALICE, *there),
        reach("exec", "CONNECT", "PodExecOptions", ALICE, *there),
    ):
        assert written.decision.allowed
        use = written.decision.break_glass
        assert use is not None
        assert (use.action, use.by, use.on) == ("used", "sam", str(DEPLOYMENT))
        assert ObjectRef("", "v1", "namespaces", "", "shop") not in written.asked


def test_the_broken_glass_of_the_namespace_opens_children() -> None:
    opened = {**NAMESPACE, "metadata": {"name": "shop", "annotations": GLASS}}
    assert reach("exec", "CONNECT", "PodExecOptions", ALICE, WEB, SET, POD, opened).decision.allowed


def test_a_message_tells_to_break_the_glass_of_the_owner() -> None:
    written = write(POD, None, SAM)
    assert written.decision.message.splitlines()[-1] == (
        "  kubectl annotate --overwrite deployments.apps web -n shop driftwall.io/break-glass='REASON'"
    )


def test_the_glass_of_the_child_itself_may_be_broken() -> None:
    broken = write(POD, change(POD, annotations={REASON: "fire"}), SAM)
    assert broken.glass == ("fire", "sam", "2026-11-22T11:00:00Z")
    stored = change(broken.stored)
    stored["metadata"]["managedFields"] = [
        *POD["metadata"]["managedFields"],
        entry("kubectl-annotate", {"f:metadata": {"f:annotations": {f"f:{key}": {} for key in GLASS}}}),
    ]
    assert reach("exec", "CONNECT", "PodExecOptions", ALICE, WEB, SET, stored, NAMESPACE).decision.allowed
    assert not reach("exec", "CONNECT", "PodExecOptions", ALICE, WEB, SET, POD, NAMESPACE).decision.allowed


def test_break_glass_that_a_controller_copied_from_a_template_opens_nothing() -> None:
    """Whoever may write a pod template's annotations would open the pods with them."""
    copied = made("Pod", "web-1-a", SET, {"containers": "one"}, version="v1", annotations=GLASS)
    there = (WEB, SET, copied, NAMESPACE)
    assert not write(copied, change(copied, spec={"containers": "two"}), ALICE, *there).decision.allowed
    assert not write(copied, None, ALICE, *there).decision.allowed
    assert not reach("exec", "CONNECT", "PodExecOptions", ALICE, *there).decision.allowed
    # Nor by saying that somebody else wrote it.
    kept = copied["metadata"]["managedFields"][0]["fieldsV1"]
    less = {**kept, "f:metadata": {key: value for key, value in kept["f:metadata"].items() if key != "f:annotations"}}
    rewritten = [
        entry("kube-controller-manager", less),
        entry("sam", {"f:metadata": {"f:annotations": {f"f:{key}": {} for key in GLASS}}}),
    ]
    assert denied(write(copied, change(copied, managedFields=rewritten), ALICE, *there)) == ["metadata.managedFields"]


def test_the_copy_on_a_replica_set_outlives_no_glass_that_was_mended() -> None:
    """The deployment controller copies a Deployment's annotations to its ReplicaSet, and does not take them away."""
    copied = made("ReplicaSet", "web-1", WEB, {"replicas": 2}, annotations=GLASS)
    for web, allowed in ((OPEN_WEB, True), (WEB, False)):
        there = (web, copied, POD, NAMESPACE)
        assert write(POD, None, ALICE, *there).decision.allowed is allowed
        assert write(copied, change(copied, spec={"replicas": 0}), ALICE, *there).decision.allowed is allowed


def test_the_rule_of_a_policy_about_children_binds_who_breaks_the_glass_of_their_owner() -> None:
    strict = policy("{resources: [{apiGroups: [''], resources: ['pods/*']}]}", name="q", glass="{users: [chief]}")
    policies = snapshot_of(CONFIG + policy(protect="{declared: true}") + strict)
    written = write(WEB, change(WEB, annotations={REASON: "fire"}), SAM, policies=policies)
    assert refused(written.decision) == "only chief may break glass, or end it"


# ── the autoscaler, another hand ─────────────────────────────────────────────────────────────────────────────────────

DECLARED_WEB = change(WEB, managedFields=[entry("kustomize-controller", {"f:spec": {"f:replicas": {}}}, "apps/v1")])
UNDECLARED_WEB = change(WEB, managedFields=[entry("kustomize-controller", {"f:spec": {"f:paused": {}}}, "apps/v1")])


def autoscaler(target: str = "web", most: int = 9, version: str = "apps/v1", **metadata: Any) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "mine", "namespace": "shop", **metadata},
        "spec": {"scaleTargetRef": {"apiVersion": version, "kind": "Deployment", "name": target}, "maxReplicas": most},
    }


def point(old: Json | None, new: Json | None, user: Json = ALICE, *there: Json, **how: Any) -> Admitted:
    return write(old, new, user, *(there or (DECLARED_WEB, NAMESPACE)), **{"policies": WITHOUT, **how})


def test_nobody_points_an_autoscaler_at_a_workload_whose_replicas_are_declared() -> None:
    written = point(None, autoscaler())
    assert denied(written) == ["spec.replicas"]
    assert written.decision.message == (
        'deployments.apps "web" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).\n'
        'alice may not change through horizontalpodautoscalers.autoscaling "mine" in namespace "shop":\n'
        '  spec.replicas: 2 -> "what the autoscaler says"\n'
        "Policy p (enforce, medium)\n"
        "Change it in Git and let Flux apply it.\n"
        "In an incident, ask group sre to break glass."
    )
    for old, new in (
        (autoscaler("other"), autoscaler()),
        (autoscaler(most=5), autoscaler()),
        (None, autoscaler(version="apps/v1beta2")),
    ):
        assert not point(old, new).decision.allowed


def test_where_replicas_are_not_declared_an_autoscaler_may_be_pointed_there() -> None:
    assert point(None, autoscaler(), ALICE, UNDECLARED_WEB).decision.allowed
    assert point(None, autoscaler(), ALICE, change(DECLARED_WEB, labels={})).decision.allowed
    ignoring = snapshot_of(CONFIG + policy(protect="{declared: true, ignore: [spec.replicas]}"))
    assert point(None, autoscaler(), policies=ignoring).decision.allowed


def test_flux_points_its_autoscaler_where_it_wants() -> None:
    pointed = point(None, autoscaler(labels=FLUX_LABELS), FLUX)
    assert (pointed.decision.allowed, pointed.asked) == (True, [])


def test_a_write_to_an_autoscaler_that_leaves_its_spec_alone_changes_nothing() -> None:
    for new, subresource in (
        (autoscaler(annotations={"note": "x"}), ""),
        (autoscaler(), ""),
        ({**autoscaler(), "status": {"currentReplicas": 2}}, "status"),
    ):
        written = point(autoscaler(), new, subresource=subresource)
        assert (written.decision.allowed, written.asked) == (True, [])
    assert point(autoscaler(), None).decision.allowed


@pytest.mark.parametrize(
    "target", [None, {}, [], {"kind": "Deployment"}, {"kind": 5, "name": []}, {"kind": "", "name": ""}]
)
def test_an_autoscaler_that_points_nowhere_changes_nothing(target: Any) -> None:
    nowhere = {**autoscaler(), "spec": {"scaleTargetRef": target, "maxReplicas": 9}}
    written = point(None, nowhere)
    assert (written.decision.allowed, written.asked) == (True, [])


def test_an_autoscaler_may_wait_for_a_workload_that_does_not_exist() -> None:
    written = point(None, autoscaler("later"))
    assert (written.decision.allowed, written.asked) == (True, [ref("deployments", "later")])


def test_the_broken_glass_of_the_workload_lets_an_autoscaler_be_pointed_at_it_and_that_is_recorded() -> None:
    opened = change(DECLARED_WEB, annotations=GLASS)
    written = point(None, autoscaler(), ALICE, opened)
    assert written.decision.allowed
    use = written.decision.break_glass
    assert use is not None
    assert (use.action, use.on, [violation.name for violation in use.violations]) == ("used", str(DEPLOYMENT), ["p"])
    # The autoscaler itself has not drifted.
    assert written.patch == ()
