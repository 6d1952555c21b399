"""Events about what driftwall has decided: what they say, and how many of them there may be.

Events of core/v1, since ``kubectl describe`` shows these of an object, whatever the version of either side. What is
alike is counted in one, and what is too much is left out, much as client-go does it (tools/record/events_cache.go).
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from webhook import meta
from webhook.admission import Review
from webhook.breakglass import write_time
from webhook.decision import BreakGlassUse, Decision, Violation
from webhook.subject import place_of
from webhook.text import cut, escaped

_T = TypeVar("_T")

DENIED: Final = "WriteDenied"
_GLASS: Final = {"set": "GlassBroken", "removed": "GlassMended", "used": "WriteUnderBreakGlass"}

# Characters of an Event's message, as k8s.io/kubernetes validates it.
_MAX_MESSAGE: Final = 1024
# Characters of a name in it: a service account's longest has some more than two names of 253.
_MAX_NAME: Final = 256
# Seconds within which a second Event that is like one before is no new one: client-go's.
_ALIKE_SECONDS: Final = 600
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one Event is to say. ``involved`` is the object, as ``involvedObject`` has it."""

    involved: Mapping[str, str]
    reason: str
    user: str
    message: str
    at: datetime

    @property
    def source(self) -> tuple[str, ...]:
        """What of it counts together as too much: about one object for one reason."""
        return (self.reason, *self.involved.values())

    @property
    def key(self) -> tuple[str, ...]:
        """What of it is alike: also by one user."""
        return (self.user, *self.source)


def of_denial(review: Review, decision: Decision, now: datetime) -> Told:
    """The Event about a write that was denied."""
    violations = [violation for violation in decision.violations if violation.verdict == "deny"]
    # What is about to be created only says so of itself.
    verb = "bears the mark of" if review.operation == "CREATE" and not review.subresource else "managed by"
    managed = f"{verb} {decision.managed_by.title}, " if decision.managed_by is not None else ""
    user = cut(review.user.username, _MAX_NAME)
    message = f"{managed}policy {_names(violations)}: {user} may not {_deed(review, violations)}"
    return _told(review, DENIED, message, now)


def of_break_glass(review: Review, use: BreakGlassUse, now: datetime) -> Told:
    """The Event about a glass that was broken or mended, or under which a write passed."""
    user = review.user.username
    message = f"{use.action} by {user}: {use.reason}"
    if use.violations:
        what = _fields(use.violations) or review.operation.lower()
        message = (
            f"{user} wrote {what} under break-glass ({use.reason}, by {use.by}), "
            f"against policy {_names(use.violations)}"
        )
    return _told(review, _GLASS[use.action], message, now)


def is_about_events(review: Review) -> bool:
    """Whether an Event is written, about which there had better be none: one would bring the next."""
    return review.resource.resource == "events" and review.resource.group in ("", "events.k8s.io")


def _told(review: Review, reason: str, message: str, now: datetime) -> Told:
    text = cut(escaped(message), _MAX_MESSAGE)
    return Told(
        involved=_involved(review, exists=reason != DENIED),
        reason=reason,
        user=review.user.username,
        message=text,
        at=now,
    )


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


def _involved(review: Review, *, exists: bool) -> dict[str, str]:
    """The object, as ``involvedObject`` has it; ``exists``: one that is created now will be there."""
    ref = place_of(review)
    kind = _KINDS.get((ref.group, ref.resource), "")
    if not kind and review.subresource in ("", "status"):
        kind = review.kind.kind
    # A Scale has its parent's uid; what is sent to a subresource without being an object may have one of its own.
    named = review.old or (review.new if exists and not review.subresource else None)
    values = {
        "apiVersion": f"{ref.group}/{ref.version}" if ref.group else ref.version,
        "kind": kind,
        "namespace": ref.namespace,
        "name": ref.name or meta.metadata_of(review.new).get("generateName"),
        "uid": meta.metadata_of(named).get("uid"),
    }
    return {key: value for key, value in values.items() if isinstance(value, str) and value}


class Event:
    """One Event in the cluster: how often what it tells of has come, and whether it is written yet."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.first = told.at
        self.count = 0
        self.name = ""
        self.rename()

    @property
    def namespace(self) -> str:
        """Where it is: the API server takes Events about what has no namespace in this one alone."""
        return self.told.involved.get("namespace", "default")

    def rename(self) -> None:
        """Be a new Event, since the one that was is no more."""
        name = self.told.involved.get("name", "")
        self.name = f"{name[:200] if _NAME.match(name) else 'driftwall'}.{secrets.token_hex(8)}"
        self.written = False

    def body(self) -> dict[str, Any]:
        """The whole of it."""
        told = self.told
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "involvedObject": dict(told.involved),
            "reason": told.reason,
            "type": "Warning",
            "firstTimestamp": write_time(self.first),
            "source": {"component": "driftwall"},
            "reportingComponent": "driftwall.io/webhook",
            "reportingInstance": "",
            **self.change(),
        }

    def change(self) -> dict[str, Any]:
        """What is new of it since it was written."""
        told = self.told
        return {"message": told.message, "count": self.count, "lastTimestamp": write_time(told.at)}


class Correlator:
    """Makes few Events of many things to tell. For one thread; the time is that of what is told."""

    def __init__(self) -> None:
        self._events: _Recent[Event] = _Recent()
        self._objects: _Recent[_Bucket] = _Recent()
        self._totals: dict[str, _Bucket] = {}

    def take(self, told: Told) -> Event | None:
        """The Event to write now, with all that it has to tell of; None where there are too many already."""
        event = self._events.get(told.key, lambda: Event(told))
        if (told.at - event.first).total_seconds() > _ALIKE_SECONDS:
            event = self._events.put(told.key, Event(told))
        event.told = told
        event.count += 1
        at = told.at.timestamp()
        of_object = self._objects.get(told.source, lambda: _Bucket(_OBJECT_BURST, _OBJECT_SECONDS, at))
        # Of one reason there may be as many as anybody likes, and they must not keep another from being told.
        of_all = self._totals.setdefault(told.reason, _Bucket(_TOTAL_BURST, _TOTAL_SECONDS, at))
        return event if of_object.take(at) and of_all.take(at) else None


class _Bucket:
    """A token bucket: ``burst`` at once, then one each ``seconds``."""

    def __init__(self, burst: int, seconds: float, at: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._tokens = float(burst)
        self._at = at

    def take(self, at: float) -> bool:
        """Take a token, if there is one."""
        # A clock that was put back is no reason to wait for it.
        self._tokens = min(self._burst, self._tokens + max(0.0, at - self._at) / self._seconds)
        self._at = at
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Recent(Generic[_T]):
    """Values by key; the one that was asked for least lately is forgotten for a new one."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, ...], _T] = OrderedDict()

    def get(self, key: tuple[str, ...], make: Callable[[], _T]) -> _T:
        """The value, which is made if there is none."""
        if key not in self._values:
            return self.put(key, make())
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: tuple[str, ...], value: _T) -> _T:
        """Have ``value`` as the value."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > _REMEMBERED:
            self._values.popitem(last=False)
        return value
