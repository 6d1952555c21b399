"""OpenTelemetry traces: a span for each call, and one in it for each look-up. Imported only where they are asked for.

Spans go out by OTLP over HTTP from a thread of their own; what does not fit into its queue is dropped. All that is not
said here is as OpenTelemetry's own environment variables say:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from webhook.admission import ObjectRef, Review
from webhook.audit import MAX_TEXT, DecisionLog
from webhook.decision import Decision
from webhook.lookups import Objects
from webhook.metrics import verdict
from webhook.replies import Message
from webhook.server import Receive, Scope, Send
from webhook.servers import Application
from webhook.text import cut, escaped

# Where a collector takes traces, below its base URL (OTLP/HTTP).
_PATH: Final = "/v1/traces"
# What the API server sends, if it traces its requests (https://www.w3.org/TR/trace-context/).
_HEADERS: Final = (b"traceparent", b"tracestate")


class Tracing:
    """Makes spans and sends them to ``endpoint``, a base URL, or to where the environment says."""

    def __init__(self, endpoint: str | None, version: str) -> None:
        name = Resource.create().attributes[SERVICE_NAME]
        if str(name).startswith("unknown_service"):
            name = "driftwall"
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=endpoint and endpoint.rstrip("/") + _PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("driftwall", version)

    def of_calls(self, application: Application) -> Application:
        """``application`` with a span around each call, until its answer is out."""
        return _TracedCalls(application, self._tracer)

    def of_objects(self, objects: Objects) -> Objects:
        """``objects`` with a span around each look-up."""
        return _TracedObjects(objects, self._tracer)

    def of_log(self, log: DecisionLog) -> DecisionLog:
        """``log``, which also tells the span of the call what was decided: as much as metrics do, and where."""
        return _TracedLog(log)

    def close(self, seconds: float) -> None:
        """Send what waits, for at most ``seconds``."""
        # A daemon: a collector that does not answer must not keep the process from ending.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(seconds)


class _TracedCalls:
    def __init__(self, application: Application, tracer: Tracer) -> None:
        self._application = application
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        path = scope["path"] if scope["path"] in ("/validate", "/mutate") else "elsewhere"
        span = self._tracer.start_span(
            f"{scope['method']} {path}",
            self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": path},
        )
        end: int | None = None

        async def sending(message: Message) -> None:
            nonlocal end
            await send(message)
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(StatusCode.ERROR)
            else:
                end = time.time_ns()

        # Of an exception nothing is kept: its text may quote what was being read.
        with use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                await self._application(scope, receive, sending)
            finally:
                span.end(end)


class _TracedObjects:
    def __init__(self, objects: Objects, tracer: Tracer) -> None:
        self._objects = objects
        self._tracer = tracer

    async def get(self, ref: ObjectRef) -> dict[str, Any] | None:
        with self._span(ref, cached=False) as span:
            try:
                found = await self._objects.get(ref)
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise
            span.set_attribute("driftwall.found", found is not None)
            return found

    def cached(self, ref: ObjectRef) -> dict[str, Any] | None:
        found = self._objects.cached(ref)
        if found is not None:
            with self._span(ref, cached=True) as span:
                span.set_attribute("driftwall.found", True)
        return found

    def _span(self, ref: ObjectRef, *, cached: bool) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(
            "look-up",
            kind=SpanKind.CLIENT,
            attributes={"driftwall.object": _text(str(ref)), "driftwall.cached": cached},
            record_exception=False,
            set_status_on_exception=False,
        )


class _TracedLog(DecisionLog):
    def __init__(self, log: DecisionLog) -> None:
        super().__init__()
        self._log = log

    def write(self, review: Review, decision: Decision, *, time: datetime, seconds: float) -> None:
        self._log.write(review, decision, time=time, seconds=seconds)
        get_current_span().set_attributes(
            {
                "driftwall.uid": _text(review.uid),
                "driftwall.operation": review.operation,
                "driftwall.resource": _text(review.qualified_resource),
                "driftwall.subresource": _text(review.subresource),
                "driftwall.namespace": _text(review.namespace),
                "driftwall.name": _text(review.name),
                "driftwall.writer": decision.writer,
                "driftwall.verdict": verdict(decision),
                "driftwall.policies": [violation.name for violation in decision.violations],
                "driftwall.dry_run": review.dry_run,
            }
        )


def _text(text: str) -> str:
    return cut(escaped(text), MAX_TEXT)
