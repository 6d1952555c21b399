from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.following import wait_for
from tests.running import started
from tests.serving import PATIENCE, POLICY, Certificates, certificates, review
from webhook import reviewing, settings
from webhook.errors import SettingsError

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SCALE = {
    "apiVersion": "autoscaling/v1",
    "kind": "Scale",
    "metadata": {"name": "web", "namespace": "shop", "uid": "7a1c"},
}
VARIABLES = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # milliseconds from a span to its being sent


class Collector:
    """Takes traces as a collector does: OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        self.answering = threading.Event()
        self.answering.set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                collector.requests.append((self.path, request))
                collector.answering.wait(PATIENCE)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that has ended meanwhile is none of ours."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self, count: int) -> list[Span]:
        """That many spans, once they are there."""
        wait_for(lambda: len(self._spans()) >= count, f"{count} spans")
        return self._spans()

    def _spans(self) -> list[Span]:
        scopes = [
            scope for _, request in self.requests for each in request.resource_spans for scope in each.scope_spans
        ]
        return [span for scope in scopes for span in scope.spans]

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(self.requests[0][1].resource_spans[0].resource)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: plain(each.value) for each in of.attributes}


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return certificates(tmp_path)


def test_a_review_is_a_span_in_the_trace_of_the_api_server(made: Certificates, collector: Collector) -> None:
    with started(made, "--otlp-endpoint", f"{collector.url}/", variables=VARIABLES) as running:
        headers = {"Content-Type": "application/json", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = running.client.request("POST", "/validate?timeout=10s", json.dumps(review()).encode(), headers)
        assert answer.json["response"]["allowed"] is False
        (span,) = collector.spans(1)
        assert running.stop() == 0
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    assert collector.resource["service.name"] == "driftwall"
    assert (span.name, span.kind) == ("POST /validate", Span.SpanKind.SPAN_KIND_SERVER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/validate",
        "http.response.status_code": 200,
        "driftwall.uid": "0b9e",
        "driftwall.operation": "UPDATE",
        "driftwall.resource": "deployments.apps",
        "driftwall.subresource": "",
        "driftwall.namespace": "shop",
        "driftwall.name": "web",
        "driftwall.writer": "untrusted",
        "driftwall.verdict": "deny",
        "driftwall.policies": ["replicas"],
        "driftwall.dry_run": False,
    }


def test_a_look_up_is_a_span_in_that_of_its_review_and_both_tell_of_a_failure(
    made: Certificates, collector: Collector
) -> None:
    kind = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    sides = {"oldObject": {**SCALE, "spec": {"replicas": 2}}, "object": {**SCALE, "spec": {"replicas": 5}}}
    variables = {**VARIABLES, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "guard"}
    with started(made, "--workers", "2", variables=variables) as running:
        assert running.client.post(review(kind=kind, subResource="scale", **sides)).status == 500
        spans = {span.name: span for span in collector.spans(2)}
        assert running.stop() == 0
    call, look_up = spans["POST /validate"], spans["look-up"]
    assert collector.resource["service.name"] == "guard"
    assert (look_up.trace_id, look_up.parent_span_id) == (call.trace_id, call.span_id)
    assert not call.parent_span_id
    assert {call.status.code, look_up.status.code} == {2}  # STATUS_CODE_ERROR
    assert attributes(call)["http.response.status_code"] == 500
    assert attributes(look_up) == {
        "driftwall.object": 'deployments.apps "web" in namespace "shop"',
        "driftwall.cached": False,
    }
    # Neither says in its own words what went wrong: those may quote what was being read.
    assert [*call.events, *look_up.events] == []


def test_a_collector_that_hangs_delays_no_reply_and_no_end(made: Certificates, collector: Collector) -> None:
    collector.answering.clear()
    with started(made, "--otlp-endpoint", collector.url, variables=VARIABLES) as running:
        assert running.client.post(review()).status == 200
        wait_for(lambda: collector.requests, "the first request")
        for _ in range(20):
            assert running.client.post(review()).status == 200  # nobody answers, so this would hang if it waited
        assert running.stop() == 0
        assert len(running.logged()) == 21


def read(**flags: str) -> settings.Settings:
    return settings.read({"policies": "p", "tls_cert": "c", "tls_key": "k", **flags}, {})


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_sent_only_where_somebody_asks_for_them(environ: dict[str, str], wanted: bool) -> None:
    assert reviewing.wants_tracing(read(), environ) is wanted


def test_without_opentelemetry_the_flag_is_an_error_and_the_variable_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"--otlp-endpoint needs OpenTelemetry; pip install 'driftwall\[otel\]'"):
        reviewing.wants_tracing(read(otlp_endpoint="http://x:4318"), {})
    assert reviewing.wants_tracing(read(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}) is False
    assert caplog.messages == ["no traces are sent: OpenTelemetry is not installed; pip install 'driftwall[otel]'"]


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = "import sys, webhook.app; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
