"""Nobody but Flux changes what Flux declares: ten kinds, in every way that kubectl has."""

from collections.abc import Callable

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .hands import Hands, Way, apply, create_widgets, ways
from .kinds import KINDS, Edit, Kind, of_flux, unmanaged

# A namespace for each group of tests; its objects bear its name, since a cluster-scoped one has no namespace.
GUARDED, FREE, SHARED, OWN = "manual-guarded", "manual-free", "manual-shared", "manual-own"
WAYS = [(kind, way) for kind in KINDS for way in ways(kind)]
FLUX_MANAGES = "is managed by Flux (Kustomization flux-system/shop)"
WAY_OUT = "Change it in Git and let Flux apply it."

each_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.resource for kind in KINDS])
each_way = pytest.mark.parametrize(("kind", "way"), WAYS, ids=[f"{kind.resource}: {way.name}" for kind, way in WAYS])


@pytest.fixture(scope="module", autouse=True)
def objects_of_flux(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    create_widgets(control_plane)
    for namespace in (GUARDED, FREE, SHARED):
        control_plane.create_namespace(namespace)
        for kind in KINDS:
            apply(control_plane, "flux", kind, of_flux(kind.manifest, namespace), namespace)
    control_plane.create_namespace(OWN)
    control_plane.wait_for(lambda: workloads_are_settled(control_plane), "the controllers to have nothing to write")


def workloads_are_settled(plane: ControlPlane) -> bool:
    """Whether the status of the guarded workloads is what it stays, since no pod of theirs ever gets ready."""
    deployment = plane.get("deployments", GUARDED, GUARDED)["status"]
    reasons = {condition["reason"] for condition in deployment["conditions"]}
    stateful_set = plane.get("statefulsets", GUARDED, GUARDED)["status"]
    return (
        (deployment["updatedReplicas"], deployment["unavailableReplicas"]) == (2, 2)
        and reasons == {"MinimumReplicasUnavailable", "ReplicaSetUpdated"}
        and (stateful_set["replicas"], stateful_set["updatedReplicas"]) == (1, 1)
    )


@pytest.fixture
def hands(control_plane: ControlPlane) -> Callable[[Kind, str, str], Hands]:
    """Makes somebody's hands before the object of a kind in a namespace."""

    def make(kind: Kind, user: str, namespace: str) -> Hands:
        manifest = (unmanaged if namespace == OWN else of_flux)(kind.manifest, namespace)
        return Hands(plane=control_plane, user=user, kind=kind, manifest=manifest, namespace=namespace)

    return make


@each_way
def test_what_git_declares_is_not_changed_by_hand(
    kind: Kind, way: Way, hands: Callable[[Kind, str, str], Hands]
) -> None:
    alice = hands(kind, "alice", GUARDED)
    before = alice.live
    outcome = way.go(alice)
    assert not outcome.done
    policy = "declared-fields (enforce, medium): What Git declares, only the GitOps identity changes."
    refusal = "alice may not change" if way.touches else "alice may not delete it"
    for part in (f'"{GUARDED}"', FLUX_MANAGES, refusal, way.touches or "", policy, WAY_OUT):
        assert part in outcome.said
    assert alice.live == before


@each_kind
def test_flux_changes_what_it_declares_in_every_way(kind: Kind, hands: Callable[[Kind, str, str], Hands]) -> None:
    flux = hands(kind, "flux", FREE)
    for way in ways(kind):
        flux.create()
        before = flux.live
        outcome = way.go(flux)
        assert outcome.done, (way.name, outcome)
        if way.touches:
            assert flux.live["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"], way.name
        else:
            flux.plane.wait_for(lambda: not flux.plane.exists(kind.resource, FREE, FREE), f"{kind.resource} to go")


@each_kind
def test_what_git_does_not_declare_is_anybodys(kind: Kind, hands: Callable[[Kind, str, str], Hands]) -> None:
    alice = hands(kind, "alice", SHARED)
    edits = [
        Edit(place=("metadata", "labels", "of-alice"), value="yes"),
        Edit(place=("metadata", "annotations", "of-alice"), value="yes"),
        *([kind.unprotected] if kind.unprotected else []),
    ]
    for edit in edits:
        outcome = alice.make(edit)
        assert outcome.done, outcome
        assert edit.is_in(alice.live)


@each_kind
def test_an_object_of_ones_own_is_changed_by_hand(kind: Kind, hands: Callable[[Kind, str, str], Hands]) -> None:
    alice = hands(kind, "alice", OWN)
    for way in (way for way in ways(kind) if way.name in {"edit", "patch --type merge", "apply", "scale", "delete"}):
        alice.create()
        outcome = way.go(alice)
        assert outcome.done, (way.name, outcome)


def test_a_number_of_replicas_that_git_leaves_open_is_anybodys(control_plane: ControlPlane) -> None:
    kind = next(kind for kind in KINDS if kind.resource == "deployments")
    manifest = of_flux(kind.manifest, "open")
    del manifest["spec"]["replicas"]
    apply(control_plane, "flux", kind, manifest, SHARED)
    control_plane.kubectl("scale", "deployment/open", "--replicas=3", "-n", SHARED, user="alice")
    assert control_plane.get("deployments", "open", SHARED)["spec"]["replicas"] == 3


def test_every_refusal_is_in_the_decision_log(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    def refusals() -> list[Object]:
        return [line for line in driftwall.log(user="alice", namespace=GUARDED) if not line["allowed"]]

    command = ("label", "configmap", GUARDED, "-n", GUARDED, "e2e.example.com/tier-", "of-alice=yes")
    said = control_plane.kubectl(*command, user="alice", check=False).stderr
    wanted = [{"path": "metadata.labels['e2e.example.com/tier']", "change": "removed"}]
    line = control_plane.wait_for(
        lambda: [line for line in refusals() if line["policies"][0]["fields"] == wanted], "the refusal in the log"
    )[-1]
    told = {"operation": "UPDATE", "resource": "configmaps", "name": GUARDED, "writer": "untrusted", "mode": "enforce"}
    assert told.items() <= line.items()
    assert line["managedBy"] == {"tool": "flux", "kind": "Kustomization", "application": "flux-system/shop"}
    assert line["message"] in said
