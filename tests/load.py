"""A steady load of reviews over HTTPS, on kept-alive connections and on new ones, that notes every failure."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable
from typing import Self

from tests.serving import PATIENCE, review


class Load:
    """Threads that call ``port`` of 127.0.0.1 from ``with`` on, and take the answer for right if it is a denial.

    ``port`` is asked before each request. A kept-alive connection goes on until the server says that it closes it.
    ``tls`` may be another one for each new connection. ``failures`` are what went wrong; ``closed`` how many answers
    came with ``Connection: close``.
    """

    def __init__(
        self, port: Callable[[], int], tls: Callable[[], ssl.SSLContext], *, kept_alive: int = 2, new: int = 2
    ) -> None:
        self._port = port
        self._tls = tls
        self._stop = threading.Event()
        self._told = threading.Condition()
        self.answered = 0
        self.closed = 0
        self.serials: set[str] = set()
        self.failures: list[str] = []
        self._body = json.dumps(review()).encode()
        self._threads = [
            threading.Thread(target=self._run, args=(number < kept_alive,)) for number in range(kept_alive + new)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at after every answer."""
        with self._told:
            assert self._told.wait_for(condition, PATIENCE), (self.answered, self.failures[:5])

    def go_on(self, answers: int = 20) -> None:
        """Wait for so many answers more."""
        wanted = self.answered + answers
        self.wait_for(lambda: self.answered >= wanted)

    def _run(self, keep_alive: bool) -> None:
        connection: http.client.HTTPSConnection | None = None
        while not self._stop.is_set():
            port = self._port()
            if connection is not None and (not keep_alive or connection.port != port):
                connection.close()
                connection = None
            if connection is None:
                connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=self._tls())
            failure, serial, closes = "", "", False
            try:
                if connection.sock is None:
                    serial = _connected(connection)
                connection.request("POST", "/validate", self._body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                closes = response.will_close
                answer = json.loads(response.read())
                assert answer["response"]["allowed"] is False
            except (OSError, http.client.HTTPException, ValueError, KeyError, AssertionError) as error:
                failure = f"{'kept alive' if keep_alive else 'new'}: {error!r}"
                connection.close()
                connection = None
            with self._told:
                if failure:
                    self.failures.append(failure)
                else:
                    self.answered += 1
                    self.closed += closes
                self.serials.add(serial)
                self._told.notify_all()
        with contextlib.suppress(OSError):
            if connection is not None:
                connection.close()


def _connected(connection: http.client.HTTPSConnection) -> str:
    """Connect; the serial number of the certificate that the server showed."""
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    return str((connection.sock.getpeercert() or {}).get("serialNumber"))
