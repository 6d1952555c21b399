"""Somebody at the keyboard: real kubectl, and requests of their own for what kubectl has no command for."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .api import Object
from .control_plane import ControlPlane
from .hands import Outcome
from .kinds import FLUX

MERGE, STRATEGIC, JSON = (f"application/{kind}-patch+json" for kind in ("merge", "strategic-merge", "json"))
_APPLY = "application/apply-patch+yaml"
_DENIED = 'admission webhook "validate.driftwall.io" denied the request: '
# Of the Deployment controller, and the status of an autoscaler in the version that has no fields for it.
_OF_CONTROLLERS = (
    "deployment.kubernetes.io/",
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
)
_PLURALS = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody whom the control plane knows as `user`, or who has the `token`, working in a namespace."""

    plane: ControlPlane
    user: str
    namespace: str
    token: str | None = None

    def kubectl(self, *args: str, stdin: Object | None = None) -> Outcome:
        """Run kubectl in the namespace."""
        completed = self.plane.kubectl(
            *("-n", self.namespace, *args),
            user=self.user,
            token=self.token,
            stdin=None if stdin is None else json.dumps(stdin),
            check=False,
        )
        assert completed.returncode in (0, 1), completed
        return Outcome(done=completed.returncode == 0, said=completed.stdout + completed.stderr)

    def patch(self, target: str, patch: Any, *flags: str, how: str = "merge") -> Outcome:
        """`kubectl patch` of a target such as `configmap/web`."""
        return self.kubectl("patch", target, "--type", how, "-p", json.dumps(patch), *flags)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Send one request."""
        status, answer = self.plane.raw(
            method,
            path,
            None if body is None else json.dumps(body).encode(),
            user=self.user,
            token=self.token,
            headers={"Content-Type": content_type, **(headers or {})},
        )
        return Outcome(done=status < 400, said=str(answer.get("message", answer)))

    def apply(self, manifest: Object, manager: str | None = None, query: str = "") -> Outcome:
        """Apply on the server with force, as `manager` or as oneself."""
        query = f"?fieldManager={manager or self.user}&force=true{query}"
        return self.send("PATCH", path_of(manifest) + query, manifest, content_type=_APPLY)

    def applies(self, *manifests: Object) -> None:
        """As Flux does, and nothing stands in its way."""
        for manifest in manifests:
            outcome = self.apply(manifest, "kustomize-controller")
            assert outcome.done, outcome

    def creates(self, *manifests: Object) -> None:
        """Create, and nothing stands in the way."""
        for manifest in manifests:
            outcome = self.send("POST", path_of(manifest).rpartition("/")[0], manifest)
            assert outcome.done, outcome


def path_of(manifest: Object) -> str:
    """The path of an object in the API."""
    version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
    within = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    return f"/{'apis' if '/' in version else 'api'}/{version}{within}/{plural}/{metadata['name']}"


def manifest(version: str, kind: str, name: str, namespace: str | None, **content: Any) -> Object:
    """An object that nobody manages."""
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def of_flux(obj: Object) -> Object:
    """The object with the labels that Flux marks its own with."""
    labels = {**obj["metadata"].get("labels", {}), **FLUX}
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


def config_map(name: str, namespace: str, **data: str) -> Object:
    """A ConfigMap, with a `port` unless told otherwise."""
    return manifest("v1", "ConfigMap", name, namespace, data=data or {"port": "80"})


def pods_of(name: str, image: str = "image.invalid/shop:1") -> Object:
    """Selector and template of a workload."""
    labels = {"pods-of": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}}
    return {"selector": {"matchLabels": labels}, "template": template}


def deployment(name: str, namespace: str, replicas: int = 1) -> Object:
    """A Deployment."""
    return manifest("apps/v1", "Deployment", name, namespace, spec={"replicas": replicas, **pods_of(name)})


def refused(outcome: Outcome, *parts: str) -> str:
    """Assert that driftwall's validating webhook denied it, and said these things; gives all it said."""
    assert not outcome.done, outcome
    assert _DENIED in outcome.said, outcome
    message = outcome.said.partition(_DENIED)[2]
    for part in parts:
        assert part in message, (part, message)
    return message


@contextlib.contextmanager
def unchanged(plane: ControlPlane, *manifests: Object) -> Iterator[None]:
    """Assert that the stored objects are the same after as before, but for what the control plane itself writes."""
    before = {path: stored(plane, path) for path in map(path_of, manifests)}
    yield
    for path, was in before.items():
        now = stored(plane, path)
        assert now == was, (now, was)


def stored(plane: ControlPlane, path: str) -> Object:
    """A stored object without its status, and without what controllers write beside that."""
    obj = plane.get(path)
    obj.pop("status", None)
    metadata = obj["metadata"]
    del metadata["resourceVersion"]
    record = metadata.get("managedFields", [])
    metadata["managedFields"] = [entry for entry in record if entry["manager"] != "kube-controller-manager"]
    annotations = {k: v for k, v in metadata.pop("annotations", {}).items() if not k.startswith(_OF_CONTROLLERS)}
    return obj | {"metadata": metadata | ({"annotations": annotations} if annotations else {})}


def events_about(plane: ControlPlane, namespace: str, name: str) -> Sequence[Object]:
    """The Events that driftwall has left about an object."""
    events = plane.get("events", None, namespace)["items"]
    return [e for e in events if e["involvedObject"]["name"] == name and e["source"].get("component") == "driftwall"]
