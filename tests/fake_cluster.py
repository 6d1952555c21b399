"""An API server over real HTTP that keeps objects, with resourceVersions and the three kinds of patch.

What it does not know it answers with 404 or 415; what a test wants to go wrong it says in ``faults``.
"""

from __future__ import annotations

import copy
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]
# Of a request (method, path without query) the status to answer with instead; 0: close the connection; None: go on.
Fault = Callable[[str, str], int | None]

VALIDATING = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/driftwall"
MUTATING = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/driftwall"


class FakeCluster:
    """Objects by path. ``lock`` is held while one is looked at or changed."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda *_: None
        self.lock = threading.RLock()
        self._version = 0
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.answer(*fake.handle("GET", self.path, "", b""))

            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(*fake.handle("PATCH", self.path, self.headers["Content-Type"], body))

            def answer(self, status: int, body: Object) -> None:
                if not status:
                    self.close_connection = True
                    return
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that was killed is none of ours."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, path: str, obj: Object) -> None:
        """Write an object, as somebody else would."""
        with self.lock:
            self._version += 1
            metadata = {
                "name": path.rpartition("/")[2],
                **obj.get("metadata", {}),
                "resourceVersion": str(self._version),
            }
            self.objects[path] = {**obj, "metadata": metadata}

    def change(self, path: str, change: Object) -> None:
        """Merge a change into an object, as somebody else would."""
        with self.lock:
            self.put(path, _merged(self.objects[path], change))

    def configure_webhooks(self, *paths: str) -> None:
        """Write webhook configurations without a bundle, each with two webhooks."""
        for path in paths or (VALIDATING, MUTATING):
            hooks = [
                {"name": f"{name}.driftwall.io", "clientConfig": {"url": "https://x"}, "sideEffects": "None"}
                for name in "ab"
            ]
            self.put(path, {"webhooks": hooks})

    def handle(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, Object]:
        path = path.partition("?")[0]
        with self.lock:
            self.requests.append((method, path))
            if (status := self.fault(method, path)) is not None:
                return status, {"kind": "Status", "code": status, "message": body.decode(errors="replace")}
            found = self.objects.get(path)
            if method == "GET":
                return (200, copy.deepcopy(found)) if found is not None else (404, {"code": 404})
            change = json.loads(body)
            if found is None:
                if content_type != "application/apply-patch+yaml":
                    return 404, {"code": 404}
                self.put(path, change)
            else:
                wanted = change.get("metadata", {}).pop("resourceVersion", None)
                if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
                    return 409, {"code": 409}
                if content_type == "application/strategic-merge-patch+json":
                    change = _by_name(found, change)
                elif content_type not in ("application/merge-patch+json", "application/apply-patch+yaml"):
                    return 415, {"code": 415}
                self.put(path, _merged(found, change))
            return 200, copy.deepcopy(self.objects[path])


def _merged(old: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _by_name(old: Object, change: Object) -> Object:
    """The change with its webhooks as a whole list, merged into the old ones by name."""
    changes = {webhook["name"]: webhook for webhook in change.get("webhooks", [])}
    webhooks = [_merged(webhook, changes.pop(webhook["name"], {})) for webhook in old["webhooks"]]
    return {**change, "webhooks": [*webhooks, *changes.values()]}
