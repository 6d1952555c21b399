"""A write that nobody has sent, as the API server would send it: for who asks what would become of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.admission import ObjectRef, Review, UserInfo
from webhook.edits import Edit, applied
from webhook.errors import SettingsError
from webhook.identity import service_account
from webhook.written import review_of

#: What a subresource is sent, where that is not the object itself: operation, apiVersion and kind.
_SENT: Final[Mapping[str, tuple[str, str, str]]] = {
    "eviction": ("CREATE", "policy/v1", "Eviction"),
    "binding": ("CREATE", "v1", "Binding"),
    "token": ("CREATE", "authentication.k8s.io/v1", "TokenRequest"),
    "exec": ("CONNECT", "v1", "PodExecOptions"),
    "attach": ("CONNECT", "v1", "PodAttachOptions"),
    "portforward": ("CONNECT", "v1", "PodPortForwardOptions"),
    "proxy": ("CONNECT", "v1", "PodProxyOptions"),
}
SUBRESOURCES: Final = tuple(_SENT)
_ANONYMOUS: Final = "system:anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be written by whom: the stored object ``obj`` at ``ref``, or the one to be created."""

    obj: dict[str, Any]
    ref: ObjectRef
    user: UserInfo
    operation: str = "UPDATE"
    subresource: str = ""
    edits: tuple[Edit, ...] = ()


def user(name: str, groups: Iterable[str], uid: str, extra: Mapping[str, tuple[str, ...]]) -> UserInfo:
    """Somebody as the API server would know them: with the groups that it adds by itself."""
    known = list(groups)
    account = service_account(name)
    if account is not None and not known:
        known = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}"]
    known.append("system:unauthenticated" if name == _ANONYMOUS else "system:authenticated")
    return UserInfo(username=name, uid=uid, groups=tuple(dict.fromkeys(known)), extra=dict(extra) or None)


def review(question: Question) -> Review:
    """The review of it.

    Raises:
        SettingsError: nothing is written, or what is to be written does not fit the object.
    """
    operation, old, new = _sides(question)
    ref, user = question.ref, question.user
    write = {
        "user": msgspec.to_builtins(user),
        "operation": operation,
        "resource": ref.resource,
        "subresource": question.subresource,
    }
    of = question.obj if question.subresource else None
    try:
        # Without markers: an object that nobody is known to have declared counts as just that.
        return review_of(write, old=old, new=new, of=of, markers=())
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _sides(question: Question) -> tuple[str, dict[str, Any] | None, dict[str, Any] | None]:
    """The operation, and the old and the new object."""
    obj, subresource = question.obj, question.subresource
    if subresource in _SENT:
        operation, api_version, kind = _SENT[subresource]
        metadata = {key: meta.metadata_of(obj).get(key) for key in ("name", "namespace")}
        return operation, None, {"apiVersion": api_version, "kind": kind, "metadata": metadata}
    if question.operation == "DELETE":
        return "DELETE", obj, None
    if question.operation == "CREATE":
        return "CREATE", None, applied(obj, question.edits)
    if not question.edits:
        raise SettingsError("say what is written: --field PATH, --set PATH=VALUE, or --operation DELETE")
    old = _scale(obj) if subresource == "scale" else obj
    return "UPDATE", old, applied(old, question.edits)


def _scale(obj: dict[str, Any]) -> dict[str, Any]:
    """The Scale of a workload."""
    if obj.get("kind") == "Scale":
        return obj
    metadata = {key: meta.metadata_of(obj).get(key) for key in ("name", "namespace", "uid")}
    replicas = meta.mapping(obj.get("spec")).get("replicas", 1)
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": replicas}}
