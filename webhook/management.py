"""The management application: ``/livez``, ``/readyz``, ``/metrics`` and a page, on a port of its own and without TLS.

It shows nothing of objects and writers, and of policies only names, modes and what does not load, so kubelet and
Prometheus need no credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from webhook import status_page
from webhook.readiness import Readiness

__all__ = ["Readiness", "create"]


async def _nothing() -> None:
    """What a registry needs that always knows all."""


def create(
    readiness: Readiness, registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]] = _nothing
) -> FastAPI:
    """The ASGI application; without the pages that document an API, since this is none.

    ``refresh`` is awaited before ``registry`` is read.
    """
    app = FastAPI(title="driftwall", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def status() -> HTMLResponse:
        await refresh()
        return HTMLResponse(status_page.render(readiness, registry))

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        if reasons := readiness.reasons():
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), status_code=503)
        return PlainTextResponse("".join(f"{line}\n" for line in ("ok", *readiness.remarks())))

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        await refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return app
