"""What a scan has found as PolicyReports (wgpolicyk8s.io/v1alpha2): one for each namespace, one for the cluster.

Kyverno, Policy Reporter and others show them; kube-state-metrics can count them (deploy/SCAN.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from webhook.drift_model import CHANGED, DriftedField, DriftedObject
from webhook.drift_report import place, state, title, what, who
from webhook.text import cut, escaped

GROUP: Final = "wgpolicyk8s.io"
VERSION: Final = "v1alpha2"
NAME: Final = "driftwall-scan"
LABELS: Final = {"app.kubernetes.io/managed-by": "driftwall"}
#: Results of one report. With MAX_MESSAGE characters and names of 253, one takes under 1.5 KB; etcd takes 1.5 MiB.
MAX_RESULTS: Final = 500
_MAX_MESSAGE: Final = 500  # characters
_MAX_PROPERTY: Final = 250  # characters
# The first releases of v1alpha2 know no "critical".
_SEVERITIES: Final = {"low": "low", "medium": "medium", "high": "high", "critical": "high"}
#: Stands where a policy's name does, for what no policy is about.
_NO_POLICY: Final = "drift"

Document = dict[str, Any]


def path(namespace: str) -> str:
    """Where the report of a namespace is, or (empty) that of cluster-scoped objects."""
    within = f"/namespaces/{namespace}/policyreports" if namespace else "/clusterpolicyreports"
    return f"/apis/{GROUP}/{VERSION}{within}/{NAME}"


def empty(namespace: str) -> Document:
    """The report of a namespace in which nothing is managed any more."""
    return _report(namespace, (), 0, datetime.now(UTC))


def reports(
    objects: Sequence[DriftedObject], managed: Mapping[tuple[str, str], int], now: datetime, missed: Sequence[str] = ()
) -> dict[str, Document]:
    """The reports by namespace, for every one that has managed objects; the empty name is the cluster's.

    ``pass`` counts the managed objects without drift, ``fail`` the fields and objects that have drifted. Of more than
    MAX_RESULTS, the summary alone tells. ``missed`` is what was not scanned: an ``error`` in each report, since it may
    be of any namespace.
    """
    by_namespace: dict[str, list[DriftedObject]] = {namespace: [] for namespace, _ in managed}
    for obj in objects:
        by_namespace.setdefault(obj.target.ref.namespace, []).append(obj)
    found = {}
    for namespace, drifted in sorted(by_namespace.items()):
        count = sum(number for (name, _), number in managed.items() if name == namespace)
        found[namespace] = _report(namespace, drifted, count, now, missed)
    return found


def _report(
    namespace: str, drifted: Sequence[DriftedObject], managed: int, now: datetime, missed: Sequence[str] = ()
) -> Document:
    results = [_error(missed, now)] if missed else []
    failed = 0
    for obj in drifted:
        fields: Sequence[DriftedField | None] = obj.fields if obj.state == CHANGED else (None,)
        failed += len(fields)
        results += [_result(obj, field, now) for field in fields[: MAX_RESULTS - len(results)]]
    metadata: Document = {"name": NAME, "labels": LABELS}
    if namespace:
        metadata["namespace"] = namespace
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PolicyReport" if namespace else "ClusterPolicyReport",
        "metadata": metadata,
        "summary": {"pass": max(0, managed - len(drifted)), "fail": failed, "warn": 0, "error": len(missed), "skip": 0},
        "results": results,
    }


def _error(missed: Sequence[str], now: datetime) -> Document:
    return {
        "source": "driftwall",
        "policy": _NO_POLICY,
        "category": "Configuration drift",
        "result": "error",
        "scored": False,
        "message": cut(escaped(f"not scanned: {'; '.join(missed)}"), _MAX_MESSAGE),
        "timestamp": {"seconds": int(now.timestamp()), "nanos": 0},
    }


def _result(obj: DriftedObject, field: DriftedField | None, now: datetime) -> Document:
    ref = obj.target.ref
    resource = {
        "apiVersion": obj.target.api_version,
        "kind": obj.target.kind,
        "name": ref.name,
        **({"namespace": ref.namespace} if ref.namespace else {}),
        **({"uid": obj.uid} if obj.uid else {}),
    }
    properties = {"managedBy": title(obj), "state": obj.state}
    message = state(obj)
    if field is not None:
        message = f"{field.path}: {what(field, secret=obj.target.secret)}, by {who(field)}"
        properties |= {"path": escaped(field.path), "by": who(field), "evidence": field.evidence}
    at = field.at if field is not None and field.at is not None else now
    return {
        "source": "driftwall",
        "policy": (field.policies[0] if field is not None and field.policies else "") or _NO_POLICY,
        "category": "Configuration drift",
        "result": "fail",
        "scored": True,
        "severity": _SEVERITIES[(field.severity if field is not None else "") or "medium"],
        "message": cut(escaped(f"{place(obj)}: {message}"), _MAX_MESSAGE),
        "resources": [resource],
        "timestamp": {"seconds": int(at.timestamp()), "nanos": 0},
        "properties": {key: cut(value, _MAX_PROPERTY) for key, value in properties.items() if value},
    }
