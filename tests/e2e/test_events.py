"""What driftwall leaves in the cluster of what it has refused: Events that people find where they look."""

from collections.abc import Callable, Iterator

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .people import Person, config_map, deployment, events_about, manifest, of_flux, refused

NAMESPACE = "events"
FLUX = "managed by Flux (Kustomization flux-system/shop), policy declared-fields: alice may not"

Await = Callable[..., Object]


@pytest.fixture(scope="module", autouse=True)
def server(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driftwall]:
    """One of its own: another may have left as many Events as it leaves at once."""
    control_plane.create_namespace(NAMESPACE)
    with Driftwall(control_plane, tmp_path_factory.mktemp("events")) as server, server.in_the_way():
        yield server


@pytest.fixture
def alice(control_plane: ControlPlane) -> Person:
    return Person(plane=control_plane, user="alice", namespace=NAMESPACE)


@pytest.fixture
def flux(control_plane: ControlPlane) -> Person:
    return Person(plane=control_plane, user="flux", namespace=NAMESPACE)


@pytest.fixture
def event(control_plane: ControlPlane, server: Driftwall) -> Await:
    """Waits for the one Event about an object, which counts all its denials.

    API servers before v1.23 ask twice before they deny a change: they take their cache for stale.
    """

    def wait(name: str, namespace: str = NAMESPACE) -> Object:
        def found() -> Object | None:
            events, denials = events_about(control_plane, namespace, name), server.log(name=name, allowed=False)
            return events[0] if len(events) == 1 and events[0]["count"] == len(denials) else None

        found_event = control_plane.wait_for(found, f"an Event about {name} that counts all")
        assert found_event is not None
        return found_event

    return wait


def test_describe_shows_the_denials_of_an_object_and_counts_them(alice: Person, flux: Person, event: Await) -> None:
    flux.applies(of_flux(config_map("web", NAMESPACE)))
    for port in ("8080", "8081", "8082"):
        refused(alice.patch("configmap/web", {"data": {"port": port}}))
    written = event("web")
    assert written["reason"] == "WriteDenied"
    assert written["count"] in (3, 6)
    assert written["message"] == f"{FLUX} change data.port"
    described = alice.kubectl("describe", "configmap", "web").said
    assert "WriteDenied" in described
    assert f"(x{written['count']} over" in described
    assert f"{FLUX} change data.port" in described


def test_describe_shows_that_somebody_tried_to_scale(alice: Person, flux: Person, event: Await) -> None:
    flux.applies(of_flux(deployment("scaled", NAMESPACE)))
    refused(alice.kubectl("scale", "deployment", "scaled", "--replicas=3"))
    event("scaled")
    described = alice.kubectl("describe", "deployment", "scaled").said
    assert f"{FLUX} update deployments/scale with spec.replicas" in described


def test_what_has_no_namespace_has_its_event_in_the_default_one(alice: Person, flux: Person, event: Await) -> None:
    role = manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "events:reader", None, rules=[])
    flux.applies(of_flux(role))
    refused(alice.kubectl("delete", "clusterrole", "events:reader"))
    assert event("events:reader", namespace="default")["message"] == f"{FLUX} delete it"


def test_what_is_denied_at_its_creation_has_an_event_on_its_name(
    server: Driftwall, control_plane: ControlPlane, alice: Person, event: Await
) -> None:
    for metadata in ({"name": "forged"}, {"generateName": "many-"}):
        obj = of_flux(config_map("forged", NAMESPACE))
        obj["metadata"] = {"labels": obj["metadata"]["labels"], "namespace": NAMESPACE, **metadata}
        refused(alice.send("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", obj))
    # The API server has made a name of it already.
    [generated] = server.await_log(2, user="alice", operation="CREATE", resource="configmaps")[1:]
    for name in ("forged", generated["name"]):
        written = event(name)
        assert "alice may not create it with metadata.labels" in written["message"]
        assert "uid" not in written["involvedObject"]
    assert not control_plane.exists("configmap", "forged", NAMESPACE)


def test_a_dry_run_leaves_no_event(server: Driftwall, alice: Person, flux: Person, control_plane: ControlPlane) -> None:
    flux.applies(of_flux(config_map("tried", NAMESPACE)), of_flux(config_map("written", NAMESPACE)))
    patch = {"data": {"port": "8080"}}
    refused(alice.patch("configmap/tried", patch, "--dry-run=server"))
    refused(alice.patch("configmap/written", patch))
    # They are written one after the other.
    control_plane.wait_for(
        lambda: events_about(control_plane, NAMESPACE, "written"), "the Event of what was no dry run"
    )
    assert events_about(control_plane, NAMESPACE, "tried") == []
    assert server.log(user="alice", name="tried", dryRun=True)


def test_an_event_that_somebody_deletes_comes_back_with_the_next_denial(
    control_plane: ControlPlane, alice: Person, flux: Person, event: Await
) -> None:
    flux.applies(of_flux(config_map("again", NAMESPACE)))
    refused(alice.kubectl("delete", "configmap", "again"))
    name = event("again")["metadata"]["name"]
    admin = Person(plane=control_plane, user="admin", namespace=NAMESPACE)
    assert admin.kubectl("delete", "event", name).done
    refused(alice.kubectl("delete", "configmap", "again"))
    assert event("again")["metadata"]["name"] != name


def test_none_of_it_went_wrong(server: Driftwall) -> None:
    lost = [line for line in server.metrics().splitlines() if line.startswith("driftwall_cluster_writes_total")]
    counted = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lost}
    assert counted['driftwall_cluster_writes_total{kind="event",result="failed"}'] == 0
    assert counted['driftwall_cluster_writes_total{kind="event",result="dropped"}'] == 0
