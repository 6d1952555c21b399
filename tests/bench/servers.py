"""The servers under load, each in a process of its own on the one core that is theirs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fake_cluster import FakeCluster
from tests.running import LOOPBACK
from tests.serving import Certificates, environment

from .cases import PARENT_PATH, ROOT, parent

#: The servers have one core, what loads them the other: neither is measured with the other in its way.
SERVER_CORE, LOAD_CORE = 0, 1


def pinned(core: int, *command: str) -> list[str]:
    """The command on one core."""
    return ["taskset", "--cpu-list", str(core), *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to be measured. One that somebody else runs (``--compare``) has no ``pid``, and so no CPU and memory."""

    name: str
    url: str
    pid: int | None = None
    management: str = ""
    started_with: int = field(default=0)

    def cpu(self) -> float:
        """Seconds of CPU that its threads have used; 0 for one that somebody else runs."""
        if self.pid is None:
            return 0.0
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def resident(self) -> int:
        """Bytes of memory resident now; 0 for one that somebody else runs."""
        if self.pid is None:
            return 0
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _process(command: list[str], stdout: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        pinned(SERVER_CORE, *command),
        stdout=stdout,
        stderr=None if stdout == subprocess.PIPE else subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def noop(made: Certificates) -> Iterator[Target]:
    """The no-op application, served as driftwall is."""
    with _process([sys.executable, "-m", "tests.bench.noop", str(made.ca_file.parent)], subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Target(name="no-op", url=f"https://127.0.0.1:{port}", pid=process.pid)


@contextlib.contextmanager
def driftwall(
    name: str, made: Certificates, policies: Path, kubeconfig: Path, *, stdout: int | None = None
) -> Iterator[Target]:
    """``driftwall serve`` with log and metrics; the log goes where writing costs nothing, or to ``stdout``."""
    files = ["--tls-cert", str(made.cert_file), "--tls-key", str(made.key_file), "--kubeconfig", str(kubeconfig)]
    command = [sys.executable, "-m", "webhook", "serve", "--policies", str(policies), *files, *LOOPBACK]
    with _process(command, subprocess.DEVNULL if stdout is None else stdout) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            message = json.loads(line)
            if message["message"] == "ready":
                break
        else:
            raise RuntimeError(f"driftwall did not become ready: {said}")
        target = Target(name=name, url=message["listen"], pid=process.pid)
        yield replace(target, management=message["management"], started_with=target.resident())


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """A kubeconfig for an API server that has the parent of the scale and nothing else."""
    cluster = FakeCluster()
    try:
        cluster.put(PARENT_PATH, parent())
        path = folder / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "bench", "cluster": {"server": f"http://127.0.0.1:{cluster.port}"}}],
                    "users": [{"name": "bench", "user": {}}],
                    "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                    "current-context": "bench",
                }
            )
        )
        yield path
    finally:
        cluster.close()
