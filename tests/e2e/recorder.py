"""An admission webhook that allows everything and remembers what it was asked: what a real API server really sends."""

import base64
import json
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .api import Object
from .certificates import Authority


class Recorder:
    """The reviews so far, oldest first, and where the webhook is."""

    def __init__(self, url: str, ca_pem: bytes) -> None:
        self.url = url
        self.ca_pem = ca_pem
        self._lock = threading.Lock()
        self._requests: list[Object] = []

    def requests(self, **wanted: Any) -> list[Object]:
        """The `request` parts whose fields have the wanted values, such as `operation="CREATE", name="web"`."""
        with self._lock:
            seen = list(self._requests)
        return [request for request in seen if all(request.get(key) == value for key, value in wanted.items())]

    def add(self, request: Object) -> None:
        """Remember one request."""
        with self._lock:
            self._requests.append(request)


Patches = Callable[[Object], Sequence[Object]]


@contextmanager
def recording(patches: Patches = lambda _: ()) -> Iterator[Recorder]:
    """Run the webhook on a free port of 127.0.0.1, over HTTPS with keep-alive.

    `patches` gives the JSON patch for a request, if the webhook is to change what it is asked about.
    """
    authority = Authority("driftwall-e2e-recorder")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keep-alive, which the API server counts on

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            recorder.add(review["request"])
            response = {"uid": review["request"]["uid"], "allowed": True}
            if patch := patches(review["request"]):
                response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
            answer = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def handle(self) -> None:
            # The API server is killed, not asked to stop, and then it closes no connection in good order.
            with suppress(ConnectionError, ssl.SSLError):
                super().handle()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: a line per review would drown the test's own output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        recorder = Recorder(f"https://127.0.0.1:{server.server_address[1]}/", authority.certificate_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder, "server.pem")
            chain.write_bytes(b"".join(authority.serving("recorder", ["127.0.0.1"])))
            context.load_cert_chain(chain)
        # The handshake is the connection's thread's work, not the listener's.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, name="recorder")
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()
