"""The self-managed certificate on a real API server, with no more rights than a role for it needs."""

import base64
import contextlib
import hashlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.serving import environment

from . import processes
from .api import Api, Object
from .control_plane import ControlPlane
from .writes import Writes

ROOT = Path(__file__).parents[2]
NAMESPACE, GUARDED = "driftwall-certificates", "guarded-with-certificates"
SECRET, LEASE = "driftwall-tls", "driftwall"
HOST = f"driftwall.{NAMESPACE}.svc"
KINDS = ("validating", "mutating")
_ADMISSION, _RBAC = "/apis/admissionregistration.k8s.io/v1", "rbac.authorization.k8s.io"
# Seconds between two looks of a replica at its Secret: a bundle is settled after ten, a replica given up after 600.
LOOK = 0.1

# All that the certificate takes. What makes an object that is named is an apply, so its name can be in the role.
ROLE: Sequence[Object] = (
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "create", "patch"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE],
        "verbs": ["get", "create", "patch"],
    },
)
CLUSTER_ROLE: Sequence[Object] = (
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
        "resourceNames": ["driftwall"],
        "verbs": ["get", "patch"],
    },
)
POLICIES = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: declared
spec:
  mode: enforce
  protect:
    fields: [data.*]
"""


class Replica:
    """A `driftwall serve` with a certificate of its own making, up from `with` on, ready or not."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._management = processes.free_port()
        self.port = processes.free_port()
        (folder / "policies.yaml").write_text(POLICIES)
        port = urlsplit(plane.url).port
        assert port is not None
        token = plane.service_account_token(NAMESPACE, "driftwall")
        (folder / "kubeconfig").write_text(Api(port, plane.ca_pem.decode()).kubeconfig("driftwall", token=token))

    def __enter__(self) -> Self:
        flags = {
            "policies": self._folder / "policies.yaml",
            "kubeconfig": self._folder / "kubeconfig",
            "service": f"{NAMESPACE}/driftwall",
            "reload-interval": f"{LOOK}s",
            "listen": f"127.0.0.1:{self.port}",
            "management-listen": f"127.0.0.1:{self._management}",
        }
        serve = [sys.executable, "-m", "webhook", "serve", *(f"--{name}={value}" for name, value in flags.items())]
        self.messages_file = self._folder / "messages.jsonl"
        with (self._folder / "decisions.jsonl").open("wb") as out, self.messages_file.open("ab") as err:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *serve],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.wait()

    def get(self, path: str) -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._management, timeout=10)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def is_ready(self) -> bool:
        return self.get("/readyz") == "ok\n"

    def leads(self) -> bool:
        return "\ndriftwall_leader 1.0" in self.get("/metrics")

    def served(self, bundle: bytes) -> str:
        """The fingerprint of the certificate that it shows to whoever trusts `bundle`, as an API server does."""
        context = ssl.create_default_context(cadata=bundle.decode())
        address = ("127.0.0.1", self.port)
        with (
            socket.create_connection(address, timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=HOST) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return hashlib.sha256(shown).hexdigest()

    def is_trusted(self, bundle: bytes) -> bool:
        """Whether somebody who trusts `bundle` takes its certificate."""
        try:
            self.served(bundle)
        except ssl.SSLError:
            return False
        return True


class Cluster:
    """What the certificate is about: the Secret, the bundles, the writes that the API server asks driftwall about."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def prepare(self, port: int) -> None:
        """The namespaces, driftwall's roles, and its Service, which leads to `port` of this machine."""
        self.plane.create_namespace(NAMESPACE)
        self.plane.create_namespace(GUARDED)
        self.apply("", f"/api/v1/namespaces/{GUARDED}", "Namespace", metadata={"labels": {"guarded": "yes"}})
        subject = {"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "driftwall"}
        for prefix, within, rules in (("Cluster", "", CLUSTER_ROLE), ("", f"/namespaces/{NAMESPACE}", ROLE)):
            base = f"/apis/{_RBAC}/v1{within}/{prefix.lower()}"
            role = {"apiGroup": _RBAC, "kind": f"{prefix}Role", "name": "driftwall-certificates"}
            self.apply(_RBAC, f"{base}roles/driftwall-certificates", f"{prefix}Role", rules=rules)
            self.apply(
                _RBAC,
                f"{base}rolebindings/driftwall-certificates",
                f"{prefix}RoleBinding",
                roleRef=role,
                subjects=[subject],
            )
        # Nothing but a name leads from a Service to loopback; the API server resolves it as a pod's clients would.
        service = {"type": "ExternalName", "externalName": "localhost"}
        self.apply("", f"/api/v1/namespaces/{NAMESPACE}/services/driftwall", "Service", spec=service)
        for kind in KINDS:
            self.apply(
                "admissionregistration.k8s.io",
                f"{_ADMISSION}/{kind}webhookconfigurations/driftwall",
                f"{kind.capitalize()}WebhookConfiguration",
                webhooks=[_webhook(kind, port)],
            )

    def clean_up(self) -> None:
        """Leave no webhook, Secret or Lease behind."""
        for kind in KINDS:
            self.plane.raw("DELETE", f"{_ADMISSION}/{kind}webhookconfigurations/driftwall")
        self.plane.raw("DELETE", f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}")
        self.plane.raw("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}")

    def apply(self, group: str, path: str, kind: str, **fields: Any) -> None:
        version = f"{group}/v1" if group else "v1"
        metadata = {**fields.pop("metadata", {}), "name": path.rpartition("/")[2]}
        body = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        status, answer = self.plane.raw("PATCH", f"{path}?fieldManager=test&force=true", body, headers=headers)
        assert status < 300, answer

    def bundles(self) -> list[bytes]:
        """The bundle of each webhook of both configurations."""
        configurations = [self.plane.get(f"{_ADMISSION}/{kind}webhookconfigurations/driftwall") for kind in KINDS]
        hooks = [webhook for configuration in configurations for webhook in configuration["webhooks"]]
        return [base64.b64decode(webhook["clientConfig"].get("caBundle", "")) for webhook in hooks]

    def secret(self) -> dict[str, bytes]:
        data = self.plane.get("secret", SECRET, NAMESPACE)["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def ask(self, wish: str) -> None:
        """Have something renewed, as the documentation says."""
        self.plane.kubectl("annotate", "secret", SECRET, "-n", NAMESPACE, f"driftwall.io/rotate={wish}")

    def is_steady(self) -> bool:
        """Whether nothing is on its way: one CA, trusted by both configurations, and no wish."""
        secret = self.plane.get("secret", SECRET, NAMESPACE)
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        wish = (secret["metadata"].get("annotations") or {}).get("driftwall.io/rotate")
        return wish is None and "previous-ca.crt" not in data and set(self.bundles()) == {data["ca.crt"]}


def _webhook(kind: str, port: int) -> Object:
    path = "/validate" if kind == "validating" else "/mutate"
    return {
        "name": f"{kind}.driftwall.io",
        "clientConfig": {"service": {"namespace": NAMESPACE, "name": "driftwall", "path": path, "port": port}},
        "rules": [
            {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "scope": "*"}
        ],
        "namespaceSelector": {"matchLabels": {"guarded": "yes"}},
        "failurePolicy": "Fail",
        "timeoutSeconds": 10,
        "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"],
    }


def write(plane: ControlPlane, name: str, value: str, **metadata: Any) -> str | None:
    """Write a ConfigMap; gives what was wrong, if anything was."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"value": value}}
    path = f"/api/v1/namespaces/{GUARDED}/configmaps/{name}?fieldManager=test&force=true"
    status, answer = plane.raw("PATCH", path, body, headers={"Content-Type": "application/apply-patch+yaml"})
    return None if status < 300 else str(answer.get("message"))


def steady_writes(plane: ControlPlane) -> Writes:
    return Writes(plane, lambda thread, number: write(plane, f"steady-{thread}-{number % 10}", str(number)))


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Iterator[Cluster]:
    cluster = Cluster(control_plane)
    yield cluster
    cluster.clean_up()


@pytest.fixture
def replicas(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two that are ready; the API server calls the first, and the first one leads."""
    plane = cluster.plane
    plane.create_namespace(NAMESPACE)
    first, second = Replica(plane, tmp_path / "first"), Replica(plane, tmp_path / "second")
    cluster.prepare(first.port)
    with first:
        plane.wait_for(first.is_ready, "the first replica to be ready")
        with second:
            plane.wait_for(second.is_ready, "the second replica to be ready")
            plane.wait_for(cluster.is_steady, "the bundles to be in place")
            plane.wait_for(lambda: write(plane, "probe", "x") is None, "the API server to trust them")
            yield first, second
    for replica in (first, second):
        messages = [json.loads(line) for line in replica.messages_file.read_text().splitlines()]
        assert [message for message in messages if "traceback" in message or message["level"] == "error"] == []
        assert b"PRIVATE KEY" not in replica.messages_file.read_bytes()


def test_it_makes_its_certificate_with_the_rights_of_its_role_and_is_called_by_its_service(
    cluster: Cluster, replicas: tuple[Replica, Replica]
) -> None:
    plane = cluster.plane
    assert sorted(cluster.secret()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert [replica.leads() for replica in replicas] == [True, False]
    account = f"system:serviceaccount:{NAMESPACE}:driftwall"
    events = [event for event in plane.audit_events() if event["user"]["username"] == account]
    # Whatever is in its role is used, and nothing else is asked for: not even in vain.
    used = {(event["objectRef"]["resource"], event["verb"]) for event in events}
    resources = ["leases", "mutatingwebhookconfigurations", "secrets", "validatingwebhookconfigurations"]
    assert used == {(resource, verb) for resource in resources for verb in ("get", "patch")}
    assert {event["responseStatus"]["code"] for event in events} <= {200, 201, 404, 409}
    owner = {"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
    denial = write(plane, "managed", "1", labels=owner)
    assert denial is not None
    assert "denied the request" in denial


def test_a_bundle_that_somebody_takes_away_comes_back(cluster: Cluster, replicas: tuple[Replica, Replica]) -> None:
    plane = cluster.plane
    foreign = base64.b64encode(cluster.secret()["tls.crt"]).decode()
    for kind in KINDS:
        patch = [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": foreign}]
        path = f"{_ADMISSION}/{kind}webhookconfigurations/driftwall"
        plane.raw("PATCH", path, json.dumps(patch).encode(), headers={"Content-Type": "application/json-patch+json"})
        plane.wait_for(cluster.is_steady, f"the bundle of the {kind} webhook")
    plane.wait_for(lambda: write(plane, "probe", "y") is None, "writes to go through again")
    for kind in KINDS:
        # The rest is still whose it was.
        managers = plane.get(f"{_ADMISSION}/{kind}webhookconfigurations/driftwall")["metadata"]["managedFields"]
        (own,) = (entry for entry in managers if entry["manager"] == "driftwall")
        key = f'k:{{"name":"{kind}.driftwall.io"}}'
        assert own["fieldsV1"]["f:webhooks"] == {key: {"f:clientConfig": {"f:caBundle": {}}}}


def test_a_hundred_certificates_and_a_ca_under_a_steady_load_fail_no_write(
    cluster: Cluster, replicas: tuple[Replica, Replica]
) -> None:
    plane = cluster.plane
    with steady_writes(plane) as writes:
        for _ in range(100):
            renew_serving(cluster, replicas)
        writes.go_on()
        before = cluster.secret()["ca.crt"]
        trusted = set(cluster.bundles())
        untrusted: list[bytes] = []
        cluster.ask("ca")

        def is_over() -> bool:
            for bundle in set(cluster.bundles()):
                trusted.add(bundle)
                # One that is in force no more by the time that a replica is asked says nothing.
                if not all(replica.is_trusted(bundle) for replica in replicas) and bundle in cluster.bundles():
                    untrusted.append(bundle)
            return cluster.is_steady() and cluster.secret()["ca.crt"] != before

        plane.wait_for(is_over, "the rotation of the CA to end", seconds=60)
        writes.go_on()
        trusted.update(cluster.bundles())
        assert untrusted == []
        after = cluster.secret()["ca.crt"]
        assert trusted == {before, after + before, after}
    assert writes.failures == []
    assert writes.done > 100


def renew_serving(cluster: Cluster, replicas: Sequence[Replica]) -> None:
    """Have the serving certificate renewed, and wait until all replicas serve the new one."""
    before = cluster.secret()
    cluster.ask("serving")
    cluster.plane.wait_for(lambda: cluster.secret()["tls.crt"] != before["tls.crt"], "a new certificate")
    now = cluster.secret()
    assert now["ca.crt"] == before["ca.crt"]
    wanted = fingerprint(now["tls.crt"])
    cluster.plane.wait_for(
        lambda: all(replica.served(now["ca.crt"]) == wanted for replica in replicas), "it to be served by all"
    )


def test_a_leader_that_is_killed_during_a_rotation_is_followed_by_another(cluster: Cluster, tmp_path: Path) -> None:
    plane = cluster.plane
    plane.create_namespace(NAMESPACE)
    leader, called = Replica(plane, tmp_path / "leader"), Replica(plane, tmp_path / "called")
    cluster.prepare(called.port)
    with leader:
        plane.wait_for(leader.is_ready, "the leader to be ready")
        with called:
            plane.wait_for(called.is_ready, "the other replica to be ready")
            plane.wait_for(cluster.is_steady, "the bundles to be in place")
            plane.wait_for(lambda: write(plane, "probe", "x") is None, "the API server to trust them")
            with steady_writes(plane) as writes:
                before = cluster.secret()
                cluster.ask("ca")
                plane.wait_for(lambda: "previous-ca.crt" in cluster.secret(), "the rotation to begin")
                leader.popen.kill()
                # 15 s until the Lease has expired, and 60 until the entry of the one that was killed has.
                plane.wait_for(cluster.is_steady, "the rotation to end", seconds=150)
                assert cluster.secret()["ca.crt"] != before["ca.crt"]
                writes.go_on()
            assert writes.failures == []
            called.popen.send_signal(signal.SIGTERM)
            assert called.popen.wait(timeout=30) == 0
    lease = plane.get(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}")
    # It has left nothing that somebody would have to wait for.
    assert "holderIdentity" not in lease["spec"]
    assert lease["metadata"].get("annotations") is None


def fingerprint(certificate: bytes) -> str:
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()
