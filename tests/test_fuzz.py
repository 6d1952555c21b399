"""No write by an untrusted writer to a protected field of a managed object is ever allowed, whatever else is in it.

The writes are mutations of what a real API server recorded. Which fields Flux declared is found here a second time, by
plain recursion over the recorded object; nothing of the engine is used for it.
"""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from webhook.admission import ObjectRef, parse
from webhook.decision import LookupNeeded, decide
from webhook.errors import DriftwallError
from webhook.policy_compiler import load

Json = dict[str, Any]
Place = tuple[str | int, ...]

RECORDINGS = Path(__file__).parent / "recordings"
POLICIES = load(RECORDINGS / "reference-policies.yaml")
NOW = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
PROTECTED = {
    *("driftwall.io/break-glass", "driftwall.io/break-glass-by", "driftwall.io/break-glass-expires"),
    *("driftwall.io/drift", "kustomize.toolkit.fluxcd.io/reconcile"),
    *("kubectl.kubernetes.io/last-applied-configuration", "configsync.gke.io/declared-fields"),
}
MARKERS = ("kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace")


# ── what Flux declared, by an eye of our own ─────────────────────────────────────────────────────────────────────────


def declared_places(obj: Json) -> list[Place]:
    """Where in ``obj`` the values are that Flux's own Apply entries own."""
    places: list[Place] = []
    for entry in obj["metadata"].get("managedFields") or []:
        if entry["manager"] == "kustomize-controller" and entry["operation"] == "Apply":
            fields = dict(entry["fieldsV1"])
            if obj["kind"] == "Secret":
                fields["f:data"] = {**fields.get("f:data", {}), **fields.pop("f:stringData", {})}
            places += _leaves(fields, obj, ())
    return places


def _leaves(fields: Json, value: Any, place: Place) -> list[Place]:
    found: list[Place] = []
    for key, below in fields.items():
        if key == ".":
            continue
        step = _step(key, value)
        if step is None:
            continue
        further = (*place, step)
        found += _leaves(below, value[step], further) if below else [further]
    return found


def _step(key: str, value: Any) -> str | int | None:
    kind, _, text = key.partition(":")
    if kind == "f":
        return text if isinstance(value, dict) and text in value else None
    wanted = json.loads(text)
    for index, item in enumerate(value):
        if kind == "v" and item == wanted:
            return index
        if kind == "k" and all(
            item.get(name, "TCP" if name == "protocol" else None) == wanted[name] for name in wanted
        ):
            return index
    return None


def managed_objects() -> list[tuple[Json, Json]]:
    """The recorded requests that show an object as Flux made it, each with that object."""
    found = {}
    for file in sorted(RECORDINGS.glob("*/*.json")):
        request = json.loads(file.read_bytes())["request"]
        obj = request.get("oldObject") or request.get("object") or {}
        labels = obj.get("metadata", {}).get("labels") or {}
        owned = any(owner.get("controller") for owner in obj.get("metadata", {}).get("ownerReferences") or [])
        if all(labels.get(marker) for marker in MARKERS) and not owned and not request.get("subResource"):
            places = declared_places(obj)
            if len(places) > len(MARKERS):
                found[request["kind"]["kind"], len(places)] = (request, obj)
    return list(found.values())


OBJECTS = managed_objects()


def test_there_are_objects_of_many_kinds_to_begin_with() -> None:
    kinds = {request["kind"]["kind"] for request, _ in OBJECTS}
    assert kinds >= {
        *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "RoleBinding", "Secret", "Service"),
        "Widget",
    }
    assert max(len(declared_places(obj)) for _, obj in OBJECTS) > 20


# ── what somebody might do ───────────────────────────────────────────────────────────────────────────────────────────

scalars = st.none() | st.booleans() | st.integers(-3, 9000) | st.floats(-2, 2) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
writers: st.SearchStrategy[Json] = st.sampled_from(
    [
        {"username": "alice", "uid": "alice", "groups": ["developers", "system:authenticated"]},
        {"username": "alice", "uid": "alice", "groups": ["system:masters", "system:serviceaccounts:flux-system"]},
        {"username": "system:serviceaccount:flux-system:kustomize-controller", "groups": ["system:serviceaccounts"]},
        {"username": "system:serviceaccount:flux-system-x:kustomize-controller", "uid": "1", "groups": []},
        {"username": "system:serviceaccount:kube-system:evil", "uid": "1", "groups": ["system:serviceaccounts"]},
        {"username": "system:serviceaccount:kube-system:deployment-controller", "groups": []},
        {"username": "System:kube-controller-manager", "uid": "1"},
        {"username": "system:node:", "uid": "1", "groups": ["system:authenticated"]},
        {"username": "mallory", "uid": "1", "groups": ["system:nodes"]},
        {"username": "kustomize-controller", "uid": "1", "extra": {"authentication.kubernetes.io/pod-name": ["x"]}},
    ]
)
ownership = st.sampled_from(["keep", "none", "empty", "rename", "claim", "forge"])
smuggled = st.dictionaries(
    st.sampled_from(
        [
            *("driftwall.io/break-glass", "driftwall.io/break-glass-by", "driftwall.io/break-glass-expires"),
            *("driftwall.io/drift", "kustomize.toolkit.fluxcd.io/reconcile", "note"),
            *("kubectl.kubernetes.io/last-applied-configuration", "configsync.gke.io/declared-fields"),
            *("argocd.argoproj.io/tracking-id", "meta.helm.sh/release-name", "configmanagement.gke.io/managed"),
        ]
    ),
    st.sampled_from(
        ["INC-1: x", "sre", "2026-11-22T08:00:00Z", "disabled", "enabled", "{}", '{"f:x":{}}', "a:b/c:d/e"]
    ),
    max_size=4,
)
others = st.fixed_dictionaries(
    {
        "writer": writers,
        "ownership": ownership,
        "annotations": smuggled,
        "stripped": st.booleans(),
        "owner": st.booleans(),
        "reversed": st.booleans(),
        "dryRun": st.sampled_from([True, False, None]),
        "manager": st.sampled_from(["kustomize-controller", "kubectl", ""]),
        "terminating": st.booleans(),
    }
)


def _set(obj: Any, place: Place, value: Any, *, remove: bool) -> None:
    *path, last = place
    for step in path:
        obj = obj[step]
    if remove:
        del obj[last]
    else:
        obj[last] = value


def _at(obj: Any, place: Place) -> Any:
    for step in place:
        obj = obj[step]
    return obj


def _disturb(new: Json, other: Json, declared: Place) -> None:
    metadata = new["metadata"]
    if other["annotations"]:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **other["annotations"]}
    if other["stripped"] and metadata.get("labels"):
        metadata["labels"] = {key: value for key, value in metadata["labels"].items() if key not in MARKERS}
    if other["owner"]:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "mine", "uid": "1", "controller": True}
        ]
    if other["terminating"]:
        metadata["deletionTimestamp"] = "2026-11-22T07:00:00Z"
    match other["ownership"]:
        case "none":
            metadata.pop("managedFields", None)
        case "empty":
            metadata["managedFields"] = [{}]
        case "rename":
            for entry in metadata.get("managedFields") or []:
                entry["manager"] = "kubectl-edit"
        case "claim":
            for entry in metadata.get("managedFields") or []:
                entry["manager"] = "kustomize-controller"
        case "forge":
            fields: Json = {"f:spec": {"f:ports": {"v:1": {}}, "f:template": {"f:spec": {'k:{"image":"x"}': {}}}}}
            forged = {"manager": "kustomize-controller", "operation": "Apply", "apiVersion": new["apiVersion"]}
            metadata["managedFields"] = [{**forged, "fieldsV1": fields}]
        case _:
            pass
    spec = new.get("spec")
    if other["reversed"] and isinstance(spec, dict) and declared[:1] != ("spec",):
        for value in spec.values():
            if isinstance(value, list):
                value.reverse()


def _passes(request: Json, old: Json, new: Json | None, other: Json) -> bool:
    """Whether the write is allowed; an error is no allow."""
    operation = "UPDATE" if new is not None else "DELETE"
    review: Json = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            **{key: request[key] for key in ("uid", "kind", "resource", "namespace") if key in request},
            "name": old["metadata"]["name"],
            "operation": operation,
            "oldObject": old,
            "object": new,
            "dryRun": other["dryRun"],
            "userInfo": other["writer"],
            "options": {"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": other["manager"]},
        },
    }
    objects: dict[ObjectRef, Json | None] = {}
    try:
        parsed = parse(json.dumps(review).encode())
        while True:
            try:
                return decide(parsed, POLICIES, objects, NOW).allowed
            except LookupNeeded as needed:
                objects[needed.ref] = None if needed.ref.resource == "namespaces" else old
    except DriftwallError:
        return False


@settings(max_examples=400)
@given(st.sampled_from(OBJECTS), st.data(), values, st.booleans(), others)
def test_no_change_of_a_declared_field_by_an_untrusted_writer_is_ever_allowed(
    recorded: tuple[Json, Json], data: st.DataObject, value: Any, remove: bool, other: Json
) -> None:
    request, old = recorded
    place = data.draw(st.sampled_from(declared_places(old)))
    before = _at(old, place)
    new = copy.deepcopy(old)
    # A value that only its type tells from the old one is a change, too.
    if not remove and json.dumps(value, sort_keys=True) == json.dumps(before, sort_keys=True):
        value = [before]
    _set(new, place, value, remove=remove)
    _disturb(new, other, place)
    assert not _passes(request, old, new, other), (place, before, value, other)


@settings(max_examples=200)
@given(
    st.sampled_from(OBJECTS), others.filter(lambda other: other["annotations"] or other["stripped"] or other["owner"])
)
def test_no_touch_of_marker_ownership_or_opt_out_by_an_untrusted_writer_is_ever_allowed(
    recorded: tuple[Json, Json], other: Json
) -> None:
    request, old = recorded
    new = copy.deepcopy(old)
    # Another tool's annotation that does not name this object is no marker.
    harmless = not other["stripped"] and not other["owner"] and not PROTECTED & set(other["annotations"])
    _disturb(new, {**other, "reversed": False}, ())
    takes_ownership = other["ownership"] in ("none", "empty", "rename", "forge")
    assert _passes(request, old, new, other) is (harmless and not takes_ownership), other


@given(st.sampled_from(OBJECTS), others)
@example(OBJECTS[0], {"writer": {"username": "alice"}, "dryRun": None, "manager": ""})
def test_no_deletion_by_an_untrusted_writer_is_ever_allowed(recorded: tuple[Json, Json], other: Json) -> None:
    request, old = recorded
    assert not _passes(request, old, None, other)
