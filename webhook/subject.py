"""What a review is really about, whatever resource and subresource it is written through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.admission import ObjectRef, Review
from webhook.equality import strictly_equal
from webhook.errors import LookupFailed
from webhook.ownership import entries

Objects = Mapping[ObjectRef, Mapping[str, Any] | None]

# Pod -> ReplicaSet -> Deployment -> two more, for operators that stack; a longer chain is a loop or a trick.
_MAX_OWNERS: Final = 5

#: What is done to a pod through its subresources, for a sentence with "may not".
_INTRUSIONS: Final[Mapping[str, str]] = {
    "exec": "exec into",
    "attach": "attach to",
    "portforward": "forward a port of",
    "proxy": "proxy to",
    "binding": "bind",
    "ephemeralcontainers": "debug",
    "resize": "resize",
}
#: Kinds that a subresource takes in place of the object: that of ephemeralcontainers before Kubernetes v1.23.
_PARTS: Final = frozenset({"EphemeralContainers"})
_CLUSTER_SCOPED: Final = frozenset({"Node", "Namespace", "PersistentVolume", "ClusterRole", "ClusterRoleBinding"})


class LookupNeeded(Exception):
    """``decide`` must know the object at ``ref``.

    It can do without one that does not exist unless it is ``required``, and without an answer if that is ``optional``.
    """

    def __init__(self, ref: ObjectRef, *, required: bool = True, optional: bool = False) -> None:
        super().__init__(str(ref))
        self.ref = ref
        self.required = required
        self.optional = optional


class Answers(dict[ObjectRef, Mapping[str, Any] | None]):
    """Objects that ``find`` has at hand: where nothing has to be waited for, nobody has to ask twice."""

    def __init__(self, find: Callable[[LookupNeeded], Mapping[str, Any] | None]) -> None:
        super().__init__()
        self.find = find


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The object that a review is about, and what is done to it.

    A scale stands for its parent's replicas, an eviction for its pod's deletion. ``verb`` is for a sentence with "may
    not"; empty for a change of fields. ``intrusion`` marks what changes no field of the object but reaches into it.
    ``owners`` are the objects that own it, the nearest first. ``via`` names the object that the write goes through.
    """

    ref: ObjectRef
    group: str
    kind: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    deletion: bool = False
    intrusion: bool = False
    verb: str = ""
    owners: tuple[tuple[ObjectRef, Mapping[str, Any]], ...] = ()
    via: str = ""

    @property
    def sides(self) -> tuple[Mapping[str, Any], ...]:
        """Old and new object, as far as they are there."""
        old, new = self.old, self.new
        if old is None:
            return () if new is None else (new,)
        return (old,) if new is None else (old, new)


def subject_of(review: Review, objects: Objects, *, children: bool) -> Subject | None:
    """What the review is about; None for a write that changes nothing of an object.

    ``children``: a policy is about what managed objects own, so reaching into a pod matters.
    """
    ref = place_of(review)
    group, kind = review.kind.group, review.kind.kind
    match review.subresource, review.operation:
        case "", "CREATE" | "UPDATE":
            return Subject(ref=ref, group=group, kind=kind, old=review.old, new=review.new)
        case "scale", "UPDATE":
            return _scaled(review, objects)
        case "eviction", "CREATE":
            # A pod that is gone already is gone: a drain that comes late is not to fail for it.
            pod = look_up(ref, objects, required=False)
            return (
                Subject(ref=ref, group="", kind="Pod", old=pod, new=None, deletion=True, verb="evict") if pod else None
            )
        case "", "DELETE":
            return Subject(ref=ref, group=group, kind=kind, old=review.old, new=None, deletion=True, verb="delete")
        case _, "UPDATE" if kind not in _PARTS:
            verb = _INTRUSIONS.get(review.subresource, "")
            return Subject(
                ref=ref, group=group, kind=kind, old=review.old, new=review.new, intrusion=bool(verb), verb=verb
            )
        case "binding", "CREATE" if children or _bound(review, {}):
            pod = look_up(ref, objects)
            bound = _bound(review, pod) or pod
            return Subject(ref=ref, group="", kind="Pod", old=pod, new=bound, intrusion=True, verb="bind")
        case subresource, _ if children and subresource in _INTRUSIONS:
            obj = look_up(ref, objects)
            verb = _INTRUSIONS[subresource]
            kind = str(obj.get("kind", ""))
            return Subject(ref=ref, group=ref.group, kind=kind, old=obj, new=obj, intrusion=True, verb=verb)
        case _:
            return None


def place_of(review: Review) -> ObjectRef:
    """The place of the object that the review, or the subresource in it, belongs to."""
    gvr = review.resource
    # The review of a Namespace bears a namespace, its own name, though it is cluster-scoped.
    namespace = "" if is_namespace(review) else review.namespace
    return ObjectRef(gvr.group, gvr.version, gvr.resource, namespace, review.name)


def _bound(review: Review, pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """``pod`` with the labels and annotations that a Binding puts on it; None if it brings none."""
    metadata = dict(meta.metadata_of(pod))
    brought = {"labels": meta.labels_of(review.new), "annotations": meta.annotations_of(review.new)}
    for name, more in brought.items():
        if more:
            metadata[name] = {**meta.mapping(metadata.get(name)), **more}
    return {**pod, "metadata": metadata} if any(brought.values()) else None


def _scaled(review: Review, objects: Objects) -> Subject:
    ref = place_of(review)
    parent = look_up(ref, objects)
    before, after = (_replicas(side) for side in (review.old, review.new))
    path = replicas_path(ref, objects)
    return Subject(
        ref=ref,
        group=ref.group,
        kind=str(parent.get("kind", "")),
        old=with_value(parent, path, before),
        new=with_value(parent, path, after),
    )


def _replicas(scale: Mapping[str, Any] | None) -> Any:
    # The API server leaves a replicas of 0 out of a Scale.
    return meta.mapping((scale or {}).get("spec")).get("replicas", 0)


def replicas_path(ref: ObjectRef, objects: Objects) -> tuple[str, ...]:
    """Where an object keeps the number that its scale subresource shows: a custom one's definition says so."""
    if "." in ref.group:
        definition = look_up(
            ObjectRef("apiextensions.k8s.io", "v1", "customresourcedefinitions", "", f"{ref.resource}.{ref.group}"),
            objects,
            required=False,
        )
        versions = meta.mapping(definition.get("spec")).get("versions")
        for version in versions if isinstance(versions, list) else ():
            if version.get("name") == ref.version:
                scale = meta.mapping(meta.mapping(version.get("subresources")).get("scale"))
                path = scale.get("specReplicasPath", "")
                if path.startswith("."):
                    return tuple(path[1:].split("."))
    return ("spec", "replicas")


def with_value(obj: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """``obj`` with ``value`` at ``path``, a chain of field names; maps that are missing on the way are made."""
    name, *rest = path
    return {**obj, name: with_value(meta.mapping(obj.get(name)), rest, value) if rest else value}


def scale_target(review: Review, objects: Objects) -> Subject | None:
    """The workload whose replicas this write would hand to the autoscaler, or None.

    Whoever points a HorizontalPodAutoscaler at a workload changes its replicas, by the hand of a controller.
    """
    if (review.resource.group, review.resource.resource) != ("autoscaling", "horizontalpodautoscalers"):
        return None
    if review.subresource or review.operation not in ("CREATE", "UPDATE"):
        return None
    before, after = (meta.mapping((side or {}).get("spec")) for side in (review.old, review.new))
    if strictly_equal(before, after):
        return None
    target = meta.mapping(after.get("scaleTargetRef"))
    kind, name = target.get("kind"), target.get("name")
    if not (isinstance(kind, str) and isinstance(name, str) and kind and name):
        return None
    group, version = meta.group_version(target.get("apiVersion"))
    ref = _ref_of(group, version, kind, review.namespace, name, objects)
    workload = look_up(ref, objects, required=False)
    if not workload:
        return None
    path = replicas_path(ref, objects)
    return Subject(
        ref=ref,
        group=group,
        kind=kind,
        old=workload,
        new=with_value(workload, path, "what the autoscaler says"),
        via=str(place_of(review)),
    )


def with_owners(subject: Subject, objects: Objects) -> Subject:
    """``subject`` with the chain of controllers that own it, as far as they exist."""
    owners: list[tuple[ObjectRef, Mapping[str, Any]]] = []
    # The old state says who owns it: a write that takes the owner away does not thereby escape it.
    obj: Mapping[str, Any] = subject.old or subject.new or {}
    while len(owners) < _MAX_OWNERS and (owner := meta.controller_of(obj)) is not None:
        group, version = meta.group_version(owner.get("apiVersion"))
        kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
        ref = _ref_of(group, version, kind, subject.ref.namespace, name, objects)
        obj = look_up(ref, objects, required=False)
        if not obj or meta.metadata_of(obj).get("uid") != owner.get("uid"):
            break
        owners.append((ref, obj))
    return msgspec.structs.replace(subject, owners=tuple(owners))


def with_ownership(subject: Subject, objects: Objects) -> Subject:
    """``subject`` with the managedFields that its old state really has.

    Before Kubernetes v1.23 the old object of an UPDATE comes without them (kubernetes/kubernetes#106195), and where a
    server-side apply changes nothing else, it comes with those of the new one. The stored object still has them: the
    write has not happened yet.
    """
    old, new = subject.old, subject.new
    if old is None or new is None:
        return subject
    present = bool(entries(old))
    if present and not strictly_equal(old, new):
        return subject
    metadata = meta.metadata_of(old)
    version = str(metadata.get("resourceVersion", ""))
    ref = subject.ref._replace(resource_version=version)
    # Newer servers tell the truth of a write that changes nothing, and driftwall may not be allowed to look there.
    stored = meta.metadata_of(look_up(ref, objects, required=False, optional=present))
    if not stored.get("managedFields") or stored.get("uid") != metadata.get("uid"):
        return subject
    if present and stored.get("resourceVersion") != version:
        return subject
    known = {**metadata, "managedFields": stored["managedFields"]}
    return msgspec.structs.replace(subject, old={**old, "metadata": known})


def _ref_of(group: str, version: str, kind: str, namespace: str, name: str, objects: Objects) -> ObjectRef:
    """The place of an object that is named by its kind."""
    if "." in group and not group.endswith(".k8s.io"):
        served = look_up(ObjectRef(group, version, "", "", ""), objects, required=False)
        resources = served.get("resources")
        for resource in resources if isinstance(resources, list) else ():
            if resource.get("kind") == kind and "/" not in resource.get("name", "/"):
                return ObjectRef(
                    group, version, resource["name"], namespace if resource.get("namespaced") else "", name
                )
    return ObjectRef(group, version, plural(kind), "" if kind in _CLUSTER_SCOPED else namespace, name)


def plural(kind: str) -> str:
    """The resource of a kind by the rule that Kubernetes's own kinds follow: ``networkpolicies``, ``ingresses``."""
    name = kind.lower()
    if name.endswith("s") and not name.endswith("ss"):
        return name  # endpoints
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def look_up(ref: ObjectRef, objects: Objects, *, required: bool = True, optional: bool = False) -> Mapping[str, Any]:
    """The object at ``ref``; empty for one that does not exist and is not ``required``.

    Raises:
        LookupNeeded: it has not been looked up.
        LookupFailed: it is required and does not exist.
    """
    if ref not in objects:
        needed = LookupNeeded(ref, required=required and not optional, optional=optional)
        if not isinstance(objects, Answers):
            raise needed
        objects[ref] = objects.find(needed)
    found = objects[ref]
    if found is None and required and not optional:
        raise LookupFailed(f"{ref} does not exist, so its write cannot be judged; try again")
    return found or {}


def is_namespace(review: Review) -> bool:
    """Whether a Namespace is written."""
    return review.resource.group == "" and review.resource.resource == "namespaces"
