"""`driftwall replay` of the audit log that the API server writes: the verdicts that the live webhook gave."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import COMMAND, ROOT, SILENT, Driftwall
from .hands import Hands, apply, create_widgets, ways
from .kinds import KINDS, Kind, of_flux
from .people import Person, config_map
from .replaying import Pair, pairs

GUARDED = "replayed"
# One that has replicas and lists, one whose values are nobody's to see, and one of which no schema is built in.
CHOSEN = tuple(kind for kind in KINDS if kind.resource in ("deployments", "secrets", "widgets"))
FEW = ("patch --type merge", "patch --type json", "apply --server-side", "delete", "deletecollection")
REFUSED = {
    "deployments": [way.name for kind in CHOSEN if kind.resource == "deployments" for way in ways(kind)],
    "secrets": [*FEW, "apply"],
    "widgets": [*FEW, "scale", "edit"],
}
PASSED = ("patch --type merge", "apply --server-side", "scale", "label")

ENFORCE = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: enforced-fields}
spec: {mode: enforce, match: {namespaces: ["%s"]}, protect: {declared: true}}
"""


def hands(plane: ControlPlane, kind: Kind, user: str, namespace: str) -> Hands:
    manifest = of_flux(kind.manifest, GUARDED)
    return Hands(plane=plane, user=user, kind=kind, manifest=manifest, namespace=namespace)


@pytest.fixture(scope="module", autouse=True)
def writes(control_plane: ControlPlane, driftwall: Driftwall) -> None:
    """Flux applies, alice changes in every way what Git declares: refused in one namespace, not in the other."""
    create_widgets(control_plane)
    for namespace in (GUARDED, SILENT):
        control_plane.create_namespace(namespace)
        for kind in CHOSEN:
            apply(control_plane, "flux", kind, of_flux(kind.manifest, GUARDED), namespace)
            alice = hands(control_plane, kind, "alice", namespace)
            for way in ways(kind):
                if way.name in (REFUSED[kind.resource] if namespace == GUARDED else PASSED):
                    assert way.go(alice).done == (namespace == SILENT), (kind.resource, way.name)
            apply(control_plane, "flux", kind, of_flux(kind.manifest, GUARDED), namespace)
            if kind.unprotected is not None:
                assert alice.make(kind.unprotected).done
    alice_alone = Person(plane=control_plane, user="alice", namespace=GUARDED)
    alice_alone.creates(config_map("replayed-last", GUARDED))
    # Lines are written in order, a moment after the answer.
    driftwall.await_log(user="alice", name="replayed-last")


@pytest.fixture(scope="module")
def compared(control_plane: ControlPlane, driftwall: Driftwall, writes: None) -> list[Pair]:
    """Every write in these namespaces, replayed, beside what was said of it."""
    return [pair for pair in pairs(control_plane.audit_log, driftwall) if pair.line["namespace"] in (GUARDED, SILENT)]


def test_replay_gives_the_verdicts_that_the_live_webhook_gave(driftwall: Driftwall, compared: list[Pair]) -> None:
    assert [str(pair) for pair in compared if not pair.agrees] == []
    assert [str(pair) for pair in compared if not pair.told and not pair.agrees_in_fields] == []
    # Every line of the decision log about alice and Flux is told by an event.
    lines = [line for ns in (GUARDED, SILENT) for line in driftwall.log(namespace=ns) if by_hand(line["user"])]
    told = {line["uid"] for pair in compared for line in pair.lines}
    # A collection that may not be deleted is one request, and each of its objects a line.
    missing = [line for line in lines if line["uid"] not in told and line["operation"] != "DELETE"]
    assert missing == []
    assert len(compared) > 50


def by_hand(user: str) -> bool:
    return user == "alice" or user.startswith("system:serviceaccount:flux-system")


def test_of_a_denied_request_all_but_these_are_known_by_their_fields(compared: list[Pair]) -> None:
    told = {(pair.event["verb"], pair.event["objectRef"].get("subresource", "")) for pair in compared if pair.told}
    # Its answer does not say which objects it was about, and the API server does not log the body of a PUT of a scale.
    assert told <= {("deletecollection", ""), ("update", "scale")}
    assert ("deletecollection", "") in told


def replay(*arguments: str | Path) -> Any:
    command = [*COMMAND, "replay", "-o", "json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_passed_in_a_dry_run_is_told_as_denied_under_policies_that_enforce(
    control_plane: ControlPlane, driftwall: Driftwall, compared: list[Pair], tmp_path: Path
) -> None:
    policies = tmp_path / "enforce.yaml"
    policies.write_text(ENFORCE % SILENT)
    report = replay("--policies", policies, control_plane.audit_log)
    lines = [line for line in driftwall.log(namespace=SILENT, user="alice") if line["policies"]]
    assert len(lines) >= len(CHOSEN) * 3
    assert report["byPolicy"]["enforced-fields"]["denied"] == len(
        {pair.line["uid"] for pair in compared if pair.line["namespace"] == SILENT and pair.line["policies"]}
    )
    paths = {path for kind in CHOSEN for path in (general(kind.path), kind.replicas) if path}
    assert paths <= set(report["byField"])
    assert {s["user"] for s in report["automation"]} == set()


def general(path: str) -> str:
    return path.replace("[name=main]", "[*]").replace("[name=http]", "[*]")


def test_the_decision_log_tells_the_same_as_the_audit_log(
    driftwall: Driftwall, compared: list[Pair], tmp_path: Path
) -> None:
    mine_alone = tmp_path / "decisions.jsonl"
    lines: list[Object] = driftwall.log(namespace=GUARDED, user="alice")
    mine_alone.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = replay("--policies", driftwall.policies, mine_alone)
    assert report["reviewed"] == len(lines)
    assert report["denied"] == sum(not line["allowed"] for line in lines)
    audited = {line["uid"] for pair in compared for line in pair.lines}
    assert {line["uid"] for line in lines if not line["allowed"] and line["operation"] != "DELETE"} <= audited
