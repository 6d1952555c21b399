"""What is neither spec nor data: API versions, status, ownership, owners and finalizers of what Flux manages."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .hands import create_widgets
from .kinds import DECLARED_LABEL
from .people import JSON, MERGE, Person, config_map, manifest, of_flux, path_of, pods_of, refused, unchanged

NAMESPACE = "metadata"


@pytest.fixture(scope="module", autouse=True)
def namespace(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    create_widgets(control_plane)
    control_plane.create_namespace(NAMESPACE)


@pytest.fixture
def flux(control_plane: ControlPlane) -> Person:
    return Person(plane=control_plane, user="flux", namespace=NAMESPACE)


@pytest.fixture
def alice(control_plane: ControlPlane) -> Person:
    return Person(plane=control_plane, user="alice", namespace=NAMESPACE)


@pytest.fixture
def web(flux: Person) -> Object:
    made = of_flux(config_map("web", NAMESPACE))
    flux.applies(made)
    return made


# ── other versions of the same object ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """An object as Flux applies it, the path of it in another version, and a patch there of what Flux declares."""

    applied: Object
    elsewhere: str
    patch: Object
    path: str


def ingress(plane: ControlPlane) -> Versioned:
    backend = {"service": {"name": "shop", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    rules = [{"host": "shop.example.com", "http": {"paths": paths}}]
    applied = manifest("networking.k8s.io/v1", "Ingress", "web", NAMESPACE, spec={"rules": rules})
    elsewhere = path_of(applied)
    if plane.version < (1, 22):  # the last one with a second version of it
        elsewhere = elsewhere.replace("networking.k8s.io/v1", "extensions/v1beta1")
    patch = {"spec": {"rules": [{"host": "evil.example.com"}]}}
    return Versioned(applied=applied, elsewhere=elsewhere, patch=patch, path="spec.rules")


def autoscaler(plane: ControlPlane) -> Versioned:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 80}
    applied = manifest("autoscaling/v1", "HorizontalPodAutoscaler", "web", NAMESPACE, spec=spec)
    other = "v2" if plane.version >= (1, 23) else "v2beta2"
    utilization = {"type": "Utilization", "averageUtilization": 5}
    patch = {"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}]}}
    return Versioned(
        applied=applied,
        elsewhere=path_of(applied).replace("autoscaling/v1", f"autoscaling/{other}"),
        patch=patch,
        path="spec.metrics",  # targetCPUUtilizationPercentage there
    )


def widget(plane: ControlPlane) -> Versioned:
    spec = {"size": 2, "ports": [{"name": "http", "port": 80}]}
    applied = manifest("e2e.example.com/v1", "Widget", "web", NAMESPACE, spec=spec)
    elsewhere = path_of(applied).replace("/v1/", "/v1beta1/")
    patch = {"spec": {"ports": [{"name": "http", "port": 22}]}}
    return Versioned(applied=applied, elsewhere=elsewhere, patch=patch, path="spec.ports[name=http].port")


@pytest.mark.parametrize("make", [ingress, autoscaler, widget], ids=["Ingress", "HorizontalPodAutoscaler", "Widget"])
def test_another_version_of_an_object_is_guarded_like_the_one_that_flux_applied(
    make: Callable[[ControlPlane], Versioned], control_plane: ControlPlane, flux: Person, alice: Person
) -> None:
    versioned = make(control_plane)
    applied = of_flux(versioned.applied)
    flux.applies(applied)
    with unchanged(control_plane, applied):
        told = ("is managed by Flux (Kustomization flux-system/shop)", versioned.path, "Policy declared-fields")
        refused(alice.send("PATCH", versioned.elsewhere, versioned.patch, content_type=MERGE), *told)
        refused(alice.send("DELETE", versioned.elsewhere), "alice may not delete it")
    undeclared = {"metadata": {"labels": {"of-alice": "yes"}}}
    outcome = alice.send("PATCH", versioned.elsewhere, undeclared, content_type=MERGE)
    assert outcome.done, outcome


# ── metadata ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stateful_set() -> Object:
    return manifest("apps/v1", "StatefulSet", "web", NAMESPACE, spec={"serviceName": "web", **pods_of("stateful")})


def service() -> Object:
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    return manifest("v1", "Service", "web", NAMESPACE, spec={"ports": ports})


def job() -> Object:
    template = pods_of("job")["template"]
    return manifest(
        "batch/v1",
        "Job",
        "web",
        NAMESPACE,
        spec={"template": {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}},
    )


@pytest.mark.parametrize("obj", [stateful_set(), service(), job()], ids=lambda obj: str(obj["kind"]))
def test_labels_that_flux_declares_are_not_changed_through_the_status(
    obj: Object, control_plane: ControlPlane, flux: Person, alice: Person
) -> None:
    applied = of_flux(obj)
    applied["metadata"]["labels"][DECLARED_LABEL] = "front"
    flux.applies(applied)
    path = f"{path_of(obj)}/status"
    labels = {DECLARED_LABEL: "back"}
    with unchanged(control_plane, applied):
        outcome = alice.send("PATCH", path, {"metadata": {"labels": labels}}, content_type=MERGE)
        refused(outcome, f"metadata.labels['{DECLARED_LABEL}']", '"front" -> "back"')


def test_ownership_is_not_cleared(control_plane: ControlPlane, alice: Person, web: Object) -> None:
    with unchanged(control_plane, web):
        refused(alice.patch("configmap/web", {"metadata": {"managedFields": [{}]}}), "metadata.managedFields")
        both = {"metadata": {"managedFields": [{}]}, "data": {"port": "8080"}}
        refused(alice.patch("configmap/web", both), "data.port")


def test_an_owner_is_not_put_above_a_managed_object(control_plane: ControlPlane, alice: Person, web: Object) -> None:
    alice.creates(config_map("own", NAMESPACE))
    uid = control_plane.get("configmaps", "own", NAMESPACE)["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "own", "uid": uid}
    with unchanged(control_plane, web):
        patch = {"metadata": {"ownerReferences": [owner]}}
        refused(alice.patch("configmap/web", patch), "metadata.ownerReferences")


def test_a_finalizer_that_flux_does_not_declare_comes_and_goes(
    control_plane: ControlPlane, alice: Person, web: Object
) -> None:
    added = alice.patch("configmap/web", {"metadata": {"finalizers": ["e2e.example.com/held"]}})
    assert added.done, added
    assert control_plane.get("configmaps", "web", NAMESPACE)["metadata"]["finalizers"] == ["e2e.example.com/held"]
    remove = [{"op": "remove", "path": "/metadata/finalizers/0"}]
    outcome = alice.send("PATCH", path_of(web), remove, content_type=JSON)
    assert outcome.done, outcome
    assert "finalizers" not in control_plane.get("configmaps", "web", NAMESPACE)["metadata"]


def test_taking_away_the_last_finalizer_of_what_flux_deletes_is_no_deletion_of_alices(
    control_plane: ControlPlane, flux: Person, alice: Person
) -> None:
    held = of_flux(config_map("held", NAMESPACE))
    flux.applies(held)
    assert alice.patch("configmap/held", {"metadata": {"finalizers": ["e2e.example.com/held"]}}).done
    assert flux.kubectl("delete", "configmap/held", "--wait=false").done
    outcome = alice.patch("configmap/held", {"metadata": {"finalizers": []}})
    assert outcome.done, outcome
    control_plane.wait_for(lambda: not control_plane.exists("configmaps", "held", NAMESPACE), "it to go")
