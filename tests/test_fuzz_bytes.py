"""Nothing that comes from outside makes driftwall fail: reviews, policies, certificates, settings, a look-up's answer.

What is sent is what a real API server recorded, and what the project ships, with values exchanged in it and bytes
damaged. `make fuzz` does the same for half an hour, at random.
"""

import asyncio
import base64
import copy
import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.patches import applied
from tests.reviews import FLUX, RECORDINGS, person, snapshot_of
from webhook import pki, tls
from webhook.admission import ObjectRef, parse
from webhook.audit import MAX_TEXT, DecisionLog
from webhook.budget import Budget
from webhook.decision import LookupNeeded, decide
from webhook.documents import load_documents
from webhook.errors import DriftwallError, MalformedReview
from webhook.lines import LineWriter
from webhook.metrics import Metrics
from webhook.mutation import mutate
from webhook.policy import Snapshot
from webhook.policy_compiler import compile_documents
from webhook.replies import Message
from webhook.server import ReviewServer
from webhook.settings import OPTIONS
from webhook.settings import read as read_settings
from webhook.tls import Material

NOW = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
POLICIES = (RECORDINGS / "reference-policies.yaml").read_text()
REVIEWS = [json.loads(file.read_text()) for file in sorted(RECORDINGS.glob("*/*.json"))]

# ── what is exchanged ────────────────────────────────────────────────────────────────────────────────────────────────

# Words that mean something to somebody, in places where they are not expected.
# fmt: off
words = st.sampled_from([
    "", ".", "*", "\x00", "\n", "\u202e", "\ud7ff", "\U0001f600", "x" * 3000, "[", "a[b=c]", "k:{", "f:spec", "true",
    "null", "80", "1e999", "driftwall.io/break-glass", "driftwall.io/drift", "4h", "-1s", "INC-1: x", "(?P<", "^(a+)+$",
    "2026-11-22T08:00:00Z", "system:apiserver", "kube-system", "flux-system/*", "\\",
])
keys = st.sampled_from([
    "metadata", "name", "namespace", "labels", "annotations", "managedFields", "fieldsV1", "ownerReferences", "kind",
    "spec", "data", "items", "status", "uid", "f:spec", 'k:{"name":"web"}', 'v:"x"', ".", "", "x" * 3000, "match",
    "protect", "fields", "fieldSets", "mode", "resources", "matchExpressions", "operator", "values",
])
# fmt: on
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 2**31, 2**63, -(2**70), 10**400, 1.5, -0.0, 1e308])
    | words
    | st.text(max_size=8)
)
things = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | words, inner, max_size=3), max_leaves=6
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is anything in ``value``."""
    steps: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        yield (*place, step)
        yield from places(below, (*place, step))


@st.composite
def changed(draw: st.DrawFn, originals: list[Any]) -> Any:
    """One of them with some of its values exchanged, moved, doubled or taken away."""
    value = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 5))):
        found = list(places(value))
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        parent = value
        for step in path:
            parent = parent[step]
        match draw(st.sampled_from(["exchange", "remove", "add", "move"])):
            case "exchange":
                parent[last] = draw(things)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(keys | words)] = draw(things)
            case "add":
                parent.insert(last, draw(things))
            case _:
                other = value
                for step in draw(st.sampled_from(found)):
                    other = other[step] if _has(other, step) else other
                parent[last] = copy.deepcopy(other)
    return value


def _has(value: Any, step: Any) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """The same bytes with some of them exchanged, taken away or doubled, or cut off."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(["exchange", "remove", "double", "cut"])):
            case "exchange":
                data[at : at + length] = draw(st.binary(max_size=8))
            case "remove":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + 100 * length]
            case _:
                del data[at:]
    return bytes(data)


# ── reviews ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lines(LineWriter):
    """Keeps what would be written."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


class Outside:
    """A server without a socket, and whatever it needs of a cluster: look-ups are answered with ``found``."""

    snapshot: Snapshot | None = snapshot_of(POLICIES)

    def __init__(self) -> None:
        self.found: Any = None
        self.log = Lines()
        self.server = ReviewServer(
            policies=self,
            decide=decide,
            mutate=mutate,
            objects=self,
            metrics=Metrics("fuzz"),
            log=DecisionLog(self.log),
            traces=self,
            budget=Budget(2**30),
            clock=lambda: NOW,
        )

    async def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        return self.found if isinstance(self.found, dict) else None

    def cached(self, ref: ObjectRef) -> dict[str, Any] | None:
        return None

    def leave(self, *_: Any) -> None:
        pass

    async def post(self, path: str, body: bytes) -> tuple[int, Any]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.server({"path": path, "method": "POST", "headers": headers}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])


OUTSIDE = Outside()
LOOP = asyncio.Runner()


def assert_answered(path: str, body: bytes, found: Any = None) -> None:
    """The answer is a verdict or says what was wrong with the call, and what is logged is one line of JSON."""
    OUTSIDE.found = found
    OUTSIDE.log.lines.clear()
    status, answer = LOOP.run(OUTSIDE.post(path, body))
    if status != 200:
        assert "driftwall failed" not in answer["message"], answer
        assert status in (400, 413, 500), answer  # 500: what a look-up gave is of no use
        return
    response = answer["response"]
    assert isinstance(response["allowed"], bool)
    assert len(response.get("status", {}).get("message", "")) <= 1024
    if "patch" in response:
        applied(json.loads(base64.b64decode(response["patch"])), json.loads(body)["request"]["object"])
    for line in OUTSIDE.log.lines:
        assert b"\n" not in line
        assert all(len(text) <= MAX_TEXT for text in texts(json.loads(line)))


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(below)


ENDPOINTS = st.sampled_from(["/validate", "/mutate"])
PEOPLE = [person("alice", "developers"), person("sre", "sre", "break-glass-operators"), FLUX]


@st.composite
def by_people(draw: st.DrawFn) -> Any:
    """A review of somebody whose writes are looked at closely, of an object that may be anything."""
    one = copy.deepcopy(draw(st.sampled_from(REVIEWS)))
    request = one["request"]
    request["userInfo"] = draw(st.sampled_from(PEOPLE))
    for key in ("object", "oldObject"):
        if request.get(key) is not None and draw(st.booleans()):
            request[key] = draw(changed([request[key]]))
    return one


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    ENDPOINTS,
    changed(REVIEWS) | by_people(),
    st.none() | st.sampled_from(REVIEWS).map(lambda one: one["request"]["object"]),
)
def test_a_review_with_values_exchanged_gets_a_verdict_or_a_reason(path: str, one: Any, found: Any) -> None:
    assert_answered(path, json.dumps(one).encode(errors="replace"), found)


@given(ENDPOINTS, st.sampled_from(REVIEWS).flatmap(lambda one: damaged(json.dumps(one).encode())))
def test_a_review_with_bytes_damaged_gets_a_verdict_or_a_reason(path: str, body: bytes) -> None:
    assert_answered(path, body)


@given(ENDPOINTS, st.sampled_from(REVIEWS), changed([one["request"]["object"] for one in REVIEWS]))
def test_whatever_a_look_up_finds_is_no_failure(path: str, one: Any, found: Any) -> None:
    assert_answered(path, json.dumps(one).encode(), found)


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DOCUMENTS = [document.value for document in load_documents(POLICIES.encode(), "policies.yaml")[0]]


def assert_compiled(text: bytes) -> None:
    """It compiles or says why not; if it does, it can be gone by."""
    documents, problems = load_documents(text, "policies.yaml")
    snapshot, more = compile_documents(documents)
    assert all(str(problem).isprintable() for problem in (*problems, *more))
    if problems or more:
        return
    for one in REVIEWS[::7]:
        try:
            decide(parse(json.dumps(one).encode()), snapshot, {}, NOW)
        except (LookupNeeded, MalformedReview):
            continue


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(changed([DOCUMENTS]))
def test_policies_with_values_exchanged_compile_or_say_why_not(documents: Any) -> None:
    assert_compiled("\n---\n".join(json.dumps(document) for document in documents).encode(errors="replace"))


@given(damaged(POLICIES.encode()))
def test_policies_with_bytes_damaged_compile_or_say_why_not(text: bytes) -> None:
    assert_compiled(text)


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────

BEGIN, END = "-----BEGIN {}-----\n", "\n-----END {}-----\n"


@cache
def pair() -> pki.KeyPair:
    return pki.create_serving(authority(), ["localhost"], now=NOW, lifetime=timedelta(days=1))


@cache
def authority() -> pki.KeyPair:
    return pki.create_ca(now=NOW, lifetime=timedelta(days=10))


def inside(pem: bytes, kind: str) -> st.SearchStrategy[bytes]:
    """The PEM with what it wraps damaged."""
    return damaged(ssl.PEM_cert_to_DER_cert(pem.decode()) if kind == "CERTIFICATE" else der(pem)).map(
        lambda data: (BEGIN.format(kind) + base64.encodebytes(data).decode().strip() + END.format(kind)).encode()
    )


def der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def assert_checked(*checks: Callable[[], object]) -> None:
    for check in checks:
        assert "PRIVATE KEY" not in problem_of(check)


def problem_of(check: Callable[[], object]) -> str:
    """What it says is wrong, if it does; any other exception is a failure."""
    try:
        check()
    except DriftwallError as error:
        return str(error)
    return ""


@given(st.deferred(lambda: damaged(pair().certificate) | inside(pair().certificate, "CERTIFICATE")))
@pytest.mark.filterwarnings("ignore")  # cryptography warns of what it will not take some day
def test_a_damaged_certificate_is_refused_or_good(certificate: bytes) -> None:
    material = Material(certificate=certificate, key=pair().key, client_ca=certificate)
    assert_checked(
        lambda: pki.check(certificate, pair().key, now=NOW),
        lambda: pki.check_ca(certificate),
        lambda: pki.names(certificate),
        lambda: pki.fingerprint(certificate),
        lambda: pki.issued_by(certificate, authority().certificate),
        lambda: pki.issued_by(pair().certificate, certificate),
        lambda: pki.bundle([certificate, authority().certificate], now=NOW),
        lambda: pki.check_authority(pki.KeyPair(certificate=certificate, key=authority().key), now=NOW),
        lambda: tls.context(material),
    )


@given(st.deferred(lambda: damaged(pair().key) | inside(pair().key, "PRIVATE KEY")))
def test_a_damaged_key_is_refused_or_good(key: bytes) -> None:
    assert_checked(
        lambda: pki.check(pair().certificate, key, now=NOW),
        lambda: pki.check_authority(pki.KeyPair(certificate=authority().certificate, key=key), now=NOW),
        lambda: tls.context(Material(certificate=pair().certificate, key=key)),
    )


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.dictionaries(st.sampled_from([option.variable for option in OPTIONS]), words | st.text(max_size=20)))
def test_settings_are_good_or_say_what_is_wrong(environ: dict[str, str]) -> None:
    assert all(problem_of(lambda: read_settings({}, environ)).splitlines())
