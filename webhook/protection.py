"""Which changes of a write touch what a policy protects, and which touch what is protected on every managed object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from webhook import meta, tags
from webhook.admission import ObjectRef, Review
from webhook.diff import Change, Position, Union, diff, select
from webhook.fieldpath import PathSet, format_path
from webhook.globs import Globs
from webhook.listkeys import Schema
from webhook.ownership import declared, disowned, disowned_child, field_documents, made_by_controller
from webhook.policy import MODES, Candidate, Policy
from webhook.subject import Objects, Subject, is_namespace, look_up
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
class Note:
    """Something at ``path`` that is more than a change of one value; ``text`` says what, for a person."""

    path: str
    operation: str
    text: str


Finding = Change | Note

_DISOWNED: Final = Note(
    path="metadata.managedFields", operation="removed", text="takes away the record of what was declared"
)


def path_of(finding: Finding) -> str:
    """Where a finding is, as text."""
    return finding.path if isinstance(finding, Note) else format_path(finding.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A policy that is violated, and by what; nothing for a deletion, or for reaching into a pod."""

    policy: Policy
    findings: tuple[Finding, ...]


def judge(
    review: Review,
    subject: Subject,
    managers: Sequence[Claim],
    candidates: Sequence[Candidate],
    objects: Objects,
    settled: PathSet,
) -> list[Judged]:
    """Every policy that the write violates.

    What is protected on every managed object is one fact, however many policies select it: the strictest tells it.
    ``settled`` are places that were judged elsewhere.
    """
    differences: dict[Globs, list[Change]] = {}
    own: dict[str, list[Finding]] = {}
    base: dict[str, list[Finding]] = {}
    judged: list[Policy] = []
    markers = [claim.marker for claim in managers]
    for candidate in candidates:
        policy = candidate.policy
        if policy.trusted.find(review.user) is not None:
            continue
        violated = False
        if subject.deletion:
            violated = policy.deletion and candidate.whole
        else:
            manager_names = policy.managers(markers)
            if (changes := differences.get(manager_names)) is None:
                changes = differences[manager_names] = _changes(review, subject, manager_names)
            automation = policy.automation.find(review.user)
            allowance = automation.fields if automation is not None else None
            # Through a subresource that the policy does not name, metadata alone is guarded.
            judged_changes = changes if candidate.whole else [c for c in changes if c.path[0] == "metadata"]
            own[policy.name] = list(_own(policy, subject, managers, judged_changes, manager_names, allowance, settled))
            if candidate.whole and subject.owners and subject.intrusion:
                own[policy.name] = list(changes)
                violated = True
            if managers:
                base[policy.name] = _base(subject, managers, changes, manager_names, allowance, settled)
            violated = violated or bool(own.get(policy.name) or base.get(policy.name))
        if violated and _in_selected_namespace(review, policy, subject, objects):
            judged.append(policy)
    guardian = min((p for p in judged if base.get(p.name)), key=guardian_rank, default=None)
    result = []
    for policy in judged:
        findings = list(own.get(policy.name, ()))
        if policy is guardian:
            told = {path_of(finding) for finding in findings}
            findings += [finding for finding in base[policy.name] if path_of(finding) not in told]
        if findings or subject.deletion or subject.intrusion:
            result.append(Judged(policy=policy, findings=tuple(sorted(findings, key=path_of))))
    return result


def guardian_rank(policy: Policy) -> tuple[int, bool, str]:
    """The order of policies in which the first answers for what is protected on every managed object."""
    return (-STRICTNESS[policy.mode], not policy.declared, policy.name)


def _changes(review: Review, subject: Subject, managers: Globs) -> list[Change]:
    old, new = (_without_noise(side, review, subject) for side in (subject.old, subject.new))
    schema = Schema.of(subject.group, subject.kind, *field_documents((subject.old, subject.new), managers))
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
    """Whether ``status`` is a field like any other, as in a custom resource without that subresource.

    In one that has it, the API server keeps the status as it is in a write to the object itself.
    """
    return review.subresource != "status" and "." in subject.group and not subject.group.endswith(".k8s.io")


def _own(
    policy: Policy,
    subject: Subject,
    managers: Sequence[Claim],
    changes: Sequence[Change],
    manager_names: Globs,
    allowance: PathSet | None,
    settled: PathSet,
) -> list[Change]:
    """The changes that touch what the policy itself protects."""
    wanted: list[Position] = []
    if (paths := policy.protected(subject.group, subject.kind)) is not None:
        wanted.append(paths)
    if policy.declared and managers and subject.old is not None:
        # What has drifted with driftwall's leave belongs to its writer in managedFields, and is Git's all the same.
        if (drifted := tags.drifted(subject.old)) is not None:
            wanted.append(drifted)
        config_sync = any(claim.managed_by.tool == "configsync" for claim in managers)
        if subject.owners:
            wanted.append(made_by_controller(subject.old))
        elif (fields := declared(subject.old, manager_names, config_sync=config_sync)) is not None:
            wanted.append(fields)
    if not wanted or not changes:
        return []
    ignored = settled
    for more in (policy.ignore, allowance):
        if more is not None:
            ignored |= more
    return select(changes, wanted[0] if len(wanted) == 1 else Union(wanted), ignored)


def _base(
    subject: Subject,
    managers: Sequence[Claim],
    changes: Sequence[Change],
    manager_names: Globs,
    allowance: PathSet | None,
    settled: PathSet,
) -> list[Finding]:
    """The changes that touch what is protected on every managed object, and on what it owns."""
    always = Union((_ALWAYS, *(claim.marker.protected for claim in managers)))
    found: list[Finding] = list(select(changes, always, settled if allowance is None else settled | allowance))
    if subject.old is not None and subject.new is not None:
        owned = bool(subject.owners)
        lost = disowned_child(subject.old, subject.new) if owned else disowned(subject.old, subject.new, manager_names)
        if lost:
            found.append(_DISOWNED)
    return found


def _in_selected_namespace(review: Review, policy: Policy, subject: Subject, objects: Objects) -> bool:
    """Whether the policy's namespaceSelector takes the object in; asked last, since it may need a look-up.

    A cluster-scoped object is always selected, as in a webhook configuration; a Namespace is by its own labels.
    """
    selector = policy.match.namespace_selector
    if selector is None:
        return True
    if is_namespace(review):
        return any(selector.matches(meta.labels_of(side)) for side in subject.sides)
    if not review.namespace:
        return True
    namespace = look_up(ObjectRef("", "v1", "namespaces", "", review.namespace), objects)
    return selector.matches(meta.labels_of(namespace))
