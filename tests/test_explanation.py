"""Every step to a verdict, and that an explanation never says otherwise than the decision."""

from __future__ import annotations

from tests.admitting import looked_up
from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, RECORDINGS, Cluster, Json, person, review, snapshot_of
from tests.test_recordings import ROWS
from webhook.admission import Review, parse
from webhook.decision import Decision, decide
from webhook.explanation import Explanation, Step, explain
from webhook.policy import Snapshot
from webhook.policy_compiler import load

POLICIES = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  exemptNamespaces: [kube-system, sandbox]
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  automation:
    - name: scaler
      users: [scaler]
      fields: [spec.replicas]
  breakGlass: {groups: [sre], reasonPattern: '^INC-'}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared}
spec:
  mode: enforce
  match: {excludeNamespaces: [lab]}
  protect: {declared: true, ignore: [spec.paused]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: elsewhere}
spec:
  mode: warn
  match:
    namespaces: ["team-*"]
    resources: [{apiGroups: [""], resources: [services]}]
    operations: [CREATE]
  protect: {fields: [spec]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: images}
spec:
  mode: dryRun
  match: {scope: All, objectSelector: {matchLabels: {tier: front}}}
  protect: {fieldSets: [images], fields: [spec.minReadySeconds]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: of-the-platform}
spec:
  mode: enforce
  trusted: [{name: platform, groups: [platform]}]
  protect: {fields: [spec.strategy]}
"""
SNAPSHOT = snapshot_of(POLICIES)


def deployment(
    *, namespace: str = "shop", managed: bool = True, annotations: Json | None = None, **spec: object
) -> Json:
    metadata: Json = {"name": "web", "namespace": namespace, "uid": "1", "annotations": annotations or {}}
    owned: Json = {"f:spec": {"f:replicas": {}, "f:paused": {}, "f:strategy": {}}}
    entry = {"manager": "kustomize-controller", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": owned}
    metadata["managedFields"] = [entry]
    metadata["labels"] = dict(FLUX_LABELS) if managed else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 2, "paused": False, "strategy": {"type": "Recreate"}, **spec},
    }


def explained(asked: Review, snapshot: Snapshot = SNAPSHOT, *there: Json) -> Explanation:
    return looked_up(explain, asked, snapshot, Cluster(there), NOW, [])


def step(name: str, asked: Review) -> Step:
    explanation = explained(asked)
    (found,) = [each for each in explanation.steps if each.name == name]
    return found


def scaled(replicas: int = 3, **changes: object) -> Review:
    return review(deployment(), deployment(replicas=replicas), **changes)  # type: ignore[arg-type]


def decided(asked: Review, snapshot: Snapshot, cluster: Cluster) -> Decision:
    return looked_up(decide, asked, snapshot, cluster, NOW, [])


def test_of_every_recorded_review_the_explanation_has_the_verdict_of_the_decision() -> None:
    snapshot, cluster = load(RECORDINGS / "reference-policies.yaml"), Cluster()
    denied = 0
    for row in ROWS:
        asked = parse((RECORDINGS / row.file).read_bytes())
        decision = decided(asked, snapshot, cluster)
        explanation = looked_up(explain, asked, snapshot, cluster, NOW, [])
        cluster.remember(asked)
        assert explanation.decision == decision
        answers = {each.name: each for each in explanation.steps}
        assert [*answers] == ["scope", "managed", "writer", "changes", "protected", "breakGlass", "mode"]
        broken = decision.break_glass is not None and decision.break_glass.violations
        assert answers["mode"].answer == (
            decision.mode or ("none: the glass is broken" if broken else "none: nothing is violated")
        )
        # What was denied is protected by something, and what is protected from this writer was not let through.
        glass = decision.break_glass is not None or answers["breakGlass"].answer != "no"
        if answers["protected"].answer == "yes":
            assert decision.violations or glass or decision.indirect, asked.name
        elif decision.violations and not decision.indirect:
            assert glass or answers["protected"].answer.startswith("yes: rule"), asked.name
        denied += not decision.allowed
    assert denied > 30


def test_a_denied_field_is_told_with_the_policy_and_what_of_it_protects_the_field() -> None:
    explanation = explained(scaled())
    assert not explanation.decision.allowed
    assert step("protected", scaled()).details[0] == "policy declared protects spec.replicas (declared)"
    assert step("mode", scaled()).details == ("policy declared (enforce) denies it",)


def test_a_policy_that_does_not_select_the_write_is_told_with_the_keys_that_keep_it_away() -> None:
    details = step("scope", scaled()).details
    assert "policy declared (enforce) selects it" in details
    assert "policy elsewhere does not select it: match.resources, match.operations, match.namespaces" in details
    assert "policy images does not select it: match.objectSelector" in details


def test_each_key_of_match_is_told_by_itself() -> None:
    asked = review(deployment(namespace="lab"), deployment(namespace="lab", replicas=3))
    assert "policy declared does not select it: match.excludeNamespaces" in step("scope", asked).details
    unmanaged = review(deployment(managed=False), deployment(managed=False, replicas=3))
    assert "policy declared does not select it: match.scope" in step("scope", unmanaged).details
    assert step("managed", unmanaged).answer == "no: no marker of a known tool names it"


def test_an_exempt_namespace_ends_the_question() -> None:
    asked = review(deployment(namespace="sandbox"), deployment(namespace="sandbox", replicas=3))
    assert step("scope", asked).answer == "no: namespace sandbox is exempt"
    assert explained(asked).decision.allowed


def test_what_manages_the_object_is_told_with_its_marker() -> None:
    managed = step("managed", scaled())
    assert managed.answer == "yes: Flux (Kustomization flux-system/shop)"
    assert managed.details == (
        "by its label kustomize.toolkit.fluxcd.io/name and label kustomize.toolkit.fluxcd.io/namespace",
    )


def test_a_service_account_without_its_uid_is_told_what_it_lacks() -> None:
    impersonated = {**FLUX, "uid": ""}
    writer = step("writer", scaled(user=impersonated))
    assert writer.answer == "untrusted"
    assert "flux names this account, but wants a uid (verify: uid)" in writer.details
    trusted = scaled(user=FLUX)
    assert step("writer", trusted).answer == "trusted:flux"
    assert step("protected", trusted).answer == "not from this writer"


def test_what_an_automation_may_write_and_what_a_policy_ignores_is_told_as_free() -> None:
    automation = scaled(user=person("scaler"))
    assert "policy declared lets automation scaler write spec.replicas" in step("protected", automation).details
    ignored = review(deployment(), deployment(paused=True))
    assert "policy declared ignores spec.paused" in step("protected", ignored).details
    assert explained(automation).decision.allowed
    assert explained(ignored).decision.allowed


def test_a_policy_that_trusts_the_writer_says_so() -> None:
    asked = review(deployment(), deployment(strategy={"type": "RollingUpdate"}), user=person("pat", "platform"))
    assert "policy of-the-platform trusts platform" in step("protected", asked).details


def test_every_source_of_what_a_policy_protects_is_named() -> None:
    def front(image: str, seconds: int) -> Json:
        template = {"spec": {"containers": [{"name": "web", "image": image}]}}
        obj = deployment(template=template, minReadySeconds=seconds)
        obj["metadata"]["labels"]["tier"] = "front"
        return obj

    details = step("protected", review(front("a", 1), front("b", 2))).details
    assert "policy images protects spec.template.spec.containers[name=web].image (fieldSets: images)" in details
    assert "policy images protects spec.minReadySeconds (fields[0])" in details


def test_a_broken_glass_is_told_and_who_may_break_it() -> None:
    assert step("breakGlass", scaled()).details == ("group sre may break it; alice may not",)
    stamps = {
        "driftwall.io/break-glass": "INC-1",
        "driftwall.io/break-glass-by": "sam",
        "driftwall.io/break-glass-expires": "2026-11-22T08:00:00Z",
    }
    opened = review(deployment(annotations=stamps), deployment(annotations=stamps, replicas=3))
    broken = step("breakGlass", opened)
    assert broken.answer == "yes"
    assert broken.details == (
        'used on deployments.apps "web" in namespace "shop" by sam: INC-1, until 2026-11-22T08:00:00Z',
    )
    assert explained(opened).decision.allowed
    assert step("mode", opened).answer == "none: the glass is broken"


def test_a_write_that_breaks_the_glass_and_may_not_says_so() -> None:
    broken, otherwise = (deployment(annotations={"driftwall.io/break-glass": reason}) for reason in ("INC-1", "INC-2"))
    asked = review(deployment(), broken)
    annotation = "metadata.annotations['driftwall.io/break-glass']"
    assert step("changes", asked).details == (f"{annotation} added",)
    assert step("changes", review(broken, otherwise)).details == (f"{annotation} changed",)
    assert step("changes", review(broken, deployment())).details == (f"{annotation} removed",)
    assert step("breakGlass", asked).answer == "no, and this write may not break it"


def test_a_deletion_and_a_write_that_changes_nothing() -> None:
    deletion = review(deployment(), None)
    assert step("changes", deletion).answer == "it is deleted"
    assert "policy declared protects the object as a whole (deletion)" in step("protected", deletion).details
    assert step("changes", review(deployment(), deployment())).answer == "nothing that counts"


def test_a_rule_of_the_configuration_is_named() -> None:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}}
    parent = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {}}
    metadata = {"name": "kustomize-controller", "namespace": "flux-system"}
    asked = review(None, {**request, "metadata": metadata}, parent=parent, subresource="token")
    assert step("protected", asked).answer == "yes: rule (guardIdentities)"
    assert not explained(asked).decision.allowed


def test_a_kubelet_is_the_system_and_what_it_writes_is_told_all_the_same() -> None:
    node = {"username": "system:node:worker", "groups": ["system:nodes"]}
    asked = scaled(user=node)
    assert step("writer", asked).answer == "system"
    assert step("changes", asked).details == ("spec.replicas changed",)


def test_no_value_of_a_secret_is_in_an_explanation() -> None:
    def secret(value: str) -> Json:
        metadata = {"name": "s", "namespace": "shop", "labels": dict(FLUX_LABELS), "uid": "1"}
        owned: Json = {"f:data": {"f:password": {}}}
        entry = {"manager": "kustomize-controller", "operation": "Apply", "apiVersion": "v1", "fieldsV1": owned}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**metadata, "managedFields": [entry]},
            "data": {"password": value},
        }

    explanation = explained(review(secret("b2xk"), secret("bmV3"), user=ALICE))
    assert not explanation.decision.allowed
    assert "b2xk" not in repr(explanation.steps)
    assert "bmV3" not in repr(explanation.steps)
