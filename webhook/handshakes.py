"""Connections from when they come until their handshake is done, and how many of those there may be.

The event loop's own servers let in as many as there are files. Whoever began handshakes without end would have all of
them, and this process none to read its policies with, or to ask the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

# A handshake is a few packets; TCP sends a lost one again within seconds.
HANDSHAKE_SECONDS: Final = 10.0
# Seconds until a file may be free again, where the kernel has none for one more connection. It waits in the backlog.
_PAUSE: Final = 0.1


class Entrance:
    """Lets in who comes to ``listener``, each to a protocol that ``made`` makes.

    ``most`` may be in the middle of their handshake: one more, and the one that has been for the longest ends.
    """

    def __init__(
        self,
        listener: socket.socket,
        made: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        most: int,
    ) -> None:
        self._listener = listener
        self._made = made
        self._tls = tls
        self._most = most
        self._entering: dict[asyncio.Task[None], None] = {}  # in the order in which they came

    async def run(self) -> None:
        """Let in whoever comes, until cancelled; who is entering then still may."""
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # somebody who left before
                    await asyncio.sleep(_PAUSE)
                continue
            if len(self._entering) >= self._most:
                oldest = next(iter(self._entering))
                del self._entering[oldest]
                oldest.cancel()
            task = loop.create_task(self._enter(connection))
            self._entering[task] = None
            task.add_done_callback(lambda done: self._entering.pop(done, None))

    async def _enter(self, connection: socket.socket) -> None:
        deadline = HANDSHAKE_SECONDS if self._tls is not None else None
        with contextlib.suppress(OSError):  # also those of TLS, and that it took too long
            await asyncio.get_running_loop().connect_accepted_socket(
                self._made, connection, ssl=self._tls, ssl_handshake_timeout=deadline
            )
