"""The wiring of ``driftwall serve``: settings to objects, and their life from start to end.

A start that cannot succeed raises a DriftwallError. Signals: the first SIGTERM makes the process unready, leaves it
serving while its endpoint goes away, and lets requests in flight finish; SIGINT, a person's, does not wait for
endpoints. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import uvloop
from prometheus_client import CollectorRegistry

from webhook import audit, certificate, management, settings, webhook_config
from webhook.certificate import Certificate, FileSource
from webhook.cluster import leases
from webhook.cluster.connection import ApiServer, Offline, connect
from webhook.cluster.leases import Election
from webhook.cluster.replicas import Replicas
from webhook.cluster.resources import Resources
from webhook.errors import SettingsError
from webhook.lines import LineWriter, Stream, Turns, turns_file
from webhook.metrics import Metrics
from webhook.periodic import Periodic
from webhook.readiness import FromThreads, Readiness, call_from_thread
from webhook.reviewing import LOG_SECONDS, Alone, Reviewing, log_file, policy_source, settle, wants_tracing
from webhook.rotation import Terms
from webhook.servers import Application, Server, bound, limit_files, listen
from webhook.settings import Settings
from webhook.tls import Material
from webhook.upkeep import SETTLED_AFTER, Place, SecretSource
from webhook.workers import Workers

__all__ = ["Application", "Server", "listen", "run"]

# What everything of driftwall's own in its namespace is called that has no name of its own.
LEASE: Final = "driftwall"

_log = logging.getLogger(__name__)


class Front(Protocol):
    """Whoever answers reviews: this process, or workers."""

    looked: asyncio.Event

    def install(self, material: Material, context: ssl.SSLContext) -> None: ...
    def serving(self) -> list[str]: ...
    def lead(self, leads: bool) -> None: ...
    async def start(self, group: asyncio.TaskGroup) -> None: ...
    async def refresh(self) -> None: ...
    def retire(self) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What there is before the event loop."""

    config: Settings
    connection: ApiServer | Offline
    metrics: Metrics
    turns: Turns | None
    listener: socket.socket
    management_listener: socket.socket


def run(config: Settings) -> int:
    """Serve until a signal comes; returns the exit code of the process: 0, or 128 and the signal that came second.

    Raises:
        DriftwallError: what is wrong with settings, certificate or addresses. Nothing was served. Policies that do not
            load are no such thing: the process waits, unready, for better ones.
    """
    _open_standard_files()
    turns = Turns(turns_file()) if config.workers > 1 else None
    messages = LineWriter(Stream(2, turns))
    audit.log_to(messages)
    limit_files()
    try:
        if config.tls_files is not None:
            certificate.load(config)
        certificate.client_ca(config)
        connection = connect(config.kubeconfig)
        if isinstance(connection, Offline):
            if config.tls_files is None:
                raise SettingsError(
                    f"{settings.SERVICE.flag} without {settings.TLS_CERT.flag} needs a way to the API server "
                    f"({connection.reason}); give {settings.KUBECONFIG.flag} FILE"
                )
            _log.warning(
                "offline, so writes that need a look-up will fail, and no Event is written: %s", connection.reason
            )
        policy_source(config, connection, lambda: False)  # for what it raises
        _check_log_file(config)
        wants_tracing(config, os.environ)
        parts = _Parts(
            config=config,
            connection=connection,
            metrics=Metrics(settings.version()),
            turns=turns,
            listener=listen(settings.LISTEN, config.listen),
            management_listener=listen(settings.MANAGEMENT_LISTEN, config.management_listen),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(parts))
    finally:
        messages.close(LOG_SECONDS)


def _check_log_file(config: Settings) -> None:
    try:
        if (file := log_file(config)) is not None:
            file.check()
    except OSError as error:
        raise SettingsError(
            f"{settings.DECISION_LOG.flag}: {config.decision_log} cannot be written: {error.strerror}"
        ) from error


def _open_standard_files() -> None:
    """Open what was closed when the process started: the next socket would get its number, and our lines with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


async def _serve(parts: _Parts) -> int:
    return await _Replica(parts).run()


class _Replica:
    """One replica, in the event loop of its first process."""

    def __init__(self, parts: _Parts) -> None:
        self._config = parts.config
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._metrics = parts.metrics
        self._readiness = Readiness(certificate="not loaded yet", policies="not loaded yet", listener="not started yet")
        self._metrics.ready.set_function(self._readiness.ready.is_set)
        self._resources = Resources(parts.connection)
        self._election = self._candidate()
        self._front = self._made_front()
        self._certificate = Certificate(
            install=self._install, health=FromThreads(self._readiness, self._loop), metrics=self._metrics
        )
        self._registry = self._made_registry()
        self._first_certificate = asyncio.Event()
        self._looked = asyncio.Event()
        self._started = False
        self._signals: list[int] = []
        self._stop = asyncio.Event()
        self._addresses = {
            "listen": f"https://{bound(parts.listener)}",
            "management": f"http://{bound(parts.management_listener)}",
        }

    async def run(self) -> int:
        """Serve until a signal comes; see :func:`run`."""
        this = asyncio.current_task()
        assert this is not None  # noqa: S101 - for mypy: a coroutine that runs has a task
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signal, number, this)
        application = management.create(self._readiness, self._registry, self._front.refresh)
        manage = Server(application, [self._parts.management_listener], None)
        threads = self._threads()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(manage.run_to_end())
                await manage.accepting.wait()
                for thread in threads:
                    thread.start()
                starting = group.create_task(self._start(group))
                await self._stop.wait()
                starting.cancel()
                await self._end()
                # Only now, so that /readyz tells why until the last review is answered.
                await manage.drain()
        except asyncio.CancelledError:
            if len(self._signals) > 1:
                return 128 + self._signals[-1]  # what a shell reports for a process that a signal ended
            raise
        finally:
            for thread in threads:
                thread.close()
            self._front.close()
        return 0

    async def _start(self, group: asyncio.TaskGroup) -> None:
        """Begin to answer reviews, once there is a certificate, and say where."""
        await self._looked.wait()
        if not self._first_certificate.is_set():
            _log.warning("not ready yet; /readyz says why", extra={"data": self._addresses})
        await self._first_certificate.wait()
        self._started = True
        await self._front.start(group)
        self._readiness.clear("listener")
        await self._front.looked.wait()
        settle()
        if not self._readiness.ready.is_set():
            _log.warning("not ready yet; /readyz says why", extra={"data": self._addresses})
        await self._readiness.ready.wait()
        _log.info("ready", extra={"data": self._addresses})

    async def _end(self) -> None:
        """Let the clients go, then the requests in flight end."""
        self._readiness.block("shutdown", "finishing the requests in flight")
        _log.info("shutting down; a second signal ends it at once")
        if not self._started:
            return
        self._front.retire()
        if self._signals[0] == signal.SIGTERM:
            await asyncio.sleep(self._config.shutdown_delay)
        await self._front.drain()

    def _signal(self, number: int, this: asyncio.Task[Any]) -> None:
        self._signals.append(number)
        self._stop.set()
        if len(self._signals) > 1:
            this.cancel()

    # What it is made of

    def _made_front(self) -> Front:
        parts, leads = self._parts, self._election.leads if self._election else lambda: True
        if self._config.workers > 1:
            assert parts.turns is not None  # noqa: S101 - for mypy: see run
            self._readiness.clear("policies")  # each worker has its own
            return Workers(
                self._config,
                parts.listener,
                metrics=self._metrics,
                readiness=self._readiness,
                leads=leads,
                turns=parts.turns,
            )
        reviewing = Reviewing(
            self._config, connection=parts.connection, metrics=self._metrics, readiness=self._readiness, leads=leads
        )
        return Alone(reviewing, [parts.listener], self._metrics)

    def _made_registry(self) -> CollectorRegistry:
        if not isinstance(self._front, Workers):
            return self._metrics.registry
        registry = CollectorRegistry()
        registry.register(self._front.metrics)
        return registry

    def _install(self, material: Material, context: ssl.SSLContext) -> None:
        self._front.install(material, context)
        call_from_thread(self._loop, self._first_certificate.set)

    def _candidate(self) -> Election | None:
        """Who takes part in the election, where there is one."""
        if self._config.service is None or isinstance(self._parts.connection, Offline):
            return None
        return Election(
            self._resources,
            path=leases.path_of(self._config.service.namespace, LEASE),
            identity=f"{socket.gethostname()}_{secrets.token_hex(4)}",
            on_change=self._lead,
        )

    def _lead(self, leads: bool) -> None:
        self._metrics.leader.set(leads)
        self._front.lead(leads)

    def _threads(self) -> list[Periodic]:
        """What goes on beside the replies."""
        election, interval = self._election, self._config.reload_interval
        threads = []
        if election is not None:
            threads.append(Periodic("lease", election.step, leases.RETRY, last=election.release))
        if self._config.tls_files is not None:
            step = FileSource(self._config, self._certificate).step
            threads.append(Periodic("certificate", self._looking(step), interval))
        else:
            source = self._secret_source()
            threads.append(Periodic("certificate", self._looking(source.step), interval, last=source.withdraw))
        return threads

    def _looking(self, step: Callable[[], None]) -> Callable[[], None]:
        """``step``, and that it was done once."""

        def look() -> None:
            try:
                step()
            finally:
                call_from_thread(self._loop, self._looked.set)

        return look

    def _secret_source(self) -> SecretSource:
        config, election = self._config, self._election
        assert config.service is not None  # noqa: S101 - for mypy: there are settings for one or the other
        assert election is not None  # noqa: S101 - for mypy: run has seen to it
        place = Place(service=config.service, secret=config.tls_secret, configurations=webhook_config.NAME)
        replicas = Replicas(
            self._resources,
            path=leases.path_of(config.service.namespace, LEASE),
            identity=secrets.token_hex(4),
            host=socket.gethostname(),
            look=config.reload_interval,
        )
        return SecretSource(
            self._resources,
            place=place,
            terms=Terms(hosts=place.hosts, lifetime=config.certificate_lifetime, ca_lifetime=config.ca_lifetime),
            certificate=self._certificate,
            replicas=replicas,
            leads=election.leads,
            serving=self._front.serving,
            client_ca=lambda: certificate.client_ca(config),
            settled_after=SETTLED_AFTER * config.reload_interval,
        )
