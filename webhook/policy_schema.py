"""Documents against the formats of policies and of their tests; errors in words for whoever wrote the file.

The formats are policy.schema.json and test.schema.json.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from webhook.breakglass import read_time
from webhook.documents import Document, Key, Problem
from webhook.durations import parse_duration
from webhook.fieldsets import NAMES as FIELD_SET_NAMES
from webhook.patterns import parse_pattern
from webhook.regexes import Pattern, compile_own, compile_pattern
from webhook.text import shown
from webhook.tools import TITLES

API_VERSION = "driftwall.io/v1alpha1"
POLICY_KIND = "DriftPolicy"
CONFIG_KIND = "DriftwallConfig"
TEST_KIND = "DriftPolicyTest"
_KINDS = (POLICY_KIND, CONFIG_KIND)
_TEST_KINDS = (TEST_KIND,)
_MISSING = "required key is missing"
_WANTED = {
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_GOT = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "a list", dict: "a mapping"}
# Of several rules that one value breaks, one is reported: the first of these, else any other.
_FIRST = ("enum", "type", "minLength", "maxLength", "format")


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both kinds, as the package ships it. Not to be changed."""
    return _load("policy.schema.json")


@functools.cache
def cases_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of files of cases, as the package ships it. Not to be changed."""
    return _load("test.schema.json")


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(resources.files("webhook").joinpath(name).read_text(encoding="utf-8"))
    return loaded


def validate(document: Document, kinds: Sequence[str] = _KINDS) -> list[Problem]:
    """Every way in which ``document`` is not what the format asks for, sorted; an empty list for none.

    The kind picks the definition; where kind or apiVersion is not known, that is the one problem.
    """
    if stranger := _stranger(document, kinds):
        return [stranger]
    found = _Found(document)
    errors = [_error(error) for error in _validator(document.value["kind"]).iter_errors(document.value)]
    # Unknown keys first: a misspelt key is not reported as a missing one as well.
    for error in sorted(errors, key=lambda error: error.keyword != "additionalProperties"):
        found.note(error)
    return found.problems()


def validate_test(document: Document) -> list[Problem]:
    """As :func:`validate`, of a file of cases."""
    return validate(document, _TEST_KINDS)


def _stranger(document: Document, kinds: Sequence[str]) -> Problem | None:
    value = document.value
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        expected = f"expected {' or '.join(kinds)} of apiVersion {API_VERSION}"
        got = f", got {shown(kind)}{_did_you_mean(kind, kinds)}" if "kind" in value else f"; the {_MISSING}"
        return document.problem(("kind",), expected + got)
    if value.get("apiVersion") != API_VERSION:
        got = f", got {shown(value['apiVersion'])}" if "apiVersion" in value else f"; the {_MISSING}"
        return document.problem(("apiVersion",), f"expected {API_VERSION}{got}")
    return None


class _Error(NamedTuple):
    """One error of the validator: ``value`` at ``key`` does not meet ``rule`` of ``keyword`` in ``schema``."""

    key: Key
    keyword: str
    value: Any
    rule: Any
    schema: dict[str, Any]
    of_name: bool  # it is about a mapping's key, which is then the last part of ``key``
    message: str


def _error(error: ValidationError) -> _Error:
    key: Key = tuple(error.absolute_path)
    value: Any = error.instance
    of_name = "propertyNames" in error.schema_path
    return _Error(
        key=(*key, value) if of_name else key,
        keyword=str(error.validator),
        value=value,
        rule=error.validator_value,
        schema=error.schema if isinstance(error.schema, dict) else {},
        of_name=of_name,
        message=error.message,
    )


class _Found:
    """What is wrong with one document: one message for each place."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._messages: dict[tuple[Key, bool], tuple[int, str]] = {}
        self._meant: dict[Key, set[str]] = defaultdict(set)  # by mapping: the known keys that unknown ones resemble

    def note(self, error: _Error) -> None:
        meant = self._meant[error.key]
        if error.keyword == "additionalProperties":
            known = list(error.schema["properties"])
            for name in sorted(set(error.value) - set(known)):
                meant.update(_closest(name, known))
                advice = _did_you_mean(name, known) or f"; known here: {', '.join(known)}"
                self._add((*error.key, name), error, f"unknown key{advice}")
        elif error.keyword == "required":
            if error.message not in meant:
                self._add((*error.key, error.message), error, _MISSING)
        elif error.keyword != "anyOf" or meant.isdisjoint(_alternatives(error)):
            self._add(error.key, error, _explain(error))

    def problems(self) -> list[Problem]:
        return sorted(self._document.problem(key, message) for (key, _), (_, message) in self._messages.items())

    def _add(self, key: Key, error: _Error, message: str) -> None:
        rank = _FIRST.index(error.keyword) if error.keyword in _FIRST else len(_FIRST)
        place = (key, error.of_name)
        if place not in self._messages or rank < self._messages[place][0]:
            self._messages[place] = (rank, message)


def _explain(error: _Error) -> str:
    value, rule, explanation = error.value, error.rule, error.schema.get("x-explanation")
    match error.keyword:
        case "type":
            return _wrong_type(value, [rule] if isinstance(rule, str) else rule)
        case "enum":
            return f"{shown(value)} is not one of {', '.join(rule)}"
        case "minLength":
            return "an empty string"
        case "maxLength":
            return f"{shown(value)} is longer than {rule:,} characters"
        case "format":
            return error.message
        case _ if explanation:
            return f"{shown(value)} {explanation}" if isinstance(value, str) else str(explanation)
        case keyword:
            return f"{shown(value)} does not meet {keyword} {shown(rule)}"


def _wrong_type(value: object, expected: list[str]) -> str:
    message = f"expected {' or '.join(_WANTED[name] for name in expected)}, got {_GOT.get(type(value), 'null')}"
    match expected[0], value:
        case _, None:
            return f"{message}; give it a value or leave the key out"
        case "string", bool() | int() | float():
            return f"{message}; quote it"
        case "boolean", str(word) if word.lower() in ("true", "yes", "on", "y"):
            return f"{message}; write true without quotes"
        case "boolean", str(word) if word.lower() in ("false", "no", "off", "n"):
            return f"{message}; write false without quotes"
        case "array", str():
            return f"{message}; write it as [{shown(value)}]"
        case "array", dict():
            return f"{message}; begin each item with '- '"
        case _:
            return message


def _alternatives(error: _Error) -> set[str]:
    return {name for branch in error.rule for name in branch["required"]}


def _closest(name: object, known: Iterable[str]) -> list[str]:
    """The known key that ``name`` seems to mean, if any; case does not count."""
    if not isinstance(name, str):
        return []
    lower = {key.lower(): key for key in known}
    # A typing error leaves a resemblance above 0.7; that of "fields" and "fieldManagers" is 0.63.
    return [lower[match] for match in difflib.get_close_matches(name[:100].lower(), lower, n=1, cutoff=0.7)]


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    return "".join(f"; did you mean '{match}'?" for match in _closest(name, known))


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    checks = {"pattern": _check_pattern, "format": _check_format, "required": _check_required}
    strict: Any = extend(Draft202012Validator, checks)  # type: ignore[no-untyped-call]
    definitions = (cases_schema() if kind == TEST_KIND else schema())["$defs"]
    validator: Draft202012Validator = strict({"$ref": f"#/$defs/{kind}", "$defs": definitions})
    return validator


_compiled: Callable[[str], Pattern] = functools.cache(compile_own)  # the schema's own patterns: few, always the same


def _check_pattern(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    """JSON Schema's keyword, whose ``$`` is the very end of the text; jsonschema's also matches before a newline."""
    if isinstance(value, str) and not _compiled(pattern).matches(value):
        yield ValidationError("pattern")


def _check_required(_: object, names: list[str], value: object, __: object) -> Iterator[ValidationError]:
    """JSON Schema's keyword; the message is the name of the missing key, which jsonschema wraps in a sentence."""
    if isinstance(value, dict):
        yield from (ValidationError(name) for name in names if name not in value)


def _check_format(_: object, name: str, value: object, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str):
        try:
            _FORMATS[name](value)
        except ValueError as error:
            yield ValidationError(f"not a regular expression (RE2): {error}" if name == "re2" else str(error))


def _known(what: str, names: Iterable[str]) -> Callable[[str], object]:
    def check(name: str) -> None:
        if name not in names:
            raise ValueError(f"{shown(name)} is no {what}; there are {', '.join(sorted(names))}")

    return check


def _time(text: str) -> None:
    if read_time(text) is None:
        raise ValueError(f"{shown(text)} is no time such as 2006-01-02T15:04:05Z")


# The formats of the schema, each by the function that reads such a text and raises ValueError.
_FORMATS: dict[str, Callable[[str], object]] = {
    "re2": compile_pattern,
    "go-duration": parse_duration,
    "field-path": parse_pattern,
    "field-set": _known("field set", FIELD_SET_NAMES),
    "tool": _known("tool that driftwall knows", TITLES),
    "date-time": _time,
}
