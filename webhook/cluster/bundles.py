"""The CAs that the API server trusts driftwall by: ``caBundle`` in both webhook configurations."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from webhook.cluster.resources import Document, Resources
from webhook.errors import Conflict

_COLLECTION: Final = "/apis/admissionregistration.k8s.io/v1"
KINDS: Final = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
# At once, when somebody else changed the configuration; after that with the next look.
_ATTEMPTS: Final = 3


def path_of(kind: str, name: str) -> str:
    """The path of a webhook configuration."""
    return f"{_COLLECTION}/{kind}/{name}"


def put(resources: Resources, name: str, bundle: bytes) -> bool:
    """Have every webhook of both configurations trust ``bundle`` (PEM); says whether all of them did already.

    A configuration that does not exist is nothing to wait for: by that, nobody is called.

    Raises:
        ClusterError: a configuration could not be read or changed; those before it were.
    """
    encoded = b64encode(bundle).decode()
    already = [_put(resources, path_of(kind, name), encoded) for kind in KINDS]
    return all(already)


def _put(resources: Resources, path: str, bundle: str) -> bool:
    for attempt in range(_ATTEMPTS):
        if (configuration := resources.get(path)) is None:
            return attempt == 0
        if not (stale := _stale(configuration, bundle)):
            return attempt == 0
        # Merged by name, so that whoever owns the rest of a webhook goes on owning it.
        change = {"webhooks": [{"name": name, "clientConfig": {"caBundle": bundle}} for name in stale]}
        try:
            resources.merge(path, change, version=configuration["metadata"]["resourceVersion"], strategic=True)
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return False
    return False


def _stale(configuration: Document, bundle: str) -> list[str]:
    """The names of the webhooks that have another bundle."""
    webhooks: list[dict[str, Any]] = configuration.get("webhooks") or []
    return [webhook["name"] for webhook in webhooks if webhook["clientConfig"].get("caBundle") != bundle]
