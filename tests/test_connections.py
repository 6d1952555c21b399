"""The deadlines of a connection, made short: with their real length they are in tests/e2e/test_down_with_it.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.following import wait_for
from tests.serving import PATIENCE, Certificates, Client, certificates, serving
from webhook import connections, handshakes, servers
from webhook.connections import MAX_AHEAD, MAX_HEADERS, MAX_UNREAD, Connection
from webhook.server import Receive, Scope, Send

GET = b"GET / HTTP/1.1\r\nHost: driftwall\r\n\r\n"
# So that whatever is to be late is late at the next look, within a second or so.
SHORT = 0.2


class Application:
    """Answers once it has read the whole body, or ``at_once``, with as many bytes as are asked for."""

    def __init__(self) -> None:
        self.at_once = False
        self.length = 2
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.at_once:
            message = await receive()
            if message["type"] != "http.request":
                self.left += 1
                return
            if not message["more_body"]:
                break
        headers = [(b"content-length", b"%d" % self.length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * self.length})


class Prompted(Application):
    """Takes every POST on the short way, and answers with the way that it came by and its body.

    By its path: ``/short`` is answered, ``/never`` is not, and of ``/long`` there is no answer on the short way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.completed = 0
        self.ended = 0

    def begin(self, target: bytes, _: list[tuple[bytes, bytes]]) -> PromptedCall:
        self.begun += 1
        return PromptedCall(self, target)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"long " + scope["path"].encode() + b" ", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class PromptedCall:
    def __init__(self, application: Prompted, target: bytes) -> None:
        self._application = application
        self._target = target

    def complete(self, body: bytes, answered: Callable[[bytes | None], None]) -> None:
        self._application.completed += 1
        said = b"short " + self._target + b" " + body
        response = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said)
        if self._target != b"/never":
            # If it was ended meanwhile, that would be noticed: it is not to be answered then.
            soon = asyncio.get_running_loop().call_soon
            soon(lambda: None if self._application.ended else answered(response if self._target == b"/short" else None))

    def end(self) -> None:
        self._application.ended += 1


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def prompted() -> Prompted:
    return Prompted()


@pytest.fixture
def prompt_client(prompted: Prompted, made: Certificates) -> Iterator[Client]:
    with serving(prompted, made) as client:
        yield client


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return certificates(tmp_path)


@pytest.fixture
def client(application: Application, made: Certificates) -> Iterator[Client]:
    with serving(application, made) as client:
        yield client


@contextlib.contextmanager
def connected(client: Client) -> Iterator[ssl.SSLSocket]:
    assert client.tls is not None
    raw = socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE)
    with client.tls.wrap_socket(raw, server_hostname="localhost") as connection:
        yield connection


def answers(connection: socket.socket) -> bool:
    """Whether a request on it is answered."""
    connection.sendall(GET)
    return is_answered(connection)


def is_answered(connection: socket.socket) -> bool:
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status == 200


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: driftwall", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def said(connection: socket.socket) -> bytes:
    """The body of the next answer, which is all that comes for now."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.read()


def is_cut_off(connection: socket.socket, data: bytes) -> bool:
    """Send this again and again, read nothing, and say whether the other side puts an end to it."""
    for _ in range(1_000_000):
        try:
            connection.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            return True
    return False


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side closes it, properly or not; False if it says something instead."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        raise
    except OSError:
        return True


def in_memory() -> set[int]:
    """The connections that there are, whatever has become of them."""
    gc.collect()
    return {id(item) for item in gc.get_objects() if isinstance(item, Connection)}


def test_headers_that_take_too_long_end_the_connection(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_SECONDS", SHORT)
    with connected(client) as slow:
        slow.sendall(GET[:-2])
        assert is_closed(slow)


def test_a_body_that_takes_too_long_ends_the_connection_and_the_application_is_told(
    client: Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", SHORT)
    with connected(client) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: driftwall\r\nContent-Length: 100\r\n\r\nbegun")
        assert is_closed(slow)
    wait_for(lambda: application.left == 1, "the application to be told")


def test_a_body_that_goes_on_after_its_answer_ends_the_connection(
    client: Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", SHORT)
    application.at_once = True
    with connected(client) as endless:
        endless.sendall(b"POST / HTTP/1.1\r\nHost: driftwall\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n")
        assert is_answered(endless)
        assert is_cut_off(endless, b"2\r\nxx\r\n")


def test_a_body_that_ends_after_its_answer_leaves_the_connection_for_the_next_request(
    client: Client, application: Application
) -> None:
    application.at_once = True
    with connected(client) as early:
        early.sendall(b"POST / HTTP/1.1\r\nHost: driftwall\r\nContent-Length: 2\r\n\r\nx")
        assert is_answered(early)
        early.sendall(b"x")
        assert answers(early)


@pytest.mark.parametrize("where", ["in the headers", "after the last chunk"])
def test_headers_without_end_are_not_kept(client: Client, where: str) -> None:
    with connected(client) as endless:
        if where == "in the headers":
            endless.sendall(GET[:-2])
        else:
            endless.sendall(b"POST / HTTP/1.1\r\nHost: driftwall\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        assert is_cut_off(endless, b"x" * MAX_HEADERS)


def test_a_connection_that_is_silent_from_the_start_is_idle_and_closed_as_such(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", SHORT)
    with connected(client) as silent:
        assert is_closed(silent)


def test_whoever_never_reads_its_answers_is_cut_off(
    client: Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", SHORT)
    application.length = 200 * MAX_UNREAD
    before = in_memory()
    with connected(client) as deaf:
        deaf.sendall(GET * MAX_AHEAD)  # the first ones fill what there is between here and there
        assert deaf.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: in_memory() <= before, "the connection to be forgotten, and its answer with it")


def test_few_requests_are_answered_in_order_and_many_before_their_answers_are_a_mistake(client: Client) -> None:
    with connected(client) as patient, connected(client) as hasty:
        patient.sendall(GET * 5)
        with patient.makefile("rb") as answers:
            for _ in range(5):
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                while answers.readline() != b"\r\n":
                    pass
                assert answers.read(2) == b"xx"
        hasty.sendall(GET * 1000)
        with hasty.makefile("rb") as answers:
            assert b"HTTP/1.1 400 Bad Request\r\n" in answers.read()


def test_a_connection_that_was_reset_is_not_kept_in_memory(client: Client) -> None:
    before = in_memory()
    with connected(client) as connection:
        assert answers(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connected(client) as another:
        assert answers(another)  # so the first one's end was noticed
        assert len(in_memory() - before) == 1


def test_one_connection_too_many_ends_the_one_that_is_idle_the_longest(
    application: Application, made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MAX_CONNECTIONS", 3)
    with serving(application, made) as client, contextlib.ExitStack() as stack:
        busy, oldest, used = (stack.enter_context(connected(client)) for _ in range(3))
        busy.sendall(b"POST / HTTP/1.1\r\nHost: driftwall\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert busy.recv(1000).startswith(b"HTTP/1.1 100 ")  # so it is known to be busy
        assert answers(oldest)
        assert answers(used)
        with connected(client) as newest:
            assert is_closed(oldest)
            assert answers(newest)
            assert answers(used)
        busy.sendall(b"xx")
        assert is_answered(busy)


def test_one_handshake_too_many_ends_the_one_that_has_taken_the_longest(
    application: Application, made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MAX_HANDSHAKES", 2)
    with serving(application, made) as client, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", client.port)
        oldest, second, newest = (
            stack.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(3)
        )
        assert is_closed(oldest)
        with connected(client) as connection:
            assert answers(connection)
        assert is_closed(second)
        assert client.tls is not None
        with client.tls.wrap_socket(newest, server_hostname="localhost") as connection:
            assert answers(connection)


def test_a_handshake_that_takes_too_long_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "HANDSHAKE_SECONDS", SHORT)
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as silent:
        assert is_closed(silent)


def test_whoever_does_not_answer_the_end_of_a_connection_does_not_hold_up_the_end_of_the_server(
    application: Application, made: Certificates
) -> None:
    with contextlib.ExitStack() as stack:
        with serving(application, made) as client:
            deaf = stack.enter_context(connected(client))
            assert answers(deaf)
        assert is_closed(deaf)


# ── the short way ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_goes_the_short_way_however_its_body_comes_and_so_does_the_next(
    prompt_client: Client, prompted: Prompted
) -> None:
    with connected(prompt_client) as connection:
        for part in (post("/short", b"one two three")[:-10], b" two", b" three"):
            connection.sendall(part)
            wait_for(lambda: prompted.begun == 1, "the request to begin")
        assert said(connection) == b"short /short one two three"
        connection.sendall(post("/short", b"four"))
        assert said(connection) == b"short /short four"
    assert (prompted.begun, prompted.completed, prompted.ended) == (2, 2, 0)


def test_a_request_without_an_answer_on_the_short_way_goes_the_long_one_with_all_of_its_body(
    prompt_client: Client, prompted: Prompted
) -> None:
    with connected(prompt_client) as connection:
        connection.sendall(post("/long", b"one two")[:-4])
        wait_for(lambda: prompted.begun == 1, "the request to begin")
        connection.sendall(b" two")
        assert said(connection) == b"long /long one two"
        assert prompted.ended == 1
        prompted.ended = 0
        connection.sendall(post("/short", b"three"))
        assert said(connection) == b"short /short three"


@pytest.mark.parametrize(
    ("request_", "ends"),
    [
        (post("/short", b"x", "Connection: close"), True),
        (post("/short", b"x").replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (post("/short", b"x").replace(b"POST", b"PUT"), False),
        # What follows would be in the other protocol.
        (post("/short", b"", "Connection: upgrade", "Upgrade: h2c"), False),
    ],
    ids=["Connection: close", "HTTP/1.0", "PUT", "Upgrade"],
)
def test_what_is_no_plain_post_goes_the_long_way(
    prompt_client: Client, prompted: Prompted, request_: bytes, ends: bool
) -> None:
    with connected(prompt_client) as connection:
        connection.sendall(request_)
        assert said(connection) == b"long /short " + request_.partition(b"\r\n\r\n")[2]
        if ends:
            assert is_closed(connection)
    assert prompted.begun == 0


def test_who_waits_to_be_told_to_go_on_is_told(prompt_client: Client, prompted: Prompted) -> None:
    with connected(prompt_client) as connection:
        connection.sendall(post("/short", b"x", "Expect: 100-continue")[:-1])
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"x")
        assert said(connection) == b"long /short x"
    assert prompted.begun == 0


def test_requests_before_their_answers_are_answered_in_order(prompt_client: Client, prompted: Prompted) -> None:
    with connected(prompt_client) as connection:
        connection.sendall(b"".join(post("/short", b"%d" % number) for number in range(5)))
        with connection.makefile("rb") as answers:
            for number in range(5):
                while (line := answers.readline()) != b"\r\n":
                    assert b"short" not in line
                assert answers.read(len("long /short 0")) == b"long /short %d" % number
        # Each that another one came after; the last came after one on the long way.
        assert (prompted.completed, prompted.ended) == (1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_each_request_gets_its_own_answer_whatever_way_it_goes_and_in_whatever_pieces_it_comes(
    prompt_client: Client, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - for a test that is the same each time
    asked = [(chance.choice(["/short", "/long"]), chance.randbytes(chance.choice([0, 1, 5000]))) for _ in range(6)]
    sent = b"".join(post(path, body) for path, body in asked)
    places = sorted(chance.sample(range(len(sent)), chance.randint(0, 30)))
    with connected(prompt_client) as connection:
        for start, end in pairwise([0, *places, len(sent)]):
            connection.sendall(sent[start:end])
        with connection.makefile("rb") as answers:
            for path, body in asked:
                length = 0
                while (line := answers.readline().lower()) != b"\r\n":
                    length = int(line.partition(b":")[2]) if line.startswith(b"content-length") else length
                way, _, rest = answers.read(length).partition(b" ")
                assert (way in (b"short", b"long"), rest) == (True, path.encode() + b" " + body)


@pytest.mark.parametrize("path", ["/short", "/never"], ids=["before its body is there", "before its answer"])
def test_a_caller_who_leaves_ends_its_request(prompt_client: Client, prompted: Prompted, path: str) -> None:
    with connected(prompt_client) as connection:
        connection.sendall(post(path, b"one")[: -1 if path == "/short" else None])
        wait_for(lambda: (prompted.begun if path == "/short" else prompted.completed) == 1, "the request to be there")
    wait_for(lambda: prompted.ended == 1, "the request to be ended")


def test_a_body_that_takes_too_long_ends_the_request_and_the_connection(
    prompt_client: Client, prompted: Prompted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", SHORT)
    with connected(prompt_client) as slow:
        slow.sendall(post("/short", b"one")[:-1])
        assert is_closed(slow)
    wait_for(lambda: prompted.ended == 1, "the request to be ended")


@pytest.mark.parametrize("path", ["/short", "/never"], ids=["before its body is there", "before its answer"])
def test_a_request_at_the_end_of_the_server_is_answered_before_it(
    prompted: Prompted, made: Certificates, path: str
) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(serving(prompted, made))
        with connected(client) as connection:
            connection.sendall(post(path, b"one")[: -1 if path == "/short" else None])
            wait_for(lambda: (prompted.begun if path == "/short" else prompted.completed) == 1, "the request")
            ending = threading.Thread(target=stack.close)
            ending.start()
            wait_for(lambda: prompted.ended == 1, "the end to begin")
            if path == "/short":
                connection.sendall(b"e")
            assert said(connection) == b"long %b one" % path.encode()
            assert is_closed(connection)
            ending.join(PATIENCE)


def test_a_server_that_retires_closes_each_connection_with_its_next_answer(
    prompted: Prompted, made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers_made: list[servers.Server] = []
    started = servers.Server.startup

    async def startup(self: servers.Server, sockets: list[socket.socket] | None = None) -> None:
        servers_made.append(self)
        await started(self, sockets)

    monkeypatch.setattr(servers.Server, "startup", startup)
    with serving(prompted, made) as client, connected(client) as connection:
        connection.sendall(post("/short", b"one")[:-1])
        wait_for(lambda: prompted.begun == 1, "the request to begin")
        servers_made[0].retire()
        connection.sendall(b"e")
        assert said(connection) == b"long /short one"
        assert is_closed(connection)
