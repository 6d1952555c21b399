"""The management application: ``/livez``, ``/readyz`` and ``/metrics``, on a port of its own and without TLS.

It shows nothing of objects or policies, so that kubelet and Prometheus need no credentials.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Readiness:
    """Why reviews should not be sent here, by subject; ready once there is no reason left."""

    def __init__(self, **reasons: str) -> None:
        self._reasons = dict(reasons)

    def block(self, subject: str, reason: str) -> None:
        """Be unready because of ``subject`` until it is cleared."""
        self._reasons[subject] = reason

    def clear(self, subject: str) -> None:
        """Take back the reason given for ``subject``, if any."""
        self._reasons.pop(subject, None)

    def reasons(self) -> list[str]:
        """All reasons, one line each, sorted; none means ready."""
        return sorted(f"{subject}: {reason}" for subject, reason in self._reasons.items())


def create(readiness: Readiness, registry: CollectorRegistry) -> FastAPI:
    """The ASGI application; without the pages that document an API, since this is none."""
    app = FastAPI(title="driftwall", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        if reasons := readiness.reasons():
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), status_code=503)
        return PlainTextResponse("ok\n")

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return app
