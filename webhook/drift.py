"""Drift that is there now: what of a live object somebody else than its tool has written, and what that violates.

Each kind of evidence is made into the write that led here (from the object as it was declared to the object as it is),
and judged by the functions that judge a write in the way of the webhook.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import msgspec

from webhook import admission, meta, tags
from webhook.admission import Review
from webhook.breakglass import read_time
from webhook.case import Case, Context, candidates_of, claims_of, is_meant
from webhook.diff import ABSENT, Change, diff
from webhook.drift_model import BY_MANIFEST, BY_OWNERSHIP, BY_TAG, SET, SEVERITIES, DriftedField, Target
from webhook.fieldpath import Path, format_path
from webhook.foreign import (
    HIDDEN,
    MANUAL_MANAGERS,
    SYSTEM_MANAGERS,
    Foreign,
    foreign,
    has_item,
    restored,
    skeleton,
    written_by,
)
from webhook.globs import Globs
from webhook.listkeys import Schema
from webhook.ownership import field_documents, last_applied
from webhook.patterns import PathSet
from webhook.policy import Candidate, Policy, Snapshot
from webhook.positions import HeldValue, OwnedFields
from webhook.protection import Facts, judge
from webhook.selection import Position, Union, select
from webhook.subject import Objects, subject_of
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED, OWN_PREFIX, Claim, claims

#: Told by the tag, or left behind by kubectl: no drift of what Git declares.
_BOOKKEEPING: Final = PathSet.of(
    f"metadata.labels['{OWN_PREFIX}*']",
    f"metadata.annotations['{OWN_PREFIX}*']",
    f"metadata.annotations['{LAST_APPLIED}']",
    f"metadata.annotations['{DECLARED_FIELDS}']",
)
_EVERYTHING: Final = OwnedFields({})
#: Stands for whoever wrote: nobody whom a policy names.
_SOMEBODY: Final = "driftwall.io:unknown"

Object = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Inspector:
    """Finds drift by the policies of ``snapshot``.

    ``objects`` answers what a policy must know of other objects, ``is_scaled`` whether an autoscaler has an object.
    ``all_managers`` takes every manager for one of people's. ``undecided`` counts, by manager, the objects in which
    fields were left alone: controllers write there, and nobody can tell whether Git declares them.
    """

    snapshot: Snapshot
    now: datetime
    objects: Objects
    is_scaled: Callable[[Target], bool] = lambda _: False
    all_managers: bool = False
    undecided: dict[str, int] = field(default_factory=dict)
    _tools: dict[tuple[int, ...], Globs] = field(default_factory=dict)

    def claims(self, obj: Object) -> list[Claim]:
        """Who manages the object."""
        return claims(obj, self.snapshot.config.markers)

    def is_exempt(self, namespace: str) -> bool:
        """Whether nothing is judged in this namespace."""
        return bool(namespace) and self.snapshot.config.exempt_namespaces.matches(namespace)

    def tool(self, found: Sequence[Claim]) -> Globs:
        """The names in managedFields of the GitOps identities that may write this object."""
        key = tuple(id(claim.marker) for claim in found)
        if key not in self._tools:
            writers = (writer for writers in self.snapshot.guarded for writer in writers.writers)
            names = {name for writer in writers for name in writer.field_managers}
            self._tools[key] = Globs(names.union(*(claim.marker.managers for claim in found)))
        return self._tools[key]

    def suspects(self, obj: Object, found: Sequence[Claim]) -> bool:
        """Whether the object's metadata alone call for a closer look."""
        return is_marked(obj) or bool(found and foreign(obj, self.tool(found)))

    def made_by_hand(self, obj: Object, found: Sequence[Claim]) -> DriftedField | None:
        """Who made an object that bears a tool's mark, where people alone have written it; None for any other."""
        entries = [entry for entry in written_by(obj) if entry.get("subresource") != "status"]
        people = [entry for entry in entries if MANUAL_MANAGERS.matches(str(entry.get("manager", "")))]
        others = [entry for entry in entries if not SYSTEM_MANAGERS.matches(str(entry.get("manager", "")))]
        tool = self.tool(found)
        if not found or not people or people != others or any(tool.matches(str(e.get("manager", ""))) for e in people):
            return None
        first = min(people, key=lambda entry: str(entry.get("time", "")))
        place = ("metadata",)
        return DriftedField(
            path=format_path(place),
            place=place,
            change="added",
            manager=str(first.get("manager", "")),
            at=read_time(first.get("time")),
            evidence=BY_OWNERSHIP,
        )

    def applied(self, obj: Object, found: Sequence[Claim]) -> Object | None:
        """What the tool declared, by last-applied-configuration; None where it applies on the server's side."""
        tool = self.tool(found)
        entries = [entry for entry in written_by(obj) if tool.matches(str(entry.get("manager", "")))]
        if any(entry.get("operation") == "Apply" for entry in entries):
            return None
        return last_applied(obj, tool)

    def inspect(self, obj: Object, target: Target, *, is_known: bool = False) -> tuple[DriftedField, ...]:
        """The drift that an object tells of by itself, sorted by path; of a Secret its metadata are enough.

        ``is_known``: what is declared is known from elsewhere, so that nothing is suspected of having been.
        """
        found = self.claims(obj)
        by_path: dict[str, DriftedField] = {}
        for each in self._owned_by_others(obj, target, found, is_known=is_known) if found else ():
            known = by_path.get(each.path)
            by_path[each.path] = each if known is None else _merged(known, each)
        for each in _tagged(obj, target):
            known = by_path.get(each.path)
            by_path[each.path] = each if known is None else replace(known, user=each.user, at=known.at or each.at)
        return tuple(by_path[path] for path in sorted(by_path))

    def _owned_by_others(
        self, obj: Object, target: Target, found: Sequence[Claim], *, is_known: bool
    ) -> Iterable[DriftedField]:
        tool = self.tool(found)
        entries = [entry for entry in written_by(obj) if tool.matches(str(entry.get("manager", "")))]
        applied = self.applied(obj, found)
        synced = any(claim.managed_by.tool == "configsync" for claim in found)
        known = is_known or applied is not None or (synced and DECLARED_FIELDS in meta.annotations_of(obj))
        for other in foreign(obj, tool):
            live = dict(obj)
            if target.secret:
                shape = skeleton({key: child for key, child in other.fields.items() if key != "f:metadata"})
                live |= shape if isinstance(shape, dict) else {}
            before = restored(live, other.fields, HeldValue(applied) if applied is not None else None)
            if not known and self._is_suspicious(other, target):
                # Whether Git declares it is known to Git alone: as if it did.
                before = _owning(before, entries[0], other)
            told = 0
            for each in self._judged(before, live, target, other, found):
                told += 1
                if each.change == "added" and not known and not has_item(other.fields, each.place):
                    each = replace(each, change=SET)  # noqa: PLW2901
                yield each
            if not told and not other.by_hand and not is_known:
                self.undecided[other.manager] = self.undecided.get(other.manager, 0) + 1

    def _is_suspicious(self, other: Foreign, target: Target) -> bool:
        """Whether a field of this manager counts as Git's where nothing tells: controllers write their own kinds."""
        custom = "." in target.ref.group and not target.ref.group.endswith(".k8s.io")
        return other.by_hand or self.all_managers or not custom

    def _judged(
        self, before: Object, live: Object, target: Target, other: Foreign, found: Sequence[Claim]
    ) -> Iterable[DriftedField]:
        context, case = self._case(before, live, target)
        settled = _BOOKKEEPING
        if not other.by_hand:
            settled |= _automated(case.meant)
        markers = Union(claim.marker.protected for claim in found)
        changes: dict[str, Change] = {}
        policies: dict[str, list[Policy]] = {}
        for judged in judge(context, case, settled):
            for finding in judged.findings:
                # A Note is about the record of ownership, which is the evidence here.
                if isinstance(finding, Change):
                    path = format_path(finding.path)
                    changes[path] = finding
                    policies.setdefault(path, []).append(judged.policy)
        for path, change in changes.items():
            place = change.path
            # Controllers leave labels, annotations, finalizers and owners on objects that are not theirs.
            if place[0] == "metadata" and not (other.by_hand or self.all_managers) and not _is_in(place, markers):
                continue
            yield _field(change, target, other.manager, other.at, policies[path], BY_OWNERSHIP)

    def compare(self, declared: Object, live: Object, target: Target) -> tuple[DriftedField, ...]:
        """Where ``live`` differs from what the API server would make of it by ``declared``, sorted by path.

        What the policies ignore is left out, and what the control plane or an automation has written where it may.
        """
        context, case = self._case(declared, live, target)
        found = self.claims(live) or case.claims
        tool = self.tool(found)
        ignored = _BOOKKEEPING
        for candidate in case.meant:
            if candidate.policy.ignore is not None:
                ignored |= candidate.policy.ignore
        policies: dict[str, list[Policy]] = {}
        for judged in judge(context, case, ignored):
            for finding in judged.findings:
                if isinstance(finding, Change):
                    policies.setdefault(format_path(finding.path), []).append(judged.policy)
        automated = _automated(case.meant)
        changes = Facts(context.review, case.subject, case.claims, tool).changes
        fields = []
        for change in select(changes, _EVERYTHING, ignored):
            manager, at = _owner(live, change, tool)
            if SYSTEM_MANAGERS.matches(manager):
                continue
            # Before v1.22 a scale leaves no record, whoever it was: what tells then is whether an autoscaler is there.
            by_automation = not MANUAL_MANAGERS.matches(manager) and _is_in(change.path, automated)
            if by_automation and (manager or self.is_scaled(target)):
                continue
            path = format_path(change.path)
            fields.append(_field(change, target, manager, at, policies.get(path, ()), BY_MANIFEST))
        return tuple(sorted(fields, key=lambda each: each.path))

    def _case(self, old: Object, new: Object, target: Target) -> tuple[Context, Case]:
        """The write from ``old`` to ``new``, as if somebody whom no policy names had just made it."""
        review = _review(target, old, new)
        context = Context(review=review, snapshot=self.snapshot, objects=self.objects, now=self.now, writer="untrusted")
        subject = subject_of(review, {}, children=False)
        if subject is None:
            raise AssertionError("an UPDATE of an object is always about it")
        managers = claims_of(subject, self.snapshot)
        candidates = candidates_of(context, target.ref.resource, target.ref.group, "")
        meant = [each for each in candidates if each.direct and is_meant(each, managers, subject, None)]
        return context, Case(subject=subject, claims=managers, owner=None, meant=meant)


def _review(target: Target, old: Object, new: Object) -> Review:
    ref = target.ref
    request = {
        "uid": str(uuid.uuid4()),
        "kind": {"group": ref.group, "version": ref.version, "kind": target.kind},
        "resource": {"group": ref.group, "version": ref.version, "resource": ref.resource},
        "name": ref.name,
        "namespace": ref.namespace,
        "operation": "UPDATE",
        "userInfo": {"username": _SOMEBODY},
        "object": new,
        "oldObject": old,
    }
    body = {"apiVersion": admission.API_VERSION, "kind": admission.KIND, "request": request}
    return admission.parse(msgspec.json.encode(body))


def _owning(obj: Object, entry: Mapping[str, Any], other: Foreign) -> dict[str, Any]:
    """``obj``, in which the manager of ``entry`` has declared what the other owns."""
    declared = {**entry, "operation": "Apply", "fieldsV1": other.fields}
    metadata = meta.metadata_of(obj)
    return {**obj, "metadata": {**metadata, "managedFields": [*metadata.get("managedFields", ()), declared]}}


def _automated(meant: Iterable[Candidate]) -> PathSet:
    """The fields that any automation is given."""
    fields = PathSet()
    for candidate in meant:
        for writer in candidate.policy.automation.writers:
            if writer.fields is not None:
                fields |= writer.fields
    return fields


def _is_in(place: Path, where: Position) -> bool:
    position: Position | None = where
    for element in place:
        if position is None or position.covers:
            break
        position = position.step(element)
    return position is not None and position.covers


def _owner(live: Object, change: Change, tool: Globs) -> tuple[str, datetime | None]:
    """Who owns a place in ``live``, and when that manager last wrote: others before the tool, the latest first."""
    owners = []
    for entry in written_by(live):
        position: Position | None = OwnedFields(entry["fieldsV1"])
        for element in change.path:
            if position is None or position.covers:
                break
            position = position.step(element)
        if position is not None:
            manager = str(entry.get("manager", ""))
            owners.append((not tool.matches(manager), str(entry.get("time", "")), manager))
    others, at, manager = max(owners, default=(False, "", ""))
    return (manager, read_time(at)) if others else ("", None)


def _field(
    change: Change, target: Target, manager: str, at: datetime | None, policies: Iterable[Policy], evidence: str
) -> DriftedField:
    policies = list(policies)
    secret = target.secret
    return DriftedField(
        path=format_path(change.path),
        place=change.path,
        change=change.operation,
        declared=HIDDEN if secret and change.old is not ABSENT else change.old,
        live=HIDDEN if secret and change.new is not ABSENT else change.new,
        manager=manager,
        at=at,
        policies=tuple(sorted({policy.name for policy in policies})),
        severity=max((policy.severity for policy in policies), key=SEVERITIES.index, default=""),
        evidence=evidence,
    )


def _merged(one: DriftedField, other: DriftedField) -> DriftedField:
    """One field that two managers own: the later one wrote it."""
    later = max(one, other, key=lambda each: each.at.timestamp() if each.at else 0.0)
    return replace(later, policies=tuple(sorted({*one.policies, *other.policies})))


def is_marked(obj: Object) -> bool:
    """Whether driftwall has marked the object as drifted: a copy by a controller has the annotation alone."""
    return tags.LABEL in meta.labels_of(obj) and tags.ANNOTATION in meta.annotations_of(obj)


def _tagged(obj: Object, target: Target) -> Iterable[DriftedField]:
    """What the mark of driftwall tells of, with the values that are there now."""
    told = tags.read(obj)
    drifted = tags.drifted(obj)
    if told is None or drifted is None or not is_marked(obj):
        return
    schema = Schema.of(target.ref.group, target.kind, *field_documents([obj], Globs()))
    visible = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "status")}
    there = {format_path(change.path): change for change in select(diff({}, visible, schema), drifted)}
    policies = tuple(filter(None, str(told.get("policy", "")).split(",")))
    for path in tags.fields_of(obj):
        change = there.get(path)
        live = change.new if change is not None else ABSENT
        yield DriftedField(
            path=path,
            place=change.path if change is not None else (),
            change=SET if change is not None or target.secret else "removed",
            live=HIDDEN if target.secret else live,
            user=str(told.get("by", "")),
            at=read_time(told.get("at")),
            policies=policies,
            evidence=BY_TAG,
        )
