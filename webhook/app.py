"""The wiring of ``driftwall serve``: settings to objects, and two uvicorn servers in one event loop.

A start that cannot succeed raises a DriftwallError. Signals: the first SIGTERM or SIGINT makes the process unready and
lets requests in flight finish; a second one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvicorn
import uvloop

from webhook import audit, management, pki, settings
from webhook.cluster.connection import Offline, connect
from webhook.cluster.objects import ObjectReader
from webhook.cluster.traces import Traces
from webhook.decision import decide
from webhook.errors import CertificateError, DriftwallError
from webhook.management import Readiness
from webhook.metrics import Metrics
from webhook.mutation import mutate
from webhook.policy_store import PolicyStore
from webhook.server import ReviewServer
from webhook.settings import Address, Option, Settings

# The API server keeps idle connections for 90 s; a server that closes them sooner makes writes fail that are just being
# sent. Prometheus and kubelet do not mind.
KEEP_ALIVE_SECONDS: Final = 120
# What is in flight at shutdown gets as long as the API server waits for a webhook by default; kubelet kills after 30 s.
DRAIN_SECONDS: Final = 10
# And what is idle gets this long to close properly: a client that is there answers at once, others never do.
CLOSE_SECONDS: Final = 1.0
# Connections that wait to be accepted; the kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 2048

Application = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner and says when it accepts connections."""

    def __init__(self, application: Application, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            application,
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            # No limit_concurrency: it counts idle connections too, and the API server keeps many.
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._sockets = sockets
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: they are for both servers together."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell those who wait for :attr:`accepting`."""
        await super().startup(sockets=sockets)
        self.accepting.set()

    async def run_to_end(self) -> None:
        """Serve until :meth:`drain`."""
        await self.serve(sockets=self._sockets)

    async def drain(self) -> None:
        """Accept no more, wait until the requests in flight are answered, and close all connections."""
        self.should_exit = True
        loop = asyncio.get_running_loop()
        give_up = loop.time() + CLOSE_SECONDS
        while self.server_state.connections and loop.time() < give_up:
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks)
                give_up = loop.time() + CLOSE_SECONDS
            await asyncio.sleep(0.05)  # uvicorn, too, finds out by looking, every 0.1 s
        self.force_exit = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What the servers are made of."""

    review: Application
    management: Application
    readiness: Readiness
    tls: ssl.SSLContext
    listen: list[socket.socket]
    management_listen: list[socket.socket]


def run(config: Settings) -> int:
    """Serve until a signal comes; returns the exit code of the process: 0, or 128 and the signal that came second.

    Raises:
        DriftwallError: what is wrong with settings, certificate, policies or addresses. Nothing was served.
    """
    metrics = Metrics(settings.version())
    decisions = audit.LineWriter(1, on_drop=metrics.log_drop)
    messages = audit.LineWriter(2)
    audit.log_to(messages)
    objects = None
    traces = None
    try:
        readiness = Readiness(certificate="not loaded yet", policies="not loaded yet", listener="not started yet")
        tls = tls_context(config)
        readiness.clear("certificate")
        store = PolicyStore(config.policies)
        metrics.policies.set(len(store.load().policies))
        readiness.clear("policies")
        connection = connect(config.kubeconfig)
        if isinstance(connection, Offline):
            _log.warning("offline, so writes that need a look-up will fail: %s", connection.reason)
        objects = ObjectReader(connection, on_result=metrics.lookup)
        traces = Traces(connection, on_result=metrics.trace)
        review = ReviewServer(
            policies=store,
            decide=decide,
            mutate=mutate,
            objects=objects,
            metrics=metrics,
            log=audit.DecisionLog(decisions),
            traces=traces,
        )
        parts = _Parts(
            review=review,
            management=management.create(readiness, metrics.registry),
            readiness=readiness,
            tls=tls,
            listen=[listen(settings.LISTEN, config.listen)],
            management_listen=[listen(settings.MANAGEMENT_LISTEN, config.management_listen)],
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(parts))
    finally:
        if objects is not None:
            objects.close()
        if traces is not None:
            traces.close()
        decisions.close()
        messages.close()


async def _serve(parts: _Parts) -> int:
    """Run both servers to their end, which a signal starts."""
    review = Server(parts.review, parts.listen, parts.tls)
    manage = Server(parts.management, parts.management_listen, None)
    signals: list[int] = []
    stop = asyncio.Event()
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - for mypy: a coroutine that runs has a task

    def on_signal(number: int) -> None:
        signals.append(number)
        stop.set()
        if len(signals) > 1:
            this.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        async with asyncio.TaskGroup() as group:
            reviewing = group.create_task(review.run_to_end())
            group.create_task(manage.run_to_end())
            await review.accepting.wait()
            await manage.accepting.wait()
            parts.readiness.clear("listener")
            addresses = {
                "listen": f"https://{_bound(parts.listen[0])}",
                "management": f"http://{_bound(parts.management_listen[0])}",
            }
            _log.info("ready", extra={"data": addresses})
            await stop.wait()
            parts.readiness.block("shutdown", "finishing the requests in flight")
            _log.info("shutting down; a second signal ends it at once")
            await review.drain()
            await reviewing
            # Only now, so that /readyz tells why until the last review is answered.
            await manage.drain()
    except asyncio.CancelledError:
        if len(signals) > 1:
            return 128 + signals[-1]  # what a shell reports for a process that a signal ended
        raise
    return 0


def tls_context(config: Settings, now: datetime | None = None) -> ssl.SSLContext:
    """What ``/validate`` is served with: TLS 1.2 or later, HTTP/1.1, and clients' certificates where a CA is given.

    Raises:
        CertificateError: a file cannot be read, or what is in it cannot be served at ``now``.
    """
    certificate, key = _read(settings.TLS_CERT, config.tls_cert), _read(settings.TLS_KEY, config.tls_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # it would cost us more than the client who asks
    context.set_alpn_protocols(["http/1.1"])
    try:
        pki.check(certificate, key, now=now or datetime.now(UTC))
    except CertificateError as error:
        raise CertificateError(f"{config.tls_cert} with {config.tls_key}: {error}") from None
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{config.tls_cert} with {config.tls_key} cannot be served: {error}") from None
    if config.client_ca is not None:
        authorities = _read(settings.CLIENT_CA, config.client_ca)
        try:
            pki.check_ca(authorities)
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (CertificateError, ssl.SSLError, UnicodeDecodeError) as error:
            raise CertificateError(f"{settings.CLIENT_CA.flag}: {config.client_ca}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def listen(option: Option, address: Address) -> socket.socket:
    """A socket bound to ``address`` that takes connections already. ``[::]`` takes those over IPv4 too.

    Raises:
        DriftwallError: the address cannot be had.
    """
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, sockaddr = infos[0]
        every = family == socket.AF_INET6 and sockaddr[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(sockaddr, family=family, backlog=BACKLOG, dualstack_ipv6=every)
    except OSError as error:
        # Python adds the address to strerror; a name that does not resolve has a number of its own, below zero.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise DriftwallError(f"{option.flag}: cannot listen on {address}: {reason}") from error


def _bound(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host=host, port=port)


def _read(option: Option, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{option.flag}: {path} cannot be read: {error.strerror}") from error
