"""What could take driftwall down, and the cluster with it: each line of "Down with it" in THREATS.md.

Each against a real `driftwall serve` that the real API server calls. What the writer sees is a clear error, or nothing
at all; a write that is to be refused is refused throughout. A test of line N is called test_N_…, and is here but for
lines 6 and 7:

1. bodies over the cap, without a length, slow, never ending, 60 idle connections, handshakes left half-way:
   test_1_whoever_sends_without_end…; handshakes that go on and on: test_1_handshakes_without_end…
2. nesting, tiny maps: test_2_nesting…; an alias bomb, a slow expression: test_2_an_alias_bomb…
3. exceptions: test_3_whatever_goes_wrong…
4. policies, at first start and later: test_4_policies_that_break…
5. certificates, and their rotation under load: test_5_a_bad_certificate…
6. in test_down_with_it_replicas.py, kill -9: test_6_kill_9…; SIGSTOP: test_6_a_replica_that_hangs…; SIGTERM:
   test_6_a_replica_that_is_told_to_end…; everything killed: test_6_the_control_plane_gets_on… in test_webhook_config.py
7. the API server slow, down, restarted, its watches dropped, 410 Gone: test_7_without_an_api_server… in
   test_policies_in_the_cluster.py
8. a full disk: test_8_a_full_disk…; stdout: test_8_without_a_stdout…, test_8_a_stdout_whose_reader_is_gone…
9. the clock: test_9_a_clock…
10. the limit of memory: test_10_at_its_limit…
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.serving import PATIENCE, Client, review
from webhook import pki
from webhook.connections import BODY_SECONDS
from webhook.replies import MAX_BODY

from .address import Guarded, guarded, port_of
from .clock import Clock
from .control_plane import ControlPlane
from .driftwall import COMMAND, POLICIES, Driftwall
from .flood import POST, Flood, connected
from .hands import Outcome
from .kinds import FLUX, gizmos
from .memory_group import MemoryGroup
from .people import MERGE, Person, config_map, of_flux, path_of, refused
from .writes import Writes

NAMESPACE = "down-with-it"
WEB = of_flux(config_map("web", NAMESPACE))
CHANGE = {"data": {"port": "8080"}}
DENIED = 'data.port: "80" -> "8080"'


@pytest.fixture(scope="module")
def place(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(control_plane, NAMESPACE, tmp_path_factory.mktemp("place")) as place:
        yield place


class Writers:
    """Somebody who may not write what Git declares, somebody who may, and somebody who writes something else."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.alice, self.flux, self.sre = (
            Person(plane=plane, user=user, namespace=NAMESPACE) for user in ("alice", "flux", "sre")
        )

    def edit(self) -> Outcome:
        """Alice changes what Git declares; nobody but driftwall minds."""
        return self.alice.send("PATCH", path_of(WEB), CHANGE, content_type=MERGE)

    def are_told_apart(self) -> None:
        """Assert that who may write can, and who may not is refused."""
        self.flux.applies(WEB)
        refused(self.edit(), DENIED)
        outcome = self.alice.apply(config_map("own", NAMESPACE))
        assert outcome.done, outcome
        self.nothing_got_through()

    def wrong(self) -> str | None:
        """What is wrong, if who may not write is not refused as always."""
        try:
            refused(self.edit(), DENIED)
        except AssertionError as error:
            return str(error)
        return None

    def nothing_got_through(self) -> None:
        """Assert that what Git declares is what is stored."""
        assert self.plane.get(path_of(WEB))["data"] == {"port": "80"}


@pytest.fixture
def writers(place: Guarded) -> Writers:
    return Writers(place.plane)


def client_of(place: Guarded, server: Driftwall) -> Client:
    return Client(port=port_of(server), tls=ssl.create_default_context(cafile=str(place.made.ca_file)))


def metric(server: Driftwall, name: str) -> float:
    """A metric, its labels added up."""
    found = re.findall(rf"(?m)^driftwall_{name}(?:{{[^}}]*}})? (\S+)$", server.metrics())
    assert found, name
    return sum(map(float, found))


def readiness(server: Driftwall) -> tuple[int, str]:
    answer = Client(port=int(server.management.rpartition(":")[2])).request("GET", "/readyz")
    return answer.status, answer.body.decode()


def of_level(server: Driftwall, level: str) -> list[str]:
    return [line["message"] for line in server.messages() if line["level"] == level]


# ── 1. bodies over the cap, without a length, slow, never ending; idle connections; handshakes left half-way ─────────


GET = b"GET /nowhere HTTP/1.1\r\nHost: driftwall\r\n\r\n"
# What a slow caller sends first, and then again and again.
SLOW = {
    "headers that never end": (POST, b"a: b\r\n"),
    "a body that comes byte by byte": (POST + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body without a length that never ends": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a body that goes on though it was refused": (
        POST.replace(b"/validate", b"/nowhere") + b"Transfer-Encoding: chunked\r\n\r\n",
        b"1\r\n \r\n",
    ),
    "silence in the middle of the headers": (POST, b""),
    "silence in the middle of a body": (POST + b"Content-Length: 100000\r\n\r\n{", b""),
    "requests ahead of their answers": (GET * 1000, GET * 1000),
}
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def outlasted(connection: socket.socket, drop: bytes, give_up: threading.Event) -> bool:
    """Send drop by drop, read nothing but the end; whether the other side ended it before it was given up."""
    with connection:
        connection.settimeout(0.25)
        while not give_up.is_set():
            try:
                if drop:
                    connection.sendall(drop)
                    give_up.wait(0.25)
                elif not connection.recv(1):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


def test_1_whoever_sends_without_end_or_not_at_all_is_cut_off_and_everybody_else_gets_on(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with place.by(tmp_path / "server") as server, contextlib.ExitStack() as stack:
        client = client_of(place, server)
        idle = [stack.enter_context(contextlib.closing(client.connect())) for _ in range(60)]
        for connection in idle:
            connection.request("GET", "/nowhere")
            connection.getresponse().read()
        ours = [connection.sock.getsockname() for connection in idle]
        attacks: list[tuple[socket.socket, bytes]] = []
        for first, drop in SLOW.values():
            for _ in range(3):
                slow = connected(client)
                slow.sendall(first) if drop is not first else None
                attacks.append((slow, drop))
        for first in (b"", HELLO):
            for _ in range(20):
                half = socket.create_connection(("127.0.0.1", client.port))
                half.sendall(first)
                attacks.append((half, b""))
        give_up = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(len(attacks)) as pool:
            stack.callback(give_up.set)
            futures = [pool.submit(outlasted, connection, drop, give_up) for connection, drop in attacks]
            writers.are_told_apart()
            for body in (b" " * (MAX_BODY + 1), (b" " * 2**20 for _ in range(MAX_BODY // 2**20 + 1))):
                answer = client.post(body)
                assert (answer.status, "more than 32 MiB" in answer.message) == (413, True)
            # As long as the slowest of them may take, and a look each second.
            done, late = concurrent.futures.wait(futures, BODY_SECONDS + PATIENCE)
            give_up.set()
        assert [attacks[futures.index(each)][1] for each in late] == []
        assert all(future.result() for future in done)
        writers.are_told_apart()
        # Nobody who was just idle has paid for that.
        for connection, address in zip(idle, ours, strict=True):
            connection.request("GET", "/nowhere")
            assert connection.getresponse().read()
            assert connection.sock.getsockname() == address
        assert of_level(server, "error") == []


def test_1_handshakes_without_end_take_no_file_from_anybody_else(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with place.by(tmp_path / "server", command=["prlimit", "--nofile=200:200", *COMMAND]) as server:
        writers.are_told_apart()
        there, give_up = ("127.0.0.1", port_of(server)), threading.Event()
        begun: list[socket.socket] = []

        def begin_handshakes() -> None:
            while not give_up.wait(0.01):  # 100 each second
                begun.append(sockets.enter_context(socket.create_connection(there, timeout=PATIENCE)))
                begun[-1].sendall(HELLO)

        with (
            contextlib.ExitStack() as sockets,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
            contextlib.ExitStack() as stack,
        ):
            stack.callback(give_up.set)
            attack = pool.submit(begin_handshakes)
            place.plane.wait_for(lambda: len(begun) > 300, "more of them than there are files")
            assert client_of(place, server).post(review()).status == 200  # on a connection of its own
            writers.are_told_apart()
            (server.policies / "policies.yaml").write_text("no: policy")
            place.plane.wait_for(lambda: readiness(server)[1] != "ok\n", "the policies to be read")
            writers.are_told_apart()
            assert not attack.done()


# ── 2. nesting, tiny maps, alias bombs, slow expressions ─────────────────────────────────────────────────────────────

TOO_DEEP = "nested more deeply than driftwall reads (about 900 levels)"


@pytest.fixture(scope="module")
def depths(control_plane: ControlPlane) -> Iterator[str]:
    """Where objects are whose specification may be anything: the path of the collection."""
    definition = gizmos("depths")
    admin = Person(plane=control_plane, user="admin", namespace=NAMESPACE)
    admin.creates(definition)
    control_plane.wait_for(lambda: control_plane.exists("/apis/e2e.example.com/v1/depths"), "depths to be served")
    yield f"/apis/e2e.example.com/v1/namespaces/{NAMESPACE}/depths"
    control_plane.raw("DELETE", path_of(definition))


def test_2_nesting_and_tiny_maps_are_a_clear_error_or_a_verdict_and_hold_nobody_up(
    place: Guarded, writers: Writers, depths: str, tmp_path: Path
) -> None:
    plane = place.plane

    def send(user: str, method: str, name: str, deep: str, kind: str = "merge-patch+json") -> Outcome:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": FLUX}
        obj = {"apiVersion": "e2e.example.com/v1", "kind": "Depth", "metadata": metadata, "spec": {"deep": "HERE"}}
        manager = "kustomize-controller" if user == "flux" else user
        path = f"{depths}{'' if method == 'POST' else '/' + name}?fieldManager={manager}"
        body = json.dumps(obj).replace('"HERE"', deep).encode()
        status, answer = plane.raw(method, path, body, user=user, headers={"Content-Type": f"application/{kind}"})
        return Outcome(done=status < 400, said=str(answer.get("message", answer)))

    with place.by(tmp_path / "server") as server:
        writers.are_told_apart()
        for name in ("nested", "crowded"):
            outcome = send("flux", "PATCH", name, '"shallow"', "apply-patch+yaml")
            assert outcome.done, outcome
        # 9,000 levels pass, too, but take the API server of v1.20 half a minute; so those are sent without it.
        for levels, said in ((500, "spec.deep"), (1500, TOO_DEEP)):
            outcome = send("alice", "PATCH", "nested", "[" * levels + "]" * levels)
            assert not outcome.done
            assert said in outcome.said
        deepest = json.dumps(review(object="HERE")).replace('"HERE"', '{"a":' * 9000 + "1" + "}" * 9000)
        answer = client_of(place, server).post(deepest.encode())
        assert (answer.status, TOO_DEEP in answer.message) == (413, True)
        # A new one, of more than etcd takes, then an edit.
        with Writes(place.plane, lambda *_: writers.wrong()) as others:
            outcome = send("flux", "POST", "new", f"[{'{},' * 700_000}{{}}]", "json")
            assert "larger than max" in outcome.said or "too large" in outcome.said, outcome
            server.await_log(operation="CREATE", resource="depths.e2e.example.com", name="new", allowed=True)
            outcome = send("flux", "PATCH", "crowded", f"[{'{},' * 50_000}{{}}]", "apply-patch+yaml")
            assert outcome.done, outcome
            refused(send("alice", "PATCH", "crowded", f"[{'[],' * 100_000}[]]"), "spec.deep")
            others.go_on(1)
        assert others.failures == []
        assert plane.get(f"{depths}/nested")["spec"] == {"deep": "shallow"}


def test_2_an_alias_bomb_is_not_taken_and_a_slow_expression_is_none(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    glass = of_flux(config_map("slow-glass", NAMESPACE))
    slow = POLICIES.replace("'^INC-[0-9]+: .+'", "'^(([a-z])+.)+[A-Z]([a-z])+$'")
    assert slow != POLICIES
    with place.by(tmp_path / "server", policies=slow) as server:
        writers.are_told_apart()
        (server.policies / "bomb.yaml").write_text(bomb)
        place.plane.wait_for(lambda: "bomb.yaml" in readiness(server)[1], "the bomb to be found")
        assert readiness(server)[0] == 200
        writers.are_told_apart()
        writers.flux.applies(glass)
        # Tens of thousands of steps back for each character, where expressions backtrack.
        patch = {"metadata": {"annotations": {"driftwall.io/break-glass": "a" * 200_000}}}
        outcome = writers.sre.send("PATCH", path_of(glass), patch, content_type=MERGE)
        refused(outcome, "driftwall.io/break-glass")


# ── 3. exceptions anywhere ───────────────────────────────────────────────────────────────────────────────────────────

# What nothing real can be made to show at will: a mistake of our own, in the middle of a decision.
FAULTY = """
import os, sys
from webhook import cli, reviewing

def endless():
    return endless()

FAULTS = {
    "ValueError": lambda: int("x"),
    "RecursionError": endless,
    "MemoryError": lambda: bytearray(2**60),
    "abort": os.abort,
}
decide = reviewing.decide

def faulty(review, *rest):
    fault = ((review.new or {}).get("data") or {}).get("fault")
    if fault:
        FAULTS[fault]()
    return decide(review, *rest)

reviewing.decide = faulty
sys.exit(cli.main(sys.argv[1:]))
"""


def test_3_whatever_goes_wrong_within_it_the_writer_is_told_and_nothing_is_written(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    own = config_map("own", NAMESPACE)
    with place.by(tmp_path / "server", command=[sys.executable, "-c", FAULTY]) as server:
        writers.are_told_apart()
        for fault in ("ValueError", "RecursionError", "MemoryError"):
            outcome = writers.alice.apply(own | {"data": {"fault": fault}})
            assert not outcome.done
            assert 'failed calling webhook "validate.driftwall.io"' in outcome.said
            assert "driftwall failed while it decided this write; the reason is in its log" in outcome.said
            lines = [line["message"] for line in server.messages() if line.get("error") == fault]
            assert lines[0].startswith("no verdict on UPDATE of configmaps")
            writers.are_told_apart()
        outcome = writers.alice.apply(own | {"data": {"fault": "abort"}})
        assert not outcome.done
        assert "failed calling webhook" in outcome.said
        server.kill()  # it is dead already
        assert not writers.edit().done
        server.run()
        place.address.endpoints = [port_of(server)]
        writers.are_told_apart()
        assert place.plane.get(path_of(own))["data"] == {"port": "80"}


# ── 4. policies ──────────────────────────────────────────────────────────────────────────────────────────────────────


def corrupt(folder: Path) -> None:
    (folder / "policies.yaml").write_bytes(POLICIES.encode()[:300] + os.urandom(300))


def half_written(folder: Path) -> None:
    (folder / "policies.yaml").write_text(POLICIES[: POLICIES.index("maxDuration: 4h") + 8])


def emptied(folder: Path) -> None:
    (folder / "policies.yaml").unlink()


def unreadable(folder: Path) -> None:
    (folder / "policies.yaml").chmod(0)


def removed(folder: Path) -> None:
    emptied(folder)
    folder.rmdir()


BROKEN: Sequence[Callable[[Path], None]] = (corrupt, half_written, emptied, unreadable, removed)
# Root reads whatever its mode is, unless it is without the capability to.
WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def test_4_policies_that_break_leave_the_last_good_ones_in_force_and_nobody_begins_with_them(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with place.by(tmp_path / "server", command=[*WITHOUT_PRIVILEGE, *COMMAND]) as server:

        def mend() -> None:
            server.policies.mkdir(exist_ok=True)
            beside = server.policies / "new"
            beside.write_text(POLICIES)
            beside.replace(server.policies / "policies.yaml")

        writers.are_told_apart()
        for breaks in BROKEN:
            breaks(server.policies)
            place.plane.wait_for(lambda: readiness(server)[1] != "ok\n", f"{breaks.__name__} policies to be noticed")
            assert readiness(server)[0] == 200
            assert metric(server, "policies_last_load_successful") == 0
            writers.are_told_apart()
            mend()
            place.plane.wait_for(lambda: readiness(server) == (200, "ok\n"), "the mended ones to be noticed")
            assert metric(server, "policies_last_load_successful") == 1
        for breaks in BROKEN:
            server.kill()
            breaks(server.policies)
            server.run(until="not ready yet; /readyz says why")
            place.address.endpoints = [port_of(server)]  # as nobody does who asks whether it is ready
            assert readiness(server)[0] == 503
            outcome = writers.edit()
            assert "driftwall has not loaded its policies yet" in outcome.said
            writers.nothing_got_through()
            mend()
            place.plane.wait_for(lambda: readiness(server) == (200, "ok\n"), "it to become ready")
            writers.are_told_apart()


# ── 5. certificates ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_5_a_bad_certificate_is_not_taken_and_a_good_one_fails_no_call(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def pair(begin: datetime = now, days: float = 1) -> pki.KeyPair:
        return pki.create_serving(place.made.ca, ["localhost", "127.0.0.1"], now=begin, lifetime=timedelta(days=days))

    def put(certificate: bytes, private_key: bytes) -> None:
        for file, content in ((key, private_key), (cert, certificate)):
            beside = file.with_suffix(".new")
            beside.write_bytes(content)
            beside.replace(file)

    first = pair()
    put(first.certificate, first.key)
    flags = (f"--tls-cert={cert}", f"--tls-key={key}", "--reload-interval=0.1s")
    bad = {
        "the certificate expired at ": pair(now - timedelta(days=2)),
        "the certificate is not valid before ": pair(now + timedelta(days=2), 0.5),
        "do not belong together": pki.KeyPair(certificate=first.certificate, key=pair().key),
        "the certificate holds no certificate": pki.KeyPair(certificate=first.certificate[:200], key=first.key),
        "the key is no private key": pki.KeyPair(certificate=first.certificate, key=b""),
    }
    with place.by(tmp_path / "server", flags=flags) as server:
        writers.are_told_apart()
        with Writes(place.plane, lambda *_: writers.wrong()) as writes:
            for problem, wrong in bad.items():
                put(wrong.certificate, wrong.key)

                def told(problem: str = problem) -> bool:
                    return problem in of_level(server, "warning")[-1]

                place.plane.wait_for(told, f"{problem!r} to be told")
                assert readiness(server)[0] == 200
                with connected(client_of(place, server)) as new:
                    assert new.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(first.certificate.decode())
                writes.go_on(2)
            for _ in range(20):
                good = pair()
                put(good.certificate, good.key)
                shown = ssl.PEM_cert_to_DER_cert(good.certificate.decode())

                def served(shown: bytes = shown) -> bool:
                    with connected(client_of(place, server)) as new:
                        return new.getpeercert(binary_form=True) == shown

                place.plane.wait_for(served, "the new one to be served")
            writes.go_on()
    assert writes.failures == []


# ── 8. disk full under the decision log; closed stdout ───────────────────────────────────────────────────────────────


def test_8_a_full_disk_costs_lines_of_the_log_and_no_write(place: Guarded, writers: Writers, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # Mounted where nobody else sees it, and gone with the process.
    script = f'mount -t tmpfs -o size=64k tmpfs {disk} && exec "$@" >> {disk}/decisions.jsonl'
    alone = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    with place.by(tmp_path / "server", command=[*alone, "sh", "-c", script, "sh", *COMMAND]) as server:
        log = Path(f"/proc/{server.pid}/root{disk}/decisions.jsonl")
        writers.are_told_apart()
        with Writes(place.plane, lambda *_: writers.wrong(), threads=4) as writes:
            place.plane.wait_for(lambda: metric(server, "log_lines_dropped_total") > 0, "the disk to be full", 60)
            writes.go_on()
        assert writes.failures == []
        assert log.stat().st_size <= 64 * 1024
        os.truncate(log, 0)
        writers.are_told_apart()
        lines = place.plane.wait_for(lambda: log.read_text().splitlines(), "lines on a disk that has room again")
        assert json.loads(lines[-1])["resource"] == "configmaps"
        assert of_level(server, "error") == []


def test_8_without_a_stdout_it_decides_and_writes_its_log_nowhere_else(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with place.by(tmp_path / "server", command=["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND]) as server:
        writers.are_told_apart()
        # Its number would be the next file's or connection's otherwise, and the lines would go there.
        assert Path(f"/proc/{server.pid}/fd/1").readlink() == Path(os.devnull)


def test_8_a_stdout_whose_reader_is_gone_costs_lines_of_the_log_and_no_write(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with place.by(tmp_path / "server", command=["bash", "-c", 'exec "$@" > >(true)', "bash", *COMMAND]) as server:
        writers.are_told_apart()
        place.plane.wait_for(lambda: metric(server, "log_lines_dropped_total") > 0, "lines to be lost")
        writers.are_told_apart()


# ── 9. a clock an hour off ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hours", [-1, 1])
def test_9_a_clock_that_is_an_hour_off_changes_no_verdict(
    place: Guarded, writers: Writers, tmp_path: Path, hours: int
) -> None:
    right = datetime.now(UTC).replace(microsecond=0)
    clock = Clock(tmp_path / "clock")
    glass = of_flux(config_map(f"glass{hours}", NAMESPACE))
    with place.by(tmp_path / "server", clock=clock) as server:
        writers.are_told_apart()
        clock.now = right + timedelta(hours=hours)  # while it runs, as when somebody puts it right, or wrong
        writers.are_told_apart()
        writers.flux.applies(glass)
        outcome = writers.sre.patch(f"configmap/{glass['metadata']['name']}", CHANGE)
        refused(outcome, DENIED)
        annotated = {"metadata": {"annotations": {"driftwall.io/break-glass": "INC-1: down"}}}
        outcome = writers.sre.send("PATCH", path_of(glass), annotated, content_type=MERGE)
        assert outcome.done, outcome
        stamp = place.plane.get(path_of(glass))["metadata"]["annotations"]["driftwall.io/break-glass-expires"]
        assert datetime.fromisoformat(stamp) == clock.now + timedelta(hours=4)
        outcome = writers.alice.send("PATCH", path_of(glass), CHANGE, content_type=MERGE)
        assert outcome.done, outcome
        # By the right clock it is open for no longer than by the wrong one, and never for more than anybody may ask.
        clock.now = right + timedelta(hours=6)
        writers.flux.applies(glass)
        outcome = writers.alice.send("PATCH", path_of(glass), CHANGE, content_type=MERGE)
        refused(outcome, DENIED)
        assert readiness(server) == (200, "ok\n")
        writers.are_told_apart()


# ── 10. memory limit reached ─────────────────────────────────────────────────────────────────────────────────────────

LIMIT = 512 * 2**20  # as in deploy/


def refusals(server: Driftwall) -> float:
    """How many reviews were told to come again."""
    (found,) = re.findall(r'(?m)^driftwall_review_errors_total{reason="memory",status="503"} (\S+)$', server.metrics())
    return float(found)


def test_10_at_its_limit_of_memory_it_says_503_and_the_kernel_kills_nobody(
    place: Guarded, writers: Writers, tmp_path: Path
) -> None:
    with (
        MemoryGroup(LIMIT) as group,
        place.by(tmp_path / "server", command=[*group.command, *COMMAND]) as server,
        contextlib.ExitStack() as stack,
    ):
        client, size = client_of(place, server), 30 * 2**20
        flood = Flood(client, stack)
        writers.are_told_apart()
        # A hundred bodies of 30 MiB at once: those that there is memory for are read.
        large = [upload for upload in (flood.upload(size) for _ in range(100)) if upload]
        assert 1 < len(large) < 10
        writers.are_told_apart()  # there is room for ordinary ones
        # And now there is none for anybody. The API server comes again by itself, so the writer does not notice.
        with contextlib.ExitStack() as ordinary, concurrent.futures.ThreadPoolExecutor(1) as pool:
            more = Flood(client, ordinary)

            def others_are_refused() -> bool:
                more.rises()
                return refusals(server) > flood.refused + more.refused

            more.rises()
            edit = pool.submit(writers.edit)
            place.plane.wait_for(others_are_refused, "the API server to be told to come again")
            ordinary.close()
            refused(edit.result(), DENIED)
        body = json.dumps(review()).encode().ljust(size)
        for upload in large:
            upload.sendall(body[:-1])
        for upload in large:
            upload.sendall(body[-1:])
            response = http.client.HTTPResponse(upload)
            response.begin()
            assert json.loads(response.read())["response"]["allowed"] is True
        # What takes many times its size.
        maps = json.dumps(review(object={**review()["request"]["object"], "data": "HERE"}))
        bodies = [maps.replace('"HERE"', f"[{'{},' * count}{{}}]").encode() for count in (2**18, 2**20, 2**22)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            statuses = {answer.status for answer in pool.map(client.post, bodies * 4)}
        assert 413 in statuses
        assert statuses <= {200, 413, 503}
        writers.are_told_apart()
        assert (group.killed(), of_level(server, "error")) == (0, [])
        assert group.peak() < LIMIT
