"""Break-glass: an object, or all in a Namespace, opened by somebody who may, with a reason, until it expires.

Three annotations carry it: the reason, which a person writes, and two stamps, which the mutating webhook writes: who,
and until when. An opening counts only with both stamps, and nobody but those who may break glass changes any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from webhook import meta
from webhook.admission import UserInfo
from webhook.identity import is_proven
from webhook.regexes import Pattern
from webhook.text import shown

REASON: Final = "driftwall.io/break-glass"
BY: Final = "driftwall.io/break-glass-by"
EXPIRES: Final = "driftwall.io/break-glass-expires"
KEYS: Final = (REASON, BY, EXPIRES)

# Between the mutating webhook's stamp and the validating one's look at it: a write as a whole has 34 s, and the clocks
# of two replicas differ.
SKEW: Final = timedelta(seconds=60)
_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakGlass:
    """Who may open an object in an incident, with what reason, and for how long."""

    groups: frozenset[str]
    users: frozenset[str]
    reason: Pattern | None
    max_duration: timedelta

    def names(self, user: UserInfo) -> bool:
        """Whether ``user`` may break glass."""
        if not is_proven(user):
            return False
        return user.username in self.users or not self.groups.isdisjoint(user.groups or ())

    @property
    def whom(self) -> str:
        """Whom to ask, for a sentence."""
        names = [f"group {group}" for group in sorted(self.groups)] + sorted(self.users)
        return " or ".join(names) or "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A broken glass. ``expires`` is None for one that the write itself makes and nothing has stamped yet."""

    by: str
    reason: str
    expires: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a write does to the annotations: the reason as it will be, the stamps as far as the write sets them.

    ``stamped`` tells whether the object bears a stamp of who, be it old.
    """

    reason: Any
    by: Any
    expires: Any
    stamped: bool


def wish(old: meta.Object | None, new: meta.Object | None) -> Wish | None:
    """What a write from ``old`` to ``new`` does to the annotations; None if it leaves them alone."""
    before, after = meta.annotations_of(old), meta.annotations_of(new)
    if all(before.get(key) == after.get(key) for key in KEYS):
        return None
    stamped = BY in after
    by = after.get(BY) if after.get(BY) != before.get(BY) else None
    # With a new stamp of who, the time counts as new, too: old ones are not to be taken over.
    fresh = after.get(EXPIRES) != before.get(EXPIRES) or by is not None
    return Wish(reason=after.get(REASON), by=by, expires=after.get(EXPIRES) if fresh else None, stamped=stamped)


def refusal(asked: Wish, user: UserInfo, rule: BreakGlass | None, now: datetime) -> str:
    """Why ``user`` may not do to the annotations what is ``asked``; empty if it is allowed."""
    if rule is None:
        return "break-glass is off in driftwall's configuration"
    if not rule.names(user):
        return f"only {rule.whom} may break glass, or end it"
    if asked.reason is None:
        return ""
    if not isinstance(asked.reason, str) or not asked.reason.strip():
        return "break-glass needs a reason"
    if rule.reason is not None and not rule.reason.matches(asked.reason):
        return f"the reason {shown(asked.reason)} does not match {rule.reason.text}"
    if asked.by not in (None, user.username):
        return f"{BY} names somebody else; driftwall writes it"
    if asked.expires is not None:
        expires = read_time(asked.expires)
        if expires is None:
            return f"{EXPIRES} is no time such as 2006-01-02T15:04:05Z"
        if expires <= now:
            return "it has expired already"
        # Without the stamp of who it opens nothing yet: then the mutating webhook is still to cut it.
        if asked.stamped and expires > now + rule.max_duration + SKEW:
            return f"it may last {rule.max_duration} at most"
    return ""


def stamps(asked: Wish, user: UserInfo, longest: timedelta, now: datetime) -> dict[str, str | None]:
    """What the two stamps have to be after a write that does what is ``asked``: key -> value, None for none.

    An earlier expiry that was asked for is kept, a later one is cut; one that cannot be read stays, to be refused.
    """
    if asked.reason is None:
        return {BY: None, EXPIRES: None}
    latest = now + longest
    wanted = read_time(asked.expires) if asked.expires is not None else latest
    if wanted is None:
        return {BY: user.username, EXPIRES: asked.expires}
    return {BY: user.username, EXPIRES: write_time(min(wanted, latest))}


def opening(obj: meta.Object | None, rule: BreakGlass, now: datetime) -> Opening | None:
    """The opening that the stored ``obj`` carries and that is in force at ``now``, or None.

    One that lasts longer than ``rule`` allows, or for no such reason, was not stamped by us, or the rule has become
    stricter since.
    """
    annotations: Mapping[str, Any] = meta.annotations_of(obj)
    reason, by = annotations.get(REASON), annotations.get(BY)
    if not isinstance(reason, str) or not reason.strip() or not isinstance(by, str) or not by:
        return None
    if rule.reason is not None and not rule.reason.matches(reason):
        return None
    expires = read_time(annotations.get(EXPIRES))
    if expires is None or not now < expires <= now + rule.max_duration + SKEW:
        return None
    return Opening(by=by, reason=reason, expires=expires)


def read_time(text: Any) -> datetime | None:
    """A time in RFC 3339 with its zone, or None if ``text`` is none."""
    if not isinstance(text, str) or len(text) > len("2006-01-02T15:04:05.999999999+00:00"):
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (ValueError, OverflowError):  # in UTC it may be before the year 1, or after 9999
        return None


def write_time(time: datetime) -> str:
    """``time`` in RFC 3339, in UTC, to the second."""
    return time.astimezone(UTC).strftime(_FORMAT)
