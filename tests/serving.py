"""What the tests of the server share: certificates, reviews, and a real uvicorn server over HTTPS."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from webhook import app, certificate, pki, settings, tls
from webhook.settings import Address, Files, Settings

HOSTS = ("localhost", "127.0.0.1", "::1")
# No test waits this long: it is there so that one that would wait for ever fails instead.
PATIENCE = 30

POLICY = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: replicas
spec:
  mode: enforce
  protect:
    fields: [spec.replicas]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """A CA, a certificate for loopback that it signed, and where they are."""

    ca: pki.KeyPair
    ca_file: Path
    cert_file: Path
    key_file: Path

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def certificates(folder: Path) -> Certificates:
    ca = pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=1))
    serving = pki.create_serving(ca, HOSTS, now=datetime.now(UTC), lifetime=timedelta(days=1))
    made = Certificates(ca=ca, ca_file=folder / "ca.crt", cert_file=folder / "tls.crt", key_file=folder / "tls.key")
    made.ca_file.write_bytes(ca.certificate)
    made.cert_file.write_bytes(serving.certificate)
    made.key_file.write_bytes(serving.key)
    return made


def settings_for(made: Certificates, **changes: Any) -> Settings:
    loopback = Address(host="127.0.0.1", port=0)
    values: dict[str, Any] = {
        "policies": made.ca_file.parent,
        "tls_files": Files(cert=made.cert_file, key=made.key_file),
        "client_ca": None,
        "listen": loopback,
        "management_listen": loopback,
        "kubeconfig": None,
    }
    return Settings(**(values | changes))


def deployment(replicas: int, **metadata: Any) -> dict[str, Any]:
    labels = {
        "kustomize.toolkit.fluxcd.io/name": "shop",
        "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "uid": "7a1c", "labels": labels, **metadata},
        "spec": {"replicas": replicas},
    }


def review(**changes: Any) -> dict[str, Any]:
    """An AdmissionReview of alice who scales a Deployment of Flux from 2 to 5; ``changes`` are the request's."""
    request = {
        "uid": "0b9e",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "name": "web",
        "namespace": "shop",
        "operation": "UPDATE",
        "userInfo": {"username": "alice", "groups": ["developers", "system:authenticated"]},
        "oldObject": deployment(2),
        "object": deployment(5),
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | changes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The message of a Status of Kubernetes, which every error body is."""
        status = self.json
        assert (status["apiVersion"], status["kind"], status["status"]) == ("v1", "Status", "Failure")
        assert status["code"] == self.status
        assert self.headers["content-type"] == "application/json"
        return str(status["message"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Calls a server on loopback."""

    port: int
    tls: ssl.SSLContext | None = None

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.tls)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a body that is no bytes is sent in chunks, without a length."""
        with contextlib.closing(self.connect()) as connection:
            chunked = body is not None and not isinstance(body, bytes)
            sent = {"Transfer-Encoding": "chunked"} if chunked else {}
            connection.request(method, path, body, {**sent, **(headers or {})}, encode_chunked=chunked)
            return answer_of(connection.getresponse())

    def post(self, body: bytes | Iterable[bytes] | dict[str, Any]) -> Answer:
        """POST a review as the API server does."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        return self.request("POST", "/validate?timeout=10s", content, {"Content-Type": "application/json"})


def answer_of(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(status=response.status, headers=headers, body=response.read())


@contextlib.contextmanager
def serving(application: app.Application, made: Certificates) -> Iterator[Client]:
    """Serve ``application`` in a thread as ``driftwall serve`` does in its process."""
    config = settings_for(made)
    listener = app.listen(settings.LISTEN, config.listen)
    port = listener.getsockname()[1]
    server = app.Server(application, [listener], tls.context(certificate.load(config)))

    stop = asyncio.Event()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    async def until_stopped() -> None:
        running = asyncio.create_task(server.run_to_end())
        await stop.wait()
        await server.drain()
        await running

    def run() -> None:
        with runner:
            runner.run(until_stopped())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Client(port=port, tls=made.client())
    finally:
        runner.get_loop().call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()


def environment(**extra: str) -> dict[str, str]:
    """The environment for a process of driftwall: without anybody's cluster or settings."""
    foreign = ("DRIFTWALL_", "KUBE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "HOME": "/nonexistent", **extra}
