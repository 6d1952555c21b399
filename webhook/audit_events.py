"""An API server's audit log on disk: one ``Event`` of audit.k8s.io/v1 a line.

https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from webhook.admission import UserInfo
from webhook.breakglass import read_time

GROUP: Final = "audit.k8s.io/"
#: The one stage that tells how a request ended.
COMPLETE: Final = "ResponseComplete"
WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
#: Subresources that a client connects to, by POST or GET; admission calls it CONNECT.
CONNECTED: Final = frozenset({"exec", "attach", "portforward", "proxy"})
#: What the webhook configurations leave out, whatever the policies say (webhook.webhook_config).
NEVER_ASKED: Final = frozenset({("coordination.k8s.io", "leases"), ("", "events"), ("events.k8s.io", "events")})

_NULL: Final = msgspec.Raw(b"null")
_DENIED: Final = '.driftwall.io" denied the request'
_OURS: Final = ("validate.driftwall.io/", "observe.driftwall.io/", "self.driftwall.io/", "definitions.driftwall.io/")


class ObjectReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What a request is about."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    api_group: str = ""
    api_version: str = ""
    subresource: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a request ended."""

    code: int = 0
    message: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event, as far as it matters here. ``user`` is text in a line of driftwall's own decision log."""

    kind: str = ""
    api_version: str = ""
    level: str = ""
    stage: str = ""
    audit_id: str = msgspec.field(name="auditID", default="")
    request_uri: str = msgspec.field(name="requestURI", default="")
    verb: str = ""
    user: UserInfo | str | None = None
    impersonated_user: UserInfo | None = None
    object_ref: ObjectReference | None = None
    response_status: Status | None = None
    request_object: msgspec.Raw = _NULL
    response_object: msgspec.Raw = _NULL
    request_received_timestamp: str = ""
    annotations: dict[str, str] | None = None

    @property
    def ref(self) -> ObjectReference:
        """What it is about."""
        return self.object_ref or _NO_REF

    @property
    def writer(self) -> UserInfo:
        """Who writes, as admission sees it: whom the request impersonates, if it does."""
        user = self.impersonated_user or self.user
        return user if isinstance(user, UserInfo) else _NOBODY

    @property
    def time(self) -> datetime | None:
        """When the request came in."""
        return read_time(self.request_received_timestamp)

    @property
    def code(self) -> int:
        """The HTTP status of the answer; 0 if it is not known."""
        return self.response_status.code if self.response_status is not None else 0

    @property
    def is_connection(self) -> bool:
        """Whether a client connects to a part of the object."""
        return self.ref.subresource in CONNECTED

    @property
    def is_write(self) -> bool:
        """Whether admission is asked about such a request."""
        return self.ref.resource != "" and (self.verb in WRITES or (self.verb == "get" and self.is_connection))

    @property
    def is_denied_by_driftwall(self) -> bool:
        """Whether a webhook of driftwall's refused it."""
        if self.code < 400:
            return False
        annotations = self.annotations or {}
        if any(annotations.get(key + "verdict") == "deny" for key in _OURS):
            return True
        status = self.response_status
        # Older API servers put the message into the object alone.
        return _DENIED in (status.message if status is not None else "") or _DENIED.replace(
            '"', '\\"'
        ).encode() in bytes(self.response_object)

    @property
    def policies_named(self) -> tuple[str, ...]:
        """The policies that driftwall named as violated when it was asked."""
        annotations = self.annotations or {}
        named = next((annotations[key + "policies"] for key in _OURS if key + "policies" in annotations), "")
        return tuple(filter(None, named.split(",")))

    @property
    def mutated_by_driftwall(self) -> bool:
        """Whether driftwall's mutating webhook changed the object."""
        mutations = (value for key, value in (self.annotations or {}).items() if key.startswith("mutation.webhook."))
        return any('"mutate.driftwall.io"' in value and '"mutated":true' in value for value in mutations)

    @property
    def patches_of_others(self) -> list[list[Any]]:
        """The JSON patches of all mutating webhooks but driftwall's, in their order."""
        prefix = "patch.webhook.admission.k8s.io/round_"
        found: list[tuple[list[int], list[Any]]] = []
        for key, value in (self.annotations or {}).items():
            if key.startswith(prefix) and '"mutate.driftwall.io"' not in value:
                try:
                    made = _patch.decode(value)
                    found.append(([int(part) for part in key.removeprefix(prefix).split("_index_")], made.patch))
                except (msgspec.DecodeError, ValueError):
                    continue
        return [patch for _, patch in sorted(found, key=lambda each: each[0])]

    def query(self, name: str) -> str:
        """A parameter of the request."""
        if name not in self.request_uri:
            return ""
        return parse_qs(urlsplit(self.request_uri).query).get(name, [""])[-1]


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Several events in one document, as an audit webhook gets them."""

    items: tuple[msgspec.Raw, ...] = ()


#: Under which key several records come: of the CloudWatch Logs API, its subscriptions, and Azure's Event Hubs.
_RECORDS: Final = ("events", "logEvents", "records")
#: Under which key a record has the text: of CloudWatch Logs, Logs Insights, and Azure's table AzureDiagnostics.
_TEXTS: Final = ("message", "@message", "log_s")


def unwrapped(document: Any) -> list[bytes] | None:
    """The texts in records of CloudWatch Logs (EKS) or Azure Monitor (AKS); None for what is none.

    https://docs.aws.amazon.com/eks/latest/userguide/control-plane-logs.html
    https://learn.microsoft.com/azure/aks/monitor-aks-reference
    """
    if isinstance(document, dict):
        several = (document[key] for key in _RECORDS if isinstance(document.get(key), list))
        document = next(several, [document])
    texts = [_text_in(record) for record in document] if isinstance(document, list) else []
    found = [text for text in texts if text is not None]
    return found if found and len(found) == len(texts) else None


def _text_in(record: Any) -> bytes | None:
    if not isinstance(record, dict):
        return None
    properties = record.get("properties")
    places = [record.get(key) for key in _TEXTS] + [properties.get("log") if isinstance(properties, dict) else None]
    text = next((place for place in places if isinstance(place, str | dict)), None)
    if text is None:
        return None
    return text.encode() if isinstance(text, str) else msgspec.json.encode(text)


def of_google(document: Any) -> bool:
    """Whether it is an entry of Cloud Logging (GKE), whose audit logs are of a format of Google's own, or several."""
    first = document[0] if isinstance(document, list) and document else document
    return isinstance(first, dict) and "protoPayload" in first


class _Patch(msgspec.Struct, frozen=True, kw_only=True):
    patch: list[Any] = []


_patch: Final = msgspec.json.Decoder(_Patch)
_NO_REF: Final = ObjectReference()
_NOBODY: Final = UserInfo()
