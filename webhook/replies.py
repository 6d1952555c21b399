"""HTTP responses of the webhook: a verdict, or a ``Status`` of Kubernetes that tells a person why there is none."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final, NamedTuple

import msgspec

Message = MutableMapping[str, Any]
_Headers = tuple[tuple[bytes, bytes], ...]

# The API server takes 3 MiB from a client, but a review holds old and new and escapes much: 18.8 MB was seen.
MAX_BODY: Final = 32 * 1024 * 1024


class Reply(NamedTuple):
    """An HTTP response as the two messages that ASGI sends; without a verdict, why: one of ERROR_REASONS."""

    start: Message
    body: Message
    reason: str = ""


def reply(status: int, body: bytes, headers: _Headers = (), reason: str = "") -> Reply:
    """A response with this body, which is JSON."""
    length = str(len(body)).encode()
    all_headers = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    return Reply(
        {"type": "http.response.start", "status": status, "headers": all_headers},
        {"type": "http.response.body", "body": body},
        reason,
    )


# As :func:`reply` and uvicorn would write it.
_VERDICT: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def verdict(body: bytes) -> bytes:
    """The whole response with a verdict, as bytes for the caller."""
    return _VERDICT % (len(body), body)


# HTTP status -> reason, as k8s.io/apimachinery names them (metav1.StatusReason).
_REASONS: Final = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def failure(status: int, message: str, headers: _Headers = (), *, reason: str = "request") -> Reply:
    """A response without a verdict that tells a person ``message``."""
    body = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(status, "Unknown"),
        "code": status,
    }
    return reply(status, msgspec.json.encode(body), headers, reason)


# Made once: what is answered when memory or patience runs out must not need much of either.
NOT_ALLOWED: Final = failure(405, "a review is sent with POST", ((b"allow", b"POST"),))
TOO_LARGE: Final = failure(
    413, f"the review has more than {MAX_BODY // 2**20} MiB, which is as much as driftwall reads"
)
NOT_JSON: Final = failure(415, "a review is sent with Content-Type: application/json")
INTERNAL: Final = failure(
    500, "driftwall failed while it decided this write; the reason is in its log", reason="internal"
)
NO_POLICIES: Final = failure(503, "driftwall has not loaded its policies yet", reason="policies")
# The API server tries again by itself if it is told when, and its own time is not up.
TRY_AGAIN: Final = ((b"retry-after", b"1"),)
