"""Which changes of a write touch what a policy protects, and which touch what is protected on every managed object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from webhook.admission import ObjectRef, Review
from webhook.diff import Change, Position, Union, diff, select
from webhook.fieldpath import PathSet, format_path
from webhook.globs import Globs
from webhook.listkeys import Schema
from webhook.ownership import declared, disowned, field_documents
from webhook.policy import MODES, Candidate, Policy
from webhook.subject import Objects, Subject, is_namespace, labels_of, look_up
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED, OWN_PREFIX, Claim

#: Protected on every managed object, beside its tool's markers and opt-outs.
_ALWAYS: Final = PathSet.of(
    "metadata.ownerReferences",
    f"metadata.labels['{OWN_PREFIX}*']",
    f"metadata.annotations['{OWN_PREFIX}*']",
    f"metadata.annotations['{LAST_APPLIED}']",
    f"metadata.annotations['{DECLARED_FIELDS}']",
)
STRICTNESS: Final[Mapping[str, int]] = {mode: rank for rank, mode in enumerate(MODES)}
_OWNERSHIP: Final = "metadata.managedFields"
#: Kept by the API server alone; a client's value for them is thrown away.
_SERVER_METADATA: Final = frozenset(
    {
        "managedFields",
        "resourceVersion",
        "generation",
        "uid",
        "selfLink",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A policy that is violated, and by what: changes, or the words of something that is no single field."""

    policy: Policy
    changes: tuple[Change | str, ...]


def judge(
    review: Review, subject: Subject, managers: Sequence[Claim], candidates: Sequence[Candidate], objects: Objects
) -> list[Judged]:
    """Every policy that the write violates; the one that answers for what is always protected says so, too."""
    changes: dict[Globs, list[Change]] = {}
    own: dict[str, list[Change]] = {}
    base: dict[str, list[Change | str]] = {}
    judged: list[Policy] = []
    markers = [claim.marker for claim in managers]
    for candidate in candidates:
        policy = candidate.policy
        if policy.trusted.find(review.user) is not None:
            continue
        if subject.deletion:
            violated = policy.deletion and candidate.whole
        else:
            manager_names = policy.managers(markers)
            if manager_names not in changes:
                changes[manager_names] = _changes(review, subject, manager_names)
            automation = policy.automation.find(review.user)
            allowance = automation.fields if automation is not None else None
            found = changes[manager_names]
            if candidate.whole:
                own[policy.name] = _own(policy, subject, managers, found, manager_names, allowance)
            if managers:
                base[policy.name] = _base(subject, managers, found, manager_names, allowance)
            violated = bool(own.get(policy.name) or base.get(policy.name))
        if violated and _in_selected_namespace(review, policy, subject, objects):
            judged.append(policy)
    # What is protected on every managed object is one fact, however many policies select it: the strictest tells it.
    guardians = [policy for policy in judged if base.get(policy.name)]
    guardian = min(guardians, key=lambda p: (-STRICTNESS[p.mode], not p.declared, p.name), default=None)
    result = []
    for policy in judged:
        mine: list[Change | str] = list(own.get(policy.name, ()))
        if policy is guardian:
            told = {change.path for change in mine if isinstance(change, Change)}
            mine += [c for c in base[policy.name] if not (isinstance(c, Change) and c.path in told)]
        if mine or subject.deletion:
            result.append(Judged(policy=policy, changes=tuple(sorted(mine, key=_place))))
    return result


def _place(change: Change | str) -> str:
    return change if isinstance(change, str) else format_path(change.path)


def _changes(review: Review, subject: Subject, managers: Globs) -> list[Change]:
    old, new = (_without_noise(side, review, subject) for side in (subject.old, subject.new))
    schema = Schema.of(subject.group, subject.kind, field_documents((subject.old, subject.new), managers))
    return diff(old, new, schema)


def _without_noise(obj: Mapping[str, Any] | None, review: Review, subject: Subject) -> dict[str, Any]:
    """``obj`` without what the server keeps, and without its status unless that is an ordinary field of the kind."""
    if obj is None:
        return {}
    kept = {key: value for key, value in obj.items() if key != "status"}
    if "status" in obj and _status_is_ordinary(review, subject):
        kept["status"] = obj["status"]
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        kept["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    return kept


def _status_is_ordinary(review: Review, subject: Subject) -> bool:
    """Whether ``status`` is a field like any other: only a custom resource without the subresource has such a one."""
    if review.subresource == "status" or "." not in subject.group or subject.group.endswith(".k8s.io"):
        return False
    return not any(
        isinstance(entry, dict) and entry.get("subresource") == "status"
        for side in subject.sides
        for entry in (side.get("metadata") or {}).get("managedFields") or ()
    )


def _own(
    policy: Policy,
    subject: Subject,
    managers: Sequence[Claim],
    changes: Sequence[Change],
    manager_names: Globs,
    allowance: PathSet | None,
) -> list[Change]:
    """The changes that touch what the policy itself protects."""
    wanted: list[Position] = []
    if (paths := policy.protected(subject.group, subject.kind)) is not None:
        wanted.append(paths)
    if policy.declared and managers and subject.old is not None:
        config_sync = any(claim.managed_by.tool == "configsync" for claim in managers)
        if (fields := declared(subject.old, manager_names, config_sync=config_sync)) is not None:
            wanted.append(fields)
    if not wanted or not changes:
        return []
    ignored = policy.ignore
    if allowance is not None:
        ignored = allowance if ignored is None else ignored | allowance
    return select(changes, wanted[0] if len(wanted) == 1 else Union(wanted), ignored)


def _base(
    subject: Subject,
    managers: Sequence[Claim],
    changes: Sequence[Change],
    manager_names: Globs,
    allowance: PathSet | None,
) -> list[Change | str]:
    """The changes that touch what is protected on every managed object."""
    always = Union((_ALWAYS, *(claim.marker.protected for claim in managers)))
    found: list[Change | str] = list(select(changes, always, allowance))
    if (
        subject.old is not None
        and subject.new is not None
        and disowned(subject.old, subject.new, manager_names, [change.path for change in changes])
    ):
        found.append(_OWNERSHIP)
    return found


def _in_selected_namespace(review: Review, policy: Policy, subject: Subject, objects: Objects) -> bool:
    """Whether the policy's namespaceSelector takes the object in; asked last, since it may need a look-up.

    A cluster-scoped object is always selected, as in a webhook configuration; a Namespace is by its own labels.
    """
    selector = policy.match.namespace_selector
    if selector is None:
        return True
    if is_namespace(review):
        return any(selector.matches(labels_of(side)) for side in subject.sides)
    if not review.namespace:
        return True
    namespace = look_up(ObjectRef("", "v1", "namespaces", "", review.namespace), objects)
    return selector.matches(labels_of(namespace))
