"""The ways in which somebody changes an object with kubectl."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .api import Object
from .control_plane import ControlPlane
from .kinds import DECLARED_ANNOTATION, DECLARED_LABEL, WIDGETS, Edit, Kind

# What `kubectl edit` starts, with the file of an edit and the one that kubectl wants edited.
_EDITOR = """\
import json, pathlib, sys
edit, file = map(pathlib.Path, sys.argv[1:])
place, value = json.loads(edit.read_text())
edited = parent = json.loads(file.read_text())
for step in place[:-1]:
    parent = parent[step]
parent[place[-1]] = value
file.write_text(json.dumps(edited))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended, for kubectl or for one request: whether it was done, and what the person was told."""

    done: bool
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Somebody before an object of a kind, which has been applied as `manifest`."""

    plane: ControlPlane
    user: str
    kind: Kind
    manifest: Object
    namespace: str

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def live(self) -> Object:
        """The object as it is stored, managedFields and all."""
        return self.plane.get(self.kind.resource, self.name, self.namespace)

    def kubectl(self, *args: str, stdin: Object | None = None, editor: str | None = None) -> Outcome:
        """Run kubectl in the namespace."""
        completed = self.plane.kubectl(
            *(*args, "-n", self.namespace),
            user=self.user,
            stdin=None if stdin is None else json.dumps(stdin),
            check=False,
            environment=None if editor is None else {"KUBE_EDITOR": editor},
        )
        assert completed.returncode in (0, 1), completed
        return Outcome(done=completed.returncode == 0, said=completed.stderr)

    def edit(self) -> Outcome:
        """`kubectl edit`."""
        edit, script = self.plane.folder / "edit.json", self.plane.folder / "editor.py"
        edit.write_text(json.dumps([self.kind.protected.place, self.kind.protected.value]))
        script.write_text(_EDITOR)
        editor = f"{sys.executable} -IS {script} {edit}"
        return self.kubectl("edit", self.kind.resource, self.name, "-o", "json", editor=editor)

    def patch_strategically(self) -> Outcome:
        """`kubectl patch`."""
        return self.patch("strategic", self.kind.protected.merge_patch(self.live))

    def patch_by_merging(self) -> Outcome:
        """`kubectl patch --type merge`."""
        return self.patch("merge", self.kind.protected.merge_patch(self.live))

    def patch_as_json(self) -> Outcome:
        """`kubectl patch --type json`."""
        return self.patch("json", self.kind.protected.json_patch())

    def patch(self, how: str, patch: Object | list[Object]) -> Outcome:
        """`kubectl patch` with any patch."""
        return self.kubectl("patch", self.kind.resource, self.name, "--type", how, "-p", json.dumps(patch))

    def apply(self) -> Outcome:
        """`kubectl apply`."""
        return self.kubectl("apply", "-f", "-", stdin=self.kind.edited_manifest(self.manifest))

    def apply_on_the_server(self) -> Outcome:
        """`kubectl apply --server-side --force-conflicts`, which sends a patch of the type apply."""
        flags = ("--server-side", "--force-conflicts")
        return self.kubectl("apply", *flags, "-f", "-", stdin=self.kind.edited_manifest(self.manifest))

    def replace(self) -> Outcome:
        """`kubectl replace` of what was read before, once more where a controller has written meanwhile."""

        def replaced() -> Outcome | None:
            outcome = self.kubectl("replace", "-f", "-", stdin=self.kind.protected.of(self.live))
            return None if "the object has been modified" in outcome.said else outcome

        outcome = self.plane.wait_for(replaced, "a replacement without a conflict")
        assert outcome is not None
        return outcome

    def scale(self) -> Outcome:
        """`kubectl scale`."""
        return self.kubectl("scale", self.kind.resource, self.name, "--replicas=3")

    def label(self) -> Outcome:
        """`kubectl label` of a label that Git declares."""
        return self.kubectl("label", self.kind.resource, self.name, "--overwrite", f"{DECLARED_LABEL}=back")

    def annotate(self) -> Outcome:
        """`kubectl annotate` of an annotation that Git declares."""
        return self.kubectl("annotate", self.kind.resource, self.name, "--overwrite", f"{DECLARED_ANNOTATION}=alice")

    def set_image(self) -> Outcome:
        """`kubectl set image`."""
        return self.kubectl("set", "image", f"{self.kind.resource}/{self.name}", "main=image.invalid/shop:3")

    def delete(self) -> Outcome:
        """`kubectl delete` by name."""
        return self.kubectl("delete", self.kind.resource, self.name, "--wait=false")

    def delete_all(self) -> Outcome:
        """`kubectl delete` of all that there is of the kind, which is one request for each."""
        every = ("--all",) if self.kind.namespaced else ("-l", f"app={self.name}")
        return self.kubectl("delete", self.kind.resource, *every, "--wait=false")

    def delete_collection(self) -> Outcome:
        """One request that deletes all of the kind that have the label."""
        collection = f"{self.kind.collection(self.namespace)}?labelSelector=app%3D{self.name}"
        status, answer = self.plane.raw("DELETE", collection, user=self.user)
        return Outcome(done=status < 400, said=str(answer.get("message", "")))

    def make(self, edit: Edit) -> Outcome:
        """Another edit of one's own, as a merge patch."""
        return self.patch("merge", edit.merge_patch(self.live))

    def create(self) -> None:
        """Apply the manifest as it is, so that the object is again what it was at first."""
        apply(self.plane, self.user, self.kind, self.manifest, self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to change an object; `touches` is the path that a denial names, None for a deletion."""

    name: str
    go: Callable[[Hands], Outcome]
    touches: str | None


def ways(kind: Kind) -> list[Way]:
    """All the ways that there are for a kind, deletions last."""
    found = [
        Way(name="edit", go=Hands.edit, touches=kind.path),
        Way(name="patch --type merge", go=Hands.patch_by_merging, touches=kind.path),
        Way(name="patch --type json", go=Hands.patch_as_json, touches=kind.path),
        Way(name="apply", go=Hands.apply, touches=kind.path),
        Way(name="apply --server-side", go=Hands.apply_on_the_server, touches=kind.path),
        Way(name="replace", go=Hands.replace, touches=kind.path),
        Way(name="label", go=Hands.label, touches=f"metadata.labels['{DECLARED_LABEL}']"),
        Way(name="annotate", go=Hands.annotate, touches=f"metadata.annotations['{DECLARED_ANNOTATION}']"),
    ]
    if not kind.custom:  # there is no such patch of a custom resource
        found.insert(1, Way(name="patch", go=Hands.patch_strategically, touches=kind.path))
    if kind.replicas:
        found.append(Way(name="scale", go=Hands.scale, touches=kind.replicas))
    if kind.images:
        found.append(Way(name="set image", go=Hands.set_image, touches=kind.path))
    return [
        *found,
        Way(name="delete", go=Hands.delete, touches=None),
        Way(name="delete --all", go=Hands.delete_all, touches=None),
        *([Way(name="deletecollection", go=Hands.delete_collection, touches=None)] if kind.collectable else []),
    ]


def create_widgets(plane: ControlPlane) -> None:
    """Make the API server serve widgets, if it does not."""
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(WIDGETS))
    plane.wait_for(lambda: plane.exists("/apis/e2e.example.com/v1/widgets"), "widgets to be served")


def apply(plane: ControlPlane, user: str, kind: Kind, manifest: Object, namespace: str) -> None:
    """Apply on the server, with kustomize-controller as the field manager if it is Flux who applies."""
    manager = "kustomize-controller" if user == "flux" else user
    path = f"{kind.collection(namespace)}/{manifest['metadata']['name']}?fieldManager={manager}&force=true"
    as_yaml = {"Content-Type": "application/apply-patch+yaml"}
    status, answer = plane.raw("PATCH", path, manifest, user=user, headers=as_yaml)
    assert status in (200, 201), answer
