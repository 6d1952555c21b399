"""One of several processes of a replica that answer reviews, started by :mod:`webhook.workers`.

It has no port, no certificate and no Lease of its own: all that comes from the first process, over the channel. It ends
when that says so, or is gone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

import uvloop

from webhook import audit, pki, settings, tls
from webhook.channel import Channel, Count, Counted, Down, Drain, Lead, Retire, Serve, Serving, State
from webhook.cluster.connection import connect
from webhook.errors import DriftwallError
from webhook.lines import LineWriter, Stream, Turns
from webhook.metrics import Metrics
from webhook.readiness import Readiness
from webhook.reviewing import LOG_SECONDS, Reviewing, settle
from webhook.servers import Server
from webhook.tls import Swappable
from webhook.worker_metrics import families

_log = logging.getLogger(__name__)


class Worker:
    """Answers reviews, as the first process says."""

    def __init__(self, channel: Channel, listener: socket.socket, turns: Turns) -> None:
        self._channel = channel
        self._listener = listener
        self._turns = turns
        self._metrics = Metrics(settings.version())
        self._readiness = Readiness(policies="not loaded yet", listener="not started yet")
        self._context = Swappable()
        self._leads = False

    async def work(self) -> None:
        """Serve until told to end, or until nobody is there to tell."""
        messages = self._channel.commands()
        first = await anext(messages, None)
        if not isinstance(first, Serve):
            return
        config = settings.read(first.flags, {})
        self._serve(first)
        reviewing = Reviewing(
            config,
            connection=connect(config.kubeconfig),
            metrics=self._metrics,
            readiness=self._readiness,
            leads=lambda: self._leads,
            turns=self._turns,
        )
        server = Server(reviewing.application, [self._listener], self._context)
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(reviewing.policies.follow())
                running = group.create_task(server.run_to_end())
                await server.accepting.wait()
                # Bad policies are something to report, too; before they were looked at there is nothing to say.
                await reviewing.policies.looked.wait()
                settle()
                self._readiness.on_change = self._tell
                self._readiness.clear("listener")
                async for message in messages:
                    if isinstance(message, Drain):
                        break
                    self._obey(message, server)
                following.cancel()
                await server.drain()
                await running
        finally:
            await asyncio.to_thread(reviewing.close)

    def _obey(self, message: Down, server: Server) -> None:
        match message:
            case Serve():
                self._serve(message)
            case Lead(leads=leads):
                self._leads = leads
            case Count(number=number):
                self._channel.send(Counted(number=number, families=families(self._metrics.registry)))
            case Retire():
                server.retire()
            case Drain():  # the end of those who ask
                pass

    def _serve(self, message: Serve) -> None:
        material = message.material
        self._context.swap(tls.context(material))
        self._channel.send(Serving(fingerprint=pki.fingerprint(material.certificate)))

    def _tell(self) -> None:
        self._channel.send(State(reasons=self._readiness.reasons(), remarks=self._readiness.remarks()))


def main(control: int, turns: int, listener: int) -> int:
    """Work; the arguments are file descriptors. Returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for the first process, which says what follows from them
    messages = LineWriter(Stream(2, Turns(turns)))
    audit.log_to(messages)

    async def work() -> None:
        channel = await Channel.open(socket.socket(fileno=control))
        try:
            await Worker(channel, socket.socket(fileno=listener), Turns(turns)).work()
        finally:
            channel.close()

    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    except* DriftwallError as errors:
        code = 1
        for error in errors.exceptions:
            _log.error("%s", error)
    finally:
        messages.close(LOG_SECONDS)
    return code


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:4])))
