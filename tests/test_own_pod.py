from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.following import wait_for
from webhook.cluster import own_pod
from webhook.cluster.connection import Answer
from webhook.cluster.own_pod import OwnPod
from webhook.cluster.traces import Traces

NOW = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
POD = OwnPod("driftwall-system", "driftwall-0")


class Sent:
    """A connection that keeps what is sent, and answers with ``status``."""

    def __init__(self, status: int = 201) -> None:
        self.status = status
        self.calls: list[tuple[str, str, dict[str, object]]] = []

    def get(self, path: str, deadline: float) -> Answer:
        raise AssertionError(path)

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:
        self.calls.append((method, path, json.loads(body)))
        return Answer(status=self.status, body=b"{}")


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        ({}, None, None),
        ({"HOSTNAME": "driftwall-0"}, None, None),
        ({"HOSTNAME": "driftwall-0"}, "driftwall-system\n", POD),
        ({"HOSTNAME": "node-1", "POD_NAME": "driftwall-0", "POD_NAMESPACE": "driftwall-system"}, "other", POD),
        ({"POD_NAMESPACE": "driftwall-system"}, None, None),
    ],
)
def test_the_pod_is_known_by_the_downward_api_or_by_what_kubernetes_mounts(
    tmp_path: Path, environ: dict[str, str], file: str | None, expected: OwnPod | None
) -> None:
    mounted = tmp_path / "namespace"
    if file is not None:
        mounted.write_text(file)
    assert own_pod.find(environ, mounted) == expected


def test_the_event_is_about_the_pod_and_tells_the_first_problem() -> None:
    event = own_pod.event(POD, ["a.yaml:1: bad\x1b", "b", "c"], NOW)
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "driftwall-system", "name": "driftwall-0",
    }  # fmt: skip
    assert (event["reason"], event["type"]) == ("PoliciesNotLoaded", "Warning")
    assert event["message"] == "a.yaml:1: bad\\x1b (and 2 more)"


def test_a_message_has_1024_characters_at_most() -> None:
    message = own_pod.event(POD, ["x" * 5000, "y"], NOW)["message"]
    assert isinstance(message, str)
    assert len(message) == 1024
    assert message.endswith("… (and 1 more)")


def test_what_several_workers_say_of_the_same_is_one_event_and_later_it_is_another() -> None:
    def name(problem: str, now: datetime) -> object:
        metadata = own_pod.event(POD, [problem], now)["metadata"]
        assert isinstance(metadata, dict)
        return metadata["name"]

    first = name("bad", NOW)
    assert name("bad", NOW + timedelta(seconds=5)) == first
    assert name("worse", NOW) != first
    assert name("bad", NOW + timedelta(hours=1)) != first


@pytest.mark.parametrize(("status", "result"), [(201, "written"), (409, "written"), (403, "failed")])
def test_it_is_written_beside_everything_else_and_once_is_enough(status: int, result: str) -> None:
    sent, results = Sent(status), list[tuple[str, str]]()
    traces = Traces(sent, on_result=lambda kind, what: results.append((kind, what)))
    tell = own_pod.teller(traces, {"POD_NAMESPACE": "driftwall-system", "POD_NAME": "driftwall-0"})
    assert tell is not None
    tell(["bad"])
    wait_for(lambda: results, "the result")
    traces.close()
    assert results == [("event", result)]
    ((method, path, body),) = sent.calls
    assert (method, path) == ("POST", "/api/v1/namespaces/driftwall-system/events")
    assert body["message"] == "bad"


def test_outside_of_a_cluster_nothing_is_written() -> None:
    traces = Traces(Sent(), on_result=lambda *_: None)
    assert own_pod.teller(traces, {}) is None
    traces.close()
