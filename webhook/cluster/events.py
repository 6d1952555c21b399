"""Events about what driftwall has decided: what they say, and how many of them there may be.

Events of core/v1, since ``kubectl describe`` shows these of an object, whatever the version of either side. What is
alike is counted in one, and what is too much is left out, much as client-go does it (tools/record/events_cache.go).
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from webhook import meta
from webhook.admission import Review
from webhook.audit import MAX_TEXT
from webhook.breakglass import write_time
from webhook.decision import BreakGlassUse, Decision, Violation
from webhook.subject import place_of
from webhook.text import cut, escaped

_T = TypeVar("_T")

DENIED: Final = "WriteDenied"
#: By the action of a BreakGlassUse.
GLASS: Final = {"set": "GlassBroken", "removed": "GlassMended", "used": "WriteUnderBreakGlass"}

# Characters of an Event's message, as k8s.io/kubernetes validates it.
_MAX_MESSAGE: Final = 1024
# Characters of a name in it: a service account's longest has some more than two names of 253.
_MAX_NAME: Final = 256
# The time within which a second Event that is like one before is no new one: client-go's.
_ALIKE: Final = timedelta(seconds=600)
# About one object, for one reason: client-go's, too. Then one each five minutes.
_OBJECT_BURST, _OBJECT_SECONDS = 25, 300.0
# About all objects, for one reason: what a kubelet sends of its own in a burst (--event-burst), then a fifth of what it
# goes on with: an Event is a write for etcd, and this is one of several replicas.
_TOTAL_BURST, _TOTAL_SECONDS = 100, 0.1
# Objects, and Events, that are remembered: client-go's.
_REMEMBERED: Final = 4096

# The kinds of built-in resources that have subresources of other kinds: a Scale tells nothing of its parent's.
_KINDS: Final[Mapping[tuple[str, str], str]] = {
    ("", "pods"): "Pod",
    ("", "nodes"): "Node",
    ("", "replicationcontrollers"): "ReplicationController",
    ("", "serviceaccounts"): "ServiceAccount",
    ("", "services"): "Service",
    ("apps", "deployments"): "Deployment",
    ("apps", "replicasets"): "ReplicaSet",
    ("apps", "statefulsets"): "StatefulSet",
}
# What the API server takes as an Event's name (RFC 1123 subdomain); RBAC's objects have others.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")


class Involved(msgspec.Struct, frozen=True, kw_only=True):
    """The object that an Event is about; what is not known of it is empty."""

    group: str = ""
    version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""

    def reference(self) -> dict[str, str]:
        """As ``involvedObject`` has it."""
        values = {
            "apiVersion": f"{self.group}/{self.version}" if self.group else self.version,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }
        return {key: value for key, value in values.items() if value}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told, and when it came."""

    involved: Involved
    reason: str
    user: str
    at: datetime


def about(review: Review, reason: str, now: datetime) -> Told:
    """What there is to tell of a review."""
    involved = _involved(review, exists=reason != DENIED)
    return Told(involved=involved, reason=reason, user=_text(review.user.username), at=now)


def denial(review: Review, decision: Decision) -> str:
    """The message about a write that was denied."""
    violations = [violation for violation in decision.violations if violation.verdict == "deny"]
    # What is about to be created only says so of itself.
    verb = "bears the mark of" if review.operation == "CREATE" and not review.subresource else "managed by"
    managed = f"{verb} {decision.managed_by.title}, " if decision.managed_by is not None else ""
    user = cut(review.user.username, _MAX_NAME)
    return _message(f"{managed}policy {_names(violations)}: {user} may not {_deed(review, violations)}")


def break_glass(review: Review, use: BreakGlassUse) -> str:
    """The message about a glass that was broken or mended, or under which a write passed."""
    user = review.user.username
    if not use.violations:
        return _message(f"{use.action} by {user}: {use.reason}")
    what = _fields(use.violations) or review.operation.lower()
    return _message(
        f"{user} wrote {what} under break-glass ({use.reason}, by {use.by}), against policy {_names(use.violations)}"
    )


def is_about_events(review: Review) -> bool:
    """Whether an Event is written, about which there had better be none: one would bring the next."""
    return review.resource.resource == "events" and review.resource.group in ("", "events.k8s.io")


def _message(text: str) -> str:
    return cut(escaped(text), _MAX_MESSAGE)


def _names(violations: Iterable[Violation]) -> str:
    return ", ".join(violation.name for violation in violations)


def _fields(violations: Iterable[Violation]) -> str:
    return ", ".join(dict.fromkeys(change.path for violation in violations for change in violation.fields))


def _deed(review: Review, violations: Sequence[Violation]) -> str:
    verb = review.operation.lower()
    if review.subresource:
        verb += f" {review.resource.resource}/{review.subresource}"
    if fields := _fields(violations):
        return f"change {fields}" if verb == "update" else f"{verb} {'' if review.subresource else 'it '}with {fields}"
    return verb if review.subresource else f"{verb} it"


def _involved(review: Review, *, exists: bool) -> Involved:
    """The object; ``exists``: one that is created now will be there."""
    ref = place_of(review)
    kind = _KINDS.get((ref.group, ref.resource), "")
    if not kind and review.subresource in ("", "status"):
        kind = review.kind.kind
    named = review.old
    # A Scale has its parent's uid; what is sent to a subresource without being an object may have one of its own.
    if named is None and exists and not review.subresource:
        named = review.new
    return Involved(
        group=ref.group,
        version=ref.version,
        kind=kind,
        namespace=ref.namespace,
        name=_text(ref.name or meta.metadata_of(review.new).get("generateName")),
        uid=_text(meta.metadata_of(named).get("uid")),
    )


def _text(value: Any) -> str:
    return cut(value, MAX_TEXT) if isinstance(value, str) else ""


class Event:
    """One Event in the cluster: how often what it tells of has come, and whether it is written yet.

    Whoever writes it sees to ``written`` and ``name``, and may be another thread than that of the :class:`Correlator`.
    """

    def __init__(self, told: Told, of_object: Bucket) -> None:
        self.told = told
        self.of_object = of_object
        self.count = 0
        self.name = ""
        self.rename()

    @property
    def namespace(self) -> str:
        """Where it is: the API server takes Events about what has no namespace in this one alone."""
        return self.told.involved.namespace or "default"

    def rename(self) -> None:
        """Be a new Event, since the one that was is no more."""
        name = self.told.involved.name
        self.name = f"{name[:200] if _NAME.match(name) else 'driftwall'}.{secrets.token_hex(8)}"
        self.written = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An Event to write as it is now: ``count`` is how often it came, ``at`` when it last did."""

    event: Event
    message: str
    count: int
    at: datetime

    def body(self) -> dict[str, Any]:
        """The whole of it."""
        event = self.event
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": event.namespace},
            "involvedObject": event.told.involved.reference(),
            "reason": event.told.reason,
            "type": "Warning",
            "firstTimestamp": write_time(event.told.at),
            "source": {"component": "driftwall"},
            "reportingComponent": "driftwall.io/webhook",
            "reportingInstance": "",
            **self.change(),
        }

    def change(self) -> dict[str, Any]:
        """What is new of it since it was written."""
        return {"message": self.message, "count": self.count, "lastTimestamp": write_time(self.at)}


class Correlator:
    """Makes few Events of many things to tell. For one thread; the time is that of what is told."""

    def __init__(self) -> None:
        self._events: _Recent[Event] = _Recent()
        self._objects: _Recent[Bucket] = _Recent()
        self._totals: dict[str, Bucket] = {}

    def take(self, told: Told) -> Event | None:
        """The Event to write now, with all that it has to tell of; None where there are too many already."""
        key = (told.involved, told.reason, told.user)
        event = self._events.get(key)
        if event is None or told.at - event.told.at > _ALIKE:
            of_object = self._bucket_of(told) if event is None else event.of_object
            event = self._events.put(key, Event(told, of_object))
        event.count += 1
        at = told.at.timestamp()
        if not event.of_object.take(at):
            return None
        # Of one reason there may be as many as anybody likes, and they must not keep another from being told.
        of_all = self._totals.get(told.reason)
        if of_all is None:
            of_all = self._totals[told.reason] = Bucket(_TOTAL_BURST, _TOTAL_SECONDS, at)
        return event if of_all.take(at) else None

    def _bucket_of(self, told: Told) -> Bucket:
        """That of all Events about the object for this reason, whoever wrote."""
        key = (told.involved, told.reason)
        new = Bucket(_OBJECT_BURST, _OBJECT_SECONDS, told.at.timestamp())
        return self._objects.get(key) or self._objects.put(key, new)


class Bucket:
    """A token bucket: ``burst`` at once, then one each ``seconds``."""

    def __init__(self, burst: int, seconds: float, at: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._tokens = float(burst)
        self._at = at

    def take(self, at: float) -> bool:
        """Take a token, if there is one."""
        # A clock that was put back is no reason to wait for it.
        if at > self._at:
            self._tokens = min(self._burst, self._tokens + (at - self._at) / self._seconds)
        self._at = at
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Recent(Generic[_T]):
    """Values by key; the one that was asked for least lately is forgotten for a new one."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, _T] = OrderedDict()

    def get(self, key: Hashable) -> _T | None:
        """The value, if there is one."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Hashable, value: _T) -> _T:
        """Have ``value`` as the value."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > _REMEMBERED:
            self._values.popitem(last=False)
        return value
