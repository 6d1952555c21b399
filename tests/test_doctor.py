"""What doctor makes of what no test has for real: certificates that expired, policies that do not load, refusals."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploying import DEPLOY
from webhook import pki
from webhook.cluster.connection import Answer
from webhook.doctor import Diagnosis, examine
from webhook.errors import ClusterError
from webhook.rbac import API_GROUP
from webhook.settings import Service

Json = dict[str, Any]

NOW = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
SERVICE = Service(namespace="driftwall-system", name="driftwall")
OWN = "/api/v1/namespaces/driftwall-system"
DEPLOYMENT = "/apis/apps/v1/namespaces/driftwall-system/deployments/driftwall"
SECRET = f"{OWN}/secrets/driftwall-tls"
VALIDATING = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/driftwall"
POLICIES = "/apis/driftwall.io/v1alpha1"
DENIED: Json = {"message": 'admission webhook "validate.driftwall.io" denied the request: no'}


class Cluster:
    """Answers by path; a number is a status without an object."""

    def __init__(self) -> None:
        self.answers: dict[str, Json | int] = {"/version": {"major": "1", "minor": "36+", "gitVersion": "v1.36.0"}}

    def get(self, path: str, deadline: float, *, accept: str = "") -> Answer:
        assert deadline > 0
        found = self.answers.get(path.partition("?")[0])
        if found is None and path.partition("?")[0].rpartition("/")[2] in LISTED:
            found = {"items": [], "metadata": {}}
        if found is None or isinstance(found, int):
            return Answer(status=found or 404, body=b"{}")
        return Answer(status=200, body=json.dumps(found).encode())

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:
        assert (method, path.partition("?")[2]) == ("POST", "dryRun=All")
        return Answer(status=403, body=json.dumps(DENIED).encode())


LISTED = {
    *("namespaces", "serviceaccounts", "pods", "roles", "rolebindings", "clusterroles", "clusterrolebindings"),
    *("driftpolicies", "driftwallconfigs"),
}


def named(name: str, **content: Any) -> Json:
    return {"metadata": {"name": name}, **content}


@pytest.fixture
def cluster() -> Cluster:
    """Installed as deploy/ does, with a certificate for sixty days and all the rights that it needs."""
    made = Cluster()
    authority = pki.create_ca(now=NOW, lifetime=timedelta(days=365))
    made.answers[DEPLOYMENT] = yaml.safe_load((DEPLOY / "kustomize" / "base" / "deployment.yaml").read_text())
    overlay = DEPLOY / "kustomize" / "overlays" / "enforce"
    config_map = yaml.safe_load((overlay / "policies.yaml").read_text())
    made.answers[f"{OWN}/configmaps/driftwall-policies"] = config_map
    for document in yaml.safe_load_all((overlay / "webhooks.yaml").read_text()):
        for hook in document["webhooks"]:
            hook["clientConfig"]["caBundle"] = b64encode(authority.certificate).decode()
        path = f"/apis/admissionregistration.k8s.io/v1/{document['kind'].lower()}s/driftwall"
        made.answers[path] = document
    serve(made, authority, timedelta(days=60))
    made.answers["/api/v1/namespaces"] = {"items": [named("default"), named("driftwall-system")]}
    rbac: dict[str, list[Json]] = {}
    for each in yaml.safe_load_all((DEPLOY / "kustomize" / "base" / "rbac.yaml").read_text()):
        rbac.setdefault(each["kind"], []).append(each)
    base = f"/apis/{API_GROUP}/v1"
    for kind, items in rbac.items():
        within = "/namespaces/driftwall-system" if kind.startswith("Role") else ""
        made.answers[f"{base}{within}/{kind.lower()}s"] = {"items": items}
    return made


def serve(
    cluster: Cluster, authority: pki.KeyPair, lifetime: timedelta, *, since: datetime = NOW, host: str = ""
) -> None:
    name = host or "driftwall.driftwall-system.svc"
    pair = pki.create_serving(authority, [name], now=since, lifetime=lifetime)
    cluster.answers[SECRET] = {"data": {"tls.crt": b64encode(pair.certificate).decode()}}


def examined(cluster: Cluster, policies: str | None = None) -> Diagnosis:
    return examine(cluster, SERVICE, policies, NOW)


def told(cluster: Cluster, name: str) -> list[tuple[str, str]]:
    return [(check.status, check.message) for check in examined(cluster).checks if check.name == name]


def test_an_installation_as_deploy_has_it_is_sound_but_for_its_replicas(cluster: Cluster) -> None:
    found = examined(cluster)
    assert [(check.name, check.message) for check in found.checks if check.status != "ok"] == [
        ("replicas", "0 of 2 are ready")
    ]
    assert found.exposures == ()


@pytest.mark.parametrize(
    ("lifetime", "since", "status", "message"),
    [
        (60, 0, "ok", "valid until 2027-01-21 07:00 UTC, for 60 days"),
        (60, -47, "warning", "valid until 2026-12-05 07:00 UTC, for 13 days"),
        (8, -5, "ok", "valid until 2026-11-25 07:00 UTC, for 3 days"),
        (60, -61, "problem", "the certificate expired at 2026-11-21 07:00:00 UTC"),
        (60, 1, "problem", "the certificate is not valid before 2026-11-23 06:00:00 UTC"),
    ],
)
def test_how_long_the_certificate_is_valid(
    cluster: Cluster, lifetime: int, since: int, status: str, message: str
) -> None:
    authority = pki.create_ca(now=NOW - timedelta(days=90), lifetime=timedelta(days=365))
    hooks = [
        hook for answer in cluster.answers.values() if isinstance(answer, dict) for hook in answer.get("webhooks", ())
    ]
    for hook in hooks:
        hook["clientConfig"]["caBundle"] = b64encode(authority.certificate).decode()
    serve(cluster, authority, timedelta(days=lifetime), since=NOW + timedelta(days=since))
    assert told(cluster, "certificate") == [(status, message)]


def test_a_certificate_of_another_ca_or_for_another_host_is_a_problem(cluster: Cluster) -> None:
    other = pki.create_ca(now=NOW, lifetime=timedelta(days=1))
    serve(cluster, other, timedelta(days=1), host="elsewhere.svc")
    said = told(cluster, "certificate")
    assert ("problem", "the caBundle of validate.driftwall.io is not that of the serving certificate") in said
    assert ("problem", "it is for elsewhere.svc, not for driftwall.driftwall-system.svc") in said


@pytest.mark.parametrize(
    ("bundle", "said"),
    [
        ("", "no caBundle in definitions.driftwall.io"),
        ("%%", "the caBundle of definitions.driftwall.io is not base64"),
        ("Q0E=", "the caBundle of definitions.driftwall.io has no certificate that is still valid"),
    ],
)
def test_a_bundle_that_is_of_no_use_is_a_problem(cluster: Cluster, bundle: str, said: str) -> None:
    configuration = cluster.answers[VALIDATING]
    assert isinstance(configuration, dict)
    hook = next(hook for hook in configuration["webhooks"] if hook["name"] == "definitions.driftwall.io")
    hook["clientConfig"]["caBundle"] = bundle
    assert ("problem", said) in told(cluster, "certificate")


def test_a_secret_that_one_may_not_read_leaves_its_certificate_unknown(cluster: Cluster) -> None:
    cluster.answers[SECRET] = 403
    ((status, message),) = told(cluster, "certificate")
    assert status == "unknown"
    assert "you may not read Secret driftwall-system/driftwall-tls" in message
    del cluster.answers[SECRET]
    assert told(cluster, "certificate") == [
        ("problem", "there is no certificate in Secret driftwall-system/driftwall-tls")
    ]


def test_policies_that_do_not_load_are_a_problem(cluster: Cluster) -> None:
    cluster.answers[f"{OWN}/configmaps/driftwall-policies"] = {"data": {"policies.yaml": "kind: Nonsense"}}
    ((status, message),) = told(cluster, "policies")
    assert status == "problem"
    assert message.startswith("policies.yaml:1: ")


def test_custom_resources_are_told_with_what_driftwall_says_of_them(cluster: Cluster) -> None:
    deployment = cluster.answers[DEPLOYMENT]
    assert isinstance(deployment, dict)
    deployment["spec"]["template"]["spec"]["containers"][0]["args"][1] = "--policies=cluster"

    def policy(name: str, status: str | None, generation: int = 1) -> Json:
        condition = {"type": "Accepted", "status": status, "message": "spec.mode: no"}
        return {
            "metadata": {"name": name, "generation": 1},
            "spec": {"protect": {"declared": True}},
            "status": {"observedGeneration": generation, "conditions": [condition]} if status else {},
        }

    items = [policy("a", "True"), policy("b", "False"), policy("c", None), policy("d", "True", 0)]
    cluster.answers[f"{POLICIES}/driftpolicies"] = {"items": items, "metadata": {}}
    assert told(cluster, "policies") == [
        ("ok", "driftpolicies/a is accepted"),
        ("problem", "driftpolicies/b: spec.mode: no"),
        ("warning", "driftpolicies/c: driftwall has not said whether it takes it"),
        ("warning", "driftpolicies/d: driftwall has not said whether it takes it"),
    ]
    assert ("problem", "service account driftwall-system/driftwall may not watch driftpolicies.driftwall.io") in told(
        cluster, "rights"
    )


def test_a_trusted_writer_that_does_not_exist_is_told(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_text(
        "apiVersion: driftwall.io/v1alpha1\n"
        "kind: DriftwallConfig\n"
        "metadata: {name: default}\n"
        "spec: {trustedWriters: [{name: flux, serviceAccounts: [flux-system/gone, 'default/any*', default/there]}]}\n"
    )
    cluster.answers["/api/v1/namespaces/default/serviceaccounts"] = {"items": [named("there"), named("any-one")]}
    checks = [check for check in examined(cluster, str(tmp_path)).checks if check.name == "writers"]
    assert [(check.status, check.message) for check in checks] == [
        ("warning", "trusted writer flux: there is no service account flux-system/gone")
    ]


def test_without_what_everything_rests_on_there_is_no_answer(cluster: Cluster) -> None:
    cluster.answers[f"/apis/{API_GROUP}/v1/clusterrolebindings"] = 403
    with pytest.raises(ClusterError, match="clusterrolebindings"):
        examined(cluster)
