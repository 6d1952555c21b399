from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.following import wait_for
from tests.patches import applied
from tests.reviews import snapshot_of
from tests.serving import PATIENCE, POLICY, Answer, Client, answer_of, certificates, deployment, review, serving
from webhook.admission import ObjectRef, Review
from webhook.audit import DecisionLog
from webhook.budget import Budget
from webhook.decision import Decision, LookupNeeded, decide
from webhook.errors import LookupFailed
from webhook.lines import LineWriter, Stream
from webhook.lookups import Decide, Mutate
from webhook.metrics import Metrics
from webhook.mutation import Mutation, mutate
from webhook.policy import Snapshot
from webhook.policy_compiler import load
from webhook.replies import MAX_BODY
from webhook.server import MAX_TOGETHER, Receive, ReviewServer, Scope, Send, ShortCall

PARENT = ObjectRef("apps", "v1", "deployments", "shop", "web")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
JSON = {"Content-Type": "application/json"}
INTERNAL = "driftwall failed while it decided this write; the reason is in its log"


class Policies:
    """The policies in force, as a test sets them."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot


class Objects:
    """Objects to look up, those that are kept of them, and which were asked for and how."""

    def __init__(self) -> None:
        self.asked: list[ObjectRef] = []
        self.kept: dict[ObjectRef, dict[str, Any]] = {}
        self.answer: Callable[[ObjectRef], dict[str, Any] | None] = lambda ref: {"kind": "Deployment"}

    async def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        self.asked.append(ref)
        return self.answer(ref)

    def cached(self, ref: ObjectRef) -> dict[str, Any] | None:
        return self.kept.get(ref)


class Traces:
    """What was to be left in the cluster."""

    def __init__(self) -> None:
        self.left: list[tuple[str, bool, datetime]] = []

    def leave(self, a_review: Review, decision: Decision, now: datetime) -> None:
        self.left.append((a_review.uid, decision.allowed, now))


class Harness:
    """A server over HTTPS whose parts a test can exchange, and what it counted and logged."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.yaml").write_text(POLICY)
        self.log_file = folder / "decisions.jsonl"
        self.policies = Policies(load(folder / "policy.yaml"))
        self.objects = Objects()
        self.metrics = Metrics("test")
        self.decide: Decide = decide
        self.mutate: Mutate = mutate
        self.traces = Traces()
        self.budget = Budget(1024 * 2**20)
        self._log = self.log_file.open("wb")
        self.lines = LineWriter(Stream(self._log.fileno()))
        self.server = ReviewServer(
            policies=self.policies,
            decide=self._decide,
            mutate=self._mutate,
            objects=self.objects,
            metrics=self.metrics,
            log=DecisionLog(self.lines),
            traces=self.traces,
            budget=self.budget,
            clock=lambda: NOW,
        )
        self.client: Client

    def _decide(
        self, a_review: Review, snapshot: Snapshot, objects: Mapping[ObjectRef, dict[str, Any] | None], now: datetime
    ) -> Decision:
        return self.decide(a_review, snapshot, objects, now)

    def _mutate(
        self, a_review: Review, snapshot: Snapshot, objects: Mapping[ObjectRef, dict[str, Any] | None], now: datetime
    ) -> Mutation:
        return self.mutate(a_review, snapshot, objects, now)

    def post_to_mutate(self, body: dict[str, Any]) -> Answer:
        return self.client.request("POST", "/mutate?timeout=3s", json.dumps(body).encode(), JSON)

    def put(self, policies: str) -> None:
        """Policies in force from now on."""
        self.policies.snapshot = snapshot_of(policies)

    def settle(self) -> None:
        """Wait until each answer that is out was counted, logged and left to the traces."""
        wait_for(lambda: self.budget.taken == 0, "what was answered to be told")

    def count(self, name: str, **labels: str) -> float | None:
        self.settle()
        return self.metrics.registry.get_sample_value(name, labels)

    def logged(self) -> list[dict[str, Any]]:
        self.settle()
        self.close()
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def close(self) -> None:
        self.lines.close()
        self._log.close()


class Door:
    """Lets the tests of this module share one listening server, each with an application of its own behind it."""

    application: ReviewServer
    client: Client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.application(scope, receive, send)


class PromptDoor(Door):
    """The same, with the short way open."""

    def begin(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> ShortCall | None:
        return self.application.begin(target, headers)


@pytest.fixture(scope="module", params=[Door, PromptDoor], ids=["the long way", "the short way"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door: Door = request.param()
    with serving(door, certificates(tmp_path_factory.mktemp("certificates"))) as door.client:
        yield door


@pytest.fixture
def harness(door: Door, tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    door.application, harness.client = harness.server, door.client
    yield harness
    harness.close()


def still_decides(harness: Harness) -> None:
    """A good review gets its verdict."""
    harness.decide = decide
    answer = harness.client.post(review())
    assert answer.status == 200
    assert answer.json["response"]["allowed"] is False


def raising(error: BaseException) -> Decide:
    def decide_so(*_: object) -> Decision:
        raise error

    return decide_so


def test_a_drift_is_denied_over_https(harness: Harness) -> None:
    answer = harness.client.post(review())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json
    assert (body["apiVersion"], body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = body["response"]
    assert (response["uid"], response["allowed"]) == ("0b9e", False)
    assert (response["status"]["code"], response["status"]["reason"]) == (403, "Forbidden")
    assert "spec.replicas" in response["status"]["message"]


def test_a_write_without_drift_is_allowed(harness: Harness) -> None:
    same = review()["request"]["oldObject"]
    assert harness.client.post(review(object=same)).json["response"]["allowed"] is True


def test_the_response_says_nothing_of_the_server(harness: Harness) -> None:
    assert set(harness.client.post(review()).headers) == {"content-type", "content-length"}


def test_many_reviews_go_over_one_connection(harness: Harness) -> None:
    with contextlib.closing(harness.client.connect()) as connection:
        for _ in range(3):
            connection.request("POST", "/validate", json.dumps(review()), JSON)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["response"]["uid"]) == (200, "0b9e")


def test_each_decision_is_counted_and_logged_once(harness: Harness) -> None:
    harness.client.post(review())
    harness.client.post(b"{}")
    assert harness.count("driftwall_review_errors_total", status="400", reason="request") == 1
    labels = {"operation": "UPDATE", "verdict": "deny", "mode": "enforce", "writer": "untrusted"}
    assert harness.count("driftwall_reviews_total", **labels) == 1
    assert harness.count("driftwall_review_duration_seconds_count", webhook="validate") == 1
    (line,) = harness.logged()
    assert (line["uid"], line["allowed"], line["time"]) == ("0b9e", False, "2026-03-01T00:00:00.000000Z")


def test_each_decision_on_validate_is_left_to_the_traces_once(harness: Harness) -> None:
    harness.client.post(review(uid="one"))
    harness.client.post(review(uid="two", object=deployment(2)))
    harness.client.post(b"{}")
    harness.settle()
    assert harness.traces.left == [("one", False, NOW), ("two", True, NOW)]


# ── the mutating webhook ─────────────────────────────────────────────────────────────────────────────────────────────

TAGGING = POLICY.replace("mode: enforce", "mode: tag")


def patch_of(answer: Answer) -> list[dict[str, Any]]:
    """The patch that an answer brings."""
    response = answer.json["response"]
    assert (answer.status, response["uid"], response["allowed"]) == (200, "0b9e", True)
    if "patch" not in response:
        assert set(response) == {"uid", "allowed"}
        return []
    assert set(response) == {"uid", "allowed", "patchType", "patch"}
    assert response["patchType"] == "JSONPatch"
    decoded = json.loads(base64.b64decode(response["patch"], validate=True))
    assert isinstance(decoded, list)
    return decoded


def test_what_drifts_with_leave_is_marked_by_a_patch_that_applies(harness: Harness) -> None:
    harness.put(TAGGING)
    patched = applied(patch_of(harness.post_to_mutate(review())), deployment(5))
    assert patched["spec"] == {"replicas": 5}
    assert patched["metadata"]["labels"] == deployment(5)["metadata"]["labels"] | {"driftwall.io/drifted": "true"}
    assert json.loads(patched["metadata"]["annotations"]["driftwall.io/drift"]) == {
        "by": "alice",
        "at": "2026-03-01T00:00:00Z",
        "policy": "replicas",
        "fields": ["spec.replicas"],
        "reason": "",
    }


def test_the_mutating_webhook_leaves_the_verdict_to_the_validating_one(harness: Harness) -> None:
    assert patch_of(harness.post_to_mutate(review())) == []
    assert harness.client.post(review()).json["response"]["allowed"] is False


def test_a_dry_run_gets_no_patch(harness: Harness) -> None:
    harness.put(TAGGING)
    assert patch_of(harness.post_to_mutate(review(dryRun=True))) == []


def test_a_call_of_the_mutating_webhook_is_counted_and_neither_logged_nor_left_to_the_traces(harness: Harness) -> None:
    harness.put(TAGGING)
    harness.post_to_mutate(review())
    harness.post_to_mutate(review(object=deployment(2)))
    assert harness.logged() == []
    harness.settle()
    assert harness.traces.left == []
    assert harness.count("driftwall_mutations_total", result="patched") == 1
    assert harness.count("driftwall_mutations_total", result="unchanged") == 1
    assert harness.count("driftwall_review_duration_seconds_count", webhook="validate") == 0


def test_whatever_goes_wrong_in_the_mutating_webhook_is_an_error(harness: Harness) -> None:
    def fail(*_: object) -> Mutation:
        raise ValueError("s3cr3t")

    harness.mutate = fail
    assert_fails(harness.post_to_mutate(review()), INTERNAL)
    assert harness.count("driftwall_review_errors_total", status="500", reason="internal") == 1


def test_what_the_mutating_webhook_needs_is_looked_up_and_its_failure_is_an_error(harness: Harness) -> None:
    harness.mutate = lambda *_: (_ for _ in ()).throw(LookupNeeded(PARENT))
    harness.objects.answer = failing_look_up
    assert_fails(harness.post_to_mutate(review()), "it could not be looked up: because")
    assert harness.objects.asked == [PARENT]


# ── malformed calls ──────────────────────────────────────────────────────────────────────────────────────────────────


def nested(levels: int) -> bytes:
    deep = b'{"a":' * levels + b"1" + b"}" * levels
    return json.dumps(review(object="HERE")).encode().replace(b'"HERE"', deep)


def without_uid() -> bytes:
    body = review()
    del body["request"]["uid"]
    return json.dumps(body).encode()


MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b"hello", 400, "the body is not valid JSON: "),
    "nothing": (b"", 400, "the body is not valid JSON: "),
    "truncated JSON": (json.dumps(review()).encode()[:-40], 400, "the body is not valid JSON: "),
    "neither a review nor JSON": (b'{"request": 1, "kind": ]}', 400, "the body is not valid JSON: "),
    "a list": (b"[]", 400, "the body is no AdmissionReview: "),
    "another kind": (
        json.dumps(review() | {"kind": "Pod"}).encode(),
        400,
        "the body must be an AdmissionReview of admission.k8s.io/v1, but is: admission.k8s.io/v1, Pod",
    ),
    "an unknown version": (
        json.dumps(review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        400,
        "the body must be an AdmissionReview of admission.k8s.io/v1, but is: admission.k8s.io/v1beta1, AdmissionReview",
    ),
    "no uid": (without_uid(), 400, "the body is no AdmissionReview: Object missing required field `uid`"),
    "an empty uid": (json.dumps(review(uid="")).encode(), 400, "request.uid is empty"),
    "9,000 levels": (
        nested(9000),
        413,
        "the AdmissionReview is nested more deeply than driftwall reads",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_review_gets_a_clear_error_and_the_server_goes_on(harness: Harness, what: str) -> None:
    body, status, message = MALFORMED[what]
    answer = harness.client.post(body)
    assert answer.status == status
    assert answer.message.startswith(message)
    still_decides(harness)


def test_nesting_that_kubernetes_allows_and_driftwall_reads_is_decided(harness: Harness) -> None:
    assert harness.client.post(nested(500)).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_another_content_type_is_refused(harness: Harness, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    answer = harness.client.request("POST", "/validate", json.dumps(review()).encode(), headers)
    assert (answer.status, answer.message) == (415, "a review is sent with Content-Type: application/json")
    still_decides(harness)


def test_a_content_type_with_a_charset_is_taken(harness: Harness) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert harness.client.request("POST", "/validate", json.dumps(review()).encode(), headers).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_refused_and_told_which_one_is_right(harness: Harness, method: str) -> None:
    answer = harness.client.request(method, "/validate")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        assert answer.message == "a review is sent with POST"
    still_decides(harness)


@pytest.mark.parametrize("path", ["/", "/validate/", "/mutate/", "/Validate", "/readyz", "/metrics", "//validate"])
def test_another_path_is_not_found(harness: Harness, path: str) -> None:
    answer = harness.client.request("POST", path, b"{}", JSON)
    assert (answer.status, answer.message) == (404, "there is nothing here; reviews are sent to /validate or /mutate")
    still_decides(harness)


TOO_LARGE = "the review has more than 32 MiB, which is as much as driftwall reads"


def test_a_body_of_40_mb_is_refused_by_its_length(harness: Harness) -> None:
    answer = harness.client.post(b" " * 40_000_000)
    assert (answer.status, answer.message) == (413, TOO_LARGE)
    still_decides(harness)


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(harness: Harness) -> None:
    with contextlib.closing(harness.client.connect()) as connection:
        connection.putrequest("POST", "/validate")
        for name, value in {**JSON, "Content-Length": str(MAX_BODY + 1), "Expect": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413
    still_decides(harness)


def test_a_body_of_40_mb_without_a_length_is_refused(harness: Harness) -> None:
    answer = harness.client.post(b" " * 1_000_000 for _ in range(40))
    assert (answer.status, answer.message) == (413, TOO_LARGE)
    still_decides(harness)


def test_a_body_just_within_the_limit_is_read(harness: Harness) -> None:
    body = json.dumps(review()).encode()
    answer = harness.client.post(body + b" " * (MAX_BODY - len(body)))
    assert answer.status == 200


def leave_too_early(harness: Harness) -> None:
    connection = harness.client.connect()
    connection.putrequest("POST", "/validate")
    for name, value in {**JSON, "Content-Length": "1000", "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders(b"")
    assert isinstance(connection.sock, socket.socket)
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")  # so it waits for the body now
    connection.sock.sendall(json.dumps(review()).encode()[:100])
    connection.close()


def test_a_caller_who_leaves_before_its_body_is_complete_is_no_error(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    leave_too_early(harness)
    still_decides(harness)
    assert caplog.messages == []
    assert len(harness.logged()) == 1


# ── more than there is memory for ────────────────────────────────────────────────────────────────────────────────────

OVERLOADED = "driftwall decides as many writes as it has memory for; try again in a second"


def assert_told_to_come_again(answer: Answer) -> None:
    assert (answer.status, answer.headers["retry-after"], answer.message) == (503, "1", OVERLOADED)


def test_what_does_not_fit_by_its_length_is_told_to_come_again_before_it_is_sent(harness: Harness) -> None:
    harness.budget.total = MAX_BODY
    with contextlib.closing(harness.client.connect()) as connection:
        connection.putrequest("POST", "/validate")
        for name, value in {**JSON, "Content-Length": str(MAX_BODY), "Expect": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert_told_to_come_again(answer_of(connection.getresponse()))
    assert harness.count("driftwall_review_errors_total", status="503", reason="memory") == 1
    still_decides(harness)


def test_what_does_not_fit_as_it_streams_in_is_told_to_come_again(harness: Harness) -> None:
    harness.budget.total = 4_000_000
    assert_told_to_come_again(harness.client.post(b" " * 100_000 for _ in range(40)))
    still_decides(harness)


def test_what_never_fits_says_what_to_do(harness: Harness) -> None:
    harness.budget.total = 4_000_000
    answer = harness.client.post(review(object=deployment(5) | {"data": [{}] * 100_000}))
    assert answer.status == 413
    assert answer.message.endswith("and driftwall has 3 MiB for one; give it a higher limit of memory")
    still_decides(harness)


def test_whatever_becomes_of_a_review_its_memory_is_given_back(harness: Harness) -> None:
    seen = []

    def looking(*arguments: Any) -> Decision:
        seen.append(harness.budget.taken)
        return decide(*arguments)

    harness.decide = looking
    harness.client.post(review())
    harness.decide = raising(ValueError("s3cr3t"))
    harness.client.post(review())
    harness.client.post(b"no review")
    harness.client.post(b" " * (MAX_BODY + 1))
    leave_too_early(harness)
    still_decides(harness)
    assert seen[0] > 0
    wait_for(lambda: harness.budget.taken == 0, "the last one to be given back")


# ── errors of our own ────────────────────────────────────────────────────────────────────────────────────────────────


def assert_fails(answer: Answer, message: str) -> None:
    assert (answer.status, answer.message) == (500, message)
    assert b"allowed" not in answer.body


@pytest.mark.parametrize("error", [ValueError("s3cr3t"), RecursionError("s3cr3t"), MemoryError(), KeyError("s3cr3t")])
def test_whatever_goes_wrong_in_the_decision_is_no_allow(
    harness: Harness, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    harness.decide = raising(error)
    answer = harness.client.post(review())
    assert_fails(answer, INTERNAL)
    (record,) = caplog.records
    assert record.getMessage() == "no verdict on UPDATE of deployments.apps (uid 0b9e) by alice: driftwall failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "s3cr3t" not in answer.body.decode()
    assert harness.count("driftwall_review_errors_total", status="500", reason="internal") == 1
    still_decides(harness)


def test_an_endless_recursion_in_the_decision_is_no_allow(harness: Harness) -> None:
    def deeper(*arguments: Any) -> Decision:
        return deeper(*arguments)

    harness.decide = deeper
    assert_fails(harness.client.post(review()), INTERNAL)
    still_decides(harness)


def test_even_what_is_no_exception_is_no_allow(harness: Harness) -> None:
    harness.decide = raising(asyncio.CancelledError())
    assert harness.client.post(review()).status == 500
    still_decides(harness)


def test_an_answer_that_cannot_be_encoded_is_no_allow(harness: Harness) -> None:
    broken = Decision(allowed=True, writer="untrusted", audit_annotations={"key": object()})  # type: ignore[dict-item]
    harness.decide = lambda *_: broken
    assert_fails(harness.client.post(review()), INTERNAL)


def test_a_failure_to_count_or_log_comes_after_the_answer(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = threading.Event()

    def fail(*_: object, **__: object) -> None:
        reached.set()
        raise RuntimeError

    monkeypatch.setattr(harness.metrics, "review", fail)
    answer = harness.client.post(review())
    assert (answer.status, answer.json["response"]["allowed"]) == (200, False)
    assert reached.wait(PATIENCE)
    monkeypatch.undo()
    still_decides(harness)


def send(harness: Harness, answered: Callable[[bytes | None], None], **changes: Any) -> ShortCall:
    """Have a review go the short way without a connection."""
    body = json.dumps(review(**changes)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    call = harness.server.begin(b"/validate?timeout=10s", headers)
    assert call is not None
    call.complete(body, answered)
    return call


async def all_told(harness: Harness, at_each_turn: Callable[[], None] = lambda: None) -> None:
    while harness.server.in_flight or harness.budget.taken:
        await asyncio.sleep(0)
        at_each_turn()


def test_of_many_reviews_at_once_no_more_than_some_are_decided_before_the_first_is_answered(harness: Harness) -> None:
    answered: list[bytes | None] = []
    seen: list[int] = []

    async def all_at_once() -> None:
        for _ in range(2 * MAX_TOGETHER + 1):
            send(harness, answered.append)
        await all_told(harness, lambda: seen.append(len(answered)))

    asyncio.run(all_at_once())
    assert sorted(set(seen) - {0}) == [MAX_TOGETHER, 2 * MAX_TOGETHER, 2 * MAX_TOGETHER + 1]
    assert all(b'"allowed":false' in response for response in answered if response is not None)
    assert len(harness.logged()) == len(answered) == 2 * MAX_TOGETHER + 1


def test_a_review_that_is_given_up_is_neither_answered_nor_counted(harness: Harness) -> None:
    answered: list[bytes | None] = []

    async def one_of_two() -> None:
        for gives_up in (True, False):
            call = send(harness, answered.append)
            if gives_up:
                call.end()
        await all_told(harness)

    asyncio.run(one_of_two())
    assert len(answered) == len(harness.logged()) == 1


def test_a_failure_to_tell_of_one_decision_is_not_that_of_the_others(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uids: list[str] = []

    def count(a_review: Review, *_: object, **__: object) -> None:
        uids.append(a_review.uid)
        if a_review.uid == "first":
            raise RuntimeError

    async def both() -> None:
        for uid in ("first", "second"):
            send(harness, lambda _: None, uid=uid)
        await all_told(harness)

    monkeypatch.setattr(harness.metrics, "review", count)
    asyncio.run(both())
    assert uids == ["first", "second"]
    assert [line["uid"] for line in harness.logged()] == ["second"]
    assert [message.partition(" (")[0] for message in caplog.messages] == ["the decision on UPDATE of deployments.apps"]


def test_without_policies_there_is_no_verdict(harness: Harness) -> None:
    harness.policies.snapshot = None
    answer = harness.client.post(review())
    assert (answer.status, answer.message) == (503, "driftwall has not loaded its policies yet")
    assert harness.count("driftwall_review_errors_total", status="503", reason="policies") == 1


def test_a_malformed_object_found_by_the_decision_is_the_callers_error(harness: Harness) -> None:
    answer = harness.client.post(review(object=[]))
    assert (answer.status, answer.message) == (400, "request.object must be a JSON object, not an array")


# ── look-ups ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def ref(number: int) -> ObjectRef:
    return ObjectRef("", "v1", "configmaps", "shop", f"c{number}")


def wanting(count: int) -> Decide:
    """A decision that asks for ``count`` objects, one after the other."""

    def decide_so(
        _: Review, __: Snapshot, objects: Mapping[ObjectRef, dict[str, Any] | None], ___: datetime
    ) -> Decision:
        for number in range(count):
            if ref(number) not in objects:
                raise LookupNeeded(ref(number))
        return Decision(allowed=True, writer="untrusted")

    return decide_so


def test_what_a_decision_needs_is_looked_up(harness: Harness) -> None:
    seen: list[object] = []

    def decide_so(_: Review, __: Snapshot, objects: Mapping[ObjectRef, Any], now: datetime) -> Decision:
        if PARENT not in objects:
            raise LookupNeeded(PARENT)
        seen.extend([objects[PARENT], now])
        return Decision(allowed=True, writer="untrusted")

    harness.decide = decide_so
    harness.objects.answer = lambda _: {"kind": "Deployment"}
    assert harness.client.post(review()).json["response"]["allowed"] is True
    assert harness.objects.asked == [PARENT]
    assert seen == [{"kind": "Deployment"}, NOW]


def test_an_object_that_does_not_exist_is_told_as_none(harness: Harness) -> None:
    harness.decide = wanting(1)
    harness.objects.answer = lambda _: None
    assert harness.client.post(review()).json["response"]["allowed"] is True


def test_eight_look_ups_are_made_and_no_ninth(harness: Harness) -> None:
    harness.decide = wanting(8)
    assert harness.client.post(review()).status == 200
    harness.decide = wanting(9)
    assert_fails(
        harness.client.post(review()),
        f"the verdict on this write needs more than 8 look-ups; the last is {ref(8)}",
    )
    assert harness.objects.asked == [ref(number) for number in (*range(8), *range(8))]


def test_a_look_up_that_fails_is_no_allow_and_its_reason_is_told(harness: Harness) -> None:
    def fail(_: ObjectRef) -> None:
        raise LookupFailed("deployments.apps 'web' could not be looked up: because")

    harness.decide = wanting(1)
    harness.objects.answer = fail
    assert_fails(harness.client.post(review()), "deployments.apps 'web' could not be looked up: because")
    assert harness.count("driftwall_review_errors_total", status="500", reason="lookup") == 1
    still_decides(harness)


def failing_look_up(_: ObjectRef) -> dict[str, Any] | None:
    raise LookupFailed("it could not be looked up: because")


OPENABLE = (
    """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  breakGlass:
    groups: [sre]
---
"""
    + POLICY
)
NAMESPACE = ObjectRef("", "v1", "namespaces", "", "shop")


def namespace(**annotations: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}}


OPEN = namespace(
    **{
        "driftwall.io/break-glass": "INC-1: checkout",
        "driftwall.io/break-glass-by": "sam",
        "driftwall.io/break-glass-expires": "2026-03-01T01:00:00Z",
    }
)


def test_a_denial_rests_on_the_namespace_that_was_looked_up(harness: Harness) -> None:
    harness.put(OPENABLE)
    harness.objects.answer = lambda _: namespace()
    assert harness.client.post(review()).json["response"]["allowed"] is False
    harness.objects.answer = lambda _: OPEN
    response = harness.client.post(review()).json["response"]
    assert (response["allowed"], response["auditAnnotations"]) == (
        True,
        {"break-glass": "used by sam: INC-1: checkout"},
    )
    assert harness.objects.asked == [NAMESPACE, NAMESPACE]
    denied, allowed = harness.logged()
    assert (denied["breakGlass"], allowed["breakGlass"]["by"], allowed["breakGlass"]["action"]) == (None, "sam", "used")
    assert harness.count("driftwall_break_glass_total", action="used") == 1


def test_no_namespace_is_looked_up_for_a_write_that_is_allowed(harness: Harness) -> None:
    harness.put(OPENABLE)
    assert harness.client.post(review(object=deployment(2))).json["response"]["allowed"] is True
    assert patch_of(harness.post_to_mutate(review(object=deployment(2)))) == []
    assert harness.objects.asked == []


def test_a_denial_by_what_was_kept_is_decided_again_by_what_is_there_now(harness: Harness) -> None:
    harness.put(OPENABLE)
    harness.objects.kept[NAMESPACE] = namespace()
    harness.objects.answer = lambda _: OPEN
    assert harness.client.post(review()).json["response"]["allowed"] is True
    assert harness.objects.asked == [NAMESPACE]
    harness.objects.answer = lambda _: namespace()
    assert harness.client.post(review()).json["response"]["allowed"] is False
    assert harness.objects.asked == [NAMESPACE, NAMESPACE]


def test_an_allow_by_what_was_kept_is_not_decided_again(harness: Harness) -> None:
    harness.put(OPENABLE)
    harness.objects.kept[NAMESPACE] = OPEN
    assert harness.client.post(review()).json["response"]["allowed"] is True
    assert harness.objects.asked == []


def test_the_mutating_webhook_too_looks_again_before_it_takes_a_glass_for_whole(harness: Harness) -> None:
    harness.put(OPENABLE)
    harness.objects.kept[NAMESPACE] = namespace()
    harness.objects.answer = lambda _: OPEN
    patched = applied(patch_of(harness.post_to_mutate(review())), deployment(5))
    assert patched["metadata"]["labels"]["driftwall.io/drifted"] == "true"
    assert harness.objects.asked == [NAMESPACE]


def test_a_look_up_that_could_have_opened_and_fails_leaves_a_denial_a_denial(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.put(OPENABLE)
    harness.objects.answer = failing_look_up
    answer = harness.client.post(review())
    assert (answer.status, answer.json["response"]["allowed"]) == (200, False)
    assert patch_of(harness.post_to_mutate(review())) == []
    assert caplog.messages == ["going on without a look-up: it could not be looked up: because"] * 2


def test_a_look_up_that_could_have_opened_and_takes_too_long_leaves_a_denial_a_denial(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(_: ObjectRef) -> None:
        await asyncio.Event().wait()

    harness.put(OPENABLE)
    monkeypatch.setattr(harness.objects, "get", never)
    monkeypatch.setattr("webhook.lookups.LOOKUP_SECONDS", 0.01)
    answer = harness.client.post(review())
    assert (answer.status, answer.json["response"]["allowed"]) == (200, False)
    assert caplog.messages == [
        f"going on without a look-up: {NAMESPACE} could not be looked up within 0.01 s; try again"
    ]


def test_a_denial_is_a_denial_where_the_namespace_is_gone(harness: Harness) -> None:
    harness.put(OPENABLE)
    harness.objects.answer = lambda _: None
    assert harness.client.post(review()).json["response"]["allowed"] is False


def test_look_ups_that_take_too_long_together_are_no_allow(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: ObjectRef) -> None:
        await asyncio.Event().wait()

    harness.decide = wanting(1)
    monkeypatch.setattr(harness.objects, "get", never)
    assert_fails(
        harness.client.post(review()),
        f"{ref(0)} could not be looked up within 1 s; try again",
    )


def test_other_reviews_go_on_while_one_waits_for_a_look_up(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def wait(_: ObjectRef) -> dict[str, Any]:
        loops.append(asyncio.get_running_loop())
        waiting.set()
        await go_on.wait()
        return {}

    def decide_so(a_review: Review, *arguments: Any) -> Decision:
        return (wanting(1) if a_review.uid == "slow" else decide)(a_review, *arguments)

    harness.decide = decide_so
    monkeypatch.setattr(harness.objects, "get", wait)
    monkeypatch.setattr("webhook.lookups.LOOKUP_SECONDS", PATIENCE)
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(harness.client.post(review(uid="slow"))))
    thread.start()
    assert waiting.wait(PATIENCE)
    assert harness.client.post(review()).status == 200
    loops[0].call_soon_threadsafe(go_on.set)
    thread.join(PATIENCE)
    assert [answer.status for answer in answers] == [200]


def test_no_message_of_the_server_shows_a_value_of_the_object(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "Y2FuYXJ5"}}
    for body in (review(object=secret, oldObject=[secret]), review(object=secret, uid="")):
        assert "Y2FuYXJ5" not in harness.client.post(body).body.decode()
    harness.decide = raising(ValueError("Y2FuYXJ5"))
    assert "Y2FuYXJ5" not in harness.client.post(review(object=secret, oldObject=secret)).body.decode()
    assert "Y2FuYXJ5" not in " ".join(caplog.messages)
