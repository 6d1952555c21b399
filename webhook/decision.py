"""The decision: may this write pass? :func:`decide` reads from top to bottom in the order of the documentation.

It is pure: no clock, no network, no log. What it must know of other objects it asks for by raising
:class:`LookupNeeded`; the caller fetches the object and calls again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from webhook import guard
from webhook.admission import Review, UserInfo
from webhook.diff import Change
from webhook.fieldpath import format_path
from webhook.identity import Writer, is_node, service_account
from webhook.messages import Refusal, denial, warning
from webhook.policy import DRY_RUN, ENFORCE, TAG, WARN, Candidate, Policy, Snapshot
from webhook.protection import STRICTNESS, Judged, judge
from webhook.subject import LookupNeeded, Objects, Subject, is_namespace, labels_of, parent_of, subject_of
from webhook.tools import Claim, ManagedBy, claims

__all__ = ["Decision", "FieldChange", "LookupNeeded", "Violation", "decide"]

_VERDICTS: Final[Mapping[str, str]] = {ENFORCE: "deny", WARN: "warn", TAG: "tag", DRY_RUN: DRY_RUN}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A protected field that changed. ``change`` is added, removed or changed."""

    path: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A policy that a write violates; ``fields`` is empty for a deletion."""

    name: str
    mode: str
    verdict: str
    fields: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, and all that log, metrics and the person at the keyboard are told of it."""

    allowed: bool
    writer: str
    managed_by: ManagedBy | None = None
    mode: str | None = None
    violations: tuple[Violation, ...] = ()
    message: str = ""
    warnings: tuple[str, ...] = ()
    audit_annotations: dict[str, str] = field(default_factory=dict)


def decide(review: Review, snapshot: Snapshot, objects: Objects, now: datetime) -> Decision:
    """Decide one review.

    Args:
        review: what the API server asks.
        snapshot: the policies in force.
        objects: objects looked up so far; None for one that does not exist.
        now: the time, with its time zone.

    Raises:
        LookupNeeded: an object that ``objects`` lacks is needed.
        LookupFailed: the verdict depends on an object that does not exist.
        MalformedReview: old or new object cannot be read.
    """
    config = snapshot.config
    user = review.user

    if config.system.find(user) is not None or is_node(user):
        return Decision(allowed=True, writer="system")

    if config.guard_identities and (account := guard.guarded_account(review, snapshot)):
        return _mints_token(review, account)

    trusted = config.trusted.find(user)
    writer = f"trusted:{trusted.name}" if trusted is not None else _class(config.automation.find(user))

    if review.namespace and config.exempt_namespaces.matches(review.namespace):
        return Decision(allowed=True, writer=writer)

    candidates = [
        candidate
        for candidate in snapshot.candidates(
            review.resource.group, review.resource.resource, review.subresource, review.operation
        )
        if candidate.policy.match.in_namespace(review.namespace)
    ]
    if not candidates:
        return Decision(allowed=True, writer=writer)

    if trusted is not None:
        return Decision(allowed=True, writer=writer)

    subject = subject_of(review, objects)
    if subject is None:
        return Decision(allowed=True, writer=writer)

    managers = _claims(subject, snapshot)
    managed_by = managers[0].managed_by if managers else None
    candidates = [c for c in candidates if _is_meant(c.policy, managers, subject)]
    if not candidates:
        return Decision(allowed=True, writer=writer, managed_by=managed_by)

    judged = judge(review, subject, managers, candidates, objects)
    if not judged:
        return Decision(allowed=True, writer=_excused(user, writer, candidates), managed_by=managed_by)
    return _verdict(review, subject, managers, judged, writer)


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _class(automation: Writer | None) -> str:
    return f"automation:{automation.name}" if automation is not None else "untrusted"


def _excused(user: UserInfo, writer: str, candidates: Iterable[Candidate]) -> str:
    """The writer's class, where a policy of those that apply knows the writer better than the configuration does."""
    for candidate in candidates:
        if (found := candidate.policy.trusted.find(user)) is not None:
            return f"trusted:{found.name}"
        if writer == "untrusted" and (found := candidate.policy.automation.find(user)) is not None:
            writer = f"automation:{found.name}"
    return writer


def _claims(subject: Subject, snapshot: Snapshot) -> list[Claim]:
    """Who manages the object, by its old or its new state; the old comes first."""
    found: dict[tuple[str, str], Claim] = {}
    for side in subject.sides:
        for claim in claims(side, snapshot.config.markers):
            found.setdefault((claim.managed_by.tool, claim.managed_by.kind), claim)
    return list(found.values())


def _is_meant(policy: Policy, managers: Sequence[Claim], subject: Subject) -> bool:
    match = policy.match
    if not match.scope_all and not managers:
        return False
    if match.tools is not None and not any(claim.managed_by.tool in match.tools for claim in managers):
        return False
    if match.object_selector is not None:
        return any(match.object_selector.matches(labels_of(side)) for side in subject.sides)
    return True


def _mints_token(review: Review, account: str) -> Decision:
    return Decision(
        allowed=False,
        writer="untrusted",
        mode=ENFORCE,
        violations=(Violation(name=guard.GUARD, mode=ENFORCE, verdict="deny"),),
        message=guard.denial(review, account),
        audit_annotations={"verdict": "deny", "policies": guard.GUARD},
    )


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _verdict(
    review: Review, subject: Subject, managers: Sequence[Claim], judged: Sequence[Judged], writer: str
) -> Decision:
    violations = tuple(
        Violation(
            name=each.policy.name,
            mode=each.policy.mode,
            verdict=_VERDICTS[each.policy.mode],
            fields=tuple(_field_changes(each.changes)),
        )
        for each in judged
    )
    mode = max((violation.mode for violation in violations), key=STRICTNESS.__getitem__)
    message = ""
    warnings: tuple[str, ...] = ()
    if mode == ENFORCE:
        message = denial(_refusal(review, subject, managers, judged, ENFORCE))
    if any(violation.mode == WARN for violation in violations) and mode != ENFORCE:
        warnings = (warning(_refusal(review, subject, managers, judged, WARN)),)
    return Decision(
        allowed=mode != ENFORCE,
        writer=writer,
        managed_by=managers[0].managed_by if managers else None,
        mode=mode,
        violations=violations,
        message=message,
        warnings=warnings,
        audit_annotations={
            "verdict": _VERDICTS[mode],
            "policies": ",".join(violation.name for violation in violations),
        },
    )


def _field_changes(changes: Iterable[Change | str]) -> Iterator[FieldChange]:
    for change in changes:
        if isinstance(change, Change):
            yield FieldChange(path=format_path(change.path), change=change.operation)
        else:
            yield FieldChange(path=change, change="removed")


def _refusal(
    review: Review, subject: Subject, managers: Sequence[Claim], judged: Sequence[Judged], mode: str
) -> Refusal:
    told = [each for each in judged if each.policy.mode == mode]
    note = ""
    if writer_is_unproven(review):
        note = "this service account did not prove itself: no token of its own"
    return Refusal(
        ref=parent_of(review) if not is_namespace(review) else parent_of(review)._replace(namespace=""),
        user=review.user.username,
        writer_note=note,
        claims=managers,
        deletion=subject.deletion,
        creation=subject.old is None,
        secret=subject.kind == "Secret" and subject.group == "",
        changes=[(change, each.policy) for each in told for change in each.changes],
        policies=[each.policy for each in told],
    )


def writer_is_unproven(review: Review) -> bool:
    """Whether userInfo has a service account's name and lacks the uid that its token would bring."""
    return service_account(review.user.username) is not None and not review.user.uid
