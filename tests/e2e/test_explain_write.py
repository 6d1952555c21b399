"""`driftwall explain write` says what the webhook then does, of live objects and of manifests, to everybody."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from webhook.cli import main

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .people import MERGE, Person, config_map, deployment, manifest, of_flux, path_of

NAMESPACE = "explained"
CONTENT = "c2VjcmV0LXZhbHVl"  # of the Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What somebody does, as flags of the command and as a request; `patch` is None for a deletion."""

    target: str
    flags: Sequence[str]
    patch: Any
    user: str = "alice"
    groups: Sequence[str] = ("developers",)
    allowed: bool = False
    subresource: str = ""
    token: bool = False  # whether the user brings what a token of its own does


CASES = (
    Case(target="deployment/web", flags=["--set", "spec.replicas=5"], patch={"spec": {"replicas": 5}}),
    Case(
        target="deploy/web",
        flags=["--set", "metadata.labels.mine=yes"],
        patch={"metadata": {"labels": {"mine": "yes"}}},
        allowed=True,
    ),
    Case(
        target="deployments.apps/web",
        flags=["--set", "spec.replicas=5"],
        patch={"spec": {"replicas": 5}},
        subresource="scale",
    ),
    Case(target="deployment/web", flags=["--operation", "DELETE"], patch=None),
    Case(target="cm/web", flags=["--set", "data.port=8080"], patch={"data": {"port": "8080"}}),
    Case(target="cm/web", flags=["--set", "data.other=x"], patch={"data": {"other": "x"}}, allowed=True),
    Case(target="configmap/own", flags=["--set", "data.port=8080"], patch={"data": {"port": "8080"}}, allowed=True),
    Case(target="secret/web", flags=["--set", "data.key=bmV3"], patch={"data": {"key": "bmV3"}}),
    Case(
        target="cm/web",
        flags=["--set", "metadata.annotations['driftwall.io/break-glass']=INC-1: down"],
        patch={"metadata": {"annotations": {"driftwall.io/break-glass": "INC-1: down"}}},
    ),
    Case(
        target="cm/web",
        flags=["--set", "metadata.annotations['driftwall.io/break-glass']=INC-1: down"],
        patch={"metadata": {"annotations": {"driftwall.io/break-glass": "INC-1: down"}}},
        user="sre",
        groups=("sre", "break-glass-operators"),
        allowed=True,
    ),
    Case(
        target="cm/web",
        flags=["--set", "data.port=8080"],
        patch={"data": {"port": "8080"}},
        user="flux",
        groups=(),
        allowed=True,
        token=True,
    ),
)


@pytest.fixture(scope="module")
def folder(
    driftwall: Driftwall, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Objects that Flux has made, and one that nobody manages."""
    control_plane.create_namespace(NAMESPACE)
    objects = [deployment("web", NAMESPACE), config_map("web", NAMESPACE)]
    objects.append(manifest("v1", "Secret", "web", NAMESPACE, data={"key": CONTENT}))
    Person(plane=control_plane, user="flux", namespace=NAMESPACE).applies(*map(of_flux, objects))
    Person(plane=control_plane, user="alice", namespace=NAMESPACE).creates(config_map("own", NAMESPACE))
    yield tmp_path_factory.mktemp("explained")
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command has said, and its exit code."""

    code: int
    out: str
    err: str


def explain(capsys: pytest.CaptureFixture[str], plane: ControlPlane, policies: Path, case: Case, *more: str) -> Said:
    """Run the command as admin, about what the case's user does."""
    user = {"flux": "system:serviceaccount:flux-system:kustomize-controller"}.get(case.user, case.user)
    who = ["--as", user, *(flag for group in case.groups for flag in ("--as-group", group))]
    who += ["--as-uid", "of-its-token"] if case.token else []
    through = ["--subresource", case.subresource] if case.subresource else []
    kubeconfig = [] if "--kubeconfig" in more else ["--kubeconfig", str(plane.kubeconfig("admin"))]
    code = main(["explain", "write", "--policies", str(policies), *who, *case.flags, *through, *kubeconfig, *more])
    said = capsys.readouterr()
    return Said(code=code, out=said.out, err=said.err)


def live(plane: ControlPlane, case: Case) -> Object:
    kind, name = case.target.split("/")
    kinds = {"deploy": "deployment", "deployments.apps": "deployment", "cm": "configmap"}
    return plane.get(kinds.get(kind, kind), name, NAMESPACE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.user}-{case.target}-{case.flags[-1]}")
def test_what_is_explained_is_what_the_webhook_then_does(
    case: Case, control_plane: ControlPlane, driftwall: Driftwall, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = explain(capsys, control_plane, driftwall.policies, case, case.target, "-n", NAMESPACE, "-o", "json")
    assert done.code in (0, 1), done.err
    said = json.loads(done.out)
    path = path_of(live(control_plane, case)) + (f"/{case.subresource}" if case.subresource else "") + "?dryRun=All"
    person = Person(plane=control_plane, user=case.user, namespace=NAMESPACE)
    if case.patch is None:
        outcome = person.send("DELETE", path)
    else:
        outcome = person.send("PATCH", path, case.patch, content_type=MERGE)
    assert said["allowed"] is outcome.done is case.allowed
    assert done.code == (0 if case.allowed else 1)
    if not case.allowed:
        assert outcome.said.endswith(said["message"])
    assert CONTENT not in done.out


def test_a_manifest_with_managed_fields_gives_the_same_without_a_cluster(
    control_plane: ControlPlane, driftwall: Driftwall, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[0]
    file = folder / "web.yaml"
    file.write_text(control_plane.kubectl("-n", NAMESPACE, "get", "deployment", "web", "-o", "yaml").stdout)
    from_file = explain(capsys, control_plane, driftwall.policies, case, "-f", str(file), "--kubeconfig", "/nowhere")
    from_cluster = explain(capsys, control_plane, driftwall.policies, case, case.target, "-n", NAMESPACE)
    assert from_file.code == from_cluster.code == 1
    assert from_file.out == from_cluster.out
    assert "5. Is it protected?  yes" in from_file.out


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("deployment/none", 69, 'deployments.apps "none" in namespace "explained" does not exist'),
        ("gadget/web", 64, "the API server has no 'gadget'; 'kubectl api-resources' lists what it has"),
        ("web", 64, "'web' is not KIND/NAME, such as deployment/web"),
    ],
)
def test_what_is_not_there_is_told(
    target: str,
    code: int,
    message: str,
    control_plane: ControlPlane,
    driftwall: Driftwall,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = explain(capsys, control_plane, driftwall.policies, CASES[0], target, "-n", NAMESPACE)
    assert (done.code, done.out) == (code, "")
    assert done.err == f"driftwall: {message}\n"
