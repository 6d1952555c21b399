"""Webhook configurations, and whether the API server goes by them yet: it takes a moment to notice a change."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .api import Api, ApiError, Object

Kind = Literal["validating", "mutating"]

NAME = "driftwall"
WEBHOOKS: Mapping[Kind, str] = {"validating": "validate.driftwall.io", "mutating": "mutate.driftwall.io"}
# Every write to everything, subresources and cluster-scoped objects too.
EVERYTHING: Sequence[Object] = (
    {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "*"},
)
# A creation, sent as a dry run: the path of the collection, and the object.
Probe = tuple[str, Object]
DEFAULT_PROBE: Probe = (
    "/api/v1/namespaces/default/configmaps",
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "driftwall-e2e-probe"}},
)


def configuration(kind: Kind, url: str, ca_bundle_pem: bytes, fields: Mapping[str, Any]) -> Object:
    """A webhook configuration with one webhook for EVERYTHING; `fields` of the webhook win over ours."""
    webhook = {
        "name": WEBHOOKS[kind],
        "clientConfig": {"url": url, "caBundle": base64.b64encode(ca_bundle_pem).decode()},
        "rules": list(EVERYTHING),
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "timeoutSeconds": 10,
        "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"],
        **fields,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind.capitalize()}WebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [webhook],
    }


def create(api: Api, kind: Kind, wanted: Object, *, token: str) -> None:
    """Create a configuration; raises ApiError."""
    api.call("POST", _collection(kind), wanted, token=token)


def delete(api: Api, kind: Kind, *, token: str) -> bool:
    """Delete the configuration, and say whether there was one; raises ApiError."""
    path = f"{_collection(kind)}/{NAME}"
    status, answer = api.raw("DELETE", path, token=token)
    if status >= 400 and status != 404:
        raise ApiError("DELETE", path, status, answer)
    return status != 404


def is_in_force(api: Api, kind: Kind, probe: Probe, *, token: str) -> bool:
    """Whether the probe, as a dry run, makes the API server call the webhook.

    The server's own count of calls tells, so the webhook need not know about it, nor even be up.
    """
    before = _calls(api, kind, token)
    collection, wanted = probe
    api.raw("POST", f"{collection}?dryRun=All", wanted, token=token)
    return _calls(api, kind, token) > before


def _calls(api: Api, kind: Kind, token: str) -> float:
    text = api.send("GET", "/metrics", token=token)[1].decode()
    metric = "apiserver_admission_webhook_admission_duration_seconds_count"
    counts: Sequence[str] = re.findall(rf'(?m)^{metric}{{[^}}]*name="{re.escape(WEBHOOKS[kind])}"[^}}]*}} (\S+)$', text)
    return sum(float(count) for count in counts)


def _collection(kind: Kind) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations"
