from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cel_expr_python import cel  # type: ignore[import-untyped]

from tests.admitting import SAM, mutated
from tests.reviews import ALICE, FLUX, FLUX_LABELS, RECORDINGS, Cluster, Json, person, service_account, snapshot_of
from tests.serving import certificates
from webhook import bundled, pki
from webhook.admission import parse
from webhook.cli import main
from webhook.decision import Decision
from webhook.policy import Snapshot
from webhook.webhook_config import Target, render

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  guardIdentities: false
"""
GUARDED = CONFIG.replace("guardIdentities: false", "guardIdentities: true")
GLASS = CONFIG + "  breakGlass: {groups: [sre]}\n"


def policy(
    resources: str = "",
    mode: str = "enforce",
    operations: str = "",
    name: str = "p",
    *,
    children: bool = False,
    scope: str = "",
) -> str:
    """A policy; ``resources`` as ``apps: [deployments]``."""
    match = [f"scope: {scope}"] if scope else []
    if resources:
        group, _, names = resources.partition(": ")
        match.append(f"resources: [{{apiGroups: [{group}], resources: {names}}}]")
    if operations:
        match.append(f"operations: {operations}")
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: {mode}, match: {{{", ".join(match)}}}, protect: {{declared: true, children: {str(children).lower()}}}}}
"""


SERVICE = Target(namespace="driftwall-system", service="driftwall")
URL = Target(url="https://127.0.0.1:8443")


def webhooks(policies: str | Snapshot, target: Target = URL) -> dict[str, Json]:
    """The webhooks by their names; without the one that guards the definitions of driftwall's own kinds."""
    snapshot = snapshot_of(policies) if isinstance(policies, str) else policies
    found = {each["name"]: each for document in render(snapshot, target) for each in document["webhooks"]}
    del found["definitions.driftwall.io"]
    return found


Rule = tuple[str, str, str]
#: driftwall's own objects are guarded whatever the policies say.
OWN = {
    ("driftwall.io", resource, operation)
    for resource in ("driftpolicies", "driftwallconfigs")
    for operation in ("CREATE", "UPDATE", "DELETE")
}


def rules(webhook: Json) -> set[Rule]:
    """Group, resource and operation of all that a webhook is called for, beside driftwall's own objects."""
    return all_rules(webhook) - OWN


def all_rules(webhook: Json) -> set[Rule]:
    return {
        (group, resource, operation)
        for rule in webhook["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for operation in rule["operations"]
    }


def names(webhook: Json) -> set[str]:
    return {condition["name"] for condition in webhook["matchConditions"]}


# ── the API server, as far as it decides whom to call ────────────────────────────────────────────────────────────────

ENVIRONMENT = cel.NewEnv(variables=dict.fromkeys(("object", "oldObject", "request"), cel.Type.DYN))


@cache
def compiled(expression: str) -> Any:
    return ENVIRONMENT.compile(expression)


def holds(expression: str, request: Json) -> bool:
    """What a matchCondition says. Like the API server, it fails for a field that is not there."""
    data = {"object": request.get("object"), "oldObject": request.get("oldObject")}
    rest = {key: value for key, value in request.items() if key not in data}
    value = compiled(expression).eval(data={**data, "request": rest})
    assert value.type() == cel.Type.BOOL, (value.value(), expression)
    return bool(value.value())


def selects(rule: Json, request: Json) -> bool:
    """k8s.io/apiserver, pkg/admission/plugin/webhook/predicates/rules."""
    group, resource = request["resource"]["group"], request["resource"]["resource"]
    subresource = request.get("subResource", "")
    places = [name.partition("/")[::2] for name in rule["resources"]]
    return (
        request["operation"] in rule["operations"]
        and bool({"*", group} & set(rule["apiGroups"]))
        and any(name in ("*", resource) and below in ("*", subresource) for name, below in places)
    )


def in_selected_namespace(selector: Mapping[str, Any], request: Json) -> bool:
    kind = request["kind"]["kind"]
    namespace = request.get("name" if kind == "Namespace" else "namespace", "")
    if not namespace:
        return True
    for expression in selector.get("matchExpressions", ()):
        assert expression["key"] == "kubernetes.io/metadata.name"
        assert expression["operator"] in ("In", "NotIn")
        if (namespace in expression["values"]) is not (expression["operator"] == "In"):
            return False
    return True


def called(webhook: Json, request: Json, *, conditions: bool = True) -> bool:
    """Whether the API server sends this request; without ``conditions`` it is one from before v1.28."""
    return (
        any(selects(rule, request) for rule in webhook["rules"])
        and in_selected_namespace(webhook["namespaceSelector"], request)
        and (not conditions or all(holds(each["expression"], request) for each in webhook["matchConditions"]))
    )


def callers(hooks: Mapping[str, Json], request: Json, path: str = "/validate") -> list[str]:
    return [
        name for name, hook in hooks.items() if hook["clientConfig"]["url"].endswith(path) and called(hook, request)
    ]


# ── what the API server takes ────────────────────────────────────────────────────────────────────────────────────────

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")


def assert_valid(documents: list[Json]) -> None:
    """As k8s.io/kubernetes, pkg/apis/admissionregistration/validation."""
    for document in documents:
        assert document["apiVersion"] == "admissionregistration.k8s.io/v1"
        assert document["metadata"] == {"name": "driftwall"}
        hooks = document["webhooks"]
        assert len({hook["name"] for hook in hooks}) == len(hooks)
        for hook in hooks:
            assert _SUBDOMAIN.match(hook["name"])
            assert hook["name"].count(".") >= 2
            assert hook["admissionReviewVersions"] == ["v1"]
            assert hook["sideEffects"] in ("None", "NoneOnDryRun")
            assert hook["failurePolicy"] in ("Fail", "Ignore")
            assert hook["matchPolicy"] == "Equivalent"
            assert 1 <= hook["timeoutSeconds"] <= 3
            assert len(hook["matchConditions"]) <= 64
            assert len(names(hook)) == len(hook["matchConditions"])
            for condition in hook["matchConditions"]:
                assert _QUALIFIED.match(condition["name"])
                assert len(condition["name"]) <= 63
                assert compiled(condition["expression"]).return_type() in (cel.Type.BOOL, cel.Type.DYN)
            assert hook["rules"] != []
            for rule in hook["rules"]:
                assert_valid_rule(rule)
        assert ("reinvocationPolicy" in str(hooks)) is (document["kind"] == "MutatingWebhookConfiguration")


def assert_valid_rule(rule: Json) -> None:
    assert rule["apiVersions"] == ["*"]
    assert rule["scope"] == "*"
    assert len(rule["apiGroups"]) == 1
    resources = rule["resources"]
    assert resources != []
    assert len(set(resources)) == len(resources)
    if "*/*" in resources:
        assert resources == ["*/*"]
    if "*" in resources:
        assert [name for name in resources if "/" not in name] == ["*"]
    for name in resources:
        resource, slash, subresource = name.partition("/")
        assert resource
        assert bool(slash) is bool(subresource)
        if slash and subresource != "*":
            assert f"{resource}/*" not in resources
            assert resource == "*" or f"*/{subresource}" not in resources


EVERY_KIND_OF_POLICIES = [
    *(CONFIG + policy(mode=mode) for mode in ("enforce", "warn", "tag", "dryRun")),
    CONFIG,
    GUARDED,
    GLASS + policy(),
    GUARDED + policy(mode="warn"),
    GLASS + policy("apps: [deployments, '*/scale', 'statefulsets/*', statefulsets/status]"),
    GLASS + policy("'*': ['*', '*/scale', deployments]", "tag", "[UPDATE]"),
    GLASS
    + policy("apps: ['*/*', deployments]", operations="[DELETE]")
    + policy("'': [pods, 'pods/*', pods/exec]", name="q"),
    GLASS + policy(children=True) + policy("'': [services]", "warn", name="q", scope="All"),
]


@pytest.mark.parametrize("target", [URL, SERVICE], ids=["url", "service"])
@pytest.mark.parametrize("policies", EVERY_KIND_OF_POLICIES)
def test_whatever_the_policies_the_api_server_takes_the_configurations(policies: str, target: Target) -> None:
    assert_valid(render(snapshot_of(policies), target))


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rules_are_no_wider_than_the_policies() -> None:
    hooks = webhooks(
        CONFIG + policy("'': [services]") + policy("networking.k8s.io: [ingresses]", operations="[DELETE]", name="q")
    )
    assert rules(hooks["validate.driftwall.io"]) == {
        *(("", "services/*", operation) for operation in ("CREATE", "UPDATE", "DELETE")),
        ("networking.k8s.io", "ingresses/*", "DELETE"),
    }


def test_a_policy_about_workloads_hears_of_autoscalers_that_are_pointed_at_them() -> None:
    deployments = {("apps", "deployments/*", operation) for operation in ("CREATE", "UPDATE", "DELETE")}
    autoscalers = {("autoscaling", "horizontalpodautoscalers", operation) for operation in ("CREATE", "UPDATE")}
    hooks = webhooks(CONFIG + policy("apps: [deployments]"))
    assert rules(hooks["validate.driftwall.io"]) == deployments | autoscalers
    scale = webhooks(CONFIG + policy("apps: [deployments/scale]"))
    assert rules(scale["validate.driftwall.io"]) == autoscalers | {
        ("apps", "deployments/scale", operation) for operation in ("CREATE", "UPDATE", "DELETE")
    }


def test_a_policy_without_resources_or_about_children_is_about_everything() -> None:
    everything = {("*", "*/*", operation) for operation in ("CREATE", "UPDATE", "DELETE")}
    assert rules(webhooks(CONFIG + policy())["validate.driftwall.io"]) == everything
    children = webhooks(CONFIG + policy("apps: [deployments]", children=True))
    assert rules(children["validate.driftwall.io"]) == everything | {("*", "*/*", "CONNECT")}


def test_guarded_identities_need_the_requests_for_tokens_and_token_secrets() -> None:
    hooks = webhooks(GUARDED)
    assert set(hooks) == {"validate.driftwall.io"}
    assert rules(hooks["validate.driftwall.io"]) == {
        ("", "serviceaccounts/token", "CREATE"),
        ("", "secrets", "CREATE"),
        ("", "secrets", "UPDATE"),
    }
    assert rules(webhooks(CONFIG)["validate.driftwall.io"]) == set()


def test_its_own_objects_are_guarded_whatever_the_policies_say() -> None:
    for policies in (CONFIG, CONFIG + policy("'': [services]"), GUARDED):
        assert all_rules(webhooks(policies)["validate.driftwall.io"]) >= OWN


GLASS_ON_NAMESPACES = {("", "namespaces/*", operation) for operation in ("CREATE", "UPDATE")}


@pytest.mark.parametrize(
    ("resources", "operations", "place"),
    [
        ("apps: [deployments]", "[DELETE]", "deployments/*"),
        ("apps: [deployments/scale]", "", "deployments/*"),
        ("apps: ['*/scale']", "", "*/*"),
        ("apps: [deployments]", "[CREATE]", "deployments/*"),
    ],
)
def test_where_break_glass_opens_something_its_annotation_is_guarded_and_stamped(
    resources: str, operations: str, place: str
) -> None:
    """Else anybody could annotate the object, through a write that driftwall is not asked about."""
    hooks = webhooks(GLASS + policy(resources, operations=operations))
    guarded = {("apps", place, operation) for operation in ("CREATE", "UPDATE")} | GLASS_ON_NAMESPACES
    assert guarded <= rules(hooks["validate.driftwall.io"])
    stamped = rules(hooks["mutate.driftwall.io"])
    assert {("apps", place.partition("/")[0], operation) for operation in ("CREATE", "UPDATE")} <= stamped
    assert {("", "namespaces", operation) for operation in ("CREATE", "UPDATE")} <= stamped


def test_without_break_glass_nothing_more_is_asked_about() -> None:
    hooks = webhooks(CONFIG + policy("'': [services]", operations="[DELETE]"))
    assert rules(hooks["validate.driftwall.io"]) == {("", "services/*", "DELETE")}


# ── which webhooks ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_enforcing_policies_fail_closed_and_the_others_are_never_in_the_way() -> None:
    hooks = webhooks(CONFIG + policy("'': [services]") + policy("'': [configmaps]", "warn", name="q"))
    assert {name: hook["failurePolicy"] for name, hook in hooks.items()} == {
        "validate.driftwall.io": "Fail",
        "observe.driftwall.io": "Ignore",
    }
    assert {resource for _, resource, _ in rules(hooks["validate.driftwall.io"])} == {"services/*"}
    assert {resource for _, resource, _ in rules(hooks["observe.driftwall.io"])} == {"configmaps/*"}
    for mode in ("warn", "dryRun", "tag"):
        alone = webhooks(CONFIG + policy("'': [services]", mode))
        assert rules(alone["validate.driftwall.io"]) == set()
        assert {resource for _, resource, _ in rules(alone["observe.driftwall.io"])} == {"services/*"}


def test_a_mutating_webhook_is_there_only_where_something_is_marked_or_stamped() -> None:
    for policies, needed in (
        (CONFIG + policy(), False),
        (CONFIG + policy(mode="warn"), False),
        (GUARDED, False),
        (CONFIG + policy(mode="tag"), True),
        (GLASS + policy(), True),
        (CONFIG + policy().replace("mode: enforce", "mode: enforce, breakGlass: {users: [x]}"), True),
    ):
        assert ("mutate.driftwall.io" in webhooks(policies)) is needed


def test_the_mutating_webhook_is_never_a_reason_to_fail_nor_called_for_what_it_cannot_patch() -> None:
    mutating = webhooks(GLASS + policy(children=True) + policy("apps: [deployments/scale]", "tag", name="q"))[
        "mutate.driftwall.io"
    ]
    assert (mutating["failurePolicy"], mutating["sideEffects"], mutating["reinvocationPolicy"]) == (
        "Ignore",
        "None",
        "IfNeeded",
    )
    assert rules(mutating) == {("*", "*", "CREATE"), ("*", "*", "UPDATE")}


def test_its_own_namespace_is_guarded_by_a_webhook_that_never_fails() -> None:
    hooks = webhooks(CONFIG + policy() + policy("'': [services]", "warn", name="q"), SERVICE)
    assert {name: hook["failurePolicy"] for name, hook in hooks.items()} == {
        "validate.driftwall.io": "Fail",
        "self.driftwall.io": "Ignore",
    }
    assert selected(hooks["validate.driftwall.io"]) == ("NotIn", ["driftwall-system", "kube-system"])
    assert selected(hooks["self.driftwall.io"]) == ("In", ["driftwall-system"])
    assert "self.driftwall.io" not in webhooks(CONFIG + policy(), URL)


def selected(webhook: Json) -> tuple[str, list[str]]:
    (expression,) = webhook["namespaceSelector"]["matchExpressions"]
    assert expression["key"] == "kubernetes.io/metadata.name"
    return expression["operator"], expression["values"]


def test_exempt_namespaces_are_not_sent_as_far_as_a_selector_can_tell() -> None:
    exempt = CONFIG + "  exemptNamespaces: [kube-system, 'kube-*', b, a]\n"
    assert selected(webhooks(exempt + policy())["validate.driftwall.io"]) == ("NotIn", ["a", "b", "kube-system"])
    none = webhooks(CONFIG + "  exemptNamespaces: []\n" + policy())
    assert none["validate.driftwall.io"]["namespaceSelector"] == {}


def test_where_the_webhook_is() -> None:
    for target, config in (
        (URL, {"url": "https://127.0.0.1:8443/validate"}),
        (Target(url="https://a/b/"), {"url": "https://a/b/validate"}),
        (Target(url="https://a", ca=b"x"), {"url": "https://a/validate", "caBundle": "eA=="}),
        (
            SERVICE,
            {"service": {"namespace": "driftwall-system", "name": "driftwall", "path": "/validate", "port": 443}},
        ),
    ):
        assert webhooks(CONFIG + policy(), target)["validate.driftwall.io"]["clientConfig"] == config
    assert webhooks(GLASS + policy())["mutate.driftwall.io"]["clientConfig"] == {"url": "https://127.0.0.1:8443/mutate"}


# ── matchConditions, evaluated over what a real API server sent ──────────────────────────────────────────────────────


def requests() -> list[tuple[str, Json]]:
    return [
        (str(file.relative_to(RECORDINGS)), json.loads(file.read_bytes())["request"])
        for file in sorted(RECORDINGS.glob("*/*.json"))
    ]


def reference(mode: str = "enforce", more: str = "") -> Snapshot:
    text = (RECORDINGS / "reference-policies.yaml").read_text()
    return snapshot_of(
        text.replace("mode: enforce", f"mode: {mode}").replace("declared: true", "declared: true" + more)
    )


def concerned(decision: Decision) -> bool:
    """Whether a review must have been sent: driftwall has something to say, or to record."""
    return bool(decision.violations) or decision.break_glass is not None


@pytest.mark.parametrize("children", [False, True])
@pytest.mark.parametrize("mode", ["enforce", "warn", "tag", "dryRun"])
def test_every_recorded_write_that_concerns_the_policies_is_sent(mode: str, children: bool) -> None:
    snapshot = reference(mode, "\n    children: true" if children else "")
    hooks = webhooks(snapshot)
    cluster = Cluster()
    sent = total = 0
    for file, request in requests():
        written = parse((RECORDINGS / file).read_bytes())
        decision = cluster.decide(written, snapshot)
        cluster.remember(written)
        to = callers(hooks, request)
        if concerned(decision):
            assert to != [], file
            assert decision.allowed or "validate.driftwall.io" in to or mode != "enforce", file
        # Nor is anything decided twice.
        assert len(to) <= 1, file
        sent += bool(to)
        total += 1
    assert total == 399
    # The rest costs nothing: with children all pods are asked about that have an owner.
    assert sent < (150 if children else 110)


def test_what_is_to_be_stamped_marked_or_cleared_is_sent_to_the_mutating_webhook() -> None:
    snapshot = reference("tag")
    hooks = webhooks(snapshot)
    cluster = Cluster()
    patched = 0
    for file, request in requests():
        written = parse((RECORDINGS / file).read_bytes())
        if mutated(written, snapshot, cluster).patch:
            patched += 1
            assert callers(hooks, request, "/mutate") == ["mutate.driftwall.io"], file
        cluster.remember(written)
    assert patched > 20


@pytest.mark.parametrize("children", [False, True])
def test_the_control_plane_is_kept_away(children: bool) -> None:
    hooks = webhooks(reference(more="\n    children: true" if children else ""))
    system = [
        (file, request)
        for file, request in requests()
        if request["userInfo"]["username"].startswith(
            ("system:kube-", "system:apiserver", "system:serviceaccount:kube-system")
        )
        and "horizontal-pod-autoscaler" not in request["userInfo"]["username"]
    ]
    assert len(system) > 200
    for file, request in system:
        assert callers(hooks, request) + callers(hooks, request, "/mutate") == [], file


def request(
    user: Json = ALICE, obj: Json | None = None, old: Json | None = None, resource: str = "configmaps", **more: Any
) -> Json:
    """A request as the API server makes it: what is empty is not there."""
    place = {"group": more.pop("group", ""), "version": "v1", "resource": resource}
    subject = obj or old or {}
    made = {
        "uid": "u",
        "kind": {"group": place["group"], "version": "v1", "kind": subject.get("kind", "ConfigMap")},
        "resource": place,
        "name": "c",
        "namespace": "shop",
        "operation": "CREATE" if old is None else "DELETE" if obj is None else "UPDATE",
        "userInfo": user,
        "object": obj,
        "oldObject": old,
        **more,
    }
    return {key: value for key, value in made.items() if value != "" or key == "group"}


def thing(labels: Json | None = None, annotations: Json | None = None, **more: Any) -> Json:
    metadata = {"name": "c", "namespace": "shop"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **metadata,
            **({"labels": labels} if labels else {}),
            **({"annotations": annotations} if annotations else {}),
        },
        **more,
    }


MANAGED, PLAIN = thing(FLUX_LABELS), thing()
HOOKS = webhooks(GUARDED.replace("spec:", "spec:\n  breakGlass: {groups: [sre]}", 1) + policy())
EVERY = ["validate.driftwall.io"]


def test_an_object_that_nobody_manages_costs_nothing() -> None:
    for obj, old in ((PLAIN, None), (PLAIN, PLAIN), (None, PLAIN), (thing({"app": "x"}, {"note": "x"}), PLAIN)):
        for user in (ALICE, SAM, FLUX):
            assert callers(HOOKS, request(user, obj, old)) == []
            assert callers(HOOKS, request(user, obj, old), "/mutate") == []


@pytest.mark.parametrize(
    "marked",
    [
        thing(FLUX_LABELS),
        thing({"helm.toolkit.fluxcd.io/name": "x"}),
        thing({"crossplane.io/composite": "x"}),
        thing({}, {"argocd.argoproj.io/tracking-id": "x"}),
        thing({"app.kubernetes.io/managed-by": "Helm"}, {"meta.helm.sh/release-name": "x"}),
        thing({}, {"configmanagement.gke.io/managed": "enabled"}),
        thing({"objectset.rio.cattle.io/hash": "x"}, {"objectset.rio.cattle.io/id": "x"}),
        thing({}, {"projectsveltos.io/owner-kind": "x"}),
        thing({}, {"config.k8s.io/owning-inventory": "x"}),
        thing({"driftwall.io/drifted": "true"}),
        thing({}, {"driftwall.io/break-glass": "x"}),
        thing({}, {"driftwall.io/break-glass-by": "x"}),
        thing({}, {"driftwall.io/anything": ""}),
    ],
)
def test_what_is_managed_or_bears_our_own_annotations_before_or_after_is_sent(marked: Json) -> None:
    for obj, old in ((marked, None), (marked, PLAIN), (PLAIN, marked), (marked, marked), (None, marked)):
        assert callers(HOOKS, request(ALICE, obj, old)) == EVERY


def test_leases_and_events_are_never_sent() -> None:
    for group, resource in (("coordination.k8s.io", "leases"), ("", "events"), ("events.k8s.io", "events")):
        assert callers(HOOKS, request(ALICE, MANAGED, None, resource, group=group)) == []
    for group, resource in (("example.com", "leases"), ("example.com", "events")):
        assert callers(HOOKS, request(ALICE, MANAGED, None, resource, group=group)) == EVERY


def test_a_look_alike_of_the_control_plane_is_sent() -> None:
    controller = service_account("kube-system", "deployment-controller")
    assert callers(HOOKS, request(controller, MANAGED)) == []
    node = {"username": "system:node:a", "groups": ["system:nodes"]}
    assert callers(HOOKS, request(node, MANAGED)) == []
    for user in (
        service_account("kube-system", "deployment-controller", uid=""),
        {**controller, "uid": ""},
        service_account("kube-system", "evil"),
        service_account("kube-system", "deployment-controllers"),
        service_account("kube-system", "horizontal-pod-autoscaler"),
        person("system:apiserver "),
        person("system:kube-scheduler:x"),
        person("System:apiserver"),
        {"username": "system:node:a"},
        {"username": "system:node:a", "groups": ["system:authenticated"]},
        {"username": "alice", "groups": ["system:nodes", "system:masters"]},
    ):
        assert callers(HOOKS, request(user, MANAGED)) == EVERY, user


@pytest.mark.parametrize(
    ("resource", "subresource", "operation"),
    [
        ("deployments", "scale", "UPDATE"),
        ("pods", "eviction", "CREATE"),
        ("pods", "binding", "CREATE"),
        ("serviceaccounts", "token", "CREATE"),
    ],
)
def test_what_says_nothing_of_the_object_it_is_about_is_sent(resource: str, subresource: str, operation: str) -> None:
    sent = request(ALICE, PLAIN, PLAIN if operation == "UPDATE" else None, resource, subResource=subresource)
    assert callers(HOOKS, {**sent, "operation": operation}) == EVERY


@pytest.mark.parametrize("subresource", ["exec", "attach", "portforward", "proxy"])
def test_reaching_into_a_pod_is_sent_where_children_are_guarded(subresource: str) -> None:
    children = webhooks(CONFIG + policy(children=True))
    connect = {"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh"]}
    sent = {**request(ALICE, connect, None, "pods", subResource=subresource), "operation": "CONNECT"}
    assert callers(children, sent) == EVERY
    assert callers(HOOKS, sent) == []


def test_with_children_what_has_a_controller_is_sent() -> None:
    children = webhooks(CONFIG + policy(children=True))
    for owners, sent in (
        ([{"kind": "ReplicaSet", "controller": True}], True),
        ([{"kind": "A"}, {"kind": "B", "controller": True}], True),
        ([{"kind": "ReplicaSet", "controller": False}], False),
        ([{"kind": "ReplicaSet"}], False),
        ([], False),
    ):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c", "ownerReferences": owners}}
        assert callers(children, request(ALICE, None, pod, "pods")) == (EVERY if sent else [])
        assert callers(HOOKS, request(ALICE, None, pod, "pods")) == []


def test_a_secret_that_asks_for_a_token_is_sent_and_others_are_not() -> None:
    token = thing({}, {"kubernetes.io/service-account.name": "x"}, type="kubernetes.io/service-account-token")
    assert callers(HOOKS, request(ALICE, token, None, "secrets")) == EVERY
    assert callers(HOOKS, request(ALICE, thing(type="Opaque"), None, "secrets")) == []
    assert callers(HOOKS, request(ALICE, thing(), None, "secrets")) == []
    assert callers(webhooks(GLASS + policy()), request(ALICE, token, None, "secrets")) == []


def test_an_autoscaler_is_always_sent_by_whomever() -> None:
    sent = request(ALICE, PLAIN, None, "horizontalpodautoscalers", group="autoscaling")
    assert callers(HOOKS, sent) == EVERY


def test_a_policy_about_everything_is_sent_everything() -> None:
    everything = webhooks(CONFIG + policy(scope="All"))
    assert callers(everything, request(ALICE, PLAIN)) == EVERY
    assert names(everything["validate.driftwall.io"]) == {"not-the-control-plane", "not-leases-or-events"}


def test_a_policy_beside_an_enforcing_one_is_sent_what_it_is_about_and_by_one_webhook_alone() -> None:
    deployments = request(ALICE, PLAIN, PLAIN, "deployments", group="apps")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c", "ownerReferences": [{"controller": True}]}}
    for enforcing, other in (
        (policy("apps: [deployments]"), policy("apps: [deployments]", "warn", name="q", scope="All")),
        (policy("apps: [deployments]"), policy("", "warn", name="q", scope="All")),
        (policy(), policy("apps: [deployments]", "warn", name="q", scope="All")),
        (policy("apps: ['*']"), policy("'*': [deployments, services]", "tag", name="q", scope="All")),
    ):
        hooks = webhooks(CONFIG + enforcing + other)
        assert len(callers(hooks, deployments)) == 1
    hooks = webhooks(CONFIG + policy() + policy(mode="warn", name="q", children=True))
    assert len(callers(hooks, request(ALICE, None, pod, "pods"))) == 1
    apart = webhooks(CONFIG + policy("'': [services]") + policy("apps: [deployments]", "warn", name="q", scope="All"))
    assert callers(apart, deployments) == ["observe.driftwall.io"]
    assert callers(apart, request(ALICE, PLAIN, None, "services")) == []


def test_every_request_goes_to_one_of_the_two_webhooks_and_never_to_both() -> None:
    hooks = webhooks(
        CONFIG
        + policy("apps: [deployments, statefulsets/scale, '*/status']", operations="[UPDATE]")
        + policy("'*': ['*/*']", "warn", name="q", scope="All")
    )
    for group, resource in (("apps", "deployments"), ("apps", "statefulsets"), ("", "services")):
        for subresource in ("", "scale", "status"):
            for obj, old in ((PLAIN, None), (PLAIN, PLAIN), (None, PLAIN)):
                sent = request(ALICE, obj, old, resource, group=group, subResource=subresource)
                assert len(callers(hooks, sent)) == 1, (group, resource, subresource, sent["operation"])


def test_a_server_without_match_conditions_sends_more_and_nothing_less() -> None:
    hooks = webhooks(reference())
    for _, sent in requests():
        for hook in hooks.values():
            assert called(hook, sent, conditions=False) or not called(hook, sent)


def test_the_label_of_argo_cds_label_mode_is_known() -> None:
    obj = thing({"app.kubernetes.io/instance": "x"})
    config = CONFIG + "  argocd: {instanceLabelKey: app.kubernetes.io/instance}\n"
    assert callers(webhooks(config + policy()), request(ALICE, obj)) == EVERY
    assert callers(webhooks(CONFIG + policy()), request(ALICE, obj)) == []


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def policies(tmp_path: Path) -> str:
    (tmp_path / "p.yaml").write_text(GLASS + policy())
    return str(tmp_path / "p.yaml")


def test_the_command_prints_what_kubectl_applies(
    policies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = certificates(tmp_path)
    where = ["--service", "driftwall-system/driftwall", "--ca-file", str(made.ca_file)]
    assert main(["webhook-config", "--policies", policies, *where]) == 0
    shown = capsys.readouterr()
    documents = list(yaml.safe_load_all(shown.out))
    assert_valid(documents)
    assert shown.err == ""
    assert [document["kind"] for document in documents] == [
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
    ]
    for document in documents:
        for hook in document["webhooks"]:
            assert base64.b64decode(hook["clientConfig"]["caBundle"]) == made.ca_file.read_bytes()
    assert main(["webhook-config", "--policies", policies, *where, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"apiVersion": "v1", "kind": "List", "items": documents}
    assert main(["webhook-config", "--policies", policies, "--url", "https://[::1]:8443/"]) == 0
    first = next(yaml.safe_load_all(capsys.readouterr().out))
    assert first["webhooks"][0]["clientConfig"] == {"url": "https://[::1]:8443/validate"}


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ([], 64, "driftwall webhook-config: one of the arguments --url --service is required"),
        (["--url", "https://a", "--service", "a/b"], 64, "argument --service: not allowed with argument --url"),
        *(
            (
                ["--url", url],
                64,
                f"driftwall: --url: {url!r} is not https://HOST:PORT; the API server takes nothing else\n",
            )
            for url in ("http://a", "a:8443", "https://", "https://a?b", "https://a#b", "https://u:p@a", "")
        ),
        *(
            (["--service", name], 64, f"driftwall: --service: {name!r} is not NAMESPACE/NAME\n")
            for name in ("", "a", "a/", "/b", "a/b/c")
        ),
        (["--url", "https://a", "--ca-file", "{there}/p.yaml"], 78, "the CA file"),
        (["--url", "https://a", "--ca-file", "{there}/missing"], 66, "missing"),
    ],
)
def test_wrong_usage_is_told(
    policies: str, tmp_path: Path, where: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.format(there=tmp_path) for argument in where]
    assert main(["webhook-config", "--policies", policies, *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_policies_that_do_not_load_give_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text("kind: Nonsense")
    assert main(["webhook-config", "--policies", str(tmp_path), "--url", "https://a"]) == 78
    assert capsys.readouterr().out == ""


def test_the_configuration_is_the_same_each_time() -> None:
    texts = {json.dumps(render(snapshot_of(text), SERVICE)) for text in [EVERY_KIND_OF_POLICIES[-1]] * 3}
    assert len(texts) == 1


def test_every_flag_can_come_from_the_environment_and_a_flag_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=1)).certificate)
    monkeypatch.setenv("DRIFTWALL_POLICIES", str(bundled.policies()))
    monkeypatch.setenv("DRIFTWALL_SERVICE", "driftwall-system/driftwall")
    monkeypatch.setenv("DRIFTWALL_CA_FILE", str(ca))
    assert main(["webhook-config", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["items"][0]["webhooks"][0]["clientConfig"]
    assert (told["service"]["namespace"], told["caBundle"]) == (
        "driftwall-system",
        base64.b64encode(ca.read_bytes()).decode(),
    )
    assert main(["webhook-config", "-o", "json", "--url", "https://127.0.0.1:8443"]) == 0
    told = json.loads(capsys.readouterr().out)["items"][0]["webhooks"][0]["clientConfig"]
    assert told["url"] == "https://127.0.0.1:8443/validate"
    monkeypatch.delenv("DRIFTWALL_SERVICE")
    assert main(["webhook-config"]) == 64
    assert "one of the arguments --url --service is required" in capsys.readouterr().err
