"""Several processes that answer reviews for one replica, kept alive by the first, which answers none itself.

They accept from the same socket, so a connection waits for whoever is free, and outlives a worker that has not accepted
it yet. Each is a fresh interpreter: a fork of a process with threads may inherit locks that nobody will ever open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from webhook import settings
from webhook.channel import Channel, Count, Counted, Drain, Lead, Retire, Serve, Serving, State
from webhook.lines import Turns
from webhook.metrics import Metrics
from webhook.readiness import Readiness, call_from_thread
from webhook.servers import CLOSE_SECONDS, DRAIN_SECONDS
from webhook.settings import Settings
from webhook.tls import Material
from webhook.worker_metrics import Together

# Seconds that a scrape waits for a worker that is busy with a large review; then its last figures do.
_COUNT_SECONDS: Final = 1.0
# Seconds that a worker gets from its last reply to its end: for Events and lines of the log that wait.
_END_SECONDS: Final = 8.0
# Seconds until a worker that died is replaced: none, if it had lived for as long as the second figure; twice as many
# after each death that comes sooner, so that one that cannot start does not take the machine.
_LONGEST_PAUSE: Final = 30.0
_LIVED: Final = 10.0

_log = logging.getLogger(__name__)


class _Worker:
    """One process, and what it has told."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process = process
        self.channel = channel
        self.serving: str | None = None
        self.told = self.ready = False
        self.counted: dict[int, asyncio.Future[None]] = {}


class Workers:
    """The workers of this replica. But for what says otherwise, all of it is for one event loop."""

    def __init__(
        self,
        config: Settings,
        listener: socket.socket,
        *,
        metrics: Metrics,
        readiness: Readiness,
        leads: Callable[[], bool],
        turns: Turns,
    ) -> None:
        self._config = config
        self._listener = listener
        self._metrics = metrics
        self._readiness = readiness
        self._leads = leads
        self._loop = asyncio.get_running_loop()
        self._turns = turns
        self._material: Material | None = None
        self._workers: dict[int, _Worker] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._counts = 0
        #: The metrics of all processes.
        self.metrics = Together(metrics.registry)
        #: Set once each worker has said how it is.
        self.looked = asyncio.Event()

    # The certificate

    def install(self, material: Material, context: ssl.SSLContext) -> None:  # noqa: ARG002 - theirs cannot be sent
        """Have all serve new connections with this; may be called from any thread."""
        call_from_thread(self._loop, lambda: self._install(material))

    def _install(self, material: Material) -> None:
        self._material = material
        for worker in self._workers.values():
            worker.channel.send(Serve.of(material))

    def serving(self) -> list[str]:
        """The certificates that new connections get, by fingerprint; may be called from any thread."""
        return sorted({worker.serving for worker in tuple(self._workers.values()) if worker.serving})

    def lead(self, leads: bool) -> None:
        """Tell the first worker whether this replica leads; may be called from any thread."""
        call_from_thread(self._loop, lambda: self._lead(leads=leads))

    def _lead(self, *, leads: bool) -> None:
        if 0 in self._workers:
            self._workers[0].channel.send(Lead(leads=leads))

    # Life

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Start them, and return once each has said how it is; a certificate was installed before."""
        for number in range(self._config.workers):
            self._readiness.block(_subject(number), "not started yet")
            self._keepers.append(group.create_task(self._keep(number)))
        await self.looked.wait()

    async def refresh(self) -> None:
        """Get the metrics of all of them."""
        self._counts += 1
        pending = []
        for worker in self._workers.values():
            pending.append(worker.counted.setdefault(self._counts, self._loop.create_future()))
            worker.channel.send(Count(number=self._counts))
        if pending:
            await asyncio.wait(pending, timeout=_COUNT_SECONDS)

    def retire(self) -> None:
        """See :meth:`Server.retire`."""
        for worker in self._workers.values():
            worker.channel.send(Retire())

    async def drain(self) -> None:
        """Have all of them answer what is in flight, and end; kill those that do not."""
        self._ending.set()
        for worker in self._workers.values():
            worker.channel.send(Drain())
        self._listener.close()
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=DRAIN_SECONDS + CLOSE_SECONDS + _END_SECONDS)
            if late:
                _log.error("%d worker processes did not end in time and are killed", len(late))
                self.close()

    def close(self) -> None:
        """Kill those that are still there."""
        self._ending.set()
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()

    async def _keep(self, number: int) -> None:
        """Run one worker, and another one whenever it ends."""
        pause = 0.0
        while not self._ending.is_set():
            began = self._loop.time()
            worker = await self._spawn(number)
            try:
                await self._hear(number, worker)
                code = await worker.process.wait()
            finally:
                if worker.process.returncode is None:
                    worker.process.kill()
                self._forget(number, worker)
            if self._ending.is_set():
                return
            self._metrics.worker_restarts.inc()
            _log.error("worker %d (pid %d) ended with %d and is replaced", number, worker.process.pid, code)
            self._readiness.block(_subject(number), f"it ended with {code} and is being replaced")
            pause = 0.0 if self._loop.time() - began >= _LIVED else min(2 * pause or 1.0, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        descriptors = (theirs.fileno(), self._turns.file, self._listener.fileno())
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # not from the current folder, unless we ourselves are
                "-m",
                "webhook.worker",
                *map(str, descriptors),
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                # A Ctrl-C in a terminal is for the first process, which ends the others in good order.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        worker = self._workers[number] = _Worker(process, await Channel.open(ours))
        assert self._material is not None  # noqa: S101 - for mypy: see start
        worker.channel.send(Serve.of(self._material, settings.flags(self._config)))
        if number == 0:
            self._lead(leads=self._leads())
        return worker

    async def _hear(self, number: int, worker: _Worker) -> None:
        """Take what a worker tells, until it is gone."""
        async for message in worker.channel.answers():
            match message:
                case Serving(fingerprint=fingerprint):
                    worker.serving = fingerprint
                case State(reasons=reasons, remarks=remarks):
                    self._hear_state(number, worker, reasons, remarks)
                case Counted(number=count, families=told):
                    self.metrics.workers[number] = told
                    if (waiting := worker.counted.pop(count, None)) is not None and not waiting.done():
                        waiting.set_result(None)

    def _hear_state(self, number: int, worker: _Worker, reasons: list[str], remarks: list[str]) -> None:
        subject = _subject(number)
        if reasons:
            self._readiness.block(subject, *reasons)
        elif remarks:
            self._readiness.note(subject, *remarks)
        else:
            self._readiness.clear(subject)
        worker.told, worker.ready = True, not reasons
        self._count_ready()
        if sum(worker.told for worker in self._workers.values()) == self._config.workers:
            self.looked.set()

    def _forget(self, number: int, worker: _Worker) -> None:
        del self._workers[number]
        worker.channel.close()
        for waiting in worker.counted.values():
            if not waiting.done():
                waiting.set_result(None)
        self.metrics.end(number)
        self._count_ready()

    def _count_ready(self) -> None:
        self._metrics.workers.set(sum(worker.ready for worker in self._workers.values()))


def _subject(number: int) -> str:
    return f"worker {number}"
