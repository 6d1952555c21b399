"""uvicorn as driftwall runs it: without signals of its own, and so that no request is lost when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, Final

import uvicorn

from webhook.connections import KEEP_ALIVE_SECONDS, Connection, abort, close_late
from webhook.errors import DriftwallError
from webhook.handshakes import Entrance
from webhook.settings import Address, Option

# What is in flight at shutdown gets as long as the API server waits for a webhook by default; kubelet kills after 30 s.
DRAIN_SECONDS: Final = 10
# And what is idle gets this long to close properly: a client that is there answers at once, others never do.
CLOSE_SECONDS: Final = 1.0
# Connections that wait to be accepted; the kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 2048
# Connections at once. Each takes 65 KB, an API server has as many as writes in flight (200 by default) for every one of
# ours, and seldom are more than five in a cluster.
MAX_CONNECTIONS: Final = 1024
# And those whose handshake is not done yet: if it never is, one may still take two seconds where 250 begin each second.
MAX_HANDSHAKES: Final = 512
# Connections to the port for kubelet, Prometheus and people.
MAX_MANAGEMENT: Final = 128
# Files that are open at once: all of those, and 384 of our own, of which a few dozen are seen. Where the kernel allows
# fewer, each has its share of these.
MAX_FILES: Final = 2048

_CLOSE: Final = (b"connection", b"close")

Application = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


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
            timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
            timeout_graceful_shutdown=DRAIN_SECONDS,
            # No limit_concurrency: it counts idle connections too, and the API server keeps many.
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._sockets = sockets
        self._entering: list[asyncio.Task[None]] = []
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: they are for both servers together."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell those who wait for :attr:`accepting`.

        As uvicorn does, which has no way to say how long a handshake may take, or how many there may be.
        """
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        tls = self.config.ssl
        most = _share(MAX_CONNECTIONS if tls else MAX_MANAGEMENT)

        def connection() -> Connection:
            state = self.lifespan.state
            return Connection(
                most=most, config=self.config, server_state=self.server_state, app_state=state, _loop=loop
            )

        self.servers = []
        for listener in sockets or []:
            entrance = Entrance(listener, connection, tls=tls, most=_share(MAX_HANDSHAKES))
            self._entering.append(loop.create_task(entrance.run()))
        self.started = True
        self.accepting.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in any more, and leave the rest to uvicorn."""
        for entering in self._entering:
            entering.cancel()
        await asyncio.wait(self._entering)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections, once a second: uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            close_late(self.server_state.connections, time.monotonic())
            for entering in self._entering:
                if entering.done():
                    entering.result()  # raises what it came to grief on: a server that lets nobody in must not go on
        return await super().on_tick(counter)

    async def run_to_end(self) -> None:
        """Serve until :meth:`drain`."""
        await self.serve(sockets=self._sockets)

    def retire(self) -> None:
        """Go on serving, and close each connection with its next answer, so that its client goes elsewhere.

        One that is closed while it is idle may be one that a request is just being sent on, which then is lost.
        """
        # Every second uvicorn makes the headers of all answers anew from the former; what has begun, and what comes
        # until then, goes by the latter.
        self.config.encoded_headers.append(_CLOSE)
        self.server_state.default_headers.append(_CLOSE)

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
        abort(self.server_state.connections)
        self.force_exit = True


def limit_files() -> None:
    """Let this process, and those that it starts, have so many files open, if nobody wants it to have fewer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(MAX_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _share(of_max_files: int) -> int:
    """So many, or the same part of the files that this process may have open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return of_max_files if files == resource.RLIM_INFINITY else min(of_max_files, files * of_max_files // MAX_FILES)


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


def bound(listener: socket.socket) -> Address:
    """Where ``listener`` really listens."""
    host, port = listener.getsockname()[:2]
    return Address(host=host, port=port)
