"""The reviews that are measured, and the policies. All but the two big ones were recorded from a real API server."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.reviews import ALICE, NOW, RECORDINGS, Cluster, Json
from webhook.admission import ObjectRef, parse
from webhook.decision import LookupNeeded, decide
from webhook.policy_compiler import load
from webhook.server import rendered

ROOT: Final = Path(__file__).parents[2]
POLICIES: Final = ROOT / "policies"

#: Where the parent of the recorded scale is.
PARENT_PATH: Final = "/apis/apps/v1/namespaces/shop/deployments/web"
_DENIED: Final = "10-edit-env/069-alice-update-deployment.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A review as the API server sends it, without white space. ``floor`` is its share of the no-op's speed."""

    name: str
    body: bytes
    allowed: bool
    floor: float | None = None


def _compact(review: Json) -> bytes:
    return json.dumps(review, separators=(",", ":"), ensure_ascii=False).encode()


def recorded(file: str) -> Json:
    """One of the recordings."""
    review: Json = json.loads((RECORDINGS / file).read_bytes())
    return review


def parent() -> Json:
    """The Deployment that the recorded scale belongs to."""
    obj: Json = recorded("46-flux-reconcile/235-kustomize-controller-update-deployment.json")["request"]["object"]
    return obj


def _case(name: str, file: str, *, allowed: bool, floor: float | None = None) -> Case:
    return Case(name=name, body=_compact(recorded(file)), allowed=allowed, floor=floor)


def many_containers(count: int) -> Json:
    """The denied UPDATE with ``count`` containers, each of them declared; the variables of the last one are changed."""
    review = recorded(_DENIED)
    request = review["request"]
    template = _spec(request["oldObject"])["containers"][0]
    names = [f"web-{number}" for number in range(count - 1)]
    declared = _declared(request["oldObject"])['k:{"name":"web"}']
    for obj in (request["object"], request["oldObject"]):
        spec = _spec(obj)
        spec["containers"] = [*({**copy.deepcopy(template), "name": name} for name in names), spec["containers"][0]]
        _declared(obj).update({f'k:{{"name":"{name}"}}': declared for name in names})
    return review


def _spec(obj: Json) -> Json:
    spec: Json = obj["spec"]["template"]["spec"]
    return spec


def _declared(obj: Json) -> Json:
    """What Flux declared of the containers, by their keys."""
    entries = obj["metadata"]["managedFields"]
    fields = next(entry["fieldsV1"] for entry in entries if entry["manager"] == "kustomize-controller")
    containers: Json = fields["f:spec"]["f:template"]["f:spec"]["f:containers"]
    return containers


def big_config_map(size: int) -> Json:
    """A ConfigMap of ``size`` bytes of text, declared by Flux; a person changes one line of it."""
    lines = "".join(f'key.{number} = "value <{number}> of a file that somebody wrote"\n' for number in range(1000))
    text = (lines * (size // len(lines) + 1))[:size]
    parts = {f"part-{number}.conf": text[number * size // 16 : (number + 1) * size // 16] for number in range(16)}

    def obj(data: dict[str, str]) -> Json:
        fields: Json = {"f:data": {f"f:{name}": {} for name in data}}
        entry = {
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
            "manager": "kustomize-controller",
            "operation": "Apply",
            "time": "2026-11-22T06:15:20Z",
        }
        metadata = {
            "labels": {
                "kustomize.toolkit.fluxcd.io/name": "shop",
                "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
            },
            "managedFields": [entry],
            "name": "big",
            "namespace": "shop",
            "resourceVersion": "1",
            "uid": "c7c70c8b-91fe-44e6-acac-b2a567c61803",
        }
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
        "resource": {"group": "", "version": "v1", "resource": "configmaps"},
        "name": "big",
        "namespace": "shop",
        "operation": "UPDATE",
        "userInfo": ALICE,
        "oldObject": obj(parts),
        "object": obj({**parts, "part-7.conf": parts["part-7.conf"].replace("value <500>", "value <501>")}),
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


DENIED: Final = _case("denied UPDATE", _DENIED, allowed=False, floor=0.30)
#: One container, to hold against the hundred.
FEW_CONTAINERS: Final = Case(name="1 container", body=_compact(many_containers(1)), allowed=False)
MANY_CONTAINERS: Final = Case(name="100 containers", body=_compact(many_containers(100)), allowed=False)
BIG: Final = Case(name="1 MiB ConfigMap", body=_compact(big_config_map(2**20)), allowed=False)

CASES: Final = (
    DENIED,
    _case("allowed UPDATE", "11-rollout-restart/087-alice-update-deployment.json", allowed=True, floor=0.30),
    _case(
        "trusted UPDATE", "46-flux-reconcile/235-kustomize-controller-update-deployment.json", allowed=True, floor=0.60
    ),
    _case(
        "system status UPDATE",
        "11-rollout-restart/089-deployment-controller-update-deployment.status.json",
        allowed=True,
        floor=0.60,
    ),
    _case("unmanaged CREATE", "23-unmanaged-create/161-alice-create-deployment.json", allowed=True, floor=0.50),
    _case("denied DELETE", "62-delete-cascade/356-alice-delete-deployment.json", allowed=False),
    _case("scale, cached parent", "48-hpa/250-horizontal-pod-autoscaler-update-scale.scale.json", allowed=True),
    MANY_CONTAINERS,
    BIG,
)
#: What the mutating webhook is measured with.
MUTATED: Final = CASES[:3]

_BY_NAME: Final = {case.name: case for case in (*CASES, FEW_CONTAINERS)}


def case_named(name: str) -> Case:
    """The case of this name."""
    return _BY_NAME[name]


def answering(case: Case, policies: Path = POLICIES) -> Callable[[], bytes]:
    """What the server does with a case, from the review's bytes to the answer's; objects looked up are at hand."""
    snapshot = load(policies)
    objects: dict[ObjectRef, Mapping[str, Any] | None] = {}
    cluster = Cluster([parent()])

    def answer() -> bytes:
        review = parse(case.body)
        return rendered(review, decide(review, snapshot, objects, NOW))

    while True:
        try:
            assert json.loads(answer())["response"]["allowed"] is case.allowed
            return answer
        except LookupNeeded as needed:
            objects[needed.ref] = cluster.get(needed.ref)


_OTHERS: Final = (
    "match: {namespaces: [team-%d]}",
    "match: {resources: [{apiGroups: [example-%d.com], resources: [widgets]}]}",
    "match: {operations: [CONNECT], namespaces: ['team-%d-*']}",
    "match: {namespaces: [shop], resources: [{apiGroups: [''], resources: [services-%d]}]}",
)


def write_policies(folder: Path, count: int) -> Path:
    """``count`` policies of which at most three are about the denied UPDATE; the path to them."""
    folder.mkdir()
    texts = [path.read_text() for path in sorted(POLICIES.glob("*/policy.yaml"))]
    head = "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata:\n  name: %s\nspec:\n  mode: enforce\n"
    texts.append(head % "replicas" + "  match: {namespaces: [shop]}\n  protect: {fieldSets: [replicas]}\n")
    for number in range(count - len(texts)):
        match = _OTHERS[number % len(_OTHERS)] % number
        texts.append(head % f"other-{number}" + f"  {match}\n  protect: {{declared: true, fieldSets: [images]}}\n")
    path = folder / "policies.yaml"
    path.write_text("---\n".join(texts[:count]))
    return path
