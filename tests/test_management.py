from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from tests.reviews import snapshot_of
from tests.serving import POLICY
from webhook.management import Readiness, create
from webhook.metrics import Metrics


def get(
    readiness: Readiness,
    path: str,
    *,
    method: str = "GET",
    accept: str = "*/*",
    registry: CollectorRegistry | None = None,
) -> tuple[int, str, str]:
    """Status, content type and body of one request, without a socket."""
    if registry is None:
        registry = CollectorRegistry()
        Gauge("driftwall_policies", "Policies in force.", registry=registry).set(3)
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "headers": [(b"accept", accept.encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    asyncio.run(create(readiness, registry)(scope, receive, send))
    headers = dict(messages[0]["headers"])
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], headers[b"content-type"].decode(), body.decode()


def test_it_is_alive_whether_ready_or_not() -> None:
    assert get(Readiness(policies="not loaded yet"), "/livez") == (200, "text/plain; charset=utf-8", "ok\n")


def test_it_is_ready_once_there_is_no_reason_left() -> None:
    readiness = Readiness(policies="not loaded yet", certificate="not loaded yet")
    status, _, body = get(readiness, "/readyz")
    assert (status, body) == (503, "certificate: not loaded yet\npolicies: not loaded yet\n")
    readiness.clear("certificate")
    readiness.clear("policies")
    readiness.clear("policies")
    assert get(readiness, "/readyz")[::2] == (200, "ok\n")
    readiness.block("shutdown", "finishing the requests in flight")
    assert get(readiness, "/readyz")[::2] == (503, "shutdown: finishing the requests in flight\n")


def test_metrics_come_in_the_format_that_is_asked_for() -> None:
    status, content_type, body = get(Readiness(), "/metrics")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert "driftwall_policies 3.0" in body
    _, content_type, body = get(Readiness(), "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert content_type.split(";")[0] == "application/openmetrics-text"
    assert body.endswith("# EOF\n")


def test_the_page_says_how_it_is_and_runs_nothing() -> None:
    metrics = Metrics("1.2.3")
    metrics.policies_in_force(snapshot_of(POLICY), 1_700_000_000)
    metrics.certificate_served(not_before=1_700_000_000, not_after=1_800_000_000)
    metrics.error(500, "internal")
    readiness = Readiness(policies="<script>alert(1)</script>")
    status, content_type, page = get(readiness, "/", registry=metrics.registry)
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    for part in (
        "<h1>driftwall 1.2.3</h1>",
        "<p>Not ready:\n<ul><li>policies: &lt;script&gt;alert(1)&lt;/script&gt;</ul>",
        "<tr><td>replicas<td>enforce<td>medium",
        "<tr><td>no verdict: internal<td>1\n",
        "<tr><td>reviews: deny<td>0\n",
        "Policies loaded: 2023-11-14 22:13:20 UTC. Certificate valid until: 2027-01-15 08:00:00 UTC.",
    ):
        assert part in page
    readiness.clear("policies")
    assert "<p>Ready.\n<ul></ul>" in get(readiness, "/", registry=metrics.registry)[2]
    assert "Policies loaded: never." in get(readiness, "/", registry=Metrics("1.2.3").registry)[2]


def test_nothing_else_is_there() -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/validate"):
        assert get(Readiness(), path)[0] == 404
    assert get(Readiness(), "/readyz", method="POST")[0] == 405
