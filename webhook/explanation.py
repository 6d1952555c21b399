"""Why a write passes or not: every step of the decision, in the order of the documentation.

There is no second copy of the rules here. The verdict is :func:`webhook.decision.decide`'s own, and what decided it is
found by asking ``decide`` again with one thing changed: a policy by itself, one key of its ``match``, one source of
what it protects. So an explanation cannot say otherwise than the webhook does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final

from webhook import breakglass, guard, meta
from webhook.admission import OPERATIONS, Review, UserInfo
from webhook.case import claims_of, written
from webhook.decision import Decision, FieldChange, decide
from webhook.identity import Writers, bears, is_node, is_proven, service_account
from webhook.patterns import AnyChild
from webhook.policy import DRY_RUN, ENFORCE, OWN_RULE, TAG, WARN, Match, Policy, Snapshot
from webhook.subject import Objects
from webhook.tools import Claim

#: Keys of ``match``, and what they are called in a Match.
_KEYS: Final[Mapping[str, str]] = {
    "resources": "resources",
    "operations": "operations",
    "namespaces": "namespaces",
    "excludeNamespaces": "exclude_namespaces",
    "namespaceSelector": "namespace_selector",
    "scope": "scope_all",
    "tools": "tools",
    "objectSelector": "object_selector",
}
_ANY: Final = Match(scope_all=True, operations=OPERATIONS)
_GLASS: Final = f"metadata.annotations['{breakglass.REASON}']"
#: Stands for a field where the write is a deletion, or reaches into a pod.
_WHOLE: Final = FieldChange(path="", change="changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One question of the decision, its answer, and what that rests on."""

    name: str
    question: str
    answer: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A verdict and the steps to it."""

    decision: Decision
    steps: tuple[Step, ...]


def explain(review: Review, snapshot: Snapshot, objects: Objects, now: datetime) -> Explanation:
    """Explain the verdict on one review; arguments and errors as for :func:`webhook.decision.decide`."""
    decision = decide(review, snapshot, objects, now)
    asked = _Asked(review, snapshot, objects, now)
    views = [asked.view(policy) for policy in snapshot.policies]
    steps = (
        _scope(review, snapshot, views),
        _managed(review, snapshot, decision),
        _writer(review, snapshot, decision),
        _changes(asked),
        _protected(review.user, decision, views),
        _glass(review, snapshot, decision, views),
        _mode(decision),
    )
    return Explanation(decision=decision, steps=steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What one policy has to say: ``excluded`` by which keys, and by what each changed field is protected or free."""

    policy: Policy
    excluded: tuple[str, ...]
    protected: tuple[tuple[FieldChange, str], ...]
    free: tuple[tuple[FieldChange, str], ...]


class _Asked:
    """``decide``, asked about one policy at a time."""

    def __init__(self, review: Review, snapshot: Snapshot, objects: Objects, now: datetime) -> None:
        self.review = review
        # A kubelet is let through before anything is looked at.
        self._asked = review.with_user(UserInfo(username="explained")) if is_node(review.user) else review
        self._snapshot = snapshot
        self._objects = objects
        self._now = now

    @cached_property
    def everything(self) -> tuple[FieldChange, ...]:
        """All that the write changes."""
        return self._found(self._wide(self._snapshot.glass_guard, _ANY))

    def view(self, policy: Policy) -> _View:
        """What ``policy`` says, whoever writes."""
        meant = self._found(self._wide(policy, policy.match))
        if not meant:
            return _View(policy=policy, excluded=tuple(self._excluding(policy)), protected=(), free=())
        found = self._found(policy)
        sources = [(source, self._found(variant)) for source, variant in _sources(policy) if found]
        protected = tuple(
            (change, ", ".join(source for source, others in sources if any(_meet(change, other) for other in others)))
            for change in found
        )
        free = tuple(
            (change, self._why_free(policy, change))
            for change in meant
            if not any(_meet(change, other) for other in found)
        )
        return _View(policy=policy, excluded=(), protected=protected, free=free)

    def _why_free(self, policy: Policy, change: FieldChange) -> str:
        if any(_meet(change, other) for other in self._found(replace(policy, ignore=None))):
            return "ignores"
        writer = policy.automation.find(self.review.user)
        stricter = replace(policy, automation=Writers())
        if writer is not None and any(_meet(change, other) for other in self._found(stricter)):
            return f"lets automation {writer.name} write"
        return "does not protect"

    def _excluding(self, policy: Policy) -> Iterator[str]:
        """The keys of ``match`` that keep the policy from the write, each by itself."""
        if not self.everything:
            return
        for key, name in _KEYS.items():
            narrowed = replace(_ANY, **{name: getattr(policy.match, name)})
            if not self._found(self._wide(policy, narrowed)):
                yield key

    @staticmethod
    def _wide(policy: Policy, match: Match) -> Policy:
        """``policy`` as if it protected everything from everybody."""
        return replace(
            policy,
            match=match,
            fields=((AnyChild(),),),
            field_sets=(),
            declared=False,
            ignore=None,
            deletion=True,
            automation=Writers(),
        )

    def _found(self, policy: Policy) -> tuple[FieldChange, ...]:
        """What ``policy`` alone would object to."""
        # Without break-glass and without the power to deny: neither is what is asked here.
        alone = replace(policy, name="explained", mode=WARN, break_glass=None, trusted=Writers())
        config = replace(
            self._snapshot.config,
            trusted=Writers(),
            system=Writers(),
            guard_identities=False,
            break_glass=None,
            exempt_namespaces=type(self._snapshot.config.exempt_namespaces)(),
        )
        decision = decide(self._asked, Snapshot(config, [alone]), self._objects, self._now)
        found = [violation for violation in decision.violations if violation.name == "explained"]
        return tuple(field for violation in found for field in violation.fields or (_WHOLE,))


def _meet(one: FieldChange, other: FieldChange) -> bool:
    """Whether one of the two is the other, or below it: a change is told as finely as it takes."""
    short, long = sorted((one.path, other.path), key=len)
    return long.startswith(short) and (len(short) == len(long) or not short or long[len(short)] in ".[")


def _sources(policy: Policy) -> Iterator[tuple[str, Policy]]:
    """Every source of what a policy protects, and the policy with that source alone."""
    none = replace(policy, declared=False, field_sets=(), fields=(), deletion=False)
    if policy.declared:
        yield "declared", replace(none, declared=True)
    for name in policy.field_sets:
        yield f"fieldSets: {name}", replace(none, field_sets=(name,))
    for number, pattern in enumerate(policy.fields):
        yield f"fields[{number}]", replace(none, fields=(pattern,))
    if policy.deletion:
        yield "deletion", replace(none, deletion=True)
    yield "protected on every managed object", none


# ── the steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _scope(review: Review, snapshot: Snapshot, views: Iterable[_View]) -> Step:
    question = "In scope?"
    if review.namespace and snapshot.config.exempt_namespaces.matches(review.namespace):
        return Step(name="scope", question=question, answer=f"no: namespace {review.namespace} is exempt")
    inside = [view.policy for view in views if not view.excluded]
    details = [f"policy {policy.name} ({policy.mode}) selects it" for policy in inside]
    details += [
        f"policy {view.policy.name} does not select it: {', '.join(f'match.{key}' for key in view.excluded)}"
        for view in views
        if view.excluded
    ]
    answer = "yes" if inside else "no: no policy selects it"
    return Step(name="scope", question=question, answer=answer, details=tuple(details))


def _managed(review: Review, snapshot: Snapshot, decision: Decision) -> Step:
    subject = written(review)
    found = claims_of(subject, snapshot) if subject is not None else []
    by = found[0].managed_by if found else decision.managed_by
    details = tuple(f"by its {_marks(claim)}" for claim in found)
    if by is not None and not found:
        details = (f"by the object that the {review.subresource or 'object'} belongs to",)
    answer = f"yes: {by.title}" if by is not None else "no: no marker of a known tool names it"
    return Step(name="managed", question="Managed?", answer=answer, details=details)


def _marks(claim: Claim) -> str:
    kinds = (("label", claim.marker.labels), ("annotation", claim.marker.annotations))
    return " and ".join(f"{kind} {key}" for kind, keys in kinds for key in keys)


def _writer(review: Review, snapshot: Snapshot, decision: Decision) -> Step:
    user = review.user
    details = []
    account = service_account(user.username)
    if account is not None:
        known = (snapshot.config.system, snapshot.config.automation, *snapshot.guarded)
        named = [
            writer for writers in known for writer in writers.writers if Writers((writer,)).names_account(*account)
        ]
        for writer in named:
            if not bears(user, writer.verify):
                wanted = "a uid" if writer.verify == "uid" else "a uid and the extras of a pod's token"
                details.append(f"{writer.name} names this account, but wants {wanted} (verify: {writer.verify})")
        if not is_proven(user):
            details.append("without a uid it is somebody who impersonates the account: kubectl --as")
    if decision.writer == "untrusted" and not details:
        details.append("neither the configuration nor a policy names it")
    groups = ", ".join(user.groups or ())
    who = f"{user.username} in {groups}" if groups else user.username
    return Step(name="writer", question="Who writes?", answer=decision.writer, details=(who, *details))


def _changes(asked: _Asked) -> Step:
    review = asked.review
    changes = asked.everything
    if _WHOLE in changes or review.operation == "DELETE":
        verb = "it is deleted" if review.operation == "DELETE" else f"{review.subresource or review.operation}"
        return Step(name="changes", question="What changes?", answer=verb)
    before, after = meta.annotations_of(review.old), meta.annotations_of(review.new)
    glass = [key for key in breakglass.KEYS if before.get(key) != after.get(key)]
    happened = {
        key: "added" if before.get(key) is None else "removed" if after.get(key) is None else "changed" for key in glass
    }
    details = (
        *(f"{change.path} {change.change}" for change in changes),
        *(f"metadata.annotations['{key}'] {change}" for key, change in happened.items()),
    )
    answer = f"{len(details)} {'field' if len(details) == 1 else 'fields'}" if details else "nothing that counts"
    return Step(name="changes", question="What changes?", answer=answer, details=details)


def _protected(user: UserInfo, decision: Decision, views: Iterable[_View]) -> Step:
    question, name = "Is it protected?", "protected"
    if decision.writer == "system" or decision.writer.startswith("trusted:"):
        return Step(name=name, question=question, answer="not from this writer")
    rules = [violation for violation in decision.violations if violation.name in (guard.GUARD, OWN_RULE)]
    if rules:
        return Step(name=name, question=question, answer=f"yes: rule {rules[0].name}")
    details = []
    for view in views:
        if (writer := view.policy.trusted.find(user)) is not None:
            details.append(f"policy {view.policy.name} trusts {writer.name}")
            continue
        policy = f"policy {view.policy.name}"
        details += [f"{policy} protects {_what(change)} ({source})" for change, source in view.protected]
        details += [f"{policy} {why} {_what(change)}" for change, why in view.free]
    protected = any(view.protected for view in views if view.policy.trusted.find(user) is None)
    return Step(name=name, question=question, answer="yes" if protected else "no", details=tuple(details))


def _what(change: FieldChange) -> str:
    return change.path or "the object as a whole"


def _glass(review: Review, snapshot: Snapshot, decision: Decision, views: Iterable[_View]) -> Step:
    question, name = "Broken glass?", "breakGlass"
    use = decision.break_glass
    if use is not None:
        until = f", until {use.expires}" if use.expires else ""
        told = f"{use.action} on {use.on} by {use.by}: {use.reason}{until}"
        return Step(name=name, question=question, answer="yes", details=(told,))
    refused = any(change.path == _GLASS for violation in decision.violations for change in violation.fields)
    rules = [view.policy.break_glass for view in views if view.protected] or [snapshot.config.break_glass]
    details = []
    for rule in dict.fromkeys(rules):
        if rule is None:
            details.append("break-glass is off")
        else:
            may = "may" if rule.names(review.user) else "may not"
            details.append(f"{rule.whom} may break it; {review.user.username} {may}")
    answer = "no, and this write may not break it" if refused else "no"
    return Step(name=name, question=question, answer=answer, details=tuple(details))


_SO: Final[Mapping[str, str]] = {
    ENFORCE: "denies it",
    WARN: "lets it pass with a warning",
    TAG: "lets it pass and marks the object",
    DRY_RUN: "lets it pass, and the log tells",
}


def _mode(decision: Decision) -> Step:
    details = tuple(f"policy {each.name} ({each.mode}) {_SO[each.mode]}" for each in decision.violations)
    glass = decision.break_glass
    why = "the glass is broken" if glass is not None and glass.violations else "nothing is violated"
    return Step(name="mode", question="Mode", answer=decision.mode or f"none: {why}", details=details)
