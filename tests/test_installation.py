"""Whether driftwall is installed as it should be, by what was read of the cluster."""

from __future__ import annotations

import copy
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from tests.deploying import DEPLOY
from tests.reviews import snapshot_of
from webhook.errors import SettingsError
from webhook.installation import (
    Check,
    bundles,
    compared,
    mounted,
    probe,
    reached,
    replicas,
    settings_of,
    target_of,
    versions,
)
from webhook.webhook_config import Target, render

Json = dict[str, Any]

SNAPSHOT = snapshot_of("""\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: ports}
spec:
  mode: enforce
  match: {resources: [{apiGroups: [""], resources: [services]}]}
  protect: {fieldSets: [openedPorts]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: tags}
spec: {mode: tag, protect: {declared: true}}
""")
TARGET = Target(namespace="driftwall-system", service="driftwall")
NEWEST = (1, 36)


def stored() -> dict[str, Any]:
    """The configurations as an API server keeps them: with its defaults, and in an order of its own."""
    found = {}
    for document in render(SNAPSHOT, TARGET):
        kept = copy.deepcopy(document)
        for hook in kept["webhooks"]:
            hook.setdefault("objectSelector", {})
            hook["clientConfig"]["caBundle"] = "Q0E="
            for rule in hook["rules"]:
                rule["resources"] = rule["resources"][::-1]
            hook["rules"] = hook["rules"][::-1]
            if kept["kind"].startswith("Mutating"):
                hook.setdefault("reinvocationPolicy", "Never")
        found[kept["kind"]] = kept
    return found


def problems(found: dict[str, Any], version: tuple[int, int] = NEWEST) -> list[str]:
    checks = compared(render(SNAPSHOT, TARGET), found, version)
    return [check.message for check in checks if check.status != "ok"]


def hook_of(found: dict[str, Any], name: str) -> Json:
    hooks = [hook for document in found.values() for hook in document["webhooks"]]
    return next(hook for hook in hooks if hook["name"] == name)


def test_what_the_api_server_makes_of_a_configuration_is_no_difference() -> None:
    assert problems(stored()) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "failurePolicy",
            "Ignore",
            "has failurePolicy Ignore, not Fail: writes pass unchecked while driftwall is away",
        ),
        ("timeoutSeconds", 30, "has timeoutSeconds 30, not 3"),
        ("matchPolicy", "Exact", "has matchPolicy Exact, not Equivalent"),
        ("rules", [], "has other rules than these policies need"),
        ("matchConditions", [], "has other matchConditions than these policies need"),
        ("namespaceSelector", {"matchLabels": {"a": "b"}}, "has other namespaceSelector than these policies need"),
        ("objectSelector", {"matchLabels": {"a": "b"}}, "has other objectSelector than these policies need"),
        ("clientConfig", {"url": "https://elsewhere/validate"}, "has other clientConfig than these policies need"),
    ],
)
def test_every_difference_of_a_webhook_is_told(key: str, value: object, said: str) -> None:
    found = stored()
    hook_of(found, "validate.driftwall.io")[key] = value
    assert problems(found) == [f"ValidatingWebhookConfiguration driftwall: validate.driftwall.io {said}"]


def test_conditions_are_not_missed_where_the_api_server_does_not_know_them() -> None:
    found = stored()
    for document in found.values():
        for hook in document["webhooks"]:
            del hook["matchConditions"]
    assert problems(found, (1, 27)) == []
    assert len(problems(found, (1, 28))) > 1


def test_webhooks_and_configurations_that_are_missing_or_too_many_are_told() -> None:
    found = stored()
    found["ValidatingWebhookConfiguration"]["webhooks"][0]["name"] = "other.example.com"
    assert problems(found)[0].endswith("webhook validate.driftwall.io is missing")
    assert problems(found)[1].endswith("webhook other.example.com is not one of driftwall's")
    missing = {**stored(), "MutatingWebhookConfiguration": None}
    assert problems(missing) == ["MutatingWebhookConfiguration driftwall is missing"]
    plain = snapshot_of(
        "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata: {name: p}\n"
        "spec: {mode: enforce, protect: {declared: true}}\n"
    )
    (extra,) = [check for check in compared(render(plain, TARGET), stored(), NEWEST) if "Mutating" in check.message]
    assert (extra.status, extra.message) == (
        "warning",
        "MutatingWebhookConfiguration driftwall is there, and these policies need none",
    )


def test_where_reviews_are_sent_is_read_from_the_configurations() -> None:
    assert target_of(stored().values(), "driftwall-system", "driftwall") == TARGET
    documents = render(SNAPSHOT, Target(url="https://10.0.0.1:8443"))
    assert target_of(documents, "driftwall-system", "driftwall") == Target(url="https://10.0.0.1:8443")
    assert set(bundles(stored().values()).values()) == {"Q0E="}
    assert set(bundles(documents).values()) == {""}


# ── the Deployment ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def deployment() -> Json:
    document: Json = yaml.safe_load((DEPLOY / "kustomize" / "base" / "deployment.yaml").read_text())
    return document


def container(deployment: Json) -> Json:
    found: Json = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def test_the_settings_are_those_of_the_container(deployment: Json) -> None:
    config = settings_of(deployment)
    assert (str(config.policies), str(config.service)) == ("/etc/driftwall/policies", "driftwall-system/driftwall")
    assert mounted(deployment, PurePosixPath("/etc/driftwall/policies")) == ("ConfigMap", "driftwall-policies")
    container(deployment)["args"] = ["serve", "--policies", "cluster"]
    container(deployment)["env"] = [{"name": "DRIFTWALL_SERVICE", "value": "a/b"}, {"name": "OTHER", "value": "x"}]
    config = settings_of(deployment)
    assert (config.policies, str(config.service)) == (None, "a/b")


def test_a_certificate_from_a_secret_is_found_by_its_mount(deployment: Json) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "tls", "secret": {"secretName": "mine"}})
    container(deployment)["volumeMounts"].append({"name": "tls", "mountPath": "/etc/driftwall/tls/"})
    assert mounted(deployment, PurePosixPath("/etc/driftwall/tls")) == ("Secret", "mine")
    assert mounted(deployment, PurePosixPath("/etc/other")) == ("", "")


def test_a_deployment_that_driftwall_does_not_start_with_is_an_error(deployment: Json) -> None:
    container(deployment)["args"] = ["serve"]
    with pytest.raises(SettingsError, match="--policies"):
        settings_of(deployment)
    deployment["spec"]["template"]["spec"]["containers"] = []
    with pytest.raises(SettingsError, match="no container"):
        settings_of(deployment)


@pytest.mark.parametrize(("ready", "status"), [(2, "ok"), (3, "ok"), (1, "warning"), (0, "problem"), (None, "problem")])
def test_replicas_that_are_not_ready_are_told(deployment: Json, ready: int | None, status: str) -> None:
    deployment["status"] = {} if ready is None else {"readyReplicas": ready}
    check = replicas(deployment, "driftwall-system/driftwall")
    assert (check.status, check.message) == (status, f"{ready or 0} of 2 are ready")
    assert replicas(None, "a/b").message == "there is no Deployment a/b"


# ── versions, and the probe ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("version", "lacks"), [((1, 36), 0), ((1, 28), 1), ((1, 27), 2), ((1, 22), 3), ((1, 20), 4)])
def test_what_an_older_api_server_lacks_is_told(version: tuple[int, int], lacks: int) -> None:
    checks = list(versions(version, "v"))
    assert len([check for check in checks if check.status == "warning"]) == lacks
    assert all(check.status in ("ok", "warning") for check in checks)


def namespace(name: str, *, labelled: bool = True) -> Json:
    labels = {"kubernetes.io/metadata.name": name} if labelled else {}
    return {"metadata": {"name": name, "labels": labels}}


def test_the_probe_is_a_creation_that_the_webhooks_take_in_where_they_do() -> None:
    there = [namespace("a"), namespace("default"), namespace("kube-system")]
    found = probe(render(SNAPSHOT, TARGET), there, custom_resources=True)
    assert found is not None
    assert found.path == "/api/v1/namespaces/default/secrets"  # which guardIdentities is about
    only_exempt = probe(render(SNAPSHOT, TARGET), [namespace("kube-system")], custom_resources=True)
    assert only_exempt is not None
    assert only_exempt.path == "/apis/driftwall.io/v1alpha1/driftpolicies"
    assert probe([None], there, custom_resources=False) is None


@pytest.mark.parametrize(
    ("status", "said", "verdict", "message"),
    [
        (403, 'admission webhook "observe.driftwall.io" denied the request: no', "ok", "the API server asks driftwall"),
        (500, 'failed calling webhook "validate.driftwall.io": x509', "problem", "the API server cannot ask driftwall"),
        (201, "", "problem", "a dry run that driftwall refuses to all but trusted writers has passed"),
        (403, "secrets is forbidden: User x cannot", "unknown", "not tried: you may not create secrets there"),
        (
            400,
            'admission webhook "other.example.com" denied the request',
            "unknown",
            "a dry run failed otherwise (HTTP",
        ),
    ],
)
def test_what_the_answer_to_the_probe_tells(status: int, said: str, verdict: str, message: str) -> None:
    check: Check = reached(status, said, "/api/v1/namespaces/default/secrets")
    assert check.status == verdict
    assert check.message.startswith(message)
