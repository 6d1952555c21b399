"""A store that follows its source in an event loop of its own, and a fake of the API that policies are followed in."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.serving import PATIENCE
from webhook.metrics import Metrics
from webhook.policy_source import Source, Update
from webhook.policy_store import PolicyStore
from webhook.readiness import Readiness

T = TypeVar("T")
Json = dict[str, Any]

GROUP_PATH = "/apis/driftwall.io/v1alpha1"
KINDS = {"driftpolicies": "DriftPolicy", "driftwallconfigs": "DriftwallConfig"}


def wait_for(predicate: Callable[[], T], what: str) -> T:
    """What ``predicate`` gives once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.005)
    return value


class Followed:
    """A store and all that it says."""

    def __init__(self, source: Source) -> None:
        self.metrics = Metrics("test")
        self.readiness = Readiness(policies="not loaded yet")
        self.told: list[list[str]] = []
        self.updates: list[Update] = []
        self.store = PolicyStore(
            source,
            metrics=self.metrics,
            health=self.readiness,
            on_problems=lambda problems: self.told.append(list(problems)),
            clock=lambda: 1_700_000_000.0 + len(self.updates),
        )

    @property
    def names(self) -> list[str] | None:
        """The policies in force."""
        snapshot = self.store.snapshot
        return None if snapshot is None else [policy.name for policy in snapshot.policies]

    @property
    def modes(self) -> dict[str, str]:
        snapshot = self.store.snapshot
        assert snapshot is not None
        return {policy.name: policy.mode for policy in snapshot.policies}

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"driftwall_{name}")

    def until(self, predicate: Callable[[], T], what: str) -> T:
        return wait_for(predicate, f"{what}; in force are {self.names}, said was {self.readiness.reasons()}")


@contextlib.contextmanager
def following(source: Source) -> Iterator[Followed]:
    """Follow ``source`` meanwhile."""
    followed = Followed(source)
    take = followed.store.take

    def record(update: Update) -> None:
        take(update)
        followed.updates.append(update)

    followed.store.take = record  # type: ignore[method-assign]
    runner = asyncio.Runner()
    loop = runner.get_loop()
    task: list[asyncio.Task[None]] = []

    async def follow() -> None:
        task.append(asyncio.ensure_future(followed.store.follow()))
        with contextlib.suppress(asyncio.CancelledError):
            await task[0]

    def run() -> None:
        with runner:
            runner.run(follow())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield followed
    finally:
        wait_for(lambda: task or not thread.is_alive(), "the loop to run")
        ended_early = task[0].done()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task[0].cancel)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not ended_early, task[0]


class FakeCluster:
    """The part of an API server that holds driftwall's own resources: list, watch and status, over real HTTP.

    ``status`` is what every call is answered with while it is not 0, ``go_on`` what every call waits for; a list has
    ``page`` objects.
    """

    def __init__(self, page: int = 1000) -> None:
        self.requests: list[str] = []
        self.patches: list[tuple[str, Json]] = []
        self.status = 0
        self.missing: set[str] = set()
        self.go_on = threading.Event()
        self.go_on.set()
        self.page = page
        self.chatter: list[bytes] = []
        self._changed = threading.Condition()
        self._version = 100
        self._oldest = 0
        self._objects: dict[tuple[str, str], Json] = {}
        self._events: list[tuple[int, str, Json]] = []
        self._drops = 0
        self._watching: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._port = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self.sockets: set[socket.socket] = set()
        self.start()

    # What a test does

    def start(self) -> None:
        """Serve, on the same port as before."""
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and cut every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        self._thread.join()
        server.server_close()
        for each in list(self.sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.drop()

    def drop(self) -> None:
        """Cut every watch, without a word."""
        with self._changed:
            self._drops += 1
            self._changed.notify_all()

    def forget(self) -> None:
        """Forget all events so far, as etcd's compaction does, and cut every watch."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._drops += 1
            self._changed.notify_all()

    def say(self, line: bytes) -> None:
        """Put a line into every watch from now on, as it is."""
        with self._changed:
            self.chatter.append(line)
            self._changed.notify_all()

    def bookmark(self) -> None:
        """Move every watch on without a change."""
        with self._changed:
            self._version += 1
            self._events.append((self._version, "BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}}))
            self._changed.notify_all()

    def put(self, resource: str, name: str, spec: Json, **more: Any) -> None:
        """Create or change an object."""
        with self._changed:
            there = self._objects.get((resource, name))
            metadata: Json = (
                there["metadata"] if there else {"name": name, "uid": f"{name}-{self._version}", "generation": 0}
            )
            obj = {
                "apiVersion": "driftwall.io/v1alpha1",
                "kind": KINDS[resource],
                "metadata": {**metadata, "generation": metadata["generation"] + 1},
                "spec": spec,
                **({"status": there["status"]} if there and "status" in there else {}),
                **more,
            }
            self._store("MODIFIED" if there else "ADDED", resource, obj)

    def delete(self, resource: str, name: str) -> None:
        with self._changed:
            obj = self._objects.pop((resource, name))
            self._version += 1
            self._tell("DELETED", resource, obj)

    def condition(self, resource: str, name: str) -> Json | None:
        """The condition that was written to the status of an object."""
        with self._changed:
            conditions = self._objects[resource, name].get("status", {}).get("conditions", [])
            return conditions[0] if conditions else None

    def watching(self, resource: str = "driftpolicies") -> int:
        """How many watches there are."""
        return self._watching[resource]

    def lists(self, resource: str = "driftpolicies") -> int:
        """How many lists there were."""
        path = f"{GROUP_PATH}/{resource}?"
        return len([r for r in self.requests if r.startswith(path) and "watch" not in r and "continue" not in r])

    def kubeconfig(self, folder: Path, token: str = "t") -> Path:  # noqa: S107 - it opens nothing
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }  # fmt: skip
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(content))
        return file

    # What the handler does

    def _store(self, kind: str, resource: str, obj: Json) -> None:
        self._version += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version)}
        self._objects[resource, obj["metadata"]["name"]] = obj
        self._tell(kind, resource, obj)

    def _tell(self, kind: str, resource: str, obj: Json) -> None:
        told = copy.deepcopy(obj)
        told["metadata"]["resourceVersion"] = str(self._version)
        told["metadata"]["resource"] = resource
        self._events.append((self._version, kind, told))
        self._changed.notify_all()

    def listed(self, resource: str, query: dict[str, list[str]]) -> Json:
        with self._changed:
            all_of_them = [copy.deepcopy(obj) for (kind, _), obj in sorted(self._objects.items()) if kind == resource]
            begin = int(query.get("continue", ["0"])[0])
            end = begin + min(self.page, int(query.get("limit", ["1000"])[0]))
            metadata = {"resourceVersion": str(self._version)}
            if end < len(all_of_them):
                metadata["continue"] = str(end)
            return {"kind": f"{KINDS[resource]}List", "metadata": metadata, "items": all_of_them[begin:end]}

    def watch(self, resource: str, query: dict[str, list[str]]) -> Iterator[bytes]:
        """The lines of a watch until its time is up; raises ConnectionError where it is cut."""
        seen = int(query["resourceVersion"][0])
        ends = time.monotonic() + float(query["timeoutSeconds"][0])
        with self._changed:
            drops, said = self._drops, len(self.chatter)
            if seen < self._oldest:
                error = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                yield json.dumps({"type": "ERROR", "object": error}).encode()
                return
            self._watching[resource] += 1
        try:
            while True:
                with self._changed:
                    lines = []
                    for version, kind, obj in self._events:
                        of = obj["metadata"].get("resource", resource)
                        if version > seen and of == resource:
                            lines.append(json.dumps({"type": kind, "object": obj}).encode())
                    seen = max([seen, *(version for version, _, _ in self._events)])
                    lines += self.chatter[said:]
                    said = len(self.chatter)
                    if not lines:
                        if self._drops != drops:
                            raise ConnectionError
                        if time.monotonic() >= ends:
                            return
                        self._changed.wait(ends - time.monotonic())
                yield from lines
        finally:
            with self._changed:
                self._watching[resource] -= 1

    def patch(self, resource: str, name: str, body: Json) -> Json | None:
        with self._changed:
            self.patches.append((f"{resource}/{name}", body))
            obj = self._objects.get((resource, name))
            if obj is not None:
                self._store("MODIFIED", resource, {**obj, "status": body["status"]})
            return obj


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is what tests do here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    cluster: FakeCluster

    def setup(self) -> None:
        super().setup()
        self.cluster.sockets.add(self.connection)

    def finish(self) -> None:
        self.cluster.sockets.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self.cluster.requests.append(self.path)
        self.cluster.go_on.wait(PATIENCE)
        parts = urlsplit(self.path)
        resource, query = parts.path.removeprefix(f"{GROUP_PATH}/"), parse_qs(parts.query)
        if self.cluster.status or resource in self.cluster.missing:
            self.answer(self.cluster.status or 404, {"kind": "Status"})
        elif "watch" in query:
            self.stream(self.cluster.watch(resource, query))
        else:
            self.answer(200, self.cluster.listed(resource, query))

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        resource, name = urlsplit(self.path).path.removeprefix(f"{GROUP_PATH}/").split("/")[:2]
        if self.cluster.status:
            self.answer(self.cluster.status, {"kind": "Status"})
        else:
            found = self.cluster.patch(resource, name, body)
            self.answer(404 if found is None else 200, found or {"kind": "Status"})

    def answer(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, lines: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError), contextlib.closing(lines) as each:  # type: ignore[type-var]
            for line in each:
                self.wfile.write(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
