"""Callers who ask for more than there is."""

import contextlib
import socket
import ssl

from tests.serving import PATIENCE, Client

POST = b"POST /validate HTTP/1.1\r\nHost: driftwall\r\nContent-Type: application/json\r\n"


def connected(client: Client) -> ssl.SSLSocket:
    assert client.tls is not None
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # little that is not read fits in between
    raw.settimeout(PATIENCE)
    raw.connect(("127.0.0.1", client.port))
    return client.tls.wrap_socket(raw, server_hostname="localhost")


class Flood:
    """Bodies of which the server gets no byte, and who sends them. `refused` counts those that are to come again."""

    def __init__(self, client: Client, stack: contextlib.ExitStack) -> None:
        self._client = client
        self._stack = stack
        self.refused = 0

    def upload(self, length: int) -> ssl.SSLSocket | None:
        """A connection on which a body of so many bytes is waited for, until the stack ends; None if it is refused."""
        connection = self._stack.enter_context(connected(self._client))
        connection.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length)
        said = connection.recv(4096)
        if said.startswith(b"HTTP/1.1 100 "):
            return connection
        connection.close()
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in said.lower()
        self.refused += 1
        return None

    def rises(self) -> None:
        """Take what memory there is for bodies of ordinary size."""
        for length in (2**20, 2**16, 2**12, 2**8):
            while self.upload(length):
                pass
