"""The AdmissionReview on the wire: bytes to :class:`Review`, a verdict to bytes.

The contract is admission.k8s.io/v1: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import copy
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from webhook import meta
from webhook.errors import MalformedReview
from webhook.lazyjson import NESTED, LazyObject

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


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    uid: str
    kind: GroupVersionKind
    resource: GroupVersionResource
    operation: str
    user_info: UserInfo = msgspec.field(name="userInfo")
    sub_resource: str = msgspec.field(name="subResource", default="")
    name: str = ""
    namespace: str = ""
    object: dict[str, msgspec.Raw] | None = None
    old_object: dict[str, msgspec.Raw] | None = msgspec.field(name="oldObject", default=None)
    dry_run: bool | None = msgspec.field(name="dryRun", default=None)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    api_version: str = msgspec.field(name="apiVersion", default="")
    kind: str = ""
    request: _Request | None = None


_NULL = msgspec.Raw(b"null")


class _Objects(msgspec.Struct, frozen=True, kw_only=True):
    object: msgspec.Raw = _NULL
    old_object: msgspec.Raw = msgspec.field(name="oldObject", default=_NULL)


class _Opaque(msgspec.Struct, frozen=True, kw_only=True):
    api_version: str = msgspec.field(name="apiVersion", default="")
    kind: str = ""
    request: msgspec.Raw = _NULL


_envelope = msgspec.json.Decoder(_Envelope)
_encode = msgspec.json.Encoder().encode

OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})
_OBJECT, _OLD_OBJECT = "request.object", "request.oldObject"


class Review:
    """One request of the API server.

    ``new`` is the object as it would be stored, or None (DELETE, CONNECT without options), ``old`` the object as it is
    stored, or None (CREATE, CONNECT). Both are decoded as far as they are looked at.
    """

    def __init__(self, request: _Request) -> None:
        self.uid = request.uid
        self.kind = request.kind
        self.resource = request.resource
        self.subresource = request.sub_resource
        if request.resource.resource == "bindings" and not request.resource.group:
            # The older way to bind a pod: the same object, sent to a resource of its own.
            self.resource = GroupVersionResource(version=request.resource.version, resource="pods")
            self.subresource = "binding"
        self.namespace = request.namespace
        self.operation = request.operation
        self.user = request.user_info
        self.dry_run = bool(request.dry_run)
        new, old = request.object, request.old_object
        self.new: Mapping[str, Any] | None = None if new is None else LazyObject(new, _OBJECT)
        self.old: Mapping[str, Any] | None = None if old is None else LazyObject(old, _OLD_OBJECT)
        self._name = request.name

    @property
    def name(self) -> str:
        """The object's name. A deletecollection names it in oldObject alone; a generateName may have none yet."""
        if self._name:
            return self._name
        for candidate in (self.new, self.old):
            if isinstance(name := meta.metadata_of(candidate).get("name"), str) and name:
                return name
        return ""

    @property
    def state(self) -> bytes:
        """The newest state of the object that the request brings, as JSON: ``null`` for none."""
        newest = self.new if self.new is not None else self.old
        return _encode(newest.raw if isinstance(newest, LazyObject) else newest)

    def with_new(self, new: Mapping[str, Any]) -> Review:
        """The same request for another new object."""
        other = copy.copy(self)
        other.new = new
        return other

    def with_user(self, user: UserInfo) -> Review:
        """The same request by somebody else."""
        other = copy.copy(self)
        other.user = user
        return other

    @property
    def qualified_resource(self) -> str:
        """The resource without its subresource: ``deployments.apps``."""
        return qualified_resource(self.resource.group, self.resource.resource)


def parse(body: bytes) -> Review:
    """Read the AdmissionReview in ``body``.

    Raises:
        MalformedReview: it is no JSON, no AdmissionReview of admission.k8s.io/v1, or lacks what a verdict needs.
    """
    try:
        envelope = _envelope.decode(body)
    except msgspec.ValidationError as error:
        raise _misshapen(body, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReview(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedReview(NESTED, 413) from None
    _require_kind(envelope)
    request = envelope.request
    if request is None:
        raise MalformedReview(_NO_REQUEST)
    if not (request.uid and request.resource.resource and request.kind.kind):
        missing = "uid" if not request.uid else "kind.kind" if request.resource.resource else "resource.resource"
        raise MalformedReview(f"request.{missing} is empty")
    if request.operation not in OPERATIONS:
        raise MalformedReview(
            f"request.operation {request.operation[:40]!r} is none of {', '.join(sorted(OPERATIONS))}"
        )
    if not request.user_info.username:
        raise MalformedReview("request.userInfo.username is empty")
    # Without the object there is nothing to compare, and "no difference" would be an allow.
    if request.object is None and request.operation in ("CREATE", "UPDATE"):
        raise MalformedReview(f"a review of {request.operation} must bring {_OBJECT}")
    if request.old_object is None and request.operation in ("UPDATE", "DELETE"):
        raise MalformedReview(f"a review of {request.operation} must bring {_OLD_OBJECT}")
    return Review(request)


R = TypeVar("R", bound=Review)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a review is made of where no API server sent one; the objects are JSON, ``null`` for none."""

    uid: str
    kind: GroupVersionKind
    resource: GroupVersionResource
    operation: str
    user: UserInfo
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    old: bytes = b"null"
    new: bytes = b"null"
    dry_run: bool = False


def assemble(parts: Parts, made: Callable[[_Request], R]) -> R:
    """The review of a write that was recorded in another form, such as an audit event.

    ``made`` is the class of reviews: Review, or one that knows less.

    Raises:
        MalformedReview: old or new is no object.
    """
    review = made(
        _Request(
            uid=parts.uid,
            kind=parts.kind,
            resource=parts.resource,
            operation=parts.operation,
            user_info=parts.user,
            sub_resource=parts.subresource,
            name=parts.name,
            namespace=parts.namespace,
            dry_run=parts.dry_run,
        )
    )
    if parts.new != bytes(_NULL):
        review.new = LazyObject.of(msgspec.Raw(parts.new), _OBJECT)
    if parts.old != bytes(_NULL):
        review.old = LazyObject.of(msgspec.Raw(parts.old), _OLD_OBJECT)
    return review


_NO_REQUEST = "the AdmissionReview has no request"


def _require_kind(envelope: _Envelope | _Opaque) -> None:
    if envelope.kind != KIND or envelope.api_version != API_VERSION:
        what = f"{envelope.api_version or 'no apiVersion'}, {envelope.kind or 'no kind'}"
        raise MalformedReview(f"the body must be an {KIND} of {API_VERSION}, but is: {what[:100]}")


def _misshapen(body: bytes, error: msgspec.ValidationError) -> MalformedReview:
    """Which part of the body has not the type that it must have."""
    try:
        envelope = msgspec.json.decode(body, type=_Opaque)
        _require_kind(envelope)
        if envelope.request == _NULL:
            return MalformedReview(_NO_REQUEST)
        objects = msgspec.json.decode(envelope.request, type=_Objects)
        LazyObject.of(objects.object, _OBJECT)
        LazyObject.of(objects.old_object, _OLD_OBJECT)
        msgspec.json.decode(envelope.request, type=_Request)
    except MalformedReview as found:
        return found
    except msgspec.ValidationError as found:
        error = found
    except (msgspec.DecodeError, UnicodeDecodeError) as found:
        # What is wrong with the JSON comes further on than what is wrong with the review.
        return MalformedReview(f"the body is not valid JSON: {found}")
    except RecursionError:
        return MalformedReview(NESTED, 413)
    return MalformedReview(f"the body is no AdmissionReview: {error}")


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
    if allowed and not (warnings or audit_annotations or patch):
        return _encode(review.uid).join(_ALLOWED)
    response: dict[str, Any] = {"uid": review.uid, "allowed": allowed}
    if not allowed:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": message}
    if warnings:
        response["warnings"] = warnings
    if audit_annotations:
        response["auditAnnotations"] = audit_annotations
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b64encode(_encode(patch)).decode()
    return _encode({"apiVersion": API_VERSION, "kind": KIND, "response": response})


# Most answers are this one; the uid goes between.
_ALLOWED = _encode({"apiVersion": API_VERSION, "kind": KIND, "response": {"uid": "", "allowed": True}}).split(b'""')
