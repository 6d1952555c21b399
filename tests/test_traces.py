from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.admitting import BY, EXPIRES, REASON, SAM
from tests.following import wait_for
from tests.reviews import ALICE, FLUX_LABELS, NOW, Cluster, Json, review, snapshot_of
from tests.serving import PATIENCE
from webhook.admission import Review
from webhook.cluster import events, traces
from webhook.cluster.connection import Offline, connect
from webhook.cluster.traces import Traces
from webhook.decision import BreakGlassUse, Decision, FieldChange, Violation

POLICIES = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  breakGlass: {groups: [sre]}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: guarded}
spec: {mode: enforce, protect: {fields: [data.*, spec.replicas], deletion: true}}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: noted}
spec: {mode: tag, protect: {fields: [spec.paused, metadata.labels.*]}}
"""
SNAPSHOT = snapshot_of(POLICIES)
GLASS = {REASON: "fire", BY: "sam", EXPIRES: "2026-11-22T08:00:00Z"}


class Call(NamedTuple):
    method: str
    path: str
    content_type: str
    token: str
    body: Any


class FakeApiServer:
    """An API server over real HTTP that takes whatever it is sent and answers with ``status``."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.status = 201
        self.status_of: dict[str, int] = {}
        self.body = b"{}"
        self.go_on = threading.Event()
        self.go_on.set()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content_type, token = self.headers["Content-Type"], self.headers["Authorization"]
                fake.calls.append(Call(self.command, self.path, content_type, token, body))
                fake.go_on.wait(PATIENCE)
                self.send_response(fake.status_of.get(self.command, fake.status))
                self.send_header("Content-Length", str(len(fake.body)))
                self.end_headers()
                self.wfile.write(fake.body)

            do_POST = do_PATCH = answer  # noqa: N815 - as http.server wants them

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Harness:
    """Traces that go to a fake API server, and what became of them."""

    def __init__(self, fake: FakeApiServer, kubeconfig: Path) -> None:
        self.fake = fake
        self.results: list[tuple[str, str]] = []
        self.wrote = threading.Event()
        self.traces = Traces(connect(kubeconfig), on_result=self._result)

    def _result(self, kind: str, result: str) -> None:
        self.results.append((kind, result))
        if result == "written":
            self.wrote.set()

    def leave(self, *written: Review, there: tuple[Json, ...] = ()) -> list[Decision]:
        """Decide reviews and leave what they ask for."""
        decisions = [Cluster(there).decide(each, SNAPSHOT) for each in written]
        for each, decision in zip(written, decisions, strict=True):
            self.traces.leave(each, decision, NOW)
        return decisions

    def calls(self) -> list[Call]:
        """Everything that was written, once it is."""
        self.traces.close()
        return self.fake.calls


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    fake = FakeApiServer()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{fake.port}"}}],
        "users": [{"name": "test", "user": {"token": "t"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    harness = Harness(fake, tmp_path / "kubeconfig")
    yield harness
    fake.go_on.set()
    harness.traces.close()
    fake.close()


def settings(data: Json, labels: Json | None = None, annotations: Json | None = None, **metadata: Any) -> Json:
    whole = {"name": "web", "namespace": "shop", "uid": "7a1c", "labels": FLUX_LABELS if labels is None else labels}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**whole, "annotations": annotations or {}, **metadata},
        "data": data,
    }


def web(replicas: int, **more: Any) -> Json:
    spec = {"replicas": replicas, **more}
    return {**settings({}, annotations=GLASS), "apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}


CLOSED_METADATA: Json = {"metadata": {"name": "web", "namespace": "shop", "uid": "7a1c", "labels": FLUX_LABELS}}
OPEN, CHANGED = settings({"a": "1"}, annotations=GLASS), settings({"a": "2"}, annotations=GLASS)
CLOSED = settings({"a": "1"})


def test_a_write_under_break_glass_leaves_an_event_on_the_object(harness: Harness) -> None:
    harness.leave(review(OPEN, CHANGED, user=ALICE))
    (call,) = harness.calls()
    assert call[:4] == ("POST", "/api/v1/namespaces/shop/events", "application/json", "Bearer t")
    name = call.body["metadata"].pop("name")
    assert (name.startswith("web."), len(name)) == (True, 20)
    assert call.body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "web", "uid": "7a1c"},
        "reason": "WriteUnderBreakGlass",
        "message": "alice wrote data.a under break-glass (fire, by sam), against policy guarded",
        "type": "Warning",
        "count": 1,
        "firstTimestamp": "2026-11-22T07:00:00Z",
        "lastTimestamp": "2026-11-22T07:00:00Z",
        "source": {"component": "driftwall"},
        "reportingComponent": "driftwall.io/webhook",
        "reportingInstance": "",
    }
    assert harness.results == [("event", "written")]


def test_breaking_a_glass_and_mending_it_leave_an_event_each(harness: Harness) -> None:
    broken = settings({"a": "1"}, annotations={REASON: "fire"})
    harness.leave(review(CLOSED, broken, user=SAM), review(OPEN, CLOSED, user=SAM), review(OPEN, None, user=ALICE))
    assert [(call.body["reason"], call.body["message"]) for call in harness.calls()] == [
        ("GlassBroken", "set by sam: fire"),
        ("GlassMended", "removed by sam: fire"),
        ("WriteUnderBreakGlass", "alice wrote delete under break-glass (fire, by sam), against policy guarded"),
    ]


def test_an_event_about_what_has_no_namespace_goes_where_the_api_server_takes_it(harness: Harness) -> None:
    namespace: Json = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "uid": "u"}}
    broken = {**namespace, "metadata": {"name": "shop", "uid": "u", "annotations": {REASON: "fire"}}}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "a:b"}}
    opened = {**role, "metadata": {"name": "a:b", "annotations": {REASON: "fire"}}}
    harness.leave(review(namespace, broken, user=SAM), review(role, opened, user=SAM))
    calls = harness.calls()
    assert {call.path for call in calls} == {"/api/v1/namespaces/default/events"}
    assert [call.body["involvedObject"] for call in calls] == [
        {"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "u"},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": "a:b"},
    ]
    assert {call.body["metadata"]["namespace"] for call in calls} == {"default"}


def scale(replicas: int) -> Json:
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web", "namespace": "shop", "uid": "7a1c"},
        "spec": {"replicas": replicas},
    }


def test_the_parent_of_a_scale_that_has_drifted_is_marked(harness: Harness) -> None:
    written = review(scale(2), scale(5), user=ALICE, subresource="scale", parent=web(2))
    harness.leave(written, there=(web(2),))
    event, mark = harness.calls()
    involved = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "web", "uid": "7a1c"}
    assert event.body["involvedObject"] == involved
    path = "/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=driftwall"
    assert mark[:3] == ("PATCH", path, "application/merge-patch+json")
    drift = mark.body["metadata"]["annotations"].pop("driftwall.io/drift")
    assert json.loads(drift) == {
        "by": "alice",
        "at": "2026-11-22T07:00:00Z",
        "policy": "guarded",
        "fields": ["spec.replicas"],
        "reason": "fire",
    }
    assert mark.body == {"metadata": {"labels": {"driftwall.io/drifted": "true"}, "annotations": {}}}
    assert harness.results == [("event", "written"), ("mark", "written")]


def test_a_write_through_status_that_drifts_in_mode_tag_is_marked(harness: Harness) -> None:
    harness.leave(review(CLOSED, settings({"a": "1"}, {**FLUX_LABELS, "team": "x"}), user=ALICE, subresource="status"))
    (mark,) = harness.calls()
    assert (mark.method, mark.path) == ("PATCH", "/api/v1/namespaces/shop/configmaps/web?fieldManager=driftwall")


def test_what_the_mutating_webhook_marks_is_not_marked_twice(harness: Harness) -> None:
    (decision,) = harness.leave(review(CLOSED, settings({"a": "1"}, {**FLUX_LABELS, "team": "x"}), user=ALICE))
    assert decision.tagged
    assert harness.calls() == []


def test_nothing_is_left_by_a_dry_run_or_a_write_that_concerns_nothing(harness: Harness) -> None:
    decisions = harness.leave(
        review(CLOSED, settings({"a": "2"}), user=ALICE, dry_run=True),
        review(CLOSED, settings({"a": "1"}, annotations={REASON: "fire"}), user=ALICE, dry_run=True),
        review(OPEN, CHANGED, user=ALICE, dry_run=True),
        review(scale(2), scale(5), user=ALICE, subresource="scale", parent=web(2), dry_run=True),
        review(OPEN, settings({"a": "1"}, annotations={**GLASS, "note": "x"}), user=ALICE),
        there=(web(2),),
    )
    assert [decision.allowed for decision in decisions] == [False, False, True, True, True]
    assert harness.calls() == []
    assert harness.results == []


def test_no_value_of_a_secret_is_left(harness: Harness) -> None:
    old, new = ({**each, "kind": "Secret", "data": {"key": f"Y2FuYXJ5{each['data']['a']}"}} for each in (OPEN, CHANGED))
    harness.leave(review(old, new, user=ALICE))
    (call,) = harness.calls()
    assert call.body["message"] == "alice wrote data.key under break-glass (fire, by sam), against policy guarded"
    assert "Y2FuYXJ5" not in json.dumps(call.body)


def test_an_event_is_no_longer_than_the_api_server_takes_and_its_text_is_escaped(harness: Harness) -> None:
    reason = "fire\u202e\n" + "x" * 5000
    long = "n" * 253
    glass = {**GLASS, REASON: reason}
    old, new = (settings({"a": value}, annotations=glass, name=long) for value in "12")
    harness.leave(review(old, new, user=ALICE))
    (call,) = harness.calls()
    assert len(call.body["message"]) == 1024
    assert call.body["message"].startswith("alice wrote data.a under break-glass (fire\\u202e\\nxxx")
    assert len(call.body["metadata"]["name"]) == 217  # of 253 that a name may have


@pytest.mark.parametrize(
    ("status", "result"), [(200, "written"), (201, "written"), (409, "written"), (403, "failed"), (500, "failed")]
)
def test_what_the_api_server_says_is_counted(
    harness: Harness, status: int, result: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness.fake.status = status
    other = (settings({"a": value}, annotations=GLASS, name="other") for value in "12")
    harness.leave(review(OPEN, CHANGED, user=ALICE), review(*other, user=ALICE))
    assert len(harness.calls()) == 2
    assert harness.results == [("event", result)] * 2
    failure = f"could not write the event to /api/v1/namespaces/shop/events: HTTP {status}"
    assert caplog.messages == ([failure] if result == "failed" else [])  # once while it lasts


def test_an_api_server_that_is_down_costs_the_trace_and_nothing_else(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.fake.close()
    harness.leave(review(OPEN, CHANGED, user=ALICE))
    harness.leave(review(OPEN, CHANGED, user=ALICE))
    harness.traces.close()
    assert harness.results == [("event", "failed"), ("event", "failed")]
    # Once while it lasts: there may be one for every denial.
    assert caplog.messages == [
        "could not write the event to /api/v1/namespaces/shop/events: the API server cannot be reached; try again"
    ]


def test_without_a_way_to_the_api_server_every_trace_fails_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    results: list[tuple[str, str]] = []
    offline = Traces(Offline("it is a test"), on_result=lambda *result: results.append(result))
    offline.leave(review(OPEN, CHANGED, user=ALICE), Cluster().decide(review(OPEN, CHANGED, user=ALICE), SNAPSHOT), NOW)
    offline.close()
    assert results == [("event", "failed")]
    assert caplog.messages == []


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be as many Events as anybody likes, and few wait."""
    for name in ("_OBJECT_BURST", "_TOTAL_BURST"):
        monkeypatch.setattr(events, name, 10_000)
    monkeypatch.setattr(traces, "_MAX_WAITING", 50)
    monkeypatch.setattr(traces, "_MAX_DENIALS", 25)


@pytest.mark.usefixtures("unlimited")
def test_a_slow_api_server_is_never_waited_for_and_what_is_too_much_is_dropped(harness: Harness) -> None:
    harness.fake.go_on.clear()
    written = review(OPEN, CHANGED, user=ALICE)
    decision = Cluster().decide(written, SNAPSHOT)
    for _ in range(50 + 10):
        harness.traces.leave(written, decision, NOW)  # nobody answers, so this would hang if it waited
    dropped = len(harness.results)
    assert dropped in {9, 10}  # one may be on its way already
    harness.fake.go_on.set()
    calls = harness.calls()
    assert len(calls) == 60 - dropped
    assert [call.body["count"] for call in calls] == list(range(1, 61 - dropped))
    assert harness.results == [("event", "dropped")] * dropped + [("event", "written")] * (60 - dropped)


@pytest.mark.usefixtures("unlimited")
def test_denials_leave_room_for_what_was_let_through(harness: Harness) -> None:
    harness.fake.go_on.clear()
    denied, mended = review(CLOSED, settings({"a": "2"}), user=ALICE), review(OPEN, CLOSED, user=SAM)
    decisions = [Cluster().decide(each, SNAPSHOT) for each in (denied, mended)]
    for _ in range(50):
        harness.traces.leave(denied, decisions[0], NOW)
    dropped = len(harness.results)
    assert dropped in {24, 25}  # one may be on its way already
    harness.traces.leave(mended, decisions[1], NOW)
    assert len(harness.results) == dropped
    harness.fake.go_on.set()
    assert [call.body["reason"] for call in harness.calls() if call.method == "POST"] == ["WriteDenied", "GlassMended"]


def test_events_beyond_their_limit_are_counted_at_once_and_wait_for_nobody(harness: Harness) -> None:
    harness.fake.go_on.clear()
    denied = review(CLOSED, settings({"a": "2"}), user=ALICE)
    decision = Cluster().decide(denied, SNAPSHOT)
    for _ in range(2000):
        harness.traces.leave(denied, decision, NOW)
    assert harness.results == [("event", "limited")] * 1975
    harness.traces.leave(denied, decision, NOW + timedelta(seconds=301))
    harness.fake.go_on.set()
    assert [call.body["count"] for call in harness.calls()] == [*range(1, 26), 2001]


def test_little_is_remembered_of_an_object_whatever_its_review_brings(harness: Harness) -> None:
    long = "n" * 1_000_000
    harness.leave(review(None, settings({"a": "1"}, name="", generateName=long, uid=long), user=ALICE))
    (call,) = harness.calls()
    assert len(call.body["involvedObject"]["name"]) == 1024


DENIED = "managed by Flux (Kustomization flux-system/shop), policy guarded: alice may not"


CREATED = (
    "bears the mark of Flux (Kustomization flux-system/shop), policy guarded: alice may not create it with {}, "
    "metadata.labels['kustomize.toolkit.fluxcd.io/name'], metadata.labels['kustomize.toolkit.fluxcd.io/namespace']"
)


def test_a_denial_leaves_an_event_on_the_object(harness: Harness) -> None:
    harness.leave(review(CLOSED, settings({"a": "2"}), user=ALICE))
    (call,) = harness.calls()
    assert (call.method, call.path) == ("POST", "/api/v1/namespaces/shop/events")
    assert (call.body["reason"], call.body["message"]) == ("WriteDenied", f"{DENIED} change data.a")
    involved = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "web", "uid": "7a1c"}
    assert call.body["involvedObject"] == involved


def test_an_event_says_what_was_not_to_be_done(harness: Harness) -> None:
    harness.leave(
        review(None, settings({"a": "1"}), user=ALICE),
        review(None, settings({"b": "1"}, name="", generateName="web-"), user=ALICE),
        review(CLOSED, None, user=ALICE),
        review(scale(2), scale(5), user=ALICE, subresource="scale", parent={**web(2), **CLOSED_METADATA}),
        there=({**web(2), **CLOSED_METADATA},),
    )
    calls = harness.calls()
    assert [call.body["message"].removeprefix(DENIED) for call in calls] == [
        CREATED.format("data.a"),
        CREATED.format("data.b"),
        " delete it",
        " update deployments/scale with spec.replicas",
    ]
    # What is denied at its creation has no uid, whatever the review says.
    assert [call.body["involvedObject"].get("uid") for call in calls] == [None, None, "7a1c", "7a1c"]
    assert [call.body["involvedObject"]["name"] for call in calls] == ["web", "web-", "web", "web"]
    assert [call.body["metadata"]["name"].partition(".")[0] for call in calls] == ["web", "driftwall", "web", "web"]
    assert calls[3].body["involvedObject"]["kind"] == "Deployment"


def test_what_is_like_an_event_of_before_is_counted_in_it(harness: Harness) -> None:
    denied = [review(CLOSED, settings({key: "2"}), user=ALICE) for key in "abc"]
    harness.leave(*denied)
    first, *others = harness.calls()
    assert first.body["count"] == 1
    name = first.body["metadata"]["name"]
    assert [call[:3] for call in others] == [
        ("PATCH", f"/api/v1/namespaces/shop/events/{name}", "application/merge-patch+json")
    ] * 2
    assert [call.body for call in others] == [
        {"message": f"{DENIED} change data.{fields}", "count": count, "lastTimestamp": "2026-11-22T07:00:00Z"}
        for fields, count in (("a, data.b", 2), ("a, data.c", 3))
    ]


def test_another_object_user_or_reason_has_an_event_of_its_own(harness: Harness) -> None:
    other = settings({"a": "2"}, name="other")
    harness.leave(
        review(CLOSED, settings({"a": "2"}), user=ALICE),
        review(CLOSED, settings({"a": "2"}), user=SAM),
        review(settings({"a": "1"}, name="other"), other, user=ALICE),
        review(OPEN, CHANGED, user=ALICE),
    )
    assert [call.method for call in harness.calls()] == ["POST"] * 4


def test_an_event_that_is_gone_is_written_anew_with_its_count(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    denied = review(CLOSED, settings({"a": "2"}), user=ALICE)
    harness.leave(denied)
    assert harness.wrote.wait(PATIENCE)
    harness.fake.status_of = {"PATCH": 404}
    harness.leave(denied)
    posted, patched, again = harness.calls()
    assert [posted.method, patched.method, again.method] == ["POST", "PATCH", "POST"]
    assert posted.body["metadata"]["name"] != again.body["metadata"]["name"]
    assert (again.body["count"], again.body["firstTimestamp"]) == (2, posted.body["firstTimestamp"])
    assert harness.results == [("event", "written")] * 2
    assert caplog.messages == []


def test_an_event_that_could_not_be_written_is_written_with_the_next_like_it(harness: Harness) -> None:
    denied = review(CLOSED, settings({"a": "2"}), user=ALICE)
    harness.fake.status = 500
    harness.leave(denied)
    wait_for(lambda: harness.results, "the first to fail")
    harness.fake.status = 201
    harness.leave(denied)
    assert [(call.method, call.body["count"]) for call in harness.calls()] == [("POST", 1), ("POST", 2)]
    assert harness.results == [("event", "failed"), ("event", "written")]


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"{}"), (403, b'{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}')]
)
def test_an_event_that_is_gone_with_its_namespace_is_nothing_to_complain_of(
    harness: Harness, caplog: pytest.LogCaptureFixture, status: int, body: bytes
) -> None:
    harness.fake.status, harness.fake.body = status, body
    harness.leave(review(CLOSED, None, user=ALICE))
    assert len(harness.calls()) == 1
    assert harness.results == [("event", "gone")]
    assert caplog.messages == []


def test_an_event_that_is_denied_brings_no_other(harness: Harness) -> None:
    policy = """
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: all}
spec: {mode: enforce, match: {scope: All}, protect: {fields: [message]}}
"""
    event = {**settings({}, labels={}), "kind": "Event", "message": "x"}
    decision = Cluster().decide(denied := review(None, event, user=ALICE), snapshot_of(policy))
    assert not decision.allowed
    harness.traces.leave(denied, decision, NOW)
    assert harness.calls() == []
    assert harness.results == []


def test_no_value_of_a_secret_is_in_the_event_of_a_denial(harness: Harness) -> None:
    old, new = ({**each, "kind": "Secret"} for each in (CLOSED, settings({"a": "Y2FuYXJ5"})))
    harness.leave(review(old, new, user=ALICE), review(None, new, user=ALICE))
    calls = harness.calls()
    assert [call.body["message"] for call in calls] == [f"{DENIED} change data.a", CREATED.format("data.a")]
    assert "Y2FuYXJ5" not in json.dumps([call.body for call in calls])


def test_a_name_that_no_object_has_is_no_error(harness: Harness) -> None:
    odd = review(
        settings({"a": "1"}, name="../x"),
        settings({"a": "1"}, {**FLUX_LABELS, "team": "x"}, name="../x"),
        user=ALICE,
        subresource="status",
    )
    harness.leave(odd)
    assert harness.calls() == []
    assert harness.results == [("mark", "failed")]


def test_what_an_error_brings_does_not_end_the_thread(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise ValueError("s3cr3t")

    monkeypatch.setattr("webhook.cluster.connection.ApiServer.send", fail)
    harness.leave(review(OPEN, CHANGED, user=ALICE), review(OPEN, CHANGED, user=ALICE))
    harness.traces.close()
    assert harness.results == [("event", "failed"), ("event", "written")]


def test_what_is_left_over_at_the_end_is_not_waited_for_for_ever(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_CLOSE_SECONDS", 0.01)
    harness.fake.go_on.clear()
    use = BreakGlassUse(
        action="used",
        by="sam",
        reason="fire",
        expires=None,
        on="x",
        violations=(
            Violation(name="p", mode="enforce", verdict="deny", fields=(FieldChange(path="a", change="added"),)),
        ),
    )
    harness.traces.leave(review(OPEN, CHANGED, user=ALICE), Decision(allowed=True, writer="x", break_glass=use), NOW)
    harness.traces.close()  # and returns
    assert harness.results == []
