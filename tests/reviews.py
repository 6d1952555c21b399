"""Reviews made up or recorded, and their verdicts: what the tests of the decision share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from webhook.admission import ObjectRef, Review, parse
from webhook.decision import Decision, LookupNeeded, decide
from webhook.documents import load_documents
from webhook.policy import Snapshot
from webhook.policy_compiler import compile_documents

RECORDINGS: Final = Path(__file__).parent / "recordings"
NOW: Final = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)

Json = dict[str, Any]


def person(name: str, *groups: str) -> Json:
    return {"username": name, "uid": name, "groups": [*groups, "system:authenticated"]}


def service_account(namespace: str, name: str, *, uid: str = "uid", pod: bool = False) -> Json:
    user: Json = {
        "username": f"system:serviceaccount:{namespace}:{name}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
    }
    if uid:
        user["uid"] = uid
    if pod:
        user["extra"] = {
            "authentication.kubernetes.io/pod-name": [f"{name}-0"],
            "authentication.kubernetes.io/pod-uid": ["pod-uid"],
        }
    return user


ALICE: Final = person("alice", "developers")
FLUX: Final = service_account("flux-system", "kustomize-controller")

#: Labels of an object that Flux manages.
FLUX_LABELS: Final = {
    "kustomize.toolkit.fluxcd.io/name": "shop",
    "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
}

_PLURALS: Final = {
    "Ingress": "ingresses",
    "NetworkPolicy": "networkpolicies",
    "Endpoints": "endpoints",
    "DriftPolicy": "driftpolicies",
}


def resource_of(kind: str) -> str:
    return _PLURALS.get(kind, kind.lower() + "s")


def review(
    old: Json | None,
    new: Json | None,
    *,
    user: Json = ALICE,
    operation: str = "",
    subresource: str = "",
    parent: Json | None = None,
    dry_run: bool = False,
) -> Review:
    """A write that makes ``new`` of ``old``. ``parent`` is the object that a Scale or an Eviction belongs to."""
    subject = new if old is None else old
    assert subject is not None
    place = subject if parent is None else parent
    group, _, version = str(place["apiVersion"]).rpartition("/")
    kind_group, _, kind_version = str(subject["apiVersion"]).rpartition("/")
    metadata = subject.get("metadata") or {}
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": kind_group, "version": kind_version, "kind": subject["kind"]},
        "resource": {"group": group, "version": version, "resource": resource_of(place["kind"])},
        "subResource": subresource,
        "name": metadata.get("name", ""),
        # Namespaces are cluster-scoped, and yet their reviews bear a namespace: their own name.
        "namespace": metadata.get("name" if subject["kind"] == "Namespace" else "namespace", ""),
        "operation": operation or ("CREATE" if old is None else "DELETE" if new is None else "UPDATE"),
        "userInfo": user,
        "object": new,
        "oldObject": old,
        "dryRun": dry_run,
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return parse(json.dumps(body).encode())


def plain(obj: Mapping[str, Any] | None) -> Json:
    """An object of a review as a dict of its own; empty for none."""
    return {key: plain(value) if isinstance(value, Mapping) else value for key, value in (obj or {}).items()}


class Cluster:
    """The objects that are there, as the API server would give them."""

    def __init__(self, objects: Iterable[Json] = ()) -> None:
        self._objects: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}
        for obj in objects:
            group, _, _ = str(obj["apiVersion"]).rpartition("/")
            metadata = obj["metadata"]
            self._objects[group, resource_of(obj["kind"]), metadata.get("namespace", ""), metadata["name"]] = obj

    def decide(self, written: Review, snapshot: Snapshot, now: datetime = NOW) -> Decision:
        found: dict[ObjectRef, Mapping[str, Any] | None] = {}
        while True:
            try:
                return decide(written, snapshot, found, now)
            except LookupNeeded as needed:
                found[needed.ref] = self.get(needed.ref)

    def get(self, ref: ObjectRef) -> Mapping[str, Any] | None:
        return self._objects.get((ref.group, ref.resource, ref.namespace, ref.name))

    def remember(self, written: Review) -> None:
        """Keep what a review shows of an object; a Scale, an Eviction or a TokenRequest shows nothing of its parent."""
        obj = written.new or written.old
        if obj is None or (written.subresource and written.kind.kind in ("Scale", "Eviction", "TokenRequest")):
            return
        namespace = "" if written.kind.kind == "Namespace" else written.namespace
        self._objects[written.resource.group, written.resource.resource, namespace, written.name] = obj


def snapshot_of(text: str) -> Snapshot:
    """The policies written in ``text``, which have to be right."""
    documents, problems = load_documents(text.encode(), "policies.yaml")
    snapshot, more = compile_documents(documents)
    assert [str(problem) for problem in (*problems, *more)] == []
    return snapshot
