from __future__ import annotations

import pytest

from webhook import fieldsets
from webhook.fieldsets import FIELD_SETS, NAMES
from webhook.patterns import parse_pattern


def test_the_sets_that_the_interface_promises_are_there() -> None:
    assert NAMES == (
        "environment",
        "images",
        "openedPorts",
        "permissions",
        "replicas",
        "resources",
        "scheduling",
        "securityContext",
        "volumes",
    )
    assert set(FIELD_SETS) == set(NAMES) == set(fieldsets.DESCRIPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_a_set_is_a_pattern_and_is_there_once(name: str) -> None:
    for kind, paths in FIELD_SETS[name].items():
        assert [parse_pattern(path) for path in paths] == list(fieldsets.patterns(name, *kind))
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("name", "group", "kind", "path"),
    [
        ("openedPorts", "", "Service", "spec.ports"),
        ("openedPorts", "", "Service", "spec.type"),
        ("openedPorts", "", "Service", "spec.externalIPs"),
        ("openedPorts", "", "Service", "spec.loadBalancerSourceRanges"),
        ("openedPorts", "", "Service", "spec.loadBalancerClass"),
        ("openedPorts", "", "Pod", "spec.hostNetwork"),
        ("openedPorts", "", "Pod", "spec.ephemeralContainers[*].ports"),
        ("openedPorts", "batch", "CronJob", "spec.jobTemplate.spec.template.spec.containers[*].ports"),
        ("openedPorts", "apps", "StatefulSet", "spec.template.spec.initContainers[*].ports"),
        ("openedPorts", "networking.k8s.io", "NetworkPolicy", "spec.ingress"),
        ("openedPorts", "networking.k8s.io", "Ingress", "spec.rules"),
        ("openedPorts", "gateway.networking.k8s.io", "Gateway", "spec.listeners"),
        ("openedPorts", "gateway.networking.k8s.io", "HTTPRoute", "spec.rules"),
        ("openedPorts", "extensions", "Ingress", "spec.rules"),
        ("images", "apps", "DaemonSet", "spec.template.spec.containers[*].image"),
        ("replicas", "apps", "Deployment", "spec.replicas"),
        ("resources", "apps", "Deployment", "spec.template.spec.containers[*].resources"),
        ("environment", "apps", "Deployment", "spec.template.spec.containers[*].envFrom"),
        ("volumes", "apps", "StatefulSet", "spec.volumeClaimTemplates"),
        ("volumes", "apps", "StatefulSet", "spec.template.spec.volumes"),
        ("securityContext", "", "ReplicationController", "spec.template.spec.serviceAccountName"),
        ("permissions", "rbac.authorization.k8s.io", "ClusterRoleBinding", "roleRef"),
        ("scheduling", "batch", "Job", "spec.template.spec.nodeSelector"),
    ],
)
def test_a_set_holds_the_fields_of_its_purpose_in_every_kind_that_has_them(
    name: str, group: str, kind: str, path: str
) -> None:
    assert parse_pattern(path) in fieldsets.patterns(name, group, kind)


def test_a_kind_that_a_set_does_not_speak_of_has_no_fields_in_it() -> None:
    assert fieldsets.patterns("openedPorts", "example.com", "Service") == ()
    assert fieldsets.patterns("permissions", "", "Pod") == ()


def test_an_unknown_set_is_an_error() -> None:
    with pytest.raises(KeyError):
        fieldsets.patterns("ports", "", "Service")
