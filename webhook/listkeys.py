"""How the lists of an object are keyed, without an OpenAPI document.

Two sources: a table of the built-in kinds (the ``x-kubernetes-list-type`` and ``-map-keys`` of Kubernetes's own API),
and the object's own managedFields, where the API server has written each list's keys down. A list that neither
knows is atomic, which is the API's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

ListType: TypeAlias = tuple[str, ...] | str
ATOMIC: Final = "atomic"
SET: Final = "set"

#: What a missing key field stands for; no other key of a built-in list has a default.
KEY_DEFAULTS: Final[Mapping[str, Any]] = {"protocol": "TCP"}

_METADATA: Final[Mapping[str, ListType]] = {"ownerReferences": ("uid",), "finalizers": SET}

_CONTAINER: Final[Mapping[str, ListType]] = {
    "ports": ("containerPort", "protocol"),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "resources.claims": ("name",),
    "command": ATOMIC,
    "args": ATOMIC,
    "envFrom": ATOMIC,
}
_POD_SPEC: Final[dict[str, ListType]] = {
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "tolerations": ATOMIC,
}
for _containers in ("containers", "initContainers", "ephemeralContainers"):
    _POD_SPEC[_containers] = ("name",)
    _POD_SPEC.update({f"{_containers}.{name}": keys for name, keys in _CONTAINER.items()})

#: Where each built-in workload keeps its pod's spec.
POD_SPECS: Final[Mapping[tuple[str, str], str]] = {
    ("", "Pod"): "spec",
    ("", "PodTemplate"): "template.spec",
    ("", "ReplicationController"): "spec.template.spec",
    ("apps", "Deployment"): "spec.template.spec",
    ("apps", "ReplicaSet"): "spec.template.spec",
    ("apps", "StatefulSet"): "spec.template.spec",
    ("apps", "DaemonSet"): "spec.template.spec",
    ("batch", "Job"): "spec.template.spec",
    ("batch", "CronJob"): "spec.jobTemplate.spec.template.spec",
}

_OTHERS: Final[Mapping[tuple[str, str], Mapping[str, ListType]]] = {
    ("", "Service"): {
        "spec.ports": ("port", "protocol"),
        "spec.externalIPs": ATOMIC,
        "spec.loadBalancerSourceRanges": ATOMIC,
    },
    ("", "ServiceAccount"): {"secrets": ("name",), "imagePullSecrets": ATOMIC},
    ("", "Node"): {"spec.podCIDRs": SET, "spec.taints": ATOMIC},
    ("", "PersistentVolumeClaim"): {"spec.accessModes": ATOMIC},
    ("networking.k8s.io", "NetworkPolicy"): {"spec.ingress": ATOMIC, "spec.egress": ATOMIC, "spec.policyTypes": ATOMIC},
    ("networking.k8s.io", "Ingress"): {"spec.rules": ATOMIC, "spec.tls": ATOMIC},
    ("rbac.authorization.k8s.io", "Role"): {"rules": ATOMIC},
    ("rbac.authorization.k8s.io", "ClusterRole"): {"rules": ATOMIC},
    ("rbac.authorization.k8s.io", "RoleBinding"): {"subjects": ATOMIC},
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): {"subjects": ATOMIC},
    ("autoscaling", "HorizontalPodAutoscaler"): {"spec.metrics": ATOMIC},
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): {"webhooks": ("name",)},
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): {"webhooks": ("name",)},
    ("apiextensions.k8s.io", "CustomResourceDefinition"): {"spec.versions": ATOMIC},
    ("gateway.networking.k8s.io", "Gateway"): {"spec.listeners": ("name",)},
}

_MOVED: Final[Mapping[str, str]] = {
    "Deployment": "apps",
    "DaemonSet": "apps",
    "ReplicaSet": "apps",
    "Ingress": "networking.k8s.io",
    "NetworkPolicy": "networking.k8s.io",
}


def canonical_group(group: str, kind: str) -> str:
    """The group where a kind of the old ``extensions`` group lives now; any other group unchanged."""
    return _MOVED.get(kind, group) if group == "extensions" else group


def _build() -> dict[tuple[str, str], dict[tuple[str, ...], ListType]]:
    built: dict[tuple[str, str], dict[tuple[str, ...], ListType]] = {}
    for kind, fields in _OTHERS.items():
        built[kind] = {tuple(path.split(".")): keys for path, keys in fields.items()}
    for kind, prefix in POD_SPECS.items():
        base = tuple(prefix.split("."))
        built.setdefault(kind, {}).update({(*base, *path.split(".")): keys for path, keys in _POD_SPEC.items()})
    return {kind: {**fields, **_EVERY} for kind, fields in built.items()}


_EVERY: Final[Mapping[tuple[str, ...], ListType]] = {("metadata", name): keys for name, keys in _METADATA.items()}
_TABLE: Final = _build()


#: A place that a document owns whole, and any below it.
_WHOLE: Final[Mapping[str, Any]] = {}
#: The same within an item of a list. It is atomic there only if no other item has something finer to say: one in which
#: a map is empty looks as if that map was owned whole.
_SILENT: Final[Mapping[str, Any]] = {"": {}}


def _is_whole(node: Mapping[str, Any]) -> bool:
    return not node or node is _SILENT


def _items(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if _is_whole(node):
        yield _SILENT
    for key, child in node.items():
        if key.startswith("k:") and isinstance(child, dict):
            yield child


#: Tiers of fieldsV1 documents, the most trusted first.
Tiers: TypeAlias = Sequence[Sequence[Mapping[str, Any]]]


class Schema:
    """A place in an object's structure, from which the type of the list there can be asked.

    What a document owns whole is atomic, and so are all lists below it. The documents are read only where the table of
    the built-in kinds has no answer.
    """

    __slots__ = ("_above", "_fields", "_inside", "_item", "_name", "_names", "_table", "_tiers")

    def __init__(
        self,
        table: Mapping[tuple[str, ...], ListType],
        *,
        above: Callable[[], Tiers] | Schema,
        names: tuple[str, ...] = (),
        name: str | None = None,
        inside: Mapping[str, Any] = _WHOLE,
    ) -> None:
        self._table = table
        # What the documents say of this place follows from what they say of the one above.
        self._above = above
        self._names = names
        self._name = name
        self._inside = inside
        self._tiers: Tiers | None = None
        # Made when first asked for, and kept: the items of a list share them, and there may be thousands.
        self._fields: dict[str, Schema] = {}
        self._item: Schema | None = None

    @classmethod
    def of(cls, group: str, kind: str, *tiers: Sequence[Mapping[str, Any]]) -> Schema:
        """The structure of ``kind`` in ``group``; ``tiers`` are fieldsV1 documents, the most trusted first."""
        return cls.told_by(group, kind, lambda: tiers)

    @classmethod
    def told_by(cls, group: str, kind: str, documents: Callable[[], Tiers]) -> Schema:
        """As :meth:`of`; ``documents`` is called when they are needed."""
        return cls(_TABLE.get((canonical_group(group, kind), kind), _EVERY), above=documents)

    def field(self, name: str) -> Schema:
        """The structure of a field."""
        found = self._fields.get(name)
        if found is None:
            names = (*self._names, name)
            found = self._fields[name] = Schema(self._table, above=self, names=names, name=name, inside=self._inside)
        return found

    def item(self) -> Schema:
        """The structure that all items of the list here share."""
        if self._item is None:
            self._item = Schema(self._table, above=self, names=self._names, inside=_SILENT)
        return self._item

    def _documents(self) -> Tiers:
        # A loop, since an object may be as deep as Python's stack.
        waiting: list[Schema] = []
        place: Schema = self
        while place._tiers is None:
            waiting.append(place)
            if not isinstance(place._above, Schema):
                place._tiers = place._above()
                waiting.pop()
                break
            place = place._above
        tiers = place._tiers
        for place in reversed(waiting):
            tiers = place._tiers = place._below(tiers)
        return tiers

    def _below(self, tiers: Tiers) -> Tiers:
        """What the documents say of this place, where ``tiers`` is what they say of the one above."""
        if self._name is None:
            return [[child for node in nodes for child in _items(node)] for nodes in tiers]
        key, inside = "f:" + self._name, self._inside
        return [
            [child for node in nodes if isinstance(child := inside if _is_whole(node) else node.get(key), dict)]
            for nodes in tiers
        ]

    def list_type_at(self, path: Sequence[object]) -> ListType:
        """:meth:`list_type` of the list at ``path`` of the object; what is no name stands for an item of a list."""
        names = tuple([element for element in path if type(element) is str])
        known = self._table.get(names)
        if known is not None:
            return known
        place = self
        for element in path:
            place = place.field(element) if isinstance(element, str) else place.item()
        return place.list_type()

    def list_type(self) -> ListType:
        """Of the list here: the names of its key fields, SET, or ATOMIC.

        Whoever may write the object may add entries to its managedFields: documents that contradict one another are
        not believed, and those of one tier are not asked where a tier before has an answer.
        """
        known = self._table.get(self._names)
        if known is not None:
            return known
        for nodes in self._documents():
            claims = {claim for node in nodes for claim in _claims(node)}
            if claims:
                return claims.pop() if len(claims) == 1 else ATOMIC
            if any(node is _SILENT for node in nodes):
                return ATOMIC
        return ATOMIC


def _claims(node: Mapping[str, Any]) -> Iterator[ListType]:
    """What a fieldsV1 document says of the type of the list at ``node``."""
    if not node:
        yield ATOMIC
    for key in node:
        if key.startswith("v:"):
            yield SET
        elif key.startswith("k:"):
            yield tuple(parse_item_key(key)) or ATOMIC


_decode_map: Final = msgspec.json.Decoder(dict[str, Any]).decode


def parse_item_key(key: str) -> dict[str, Any]:
    """The fields of a fieldsV1 key such as ``k:{"name":"web"}``; empty if it cannot be read."""
    try:
        return _decode_map(key[2:])
    except (msgspec.DecodeError, RecursionError):
        return {}
