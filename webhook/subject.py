"""What a review is really about, whatever resource and subresource it is written through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webhook.admission import ObjectRef, Review
from webhook.errors import LookupFailed

Objects = Mapping[ObjectRef, Mapping[str, Any] | None]


class LookupNeeded(Exception):
    """``decide`` must know the object at ``ref``; it can do without one unless it is ``required``."""

    def __init__(self, ref: ObjectRef, *, required: bool = True) -> None:
        super().__init__(str(ref))
        self.ref = ref
        self.required = required


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a review is really about: a scale stands for its parent's replicas, an eviction for its pod's deletion."""

    group: str
    kind: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    deletion: bool = False

    @property
    def sides(self) -> tuple[Mapping[str, Any], ...]:
        """Old and new object, as far as they are there."""
        return tuple(side for side in (self.old, self.new) if side is not None)


def subject_of(review: Review, objects: Objects) -> Subject | None:
    """What the review is about; None for a write that changes nothing of an object (a token, a binding, exec)."""
    match review.subresource, review.operation:
        case "scale", "UPDATE":
            return _scaled(review, objects)
        case "eviction", "CREATE":
            pod = look_up(parent_of(review), objects)
            return Subject(group="", kind="Pod", old=pod, new=None, deletion=True)
        case "", "DELETE":
            return Subject(group=review.kind.group, kind=review.kind.kind, old=review.old, new=None, deletion=True)
        case ("", "CREATE") | (_, "UPDATE"):
            return Subject(group=review.kind.group, kind=review.kind.kind, old=review.old, new=review.new)
        case _:
            return None


def parent_of(review: Review) -> ObjectRef:
    """The place of the object that the review, or the subresource in it, belongs to."""
    gvr = review.resource
    return ObjectRef(gvr.group, gvr.version, gvr.resource, review.namespace, review.name)


def _scaled(review: Review, objects: Objects) -> Subject:
    parent = look_up(parent_of(review), objects)
    path: tuple[str, ...] = ("spec", "replicas")
    if "." in review.resource.group:
        path = _replicas_path(review, objects)
    before, after = (_replicas(side) for side in (review.old, review.new))
    return Subject(
        group=review.resource.group,
        kind=str(parent.get("kind", "")),
        old=_with(parent, path, before),
        new=_with(parent, path, after),
    )


def _replicas(scale: Mapping[str, Any] | None) -> Any:
    spec = (scale or {}).get("spec")
    # The API server leaves a replicas of 0 out of a Scale.
    return spec.get("replicas", 0) if isinstance(spec, dict) else 0


def _replicas_path(review: Review, objects: Objects) -> tuple[str, ...]:
    """Where a custom resource keeps the number that its scale subresource shows: its definition says so."""
    gvr = review.resource
    name = f"{gvr.resource}.{gvr.group}"
    definition = look_up(
        ObjectRef("apiextensions.k8s.io", "v1", "customresourcedefinitions", "", name), objects, required=False
    )
    for version in ((definition or {}).get("spec") or {}).get("versions") or ():
        if version.get("name") == gvr.version:
            path = ((version.get("subresources") or {}).get("scale") or {}).get("specReplicasPath", "")
            if path.startswith("."):
                return tuple(path[1:].split("."))
    return ("spec", "replicas")


def _with(obj: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    if not path:
        raise ValueError("no path")
    child = obj.get(path[0])
    inner = child if isinstance(child, dict) else {}
    return {**obj, path[0]: _with(inner, path[1:], value) if len(path) > 1 else value}


def look_up(ref: ObjectRef, objects: Objects, *, required: bool = True) -> Mapping[str, Any]:
    """The object at ``ref``; empty for one that does not exist and is not ``required``.

    Raises:
        LookupNeeded: it has not been looked up.
        LookupFailed: it is required and does not exist.
    """
    if ref not in objects:
        raise LookupNeeded(ref, required=required)
    found = objects[ref]
    if found is None and required:
        raise LookupFailed(f"{ref} does not exist, so its write cannot be judged; try again")
    return found or {}


def is_namespace(review: Review) -> bool:
    """Whether a Namespace is written."""
    # Their reviews bear a namespace, their own name, though they are cluster-scoped.
    return review.resource.group == "" and review.resource.resource == "namespaces"


def labels_of(obj: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Its labels; none for no object."""
    metadata = (obj or {}).get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}
