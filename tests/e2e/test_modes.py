"""What a violation comes to in each mode, and what a dry run of kubectl is told."""

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import SILENT, WARNED, Driftwall, Line
from .people import Person, config_map, of_flux, path_of, refused, unchanged

ENFORCED = "guarded-by-force"
PORT = {"data": {"port": "8080"}}


@pytest.fixture(scope="module", autouse=True)
def namespaces(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    for namespace in (ENFORCED, WARNED, SILENT):
        control_plane.create_namespace(namespace)
        flux = Person(plane=control_plane, user="flux", namespace=namespace)
        flux.applies(of_flux(config_map("web", namespace)))


def alice_in(plane: ControlPlane, namespace: str) -> Person:
    return Person(plane=plane, user="alice", namespace=namespace)


def port(plane: ControlPlane, namespace: str) -> str:
    stored: Object = plane.get("configmaps", "web", namespace)
    return str(stored["data"]["port"])


def logged(plane: ControlPlane, driftwall: Driftwall, namespace: str) -> Line:
    """The newest line about a write of alice's, as soon as there is one."""
    lines = plane.wait_for(lambda: driftwall.log(user="alice", namespace=namespace), "the line in the decision log")
    return lines[-1]


def test_warn_lets_through_and_kubectl_prints_the_warning(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    outcome = alice_in(control_plane, WARNED).patch("configmap/web", PORT)
    assert outcome.done
    (warning,) = [line for line in outcome.said.splitlines() if line.startswith("Warning: ")]
    for part in ("driftwall", "web", "Flux (Kustomization flux-system/shop)", "warned-fields", "data.port"):
        assert part in warning
    assert port(control_plane, WARNED) == "8080"
    line = logged(control_plane, driftwall, WARNED)
    assert (line["allowed"], line["mode"], line["policies"][0]["verdict"]) == (True, "warn", "warn")
    assert f"Warning: {line['warnings'][0]}" == warning


def test_dry_run_mode_lets_through_in_silence_and_logs(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    outcome = alice_in(control_plane, SILENT).patch("configmap/web", PORT)
    assert (outcome.done, outcome.said) == (True, "configmap/web patched\n")
    assert port(control_plane, SILENT) == "8080"
    line = logged(control_plane, driftwall, SILENT)
    assert (line["allowed"], line["mode"], line["warnings"]) == (True, "dryRun", [])
    fields = [{"path": "data.port", "change": "changed"}]
    assert line["policies"] == [{"name": "tried-out-fields", "mode": "dryRun", "verdict": "dryRun", "fields": fields}]


def test_a_dry_run_gets_the_verdict_of_the_real_write(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    alice = alice_in(control_plane, ENFORCED)
    with unchanged(control_plane, of_flux(config_map("web", ENFORCED))):
        tried = refused(alice.patch("configmap/web", PORT, "--dry-run=server"), "data.port")
        done = refused(alice.patch("configmap/web", PORT), "data.port")
    assert tried == done

    def are_logged() -> bool:
        # As sets: the API server asks once more where it had an old state of the object in its cache.
        return {line["dryRun"] for line in driftwall.log(user="alice", namespace=ENFORCED)} == {True, False}

    control_plane.wait_for(are_logged, "both in the decision log")


def test_a_dry_run_of_what_is_allowed_changes_nothing(control_plane: ControlPlane) -> None:
    undeclared = {"data": {"extra": "of alice"}}
    outcome = alice_in(control_plane, ENFORCED).patch("configmap/web", undeclared, "--dry-run=server")
    assert outcome.done, outcome
    stored = control_plane.get(path_of(config_map("web", ENFORCED)))
    assert stored["data"] == {"port": "80"}
