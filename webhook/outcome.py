"""What became, or would become, of one recorded write: the one shape that verdicts of all sources are counted in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from webhook import tally
from webhook.admission import Review
from webhook.breakglass import read_time
from webhook.decision import Decision
from webhook.identity import is_proven
from webhook.policy import DRY_RUN, ENFORCE, TAG, WARN, Snapshot
from webhook.protection import STRICTNESS
from webhook.tools import TITLES

#: The verdict of a mode that is violated.
VERDICT_OF: Final[Mapping[str, str]] = {
    ENFORCE: tally.DENIED,
    WARN: tally.WARNED,
    TAG: tally.TAGGED,
    DRY_RUN: tally.DRY_RUN,
}
ALLOWED: Final = "allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A policy that the write violates; ``fields`` are paths, none for a deletion or where they are not known."""

    name: str
    mode: str
    fields: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What the policy alone would make of it."""
        return VERDICT_OF[self.mode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One write. ``verdict`` is ``allowed`` or one of :mod:`webhook.tally`'s; ``object`` is resource and name."""

    verdict: str
    time: datetime | None
    user: str
    proven: bool
    writer: str
    operation: str
    object: str
    application: str
    broken: tuple[Broken, ...]
    message: str = ""
    break_glass: bool = False
    dry_run: bool = False


def strictest(broken: Sequence[Broken]) -> str:
    """The verdict of several policies together."""
    mode = max((each.mode for each in broken), key=STRICTNESS.__getitem__, default=None)
    return ALLOWED if mode is None else VERDICT_OF[mode]


def of_decision(review: Review, decision: Decision, time: datetime | None) -> Outcome:
    """The outcome of a review that was decided."""
    broken = tuple(
        Broken(name=violation.name, mode=violation.mode, fields=tuple(change.path for change in violation.fields))
        for violation in decision.violations
    )
    return Outcome(
        verdict=strictest(broken),
        time=time,
        user=review.user.username,
        proven=is_proven(review.user),
        writer=decision.writer,
        operation=review.operation,
        object=_place(review.qualified_resource, review.subresource, review.namespace, review.name),
        application=decision.managed_by.title if decision.managed_by is not None else "",
        broken=broken,
        message=decision.message or "\n".join(decision.warnings),
        break_glass=decision.break_glass is not None,
        dry_run=review.dry_run,
    )


def as_told(review: Review, policies: Sequence[str], snapshot: Snapshot, time: datetime | None) -> Outcome:
    """The outcome of a review of which no more is known than which policies the webhook named when it denied it."""
    told = [Broken(name=name, mode=ENFORCE, fields=()) for name in policies]
    broken = _by_these_policies(told, snapshot)
    return Outcome(
        verdict=strictest(broken),
        time=time,
        user=review.user.username,
        proven=is_proven(review.user),
        writer="untrusted",
        operation=review.operation,
        object=_place(review.qualified_resource, review.subresource, review.namespace, review.name),
        application="",
        broken=broken,
        dry_run=review.dry_run,
    )


class _Field(msgspec.Struct, frozen=True, kw_only=True):
    path: str = ""


class _Violation(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    mode: str
    fields: tuple[_Field, ...] = ()


class _ManagedBy(msgspec.Struct, frozen=True, kw_only=True):
    tool: str = ""
    kind: str = ""
    application: str = ""


class LogLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A line of the decision log, as far as it matters here; :func:`webhook.audit.record` writes it."""

    operation: str
    resource: str
    user: str
    writer: str
    allowed: bool
    policies: tuple[_Violation, ...]
    time: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    managed_by: _ManagedBy | None = None
    break_glass: msgspec.Raw = msgspec.Raw(b"null")
    dry_run: bool = False
    message: str = ""
    warnings: tuple[str, ...] = ()


def of_log_line(line: LogLine, snapshot: Snapshot) -> Outcome:
    """What the webhook said, with the modes that these policies have now.

    The log holds no objects, so no more can be told: a policy that is not among these any more violates nothing, and of
    one that was not there then nothing is known.
    """
    told = [
        Broken(name=each.name, mode=each.mode, fields=tuple(field.path for field in each.fields))
        for each in line.policies
    ]
    broken = _by_these_policies(told, snapshot)
    by = line.managed_by
    title = f"{TITLES.get(by.tool, by.tool)} ({by.kind} {by.application})" if by is not None else ""
    return Outcome(
        verdict=strictest(broken),
        time=read_time(line.time),
        user=line.user,
        proven=True,
        writer=line.writer,
        operation=line.operation,
        object=_place(line.resource, line.subresource, line.namespace, line.name),
        application=title,
        broken=broken,
        message=line.message or "\n".join(line.warnings),
        break_glass=bytes(line.break_glass) != b"null",
        dry_run=line.dry_run,
    )


def _by_these_policies(told: Sequence[Broken], snapshot: Snapshot) -> tuple[Broken, ...]:
    """What was violated then, with the modes of now; driftwall's own rules, in brackets, hold whatever the policies."""
    modes = {policy.name: policy.mode for policy in snapshot.policies}
    return tuple(
        Broken(name=each.name, mode=modes.get(each.name, each.mode), fields=each.fields)
        for each in told
        if each.name in modes or each.name.startswith("(")
    )


def _place(resource: str, subresource: str, namespace: str, name: str) -> str:
    what = f"{resource}/{subresource}" if subresource else resource
    return f"{what} {namespace}/{name}" if namespace and resource != "namespaces" else f"{what} {name}"
