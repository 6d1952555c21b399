"""`driftwall scan` of a large cluster: time and memory, by the number of objects.

    python -m tests.bench.scan_cluster 10000 100000

A real API server with that many ConfigMaps that Flux manages, of which ten at each step were edited as by kubectl.
"""

import concurrent.futures
import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e import binaries
from tests.e2e.control_plane import ControlPlane
from tests.e2e.driftwall import COMMAND
from tests.e2e.kinds import FLUX

NAMESPACE, EDITED, WRITERS = "large", 10, 8
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
Request = tuple[str, str, dict[str, object]]


def send(plane: ControlPlane, requests: list[Request]) -> None:
    port = urlsplit(plane.url).port
    context = ssl.create_default_context(cadata=plane.ca_pem.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    for method, path, body in requests:
        kind = "application/json" if method == "POST" else "application/merge-patch+json"
        headers = {"Authorization": f"Bearer {plane.token('admin')}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        assert response.status < 300, (path, response.status)
    connection.close()


def creation(number: int) -> Request:
    metadata = {"name": f"settings-{number:06}", "labels": {**FLUX, "app": "shop", "tier": "front"}}
    body: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"a": "1", "b": "2", "c": "3"},
    }
    return ("POST", f"{CONFIG_MAPS}?fieldManager=kustomize-controller", body)


def fill(plane: ControlPlane, start: int, end: int) -> None:
    parts = [[creation(number) for number in range(start + first, end, WRITERS)] for first in range(WRITERS)]
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda part: send(plane, part), parts))
    edits = list(range(start, end, (end - start) // EDITED))[:EDITED]
    path = f"{CONFIG_MAPS}/settings-{{:06}}?fieldManager=kubectl-edit"
    send(plane, [("PATCH", path.format(number), {"data": {"a": "by hand"}}) for number in edits])


def measure(plane: ControlPlane, objects: int) -> None:
    command = [*COMMAND, "scan", "--kubeconfig", str(plane.kubeconfig("admin")), "-o", "json"]
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        scan = subprocess.Popen(command, stdout=out)
        peak = 0
        while scan.poll() is None:
            peak = max(peak, high_water(scan.pid))
            time.sleep(0.05)
        took = time.perf_counter() - began
        out.seek(0)
        found = json.load(out)
    print(
        f"{objects:>7,} objects: {took:6.1f} s, {peak // 1024:>3} MiB at most; "
        f"{found['scanned']:,} looked at, {found['drifted']} drifted, exit code {scan.returncode}",
        flush=True,
    )


def high_water(pid: int) -> int:
    """The most memory that a process has had, in KiB: what rusage tells includes its parent's from before exec."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def main(counts: list[int]) -> None:
    with ControlPlane(using=binaries.find()) as plane:
        plane.create_namespace(NAMESPACE)
        there = 0
        measure(plane, there)
        for count in counts:
            fill(plane, there, count)
            there = count
            measure(plane, count)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or [1000, 10_000])
