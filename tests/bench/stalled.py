"""``make bench-stalled``: whether a reply waits for log, metrics or Events.

Denials, each of which leaves a line and an Event, against three servers in turn: one that all is well with, another one
of the same to show how far two such measurements differ, and one whose stdout nobody reads while its API server is
stopped (SIGSTOP). Metrics are scraped meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.e2e import binaries
from tests.e2e.control_plane import ControlPlane
from tests.serving import certificates

from . import load, servers
from .cases import DENIED, POLICIES
from .load import Measured
from .servers import Target

ROUNDS = 10
#: Of one measurement, in seconds: some thousand denials, so that far more Events wait than there is room for.
SECONDS = 1.0
CONNECTIONS = (1, 16)
WELL, AGAIN, STALLED = "undisturbed", "undisturbed, again", "stalled"


@contextlib.contextmanager
def _scraped(target: Target) -> Iterator[None]:
    """Read the metrics again and again meanwhile, ten times as often as Prometheus would."""
    done = threading.Event()

    def scrape() -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not done.wait(0.1):
            with opener.open(f"{target.management}/metrics", timeout=10) as response:
                response.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure() -> dict[tuple[str, int], list[Measured]]:
    """What each server did, by name and connections."""
    found: dict[tuple[str, int], list[Measured]] = {}
    load.prepare()
    with tempfile.TemporaryDirectory() as name, ControlPlane(using=binaries.find()) as plane:
        folder = Path(name)
        made, body = certificates(folder), folder / "denied.json"
        body.write_bytes(DENIED.body)
        api_server = plane.pids()[1]
        read_end, write_end = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.kill, api_server, signal.SIGCONT)
            there = [
                stack.enter_context(servers.driftwall(each, made, POLICIES, plane.kubeconfig("admin"), stdout=stdout))
                for each, stdout in ((WELL, None), (AGAIN, None), (STALLED, write_end))
            ]
            for number in range(ROUNDS):
                print(f"bench: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
                for connections in CONNECTIONS:
                    for target in there:
                        os.kill(api_server, signal.SIGSTOP if target.name == STALLED else signal.SIGCONT)
                        with _scraped(target):
                            measured = load.measure(target, "/validate", body, connections, SECONDS)
                        found.setdefault((target.name, connections), []).append(measured)
        os.close(read_end)
        os.close(write_end)
    return found


def main() -> int:
    """Print the figures: medians over the rounds, and those of each round beside the undisturbed server's."""
    found = measure()
    print(f"{'':<20} {'connections':>11} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'CPU us':>7}   of undisturbed")
    for (name, connections), rows in found.items():
        middle = {
            which: statistics.median(getattr(row, which) for row in rows) for which in ("rps", "p50", "p99", "cpu")
        }
        beside = {
            which: statistics.median(
                getattr(mine, which) / getattr(well, which)
                for mine, well in zip(rows, found[WELL, connections], strict=True)
            )
            for which in ("p50", "p99", "cpu")
        }
        print(
            f"{name:<20} {connections:>11} {middle['rps']:>11,.0f} {1e3 * middle['p50']:>8.2f}"
            f" {1e3 * middle['p99']:>8.2f} {1e3 * middle['cpu']:>7.0f}   "
            + ", ".join(f"{which} {ratio:.2f}" for which, ratio in beside.items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
