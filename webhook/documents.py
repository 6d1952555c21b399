"""Policy files as plain data that knows its lines: the part of YAML that JSON has, read strictly.

What people trip over in YAML, or hide things with, is refused rather than guessed: tags, anchors and aliases, merge
keys, duplicate keys, keys that are no strings. Plain scalars follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema): ``yes`` and ``22:22`` are strings, and there are no dates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import yaml

from webhook.errors import SettingsError
from webhook.text import SHOWN, cut, escaped, shown
from webhook.yaml_text import Fault, decode, explain, resolve

Key = tuple[str | int, ...]
"""The place of a value in a document, such as ``("spec", "match", "resources", 0)``."""

MAX_BYTES = 1024 * 1024  # of one file: a ConfigMap, the usual home of policies, holds at most 1 MiB
MAX_DEPTH = 64  # lists and mappings in one another: the format needs 8, and recursion stays far from Python's limit
MAX_NODES = (
    100_000  # values in one file: 1 MiB of ordinary policies has 60,000 to 70,000; keeps a hostile file to seconds
)
TEST_FILE = "driftwall-test.yaml"
_SUFFIXES = (".yaml", ".yml")
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Problem:
    """Something wrong in a policy. ``path`` is empty where the whole document is meant.

    ``line`` counts from 1; 0 where there are no lines, as in a custom resource, whose ``file`` is its place in the API.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        line = f":{self.line}" if self.line else ""
        return f"{escaped(self.file)}{line}: {place}{self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One YAML document: its value, and the line on which each part of it begins: in a mapping, the key's."""

    file: str
    line: int
    value: dict[str, Any]
    lines: Mapping[Key, int]

    def line_of(self, key: Key) -> int:
        """The line of the value at ``key``, or of its nearest ancestor that is there."""
        for length in range(len(key), 0, -1):
            if (line := self.lines.get(key[:length])) is not None:
                return line
        return self.line

    def problem(self, key: Key, message: str) -> Problem:
        """A problem with the value at ``key``, there or missing."""
        return Problem(file=self.file, line=self.line_of(key), path=path_of(key), message=message)


def path_of(key: Key) -> str:
    """``key`` as a field path: ``spec.match.resources[0].apiGroups``, ``metadata.annotations['example.com/x']``."""
    path = ""
    for part in key:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", part):
            path += f".{part}" if path else part
        else:
            path += f"[{shown(part)}]"
    return path


def policy_files(path: Path) -> list[Path]:
    """The policy files at ``path``: itself if it is a file, else each ``*.yaml`` and ``*.yml`` below it, sorted.

    Hidden entries are passed over, among them the ``..data`` of a mounted ConfigMap, whose visible symbolic links are
    followed; so are ``driftwall-test.yaml`` files, which hold test cases. A folder that is reached twice is read once.

    Raises:
        FileNotFoundError: nothing is at ``path``, or the link of a policy file leads nowhere.
        OSError: a folder cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return _below(path, set()) if path.is_dir() else [path]


def _below(folder: Path, seen: set[Path]) -> list[Path]:
    real = folder.resolve()
    if real in seen:
        return []
    seen.add(real)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise type(error)(f"{folder}: {error.strerror}") from None
    files: list[Path] = []
    for entry in entries:
        if entry.is_dir():
            files += _below(entry, seen)
        elif entry.name.endswith(_SUFFIXES) and entry.name != TEST_FILE:
            if not entry.exists():
                raise FileNotFoundError(f"{entry}: a symbolic link that leads nowhere")
            if entry.is_file():
                files.append(entry)
    return files


def dump(value: dict[str, Any]) -> str:
    """``value`` as one YAML document, its keys in their order."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def load_documents(text: bytes, file: str) -> tuple[list[Document], list[Problem]]:
    """Read every document of a file; ``file`` is the name that documents and problems bear. Never raises.

    Gives all problems there are, sorted. After a syntax error nothing more of the file is read. A document with a
    problem is still among the documents where its value is beyond doubt (of duplicate keys, the first counts), so that
    it can be checked further; whoever acts on documents does so only when there is no problem.
    """
    if len(text) > MAX_BYTES:
        message = f"the file has {len(text):,} bytes; the limit is {MAX_BYTES:,}, what a ConfigMap holds"
        return [], [Problem(file=file, line=1, path="", message=message)]
    decoded = decode(text)
    if isinstance(decoded, Fault):
        return [], [Problem(file=file, line=decoded.line, path="", message=decoded.message)]
    reader = _Reader(decoded, file)
    reader.read()
    return reader.documents, sorted(reader.problems)


class _Manifests(_LOADER):  # type: ignore[misc]
    """Reads YAML as kubectl does (sigs.k8s.io/yaml): version 1.1, but for dates and numbers to the base of 60."""

    yaml_implicit_resolvers: ClassVar[Any] = {
        first: [(tag, known) for tag, known in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
        for first, resolvers in _LOADER.yaml_implicit_resolvers.items()
    }
    bool_values: ClassVar[Any] = {**_LOADER.bool_values, "y": True, "n": False}


_Manifests.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)\Z"),
    list("-+0123456789"),
)
_Manifests.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
    list("-+0123456789."),
)
_Manifests.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]\\Z"), list("yYnN"))


def load_manifests(stream: IO[bytes], file: str) -> Iterator[tuple[int, Any]]:
    """Each YAML document of ``stream``, one after the other, and the line that it begins on; empty ones are left out.

    Manifests of Kubernetes are read as kubectl reads them, and are as long as they like, unlike policies.

    Raises:
        SettingsError: it is no YAML.
    """
    loader = _Manifests(stream)
    try:
        while loader.check_node():
            node = loader.get_node()
            if (value := loader.construct_document(node)) is not None:
                yield int(node.start_mark.line) + 1, value
    except (yaml.YAMLError, ValueError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        why = escaped(str(getattr(error, "problem", None) or type(error).__name__))
        raise SettingsError(f"{escaped(file)}{line}: this is no YAML: {why}") from None
    finally:
        loader.dispose()


class _Unreadable(Exception):
    """The rest of the file is not worth reading."""


class _Reader:
    """The parser's events in, documents and problems out."""

    def __init__(self, text: str, file: str) -> None:
        self.documents: list[Document] = []
        self.problems: list[Problem] = []
        self._text = text
        self._file = file
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._nodes = 0
        self._lines: dict[Key, int] = {}
        self._in_doubt = False

    def read(self) -> None:
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    self._document(next(self._events))
        except _Unreadable:
            pass
        except (yaml.MarkedYAMLError, yaml.reader.ReaderError, ValueError, OverflowError) as error:
            # The last two are the Python parser's, over an escape such as "\U99999999" or a version of 5,000 digits.
            fault = self._syntax(error)
            self._report((), fault.line, fault.message)

    def _document(self, event: Any) -> None:
        self._lines = {}
        self._in_doubt = False
        found = len(self.problems)
        line = _line(event)
        value = self._value(event, ())
        next(self._events)  # the document's end; where a syntax error comes instead, that is the one problem to report
        if isinstance(value, dict) and not self._in_doubt:
            self.documents.append(Document(file=self._file, line=line, value=value, lines=self._lines))
        elif value is not None and len(self.problems) == found:
            self._report((), line, f"expected a mapping, such as 'kind: DriftPolicy', got {shown(value)}")

    def _value(self, event: Any, key: Key) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._report((), _line(event), f"the file has more than {MAX_NODES:,} values")
            raise _Unreadable
        self._refuse_extras(event, key)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key)
        if isinstance(event, yaml.AliasEvent):
            return None
        if len(key) >= MAX_DEPTH:
            self._report((), _line(event), f"lists and mappings are nested more than {MAX_DEPTH} deep")
            raise _Unreadable
        return self._mapping(key) if isinstance(event, yaml.MappingStartEvent) else self._list(key)

    def _list(self, key: Key) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            place = (*key, len(items))
            self._lines.setdefault(place, _line(event))
            items.append(self._value(event, place))
        return items

    def _mapping(self, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            name = self._name(event, key)
            place = (*key, name)
            self._lines.setdefault(place, line)
            value = self._value(next(self._events), place)
            if name in first:
                self._report(place, line, f"duplicate key; the first is on line {first[name]}")
            else:
                first[name] = line
                values[name] = value
        return values

    def _name(self, event: Any, key: Key) -> str:
        """A mapping's key. One that is no string is a problem, and stands in as its text."""
        if not isinstance(event, yaml.ScalarEvent):
            self._value(event, (*key, "?"))
            self._in_doubt = True
            self._report(key, _line(event), "a key that is not a string")
            return "?"
        self._refuse_extras(event, key)
        text: str = event.value
        if text == "<<" and not event.style:
            self._in_doubt = True
            self._report(key, _line(event), "the merge key << is refused; write the keys out")
        elif not isinstance(value := self._scalar(event, key), str):
            name = f"the key {cut(escaped(text), SHOWN)}" if text else "an empty key"
            self._report(key, _line(event), f"{name} is {_kind(value)}, not a string; quote it")
        return text

    def _scalar(self, event: Any, key: Key) -> str | int | float | bool | None:
        text: str = event.value
        try:
            if event.style:
                text.encode()  # the Python parser lets half a surrogate pair through
                return text
            return resolve(text)
        except UnicodeEncodeError:
            self._report(key, _line(event), "half a surrogate pair, which is no character")
        except ValueError as error:
            self._report(key, _line(event), str(error))
        self._in_doubt = True
        return None

    def _refuse_extras(self, event: Any, key: Key) -> None:
        if event.anchor is not None:
            kind = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
            self._in_doubt |= isinstance(event, yaml.AliasEvent)
            name = cut(escaped(event.anchor), 40)
            self._report(key, _line(event), f"the {kind}{name} is refused; write the value out wherever it is needed")
        if getattr(event, "tag", None) is not None:
            self._in_doubt = True
            tag = cut(escaped(event.tag.replace("tag:yaml.org,2002:", "!!")), 40)
            self._report(key, _line(event), f"the tag {tag} is refused; quote a value to make it a string")

    def _syntax(self, error: Exception) -> Fault:
        if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
            return Fault(1, f"not valid YAML: {cut(escaped(str(error)), 200)}")
        at, begun = error.problem_mark, error.context_mark or error.problem_mark
        character = self._text[at.index : at.index + 1]
        last = len(self._text.removesuffix("\n").split("\n"))  # the end of the file may count as a line beyond it
        line = min(at.line + 1, last)
        return explain(error.problem or "", error.context or "", line, begun.line + 1, character)

    def _report(self, key: Key, line: int, message: str) -> None:
        self.problems.append(Problem(file=self._file, line=line, path=path_of(key), message=message))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", type(None): "null"}
    return names.get(type(value), "no value")
