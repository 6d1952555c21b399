"""The decision: may this write pass? :func:`decide` reads from top to bottom in the order of the documentation.

It is pure: no clock, no network, no log. What it must know of other objects it asks for by raising
:class:`LookupNeeded`; the caller fetches the object and calls again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from webhook import breakglass, guard, meta, own_objects, tags
from webhook.admission import ObjectRef, Review
from webhook.breakglass import Opening
from webhook.case import Case, Context, candidates_of, claims_of, is_meant, managed_by, owned, with_owner, written
from webhook.identity import Writer, is_node, is_proven
from webhook.messages import Refusal, denial, warning
from webhook.opening import GlassWork, glass_work, opening_for
from webhook.patterns import PathSet
from webhook.policy import DRY_RUN, ENFORCE, TAG, WARN, Candidate, Snapshot
from webhook.protection import STRICTNESS, Finding, Judged, Note, guardian_rank, judge, path_of
from webhook.subject import LookupNeeded, Objects, Subject, scale_target, subject_of, with_ownership
from webhook.text import cut, escaped
from webhook.tools import ManagedBy, bear_the_same

__all__ = ["BreakGlassUse", "Decision", "FieldChange", "LookupNeeded", "Violation", "decide", "drift_of"]

_VERDICTS: Final[Mapping[str, str]] = {ENFORCE: "deny", WARN: "warn", TAG: "tag", DRY_RUN: DRY_RUN}
#: Characters of one audit annotation: enough for the names of the policies; the decision log has all.
_MAX_AUDIT: Final = 1024
#: The annotations of break-glass are judged by themselves, whatever else is protected.
_GLASS: Final = PathSet.of(*(f"metadata.annotations['{key}']" for key in breakglass.KEYS))
_GLASS_AND_TAGS: Final = _GLASS | PathSet.of(*tags.PATHS)


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """A protected field that changed. ``change`` is added, removed or changed."""

    path: str
    change: str


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that a write violates; ``fields`` is empty for a deletion, or for reaching into a pod."""

    name: str
    mode: str
    verdict: str
    fields: tuple[FieldChange, ...] = ()


class BreakGlassUse(msgspec.Struct, frozen=True, kw_only=True):
    """A glass that was broken (``action`` is set or removed), or under which a write passed (``used``).

    ``on`` is the object or the Namespace that is open; ``violations`` are what the write would have been denied for.
    ``longest`` is how long a glass that this write breaks may stay so.
    """

    action: str
    by: str
    reason: str
    expires: str | None
    on: str
    violations: tuple[Violation, ...] = ()
    longest: timedelta | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and all that log, metrics and the person at the keyboard are told of it.

    ``drifted`` are the fields that the object's mark tells of already, where the write adds to it.
    ``indirect`` says that it is about another object than the one written: the workload of an autoscaler. ``tagged``
    are the violations whose write is to leave a mark on the object.
    """

    allowed: bool
    writer: str
    managed_by: ManagedBy | None = None
    mode: str | None = None
    violations: tuple[Violation, ...] = ()
    break_glass: BreakGlassUse | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    audit_annotations: dict[str, str] = msgspec.field(default_factory=dict)
    indirect: bool = False
    drifted: tuple[str, ...] = ()

    @property
    def tagged(self) -> tuple[Violation, ...]:
        """See the class."""
        if not self.allowed or self.indirect:
            return ()
        broken = self.break_glass.violations if self.break_glass is not None else ()
        return (*broken, *(violation for violation in self.violations if violation.mode == TAG))


def drift_of(review: Review, decision: Decision, now: datetime) -> str:
    """What the mark says of a write that ``decision`` lets through: the annotation of :mod:`webhook.tags`."""
    glass = decision.break_glass
    changed = (change.path for violation in decision.tagged for change in violation.fields)
    return tags.content(
        by=review.user.username,
        at=now,
        policies=[violation.name for violation in decision.tagged],
        fields=list(dict.fromkeys((*decision.drifted, *changed))),
        reason=glass.reason if glass is not None and glass.violations else "",
    )


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
        return _refused(guard.GUARD, guard.denial(review, account))

    trusted = config.trusted.find(user)
    automation = config.automation.find(user) if trusted is None else None
    writer = f"trusted:{trusted.name}" if trusted is not None else _class(automation)

    if refusal := own_objects.refusal(review):
        return _refused(own_objects.RULE, refusal, writer)

    if review.namespace and config.exempt_namespaces.matches(review.namespace):
        return Decision(allowed=True, writer=writer)

    if trusted is not None:
        return Decision(allowed=True, writer=writer, managed_by=managed_by(review, snapshot))

    known = {id(config.trusted): trusted, id(config.automation): automation}
    context = Context(review=review, snapshot=snapshot, objects=objects, now=now, writer=writer, found=known)
    candidates = candidates_of(context, review.resource.resource, review.resource.group, review.subresource)
    children = any(candidate.policy.children for candidate in candidates)
    subject = subject_of(review, objects, children=children) if candidates else written(review)
    decision = Decision(allowed=True, writer=writer)
    if subject is not None:
        decision = _weigh(context, subject, candidates)

    # An autoscaler is a hand with which a person writes the replicas of something else.
    if decision.allowed and (target := scale_target(review, objects)) is not None:
        ref = target.ref
        indirect = _weigh(context, target, candidates_of(context, ref.resource, ref.group, "scale"))
        silent = decision.mode is None and decision.break_glass is None
        if not indirect.allowed or (silent and (indirect.mode is not None or indirect.break_glass is not None)):
            return msgspec.structs.replace(indirect, indirect=True)
    return decision


def _weigh(context: Context, subject: Subject, candidates: Sequence[Candidate]) -> Decision:
    """Steps 2 to 7 for one object."""
    old, new = subject.old, subject.new
    remarked = old is None or new is None or not bear_the_same(old, new)
    found = claims_of(subject, context.snapshot, remarked=remarked)
    owner: ObjectRef | None = None
    if not found and any(candidate.policy.children for candidate in candidates):
        subject, found, owner = owned(context, subject)
    meant = [
        c if owner is None else with_owner(c, owner)
        for c in candidates
        if is_meant(c, found, subject, owner) and context.find(c.policy.trusted) is None
    ]
    if found and owner is None and any(c.policy.declared for c in meant):
        subject = with_ownership(subject, context.objects)
    case = Case(subject=subject, claims=found, owner=owner, meant=meant)
    glass = glass_work(context, case) if remarked else None
    retagged = remarked and new is not None and tags.changed(old, new)
    if not meant and glass is None:
        return _allowed(context, case, candidates)
    decision = _conclude(context, case, glass, _GLASS_AND_TAGS)
    if retagged and not (
        decision.tagged and tags.is_ours(subject.new, drift_of(context.review, decision, context.now))
    ):
        decision = _conclude(context, case, glass, _GLASS)
    return decision


# ── who? ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _class(automation: Writer | None) -> str:
    return f"automation:{automation.name}" if automation is not None else "untrusted"


def _excused(context: Context, candidates: Iterable[Candidate]) -> str:
    """The writer's class, where a policy that applies knows the writer better than the configuration does."""
    writer = context.writer
    for candidate in candidates:
        if (found := context.find(candidate.policy.trusted)) is not None:
            return f"trusted:{found.name}"
        if writer == "untrusted" and (found := context.find(candidate.policy.automation)) is not None:
            writer = f"automation:{found.name}"
    return writer


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _allowed(context: Context, case: Case, candidates: Iterable[Candidate]) -> Decision:
    return Decision(allowed=True, writer=_excused(context, candidates), managed_by=case.managed_by)


def _conclude(context: Context, case: Case, glass: GlassWork | None, settled: PathSet) -> Decision:
    judged = judge(context, case, settled)
    if glass is None and not judged:
        return _allowed(context, case, case.meant)
    if glass is not None and glass.refused:
        return _verdict(context, case, _with_refusal(context, case, judged, glass.finding), None)
    opened: list[Judged] = []
    closed: list[Judged] = []
    used: tuple[Opening, str] | None = None
    for each in judged:
        opening = opening_for(context, case, each.policy, glass)
        (closed if opening is None else opened).append(each)
        used = used or opening
    use = None
    if used is not None:
        use = _use("used", used[0], used[1], opened)
        if glass is not None:
            use = msgspec.structs.replace(use, longest=glass.longest)
    elif glass is not None:
        action = "removed" if glass.wish.reason is None else "set"
        reason = str(glass.wish.reason or meta.annotations_of(case.subject.old).get(breakglass.REASON) or "")
        expires = breakglass.read_time(meta.annotations_of(case.subject.new).get(breakglass.EXPIRES))
        made = Opening(by=context.user.username, reason=reason, expires=expires)
        use = msgspec.structs.replace(_use(action, made, str(case.subject.ref), ()), longest=glass.longest)
    return _verdict(context, case, closed, use)


def _with_refusal(context: Context, case: Case, judged: Sequence[Judged], finding: Note) -> list[Judged]:
    """``judged``, and the refused break-glass: told by the policy that guards the object, if one enforces."""
    guardian = min((candidate.policy for candidate in case.meant), key=guardian_rank, default=None)
    if guardian is None or guardian.mode != ENFORCE:
        guardian = context.snapshot.glass_guard
    mine = next((each for each in judged if each.policy is guardian), Judged(policy=guardian, findings=()))
    findings = sorted((*mine.findings, finding), key=path_of)
    told = [each for each in judged if each.policy is not guardian]
    return sorted([*told, msgspec.structs.replace(mine, findings=tuple(findings))], key=lambda each: each.policy.name)


def _use(action: str, opening: Opening, on: str, opened: Iterable[Judged]) -> BreakGlassUse:
    return BreakGlassUse(
        action=action,
        by=opening.by,
        reason=opening.reason,
        expires=breakglass.write_time(opening.expires) if opening.expires is not None else None,
        on=on,
        violations=tuple(_violation(each) for each in opened),
    )


def _violation(each: Judged) -> Violation:
    return Violation(
        name=each.policy.name,
        mode=each.policy.mode,
        verdict=_VERDICTS[each.policy.mode],
        fields=tuple([FieldChange(path=path_of(finding), change=finding.operation) for finding in each.findings]),
    )


def _verdict(context: Context, case: Case, judged: Sequence[Judged], use: BreakGlassUse | None) -> Decision:
    """Step 7: the strictest mode among what is violated."""
    violations = tuple([_violation(each) for each in judged])
    mode = max([violation.mode for violation in violations], key=STRICTNESS.__getitem__, default=None)
    message = denial(_refusal(context, case, judged, ENFORCE)) if mode == ENFORCE else ""
    warnings = (warning(_refusal(context, case, judged, WARN)),) if mode == WARN else ()
    writer = context.writer if violations else _excused(context, case.meant)
    allowed = mode != ENFORCE
    return Decision(
        allowed=allowed,
        writer=writer,
        managed_by=case.managed_by,
        mode=mode,
        violations=violations,
        break_glass=use,
        message=message,
        warnings=warnings,
        audit_annotations=_audit(violations, mode, use),
        # Nobody asks of a write that leaves no mark.
        drifted=tags.fields_of(case.subject.old) if allowed and (violations or use is not None) else (),
    )


def _audit(violations: Sequence[Violation], mode: str | None, use: BreakGlassUse | None) -> dict[str, str]:
    """Keys without a slash, as the API server wants them; it puts the webhook's name before each."""
    annotations: dict[str, str] = {}
    if mode is not None:
        annotations["verdict"] = _VERDICTS[mode]
        annotations["policies"] = ",".join(violation.name for violation in violations)
    if use is not None:
        annotations["break-glass"] = f"{use.action} by {use.by}: {use.reason}"
    return {key: cut(escaped(value), _MAX_AUDIT) for key, value in annotations.items()}


def _refused(name: str, message: str, writer: str = "untrusted") -> Decision:
    """A denial by a rule of the configuration rather than by a policy."""
    violation = Violation(name=name, mode=ENFORCE, verdict="deny")
    return Decision(
        allowed=False,
        writer=writer,
        mode=ENFORCE,
        violations=(violation,),
        message=message,
        audit_annotations=_audit((violation,), ENFORCE, None),
    )


def _refusal(context: Context, case: Case, judged: Sequence[Judged], mode: str) -> Refusal:
    told = [each for each in judged if each.policy.mode == mode]
    findings: list[Finding] = [finding for each in told for finding in each.findings]
    rules = dict.fromkeys([each.policy.break_glass for each in told])
    glass = [rule for rule in rules if rule is not None]
    return Refusal(
        subject=case.subject,
        user=context.user.username,
        proven=is_proven(context.user),
        claims=case.claims,
        owner=case.owner,
        findings=findings,
        policies=[each.policy for each in told],
        glass=glass if len(glass) == len(rules) else (),
        may_break=all(rule.names(context.user) for rule in glass),
    )
