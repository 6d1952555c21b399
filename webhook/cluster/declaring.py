"""Declared state on its way to the API server: what it would make of a manifest, and making it so."""

from __future__ import annotations

import re
import time
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from webhook import meta
from webhook.cluster.connection import Answer, Connection, json_object
from webhook.errors import ClusterError, LookupFailed
from webhook.text import cut, escaped

# Seconds of one write: the API server gives up after 34.
CALL_SECONDS: Final = 40.0
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_UNSUPPORTED: Final = 415
_JSON: Final = "application/json"
_MAX_MESSAGE: Final = 300  # characters of what the API server said
_WEBHOOK: Final = re.compile(r'admission webhook "([^"]+)" denied the request')
#: driftwall's own refusal of a write that it takes for a person's.
OWN_WEBHOOK: Final = "validate.driftwall.io"

Object = dict[str, Any]


class DeniedByWebhook(ClusterError):
    """An admission webhook, ``name``, denied the write."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(f"{path}: denied by the admission webhook {escaped(name)}")
        self.name = name


class Declaring:
    """Applies and deletes objects by their paths. Messages hold nothing of what was sent to a Secret."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def live(self, path: str) -> Object | None:
        """The object; None if there is none. Raises ClusterError."""
        answer = self._call("GET", path, None, "")
        return None if answer.status == 404 else _object("GET", path, answer)

    def apply(self, path: str, manifest: Object, manager: str, *, dry_run: bool) -> Object:
        """What server-side apply by ``manager`` makes of the object, its conflicts overruled.

        Raises:
            DeniedByWebhook: an admission webhook was against it.
            ClusterError: it was refused otherwise, or not answered.
        """
        query = {"fieldManager": manager, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        answer = self._call("PATCH", f"{path}?{urlencode(query)}", msgspec.json.encode(manifest), _APPLY)
        return _object("PATCH", path, answer)

    def merge(self, path: str, change: Object, manager: str) -> Object:
        """What a patch makes of the object: lists of named items merged by name, where the API server knows how.

        Raises as :meth:`apply`.
        """
        body, path = msgspec.json.encode(change), f"{path}?{urlencode({'fieldManager': manager})}"
        answer = self._call("PATCH", path, body, _STRATEGIC)
        if answer.status == _UNSUPPORTED:  # of custom resources
            answer = self._call("PATCH", path, body, _MERGE)
        return _object("PATCH", path, answer)

    def delete(self, path: str, uid: str) -> None:
        """Delete an object, if it is still the one with ``uid``; what it owns goes in the background.

        Raises as :meth:`apply`.
        """
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        answer = self._call("DELETE", path, msgspec.json.encode(options), _JSON)
        if answer.status != 404:
            _object("DELETE", path, answer)

    def _call(self, method: str, path: str, body: bytes | None, content_type: str) -> Answer:
        deadline = time.monotonic() + CALL_SECONDS
        try:
            if body is None:
                return self._connection.get(path, deadline)
            return self._connection.send(method, path, body, content_type, deadline)
        except LookupFailed as error:
            raise ClusterError(f"{method} {path.partition('?')[0]}: {error}") from None


def _object(method: str, path: str, answer: Answer) -> Object:
    path = path.partition("?")[0]
    document = json_object(answer.body)
    if answer.status < 300 and document is not None:
        return document
    said = str(meta.mapping(document).get("message", ""))
    if denied := _WEBHOOK.search(said):
        raise DeniedByWebhook(f"{method} {path}", denied[1])
    # What a Secret's fields are not fit for may be quoted in full.
    told = "" if "/secrets/" in path else f": {cut(escaped(said), _MAX_MESSAGE)}" if said else ""
    raise ClusterError(f"{method} {path}: HTTP {answer.status}{told}")
