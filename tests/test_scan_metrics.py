"""What a scan pushes, and what becomes of it where nobody takes it. tests/e2e has the real Pushgateway."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest

from webhook import cli
from webhook.admission import ObjectRef
from webhook.drift_model import EXTRA, DriftedObject, Target
from webhook.errors import PushFailed
from webhook.scan_metrics import collect, push
from webhook.scanning import Totals

from .fake_cluster import FakeCluster

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TOTALS = Totals(scanned=9, managed={("shop", "services"): 2, ("shop", "secrets"): 1, ("calm", "services"): 1})


def drifted(namespace: str, name: str) -> DriftedObject:
    target = Target(ref=ObjectRef("", "v1", "services", namespace, name), kind="Service")
    return DriftedObject(target=target, managed_by=None, state=EXTRA)


FOUND = [drifted("shop", "a"), drifted("shop", "b"), drifted("lost", "c"), drifted("", "d")]


def series(*, succeeded: datetime | None) -> list[str]:
    text = generate_latest(collect(FOUND, TOTALS, seconds=1.5, succeeded=succeeded)).decode()
    return sorted(line for line in text.splitlines() if not line.startswith("#"))


def test_every_namespace_with_managed_or_drifted_objects_has_a_number() -> None:
    assert series(succeeded=NOW) == [
        'driftwall_scan_drifted_objects{namespace=""} 1.0',
        'driftwall_scan_drifted_objects{namespace="calm"} 0.0',
        'driftwall_scan_drifted_objects{namespace="lost"} 1.0',
        'driftwall_scan_drifted_objects{namespace="shop"} 2.0',
        "driftwall_scan_duration_seconds 1.5",
        "driftwall_scan_last_success_timestamp_seconds 1.7698608e+09",
        "driftwall_scan_objects 9.0",
    ]


def test_what_has_not_seen_all_tells_neither_of_drift_nor_of_success() -> None:
    assert series(succeeded=None) == ["driftwall_scan_duration_seconds 1.5", "driftwall_scan_objects 9.0"]


@pytest.fixture
def other() -> Iterator[FakeCluster]:
    """A server that is no Pushgateway."""
    cluster = FakeCluster()
    yield cluster
    cluster.close()


def test_what_is_no_pushgateway_is_told_from_one(other: FakeCluster) -> None:
    metrics = collect(FOUND, TOTALS, seconds=1.5, succeeded=NOW)
    with pytest.raises(PushFailed, match=r"does not have the metrics of this scan: Unsupported method \('PUT'\)"):
        push(f"http://127.0.0.1:{other.port}", metrics, cluster="", whole=True)


@pytest.mark.parametrize("gateway", ["http://127.0.0.1:x", "http://[::1"])
def test_an_address_that_is_none_is_no_traceback(gateway: str) -> None:
    with pytest.raises(PushFailed, match=re.escape(f"the Pushgateway {gateway} does not have the metrics")):
        push(gateway, collect([], TOTALS, seconds=1, succeeded=NOW), cluster="", whole=True)


def test_a_pushgateway_that_never_answers_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhook.scan_metrics._SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gateway = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PushFailed, match="timed out"):
            push(gateway, collect([], TOTALS, seconds=1, succeeded=NOW), cluster="", whole=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pushgateway:9091"], "--pushgateway: 'pushgateway:9091' is no URL, such as http://HOST:PORT"),
        (["http://a:secret@b"], "--pushgateway: a user or a password in the URL is never sent: leave them out"),
        (
            ["http://a", "-n", "shop"],
            "--pushgateway tells of all namespaces: not with --manifests, --namespace or --since",
        ),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_scan(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["scan", "--pushgateway", *arguments]) == 64
    assert capsys.readouterr().err == f"driftwall: {said}\n"
