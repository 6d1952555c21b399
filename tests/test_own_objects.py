from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, Cluster, Json, person, review, service_account, snapshot_of
from webhook import crds
from webhook.admission import Review
from webhook.breakglass import write_time
from webhook.decision import Decision
from webhook.mutation import mutate
from webhook.own_objects import check, document_of
from webhook.policy import Snapshot
from webhook.webhook_config import Target, render

CONFIG = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - {name: flux, serviceAccounts: [flux-system/kustomize-controller]}
  automation:
    - {name: robot, serviceAccounts: [robots/robot], fields: ['*']}
  breakGlass: {groups: [sre]}
"""
#: A policy that would let everybody do everything: it has no say here.
LAX = """\
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: lax}
spec:
  mode: dryRun
  match: {scope: All}
  protect: {fields: [spec]}
  trusted: [{name: everybody, groups: [developers]}]
  automation: [{name: all, groups: ['system:authenticated'], fields: ['*', '*.*']}]
"""
SNAPSHOT = snapshot_of(CONFIG + LAX)
WITHOUT_CONFIG = Snapshot(snapshot_of(LAX.removeprefix("---\n")).config)
BOB = person("bob", "sre")
GROUP = "driftwall.io/v1alpha1"
SPEC: Json = {"mode": "enforce", "protect": {"declared": True}}
NOBODY_ELSE = "Only those whom the DriftwallConfig trusts change driftwall's own objects."


def policy(spec: Any = SPEC, **metadata: Any) -> Json:
    return {"apiVersion": GROUP, "kind": "DriftPolicy", "metadata": {"name": "ports", **metadata}, "spec": spec}


def config(spec: Any, name: str = "default") -> Json:
    return {"apiVersion": GROUP, "kind": "DriftwallConfig", "metadata": {"name": name}, "spec": spec}


def definition(label: str = "driftwall", **spec: Any) -> Json:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "driftpolicies.driftwall.io", "labels": {"app.kubernetes.io/part-of": label}},
        "spec": {"group": "driftwall.io", **spec},
    }


def write(old: Json | None, new: Json | None, user: Json = ALICE, **more: Any) -> Review:
    return review(old, new, user=user, **more)


def decided(old: Json | None, new: Json | None, user: Json = ALICE, snapshot: Snapshot = SNAPSHOT) -> Decision:
    return Cluster().decide(write(old, new, user), snapshot)


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

RELAXED = policy({**SPEC, "mode": "dryRun"})
WRITES = [
    pytest.param(None, policy(), "spec", id="create"),
    pytest.param(policy(), RELAXED, "spec.mode", id="change"),
    pytest.param(policy(), None, None, id="delete"),
    pytest.param(policy(), policy(labels={"a": "b"}), "metadata.labels", id="label"),
    pytest.param(policy(), policy(annotations={"a": "b"}), "metadata.annotations", id="annotate"),
    pytest.param(policy(), policy(finalizers=["a.b/c"]), "metadata.finalizers", id="finalizer"),
    pytest.param(policy(), policy(ownerReferences=[{"uid": "u"}]), "metadata.ownerReferences", id="owner"),
    pytest.param(None, config({}), "spec", id="create configuration"),
    pytest.param(config({}), config({"guardIdentities": False}), "spec.guardIdentities", id="change configuration"),
    pytest.param(config({}), None, None, id="delete configuration"),
    pytest.param(definition(), definition(scope="Cluster"), "spec.scope", id="change definition"),
    pytest.param(definition(), definition("nobody"), "metadata.labels['app.kubernetes.io/part-of']", id="relabel"),
    pytest.param(definition(), None, None, id="delete definition"),
]


@pytest.mark.parametrize(("old", "new", "path"), WRITES)
@pytest.mark.parametrize(
    "user",
    [ALICE, BOB, service_account("robots", "robot"), service_account("flux-system", "kustomize-controller", uid="")],
)
@pytest.mark.parametrize("snapshot", [SNAPSHOT, WITHOUT_CONFIG], ids=["configured", "not configured"])
def test_nobody_changes_them_but_whom_the_configuration_trusts(
    old: Json | None, new: Json | None, path: str | None, user: Json, snapshot: Snapshot
) -> None:
    decision = decided(old, new, user, snapshot)
    assert (decision.allowed, decision.mode) == (False, "enforce")
    violation = decision.violations[0]
    assert violation.name == "(ownObjects)"
    paths = [field.path for field in violation.fields]
    assert len(paths) == (0 if path is None else 1)
    assert path is None or paths[0].startswith(path)
    assert NOBODY_ELSE in decision.message
    assert len(decision.message) <= 1024


@pytest.mark.parametrize(("old", "new", "path"), WRITES)
@pytest.mark.parametrize("user", [FLUX, person("system:kube-controller-manager")], ids=["trusted", "system"])
def test_who_is_trusted_changes_them(old: Json | None, new: Json | None, path: str | None, user: Json) -> None:
    assert decided(old, new, user).allowed


def test_without_a_configuration_the_known_tools_change_them() -> None:
    assert decided(policy(), RELAXED, FLUX, WITHOUT_CONFIG).allowed


def test_a_denial_says_who_may_and_who_breaks_the_glass() -> None:
    assert decided(policy(), RELAXED).message == (
        'driftpolicies.driftwall.io "ports" is protected.\n'
        "alice may not change:\n"
        '  spec.mode: "enforce" -> "dryRun"\n'
        f"Policy (ownObjects) (enforce, critical): {NOBODY_ELSE}\n"
        "Ask whoever owns this policy.\n"
        "In an incident, ask group sre to break glass.\n"
        "They are changed through Git, by a writer in spec.trustedWriters."
    )


def test_of_one_that_flux_manages_it_says_so() -> None:
    message = decided(policy(labels=FLUX_LABELS), policy({**SPEC, "mode": "dryRun"}, labels=FLUX_LABELS)).message
    assert message.startswith(
        'driftpolicies.driftwall.io "ports" is managed by Flux (Kustomization flux-system/shop).\n'
    )
    assert "Change it in Git and let Flux apply it." in message


def test_a_write_that_changes_nothing_passes() -> None:
    assert decided(policy(), policy(managedFields=[{"manager": "kubectl"}])).allowed


def test_a_status_is_nothing_that_driftwall_goes_by() -> None:
    old, new = policy(), {**policy(), "status": {"conditions": []}}
    assert Cluster().decide(write(old, new, subresource="status"), SNAPSHOT).allowed
    labelled = policy(labels={"a": "b"})
    assert not Cluster().decide(write(old, labelled, subresource="status"), SNAPSHOT).allowed


@pytest.mark.parametrize("new", [definition("somebody", scope="Cluster"), None])
def test_other_definitions_are_nobodys_business(new: Json | None) -> None:
    assert decided(definition("somebody"), new).allowed


# ── break-glass ──────────────────────────────────────────────────────────────────────────────────────────────────────

REASON = "driftwall.io/break-glass"
OPEN = {
    REASON: "INC-1",
    f"{REASON}-by": "bob",
    f"{REASON}-expires": write_time(NOW + timedelta(hours=1)),
}


def test_whoever_may_breaks_the_glass_and_the_change_may_come_with_it() -> None:
    decision = decided(policy(), policy({**SPEC, "mode": "dryRun"}, annotations={REASON: "INC-1"}), BOB)
    assert decision.allowed
    assert decision.break_glass is not None
    assert [violation.name for violation in decision.break_glass.violations] == ["(ownObjects)"]
    assert decided(None, policy(annotations={REASON: "INC-1"}), BOB).allowed


def test_under_broken_glass_they_can_be_changed_and_deleted() -> None:
    assert decided(policy(annotations=OPEN), policy({**SPEC, "mode": "dryRun"}, annotations=OPEN), BOB).allowed
    assert decided(policy(annotations=OPEN), None, BOB).allowed


def test_nobody_else_breaks_it() -> None:
    decision = decided(policy(), policy(annotations={REASON: "INC-1"}))
    assert not decision.allowed
    assert "only group sre may break glass, or end it" in decision.message


def test_no_glass_makes_a_bad_one_good() -> None:
    assert not decided(policy(annotations=OPEN), policy({"protect": {}}, annotations=OPEN), BOB).allowed


# ── what ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

BAD: Json = {
    "mode": "enforced",
    "match": {"tools": ["fluxx"], "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
    "protect": {"fields": ["spec..replicas", "x["], "fieldSets": ["openPorts"]},
    "breakGlass": {"reasonPattern": "(", "maxDuration": "4d"},
}


@pytest.mark.parametrize("user", [FLUX, ALICE, BOB])
def test_a_bad_one_is_refused_with_every_problem_whoever_writes_it(user: Json) -> None:
    decision = decided(policy(), policy(BAD), user)
    assert not decision.allowed
    assert [violation.name for violation in decision.violations] == ["(ownObjects)"]
    assert decision.writer == ("trusted:flux" if user is FLUX else "untrusted")
    head, *lines, tail = decision.message.split("\n")
    assert head == 'driftpolicies.driftwall.io "ports" is no valid DriftPolicy:'
    assert [line.strip().partition(": ")[0] for line in lines] == [
        "spec.breakGlass.maxDuration",
        "spec.breakGlass.reasonPattern",
        "spec.match.namespaceSelector.matchExpressions[0].values",
        "spec.match.tools[0]",
        "spec.mode",
        "spec.protect.fieldSets[0]",
        "spec.protect.fields[0]",
        "spec.protect.fields[1]",
    ]
    assert tail == "Nothing was stored. driftwall lint finds the same in a file, before it is applied."


def test_a_message_has_1024_characters_at_most_and_counts_the_rest() -> None:
    message = decided(
        None, policy({"protect": {"fields": [f"spec..field{number}" for number in range(100)]}}), FLUX
    ).message
    assert len(message) <= 1024
    *_, more, _ = message.split("\n")
    told = message.count("a field name is missing")
    assert more == f"  … and {100 - told} more"
    assert told > 5


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (None, policy({}), "spec.protect: required key is missing"),
        (None, policy({"protect": {"declared": True}, "mod": "warn"}), "spec.mod: unknown key; did you mean 'mode'?"),
        (None, policy("x"), "spec: expected a mapping, got a string"),
        (None, {**policy(), "more": 1}, "more: unknown key"),
        (None, config({}, "other"), "metadata.name: there is one configuration, and its name is 'default'"),
        (None, config({"trustedWriters": [{"name": "a"}]}), "spec.trustedWriters[0]: names nobody"),
        (None, config({"trustedWriters": [{"name": "a", "users": ["u"]}] * 2}), "a second writer named 'a'"),
    ],
)
def test_it_is_validated_as_a_file_is(old: Json | None, new: Json, problem: str) -> None:
    decision = decided(old, new, FLUX)
    assert not decision.allowed
    assert problem in decision.message


def test_what_the_api_server_adds_is_not_looked_at() -> None:
    metadata = {"managedFields": [{"x": 1}], "uid": "u", "aFieldOfTheFuture": {}, "labels": {"not a label": 1}}
    assert decided(None, {**policy(**metadata), "status": {"anything": 1}}, FLUX).allowed


def test_a_name_that_is_still_to_be_made_up_is_no_problem() -> None:
    generated = {**policy(), "metadata": {"generateName": "ports-"}}
    assert decided(None, generated, FLUX).allowed


def test_what_is_bad_already_can_still_be_labelled_and_deleted_but_not_made_worse() -> None:
    bad, worse = policy(BAD), policy({**BAD, "severity": "none"})
    assert decided(bad, policy(BAD, labels={"a": "b"}), FLUX).allowed
    assert decided(bad, None, FLUX).allowed
    assert not decided(bad, worse, FLUX).allowed


def test_types_are_strict_about_what_has_changed() -> None:
    declared = policy({"protect": {"declared": True}})
    assert not decided(declared, policy({"protect": {"declared": 1}}), FLUX).allowed


def test_the_mutating_webhook_refuses_a_bad_one_before_the_schema_is_looked_at() -> None:
    mutation = mutate(write(None, policy(BAD), FLUX), SNAPSHOT, {}, NOW)
    assert mutation.denied
    assert mutation.refusal is not None
    assert "spec.mode" in mutation.refusal.message
    assert "spec.protect.fields[0]" in mutation.refusal.message


def test_the_mutating_webhook_leaves_other_denials_to_the_validating_one() -> None:
    old, new = definition(), definition(scope="Cluster")
    mutation = mutate(write(old, new), SNAPSHOT, {}, NOW)
    assert (mutation.denied, mutation.refusal) == (True, None)


def test_a_problem_of_an_object_names_its_place_in_the_api() -> None:
    (problem,) = check(document_of("driftpolicies", policy({"protect": {"fields": ["x["]}})))
    assert str(problem).startswith("driftpolicies/ports: spec.protect.fields[0]: ")


# ── the webhook configurations ───────────────────────────────────────────────────────────────────────────────────────

TARGET = Target(namespace="driftwall-system", service="driftwall")


def webhooks(document: Json) -> dict[str, Json]:
    return {webhook["name"]: webhook for webhook in document["webhooks"]}


def own_rules(webhook: Json) -> list[tuple[list[str], list[str]]]:
    return [
        (rule["resources"], rule["operations"]) for rule in webhook["rules"] if rule["apiGroups"] == ["driftwall.io"]
    ]


@pytest.mark.parametrize("snapshot", [SNAPSHOT, WITHOUT_CONFIG])
def test_their_writes_are_sent_whatever_the_policies_are_and_fail_without_driftwall(snapshot: Snapshot) -> None:
    validating = webhooks(render(snapshot, TARGET)[0])
    webhook = validating["validate.driftwall.io"]
    assert own_rules(webhook) == [(["driftpolicies", "driftwallconfigs"], ["CREATE", "DELETE", "UPDATE"])]
    assert webhook["failurePolicy"] == "Fail"
    for condition in webhook["matchConditions"]:
        if condition["name"] == "managed-or-marked":
            assert "request.resource.group == 'driftwall.io'" in condition["expression"]


def test_of_definitions_only_driftwalls_own_wait_for_it() -> None:
    webhook = webhooks(render(SNAPSHOT, TARGET)[0])["definitions.driftwall.io"]
    assert webhook["objectSelector"] == {"matchLabels": {"app.kubernetes.io/part-of": "driftwall"}}
    assert webhook["failurePolicy"] == "Fail"
    assert [(rule["resources"], rule["operations"]) for rule in webhook["rules"]] == [
        (["customresourcedefinitions"], ["DELETE", "UPDATE"])
    ]
    labels = [made["metadata"]["labels"] for made in crds.definitions()]
    assert labels == [webhook["objectSelector"]["matchLabels"]] * 2


def test_custom_resources_are_sent_to_the_mutating_webhook_too() -> None:
    assert [document["kind"] for document in render(WITHOUT_CONFIG, TARGET)] == ["ValidatingWebhookConfiguration"]
    _, mutating = render(WITHOUT_CONFIG, TARGET, custom_resources=True)
    (webhook,) = mutating["webhooks"]
    assert own_rules(webhook) == [(["driftpolicies", "driftwallconfigs"], ["CREATE", "UPDATE"])]
    assert len(webhook["rules"]) == 1
