"""The cases beside the policies, run: what each expects, and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from webhook import meta
from webhook.cases import Case, Suite
from webhook.decision import Decision
from webhook.errors import LookupFailed, MalformedReview
from webhook.offline import RecordedObjects, decide_offline
from webhook.subject import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One part of a verdict that is not as expected; both are lists, of one for what is no list."""

    what: str
    expected: tuple[str, ...]
    got: tuple[str, ...]

    def lines(self) -> list[str]:
        """What is missing, with a minus, and what is too much, with a plus, as a diff has them."""
        missing = [f"- {each}" for each in self.expected if each not in self.got]
        return missing + [f"+ {each}" for each in self.got if each not in self.expected]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case that was run. ``error`` says why there is no decision, if there is none."""

    suite: Suite
    case: Case
    decision: Decision | None
    error: str
    differences: tuple[Difference, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the verdict is the expected one."""
        return not self.differences and not self.error


def run_suite(suite: Suite) -> list[Result]:
    """Run the cases of a suite, in their order; none knows of another."""
    return [run_case(suite, case) for case in suite.cases]


def run_case(suite: Suite, case: Case) -> Result:
    """Decide the write of one case by the policies of its suite."""
    objects = RecordedObjects()
    for obj in case.objects:
        metadata = meta.metadata_of(obj)
        group, _ = meta.group_version(obj["apiVersion"])
        place = (group, plural(obj["kind"]), str(metadata.get("namespace", "")), str(metadata["name"]))
        objects.put(place, msgspec.json.encode(obj))
    started = time.perf_counter()
    decision: Decision | None = None
    error = ""
    try:
        decision = decide_offline(case.review, suite.snapshot, objects, case.now or datetime.now(UTC))
    except (LookupFailed, MalformedReview) as failed:
        error = str(failed)
    return Result(
        suite=suite,
        case=case,
        decision=decision,
        error=error,
        differences=tuple(_differences(case, decision)) if decision is not None else (),
        seconds=time.perf_counter() - started,
    )


def _differences(case: Case, decision: Decision) -> list[Difference]:
    fields = {change.path for violation in decision.violations for change in violation.fields}
    pairs: list[tuple[str, Any, Any]] = [
        ("allowed", _word(case.allowed), _word(decision.allowed)),
        ("policies", sorted(case.policies), sorted(violation.name for violation in decision.violations)),
    ]
    if case.mode is not None:
        pairs.append(("mode", [case.mode], [decision.mode or "(none)"]))
    if case.fields is not None:
        pairs.append(("fields", sorted(set(case.fields)), sorted(fields)))
    return [Difference(what=what, expected=tuple(one), got=tuple(two)) for what, one, two in pairs if one != two]


def _word(value: bool) -> list[str]:
    return ["true" if value else "false"]
