"""The few objects that driftwall keeps in the cluster for itself, by name: read, made, and changed without a race."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from webhook.cluster.connection import Answer, Connection, json_object
from webhook.errors import ClusterError, Conflict, LookupFailed

# One call. Nobody waits for it but the next one, and the Lease is lost to others after twice this (cluster.leases).
CALL_SECONDS: Final = 5.0
#: What managedFields call driftwall.
FIELD_MANAGER: Final = "driftwall"

_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"
_STRATEGIC: Final = "application/strategic-merge-patch+json"

Document = dict[str, Any]


class Resources:
    """Single objects by their paths. Every call may block for CALL_SECONDS, so none is for an event loop.

    Whatever is written is a PATCH of a named object: so a role that names the objects is enough, which a POST's is not,
    since that has no name yet when it is authorized.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, path: str) -> Document | None:
        """The object; None if there is none.

        Raises:
            ClusterError: it could not be read.
        """
        try:
            answer = self._connection.get(path, time.monotonic() + CALL_SECONDS)
        except LookupFailed as error:
            raise ClusterError(f"GET {path}: {error}") from None
        return None if answer.status == 404 else _document("GET", path, answer)

    def ensure(self, path: str, wanted: Document) -> Document:
        """Make the object unless it is there. Of one that is there, the fields of ``wanted`` are set.

        Raises:
            ClusterError: it could not be made.
        """
        return self._patch(f"{path}?fieldManager={FIELD_MANAGER}&force=true", _APPLY, wanted)

    def merge(self, path: str, change: Document, *, version: str | None = None, strategic: bool = False) -> Document:
        """Change an object; ``version`` is the resourceVersion that it must still have.

        ``strategic``: lists of named items are merged by name.

        Raises:
            Conflict: it has another by now.
            ClusterError: it could not be changed.
        """
        if version is not None:
            change = {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": version}}
        return self._patch(f"{path}?fieldManager={FIELD_MANAGER}", _STRATEGIC if strategic else _MERGE, change)

    def _patch(self, path: str, content_type: str, change: Document) -> Document:
        body = msgspec.json.encode(change)
        try:
            answer = self._connection.send("PATCH", path, body, content_type, time.monotonic() + CALL_SECONDS)
        except LookupFailed as error:
            raise ClusterError(f"PATCH {path}: {error}") from None
        return _document("PATCH", path, answer)


def _document(method: str, path: str, answer: Answer) -> Document:
    path = path.partition("?")[0]
    if answer.status == 409:
        raise Conflict(f"{method} {path}: somebody else changed it; trying again")
    if answer.status >= 300:
        raise ClusterError(f"{method} {path}: {_REFUSALS.get(answer.status, f'HTTP {answer.status}')}")
    document = json_object(answer.body)
    if document is None or not isinstance(document.get("metadata"), dict):
        raise ClusterError(f"{method} {path}: the answer is no object that driftwall can read")
    return document


# Without the text of the answer: it may quote what was sent, and a Secret's key may be in that.
_REFUSALS: Final = {
    401: "the API server does not accept driftwall's credentials",
    403: "driftwall may not; its role is not as deploy/ has it",
    404: "there is no such object, or its namespace does not exist",
    422: "the API server finds it invalid",
    429: "the API server has too much to do; trying again",
}
