from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.server
import json
import socket
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from tests.serving import PATIENCE, Certificates, certificates
from webhook import pki
from webhook.admission import ObjectRef
from webhook.cluster import objects
from webhook.cluster.connection import Offline, connect
from webhook.cluster.objects import CACHE_BYTES, CACHE_OBJECTS, CACHE_SECONDS, ObjectReader
from webhook.errors import LookupFailed, SettingsError

WEB = ObjectRef("apps", "v1", "deployments", "shop", "web")
WEB_PATH = "/apis/apps/v1/namespaces/shop/deployments/web"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}
Respond = Callable[[http.server.BaseHTTPRequestHandler], None]


class FakeApiServer:
    """An API server over real HTTP that answers as a test says, path by path."""

    def __init__(self, made: Certificates | None = None) -> None:
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.answers: dict[str, Respond] = {}
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                fake.requests.append(self.path)
                fake.tokens.append(self.headers["Authorization"])
                fake.answers.get(self.path, answering(404, b"404 page not found"))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if made is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(made.cert_file, made.key_file)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answering(status: int, body: bytes | dict[str, Any]) -> Respond:
    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def not_found(name: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "details": {"name": name}}


@pytest.fixture
def fake() -> Iterator[FakeApiServer]:
    fake = FakeApiServer()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's own cluster has a part in these tests."""
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kubeconfig(folder: Path, port: int, *, bearer: str = "first") -> Path:
    file = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {"token": bearer}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


class Reads:
    """A reader on a fake API server, with a clock of its own, that is run from outside a loop."""

    def __init__(self, fake: FakeApiServer, folder: Path) -> None:
        self.now = 0.0
        self.results: list[str] = []
        self.connection = connect(kubeconfig(folder, fake.port))
        self.reader = ObjectReader(self.connection, clock=lambda: self.now, on_result=self.results.append)
        self._runner = asyncio.Runner()

    def get(self, ref: ObjectRef = WEB) -> dict[str, Any] | None:
        cached = self.reader.cached(ref)
        return self._runner.run(self.reader.get(ref)) if cached is None else cached

    def together(self, *refs: ObjectRef) -> list[dict[str, Any] | None]:
        async def all_of_them() -> list[dict[str, Any] | None]:
            return await asyncio.gather(*(self.reader.get(ref) for ref in refs))

        return self._runner.run(all_of_them())

    def failure(self, ref: ObjectRef = WEB) -> str:
        with pytest.raises(LookupFailed) as raised:
            self.get(ref)
        return str(raised.value)

    def close(self) -> None:
        self.reader.close()
        self._runner.close()


@pytest.fixture
def reads(fake: FakeApiServer, tmp_path: Path) -> Iterator[Reads]:
    reads = Reads(fake, tmp_path)
    yield reads
    reads.close()


def soon() -> float:
    """A deadline that no test reaches."""
    return time.monotonic() + PATIENCE


PREFIX = f"{WEB} could not be looked up"


def test_an_object_is_read_with_the_token_of_the_kubeconfig(fake: FakeApiServer, reads: Reads) -> None:
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    assert reads.get() == DEPLOYMENT
    assert (fake.requests, fake.tokens) == ([WEB_PATH], ["Bearer first"])
    assert reads.results == ["found"]


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        (ObjectRef("", "v1", "configmaps", "shop", "a"), "/api/v1/namespaces/shop/configmaps/a"),
        (ObjectRef("", "v1", "namespaces", "", "shop"), "/api/v1/namespaces/shop"),
        (ObjectRef("example.com", "v1beta1", "widgets", "", "a"), "/apis/example.com/v1beta1/widgets/a"),
        (
            ObjectRef("rbac.authorization.k8s.io", "v1", "clusterroles", "", "system:node"),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
        ),
        (ObjectRef("", "v1", "configmaps", "shop", "a?b#ü"), "/api/v1/namespaces/shop/configmaps/a%3Fb%23%C3%BC"),
    ],
)
def test_the_path_is_that_of_the_object(ref: ObjectRef, path: str) -> None:
    assert objects.path(ref) == path


@pytest.mark.parametrize("name", ["", ".", "..", "../../secrets/s", "a/b", "a%2fb", "a b", "a\n", "\x00"])
@pytest.mark.parametrize("part", ["group", "version", "resource", "namespace", "name"])
def test_a_name_that_would_lead_to_another_object_is_never_asked_for(
    fake: FakeApiServer, reads: Reads, part: str, name: str
) -> None:
    if name == "" and part in ("group", "namespace", "resource"):
        return  # the core group, a cluster-scoped object, and what a group's version serves
    assert reads.failure(WEB._replace(**{part: name})).endswith(": its name can be no part of a path in the API")
    assert fake.requests == []


def test_an_object_that_does_not_exist_is_none_and_is_asked_for_again(fake: FakeApiServer, reads: Reads) -> None:
    fake.answers[WEB_PATH] = answering(404, not_found("web"))
    assert reads.get() is None
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    assert reads.get() == DEPLOYMENT
    assert reads.results == ["missing", "found"]


@pytest.mark.parametrize("body", [b"404 page not found", not_found("other"), {"kind": "Status", "details": {}}, b"[]"])
def test_a_404_that_is_not_about_the_object_does_not_say_that_it_is_missing(
    fake: FakeApiServer, reads: Reads, body: bytes | dict[str, Any]
) -> None:
    fake.answers[WEB_PATH] = answering(404, body)
    assert reads.failure() == f"{PREFIX}: the API server does not serve this resource"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "driftwall may not read it; its role needs the verb get on this resource"),
        (429, "the API server has too much to do; try again"),
        (500, "the API server answered with HTTP 500"),
        (302, "the API server answered with HTTP 302"),
    ],
)
def test_a_refusal_fails_the_look_up_and_is_neither_cached_nor_tried_again(
    fake: FakeApiServer, reads: Reads, status: int, reason: str
) -> None:
    fake.answers[WEB_PATH] = answering(status, {"message": "s3cr3t"})
    assert reads.failure() == f"{PREFIX}: {reason}"
    assert fake.requests == [WEB_PATH]
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    assert reads.get() == DEPLOYMENT
    assert reads.results == ["failed", "found"]


def test_a_slow_api_server_fails_the_look_up_and_the_next_one_succeeds(fake: FakeApiServer, reads: Reads) -> None:
    go_on = threading.Event()

    def stall(_: http.server.BaseHTTPRequestHandler) -> None:
        go_on.wait(PATIENCE)

    fake.answers[WEB_PATH] = stall
    message = reads.failure()
    assert message in {
        f"{PREFIX} within 1 s; try again",
        f"{PREFIX}: the API server did not answer in time; try again",
    }
    go_on.set()
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    other = WEB._replace(name="api")
    fake.answers[WEB_PATH.replace("web", "api")] = answering(200, DEPLOYMENT)
    assert reads.get(other) == DEPLOYMENT


def test_an_answer_that_comes_drop_by_drop_fails_the_look_up(fake: FakeApiServer, reads: Reads) -> None:
    go_on = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not go_on.wait(0.01):
                handler.wfile.write(b"1\r\n \r\n")

    fake.answers[WEB_PATH] = drip
    assert reads.failure().endswith("try again")
    go_on.set()


def test_an_api_server_that_is_down_fails_the_look_up(fake: FakeApiServer, reads: Reads) -> None:
    fake.close()
    assert reads.failure() == f"{PREFIX}: the API server cannot be reached; try again"


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'"x"', b"null", b'{"a":' * 9000 + b"1" + b"}" * 9000])
def test_an_answer_that_is_no_object_fails_the_look_up(fake: FakeApiServer, reads: Reads, body: bytes) -> None:
    fake.answers[WEB_PATH] = answering(200, body)
    assert reads.failure() == f"{PREFIX}: the API server's answer is no object that driftwall can read"


def test_an_answer_without_measure_fails_the_look_up(fake: FakeApiServer, reads: Reads) -> None:
    fake.answers[WEB_PATH] = answering(200, b" " * (8 * 1024 * 1024 + 1))
    assert reads.failure() == f"{PREFIX}: the API server's answer has more than 8 MiB"


def test_an_object_is_cached_until_its_time_is_up(fake: FakeApiServer, reads: Reads) -> None:
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    reads.get()
    reads.now = CACHE_SECONDS - 0.001
    assert reads.get() == DEPLOYMENT
    assert len(fake.requests) == 1
    reads.now = CACHE_SECONDS
    changed = {**DEPLOYMENT, "spec": {}}
    fake.answers[WEB_PATH] = answering(200, changed)
    assert reads.get() == changed
    assert reads.results == ["found", "hit", "found"]


def test_objects_asked_for_at_once_are_fetched_once(fake: FakeApiServer, reads: Reads) -> None:
    all_wait = threading.Event()
    other = WEB._replace(name="api")

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        all_wait.wait(PATIENCE)
        answering(200, DEPLOYMENT)(handler)

    fake.answers[WEB_PATH] = respond

    def release(handler: http.server.BaseHTTPRequestHandler) -> None:
        all_wait.set()  # asked for last, so the others wait already
        answering(404, not_found("api"))(handler)

    fake.answers[WEB_PATH.replace("web", "api")] = release
    assert reads.together(*[WEB] * 10, other) == [DEPLOYMENT] * 10 + [None]
    assert sorted(fake.requests) == sorted([WEB_PATH, WEB_PATH.replace("web", "api")])


def test_a_caller_who_gives_up_takes_nothing_from_the_others(fake: FakeApiServer, reads: Reads) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.set()
        go_on.wait(PATIENCE)
        answering(200, DEPLOYMENT)(handler)

    async def first_gives_up() -> dict[str, Any] | None:
        first = asyncio.create_task(reads.reader.get(WEB))
        second = asyncio.create_task(reads.reader.get(WEB))
        await asyncio.to_thread(asked.wait, PATIENCE)
        first.cancel()
        go_on.set()
        return await second

    fake.answers[WEB_PATH] = respond
    with asyncio.Runner() as runner:
        assert runner.run(first_gives_up()) == DEPLOYMENT
    assert fake.requests == [WEB_PATH]
    assert reads.results == ["failed", "found"]


def test_the_cache_is_bounded_in_objects_and_in_bytes(fake: FakeApiServer, reads: Reads) -> None:
    def named(number: int) -> ObjectRef:
        return WEB._replace(name=f"web-{number}")

    for number in range(CACHE_OBJECTS + 1):
        fake.answers[f"{WEB_PATH}-{number}"] = answering(200, DEPLOYMENT)
        reads.get(named(number))
    reads.get(named(1))
    assert reads.results[-1] == "hit"
    reads.get(named(0))
    assert reads.results[-1] == "found"  # the oldest had to go

    half = {**DEPLOYMENT, "data": "x" * (CACHE_BYTES // 2)}
    for number in (1, 2):
        fake.answers[f"{WEB_PATH}-{number}"] = answering(200, half)
    reads.now = CACHE_SECONDS
    reads.get(named(1))
    reads.get(named(2))
    reads.get(named(1))
    assert reads.results[-3:] == ["found", "found", "found"]


def test_an_object_larger_than_the_cache_is_read_and_not_kept(fake: FakeApiServer, reads: Reads) -> None:
    fake.answers[WEB_PATH] = answering(200, {"data": "x" * CACHE_BYTES})
    reads.get()
    reads.get()
    assert reads.results == ["found", "found"]


def test_credentials_that_were_refused_are_read_anew(fake: FakeApiServer, reads: Reads, tmp_path: Path) -> None:
    fake.answers[WEB_PATH] = answering(401, {})
    assert reads.failure() == f"{PREFIX}: the API server does not accept driftwall's credentials"
    kubeconfig(tmp_path, fake.port, bearer="second")
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    assert reads.get() == DEPLOYMENT
    assert fake.tokens == ["Bearer first", "Bearer second"]


# ── where the configuration comes from ───────────────────────────────────────────────────────────────────────────────


def test_without_any_configuration_a_look_up_fails_and_says_why_and_what_to_do() -> None:
    connection = connect(None)
    assert isinstance(connection, Offline)
    reader = ObjectReader(connection)
    with pytest.raises(LookupFailed) as raised:
        asyncio.run(reader.get(WEB))
    reader.close()
    assert str(raised.value) == (
        f"{PREFIX}: driftwall has no way to the API server (it does not run in a cluster and there is no kubeconfig); "
        "start it with --kubeconfig FILE"
    )


def test_a_kubeconfig_that_is_given_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        connect(tmp_path / "missing")
    assert str(raised.value) == f"--kubeconfig: {tmp_path}/missing cannot be read: No such file or directory"
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("content", ["", "hello", "{token: s3cr3t", "users: s3cr3t", "current-context: none"])
def test_a_kubeconfig_that_cannot_be_used_is_an_error_that_quotes_nothing_of_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        connect(file)
    assert str(raised.value).startswith(f"--kubeconfig: {file} cannot be used: ")
    assert "s3cr3t" not in str(raised.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What a pod finds of its service account, and the API server that it is for."""

    token: Path
    api: FakeApiServer


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pod]:
    made = certificates(tmp_path)
    token = tmp_path / "token"
    token.write_text("of-the-pod")
    api = FakeApiServer(made)
    api.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(made.ca_file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    yield Pod(token=token, api=api)
    api.close()


def test_in_a_cluster_the_pods_service_account_is_used_and_its_token_read_again(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(None)
    assert connection.get(WEB_PATH, soon()).status == 200
    pod.token.write_text("rotated")
    real = datetime.datetime

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Later:
            return cls.fromtimestamp(real.now(tz).timestamp() + 120, tz)

    monkeypatch.setattr(datetime, "datetime", Later)
    assert connection.get(WEB_PATH, soon()).status == 200
    assert pod.api.tokens == ["bearer of-the-pod", "bearer rotated"]


def token_of(subject: object) -> str:
    """A JSON Web Token about somebody, as far as that can be told without its key."""
    claims = urlsafe_b64encode(json.dumps({"iss": "https://kubernetes.default.svc", "sub": subject}).encode())
    return f"e30.{claims.decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("bearer", "account"),
    [
        (token_of("system:serviceaccount:guards:wall"), "guards/wall"),
        (token_of("system:serviceaccount:a-namespace-of-another-length:wall"), "a-namespace-of-another-length/wall"),
        (token_of("alice@example.com"), None),
        (token_of(7), None),
        ("opaque", None),
        ("a.b.c", None),
        ("e30.W10.c2ln", None),
    ],
)
def test_the_token_tells_which_service_account_it_is_of(
    pod: Pod, bearer: str, account: str | None, tmp_path: Path
) -> None:
    pod.token.write_text(bearer)
    assert connect(None).account() == account
    assert connect(kubeconfig(tmp_path, pod.api.port, bearer=bearer)).account() == account


def test_whoever_is_offline_is_nobody() -> None:
    assert connect(None).account() is None


def test_a_token_that_is_gone_fails_the_look_up(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.api.answers[WEB_PATH] = answering(401, {})
    connection = connect(None)
    assert connection.get(WEB_PATH, soon()).status == 401
    pod.token.unlink()
    with pytest.raises(LookupFailed) as raised:
        connection.get(WEB_PATH, soon())
    assert str(raised.value) == "driftwall cannot log in to the API server: Service token file does not exist."


def test_an_api_server_with_another_ca_is_not_talked_to(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(pki.create_ca(now=datetime.datetime.now(UTC), lifetime=timedelta(1)).certificate)
    with pytest.raises(LookupFailed) as raised:
        connect(None).get(WEB_PATH, soon())
    assert str(raised.value) == "the API server cannot be reached (SSLError); try again"
    assert pod.api.tokens == []


def test_a_given_kubeconfig_goes_before_the_cluster(fake: FakeApiServer, pod: Pod, tmp_path: Path) -> None:
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    connection = connect(kubeconfig(tmp_path, fake.port))
    assert connection.get(WEB_PATH, soon()).status == 200
    assert fake.tokens == ["Bearer first"]


def test_a_pod_without_a_service_account_is_offline_and_says_so(pod: Pod) -> None:
    pod.token.unlink()
    connection = connect(None)
    assert isinstance(connection, Offline)
    assert connection.reason == (
        "the pod has no usable service account: Service token file does not exist. and there is no kubeconfig"
    )


def test_the_users_own_kubeconfig_comes_last(fake: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path, fake.port).rename(tmp_path / ".kube" / "config")
    fake.answers[WEB_PATH] = answering(200, DEPLOYMENT)
    connection = connect(None)
    assert connection.get(WEB_PATH, soon()).status == 200
    assert fake.tokens == ["Bearer first"]


def test_a_connection_that_the_api_server_closed_while_idle_is_replaced(fake: FakeApiServer, reads: Reads) -> None:
    def respond_and_close(handler: http.server.BaseHTTPRequestHandler) -> None:
        answering(200, DEPLOYMENT)(handler)
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    fake.answers[WEB_PATH] = respond_and_close
    reads.get()
    reads.now = CACHE_SECONDS
    assert reads.get() == DEPLOYMENT


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_is_closed_just_when_it_is_used_again_is_replaced_once(
    fake: FakeApiServer, reads: Reads
) -> None:
    answers = iter([answering(200, DEPLOYMENT), hang_up, answering(200, DEPLOYMENT), hang_up, hang_up])

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        next(answers)(handler)

    fake.answers[WEB_PATH] = respond
    reads.get()
    reads.now = CACHE_SECONDS
    assert reads.get() == DEPLOYMENT
    reads.now = 2 * CACHE_SECONDS
    assert reads.failure() == f"{PREFIX}: the API server cannot be reached (ProtocolError); try again"
    assert fake.requests == [WEB_PATH] * 5
