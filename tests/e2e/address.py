"""One address for several replicas, as a Service is, and the API server sent there: for tests that kill replicas."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.serving import PATIENCE, Certificates, certificates

from .control_plane import ControlPlane
from .driftwall import Driftwall
from .registration import DEFAULT_PROBE, EVERYTHING, Kind

_GUARDED = "e2e.example.com/guarded"


class Address:
    """A port of 127.0.0.1 whose new connections go to `endpoints`, in turn; those that are open stay where they are.

    So does kube-proxy: it takes nothing of what goes on over a connection. Endpoints are ports of 127.0.0.1.
    """

    def __init__(self) -> None:
        self.endpoints: Sequence[int] = ()
        self._taken = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._pumps: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    async def _end(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._pumps.add(this)
        others: list[asyncio.StreamWriter] = [writer]
        try:
            self._taken += 1
            port = self.endpoints[self._taken % len(self.endpoints)]  # IndexError, ZeroDivisionError: there is none
            from_there, there = await asyncio.open_connection("127.0.0.1", port)
            others.append(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, there))
                group.create_task(_pump(from_there, writer))
        except* (OSError, ArithmeticError, LookupError):
            pass  # whoever is at the other end finds out by the end of the connection
        finally:
            for each in others:
                each.transport.abort()
            self._pumps.discard(this)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError  # the end of one direction is the end of both: TLS has no half-closed connections


class Guarded:
    """A control plane that calls one address before every write, whoever is behind that."""

    def __init__(self, plane: ControlPlane, address: Address, made: Certificates) -> None:
        self.plane = plane
        self.address = address
        self.made = made

    @contextlib.contextmanager
    def by(self, folder: Path, *, flags: Sequence[str] = (), **options: Any) -> Iterator[Driftwall]:
        """A driftwall behind the address; it is killed in the end, whatever has become of it. See Driftwall."""
        with self.replica(folder, flags=flags, **options) as server:
            self.address.endpoints = [port_of(server)]
            yield server

    @contextlib.contextmanager
    def replica(self, folder: Path, *, flags: Sequence[str] = (), **options: Any) -> Iterator[Driftwall]:
        """A driftwall that could be behind the address."""
        folder.mkdir(exist_ok=True)
        files = (f"--tls-cert={self.made.cert_file}", f"--tls-key={self.made.key_file}")
        server = Driftwall(self.plane, folder, flags=(*files, *flags), **options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def guarded(plane: ControlPlane, namespace: str, folder: Path, seconds: int = 10) -> Iterator[Guarded]:
    """Put an address that leads nowhere yet in the way of every write in a namespace.

    Where it fails, so does the write; `seconds` is how long the API server waits for it.
    """
    plane.create_namespace(namespace)
    plane.kubectl("label", "--overwrite", "namespace", namespace, f"{_GUARDED}={namespace}")
    made = certificates(folder)
    with Address() as address:
        try:
            # The mutating one last: while it leads nowhere, nobody would see that the other is called.
            webhooks: Sequence[tuple[Kind, str, list[str]]] = (
                ("validating", "validate", ["*"]),
                ("mutating", "mutate", ["CREATE", "UPDATE"]),  # a patch on DELETE would make that fail
            )
            for kind, path, operations in webhooks:
                plane.register_webhook(
                    f"https://127.0.0.1:{address.port}/{path}",
                    made.ca_file.read_bytes(),
                    kind=kind,
                    probe=(f"/api/v1/namespaces/{namespace}/configmaps", DEFAULT_PROBE[1]),
                    timeoutSeconds=seconds,
                    namespaceSelector={"matchLabels": {_GUARDED: namespace}},
                    rules=[{**EVERYTHING[0], "operations": operations, "scope": "Namespaced"}],
                )
            yield Guarded(plane, address, made)
        finally:
            plane.unregister_webhook()
            plane.unregister_webhook(kind="mutating")


def port_of(server: Driftwall) -> int:
    """Where a driftwall is called."""
    port = urlsplit(server.url).port
    assert port is not None
    return port
