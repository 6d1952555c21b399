"""Policy files to a :class:`~webhook.policy.Snapshot`: read, checked against the schema and beyond it, compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from webhook import tags
from webhook.breakglass import BreakGlass
from webhook.documents import MAX_BYTES, Document, Key, Problem, load_documents, policy_files
from webhook.durations import parse_duration
from webhook.errors import PolicyError
from webhook.globs import Globs
from webhook.identity import HPA, SYSTEM, Writer, Writers
from webhook.labels import LabelSelector
from webhook.meta import metadata_of
from webhook.patterns import PathSet, Pattern, parse_pattern
from webhook.policy import (
    CHILDREN_OPERATIONS,
    DEFAULT_EXEMPT_NAMESPACES,
    DEFAULT_MAX_DURATION,
    DEFAULT_OPERATIONS,
    DRY_RUN,
    Config,
    Match,
    Policy,
    ResourceRule,
    Snapshot,
)
from webhook.policy_schema import CONFIG_KIND, POLICY_KIND, validate
from webhook.regexes import compile_pattern
from webhook.text import shown
from webhook.tools import MARKERS, instance_label_marker

_T = TypeVar("_T")

#: The service account that driftwall has unless told otherwise.
USUAL_ACCOUNT: Final = "driftwall-system/driftwall"


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What policy files hold: each file's name and its content, and why some could not be read."""

    texts: tuple[tuple[str, bytes], ...]
    problems: tuple[Problem, ...]


def load(path: Path) -> Snapshot:
    """Read and compile the policies in a file or folder.

    Raises:
        PolicyError: with every problem found, one line each.
    """
    return compile_texts(read_texts([path]), str(path))


def compile_texts(read: Texts, source: str, *, account: str = USUAL_ACCOUNT) -> Snapshot:
    """Compile what was read from ``source``; ``account`` as in :func:`compile_documents`.

    Raises:
        PolicyError: with every problem found, one line each.
    """
    documents, problems = _documents(read)
    snapshot, more = compile_documents(documents, account=account)
    problems += more
    if not problems and not documents:
        problems.append(
            Problem(file=source, line=1, path="", message="no policy is here; driftwall would guard nothing")
        )
    if problems:
        raise PolicyError([str(problem) for problem in sorted(problems)])
    return snapshot


def check_documents(paths: Sequence[Path]) -> tuple[int, list[Problem]]:
    """Read the policies in files and folders; how many documents there are, and all problems, sorted."""
    documents, problems = _documents(read_texts(paths))
    return len(documents), sorted(problems + compile_documents(documents)[1])


def _documents(read: Texts) -> tuple[list[Document], list[Problem]]:
    documents: list[Document] = []
    problems = list(read.problems)
    for file, text in read.texts:
        more, found = load_documents(text, file)
        documents += more
        problems += found
    return documents, problems


def read_texts(paths: Iterable[Path]) -> Texts:
    """Read the policy files in files and folders, of each no more than one byte beyond what is taken. Never raises."""
    texts: list[tuple[str, bytes]] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            files = policy_files(path)
        except OSError as error:
            problems.append(Problem(file=str(path), line=1, path="", message=f"cannot be read: {error}"))
            continue
        for file in files:
            try:
                with file.open("rb") as opened:
                    texts.append((str(file), opened.read(MAX_BYTES + 1)))  # one more than is taken: it is refused
            except OSError as error:
                problems.append(Problem(file=str(file), line=1, path="", message=f"cannot be read: {error.strerror}"))
    return Texts(texts=tuple(texts), problems=tuple(problems))


def compile_documents(
    documents: Sequence[Document], *, valid: bool = False, account: str = USUAL_ACCOUNT
) -> tuple[Snapshot, list[Problem]]:
    """Check and compile documents; the snapshot is of use only if no problem is returned.

    ``valid``: each has been found to meet the schema already, which is most of the work. ``account`` is driftwall's own
    service account, as ``namespace/name``: it leaves its mark on the parent of a scale, which no patch of a review
    reaches, and may write nothing else.
    """
    problems: list[Problem] = []
    sound: list[Document] = []
    for document in documents:
        found = [] if valid else validate(document)
        problems += found
        if not found:
            sound.append(document)
    problems += _repeated(documents)
    configs = [document for document in sound if document.value["kind"] == CONFIG_KIND]
    compiler = _Compiler(problems, account)
    config = compiler.config(configs[0] if configs else None)
    policies = [compiler.policy(document, config) for document in sound if document.value["kind"] == POLICY_KIND]
    return Snapshot(config, policies, _digest(sound)), problems


def _digest(documents: Iterable[Document]) -> bytes:
    contents = sorted(
        msgspec.json.encode(
            (value["kind"], value["metadata"]["name"], value.get("spec")),
            order="deterministic",
        )
        for value in (document.value for document in documents)
    )
    return hashlib.sha256(b"\n".join(contents)).digest()


def _repeated(documents: Iterable[Document]) -> list[Problem]:
    """A second configuration, and policies of the same name, whatever else is wrong with them."""
    problems: list[Problem] = []
    config: Document | None = None
    names: dict[str, Document] = {}
    for document in documents:
        kind, name = document.value.get("kind"), metadata_of(document.value).get("name")
        if kind == CONFIG_KIND:
            if config is not None:
                message = f"a second {CONFIG_KIND}; the first is at {config.file}:{config.line}, and there can be one"
                problems.append(document.problem(("kind",), message))
            config = config or document
        elif kind == POLICY_KIND and isinstance(name, str):
            other = names.setdefault(name, document)
            if other is not document:
                message = f"a second {POLICY_KIND} named {shown(name)}; the first is at {other.file}:{other.line}"
                problems.append(document.problem(("metadata", "name"), message))
    return problems


def default_config() -> Config:
    """The configuration in force where there is none: the known tools' usual service accounts are trusted."""
    return _Compiler([], USUAL_ACCOUNT).config(None)


class _Compiler:
    def __init__(self, problems: list[Problem], account: str) -> None:
        self._problems = problems
        self._itself = Writer(name="driftwall", service_accounts=(account,), fields=PathSet.of(*tags.PATHS))

    def config(self, document: Document | None) -> Config:
        spec: Mapping[str, Any] = document.value["spec"] if document is not None else {}
        label_mode = spec.get("argocd", {}).get("instanceLabelKey")
        markers = MARKERS if label_mode is None else (*MARKERS, instance_label_marker(label_mode))
        declared_writers = spec.get("trustedWriters")
        if declared_writers is None:
            trusted = default_writers()
        else:
            trusted = self._writers(document, ("spec", "trustedWriters"), declared_writers)
        system = spec.get("systemWriters", {})
        extra = Writer(
            name="system",
            users=tuple(system.get("users", ())),
            groups=tuple(system.get("groups", ())),
            service_accounts=tuple(system.get("serviceAccounts", ())),
        )
        if document is not None:
            self._globs(document, ("spec", "systemWriters", "serviceAccounts"), system.get("serviceAccounts", ()))
        automation = self._writers(document, ("spec", "automation"), spec.get("automation", ()))
        return Config(
            name=document.value["metadata"]["name"] if document is not None else "default",
            cluster_id=spec.get("clusterId", ""),
            trusted=Writers(trusted),
            # The built-in ones last: a configuration may give the same service accounts more.
            automation=Writers((*automation, HPA, self._itself)),
            system=Writers((SYSTEM, extra)),
            exempt_namespaces=self._globs(
                document, ("spec", "exemptNamespaces"), spec.get("exemptNamespaces", DEFAULT_EXEMPT_NAMESPACES)
            ),
            guard_identities=spec.get("guardIdentities", True),
            break_glass=self._break_glass(document, ("spec", "breakGlass"), spec.get("breakGlass")),
            markers=markers,
        )

    def policy(self, document: Document, config: Config) -> Policy:
        spec = document.value["spec"]
        protect = spec["protect"]
        declared = protect.get("declared", False)
        place = ("spec", "protect")
        trusted = self._writers(document, ("spec", "trusted"), spec.get("trusted", ()))
        automation = self._writers(document, ("spec", "automation"), spec.get("automation", ()))
        fields = self._patterns(document, (*place, "fields"), protect.get("fields", ()))
        ignore = self._path_set(document, (*place, "ignore"), protect.get("ignore", ()))
        all_trusted = (*config.trusted.writers, *trusted)
        break_glass = self._break_glass(document, ("spec", "breakGlass"), spec.get("breakGlass"))
        return Policy(
            name=document.value["metadata"]["name"],
            mode=spec.get("mode", DRY_RUN),
            description=spec.get("description", ""),
            severity=spec.get("severity", "medium"),
            controls=tuple(spec.get("controls", ())),
            message=spec.get("message", ""),
            match=self._match(document, spec.get("match", {}), children=protect.get("children", False)),
            declared=declared,
            field_sets=tuple(protect.get("fieldSets", ())),
            fields=tuple(fields),
            ignore=ignore or None,
            deletion=protect.get("deletion", declared),
            children=protect.get("children", False),
            trusted=Writers(all_trusted) if trusted else config.trusted,
            automation=Writers((*automation, *config.automation.writers)) if automation else config.automation,
            break_glass=break_glass or config.break_glass,
            field_managers=Globs(manager for writer in all_trusted for manager in writer.field_managers),
        )

    def _match(self, document: Document, match: Mapping[str, Any], *, children: bool) -> Match:
        place: Key = ("spec", "match")
        resources = match.get("resources")
        namespaces = match.get("namespaces")
        return Match(
            scope_all=match.get("scope") == "All",
            tools=frozenset(match["tools"]) if "tools" in match else None,
            resources=None
            if resources is None
            else tuple(
                ResourceRule(api_groups=frozenset(rule["apiGroups"]), resources=frozenset(rule["resources"]))
                for rule in resources
            ),
            operations=frozenset(match.get("operations", CHILDREN_OPERATIONS if children else DEFAULT_OPERATIONS)),
            namespaces=None if namespaces is None else self._globs(document, (*place, "namespaces"), namespaces),
            exclude_namespaces=self._globs(document, (*place, "excludeNamespaces"), match.get("excludeNamespaces", ())),
            namespace_selector=self._selector(document, (*place, "namespaceSelector"), match.get("namespaceSelector")),
            object_selector=self._selector(document, (*place, "objectSelector"), match.get("objectSelector")),
        )

    def _selector(self, document: Document, key: Key, selector: Mapping[str, Any] | None) -> LabelSelector | None:
        if selector is None:
            return None
        return self._try(document, key, lambda: LabelSelector(selector), LabelSelector({}))

    def _writers(self, document: Document | None, key: Key, writers: Sequence[Mapping[str, Any]]) -> tuple[Writer, ...]:
        compiled = []
        names: dict[str, int] = {}
        for index, writer in enumerate(writers):
            place: Key = (*key, index)
            name = writer["name"]
            if names.setdefault(name, index) != index:
                self._add(
                    document, (*place, "name"), f"a second writer named {name!r}; the log could not tell them apart"
                )
            if not any(writer.get(who) for who in ("serviceAccounts", "users", "groups")):
                self._add(document, place, f"{name!r} names nobody: give serviceAccounts, users or groups")
            for number, account in enumerate(writer.get("serviceAccounts", ())):
                namespace, slash, account_name = account.partition("/")
                if not (namespace and slash and account_name) or "/" in account_name:
                    self._add(document, (*place, "serviceAccounts", number), f"{account!r} is not namespace/name")
            self._globs(document, (*place, "serviceAccounts"), writer.get("serviceAccounts", ()))
            self._globs(document, (*place, "fieldManagers"), writer.get("fieldManagers", ()))
            fields = writer.get("fields")
            patterns = None if fields is None else self._path_set(document, (*place, "fields"), fields)
            compiled.append(
                self._try(
                    document,
                    place,
                    lambda w=writer, p=patterns: Writer(  # type: ignore[misc]
                        name=w["name"],
                        service_accounts=tuple(w.get("serviceAccounts", ())),
                        users=tuple(w.get("users", ())),
                        groups=tuple(w.get("groups", ())),
                        verify=w.get("verify", "uid"),
                        field_managers=tuple(w.get("fieldManagers", ())),
                        fields=p,
                    ),
                    Writer(name=name),
                )
            )
        return tuple(compiled)

    def _break_glass(self, document: Document | None, key: Key, spec: Mapping[str, Any] | None) -> BreakGlass | None:
        if spec is None:
            return None
        pattern, duration = spec.get("reasonPattern"), spec.get("maxDuration")
        reason = None
        if pattern is not None:
            reason = self._try(document, (*key, "reasonPattern"), lambda: compile_pattern(pattern), None)
        longest = DEFAULT_MAX_DURATION
        if duration is not None:
            longest = self._try(document, (*key, "maxDuration"), lambda: parse_duration(duration), longest)
            if not longest:
                self._add(document, (*key, "maxDuration"), "must be longer than nothing")
        return BreakGlass(
            groups=frozenset(spec.get("groups", ())),
            users=frozenset(spec.get("users", ())),
            reason=reason,
            max_duration=longest,
        )

    def _patterns(self, document: Document | None, key: Key, texts: Iterable[str]) -> list[Pattern]:
        found = (
            self._try(document, (*key, index), lambda t=text: parse_pattern(t), None)  # type: ignore[misc]
            for index, text in enumerate(texts)
        )
        return [pattern for pattern in found if pattern is not None]

    def _path_set(self, document: Document | None, key: Key, texts: Iterable[str]) -> PathSet:
        made = PathSet(self._patterns(document, key, texts))
        made.texts = tuple(texts)
        return made

    def _globs(self, document: Document | None, key: Key, texts: Iterable[str]) -> Globs:
        sound = []
        for index, text in enumerate(texts):
            if self._try(document, (*key, index), lambda t=text: Globs([t]), None) is not None:  # type: ignore[misc]
                sound.append(text)
        return Globs(sound)

    def _try(self, document: Document | None, key: Key, make: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return make()
        except ValueError as error:
            self._add(document, key, str(error))
            return otherwise

    def _add(self, document: Document | None, key: Key, message: str) -> None:
        if document is None:
            raise ValueError(message)
        self._problems.append(document.problem(key, message))


def default_writers() -> tuple[Writer, ...]:
    """The known tools' own service accounts in their usual namespaces, one writer a tool."""
    accounts: dict[str, dict[str, None]] = {}
    managers: dict[str, dict[str, None]] = {}
    for marker in MARKERS:
        accounts.setdefault(marker.tool, {}).update(dict.fromkeys(marker.service_accounts))
        managers.setdefault(marker.tool, {}).update(dict.fromkeys(marker.managers))
    return tuple(
        Writer(name=tool, service_accounts=tuple(names), field_managers=tuple(managers[tool]))
        for tool, names in accounts.items()
        if names
    )
