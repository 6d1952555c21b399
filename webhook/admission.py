"""The AdmissionReview on the wire: bytes to :class:`Review`, a verdict to bytes.

The contract is admission.k8s.io/v1: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import copy
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from webhook.errors import MalformedReview

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"


class GroupVersionKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind as the API server names it; the core group is the empty string."""

    group: str = ""
    version: str = ""
    kind: str = ""


class GroupVersionResource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as the API server names it; the core group is the empty string."""

    group: str = ""
    version: str = ""
    resource: str = ""


class UserInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes, as the API server authenticated them (authentication.k8s.io/v1 UserInfo)."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] | None = ()
    extra: dict[str, tuple[str, ...] | None] | None = None


class ObjectRef(NamedTuple):
    """The place of one object in the API; ``namespace`` is empty for a cluster-scoped one.

    A ``resource_version`` asks for the object as it is when that version is the newest: an older answer will not do.
    """

    group: str
    version: str
    resource: str
    namespace: str
    name: str
    resource_version: str = ""

    def __str__(self) -> str:
        where = f' in namespace "{self.namespace}"' if self.namespace else ""
        return f'{qualified_resource(self.group, self.resource)} "{self.name}"{where}'


def qualified_resource(group: str, resource: str) -> str:
    """The resource as kubectl writes it: ``deployments.apps``, ``services``."""
    return f"{resource}.{group}" if group else resource


_NULL = msgspec.Raw(b"null")


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    uid: str
    kind: GroupVersionKind
    resource: GroupVersionResource
    operation: str
    user_info: UserInfo = msgspec.field(name="userInfo")
    sub_resource: str = msgspec.field(name="subResource", default="")
    name: str = ""
    namespace: str = ""
    object: msgspec.Raw = _NULL
    old_object: msgspec.Raw = msgspec.field(name="oldObject", default=_NULL)
    dry_run: bool | None = msgspec.field(name="dryRun", default=None)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    api_version: str = msgspec.field(name="apiVersion", default="")
    kind: str = ""
    request: msgspec.Raw = _NULL


_envelope = msgspec.json.Decoder(_Envelope)
_request = msgspec.json.Decoder(_Request)

OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})
_NESTED = "the AdmissionReview is nested more deeply than driftwall reads (about 900 levels)"


class Review:
    """One request of the API server. ``old`` and ``new`` are decoded when first asked for."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self.uid = request.uid
        self.kind = request.kind
        self.resource = request.resource
        self.subresource = request.sub_resource
        if (request.resource.group, request.resource.resource) == ("", "bindings"):
            # The older way to bind a pod: the same object, sent to a resource of its own.
            self.resource = GroupVersionResource(version=request.resource.version, resource="pods")
            self.subresource = "binding"
        self.namespace = request.namespace
        self.operation = request.operation
        self.user = request.user_info
        self.dry_run = bool(request.dry_run)

    @cached_property
    def new(self) -> dict[str, Any] | None:
        """The object as it would be stored, or None (DELETE, CONNECT without options)."""
        return _object(self._request.object, "object")

    @cached_property
    def old(self) -> dict[str, Any] | None:
        """The object as it is stored, or None (CREATE, CONNECT)."""
        return _object(self._request.old_object, "oldObject")

    @cached_property
    def name(self) -> str:
        """The object's name. A deletecollection names it in oldObject alone; a generateName may have none yet."""
        if self._request.name:
            return self._request.name
        for candidate in (self.new, self.old):
            metadata = (candidate or {}).get("metadata")
            if isinstance(metadata, dict) and isinstance(name := metadata.get("name"), str) and name:
                return name
        return ""

    def with_new(self, new: dict[str, Any]) -> Review:
        """The same request for another new object."""
        other = copy.copy(self)
        other.__dict__["new"] = new
        return other

    @property
    def qualified_resource(self) -> str:
        """The resource without its subresource: ``deployments.apps``."""
        return qualified_resource(self.resource.group, self.resource.resource)


def _object(raw: msgspec.Raw, key: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise MalformedReview(f"request.{key} is not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedReview(_NESTED, 413) from None
    if value is None or isinstance(value, dict):
        return value
    raise MalformedReview(f"request.{key} must be a JSON object, not {_json_type(value)}")


def _json_type(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")


def parse(body: bytes) -> Review:
    """Read the AdmissionReview in ``body``.

    Raises:
        MalformedReview: it is no JSON, no AdmissionReview of admission.k8s.io/v1, or lacks what a verdict needs.
    """
    try:
        envelope = _envelope.decode(body)
        if envelope.kind != KIND or envelope.api_version != API_VERSION:
            what = f"{envelope.api_version or 'no apiVersion'}, {envelope.kind or 'no kind'}"
            raise MalformedReview(f"the body must be an {KIND} of {API_VERSION}, but is: {what[:100]}")
        if envelope.request == _NULL:
            raise MalformedReview("the AdmissionReview has no request")
        request = _request.decode(envelope.request)
    except msgspec.ValidationError as error:
        raise MalformedReview(f"the body is no AdmissionReview: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReview(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedReview(_NESTED, 413) from None
    for key, value in (
        ("uid", request.uid),
        ("resource.resource", request.resource.resource),
        ("kind.kind", request.kind.kind),
    ):
        if not value:
            raise MalformedReview(f"request.{key} is empty")
    if request.operation not in OPERATIONS:
        raise MalformedReview(
            f"request.operation {request.operation[:40]!r} is none of {', '.join(sorted(OPERATIONS))}"
        )
    if not request.user_info.username:
        raise MalformedReview("request.userInfo.username is empty")
    review = Review(request)
    _require_objects(review, request)
    return review


def _require_objects(review: Review, request: _Request) -> None:
    # Without the object there is nothing to compare, and "no difference" would be an allow.
    needed = {"CREATE": ("object",), "UPDATE": ("object", "oldObject"), "DELETE": ("oldObject",)}
    raws = {"object": request.object, "oldObject": request.old_object}
    for key in needed.get(review.operation, ()):
        if raws[key] == _NULL:
            raise MalformedReview(f"a review of {review.operation} must bring request.{key}")


def respond(
    review: Review,
    *,
    allowed: bool,
    message: str = "",
    warnings: tuple[str, ...] = (),
    audit_annotations: Mapping[str, str] | None = None,
    patch: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The AdmissionReview that answers ``review``: the one place that stamps the uid. A denial has code 403.

    ``patch`` is a JSONPatch (RFC 6902) of the new object.
    """
    response: dict[str, Any] = {"uid": review.uid, "allowed": allowed}
    if not allowed:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": message}
    if warnings:
        response["warnings"] = warnings
    if audit_annotations:
        response["auditAnnotations"] = audit_annotations
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b64encode(msgspec.json.encode(patch)).decode()
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, "response": response})
