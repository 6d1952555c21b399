"""What the tests of an installation in the real cluster share: what there is of driftwall's, and how it gets there."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.deploying import NAMESPACE, ROOT, Object, build, for_version

from . import binaries
from .api import Api
from .control_plane import ControlPlane

WEBHOOKS = "validatingwebhookconfigurations", "mutatingwebhookconfigurations"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
# Of whoever runs the test's API server, and what every namespace has.
NOT_OURS = ("driftwall-e2e-", "kube-root-ca.crt", "default")


def take_away(plane: ControlPlane) -> None:
    for name, path in found(plane).items():
        # What is in the namespace goes with it.
        if "/namespaces/" not in path and not name.startswith("Namespace "):
            plane.raw("DELETE", path)
    plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    plane.wait_for(lambda: installed(plane) == [], "everything to be gone")


def found(plane: ControlPlane) -> dict[str, str]:
    """Every object of driftwall's that there is, of any kind: kind and name, and path; webhook configurations first."""
    bases = [f"/apis/{group['preferredVersion']['groupVersion']}" for group in plane.get("/apis")["groups"]]
    ours = {}
    for base in sorted(["/api/v1", *bases], key=lambda base: base != ADMISSION):
        for resource in plane.get(base)["resources"]:
            if "list" not in resource["verbs"] or resource["kind"] == "Event":
                continue
            for item in plane.get(f"{base}/{resource['name']}")["items"]:
                metadata = item["metadata"]
                if is_ours(metadata):
                    within = f"/namespaces/{metadata['namespace']}" if resource["namespaced"] else ""
                    ours[f"{resource['kind']} {metadata['name']}"] = (
                        f"{base}{within}/{resource['name']}/{metadata['name']}"
                    )
    return ours


def is_ours(metadata: Object) -> bool:
    if metadata["name"].startswith(NOT_OURS):
        return False
    labels = metadata.get("labels", {})
    own = labels.get("app.kubernetes.io/name") == "driftwall" or "driftwall" in metadata["name"]
    return own or metadata.get("namespace") == NAMESPACE


def installed(plane: ControlPlane) -> list[str]:
    """Kind and name of every object of driftwall's."""
    return sorted(found(plane))


def in_namespace(plane: ControlPlane) -> list[str]:
    return [name for name in installed(plane) if name != f"Namespace {NAMESPACE}"]


def kubectl(plane: ControlPlane, *arguments: str, objects: list[Object]) -> str:
    """kubectl with objects as its input; without validation, which knows older fields alone."""
    text = yaml.safe_dump_all([for_version(each, plane.version) for each in objects])
    validation = () if arguments[0] == "delete" else ("--validate=false",)
    return plane.kubectl(*arguments, *validation, "-f", "-", stdin=text).stdout


def overlay(name: str) -> list[Object]:
    return build(binaries.find().kubectl, name)


def client(plane: ControlPlane) -> Api:
    return Api(int(plane.url.rpartition(":")[2]), plane.ca_pem.decode())


def bundles(plane: ControlPlane) -> set[str]:
    """The bundles of the webhooks that are in the configurations of both overlays."""
    hooks = plane.get(f"{ADMISSION}/{WEBHOOKS[0]}/driftwall")["webhooks"]
    return {hook["clientConfig"].get("caBundle", "") for hook in hooks}


def shell(plane: ControlPlane, command: str, *, at: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line of a page as an administrator would, at the root of a checkout."""
    folder = plane.folder / "bin"
    folder.mkdir(exist_ok=True)
    link = folder / "kubectl"
    if not link.exists():
        link.symlink_to(binaries.find().kubectl)
    environment = {
        "PATH": f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(plane.folder / "home"),
        "KUBECONFIG": str(plane.kubeconfig("admin")),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=environment,
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done
