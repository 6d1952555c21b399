"""Audit events made up, as kube-apiserver v1.20 and later write them."""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.reviews import ALICE, FLUX, FLUX_LABELS, Json, resource_of

OWNED: Json = {
    "f:metadata": {"f:labels": {f"f:{key}": {} for key in FLUX_LABELS}},
    "f:spec": {
        "f:replicas": {},
        "f:template": {"f:spec": {"f:containers": {'k:{"name":"web"}': {".": {}, "f:name": {}, "f:image": {}}}}},
    },
}
DEPLOYMENT: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "uid-1",
        "resourceVersion": "10",
        "labels": dict(FLUX_LABELS),
        "managedFields": [
            {
                "manager": "kustomize-controller",
                "operation": "Apply",
                "apiVersion": "apps/v1",
                "time": "2026-11-22T06:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": OWNED,
            }
        ],
    },
    "spec": {
        "replicas": 2,
        "minReadySeconds": 0,
        "template": {"spec": {"containers": [{"name": "web", "image": "web:1"}]}},
    },
}
SPEC = ("spec", "replicas")
IMAGE = ("spec", "template", "spec", "containers", 0, "image")


def changed(obj: Json, place: tuple[Any, ...], value: Any, *, version: str = "") -> Json:
    """A copy of ``obj`` with another value somewhere, and another resourceVersion if one is given."""
    made = copy.deepcopy(obj)
    parent: Any = made
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    if version:
        made["metadata"]["resourceVersion"] = version
    return made


def event(  # noqa: PLR0913 - they are what an event has
    verb: str,
    answer: Json | None,
    *,
    obj: Json | None = None,
    sent: Any = None,
    user: Json = ALICE,
    code: int = 0,
    subresource: str = "",
    query: str = "",
    **more: Any,
) -> Json:
    """An event of a request about ``obj`` (default: the answer) that was answered with ``answer``."""
    about = obj or answer
    assert about is not None
    group, _, version = str(about["apiVersion"]).rpartition("/")
    metadata = about["metadata"]
    ref = {
        "resource": resource_of(about["kind"]),
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "apiGroup": group,
        "apiVersion": version,
        "subresource": subresource,
    }
    made: Json = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "stage": "ResponseComplete",
        "requestURI": f"/apis/x?{query}",
        "verb": verb,
        "user": user,
        "objectRef": {key: value for key, value in ref.items() if value},
        "responseStatus": {"code": code or (201 if verb == "create" else 200)},
        "requestReceivedTimestamp": "2026-11-22T06:30:00.000000Z",
        "stageTimestamp": "2026-11-22T06:30:00.100000Z",
        "annotations": {"authorization.k8s.io/decision": "allow"},
    }
    made |= {"requestObject": sent} if sent is not None else {}
    made |= {"responseObject": answer} if answer is not None else {}
    return made | more


def denied(verb: str, obj: Json, sent: Any = None, *, policies: str = "declared-fields", **more: Any) -> Json:
    """An event of a request that driftwall refused."""
    said = 'admission webhook "validate.driftwall.io" denied the request: it is managed by Flux.'
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": said, "code": 403}
    annotations = {"validate.driftwall.io/verdict": "deny", "validate.driftwall.io/policies": policies}
    return event(verb, status, obj=obj, sent=sent, code=403, **({"annotations": annotations} | more))


def applied(obj: Json = DEPLOYMENT) -> Json:
    """Flux creates it by an apply on the server."""
    sent = {key: value for key, value in obj.items() if key != "status"}
    return event("patch", obj, sent=sent, user=FLUX, code=201, query="fieldManager=kustomize-controller&force=true")


def line(made: Json) -> bytes:
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"
