from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.load import Load
from tests.running import Process, command, started
from tests.serving import (
    PATIENCE,
    POLICY,
    Certificates,
    Client,
    answer_of,
    certificates,
    deployment,
    environment,
    review,
    settings_for,
)
from webhook import certificate, pki, tls


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return certificates(tmp_path)


@pytest.fixture
def running(made: Certificates) -> Iterator[Process]:
    with started(made) as process:
        yield process


def test_it_gets_ready_decides_counts_logs_and_ends_with_0(running: Process) -> None:
    assert running.management.request("GET", "/livez").status == 200
    assert running.management.request("GET", "/readyz").body == b"ok\n"
    assert running.client.post(review()).json["response"]["allowed"] is False
    metrics = running.management.request("GET", "/metrics").body.decode()
    assert 'driftwall_reviews_total{mode="enforce",operation="UPDATE",verdict="deny",writer="untrusted"} 1.0' in metrics
    assert "driftwall_policies 1.0" in metrics
    assert "driftwall_build_info{" in metrics
    assert running.stop() == 0
    (line,) = running.logged()
    assert (line["uid"], line["allowed"], line["policies"][0]["name"]) == ("0b9e", False, "replicas")
    assert [message["message"].split(" ")[0] for message in running.messages] == [
        "offline,",
        "serving",
        "ready",
        "shutting",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_ends_it_with_0(running: Process, number: int) -> None:
    assert running.stop(number) == 0


def test_a_request_in_flight_is_answered_before_it_ends_and_it_is_unready_meanwhile(running: Process) -> None:
    body = json.dumps(review()).encode()
    with contextlib.closing(running.client.connect()) as connection:
        send_headers(connection, len(body))
        running.process.send_signal(signal.SIGTERM)
        running.message("shutting down; a second signal ends it at once")
        unready = running.management.request("GET", "/readyz")
        assert (unready.status, unready.body) == (503, b"shutdown: finishing the requests in flight\n")
        assert isinstance(connection.sock, socket.socket)
        connection.sock.sendall(body)
        answer = answer_of(connection.getresponse())
    assert (answer.status, answer.json["response"]["allowed"]) == (200, False)
    assert running.ended() == 0
    assert [line["uid"] for line in running.logged()] == ["0b9e"]


def test_a_second_signal_ends_it_at_once(running: Process) -> None:
    with contextlib.closing(running.client.connect()) as connection:
        send_headers(connection, 1000)
        running.process.send_signal(signal.SIGTERM)
        running.message("shutting down; a second signal ends it at once")
        assert running.stop(signal.SIGINT) == 128 + signal.SIGINT


def test_idle_connections_do_not_keep_it_from_ending(running: Process) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(contextlib.closing(running.client.connect()))
            connection.connect()
        assert running.client.post(review()).status == 200
        assert running.stop() == 0


def send_headers(connection: Any, length: int) -> None:
    """Begin a request, and go on once the server has seen that."""
    connection.putrequest("POST", "/validate")
    headers = {"Content-Type": "application/json", "Content-Length": str(length), "Expect": "100-continue"}
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")


# ── the end, while an endpoint is still there ────────────────────────────────────────────────────────────────────────


def test_sigterm_under_load_fails_no_request_until_the_endpoint_is_gone(made: Certificates, tmp_path: Path) -> None:
    with started(made, "--shutdown-delay", "8s") as old, started(made) as new:
        where = [old.client.port]
        with Load(lambda: where[0], made.client) as load:
            load.go_on()
            assert load.closed == 0
            old.process.send_signal(signal.SIGTERM)
            old.message("shutting down; a second signal ends it at once")
            unready = old.management.request("GET", "/readyz")
            assert (unready.status, unready.body) == (503, b"shutdown: finishing the requests in flight\n")
            load.go_on(50)
            # From now on each answer is the last on its connection.
            answered, closed = load.answered, load.closed
            load.go_on(50)
            assert load.closed - closed >= load.answered - answered - 4  # one in flight for each thread
            where[0] = new.client.port
            assert old.ended() == 0
            load.go_on(50)
        assert load.failures == []
        assert new.stop() == 0


def test_a_person_at_a_terminal_does_not_wait_for_endpoints(made: Certificates) -> None:
    with started(made, "--shutdown-delay", "10m") as running:
        assert running.stop(signal.SIGINT) == 0


def test_a_second_signal_ends_the_wait(made: Certificates) -> None:
    with started(made, "--shutdown-delay", "10m") as running:
        running.process.send_signal(signal.SIGTERM)
        running.message("shutting down; a second signal ends it at once")
        assert running.client.post(review()).status == 200
        assert running.stop(signal.SIGTERM) == 128 + signal.SIGTERM


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def children(process: subprocess.Popen[str]) -> list[int]:
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def is_running(pid: int) -> bool:
    """Neither gone nor dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def metric(running: Process, name: str) -> float:
    """The sum of a metric over its labels."""
    text = running.management.request("GET", "/metrics").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))


def test_workers_answer_together_and_are_counted_as_one(made: Certificates) -> None:
    with started(made, "--workers", "3") as running:
        assert len(children(running.process)) == 3
        assert running.management.request("GET", "/readyz").body == b"ok\n"
        with Load(lambda: running.client.port, made.client, kept_alive=0, new=4) as load:
            load.go_on(300)
        assert load.failures == []
        assert metric(running, "driftwall_reviews_total") == load.answered
        assert metric(running, "driftwall_review_duration_seconds_count") == load.answered
        # What all of them have is told once; what each has a part of is added up.
        assert metric(running, "driftwall_policies") == 1
        assert metric(running, "driftwall_build_info") == 1
        assert metric(running, "driftwall_workers_ready") == 3
        resident = metric(running, "process_resident_memory_bytes")
        assert resident > 4 * 30e6
        assert metric(running, "driftwall_certificate_not_after_timestamp_seconds") > time.time()
        cpu = {pid: cpu_ticks(pid) for pid in children(running.process)}
        assert all(cpu.values())
        assert running.stop() == 0
        # No line of one is in the middle of another's.
        assert len(running.logged()) == load.answered
        assert [message["level"] for message in running.messages] == ["warning", "info", "info", "info"]


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_a_worker_that_is_killed_under_load_is_replaced_and_the_others_go_on(made: Certificates) -> None:
    with started(made, "--workers", "2") as running:
        with Load(lambda: running.client.port, made.client, kept_alive=2, new=2) as load:
            load.go_on(100)
            counted = metric(running, "driftwall_reviews_total")
            victim = children(running.process)[0]
            os.kill(victim, signal.SIGKILL)
            load.go_on(20)  # the other one, at least
            assert running.management.request("GET", "/livez").status == 200
            wait_until(lambda: metric(running, "driftwall_worker_restarts_total") == 1)
            wait_until(lambda: running.management.request("GET", "/readyz").status == 200)
            load.go_on(200)
            # Only what was on a connection of its own is lost: one for each thread at most, in the whole run.
            assert len(load.failures) <= 4
            assert metric(running, "driftwall_reviews_total") >= counted + 200
            assert len(children(running.process)) == 2
            assert victim not in children(running.process)
        assert running.stop() == 0
        errors = [message["message"] for message in running.messages if message["level"] == "error"]
        assert [error[len("worker 0 ") :] for error in errors] == [f"(pid {victim}) ended with -9 and is replaced"]


def test_while_a_worker_is_being_replaced_the_replica_is_unready(made: Certificates) -> None:
    with started(made, "--workers", "2") as running:
        stopped, victim = children(running.process)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: running.management.request("GET", "/readyz").status == 503)
        (reason,) = running.management.request("GET", "/readyz").body.decode().splitlines()
        assert re.fullmatch(r"worker [01]: (it ended with -9 and is being replaced|not started yet)", reason)
        wait_until(lambda: running.management.request("GET", "/readyz").status == 200)
        # A scrape does not wait for one that does not answer.
        os.kill(stopped, signal.SIGSTOP)
        assert metric(running, "driftwall_workers_ready") == 2
        os.kill(stopped, signal.SIGCONT)
        assert running.stop() == 0


def test_workers_without_valid_policies_leave_the_replica_unready_until_they_have_some(made: Certificates) -> None:
    policy = made.ca_file.parent / "policy.yaml"
    policy.write_text(POLICY.replace("enforce", "enforced"))
    with started(made, "--workers", "2", until="not ready yet; /readyz says why") as running:
        answer = running.management.request("GET", "/readyz")
        assert answer.status == 503
        assert [line.split(":6:")[0] for line in answer.body.decode().splitlines()] == [
            f"worker 0: policies: {policy}",
            f"worker 1: policies: {policy}",
        ]
        policy.write_text(POLICY)
        running.message("ready")
        assert running.management.request("GET", "/readyz").body == b"ok\n"
        assert running.client.post(review()).json["response"]["allowed"] is False
        # What does not load later is told, too, and takes nobody out of service.
        policy.write_text("nonsense")
        wait_until(lambda: running.management.request("GET", "/readyz").body != b"ok\n")
        answer = running.management.request("GET", "/readyz")
        assert (answer.status, answer.body.splitlines()[0]) == (200, b"ok")
        assert running.stop() == 0


def test_workers_end_with_the_first_process_however_it_ends(made: Certificates) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with started(made, "--workers", "2") as running:
            workers = children(running.process)
            code = running.stop(number)
            assert code == (-number if number == signal.SIGKILL else 0)
            wait_until(lambda workers=workers: not any(map(is_running, workers)))  # type: ignore[misc]


def test_sigterm_under_load_drains_all_workers(made: Certificates) -> None:
    with started(made, "--workers", "2", "--shutdown-delay", "8s") as old, started(made) as new:
        where = [old.client.port]
        with Load(lambda: where[0], made.client) as load:
            load.go_on()
            old.process.send_signal(signal.SIGTERM)
            old.message("shutting down; a second signal ends it at once")
            load.go_on(50)
            assert load.closed > 0
            where[0] = new.client.port
            assert old.ended() == 0
            load.go_on(50)
        assert load.failures == []


def test_a_second_signal_ends_workers_too(made: Certificates) -> None:
    with started(made, "--workers", "2", "--shutdown-delay", "10m") as running:
        workers = children(running.process)
        running.process.send_signal(signal.SIGTERM)
        running.message("shutting down; a second signal ends it at once")
        assert running.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        wait_until(lambda: not any(map(is_running, workers)))


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


# What a client sees of a refused handshake: uvloop closes the connection without an alert.
REFUSED = r"EOF|reset|Remote end closed"


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """The version that the two agree on; raises what the server objects to."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    callee = server.wrap_bio(to_server, to_client, server_side=True)
    caller = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    # A handshake has four flights at most.
    for _ in range(4):
        for side in (caller, callee):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return callee.version()


def test_tls_1_1_is_refused_and_1_2_taken(running: Process, made: Certificates) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = made.client()
        # Without this OpenSSL itself would not speak so old a version.
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        lax.set_ciphers("DEFAULT:@SECLEVEL=0")
        lax.minimum_version = ssl.TLSVersion.TLSv1_1
    lax.load_cert_chain(made.cert_file, made.key_file)
    assert handshake(old, lax) == "TLSv1.1"  # so it is not this client that refuses
    ours = tls.context(certificate.load(settings_for(made)))
    ours.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        handshake(old, ours)
    with pytest.raises(OSError, match=REFUSED):
        Client(port=running.client.port, tls=old).post(review())
    tls_1_2 = made.client()
    tls_1_2.maximum_version = ssl.TLSVersion.TLSv1_2
    assert Client(port=running.client.port, tls=tls_1_2).post(review()).status == 200


def test_http_2_is_not_offered(running: Process, made: Certificates) -> None:
    tls = made.client()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    address = ("127.0.0.1", running.client.port)
    with socket.create_connection(address) as raw, tls.wrap_socket(raw, server_hostname="localhost") as wrapped:
        assert wrapped.selected_alpn_protocol() == "http/1.1"


def test_a_caller_without_tls_gets_nowhere_and_nothing_is_logged(running: Process) -> None:
    with pytest.raises(OSError, match=r"reset|closed|Remote end"):
        Client(port=running.client.port).post(review())
    assert running.client.post(review()).status == 200
    assert running.stop() == 0
    assert [message["level"] for message in running.messages] == ["warning", "info", "info", "info"]


def client_certificate(ca: pki.KeyPair, file: Path) -> Path:
    authority = x509.load_pem_x509_certificate(ca.certificate)
    authority_key = serialization.load_pem_private_key(ca.key, password=None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        authority.subject, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1)
    ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        builder.sign(authority_key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
    )
    return file


def test_with_a_client_ca_only_its_clients_may_call(made: Certificates, tmp_path: Path) -> None:
    clients = pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=1))
    strangers = pki.create_ca(now=datetime.now(UTC), lifetime=timedelta(days=1))
    (tmp_path / "clients.crt").write_bytes(clients.certificate)
    with started(made, "--client-ca", str(tmp_path / "clients.crt")) as running:
        with pytest.raises(OSError, match=REFUSED):
            running.client.post(review())
        stranger = made.client()
        stranger.load_cert_chain(client_certificate(strangers, tmp_path / "stranger.pem"))
        with pytest.raises(OSError, match=REFUSED):
            Client(port=running.client.port, tls=stranger).post(review())
        known = made.client()
        known.load_cert_chain(client_certificate(clients, tmp_path / "client.pem"))
        assert Client(port=running.client.port, tls=known).post(review()).status == 200
        assert running.stop() == 0
        assert [message["level"] for message in running.messages] == ["warning", "info", "info", "info"]


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_address_of_both_families_is_listened_on_with_brackets_and_colons(made: Certificates) -> None:
    with started(made, "--listen", "[::]:0") as running:
        assert running.messages[-1]["listen"] == f"https://[::]:{running.client.port}"
        assert running.client.post(review()).status == 200  # over IPv4
        with socket.create_connection(("::1", running.client.port)):
            pass


def test_the_environment_says_what_no_flag_says(made: Certificates) -> None:
    folder = made.ca_file.parent
    flags = {"POLICIES": folder / "policy.yaml", "TLS_CERT": made.cert_file, "TLS_KEY": made.key_file}
    variables = {f"DRIFTWALL_{name}": str(path) for name, path in flags.items()}
    variables |= {"DRIFTWALL_LISTEN": "192.0.2.1:0", "DRIFTWALL_MANAGEMENT_LISTEN": "127.0.0.1:0"}
    code, lines = failed_start([sys.executable, "-m", "webhook", "serve"], **variables)
    # Everything but this address was right.
    assert code == 69
    assert lines == ["driftwall: --listen: cannot listen on 192.0.2.1:0: Cannot assign requested address"]


# ── starts that cannot succeed ───────────────────────────────────────────────────────────────────────────────────────


def failed_start(arguments: Sequence[str], **variables: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        arguments, env=environment(**variables), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return done.returncode, lines


def test_a_port_that_is_taken_is_69(made: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert failed_start(command(made, "--listen", address)) == (
            69, [f"driftwall: --listen: cannot listen on {address}: Address already in use"],
        )  # fmt: skip


def test_an_address_of_another_machine_is_69(made: Certificates) -> None:
    code, lines = failed_start(command(made, "--management-listen", "192.0.2.1:0"))
    assert (code, lines) == (
        69, ["driftwall: --management-listen: cannot listen on 192.0.2.1:0: Cannot assign requested address"],
    )  # fmt: skip


def test_a_certificate_that_is_missing_is_66(made: Certificates) -> None:
    made.cert_file.unlink()
    assert failed_start(command(made)) == (
        66, [f"driftwall: --tls-cert: {made.cert_file} cannot be read: No such file or directory"],
    )  # fmt: skip


def test_a_key_of_another_certificate_is_78(made: Certificates) -> None:
    made.key_file.write_bytes(made.ca.key)
    assert failed_start(command(made)) == (
        78,
        [f"driftwall: {made.cert_file} with {made.key_file}: the certificate and the key do not belong together"],
    )


def test_a_certificate_that_has_expired_is_78(made: Certificates) -> None:
    then = datetime(2023, 4, 7, tzinfo=UTC)
    ca = pki.create_ca(now=then, lifetime=timedelta(days=9999))
    old = pki.create_serving(ca, ["localhost"], now=then, lifetime=timedelta(days=1))
    made.cert_file.write_bytes(old.certificate)
    made.key_file.write_bytes(old.key)
    assert failed_start(command(made)) == (
        78,
        [f"driftwall: {made.cert_file} with {made.key_file}: the certificate expired at 2023-04-08 00:00:00 UTC"],
    )


def test_a_client_ca_that_is_none_is_78(made: Certificates) -> None:
    assert failed_start(command(made, "--client-ca", str(made.key_file))) == (
        78,
        [f"driftwall: --client-ca: {made.key_file}: the CA file holds no certificate in PEM form, or a damaged one"],
    )


def test_a_kubeconfig_that_is_missing_is_66(made: Certificates) -> None:
    assert failed_start(command(made, "--kubeconfig", "/nonexistent/config")) == (
        66, ["driftwall: --kubeconfig: /nonexistent/config cannot be read: No such file or directory"],
    )  # fmt: skip


def test_settings_that_are_missing_are_64() -> None:
    code, lines = failed_start([sys.executable, "-m", "webhook", "serve"])
    assert code == 64
    assert lines[0] == "driftwall: --policies PATH|cluster (or DRIFTWALL_POLICIES) is required"


# ── what it does without ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_look_up_without_an_api_server_fails_closed_and_says_what_to_do(running: Process) -> None:
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "shop"}}
    answer = running.client.post(
        review(
            kind={"group": "autoscaling", "version": "v1", "kind": "Scale"},
            subResource="scale",
            oldObject={**scale, "spec": {"replicas": 2}},
            object={**scale, "spec": {"replicas": 5}},
        )
    )
    assert answer.status == 500
    assert "driftwall has no way to the API server" in answer.message
    assert answer.message.endswith("start it with --kubeconfig FILE")


def test_a_stdout_that_nobody_reads_holds_up_no_reply(made: Certificates) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(
        command(made), stdout=writing, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        ready = next(line for line in map(json.loads, process.stderr) if line["message"] == "ready")
        client = Client(port=int(ready["listen"].rpartition(":")[2]), tls=made.client())
        # More than a pipe holds (64 KiB).
        for _ in range(300):
            assert client.post(review()).status == 200
        os.close(reading)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_canary_in_a_secret_is_nowhere(made: Certificates) -> None:
    def secret(value: str) -> dict[str, Any]:
        labels = deployment(1)["metadata"]["labels"]
        return {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop", "labels": labels},
            "data": {"password": value},
        }  # fmt: skip

    policy = POLICY.replace("spec.replicas", "data.*")
    (made.ca_file.parent / "policy.yaml").write_text(policy)
    with started(made) as running:
        of_secret = {"kind": {"group": "", "version": "v1", "kind": "Secret"}}
        resource = {"resource": {"group": "", "version": "v1", "resource": "secrets"}, "name": "s"}
        answer = running.client.post(
            review(**of_secret, **resource, oldObject=secret("Y2FuYXJ5MQ=="), object=secret("Y2FuYXJ5Mg=="))
        )
        assert answer.json["response"]["allowed"] is False
        metrics = running.management.request("GET", "/metrics").body
        assert running.stop() == 0
        everywhere = answer.body + metrics + running.decisions.read_bytes() + json.dumps(running.messages).encode()
    for canary in (b"Y2FuYXJ5", b"canary"):
        assert canary not in everywhere
    assert b"data.password" in everywhere
