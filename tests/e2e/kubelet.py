"""A kubelet in the eyes of the API server: it runs nothing, and reports that everything runs."""

from dataclasses import dataclass
from datetime import UTC, datetime

from .api import Object
from .control_plane import ControlPlane

NODE = "worker"


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The kubelet of the node `worker`, under whose name it writes.

    Pods get there by `spec.nodeName` of their template. Nothing happens by itself: `work` does one round.
    """

    plane: ControlPlane

    def register(self) -> None:
        """Create the Node, without which its pods would be thought lost."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self._send("POST", "/api/v1/nodes", node, accepted=(201, 409))

    def work(self, namespace: str, *, finish: bool = False) -> None:
        """Start the pods that wait, or end them well if `finish`, and let go of those that are to be deleted."""
        for pod in self.plane.get("pods", None, namespace)["items"]:
            path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                self._send("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
            elif pod["status"]["phase"] == "Pending":
                self._send("PATCH", f"{path}/status", {"status": _succeeded() if finish else _running()})

    def _send(self, method: str, path: str, body: Object, accepted: tuple[int, ...] = (200, 404, 409)) -> None:
        # 404 and 409: a controller was faster.
        merge = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        status, answer = self.plane.raw(method, path, body, user=f"system:node:{NODE}", headers=merge)
        assert status in accepted, answer


def _running() -> Object:
    conditions = [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready")]
    return {"phase": "Running", "podIP": "10.0.0.1", "startTime": _now(), "conditions": conditions}


def _succeeded() -> Object:
    return {"phase": "Succeeded", "startTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
