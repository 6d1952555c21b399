"""Which changes of a write touch what a policy protects, and which touch what is protected on every managed object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import msgspec

from webhook import meta, tags
from webhook.admission import ObjectRef, Review
from webhook.case import Case, Context
from webhook.diff import Change, differences
from webhook.disowning import disowned, disowned_child
from webhook.globs import Globs
from webhook.lazyjson import LAZY
from webhook.listkeys import Schema
from webhook.ownership import declared, field_documents, made_by_controller
from webhook.patterns import PathSet
from webhook.policy import MODES, Candidate, Policy
from webhook.selection import Position, Union, select, union
from webhook.subject import Objects, Subject, is_namespace, look_up
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED, OWN_PREFIX, Claim

#: Protected on every managed object, beside its tool's markers and opt-outs: all of it metadata.
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
_STATUS: Final = frozenset({"status"})
_NO_NOISE: Final[frozenset[str]] = frozenset()


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something at ``path`` that is more than a change of one value; ``note`` says what, for a person."""

    path: str
    operation: str
    note: str


Finding = Change | Note

_DISOWNED: Final = Note(
    path="metadata.managedFields", operation="removed", note="takes away the record of what was declared"
)


def path_of(finding: Finding) -> str:
    """Where a finding is, as text."""
    return finding.path if isinstance(finding, Note) else finding.text


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that is violated, and by what; nothing for a deletion, or for reaching into a pod."""

    policy: Policy
    findings: tuple[Finding, ...]


class Facts:
    """What is true of a write whoever asks, for policies that take the same ``names`` in managedFields for the tool's.

    Each is found when it is first asked for, and once.
    """

    def __init__(self, review: Review, subject: Subject, claims: Sequence[Claim], names: Globs) -> None:
        self._subject = subject
        self._claims = claims
        self._names = names
        self.changes = _changes(review, subject, names)
        self._base: dict[tuple[int, int], list[Finding]] = {}
        self._declared: list[Position | None] = []

    @property
    def declared(self) -> Position | None:
        """The places that Git declares; None if there are none."""
        if not self._declared:
            self._declared.append(self._find_declared())
        return self._declared[0]

    def _find_declared(self) -> Position | None:
        subject = self._subject
        if not self._claims or subject.old is None:
            return None
        config_sync = any(claim.managed_by.tool == "configsync" for claim in self._claims)
        fields = (
            made_by_controller(subject.old)
            if subject.owners
            else declared(subject.old, self._names, config_sync=config_sync)
        )
        # What has drifted with driftwall's leave belongs to its writer in managedFields, and is Git's all the same.
        drifted = tags.drifted(subject.old)
        if drifted is None or fields is None:
            return fields if drifted is None else drifted
        return Union((drifted, fields))

    def base(self, settled: PathSet, allowance: PathSet | None) -> list[Finding]:
        """The changes that touch what is protected on every managed object, and on what it owns."""
        key = (id(settled), id(allowance))
        if key not in self._base:
            self._base[key] = self._find_base(settled if allowance is None else settled | allowance)
        return self._base[key]

    def _find_base(self, ignored: PathSet) -> list[Finding]:
        if not self._claims:
            return []
        found: list[Finding] = []
        changes = [change for change in self.changes if change.path[0] == "metadata"]
        if changes:
            always = Union((_ALWAYS, *(claim.marker.protected for claim in self._claims)))
            found += select(changes, always, ignored)
        if self._disowned():
            found.append(_DISOWNED)
        return found

    def _disowned(self) -> bool:
        old, new = self._subject.old, self._subject.new
        if old is None or new is None:
            return False
        return (
            disowned_child(old, new, self.changes)
            if self._subject.owners
            else disowned(old, new, self._names, self.changes)
        )


def judge(context: Context, case: Case, settled: PathSet) -> list[Judged]:
    """Every policy that the write violates.

    What is protected on every managed object is one fact, however many policies select it: the strictest tells it.
    ``settled`` are places that were judged elsewhere.
    """
    known: dict[tuple[str, ...], Facts] = {}
    own: dict[str, Sequence[Finding]] = {}
    base: dict[str, list[Finding]] = {}
    judged: list[Policy] = []
    review, subject = context.review, case.subject
    markers = tuple([claim.marker for claim in case.claims])
    for candidate in case.meant:
        policy = candidate.policy
        if subject.deletion:
            violated = policy.deletion and candidate.whole
        else:
            names = policy.managers(markers)
            if (facts := known.get(names.patterns)) is None:
                facts = known[names.patterns] = Facts(review, subject, case.claims, names)
            automation = context.find(policy.automation)
            allowance = automation.fields if automation is not None else None
            intruded = candidate.whole and subject.intrusion and bool(subject.owners)
            own[policy.name] = facts.changes if intruded else _own(candidate, subject, facts, settled, allowance)
            if always := facts.base(settled, allowance):
                base[policy.name] = always
            violated = intruded or bool(own[policy.name] or always)
        if violated and _in_selected_namespace(review, policy, subject, context.objects):
            judged.append(policy)
    guardian = min((p for p in judged if p.name in base), key=guardian_rank, default=None)
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
    """What the write changes, without what the server keeps.

    The status is left out unless it is an ordinary field of the kind.
    """
    old: Mapping[str, Any] = {} if subject.old is None else subject.old
    new: Mapping[str, Any] = {} if subject.new is None else subject.new
    schema = Schema.told_by(subject.group, subject.kind, lambda: field_documents((old, new), managers))
    before, after = _differing(old, new, _NO_NOISE if _status_is_ordinary(review, subject) else _STATUS)
    ours: Any = old.get("metadata")
    theirs: Any = new.get("metadata")
    if meta.is_map(ours) and meta.is_map(theirs):
        before["metadata"], after["metadata"] = _differing(ours, theirs, _SERVER_METADATA)
    else:
        for metadata, side in ((ours, before), (theirs, after)):
            if meta.is_map(metadata):
                side["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    return differences(before, after, schema)


def _differing(old: Any, new: Any, noise: Set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of two maps that may have changed, and are none of ``noise``; not decoded where neither map is."""
    if type(old) is not type(new) or type(old) not in LAZY:
        return {n: v for n, v in old.items() if n not in noise}, {n: v for n, v in new.items() if n not in noise}
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name in old.differing(new):
        if name not in noise:
            if (part := old.part(name)) is not None:
                before[name] = part
            if (part := new.part(name)) is not None:
                after[name] = part
    return before, after


def _status_is_ordinary(review: Review, subject: Subject) -> bool:
    """Whether ``status`` is a field like any other, as in a custom resource without that subresource.

    In one that has it, the API server keeps the status as it is in a write to the object itself.
    """
    return review.subresource != "status" and "." in subject.group and not subject.group.endswith(".k8s.io")


def _own(
    candidate: Candidate, subject: Subject, facts: Facts, settled: PathSet, allowance: PathSet | None
) -> list[Change]:
    """The changes that touch what the policy itself protects."""
    policy, changes = candidate.policy, facts.changes
    # Through a subresource that the policy does not name, metadata alone is guarded.
    if not candidate.whole:
        changes = [change for change in changes if change.path[0] == "metadata"]
    if not changes:
        return []
    paths = policy.protected(subject.group, subject.kind)
    fields = facts.declared if policy.declared else None
    wanted: list[Position] = [each for each in (paths, fields) if each is not None]
    if not wanted:
        return []
    return select(changes, union(wanted), policy.let_be(settled, allowance))


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
