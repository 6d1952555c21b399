"""The cases beside the policies: ``driftwall-test.yaml`` names reviews, and what must become of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webhook.documents import TEST_FILE, load_documents
from webhook.errors import PolicyError

KIND = "DriftPolicyTest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One review and its verdict. ``policies`` and ``fields`` are those violated; None: not said."""

    name: str
    review: Path
    allowed: bool
    policies: tuple[str, ...] | None
    fields: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The cases of one file, and the policy files that they are decided by."""

    name: str
    file: Path
    policies: tuple[Path, ...]
    cases: tuple[Case, ...]


def find_suites(folder: Path) -> list[Suite]:
    """The suites in and below ``folder``, in the order of their paths.

    Raises:
        PolicyError: a file of cases cannot be read.
    """
    return [load_suite(file) for file in sorted(folder.rglob(TEST_FILE))]


def load_suite(file: Path) -> Suite:
    """Read a file of cases.

    Raises:
        PolicyError: it is none; every problem with its line.
    """
    documents, problems = load_documents(file.read_bytes(), str(file))
    if problems:
        raise PolicyError([str(problem) for problem in problems])
    if len(documents) != 1 or documents[0].value.get("kind") != KIND:
        raise PolicyError([f"{file}: must hold one document of kind {KIND}"])
    value = documents[0].value
    try:
        return Suite(
            name=value["metadata"]["name"],
            file=file,
            policies=tuple(file.parent / name for name in value["policies"]),
            cases=tuple(_case(file.parent, case) for case in value["cases"]),
        )
    except (KeyError, TypeError) as error:
        raise PolicyError([f"{file}: a case or the file lacks {error}"]) from None


def _case(folder: Path, case: dict[str, Any]) -> Case:
    expect = case["expect"]
    return Case(
        name=case["name"],
        review=folder / case["review"],
        allowed=expect["allowed"],
        policies=tuple(expect["policies"]) if "policies" in expect else None,
        fields=tuple(expect["fields"]) if "fields" in expect else None,
    )
