"""Who gets past driftwall by RBAC: every way is found, and those who are meant to be there are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.reviews import snapshot_of
from tests.test_rbac import Json, binding, role
from webhook.exposure import Exposure, chains, excess, exposures, is_meant
from webhook.identity import SYSTEM_CONTROLLERS
from webhook.policy import Snapshot
from webhook.rbac import Access, Grant, Rbac, Rule, Subject, read
from webhook.rights import SHIPPED, missing, needed
from webhook.ways import Account, Stakes, ways

DEPLOY = Path(__file__).parents[1] / "deploy" / "kustomize"
SNAPSHOT = snapshot_of("""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - {name: flux, serviceAccounts: [flux-system/kustomize-controller, "team-*/deployer"]}
    - {name: bots, users: [bot], groups: [bots]}
  systemWriters: {users: ["eks:node-manager"]}
  breakGlass: {groups: [sre], users: [chief]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: ports}
spec: {protect: {fieldSets: [openedPorts]}}
""")
STAKES = Stakes(
    accounts=(Account(namespace="flux-system", name="kustomize-controller", pods=frozenset({"kustomize-0"})),),
    users=frozenset({"bot", "chief"}),
    groups=frozenset({"bots", "sre"}),
    namespace="driftwall-system",
    forgeable=True,
)
MALLORY: Json = {"kind": "User", "name": "mallory"}
WAYS = ways(STAKES)


def found(*objects: Json, snapshot: Snapshot = SNAPSHOT) -> list[Exposure]:
    return exposures(read(objects), snapshot, STAKES)


def planted(
    verbs: str,
    group: str,
    resource: str,
    *names: str,
    namespace: str = "",
    who: Json = MALLORY,
    called: str = "hole",
) -> list[Json]:
    """A role with one rule, and a binding of it."""
    rules: Json = {"apiGroups": [group], "resources": [resource], "verbs": verbs.split(",")}
    if names:
        rules["resourceNames"] = list(names)
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    return [role(called, rules), binding(called, f"ClusterRole {called}", who, kind=kind, namespace=namespace)]


RBAC = "rbac.authorization.k8s.io"
ADMISSION = "admissionregistration.k8s.io"


@pytest.mark.parametrize(
    ("objects", "does"),
    [
        (planted("impersonate", "", "serviceaccounts", namespace="flux-system"), "impersonate flux-system/kustomize-c"),
        (
            planted("impersonate", "", "users", "system:kube-scheduler"),
            "impersonate the control plane or trusted users",
        ),
        (planted("impersonate", "", "users", "chief"), "impersonate the control plane or trusted users"),
        (planted("impersonate", "", "groups", "system:masters"), "impersonate superusers, nodes or trusted groups"),
        (planted("impersonate", "authentication.k8s.io", "uids"), "impersonate whomever with any uid"),
        (planted("create", "", "serviceaccounts/token"), "mint a token of flux-system/kustomize-controller, the contr"),
        (planted("create", "", "pods/exec", namespace="flux-system"), "get into pods in flux-system"),
        (planted("get", "", "pods/attach", "kustomize-0", namespace="flux-system"), "get into pods in flux-system"),
        (planted("patch", "", "pods/ephemeralcontainers", namespace="kube-system"), "get into pods in kube-system"),
        (planted("create", "", "nodes/proxy"), "get into every pod through its kubelet"),
        (planted("patch", "apps", "deployments", "any", namespace="flux-system"), "run pods in flux-system"),
        (planted("create", "batch", "cronjobs", namespace="flux-system"), "run pods in flux-system"),
        (planted("list", "", "secrets", namespace="flux-system"), "read Secrets in flux-system"),
        (planted("create", "", "secrets", namespace="flux-system"), "write Secrets in flux-system"),
        (planted("escalate", RBAC, "clusterroles"), "give rights that one does not have"),
        (planted("bind", RBAC, "roles", namespace="driftwall-system"), "give rights that one does not have"),
        (planted("patch", ADMISSION, "validatingwebhookconfigurations", "driftwall"), "write webhook configurations"),
        (planted("create", ADMISSION, "mutatingwebhookconfigurations"), "write webhook configurations"),
        (planted("delete", "driftwall.io", "driftpolicies"), "write DriftPolicies or the DriftwallConfig"),
        (planted("patch", "driftwall.io", "driftwallconfigs", "default"), "write DriftPolicies or the DriftwallConfig"),
        (
            planted("patch", "", "configmaps", namespace="driftwall-system"),
            "write Secrets, ConfigMaps or Services in dr",
        ),
        (planted("get", "", "secrets", "driftwall-tls", namespace="driftwall-system"), "read Secrets in driftwall-sys"),
        (planted("patch", "apps", "deployments/scale", namespace="driftwall-system"), "run or stop pods in driftwall-"),
        (planted("delete", "", "namespaces", "driftwall-system"), "delete the Namespace driftwall-system"),
        (planted("patch", "", "namespaces"), "label Namespaces"),
        (
            planted("approve", "certificates.k8s.io", "signers", "kubernetes.io/*"),
            "sign client certificates of any name",
        ),
        (planted("*", "*", "*"), "everything"),
    ],
)
def test_every_way_is_found_with_the_binding_that_opens_it(objects: list[Json], does: str) -> None:
    (exposure,) = found(*objects)
    assert does in ", ".join(exposure.does)
    assert exposure.binding.endswith("hole")
    assert exposure.subjects == (Subject(kind="User", name="mallory"),)
    assert exposure.remedy


@pytest.mark.parametrize(
    "objects",
    [
        planted("get,list,watch", "", "pods"),
        planted("create", "", "pods/exec", namespace="shop"),
        planted("create", "", "pods/exec", "another-pod", namespace="flux-system"),
        planted("get", "", "secrets", namespace="shop"),
        planted("impersonate", "", "users", "carol"),
        planted("impersonate", "", "groups", "developers"),
        planted("create", "", "serviceaccounts/token", "another", namespace="flux-system"),
        planted("get,list,watch", ADMISSION, "validatingwebhookconfigurations"),
        planted("patch", ADMISSION, "validatingwebhookconfigurations", "another"),
        planted("get,list,watch", "driftwall.io", "*"),
        planted("bind", RBAC, "clusterroles", "view"),
        planted("escalate", RBAC, "roles", namespace="shop"),
        planted("create,patch", RBAC, "clusterrolebindings"),
        planted("approve", "certificates.k8s.io", "signers", "example.com/serving"),
        planted("*", "*", "*", namespace="shop"),
        planted("deletecollection", "driftwall.io", "driftpolicies", "one"),
    ],
)
def test_what_opens_no_way_is_no_finding(objects: list[Json]) -> None:
    view = role("view", {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})
    assert found(view, *objects) == []


def test_to_bind_a_role_is_as_dangerous_as_that_role() -> None:
    wide = role("wide", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    assert found(wide, *planted("bind", RBAC, "clusterroles", "harmless")) == []
    (exposure,) = found(wide, *planted("bind", RBAC, "clusterroles", "wide"))
    assert exposure.categories == ("rbac",)


def test_a_binding_is_told_once_with_all_its_subjects_and_all_that_they_can_do() -> None:
    bob, devs = {"kind": "User", "name": "bob"}, {"kind": "Group", "name": "devs"}
    admins = [
        role("admin", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
        binding("people", "ClusterRole admin", MALLORY, bob, devs),
    ]
    (exposure,) = found(*admins)
    assert exposure.does == ("everything",)
    assert [str(subject) for subject in exposure.subjects] == ["Group devs", "User bob", "User mallory"]
    edit = {"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "create", "patch"]}
    (exposure,) = found(
        role("r", edit), binding("b", "ClusterRole r", devs, kind="RoleBinding", namespace="flux-system")
    )
    assert exposure.does == (
        "mint a token of flux-system/kustomize-controller",
        "get into pods in flux-system",
        "run pods in flux-system",
        "read Secrets in flux-system",
        "write Secrets in flux-system",
    )
    assert exposure.remedy == "Delete the binding, or bind a role in flux-system that has less: view, for example."


def linked(*objects: Json) -> list[tuple[str, str]]:
    """Who can become whom, beside those who get past driftwall by themselves."""
    rbac = read(objects)
    links = chains(rbac, SNAPSHOT, STAKES, exposures(rbac, SNAPSHOT, STAKES))
    return [(str(who), str(whom)) for each in links for who in each.subjects for whom in each.through]


DEPLOYER: Json = {"kind": "ServiceAccount", "name": "deployer", "namespace": "ci"}
AS_USER: Json = {"kind": "User", "name": "system:serviceaccount:ci:deployer"}
OF_CI: Json = {"kind": "Group", "name": "system:serviceaccounts:ci"}
CAROL: Json = {"kind": "User", "name": "carol"}


def opened_to(who: Json) -> list[Json]:
    return planted("create", "", "serviceaccounts/token", namespace="flux-system", who=who)


def link(verbs: str, resource: str, *names: str, namespace: str = "", who: Json = CAROL) -> list[Json]:
    return planted(verbs, "", resource, *names, namespace=namespace, who=who, called="link")


@pytest.mark.parametrize(
    ("who", "objects"),
    [
        (DEPLOYER, link("create", "serviceaccounts/token", "deployer", namespace="ci")),
        (DEPLOYER, link("impersonate", "serviceaccounts", "deployer", namespace="ci")),
        (DEPLOYER, link("create", "pods", namespace="ci")),
        (DEPLOYER, link("create", "pods/exec", namespace="ci")),
        (DEPLOYER, link("list", "secrets", namespace="ci")),
        (AS_USER, link("list", "secrets", namespace="ci")),
        (OF_CI, link("create", "serviceaccounts/token", "whichever", namespace="ci")),
        (MALLORY, link("impersonate", "users", "mallory")),
        ({"kind": "Group", "name": "devs"}, link("impersonate", "groups", "devs")),
    ],
)
def test_whoever_can_become_one_who_is_listed_is_listed_too(who: Json, objects: list[Json]) -> None:
    ((found_who, _),) = linked(*opened_to(who), *objects)
    assert found_who == "User carol"


@pytest.mark.parametrize(
    ("who", "objects"),
    [
        (DEPLOYER, link("create", "serviceaccounts/token", "another", namespace="ci")),
        (DEPLOYER, link("create", "pods", namespace="shop")),
        (DEPLOYER, link("get", "pods", namespace="ci")),
        (DEPLOYER, link("create", "pods", namespace="ci", who=DEPLOYER)),
        (DEPLOYER, link("create", "pods", namespace="ci", who={"kind": "Group", "name": "system:masters"})),
        (MALLORY, link("impersonate", "users", "another")),
        ({"kind": "Group", "name": "system:authenticated"}, link("impersonate", "groups", "system:authenticated")),
    ],
)
def test_who_becomes_nobody_who_is_listed_is_no_link(who: Json, objects: list[Json]) -> None:
    assert linked(*opened_to(who), *objects) == []


def test_a_chain_that_bites_its_tail_ends() -> None:
    there, back = link("impersonate", "users", "mallory"), planted("impersonate", "", "users", "carol", called="back")
    assert linked(*opened_to(MALLORY), *there, *back) == [("User carol", "User mallory")]


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("Group", "system:masters", True),
        ("Group", "system:nodes", True),
        ("Group", "bots", True),
        ("Group", "system:authenticated", False),
        ("Group", "system:serviceaccounts:flux-system", False),
        ("Group", "sre", False),
        ("User", "system:kube-controller-manager", True),
        ("User", "system:node:worker", True),
        ("User", "eks:node-manager", True),
        ("User", "bot", True),
        ("User", "system:kube-controller-manager-x", False),
        ("User", "system:admin", False),
        ("User", "system:serviceaccount:flux-system:kustomize-controller", True),
        ("User", "system:serviceaccount:kube-system:evil", False),
        ("ServiceAccount", "kube-system/deployment-controller", True),
        ("ServiceAccount", "kube-system/horizontal-pod-autoscaler", True),
        ("ServiceAccount", "kube-system/default", False),
        ("ServiceAccount", "shop/deployment-controller", False),
        ("ServiceAccount", "flux-system/kustomize-controller", True),
        ("ServiceAccount", "team-a/deployer", True),
        ("ServiceAccount", "flux-system/source-controller", True),
        ("ServiceAccount", "flux-system/source-controller-x", False),
        ("ServiceAccount", "argocd/argocd-server", False),  # Argo CD is not there
        ("ServiceAccount", "driftwall-system/driftwall", True),
        ("ServiceAccount", "driftwall-system/default", False),
    ],
)
def test_who_is_meant_to_be_there_is_told_by_exact_names(kind: str, name: str, *, meant: bool) -> None:
    namespace, slash, rest = name.partition("/")
    subject = Subject(kind=kind, name=rest, namespace=namespace) if slash else Subject(kind=kind, name=name)
    assert is_meant(subject, SNAPSHOT, STAKES) is meant


def rule_for(access: Access) -> Rule:
    nameless = access.verb == "deletecollection"
    return Rule(
        verbs=frozenset({access.verb}),
        groups=frozenset({access.group}),
        resources=frozenset({access.resource}),
        names=access.names if access.names and not nameless else frozenset(),
    )


@given(st.sampled_from([access for way in WAYS for access in way.accesses]))
def test_whoever_has_one_dangerous_access_is_found_and_whoever_is_meant_is_not(access: Access) -> None:
    subjects = (
        Subject(kind="User", name="mallory"),
        Subject(kind="Group", name="system:masters"),
        *(Subject(kind="ServiceAccount", name=name, namespace="kube-system") for name in SYSTEM_CONTROLLERS),
    )
    grant = Grant(binding="b", role="r", namespace=access.namespace, subjects=subjects, rules=(rule_for(access),))
    (exposure,) = exposures(Rbac(grants=(grant,), roles={}), SNAPSHOT, STAKES)
    assert exposure.subjects == (Subject(kind="User", name="mallory"),)
    assert access in exposure.accesses


# ── driftwall's own rights ───────────────────────────────────────────────────────────────────────────────────────────


def shipped() -> list[Json]:
    files = (DEPLOY / "base" / "rbac.yaml", DEPLOY / "overlays" / "custom-resources" / "rbac.yaml")
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def test_the_rights_that_are_known_are_those_in_deploy() -> None:
    written = {
        (each["kind"] == "Role", rule) for each in shipped() for rules in read([each]).roles.values() for rule in rules
    }
    assert written == {(right.namespaced, right.rule) for right in SHIPPED}


def test_as_shipped_nothing_is_missing_and_nothing_too_much() -> None:
    rbac = read(shipped())
    assert missing(rbac, needed(certificate=True, policies=True), STAKES) == []
    assert excess(rbac, [right.rule for right in SHIPPED], STAKES) == []
    assert exposures(rbac, SNAPSHOT, STAKES) == []


def test_a_right_that_was_taken_away_is_missed_where_it_is_needed() -> None:
    rbac = read([each for each in shipped() if each["metadata"]["name"] != "driftwall-policies"])
    assert missing(rbac, needed(certificate=True, policies=False), STAKES) == []
    lacking = [str(access) for access in missing(rbac, needed(certificate=False, policies=True), STAKES)]
    assert "watch driftpolicies.driftwall.io" in lacking
    nothing = [str(access) for access in missing(read([]), needed(certificate=True, policies=False), STAKES)]
    assert "patch secrets driftwall-tls" in nothing


def test_more_than_what_is_shipped_is_told_where_it_opens_a_way() -> None:
    me = {"kind": "ServiceAccount", "name": "driftwall", "namespace": "driftwall-system"}
    rules = [right.rule for right in SHIPPED]
    harmless = planted("get,patch", "argoproj.io", "rollouts", who=me)
    assert excess(read([*shipped(), *harmless]), rules, STAKES) == []
    (exposure,) = excess(read([*shipped(), *planted("get", "", "secrets", who=me)]), rules, STAKES)
    assert "read Secrets in flux-system, kube-system, driftwall-system" in exposure.does
    (exposure,) = excess(read(planted("*", "*", "*", who=me)), rules, STAKES)
    assert exposure.does == ("everything",)
