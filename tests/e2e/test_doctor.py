"""`driftwall doctor` on a real API server: nothing in a tight cluster, each hole in RBAC, each fault that there is."""

import contextlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploying import DEPLOY, NAMESPACE, build, for_version
from webhook import pki
from webhook.cli import main

from . import binaries
from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall

RBAC = "rbac.authorization.k8s.io"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
VALIDATING, MUTATING = (f"{ADMISSION}/{kind}webhookconfigurations/driftwall" for kind in ("validating", "mutating"))
FLUX = "flux-system"
# The tools that the control plane has accounts of, each bound to cluster-admin as such tools are.
POLICIES = """\
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
  breakGlass: {groups: [sre]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared-fields}
spec: {mode: enforce, protect: {declared: true}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """The command, run as somebody."""

    plane: ControlPlane
    policies: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *flags: str, kubeconfig: Path | None = None) -> tuple[int, Object]:
        """Its exit code, and what it says in JSON."""
        as_whom = kubeconfig or self.plane.kubeconfig("admin")
        code = main(["doctor", "--kubeconfig", str(as_whom), "-o", "json", *flags])
        said = self.capsys.readouterr()
        assert said.err == "", said.err
        return code, json.loads(said.out)

    @property
    def given(self) -> str:
        """The flag with the policies that are in force."""
        return f"--policies={self.policies}"


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    """A control plane of its own, in which nobody but the administrator is bound to cluster-admin."""
    status, answer = own_plane.raw("DELETE", f"/apis/{RBAC}/v1/clusterrolebindings/driftwall-e2e-users")
    assert status == 200, answer
    return own_plane


@pytest.fixture(scope="module")
def server(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driftwall]:
    with Driftwall(plane, tmp_path_factory.mktemp("doctor"), POLICIES, flags=["--shutdown-delay=0s"]) as server:
        yield server


@pytest.fixture
def doctor(plane: ControlPlane, server: Driftwall, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """With the webhook configurations that the policies need, as the command prints them."""
    code = main(
        [
            "webhook-config",
            f"--policies={server.policies}",
            f"--url={server.url}",
            f"--ca-file={server.ca_file}",
            "-o",
            "json",
        ]
    )
    assert code == 0
    for each in json.loads(capsys.readouterr().out)["items"]:
        wanted = for_version(each, plane.version)
        status, answer = plane.raw("POST", f"{ADMISSION}/{each['kind'].lower()}s", wanted)
        assert status == 201, answer
    doctor = Doctor(plane=plane, policies=server.policies, capsys=capsys)
    plane.wait_for(lambda: message_of(doctor, "reached").startswith("ok"), "the webhooks to be in force")
    yield doctor
    for path in (VALIDATING, MUTATING):
        plane.raw("DELETE", path)


def message_of(doctor: Doctor, name: str) -> str:
    """Status and messages of a check."""
    _, said = doctor(doctor.given)
    return "; ".join(f"{check['status']}: {check['message']}" for check in said["checks"] if check["name"] == name)


def problems(said: Object) -> list[str]:
    return [check["message"] for check in said["checks"] if check["status"] == "problem"]


# ── who can get past it ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A role, or the name of one that is there, and where it is bound; `does` is what doctor says of it."""

    rules: Sequence[Object] | str
    does: str
    namespace: str = ""


def rule(verbs: str, group: str, resources: str, *names: str) -> Object:
    found: Object = {"apiGroups": [group], "resources": resources.split(","), "verbs": verbs.split(",")}
    return found | ({"resourceNames": list(names)} if names else {})


HOLES = {
    "impersonate": Hole(
        rules=[rule("impersonate", "", "serviceaccounts", "kustomize-controller")],
        namespace=FLUX,
        does="impersonate flux-system/kustomize-controller",
    ),
    "token": Hole(
        rules=[rule("create", "", "serviceaccounts/token")],
        namespace=FLUX,
        does="mint a token of flux-system/helm-controller, flux-system/kustomize-controller",
    ),
    "exec": Hole(rules=[rule("create", "", "pods/exec")], namespace=FLUX, does="get into pods in flux-system"),
    "secrets": Hole(rules=[rule("get,list", "", "secrets")], namespace=FLUX, does="read Secrets in flux-system"),
    "edit": Hole(rules="edit", namespace=FLUX, does="run pods in flux-system"),
    "escalate": Hole(
        rules=[rule("escalate,bind", RBAC, "clusterroles,roles")], does="give rights that one does not have"
    ),
    "webhooks": Hole(
        rules=[rule("patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations")],
        does="write webhook configurations",
    ),
    "policies": Hole(
        rules=[rule("create,update,patch,delete", "driftwall.io", "driftpolicies")],
        does="write DriftPolicies or the DriftwallConfig",
    ),
}


@contextlib.contextmanager
def holes(plane: ControlPlane, subject: Callable[[str], Object]) -> Iterator[None]:
    """All HOLES, each bound to a subject of its own; gone afterwards."""
    made: list[str] = []
    try:
        for name, hole in HOLES.items():
            for path, body in objects_of(name, hole, subject(name)):
                status, answer = plane.raw("POST", path, body)
                assert status == 201, answer
                made.append(f"{path}/{body['metadata']['name']}")
        yield
    finally:
        for path in made:
            plane.raw("DELETE", path)


def objects_of(name: str, hole: Hole, subject: Object) -> Iterator[tuple[str, Object]]:
    base = f"/apis/{RBAC}/v1"
    metadata: Object = {"name": f"hole-{name}"}
    if isinstance(hole.rules, str):
        role = hole.rules
    else:
        role = f"hole-{name}"
        yield (
            f"{base}/clusterroles",
            {"kind": "ClusterRole", "apiVersion": f"{RBAC}/v1", "metadata": metadata, "rules": hole.rules},
        )
    within = f"/namespaces/{hole.namespace}" if hole.namespace else ""
    kind = "RoleBinding" if hole.namespace else "ClusterRoleBinding"
    binding: Object = {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, "subjects": [subject]}
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
    yield f"{base}{within}/{kind.lower()}s", {**binding, "roleRef": ref}


def test_a_tight_cluster_is_sound_and_has_no_finding(doctor: Doctor) -> None:
    code, said = doctor(doctor.given)
    assert problems(said) == []
    assert said["exposures"] == []
    assert (code, said["sound"]) == (0, True)
    statuses = {check["name"]: check["status"] for check in said["checks"]}
    assert (statuses["webhooks"], statuses["reached"]) == ("ok", "ok")


def test_each_of_eight_holes_is_found_with_who_has_it_and_the_binding(doctor: Doctor) -> None:
    with holes(doctor.plane, lambda name: {"apiGroup": RBAC, "kind": "User", "name": f"user-of-{name}"}):
        code, said = doctor(doctor.given)
    assert (code, said["sound"]) == (1, False)
    found = {each["subjects"][0]: each for each in said["exposures"]}
    assert sorted(found) == sorted(f"User user-of-{name}" for name in HOLES)
    for name, hole in HOLES.items():
        exposure = found[f"User user-of-{name}"]
        place = f"RoleBinding {hole.namespace}/" if hole.namespace else "ClusterRoleBinding "
        assert exposure["binding"] == f"{place}hole-{name}"
        assert hole.does in exposure["can"]
        assert exposure["remedy"]
    assert doctor(doctor.given)[0] == 0


def test_every_hole_that_is_found_is_one(doctor: Doctor) -> None:
    """The API server itself says of each access that it lets the subject have it."""
    plane = doctor.plane
    with holes(plane, lambda name: {"apiGroup": RBAC, "kind": "Group", "name": f"group-of-{name}"}):
        _, said = doctor(doctor.given)
        for exposure in said["exposures"]:
            group = exposure["subjects"][0].removeprefix("Group ")
            for access in exposure["accesses"]:
                assert is_allowed(plane, group, access, exposure["binding"]), (group, access)


# Whoever is bound may become the one before, the first of whom may become a trusted account: alice is four steps away.
CHAIN = (
    ("token", Hole(rules=HOLES["token"].rules, does=HOLES["token"].does, namespace=FLUX), "ServiceAccount ci/deployer"),
    ("workloads", Hole(rules="edit", does="run pods in ci", namespace="ci"), "ServiceAccount tools/builder"),
    (
        "secrets",
        Hole(rules=[rule("get", "", "secrets")], does="read Secrets in tools", namespace="tools"),
        "Group builders",
    ),
    (
        "impersonate",
        Hole(rules=[rule("impersonate", "", "groups", "builders")], does="impersonate Group builders"),
        "User alice",
    ),
)


def test_whoever_can_become_somebody_who_gets_past_it_does_too(doctor: Doctor) -> None:
    plane = doctor.plane
    made: list[str] = []
    for namespace in ("ci", "tools"):
        plane.create_namespace(namespace)
    try:
        for name, hole, who in CHAIN:
            kind, _, whole = who.partition(" ")
            place, _, name_of = whole.rpartition("/")
            group = {} if kind == "ServiceAccount" else {"apiGroup": RBAC}
            subject: Object = {"kind": kind, "name": name_of, **group, **({"namespace": place} if place else {})}
            for path, body in objects_of(f"chain-{name}", hole, subject):
                status, answer = plane.raw("POST", path, body)
                assert status == 201, answer
                made.append(f"{path}/{body['metadata']['name']}")
        code, said = doctor(doctor.given)
    finally:
        for path in made:
            plane.raw("DELETE", path)
    assert code == 1
    told = [(each["subjects"], each["through"]) for each in said["exposures"]]
    names = [who for _, _, who in CHAIN]
    assert told == [([who], [before] if before else []) for who, before in zip(names, ["", *names], strict=False)]
    for (_, hole, _), exposure in zip(CHAIN, said["exposures"], strict=True):
        assert hole.does in exposure["can"]


def is_allowed(plane: ControlPlane, group: str, access: str, binding: str) -> bool:
    verb, resource, *names = access.replace(",", "").split(" ")
    resource, _, subresource = resource.partition("/")
    plural, _, api_group = resource.partition(".")
    place = binding.partition(" ")[2].partition("/")
    attributes = {
        "verb": verb,
        "group": api_group,
        "resource": plural,
        "subresource": subresource,
        "namespace": place[0] if place[1] else "",
    }
    body: Object = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    for name in names or [""]:
        spec = {"user": "x", "groups": [group], "resourceAttributes": {**attributes, "name": name}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        if plane.raw("POST", path, {**body, "spec": spec})[1]["status"]["allowed"]:
            return True
    return False


def test_whom_one_accepts_is_no_finding_any_more(doctor: Doctor) -> None:
    with holes(doctor.plane, lambda _: {"kind": "ServiceAccount", "namespace": "ci", "name": "runner"}):
        assert doctor(doctor.given)[0] == 1
        code, said = doctor(doctor.given, "--accept", "ServiceAccount ci/runner")
    assert code == 0
    assert {each["accepted"] for each in said["exposures"]} == {True}


def test_people_bound_to_cluster_admin_are_told_once_for_a_binding(doctor: Doctor) -> None:
    plane = doctor.plane
    binding: Object = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "people"}}
    subjects = [{"apiGroup": RBAC, "kind": kind, "name": name} for kind, name in (("User", "alice"), ("Group", "devs"))]
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}
    path = f"/apis/{RBAC}/v1/clusterrolebindings"
    status, answer = plane.raw("POST", path, {**binding, "subjects": subjects, "roleRef": ref})
    assert status == 201, answer
    try:
        code, said = doctor(doctor.given)
    finally:
        plane.raw("DELETE", f"{path}/people")
    assert code == 1
    (exposure,) = said["exposures"]
    assert exposure["subjects"] == ["Group devs", "User alice"]
    assert exposure["can"] == ["everything"]


# ── what is installed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_documented_role_is_enough(doctor: Doctor, plane: ControlPlane) -> None:
    text = (DEPLOY / "README.md").read_text()
    block = next(part for part in text.split("```yaml\n")[1:] if "name: driftwall-doctor" in part).partition("```")[0]
    token = plane.service_account_token("monitoring", "doctor")
    subject = {"kind": "ServiceAccount", "namespace": "monitoring", "name": "doctor"}
    made = []
    for role in yaml.safe_load_all(block):
        namespace = role["metadata"].get("namespace", "")
        within = f"/namespaces/{namespace}" if namespace else ""
        ref = {"apiGroup": RBAC, "kind": role["kind"], "name": role["metadata"]["name"]}
        binding = {**role, "kind": f"{role['kind']}Binding", "roleRef": ref, "subjects": [subject]}
        binding.pop("rules")
        for body in (role, binding):
            path = f"/apis/{RBAC}/v1{within}/{body['kind'].lower()}s"
            status, answer = plane.raw("POST", path, body)
            assert status == 201, answer
            made.append(f"{path}/{body['metadata']['name']}")
    kubeconfig = plane.folder / "as-doctor.json"
    kubeconfig.write_text(json.dumps(_with_token(plane.kubeconfig("admin"), token)))
    as_admin, as_doctor = doctor(doctor.given), doctor(doctor.given, kubeconfig=kubeconfig)
    for path in made:
        plane.raw("DELETE", path)
    assert as_doctor == as_admin
    assert as_doctor[0] == 0


def _with_token(kubeconfig: Path, token: str) -> Any:
    config = json.loads(kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    return config


def test_webhook_configurations_that_are_other_than_the_policies_need_are_problems(doctor: Doctor) -> None:
    plane = doctor.plane
    hooks = [{"name": "validate.driftwall.io", "failurePolicy": "Ignore", "timeoutSeconds": 29}]
    as_patch = {"Content-Type": "application/strategic-merge-patch+json"}
    status, answer = plane.raw("PATCH", VALIDATING, {"webhooks": hooks}, headers=as_patch)
    assert status == 200, answer
    plane.raw("DELETE", MUTATING)
    code, said = doctor(doctor.given)
    assert code == 1
    there = "ValidatingWebhookConfiguration driftwall: validate.driftwall.io has"
    assert problems(said) == [
        f"{there} failurePolicy Ignore, not Fail: writes pass unchecked while driftwall is away",
        f"{there} timeoutSeconds 29, not 3",
        "MutatingWebhookConfiguration driftwall is missing",
    ]


def test_a_driftwall_that_cannot_be_asked_is_a_problem_and_so_is_one_that_nobody_asks(doctor: Doctor) -> None:
    plane = doctor.plane
    other = pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=1)).certificate
    names = [hook["name"] for hook in plane.get(VALIDATING)["webhooks"]]
    for bundle, said in ((other, "the API server cannot ask driftwall: "), (None, "a dry run that driftwall refuses")):
        if bundle is None:
            plane.raw("DELETE", VALIDATING)
            plane.raw("DELETE", MUTATING)
            status, _ = plane.raw("POST", f"{ADMISSION}/validatingwebhookconfigurations", _unanswered())
            assert status == 201
        else:
            hooks = [{"name": name, "clientConfig": {"caBundle": b64encode(bundle).decode()}} for name in names]
            as_patch = {"Content-Type": "application/strategic-merge-patch+json"}
            status, answer = plane.raw("PATCH", VALIDATING, {"webhooks": hooks}, headers=as_patch)
            assert status == 200, answer
        plane.wait_for(lambda said=said: f"problem: {said}" in message_of(doctor, "reached"), said)  # type: ignore[misc]


def _unanswered() -> Object:
    """A configuration by which a write goes on where nobody answers, as it does at once: nothing is at port 1."""
    hook = {
        "name": "validate.driftwall.io",
        "clientConfig": {"url": "https://127.0.0.1:1/validate"},
        "rules": [{"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    document: Object = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**document, "metadata": {"name": "driftwall"}, "webhooks": [hook]}


def test_an_installation_is_looked_at_by_its_deployment(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    doctor = Doctor(plane=plane, policies=tmp_path, capsys=capsys)
    objects = [for_version(each, plane.version) for each in build(binaries.find().kubectl, "enforce")]
    authority = pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=90))
    host = f"driftwall.{NAMESPACE}.svc"
    pair = pki.create_serving(authority, [host], now=datetime.now(UTC), lifetime=timedelta(days=60))
    held = {key: b64encode(value).decode() for key, value in {"tls.crt": pair.certificate, "tls.key": pair.key}.items()}
    # Webhooks last: nobody answers them.
    text = yaml.safe_dump_all(each for each in objects if not each["kind"].endswith("WebhookConfiguration"))
    try:
        plane.kubectl("apply", "--validate=false", "-f", "-", stdin=text)
        secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/driftwall-tls"
        as_patch = {"Content-Type": "application/merge-patch+json"}
        status, answer = plane.raw("PATCH", secret, {"data": held}, headers=as_patch)
        assert status == 200, answer
        hooks = [each for each in objects if each["kind"].endswith("WebhookConfiguration")]
        for hook in (hook for each in hooks for hook in each["webhooks"]):
            hook["clientConfig"]["caBundle"] = b64encode(authority.certificate).decode()
        plane.kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump_all(hooks))
        plane.wait_for(lambda: "failed calling webhook" in reached(doctor), "the webhooks to be in force")
        code, said = doctor()
        assert code == 1
        assert [message for message in problems(said) if "cannot ask" not in message] == ["0 of 2 are ready"]
        checks = {check["name"]: check for check in said["checks"]}
        assert checks["policies"]["message"] == f"2 in ConfigMap {NAMESPACE}/driftwall-policies"
        assert checks["certificate"]["status"] == "ok"
        assert "for 59 days" in checks["certificate"]["message"]
        assert checks["rights"]["status"] == "ok"
        assert pair.key.decode().splitlines()[1] not in json.dumps(said)
        for each in hooks:
            plane.kubectl("delete", each["kind"], "driftwall")
        plane.kubectl(
            "delete", "rolebinding,configmap", "-n", NAMESPACE, "driftwall", "driftwall-policies", "--ignore-not-found"
        )
        _, said = doctor()
        found = problems(said)
        assert f"ConfigMap {NAMESPACE}/driftwall-policies is missing" in found
        assert f"service account {NAMESPACE}/driftwall may not patch secrets driftwall-tls" in found
    finally:
        for path in (VALIDATING, MUTATING):
            plane.raw("DELETE", path)
        plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")


def reached(doctor: Doctor) -> str:
    return str(next(check["message"] for check in doctor()[1]["checks"] if check["name"] == "reached"))
