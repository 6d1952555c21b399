"""What the tests of an installation in the real cluster share: what there is of driftwall's, and how it gets there."""

import subprocess
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import product
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


def overlay(name: str, kustomization: str = "") -> list[Object]:
    return build(binaries.find().kubectl, name, kustomization)


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


# Rights

# Where a right holds (a namespace, or everywhere), group, resource, verb, and of which object (or of any).
Right = tuple[str, str, str, str, str]


def rights(objects: Sequence[Object]) -> set[Right]:
    """All that the roles among these objects give, one by one."""
    roles = [each for each in objects if each["kind"] in ("ClusterRole", "Role")]
    return {
        (role["metadata"].get("namespace", ""), *one)
        for role in roles
        for rule in role["rules"]
        for one in product(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""]))
    }


def taken(request: Object) -> set[Right]:
    """The rights that a request takes: an apply that finds nothing has to be allowed to create, too."""
    ref = request["objectRef"]
    resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
    verbs = {request["verb"]} | ({"create"} if request["responseStatus"]["code"] == 201 else set())
    return {(ref.get("namespace", ""), ref.get("apiGroup", ""), resource, verb, ref.get("name", "")) for verb in verbs}


def gives(right: Right, wanted: Right) -> bool:
    """Whether the right is enough for what is wanted."""
    (namespace, *what, name), (its_namespace, *its, its_name) = right, wanted
    same = all(mine in ("*", wants) for mine, wants in zip(what, its, strict=True))
    return same and namespace in ("", its_namespace) and name in ("", its_name)


def requests_of(plane: ControlPlane, user: str, begun: int) -> list[Object]:
    """What a user has asked of the API server, but for what everybody may ask: which APIs there are.

    `begun` is how many lines of the audit log named the user before.
    """
    own = [event for event in list(plane.audit_events(user))[begun:] if event["user"]["username"] == user]
    return [event for event in own if "resource" in event.get("objectRef", {})]


def all_are_used_and_no_other_is_wanted(
    given: set[Right], requests: Sequence[Object], more: AbstractSet[Right] = frozenset()
) -> None:
    """Assert that these requests take every right that is given, and nothing but these, or `more`."""
    wanted = {right for request in requests for right in taken(request)}
    assert sorted(right for right in given if not any(gives(right, one) for one in wanted)) == []
    assert sorted(one for one in wanted if not any(gives(right, one) for right in given | more)) == []
    assert [each["requestURI"] for each in requests if each["responseStatus"]["code"] == 403] == []
