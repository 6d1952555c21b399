"""The tools besides Flux: how each marks an object, and where each says what it declares."""

import json

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .people import Person, config_map, deployment, path_of, refused, unchanged

NAMESPACE = "other-tools"
TRACKING = "argocd.argoproj.io/tracking-id"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
DECLARED_FIELDS = "configsync.gke.io/declared-fields"
PORT = {"data": {"port": "8080"}}


@pytest.fixture(scope="module", autouse=True)
def namespace(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    control_plane.create_namespace(NAMESPACE)


@pytest.fixture
def alice(control_plane: ControlPlane) -> Person:
    return person(control_plane, "alice")


def person(plane: ControlPlane, user: str) -> Person:
    return Person(plane=plane, user=user, namespace=NAMESPACE)


def annotated(obj: Object, **annotations: str) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


@pytest.fixture(scope="module")
def of_argocd(control_plane: ControlPlane, namespace: None) -> Object:
    """A Deployment that Argo CD has applied as it does by default: on the client's side."""
    manifest = annotated(deployment("argo", NAMESPACE), **{TRACKING: f"shop:apps/Deployment:{NAMESPACE}/argo"})
    argocd = person(control_plane, "argocd")
    applied = argocd.kubectl("apply", "--field-manager=argocd-controller", "-f", "-", stdin=manifest)
    assert applied.done, applied
    return manifest


def test_what_argocd_applied_is_not_changed_by_hand(
    control_plane: ControlPlane, alice: Person, of_argocd: Object
) -> None:
    ways = (
        ("set", "image", "deployment/argo", "main=image.invalid/shop:2"),
        ("scale", "deployment/argo", "--replicas=3"),
        ("annotate", "deployment/argo", f"{TRACKING}=other:apps/Deployment:{NAMESPACE}/argo", "--overwrite"),
        ("annotate", "deployment/argo", f"{LAST_APPLIED}-"),
    )
    paths = (
        'spec.template.spec.containers[name=main].image: "image.invalid/shop:1" -> "image.invalid/shop:2"',
        "spec.replicas: 1 -> 3",
        f"metadata.annotations['{TRACKING}']",
        f"metadata.annotations['{LAST_APPLIED}']",
    )
    with unchanged(control_plane, of_argocd):
        for command, path in zip(ways, paths, strict=True):
            told = ("is managed by Argo CD (Application shop)", path, "Policy declared-fields", "let Argo CD sync it")
            refused(alice.kubectl(*command), *told)


def test_what_the_server_filled_in_for_argocd_is_anybodys(
    control_plane: ControlPlane, alice: Person, of_argocd: Object
) -> None:
    entries = control_plane.get(path_of(of_argocd))["metadata"]["managedFields"]
    (own,) = [entry for entry in entries if entry["manager"] == "argocd-controller"]
    assert own["operation"] == "Update"
    assert "f:revisionHistoryLimit" in own["fieldsV1"]["f:spec"]  # owned all the same, but it is in no manifest
    outcome = alice.patch("deployment/argo", {"spec": {"revisionHistoryLimit": 3}})
    assert outcome.done, outcome
    assert control_plane.get(path_of(of_argocd))["spec"]["revisionHistoryLimit"] == 3


def test_argocd_changes_what_it_applied(control_plane: ControlPlane, of_argocd: Object) -> None:
    argocd = person(control_plane, "argocd")
    manifest = json.loads(json.dumps(of_argocd).replace("shop:1", "shop:3"))
    outcome = argocd.kubectl("apply", "--field-manager=argocd-controller", "-f", "-", stdin=manifest)
    assert outcome.done, outcome
    containers = control_plane.get(path_of(of_argocd))["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "image.invalid/shop:3"


def test_what_a_helm_release_declares_is_not_changed_by_hand(control_plane: ControlPlane, alice: Person) -> None:
    release = {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": NAMESPACE}
    manifest = annotated(config_map("helm", NAMESPACE), **release)
    manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
    helm = person(control_plane, "helm-controller")
    created = helm.kubectl("create", "--field-manager=helm-controller", "-f", "-", stdin=manifest)
    assert created.done, created
    with unchanged(control_plane, manifest):
        told = (f"is managed by Helm (release {NAMESPACE}/shop)", "upgrade the release")
        refused(alice.patch("configmap/helm", PORT), 'data.port: "80" -> "8080"', *told)
        label = "app.kubernetes.io/managed-by"
        refused(
            alice.kubectl("label", "configmap/helm", f"{label}-"),
            f'metadata.labels: removed, was {{"{label}":"Helm"}}',
            *told,
        )
    assert alice.kubectl("label", "configmap/helm", "of-alice=yes").done
    assert helm.patch("configmap/helm", PORT).done


def test_what_config_sync_declares_is_not_changed_by_hand(control_plane: ControlPlane, alice: Person) -> None:
    marker = {
        "configmanagement.gke.io/managed": "enabled",
        "configsync.gke.io/resource-id": f"_configmap_{NAMESPACE}_synced",
        DECLARED_FIELDS: json.dumps({"f:data": {"f:port": {}}}),
    }
    manifest = annotated(config_map("synced", NAMESPACE, port="80", other="of nobody"), **marker)
    config_sync = person(control_plane, "configsync")
    # By another name, so that the annotation alone says what is declared.
    created = config_sync.kubectl("create", "--field-manager=somebody", "-f", "-", stdin=manifest)
    assert created.done, created
    with unchanged(control_plane, manifest):
        told = ("is managed by Config Sync", "let Config Sync apply it")
        refused(alice.patch("configmap/synced", PORT), 'data.port: "80" -> "8080"', *told)
        declared = f"metadata.annotations['{DECLARED_FIELDS}']"
        refused(alice.kubectl("annotate", "configmap/synced", f"{DECLARED_FIELDS}-"), declared, *told)
    assert alice.patch("configmap/synced", {"data": {"other": "of alice"}}).done
    assert config_sync.patch("configmap/synced", PORT).done
