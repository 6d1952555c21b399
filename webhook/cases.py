"""The cases beside the policies: ``driftwall-test.yaml`` names writes, and what must become of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from webhook.admission import Review, parse
from webhook.breakglass import read_time
from webhook.documents import TEST_FILE, Document, Key, Problem, load_documents
from webhook.errors import MalformedReview, PolicyError
from webhook.policy import Snapshot
from webhook.policy_compiler import compile_documents, read_texts
from webhook.policy_schema import TEST_KIND, validate_test
from webhook.tools import Marker
from webhook.written import as_declared, review_of

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One write and its verdict.

    ``policies`` are those violated, ``fields`` what they are violated in and ``mode`` the strictest of their modes, the
    latter two None where nothing is said of them. ``file`` is the recorded review, None for one made of manifests.
    ``objects`` are there for look-ups.
    """

    name: str
    line: int
    file: Path | None
    review: Review
    objects: tuple[Object, ...]
    now: datetime | None
    allowed: bool
    mode: str | None
    policies: tuple[str, ...]
    fields: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The cases of one file, and the policies that they are decided by."""

    name: str
    file: Path
    policies: tuple[Path, ...]
    snapshot: Snapshot
    cases: tuple[Case, ...]


def find_suites(*paths: Path) -> list[Suite]:
    """The suites at, in and below ``paths``, in the order of their paths.

    Raises:
        FileNotFoundError: nothing is there.
        PolicyError: a file of cases, or what it names, cannot be used; with every problem of all of them.
    """
    suites: list[Suite] = []
    problems: list[Problem] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        for file in sorted(path.rglob(TEST_FILE)) if path.is_dir() else [path]:
            suite, found = load_suite(file)
            problems += found
            if suite is not None:
                suites.append(suite)
    if problems:
        raise PolicyError([str(problem) for problem in sorted(set(problems))])
    return suites


def load_suite(file: Path) -> tuple[Suite | None, list[Problem]]:
    """Read a file of cases and all that it names; every problem there is, and the suite if there is none."""
    try:
        text = file.read_bytes()
    except OSError as error:
        return None, [_problem(file, f"cannot be read: {error.strerror}")]
    documents, problems = load_documents(text, str(file))
    if not problems and len(documents) != 1:
        problems.append(_problem(file, f"must hold one document of kind {TEST_KIND}, and has {len(documents)}"))
    for document in documents:
        problems += validate_test(document)
    if problems:
        return None, problems
    return _Loader(file, documents[0]).suite()


def _problem(file: Path, message: str) -> Problem:
    return Problem(file=str(file), line=1, path="", message=message)


class _Loader:
    """Turns a document that meets the schema into a suite, with the problems that only the files show."""

    def __init__(self, file: Path, document: Document) -> None:
        self._file = file
        self._document = document
        self._problems: list[Problem] = []

    def suite(self) -> tuple[Suite | None, list[Problem]]:
        value = self._document.value
        paths = tuple(self._file.parent / name for name in value["policies"])
        snapshot = self._snapshot(paths)
        markers = snapshot.config.markers
        cases = [self._case(("cases", index), case, markers) for index, case in enumerate(value["cases"])]
        first: dict[str, int] = {}
        for index, case in enumerate(value["cases"]):
            if first.setdefault(case["name"], index) != index:
                self._add(("cases", index, "name"), "a second case of this name; results could not be told apart")
        if self._problems:
            return None, self._problems
        suite = Suite(
            name=value["metadata"]["name"],
            file=self._file,
            policies=paths,
            snapshot=snapshot,
            cases=tuple(case for case in cases if case is not None),
        )
        return suite, []

    def _snapshot(self, paths: Iterable[Path]) -> Snapshot:
        documents: list[Document] = []
        for index, path in enumerate(paths):
            if not path.exists():
                self._add(("policies", index), f"no file or folder is at {path}")
                continue
            read = read_texts([path])
            self._problems += read.problems
            found = 0
            for name, text in read.texts:
                more, problems = load_documents(text, name)
                self._problems += problems
                documents += more
                found += len(more)
            if not found and not self._problems:
                self._add(("policies", index), f"no policy is in {path}")
        snapshot, problems = compile_documents(documents)
        self._problems += problems
        return snapshot

    def _case(self, place: Key, case: Object, markers: Iterable[Marker]) -> Case | None:
        file: Path | None = None
        review: Review | None = None
        if "review" in case and "write" in case:
            self._add((*place, "write"), "beside a review; give one of them")
        elif "review" in case:
            file = self._file.parent / case["review"]
            review = self._recorded((*place, "review"), file)
        else:
            review = self._written((*place, "write"), case["write"], markers)
        objects = [
            obj
            for index, said in enumerate(case.get("objects", ()))
            if (obj := self._manifest((*place, "objects", index), said)) is not None
        ]
        if "write" in case and "of" in case["write"]:
            of = self._manifest((*place, "write", "of"), case["write"]["of"])
            objects += [of] if of is not None else []
        if review is None:
            return None
        expect = case["expect"]
        return Case(
            name=case["name"],
            line=self._document.line_of(place),
            file=file,
            review=review,
            objects=tuple(dict(as_declared(obj, markers)) for obj in objects),
            now=read_time(case.get("now")),
            allowed=expect["allowed"],
            mode=expect.get("mode"),
            policies=tuple(expect.get("policies", ())),
            fields=tuple(expect["fields"]) if "fields" in expect else None,
        )

    def _recorded(self, place: Key, file: Path) -> Review | None:
        try:
            return parse(file.read_bytes())
        except OSError as error:
            self._add(place, f"{file} cannot be read: {error.strerror}")
        except MalformedReview as error:
            self._add(place, f"{file}: {error}")
        return None

    def _written(self, place: Key, write: Object, markers: Iterable[Marker]) -> Review | None:
        found = len(self._problems)
        sides = {side: self._manifest((*place, side), write.get(side)) for side in ("old", "new", "of")}
        if len(self._problems) > found:
            return None
        try:
            return review_of(write, markers=markers, **sides)
        except ValueError as error:
            self._add(place, str(error))
            return None

    def _manifest(self, place: Key, said: str | Object | None) -> Object | None:
        """The object that is meant: itself, or the one in a file."""
        if said is None:
            return None
        value: Object = said if isinstance(said, dict) else {}
        if isinstance(said, str):
            file = self._file.parent / said
            try:
                documents, problems = load_documents(file.read_bytes(), str(file))
            except OSError as error:
                self._add(place, f"{file} cannot be read: {error.strerror}")
                return None
            self._problems += problems
            if not problems and len(documents) != 1:
                self._add(place, f"{file} must hold one object, and has {len(documents)}")
            if problems or len(documents) != 1:
                return None
            value = documents[0].value
        metadata = value.get("metadata")
        for key in ("apiVersion", "kind"):
            if not isinstance(value.get(key), str) or not value[key]:
                self._add((*place, key), "an object needs it, as a string")
                return None
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            self._add((*place, "metadata", "name"), "an object needs it, as a string")
            return None
        return value

    def _add(self, key: Key, message: str) -> None:
        self._problems.append(self._document.problem(key, message))
