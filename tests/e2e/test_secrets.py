"""No value of a Secret is ever told: a canary in each place where one may be, and a look at all that was said."""

import json
from collections.abc import Iterator

import pytest

from .control_plane import ControlPlane
from .driftwall import WARNED, Driftwall
from .kinds import FLUX, encoded
from .people import Person, manifest, of_flux, path_of, refused

NAMESPACE = "secrets"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
TRACKING = "argocd.argoproj.io/tracking-id"
# What is stored, and what alice tries to put in its place.
STORED = {name: f"canary-stored-{name}-5f1c" for name in ("data", "string", "applied", "warned")}
TRIED = "canary-tried-77ab"
DENIED = "denied the request: "


@pytest.fixture(scope="module", autouse=True)
def secrets(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    for namespace in (NAMESPACE, WARNED):
        control_plane.create_namespace(namespace)
    flux = Person(plane=control_plane, user="flux", namespace=NAMESPACE)
    content = {"data": {"one": encoded(STORED["data"])}, "stringData": {"two": STORED["string"]}}
    warned = manifest("v1", "Secret", "web", WARNED, stringData={"one": STORED["warned"]})
    flux.applies(of_flux(manifest("v1", "Secret", "web", NAMESPACE, **content)), of_flux(warned))
    applied = manifest("v1", "Secret", "argo", NAMESPACE, stringData={"one": STORED["applied"]})
    applied["metadata"]["annotations"] = {TRACKING: f"shop:/Secret:{NAMESPACE}/argo"}
    argocd = Person(plane=control_plane, user="argocd", namespace=NAMESPACE)
    outcome = argocd.kubectl("apply", "--field-manager=argocd-controller", "-f", "-", stdin=applied)
    assert outcome.done, outcome


def forms(value: str) -> Iterator[str]:
    """A value as it is, as the data of a Secret, and as that is once more in another Secret."""
    yield value
    yield encoded(value)
    yield encoded(encoded(value))


def test_no_value_of_a_secret_is_told_to_anybody(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    alice = Person(plane=control_plane, user="alice", namespace=NAMESPACE)
    tried = {"data": {"one": encoded(TRIED), "two": encoded(TRIED), "three": encoded(TRIED)}}
    last_applied = json.dumps({"kind": "Secret", "stringData": {"one": TRIED}})
    forged = manifest("v1", "Secret", "forged", NAMESPACE, stringData={"one": TRIED})
    forged["metadata"]["labels"] = FLUX
    edited = manifest("v1", "Secret", "web", NAMESPACE, stringData={"two": TRIED})
    refusals = {
        "data.one": alice.patch("secret/web", tried),
        "data": alice.patch("secret/web", {"data": None}),
        "data.two": alice.patch("secret/web", [{"op": "remove", "path": "/data/two"}], how="json"),
        "data.two: (hidden) -> (hidden)": alice.patch("secret/web", {"stringData": {"two": TRIED}}),
        "metadata.annotations": alice.kubectl("apply", "-f", "-", stdin=of_flux(edited)),
        "alice may not change": alice.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=edited),
        LAST_APPLIED: alice.kubectl("annotate", "--overwrite", "secret/argo", f"{LAST_APPLIED}={last_applied}"),
        f"{LAST_APPLIED}']: removed": alice.kubectl("annotate", "secret/argo", f"{LAST_APPLIED}-"),
        "Application shop": alice.patch("secret/argo", tried),
        "alice may not delete it": alice.kubectl("delete", "secret/web", "--wait=false"),
        "may not create it": alice.kubectl("create", "-f", "-", stdin=forged),
    }
    # What is let through is told of, too.
    warned = Person(plane=control_plane, user="alice", namespace=WARNED).patch("secret/web", tried)
    assert warned.done
    assert "data.one" in warned.said
    # kubectl itself shows the patch that it tried, so of that only driftwall's own words are looked at.
    said = [refused(outcome, part) for part, outcome in refusals.items()]
    shown = [warned.said, *(outcome.said for outcome in refusals.values())]

    def is_logged() -> bool:
        return len(driftwall.log(user="alice", namespace=NAMESPACE, allowed=False)) >= len(refusals)

    control_plane.wait_for(is_logged, "all of it in the decision log")
    told = (*said, driftwall.decisions.read_text(), driftwall.messages_file.read_text(), driftwall.metrics())
    for text in (*told, *shown):
        assert [form for value in STORED.values() for form in forms(value) if form in text] == []
    for text in (*told, warned.said):
        assert [form for form in forms(TRIED) if form in text] == []
    stored = control_plane.get(path_of(edited))["data"]
    assert stored == {"one": encoded(STORED["data"]), "two": encoded(STORED["string"])}
