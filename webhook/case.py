"""One object of one decision: what it is, who manages it, and which policies are about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from webhook import meta
from webhook.admission import ObjectRef, Review, UserInfo
from webhook.identity import Writer, Writers
from webhook.policy import Candidate, Policy, Snapshot
from webhook.subject import Objects, Subject, subject_of, with_owners
from webhook.tools import Claim, ManagedBy, claims


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every step of one decision is about."""

    review: Review
    snapshot: Snapshot
    objects: Objects
    now: datetime
    writer: str
    #: What :meth:`find` has found, by the id of the writers.
    found: dict[int, Writer | None] = msgspec.field(default_factory=dict)

    @property
    def user(self) -> UserInfo:
        """Who writes."""
        return self.review.user

    def find(self, writers: Writers) -> Writer | None:
        """The one of ``writers`` who writes, or None. Most policies have the configuration's, and no others."""
        key = id(writers)
        if key not in self.found:
            self.found[key] = writers.find(self.review.user)
        return self.found[key]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """An object, who manages it, and the policies that are about it and do not trust the writer.

    ``owner`` is the managed object that owns it, where it is not managed itself.
    """

    subject: Subject
    claims: Sequence[Claim]
    owner: ObjectRef | None
    meant: Sequence[Candidate]

    @property
    def managed_by(self) -> ManagedBy | None:
        """The first that manages it, if any does."""
        return self.claims[0].managed_by if self.claims else None


def candidates_of(context: Context, resource: str, group: str, subresource: str) -> Sequence[Candidate]:
    """Step 1: the policies whose resources, operations and namespaces take the write in."""
    review = context.review
    operation = "UPDATE" if resource != review.resource.resource else review.operation
    return context.snapshot.candidates(group, resource, subresource, operation, review.namespace)


def written(review: Review) -> Subject | None:
    """The object that the review itself brings, if it brings any."""
    return subject_of(review, {}, children=False) if _brings_object(review) else None


def _brings_object(review: Review) -> bool:
    if review.subresource:
        return review.operation == "UPDATE" and review.subresource != "scale"
    return review.operation != "CONNECT"


def claims_of(subject: Subject, snapshot: Snapshot, *, remarked: bool = True) -> list[Claim]:
    """Who manages the object, by its old or its new state; the old comes first.

    ``remarked`` is false where the new state is known to bear the same marks as the old.
    """
    sides = subject.sides if remarked else subject.sides[:1]
    found: dict[tuple[str, str], Claim] = {}
    for side in sides:
        for claim in claims(side, snapshot.config.markers):
            found.setdefault((claim.managed_by.tool, claim.managed_by.kind), claim)
    return list(found.values())


def managed_by(review: Review, snapshot: Snapshot) -> ManagedBy | None:
    """The first that manages the object that the review brings, for the log."""
    if not _brings_object(review):
        return None
    for side in (review.old, review.new):
        if side is not None and (found := claims(side, snapshot.config.markers)):
            return found[0].managed_by
    return None


def owned(context: Context, subject: Subject) -> tuple[Subject, list[Claim], ObjectRef | None]:
    """``subject`` with its owners, and who manages the first of them that is managed; without them if none is."""
    with_chain = with_owners(subject, context.objects)
    for ref, obj in with_chain.owners:
        if found := claims(obj, context.snapshot.config.markers):
            return with_chain, found, ref
    return subject, [], None


def is_meant(candidate: Candidate, managers: Sequence[Claim], subject: Subject, owner: ObjectRef | None) -> bool:
    """Whether the policy is about the object: by scope, tool and labels, and a child by its ``owner``."""
    policy = candidate.policy
    match = policy.match
    if owner is not None and not policy.children:
        # To this policy the object is one that nobody manages.
        return match.scope_all and match.tools is None and _selects_labels(policy, subject)
    if not candidate.direct and (owner is None or not match.names(owner.group, owner.resource, "")):
        return False
    if not match.scope_all and not managers:
        return False
    if match.tools is not None and not any(claim.managed_by.tool in match.tools for claim in managers):
        return False
    return _selects_labels(policy, subject)


def with_owner(candidate: Candidate, owner: ObjectRef) -> Candidate:
    """``candidate``, about all of a child whose owner it names, whatever else it names."""
    if candidate.whole or not candidate.policy.match.names(owner.group, owner.resource, ""):
        return candidate
    return msgspec.structs.replace(candidate, whole=candidate.policy.children)


def _selects_labels(policy: Policy, subject: Subject) -> bool:
    selector = policy.match.object_selector
    return selector is None or any(selector.matches(meta.labels_of(side)) for side in subject.sides)
