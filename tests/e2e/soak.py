"""`make soak`: writes of every verdict through the API server, as many as the machine holds, beside reads of metrics.

A driftwall that forgets to give something back, or fails one call in many thousands, shows it here.
"""

import argparse
import contextlib
import http.client
import json
import re
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import binaries
from .api import Object
from .control_plane import ControlPlane
from .driftwall import POLICIES, SILENT, WARNED, Driftwall
from .people import MERGE, config_map, deployment, of_flux, path_of

NAMESPACE, TAGGED = "soaked", "soaked-and-tagged"
THREADS = 8
_APPLY = "application/apply-patch+yaml"
# Of the time: until then caches and pools are filled.
_WARM_UP = 0.2
# Bytes that memory may be higher at the end than after that: what the allocator has in pieces goes up and down so much.
GROWTH = 8 * 2**20

TAG = f"""\
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: tagged-fields
spec:
  mode: tag
  match:
    namespaces: [{TAGGED}]
  protect:
    declared: true
"""


class Session:
    """Everybody's requests of one thread, over one connection that is kept."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        port = urlsplit(plane.url).port
        context = ssl.create_default_context(cadata=plane.ca_pem.decode())
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)

    def send(self, user: str, method: str, path: str, body: Object | None = None, kind: str = MERGE) -> tuple[int, str]:
        """Send one; gives status and message."""
        headers = {"Authorization": f"Bearer {self._plane.token(user)}", "Content-Type": kind}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        content = response.read()
        return response.status, "" if response.status < 400 else str(json.loads(content).get("message"))

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What one thread writes to, and how; each write gives status and message, and is one kind of what happens."""

    session: Session
    number: int

    def named(self, name: str, namespace: str = NAMESPACE, **data: str) -> Object:
        return config_map(f"{name}-{self.number}", namespace, **data)

    def apply(self, obj: Object) -> tuple[int, str]:
        query = "?fieldManager=kustomize-controller&force=true"
        return self.session.send("flux", "PATCH", path_of(obj) + query, obj, _APPLY)

    def patch(self, user: str, obj: Object, **data: str) -> tuple[int, str]:
        return self.session.send(user, "PATCH", path_of(obj), {"data": data})

    def begin(self) -> None:
        """What Flux has applied before."""
        for namespace in (NAMESPACE, TAGGED, WARNED, SILENT):
            for name in ("web", "glass"):
                assert self.apply(of_flux(self.named(name, namespace)))[0] < 300
        assert self.apply(of_flux(deployment(f"web-{self.number}", NAMESPACE, replicas=0)))[0] < 300

    def glass(self, write: int) -> tuple[int, str]:
        """Flux puts it right, and somebody who may breaks it, with a change, in one write."""
        glass = of_flux(self.named("glass"))
        annotations = {"driftwall.io/break-glass": f"INC-{write}: soaked"}
        status, said = self.apply(glass)
        if status >= 300:
            return status, said
        change = {"metadata": {"annotations": annotations}, "data": {"port": str(write)}}
        return self.session.send("sre", "PATCH", path_of(glass), change)

    def own(self, write: int) -> tuple[int, str]:
        """Somebody makes an object of their own, and takes it away."""
        own = self.named("own", port=str(write))
        status, said = self.session.send("alice", "POST", path_of(own).rpartition("/")[0], own, "application/json")
        return self.session.send("alice", "DELETE", path_of(own)) if status < 300 else (status, said)

    def scale(self, write: int) -> tuple[int, str]:
        path = path_of(deployment(f"web-{self.number}", NAMESPACE)) + "/scale"
        return self.session.send("alice", "PATCH", path, {"spec": {"replicas": 1 + write % 5}})


# What is written, and the status that it is to have; the number is the write's.
WRITES: Mapping[str, tuple[int, Callable[[Shop, int], tuple[int, str]]]] = {
    "denied": (403, lambda shop, write: shop.patch("alice", shop.named("web"), port=f"of-alice-{write}")),
    "not declared": (200, lambda shop, write: shop.patch("alice", shop.named("web"), note=str(write))),
    "warned": (200, lambda shop, write: shop.patch("alice", shop.named("web", WARNED), port=str(write))),
    "tagged": (200, lambda shop, write: shop.patch("alice", shop.named("web", TAGGED), port=str(write))),
    "dry run": (200, lambda shop, write: shop.patch("alice", shop.named("web", SILENT), port=str(write))),
    "break-glass": (200, Shop.glass),
    "trusted": (200, lambda shop, write: shop.apply(of_flux(shop.named("web", TAGGED, port=str(write))))),
    "system": (200, lambda shop, write: shop.patch("system:node:worker", shop.named("web"), node=str(write))),
    "unmanaged": (200, Shop.own),
    "deleted": (403, lambda shop, write: shop.session.send("alice", "DELETE", path_of(shop.named("web")))),
    "scaled": (403, Shop.scale),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of it. Bytes, seconds."""

    seconds: float
    writes: Mapping[str, int]
    failures: Sequence[str]
    reads: int
    reviews: int
    errors: Sequence[str]
    warm: float
    end: float

    def __str__(self) -> str:
        total = sum(self.writes.values())
        each = ", ".join(f"{count} {kind}" for kind, count in sorted(self.writes.items()))
        return (
            f"{total} writes in {self.seconds:.0f} s ({total / self.seconds:.0f}/s: {each}), "
            f"{len(self.failures)} failed; "
            f"{self.reviews} reviews, each with a line in the log, errors {list(self.errors)}; "
            f"{self.reads} reads of the metrics; "
            f"resident memory {self.warm / 2**20:.1f} MiB when warm, {self.end / 2**20:.1f} MiB at the end"
        )


def soak(plane: ControlPlane, folder: Path, seconds: float) -> Figures:
    """Have one driftwall in the way of all these writes for so long."""
    plane.create_namespace(NAMESPACE)
    for namespace in (TAGGED, WARNED, SILENT):
        plane.create_namespace(namespace)
    excluded = f"excludeNamespaces: [{WARNED}, {SILENT}]"
    policies = POLICIES.replace(excluded, excluded.replace("]", f", {TAGGED}]")) + TAG
    assert policies.count(TAGGED) == 3
    with Driftwall(plane, folder, policies) as server, server.in_the_way():
        return _soak(plane, server, seconds)


def _soak(plane: ControlPlane, server: Driftwall, seconds: float) -> Figures:
    done: Counter[str] = Counter()
    failures: list[str] = []
    end = time.monotonic() + seconds

    def write(number: int) -> None:
        with contextlib.closing(Session(plane)) as session:
            shop = Shop(session=session, number=number)
            shop.begin()
            for count in range(sys.maxsize):
                for kind, (wanted, how) in WRITES.items():
                    if time.monotonic() > end:
                        return
                    try:
                        status, said = how(shop, count)
                    except (OSError, http.client.HTTPException) as error:
                        status, said = 0, repr(error)
                    if status == wanted and (status < 400 or "denied the request" in said):
                        done[kind] += 1
                    else:
                        failures.append(f"{kind}: {status} {said}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    memory: list[tuple[float, float]] = []
    while any(thread.is_alive() for thread in threads):
        metrics = server.metrics()
        memory.append((time.monotonic(), _sample(metrics, "process_resident_memory_bytes")))
        threads[0].join(0.2)  # as often as nobody scrapes
    # The control plane goes on to write by itself, its Leases each two seconds: nobody asks about that any more.
    server.unregister()
    metrics = plane.wait_for(lambda: _metrics_when_each_review_has_its_line(server), "each review to have its line")
    begun = memory[0][0]
    return Figures(
        seconds=seconds,
        writes=dict(done),
        failures=failures,
        reads=len(memory),
        reviews=_reviews(metrics),
        errors=re.findall(r"(?m)^driftwall_review_errors_total{.*} [1-9].*$", metrics),
        warm=statistics.median(size for at, size in memory if _WARM_UP <= (at - begun) / seconds <= 2 * _WARM_UP),
        end=statistics.median(size for at, size in memory if (at - begun) / seconds >= 1 - _WARM_UP),
    )


def _metrics_when_each_review_has_its_line(server: Driftwall) -> str:
    """The metrics; an AssertionError while they and the decision log do not agree on how many reviews there were."""
    metrics = server.metrics()
    lines = server.decisions.read_bytes().count(b"\n")
    assert lines == _reviews(metrics), f"{lines} lines in the log, {_reviews(metrics)} reviews in the metrics"
    return metrics


def _reviews(metrics: str) -> int:
    return int(_sample(metrics, "driftwall_reviews_total"))


def _sample(metrics: str, name: str) -> float:
    """The sum of a metric over its labels."""
    found: list[str] = re.findall(rf"(?m)^{name}(?:{{[^}}]*}})? (\S+)$", metrics)
    return sum(map(float, found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Soak for so many minutes, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    minutes = parser.parse_args(arguments).minutes
    with tempfile.TemporaryDirectory() as folder, ControlPlane(using=binaries.find()) as plane:
        figures = soak(plane, Path(folder), 60 * minutes)
    print(figures)
    if figures.failures or figures.errors or figures.end > figures.warm + GROWTH:
        sys.exit("\n".join(["It failed.", *figures.failures[:10]]))


if __name__ == "__main__":
    main()
