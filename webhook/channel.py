"""What a replica's first process and its workers tell each other: JSON lines over a socket that they alone have.

Keys go this way too: over memory, and never over a file or a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from webhook.tls import Material

# Bytes of one line. Metrics are the longest, some 50 KiB; certificates have a few.
_LIMIT: Final = 16 * 1024 * 1024


class Message(msgspec.Struct, kw_only=True, tag=True):
    """Anything that goes over the channel."""


class Serve(Message):
    """To a worker: serve new connections with this. The first one comes with what to serve at all."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None
    #: Those that :func:`webhook.settings.read` takes; in the first one alone.
    flags: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without the key."""
        return "Serve(…)"

    @classmethod
    def of(cls, material: Material, flags: dict[str, str] | None = None) -> Serve:
        """The message about ``material``."""
        return cls(certificate=material.certificate, key=material.key, client_ca=material.client_ca, flags=flags or {})

    @property
    def material(self) -> Material:
        """What to serve with."""
        return Material(certificate=self.certificate, key=self.key, client_ca=self.client_ca)


class Lead(Message):
    """To a worker: whether it is the one that may do what one process of all replicas may do."""

    leads: bool


class Count(Message):
    """To a worker: tell your metrics."""

    number: int


class Retire(Message):
    """To a worker: answer with ``Connection: close`` from now on."""


class Drain(Message):
    """To a worker: accept no more, answer what is in flight, and end."""


class State(Message):
    """From a worker: why reviews should not be sent to it (nothing: it is ready), and what is wrong besides."""

    reasons: list[str]
    remarks: list[str]


class Serving(Message):
    """From a worker: the fingerprint of the certificate that new connections get now."""

    fingerprint: str


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its labels' values."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


class Counted(Message):
    """From a worker: its metrics, as asked for under ``number``."""

    number: int
    families: list[Family]


Down = Serve | Lead | Count | Retire | Drain
Up = State | Serving | Counted


class Channel:
    """One end: :meth:`send` never waits, what comes ends with the other process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.json.Encoder()

    @classmethod
    async def open(cls, end: socket.socket) -> Channel:
        """The channel over ``end`` of a pair of sockets, which it closes."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LIMIT))

    def send(self, message: Message) -> None:
        """Send, unless the other process is gone."""
        if not self._writer.is_closing():
            self._writer.write(self._encoder.encode(message) + b"\n")

    async def commands(self) -> AsyncIterator[Down]:
        """What comes at the worker's end."""
        decoder: msgspec.json.Decoder[Down] = msgspec.json.Decoder(Down)
        async for line in self._lines():
            yield decoder.decode(line)

    async def answers(self) -> AsyncIterator[Up]:
        """What comes at the first process's end."""
        decoder: msgspec.json.Decoder[Up] = msgspec.json.Decoder(Up)
        async for line in self._lines():
            yield decoder.decode(line)

    async def _lines(self) -> AsyncIterator[bytes]:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                yield line

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
