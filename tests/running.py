"""A real ``driftwall serve`` in a process of its own, for tests of what only a process can show."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tests.serving import PATIENCE, Certificates, Client, environment

# No endpoint has to go away here; what waits for one has tests of its own.
LOOPBACK = ("--listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0", "--shutdown-delay", "0s")


def command(made: Certificates, *extra: str) -> list[str]:
    own = "--service" in extra  # then it makes its certificate itself
    files = () if own else ("--tls-cert", str(made.cert_file), "--tls-key", str(made.key_file))
    policies = str(made.ca_file.parent / "policy.yaml")
    return [sys.executable, "-m", "webhook", "serve", "--policies", policies, *files, *LOOPBACK, *extra]


class Process:
    """A real ``driftwall serve`` that is ready, or has said ``until``."""

    def __init__(
        self, made: Certificates, *extra: str, until: str = "ready", variables: Mapping[str, str] | None = None
    ) -> None:
        self.decisions = made.ca_file.parent / "decisions.jsonl"
        with self.decisions.open("wb") as out:
            self.process = subprocess.Popen(
                command(made, *extra), stdout=out, stderr=subprocess.PIPE, text=True, env=environment(**variables or {})
            )
        self.messages: list[dict[str, Any]] = []
        addresses = self.message(until)
        self.client = Client(port=int(addresses["listen"].rpartition(":")[2]), tls=made.client())
        self.management = Client(port=int(addresses["management"].rpartition(":")[2]))

    def message(self, text: str) -> dict[str, Any]:
        """The next message with this text; waits for it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.messages.append(json.loads(line))
            if self.messages[-1]["message"] == text:
                return self.messages[-1]
        raise AssertionError(f"it ended without the message {text!r}: {self.messages}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        self.messages += [json.loads(line) for line in self.process.stderr]
        return code

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.decisions.read_text().splitlines()]


@contextlib.contextmanager
def started(
    made: Certificates, *extra: str, until: str = "ready", variables: Mapping[str, str] | None = None
) -> Iterator[Process]:
    running = Process(made, *extra, until=until, variables=variables)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        assert running.process.stderr is not None
        running.process.stderr.close()
