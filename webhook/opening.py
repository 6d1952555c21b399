"""Break-glass in a decision: what a write does to the annotations, and what opens an object to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from webhook import breakglass, meta
from webhook.admission import ObjectRef
from webhook.breakglass import BreakGlass, Opening
from webhook.case import Case, Context, is_meant
from webhook.fieldpath import Path
from webhook.ownership import made_by_controller
from webhook.policy import ENFORCE, Candidate, Policy
from webhook.protection import Note
from webhook.selection import Position
from webhook.subject import is_namespace, look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class GlassWork:
    """What the write does to the annotations of break-glass, and why it may not, if it may not."""

    wish: breakglass.Wish
    finding: Note
    refused: str
    longest: timedelta | None


def glass_work(context: Context, case: Case) -> GlassWork | None:
    """What the write of ``case`` does to the annotations; None if it leaves them alone."""
    subject = case.subject
    if subject.new is None or (wish := breakglass.wish(subject.old, subject.new)) is None:
        return None
    rules = _rules(context, case)
    why = (breakglass.refusal(wish, context.user, rule, context.now) for rule in rules)
    before = meta.annotations_of(subject.old).get(breakglass.REASON)
    operation = "added" if before is None else "removed" if wish.reason is None else "changed"
    refused = next(filter(None, why), "")
    path = f"metadata.annotations['{breakglass.REASON}']"
    return GlassWork(
        wish=wish,
        finding=Note(path=path, operation=operation, note=refused),
        refused=refused,
        longest=min((rule.max_duration for rule in rules if rule is not None), default=None),
    )


def _rules(context: Context, case: Case) -> list[BreakGlass | None]:
    """The rules that a break-glass has to meet: of every policy that it may open.

    That is each one that enforces and is about the object, whatever operation, subresource or child it guards there. A
    Namespace's is held to the configuration's rule, too, since it opens what is inside.
    """
    ref = case.subject.ref
    rules = [
        policy.break_glass
        for policy in context.snapshot.policies
        if policy.mode == ENFORCE
        and policy.match.in_namespace(context.review.namespace)
        and is_meant(
            Candidate(policy=policy, direct=policy.match.names_any(ref.group, ref.resource) or policy.children),
            case.claims,
            case.subject,
            case.owner,
        )
    ]
    if not rules or is_namespace(context.review):
        rules.append(context.snapshot.config.break_glass)
    return list(dict.fromkeys(rules))


def opening_for(context: Context, case: Case, policy: Policy, glass: GlassWork | None) -> tuple[Opening, str] | None:
    """What opens the object to this write, as far as ``policy`` is concerned, and where that is written."""
    rule = policy.break_glass
    if rule is None:
        return None
    subject = case.subject
    if glass is not None and glass.wish.reason is not None:
        expires = breakglass.read_time(meta.annotations_of(subject.new).get(breakglass.EXPIRES))
        return Opening(by=context.user.username, reason=glass.wish.reason, expires=expires), str(subject.ref)
    for ref, obj in ((subject.ref, subject.old), *subject.owners):
        found = breakglass.opening(obj, rule, context.now)
        if found is not None and not _is_copied(obj):
            return found, str(ref)
    # Only now, and only for a write that is denied otherwise: this may take a look-up.
    if policy.mode != ENFORCE or not context.review.namespace or is_namespace(context.review):
        return None
    ref = ObjectRef("", "v1", "namespaces", "", context.review.namespace)
    found = breakglass.opening(look_up(ref, context.objects, optional=True), rule, context.now)
    if found is None:
        return None
    # Who broke it was held to the configuration's rule; a policy's own may be stricter.
    same_rule = rule == context.snapshot.config.break_glass
    return (found, str(ref)) if same_rule or found.by in rule.users else None


def _is_copied(obj: meta.Object | None) -> bool:
    """Whether a controller wrote the object's break-glass: a copy of what a template or an owner says of itself.

    A person who may write the one may not thereby open the other.
    """
    if obj is None or meta.controller_of(obj) is None:
        return False
    made = made_by_controller(obj)
    return any(_reaches(made, ("metadata", "annotations", key)) for key in breakglass.KEYS)


def _reaches(position: Position | None, path: Path) -> bool:
    for element in path:
        if position is None or position.covers:
            break
        position = position.step(element)
    return position is not None
