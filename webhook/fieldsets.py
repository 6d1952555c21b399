"""The named sets of fields that come with driftwall, per kind.

``driftwall explain fieldset NAME`` prints one. A pod's fields are meant in a Pod and in every workload's template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webhook.listkeys import POD_SPECS, canonical_group
from webhook.patterns import Pattern, parse_pattern

Kind = tuple[str, str]

#: Well-known custom workloads that hold a pod template, beside the built-in ones.
_CUSTOM_POD_SPECS: Final[Mapping[Kind, str]] = {
    ("argoproj.io", "Rollout"): "spec.template.spec",
    ("apps.kruise.io", "CloneSet"): "spec.template.spec",
    ("apps.kruise.io", "StatefulSet"): "spec.template.spec",
    ("apps.kruise.io", "DaemonSet"): "spec.template.spec",
    ("serving.knative.dev", "Service"): "spec.template.spec",
    ("serving.knative.dev", "Configuration"): "spec.template.spec",
    ("apps.openshift.io", "DeploymentConfig"): "spec.template.spec",
}
_POD_SPECS: Final[Mapping[Kind, str]] = {**POD_SPECS, **_CUSTOM_POD_SPECS}
_CONTAINERS: Final = ("containers[*]", "initContainers[*]", "ephemeralContainers[*]")


def _in_containers(*fields: str) -> tuple[str, ...]:
    return tuple(f"{container}.{field}" for container in _CONTAINERS for field in fields)


#: Relative to a pod's spec.
_POD_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "openedPorts": ("hostNetwork", *_in_containers("ports")),
    "images": _in_containers("image"),
    "resources": ("resources", "overhead", *_in_containers("resources", "resizePolicy")),
    "environment": _in_containers("env", "envFrom"),
    "volumes": ("volumes", *_in_containers("volumeMounts", "volumeDevices")),
    "securityContext": (
        "securityContext",
        "hostPID",
        "hostIPC",
        "hostNetwork",
        "hostUsers",
        "shareProcessNamespace",
        "automountServiceAccountToken",
        "serviceAccountName",
        "serviceAccount",
        "runtimeClassName",
        *_in_containers("securityContext"),
    ),
    "scheduling": (
        "nodeSelector",
        "nodeName",
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "schedulerName",
        "priorityClassName",
        "priority",
        "preemptionPolicy",
        "runtimeClassName",
        "schedulingGates",
    ),
}

_RBAC: Final = "rbac.authorization.k8s.io"
_GATEWAY: Final = "gateway.networking.k8s.io"
_SCALED: Final[tuple[Kind, ...]] = (
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("", "ReplicationController"),
    ("argoproj.io", "Rollout"),
    ("apps.kruise.io", "CloneSet"),
    ("apps.kruise.io", "StatefulSet"),
    ("apps.openshift.io", "DeploymentConfig"),
)

_KIND_FIELDS: Final[Mapping[str, Mapping[Kind, tuple[str, ...]]]] = {
    "openedPorts": {
        ("", "Service"): (
            "spec.ports",
            "spec.type",
            "spec.externalIPs",
            "spec.externalName",
            "spec.externalTrafficPolicy",
            "spec.healthCheckNodePort",
            "spec.loadBalancerIP",
            "spec.loadBalancerClass",
            "spec.loadBalancerSourceRanges",
            "spec.allocateLoadBalancerNodePorts",
        ),
        ("networking.k8s.io", "NetworkPolicy"): ("spec.ingress", "spec.egress", "spec.policyTypes", "spec.podSelector"),
        ("networking.k8s.io", "Ingress"): (
            "spec.rules",
            "spec.defaultBackend",
            "spec.backend",
            "spec.tls",
            "spec.ingressClassName",
        ),
        (_GATEWAY, "Gateway"): ("spec.listeners", "spec.addresses", "spec.gatewayClassName"),
        **{
            (_GATEWAY, route): ("spec.parentRefs", "spec.hostnames", "spec.rules")
            for route in ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")
        },
    },
    "replicas": {
        **dict.fromkeys(_SCALED, ("spec.replicas",)),
        ("batch", "Job"): ("spec.parallelism", "spec.completions"),
        ("autoscaling", "HorizontalPodAutoscaler"): ("spec.minReplicas", "spec.maxReplicas", "spec.scaleTargetRef"),
    },
    "volumes": {("apps", "StatefulSet"): ("spec.volumeClaimTemplates",)},
    "permissions": {
        (_RBAC, "Role"): ("rules",),
        (_RBAC, "ClusterRole"): ("rules", "aggregationRule"),
        (_RBAC, "RoleBinding"): ("subjects", "roleRef"),
        (_RBAC, "ClusterRoleBinding"): ("subjects", "roleRef"),
    },
}

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "openedPorts": "What is reachable: Services, container and host ports, NetworkPolicies, Ingresses, routes.",
    "images": "Which images run.",
    "replicas": "How many run.",
    "resources": "CPU, memory and other resources of containers.",
    "environment": "Environment variables of containers.",
    "volumes": "Volumes, and where containers mount them.",
    "securityContext": "What a pod may do on its node, and as whom it runs.",
    "permissions": "RBAC rules, subjects and role references.",
    "scheduling": "Where pods may run.",
}

NAMES: Final = tuple(sorted(DESCRIPTIONS))


def _build(name: str) -> dict[Kind, tuple[str, ...]]:
    fields = {kind: list(paths) for kind, paths in _KIND_FIELDS.get(name, {}).items()}
    for kind, prefix in _POD_SPECS.items():
        for path in _POD_FIELDS.get(name, ()):
            fields.setdefault(kind, []).append(f"{prefix}.{path}")
    return {kind: tuple(paths) for kind, paths in sorted(fields.items())}


#: Name of the set -> (group, kind) -> paths.
FIELD_SETS: Final[Mapping[str, Mapping[Kind, tuple[str, ...]]]] = {name: _build(name) for name in NAMES}

_PATTERNS: Final = {
    name: {kind: tuple(parse_pattern(path) for path in paths) for kind, paths in kinds.items()}
    for name, kinds in FIELD_SETS.items()
}


def patterns(name: str, group: str, kind: str) -> tuple[Pattern, ...]:
    """The fields of set ``name`` in a kind; none for a kind that it does not speak of. KeyError: no such set."""
    return _PATTERNS[name].get((canonical_group(group, kind), kind), ())
