"""All that one process needs to answer reviews: policies, look-ups, log, and what decisions leave behind."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from webhook import budget, pki, settings
from webhook.audit import DecisionLog
from webhook.cluster import own_pod
from webhook.cluster.connection import ApiServer, Offline
from webhook.cluster.objects import ObjectReader
from webhook.cluster.policies import ClusterPolicies, required
from webhook.cluster.traces import Traces
from webhook.decision import decide
from webhook.errors import SettingsError
from webhook.lines import LineWriter, Output, Stream, Turns
from webhook.log_file import LogFile
from webhook.lookups import Objects
from webhook.metrics import Metrics
from webhook.mutation import mutate
from webhook.policy_compiler import USUAL_ACCOUNT
from webhook.policy_files import PolicyFiles
from webhook.policy_source import Source
from webhook.policy_store import PolicyStore
from webhook.readiness import Readiness
from webhook.server import ReviewServer
from webhook.servers import Application, Server
from webhook.settings import Settings
from webhook.tls import Material, Swappable

if TYPE_CHECKING:
    from webhook.tracing import Tracing

# Seconds that the last lines of a log may take at shutdown: a reader that is there needs milliseconds.
LOG_SECONDS: Final = 2.0

# Containers made and not freed before the garbage collector looks for cycles among them: some of those are a megabyte.
# No decision makes any, but hundreds of containers, so by default it looks after each.
_GARBAGE: Final = 10_000

_log = logging.getLogger(__name__)


class Reviewing:
    """``application`` is to be served, by :meth:`run`; ``policies`` are what it decides by.

    Raises:
        SettingsError: the policies are to come from the cluster, to which there is no way.
    """

    def __init__(
        self,
        config: Settings,
        *,
        connection: ApiServer | Offline,
        metrics: Metrics,
        readiness: Readiness,
        leads: Callable[[], bool],
        turns: Turns | None = None,
    ) -> None:
        source = policy_source(config, connection, leads)
        self._decisions = [
            LineWriter(output, on_drop=partial(metrics.log_drop, name))
            for name, output in log_outputs(config, turns).items()
        ]
        self._objects = ObjectReader(connection, on_result=metrics.lookup)
        self._traces = Traces(connection, on_result=metrics.trace)
        self.policies = PolicyStore(
            source, metrics=metrics, health=readiness, on_problems=own_pod.teller(self._traces, os.environ)
        )
        self._tracing = _tracing(config)
        objects: Objects = self._objects
        log = DecisionLog(*self._decisions)
        if self._tracing is not None:
            objects = self._tracing.of_objects(objects)
            log = self._tracing.of_log(log)
        # With several, the first one decides nothing and takes its part all the same.
        room = budget.Budget(budget.for_reviews(config.workers + (config.workers > 1)))
        server = ReviewServer(
            policies=self.policies,
            decide=decide,
            mutate=mutate,
            objects=objects,
            metrics=metrics,
            log=log,
            traces=self._traces,
            budget=room,
        )
        metrics.at_scrapes(in_flight=lambda: server.in_flight, memory=lambda: room.taken, memory_limit=room.total)
        self.application: Application = self._tracing.of_calls(server) if self._tracing is not None else server

    def close(self) -> None:
        """Write what waits, for a few seconds."""
        self._objects.close()
        self._traces.close()
        for lines in self._decisions:
            lines.close(LOG_SECONDS)
        if self._tracing is not None:
            self._tracing.close(LOG_SECONDS)


class Alone:
    """The one process that answers reviews and does all the rest, too."""

    def __init__(self, reviewing: Reviewing, listeners: list[socket.socket], metrics: Metrics) -> None:
        self._reviewing = reviewing
        self._metrics = metrics
        self._context = Swappable()
        self._server = Server(reviewing.application, listeners, self._context)
        self._serving: list[str] = []
        self._running: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        #: Set once the policies were looked at, be they good or bad.
        self.looked = reviewing.policies.looked

    def install(self, material: Material, context: ssl.SSLContext) -> None:
        """Serve new connections with this from now on; may be called from any thread."""
        self._context.swap(context)
        self._serving = [pki.fingerprint(material.certificate)]

    def serving(self) -> list[str]:
        """The certificates that new connections get, by fingerprint; may be called from any thread."""
        return self._serving

    def lead(self, leads: bool) -> None:
        """Nobody else has to know."""

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Accept connections; a certificate was installed before."""
        self._following = group.create_task(self._reviewing.policies.follow())
        self._running = group.create_task(self._server.run_to_end())
        await self._server.accepting.wait()
        self._metrics.workers.set(1)

    async def refresh(self) -> None:
        """The metrics are up to date."""

    def retire(self) -> None:
        """See :meth:`Server.retire`."""
        self._server.retire()

    async def drain(self) -> None:
        """Answer what is in flight, and end."""
        if self._following is not None and self._running is not None:
            self._following.cancel()
            await self._server.drain()
            await self._running

    def close(self) -> None:
        """Write what waits."""
        self._reviewing.close()


def settle() -> None:
    """Keep what was made so far out of the garbage collector's sight: it stays.

    Otherwise each of its full collections looks through all of it, a tenth of a second in which nothing is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def log_outputs(config: Settings, turns: Turns | None = None) -> dict[str, Output]:
    """Where the decision log goes, by the names that the metrics have for it."""
    outputs: dict[str, Output] = {"stdout": Stream(1, turns)}
    if (file := log_file(config)) is not None:
        outputs["file"] = file
    return outputs


def log_file(config: Settings) -> LogFile | None:
    """The file of the decision log, if it goes to one."""
    if config.decision_log is None:
        return None
    size, files = config.decision_log_max_size * 2**20, config.decision_log_max_files
    return LogFile(config.decision_log, max_bytes=size, max_files=files)


def _tracing(config: Settings) -> Tracing | None:
    if not wants_tracing(config, os.environ):
        return None
    from webhook.tracing import Tracing  # noqa: PLC0415 - what it imports is an extra

    return Tracing(config.otlp_endpoint, settings.version())


def wants_tracing(config: Settings, environ: Mapping[str, str]) -> bool:
    """Whether traces are to be sent: where somebody says where to, by our flag or as OpenTelemetry has it.

    Raises:
        SettingsError: by our flag, and OpenTelemetry is not installed.
    """
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if config.otlp_endpoint is None and not any(environ.get(name) for name in variables):
        return False
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    try:
        there = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        there = False
    if not there and config.otlp_endpoint is not None:
        raise SettingsError(f"{settings.OTLP_ENDPOINT.flag} needs OpenTelemetry; pip install 'driftwall[otel]'")
    if not there:
        # An operator may set it for every pod of a cluster.
        _log.warning("no traces are sent: OpenTelemetry is not installed; pip install 'driftwall[otel]'")
    return there


def policy_source(config: Settings, connection: ApiServer | Offline, leads: Callable[[], bool]) -> Source:
    """Where the policies come from; ``leads`` says whether it is for this process to write their status.

    Raises:
        SettingsError: from the cluster, to which there is no way.
    """
    account = connection.account() or USUAL_ACCOUNT
    if config.policies is not None:
        return PolicyFiles(config.policies, account=account)
    return ClusterPolicies(required(connection), is_leader=leads, account=account)
