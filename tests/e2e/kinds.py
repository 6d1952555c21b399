"""What people edit by hand: for each kind a manifest, a value that Git declares in it, and one that it does not."""

import base64
import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .api import Object

Place = tuple[str | int, ...]

FLUX = {"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
DECLARED_LABEL = "e2e.example.com/tier"
DECLARED_ANNOTATION = "e2e.example.com/owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A value for one place of an object."""

    place: Place
    value: Any

    def of(self, obj: Mapping[str, Any]) -> Object:
        """A copy of `obj` with the value; maps that are missing on the way are made."""
        edited: Any = copy.deepcopy(dict(obj))
        parent = edited
        for step in self.place[:-1]:
            parent = parent.setdefault(step, {}) if isinstance(step, str) else parent[step]
        parent[self.place[-1]] = self.value
        result: Object = edited
        return result

    def is_in(self, obj: Any) -> bool:
        """Whether `obj` has the value."""
        for step in self.place:
            if isinstance(step, str) and step not in obj:
                return False
            obj = obj[step]
        return bool(obj == self.value)

    def merge_patch(self, obj: Mapping[str, Any]) -> Object:
        """The edit as a merge patch of `obj`: lists whole, so it does as a strategic merge patch, too."""
        steps = [str(step) for step in itertools.takewhile(lambda step: isinstance(step, str), self.place)]
        value: Any = self.of(obj)
        for step in steps:
            value = value[step]
        for step in reversed(steps):
            value = {step: value}
        result: Object = value
        return result

    def json_patch(self) -> list[Object]:
        """The edit as a JSON patch of an object that has a value there."""
        steps = (str(step).replace("~", "~0").replace("/", "~1") for step in self.place)
        return [{"op": "replace", "path": "".join(f"/{step}" for step in steps), "value": self.value}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind, and what is edited in it.

    `protected` is of what Git declares, and `path` is how a message names it; `in_git` is the same edit in a
    manifest, where that looks otherwise. `unprotected` is of a field that Git leaves alone, if the kind has one.
    `replicas` is where the scale subresource writes, if there is one, `images` whether `set image` knows the kind, and
    `collectable` whether one request can delete all objects of it.
    """

    resource: str
    manifest: Object
    protected: Edit
    path: str
    in_git: Edit | None = None
    unprotected: Edit | None = None
    replicas: str | None = None
    images: bool = False
    custom: bool = False
    collectable: bool = True
    namespaced: bool = True

    def collection(self, namespace: str) -> str:
        """The path of all of them, in the namespace if they have one."""
        version = self.manifest["apiVersion"]
        within = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"/{'apis' if '/' in version else 'api'}/{version}{within}/{self.resource}"

    def edited_manifest(self, manifest: Mapping[str, Any]) -> Object:
        """A manifest with the protected value changed."""
        return (self.in_git or self.protected).of(manifest)


def of_flux(manifest: Mapping[str, Any], name: str) -> Object:
    """The manifest as Flux applies it for its Kustomization `shop`."""
    return unmanaged(manifest, name, FLUX)


def unmanaged(manifest: Mapping[str, Any], name: str, labels: Mapping[str, str] | None = None) -> Object:
    """The manifest as a person writes it."""
    metadata = {
        "name": name,
        "labels": {"app": name, DECLARED_LABEL: "front", **(labels or {})},
        "annotations": {DECLARED_ANNOTATION: "team-shop"},
    }
    return {**copy.deepcopy(dict(manifest)), "metadata": metadata}


def encoded(text: str) -> str:
    """As the data of a Secret."""
    return base64.b64encode(text.encode()).decode()


# The scale subresource writes to spec.size, so whoever judges it has to read this definition.
WIDGETS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.e2e.example.com"},
    "spec": {
        "group": "e2e.example.com",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": version,
                "served": True,
                "storage": version == "v1",
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer"},
                                    "note": {"type": "string"},
                                    "ports": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["name"],
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {
                                                "name": {"type": "string"},
                                                "port": {"type": "integer"},
                                            },
                                        },
                                    },
                                },
                            },
                            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                        },
                    }
                },
            }
            for version in ("v1", "v1beta1")
        ],
    },
}

_CONTAINERS: Place = ("spec", "template", "spec", "containers")
_BACKEND = {"service": {"name": "shop", "port": {"number": 80}}}
_RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]


def _pods(app: str) -> Object:
    """Selector and template of a workload."""
    template = {
        "metadata": {"labels": {"pods-of": app}},
        "spec": {"containers": [{"name": "main", "image": "image.invalid/shop:1"}]},
    }
    return {"selector": {"matchLabels": {"pods-of": app}}, "template": template}


_RBAC = "rbac.authorization.k8s.io/v1"
_IMAGE = "spec.template.spec.containers[name=main].image"

KINDS = (
    Kind(
        resource="services",
        manifest={
            "apiVersion": "v1",
            "kind": "Service",
            "spec": {
                "selector": {"pods-of": "web"},
                # The protocol is a key of the list, and server-side apply knows its default from v1.21 on.
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            },
        },
        protected=Edit(place=("spec", "ports", 0, "targetPort"), value=9090),
        path="spec.ports[port=80,protocol=TCP].targetPort",
        unprotected=Edit(place=("spec", "sessionAffinity"), value="ClientIP"),
        collectable=False,  # before v1.23
    ),
    Kind(
        resource="deployments",
        manifest={
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {"replicas": 2, **_pods("web")},
        },
        protected=Edit(place=(*_CONTAINERS, 0, "image"), value="image.invalid/shop:2"),
        path=_IMAGE,
        unprotected=Edit(place=("spec", "minReadySeconds"), value=5),
        replicas="spec.replicas",
        images=True,
    ),
    Kind(
        resource="statefulsets",
        manifest={
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "spec": {"replicas": 1, "serviceName": "shop", **_pods("database")},
        },
        protected=Edit(place=(*_CONTAINERS, 0, "image"), value="image.invalid/shop:2"),
        path=_IMAGE,
        unprotected=Edit(place=("spec", "updateStrategy", "rollingUpdate", "partition"), value=1),
        replicas="spec.replicas",
        images=True,
    ),
    Kind(
        resource="networkpolicies",
        manifest={
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"protocol": "TCP", "port": 80}]}]},
        },
        protected=Edit(place=("spec", "ingress", 0, "ports", 0, "port"), value=22),
        path="spec.ingress",
    ),
    Kind(
        resource="ingresses",
        manifest={
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "spec": {
                "rules": [
                    {
                        "host": "shop.example.com",
                        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": _BACKEND}]},
                    }
                ]
            },
        },
        protected=Edit(place=("spec", "rules", 0, "host"), value="other.example.com"),
        path="spec.rules",
    ),
    Kind(
        resource="configmaps",
        manifest={"apiVersion": "v1", "kind": "ConfigMap", "data": {"shop.yaml": "debug: false\n"}},
        protected=Edit(place=("data", "shop.yaml"), value="debug: true\n"),
        path="data['shop.yaml']",
        unprotected=Edit(place=("data", "extra"), value="of alice"),
    ),
    Kind(
        resource="secrets",
        manifest={"apiVersion": "v1", "kind": "Secret", "stringData": {"password": "in-git"}},
        protected=Edit(place=("data", "password"), value=encoded("by-hand")),
        in_git=Edit(place=("stringData", "password"), value="by-hand"),
        path="data.password",
        unprotected=Edit(place=("data", "extra"), value=encoded("of alice")),
    ),
    Kind(
        resource="roles",
        manifest={"apiVersion": _RBAC, "kind": "Role", "rules": _RULES},
        protected=Edit(place=("rules", 0, "verbs"), value=["get", "delete"]),
        path="rules",
    ),
    Kind(
        resource="widgets",
        manifest={
            "apiVersion": "e2e.example.com/v1",
            "kind": "Widget",
            "spec": {"size": 2, "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]},
        },
        protected=Edit(place=("spec", "ports", 0, "port"), value=8000),
        path="spec.ports[name=http].port",
        unprotected=Edit(place=("spec", "note"), value="of alice"),
        replicas="spec.size",
        custom=True,
    ),
    Kind(
        resource="clusterroles",
        manifest={"apiVersion": _RBAC, "kind": "ClusterRole", "rules": _RULES},
        protected=Edit(place=("rules", 0, "verbs"), value=["get", "delete"]),
        path="rules",
        namespaced=False,
    ),
)


def gizmos(plural: str = "gizmos", **labels: str) -> Object:
    """A definition with two versions, a scale subresource, and a specification that may hold anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}
    scale = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}
    versions = [
        {
            "name": version,
            "served": True,
            "storage": version == "v1",
            "subresources": {"status": {}, "scale": scale},
            "schema": schema,
        }
        for version in ("v1", "v1beta1")
    ]
    names = {"plural": plural, "singular": plural[:-1], "kind": plural[:-1].capitalize()}
    spec = {"group": "e2e.example.com", "scope": "Namespaced", "names": names, "versions": versions}
    metadata = {"name": f"{plural}.e2e.example.com", "labels": labels}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }
