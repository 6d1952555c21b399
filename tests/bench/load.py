"""One measurement: h2load calls a server for a moment; what it did within that moment is counted."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e import debian

from .servers import LOAD_CORE, Target, pinned

#: Seconds before a measurement begins: connections are made, and the server has run the code that it will run.
_WARM_UP: Final = 0.15
#: Answers that a measurement needs, and seconds that it gives the server for them.
_ENOUGH: Final = 10
_PATIENCE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a moment of load showed. Latencies in seconds; ``cpu`` in seconds per 1,000 requests."""

    rps: float
    p50: float
    p99: float
    cpu: float
    requests: int


class LoadFailed(RuntimeError):
    """The server did not answer every request with HTTP 200."""


def prepare() -> None:
    """Install what makes the load, unless it is there.

    Raises:
        PreparationError: it cannot be had.
    """
    if shutil.which("h2load") is None:
        debian.install(["nghttp2-client"])


def measure(target: Target, path: str, body: Path, connections: int, seconds: float) -> Measured:
    """Call ``target`` with ``body`` on so many connections.

    Raises:
        LoadFailed: a request failed.
    """
    with tempfile.NamedTemporaryFile() as log:
        command = pinned(LOAD_CORE, "h2load", "--h1", "-t", "1", "-c", str(connections))
        # It is ended from outside: by itself it waits for ever where answers are late.
        command += ["-D", "3600", "-d", str(body), "--log-file", log.name]
        command += ["-H", "content-type: application/json", target.url + path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            time.sleep(_WARM_UP)
            begun, cpu_before = time.time(), target.cpu()
            time.sleep(seconds)
            while process.poll() is None and time.time() < begun + _PATIENCE and log.read().count(b"\n") < _ENOUGH:
                time.sleep(seconds)
                log.seek(0)
            ended, cpu_after = time.time(), target.cpu()
            process.kill()
            said, _ = process.communicate()
        latencies: list[float] = []
        for line in Path(log.name).read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # it was ended while it wrote this
            start, status, took = (int(part) for part in line.split("\t"))
            if status != 200:
                raise LoadFailed(f"{target.name} answered {path} with HTTP {status}")
            if begun <= (start + took) / 1e6 <= ended:
                latencies.append(took / 1e6)
    if len(latencies) < 2:
        raise LoadFailed(f"{target.name}, {path}, {connections} connections: too few answers\n{said}")
    percentiles = statistics.quantiles(latencies, n=100)
    return Measured(
        rps=len(latencies) / (ended - begun),
        p50=percentiles[49],
        p99=percentiles[98],
        cpu=(cpu_after - cpu_before) / len(latencies) * 1000,
        requests=len(latencies),
    )
