from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from webhook import documents
from webhook.documents import Document, Problem, load_documents, path_of, policy_files


@pytest.fixture(params=["in C", "in Python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML without libyaml has only its own parser; both must do."""
    monkeypatch.setattr(documents, "_LOADER", yaml.CSafeLoader if request.param == "in C" else yaml.SafeLoader)


both_parsers = pytest.mark.usefixtures("_parser")


def load(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    found, problems = load_documents(text.encode(), "p.yaml")
    return [document.value for document in found], [str(problem) for problem in problems]


def problems_of(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [str(problem) for problem in load_documents(data, "p.yaml")[1]]


# Values


@both_parsers
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        ("12", 12),
        ("+12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("22:22", "22:22"),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("6e3", 6000.0),
        ("1e-3", 0.001),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
        ('"\\x41\\u00fc\\0"', "Aü\0"),
        ("|\n  one\n  two\n", "one\ntwo\n"),
        (">-\n  one\n  two\n", "one two"),
        ("[1, a, [], {}]", [1, "a", [], {}]),
        ("{b: 1, c: }", {"b": 1, "c": None}),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    values, problems = load(f"a: {text}")
    assert problems == []
    assert values == [{"a": expected}]
    assert type(values[0]["a"]) is type(expected)


@both_parsers
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".inf", "the number .inf cannot be written in JSON; quote it if it is a string"),
        ("-.Inf", "the number -.Inf cannot be written in JSON; quote it if it is a string"),
        (".nan", "the number .nan cannot be written in JSON; quote it if it is a string"),
        ("1e999", "the number 1e999 cannot be written in JSON; quote it if it is a string"),
        ("9223372036854775808", "the number 9223372036854775808 does not fit in 64 bits; quote it if it is a string"),
        ("9" * 5000, "a number with too many digits; quote it if it is a string"),
    ],
)
def test_a_number_that_json_cannot_hold_is_a_problem(text: str, message: str) -> None:
    assert load(f"a: {text}") == ([], [f"p.yaml:1: a: {message}"])


@both_parsers
def test_several_documents_are_read_and_empty_ones_are_passed_over() -> None:
    text = "# nothing\n---\n---\na: 1\n---\n~\n---\n# nothing\n...\n---\nb: 2\n---\n"
    assert load(text) == ([{"a": 1}, {"b": 2}], [])


@both_parsers
def test_an_empty_file_has_no_documents() -> None:
    assert load("") == ([], [])
    assert load("# only a comment\n") == ([], [])


@both_parsers
def test_a_file_with_windows_line_ends_and_a_byte_order_mark_reads_the_same() -> None:
    text = "# first\nkind: x\nspec:\n  list:\n    - a\n    - b\n"
    plain, _ = load_documents(text.encode(), "p.yaml")
    windows, problems = load_documents(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "p.yaml")
    assert problems == []
    assert windows == plain


# Lines


@both_parsers
def test_every_value_knows_its_line() -> None:
    head = "# policy\n---\nkind: x\nspec:\n  match:\n    resources:\n"
    text = f"{head}      - apiGroups: [a]\n        resources:\n          - b\n"
    [document], _ = load_documents(text.encode(), "p.yaml")
    assert document.line == 3
    assert dict(document.lines) == {
        ("kind",): 3,
        ("spec",): 4,
        ("spec", "match"): 5,
        ("spec", "match", "resources"): 6,
        ("spec", "match", "resources", 0): 7,
        ("spec", "match", "resources", 0, "apiGroups"): 7,
        ("spec", "match", "resources", 0, "apiGroups", 0): 7,
        ("spec", "match", "resources", 0, "resources"): 8,
        ("spec", "match", "resources", 0, "resources", 0): 9,
    }


def test_the_line_of_what_is_missing_is_its_nearest_ancestors() -> None:
    document = Document(file="p.yaml", line=3, value={}, lines={("spec",): 4, ("spec", "match"): 5})
    assert document.line_of(("spec", "match")) == 5
    assert document.line_of(("spec", "match", "tools", 0)) == 5
    assert document.line_of(("spec", "mode")) == 4
    assert document.line_of(("kind",)) == 3
    assert document.line_of(()) == 3


@both_parsers
def test_the_line_of_a_later_document_counts_from_the_top_of_the_file() -> None:
    found, _ = load_documents(b"a: 1\n---\n\nb: 2\n", "p.yaml")
    assert [(document.line, document.line_of(("b",))) for document in found] == [(1, 1), (4, 4)]


# Problems


def test_a_problem_prints_as_file_line_path_and_message() -> None:
    assert str(Problem(file="a.yaml", line=12, path="spec.mode", message="bad")) == "a.yaml:12: spec.mode: bad"
    assert str(Problem(file="a.yaml", line=1, path="", message="bad")) == "a.yaml:1: bad"
    assert str(Problem(file="a\n.yaml", line=1, path="", message="bad")) == "a\\n.yaml:1: bad"


def test_problems_sort_by_file_and_line() -> None:
    def make(file: str, line: int) -> Problem:
        return Problem(file=file, line=line, path="", message="x")

    assert sorted([make("b", 1), make("a", 10), make("a", 9)]) == [make("a", 9), make("a", 10), make("b", 1)]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ((), ""),
        (("spec", "match", "resources", 0, "apiGroups"), "spec.match.resources[0].apiGroups"),
        (("metadata", "annotations", "example.com/x"), "metadata.annotations['example.com/x']"),
        (("a b", "c"), "['a b'].c"),
        (("x\n\u202e",), "['x\\n\\u202e']"),
        (("k" * 100,), f"['{'k' * 57}…']"),
        (("",), "['']"),
    ],
)
def test_a_place_is_written_as_a_field_path(key: documents.Key, path: str) -> None:
    assert path_of(key) == path


@both_parsers
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c", "p.yaml:1: a ':' where no key can stand; check the indentation, or quote the value"),
        ("a: 1\n b: 2", "p.yaml:2: a ':' where no key can stand; check the indentation, or quote the value"),
        ("a\nb: c", "p.yaml:2: a ':' where no key can stand; check the indentation, or quote the value"),
        ("a:\n\tb: 1", "p.yaml:2: a tab where YAML wants spaces"),
        ("\ta: 1", "p.yaml:1: a tab where YAML wants spaces"),
        ("a: b\n\tc: d", "p.yaml:2: a tab where YAML wants spaces"),
        ("a: @b", "p.yaml:1: a value cannot begin with '@'; quote it"),
        ("a: 1\nb: %c", "p.yaml:2: a value cannot begin with '%'; quote it"),
        ('a: "x\nb: c\n', "p.yaml:1: a quote that is never closed"),
        ("a: 'x\nb: c\n", "p.yaml:1: a quote that is never closed"),
        ("a: b\nkey\nc: d", "p.yaml:2: a key without a ':' after it"),
        ("a: [1, 2", "p.yaml:1: the '[' that is opened here is not closed, or a comma is missing in it"),
        ("a: {b: 1]", "p.yaml:1: the '{' that is opened here is not closed, or a comma is missing in it"),
        ("a: [\n", "p.yaml:1: a value is missing here, or a bracket is not closed or closed twice"),
        ("a: ]\n", "p.yaml:1: a value is missing here, or a bracket is not closed or closed twice"),
        (
            "a:\n  - b\n c: 1",
            "p.yaml:3: this does not fit the mapping that it stands in; check the indentation and the quotes",
        ),
        (
            "- a\nb: c",
            "p.yaml:2: this does not fit the list that it stands in; check the indentation and the quotes",
        ),
        (
            "a: 'x'y",
            "p.yaml:1: this does not fit the mapping that it stands in; check the indentation and the quotes",
        ),
    ],
)
def test_a_syntax_error_is_one_problem_with_its_line(text: str, problem: str) -> None:
    assert load(text) == ([], [problem])


@both_parsers
@pytest.mark.parametrize(
    "text", ["a: *", "%YAML 3.0\n---\na: 1", "!<%ff> a", "a: |x\n b", '"\\q": 1', "a: x\n...\nb", "%FOO\na: 1"]
)
def test_a_rare_syntax_error_is_reported_in_the_parsers_words(text: str) -> None:
    [problem] = problems_of(text)
    assert ": not valid YAML: " in problem


@both_parsers
@pytest.mark.parametrize("text", ["%YAML 1." + "9" * 5000 + "\n---\na: 1", 'a: "\\U99999999"', 'a: "\\ud800"'])
def test_numbers_that_are_too_large_for_the_parser_are_a_problem(text: str) -> None:
    assert len(problems_of(text)) == 1


@both_parsers
def test_documents_before_a_syntax_error_are_still_read() -> None:
    values, problems = load("a: 1\n---\nb: [\n---\nc: 3\n")
    assert values == [{"a": 1}]
    assert len(problems) == 1


@both_parsers
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!str 5", "p.yaml:1: a: the tag !!str is refused; quote a value to make it a string"),
        ("a: ! 5", "p.yaml:1: a: the tag ! is refused; quote a value to make it a string"),
        ("a: !Ref x", "p.yaml:1: a: the tag !Ref is refused; quote a value to make it a string"),
        ("!!map {a: 1}", "p.yaml:1: the tag !!map is refused; quote a value to make it a string"),
        ("--- !!null", "p.yaml:1: the tag !!null is refused; quote a value to make it a string"),
        ("!!str a: 1", "p.yaml:1: the tag !!str is refused; quote a value to make it a string"),
        (
            "a:\n  - !!python/object/apply:os.system [x]",
            "p.yaml:2: a[0]: the tag !!python/object/apply:os.system is refused; quote a value to make it a string",
        ),
        ("%TAG !e! x\n---\na: 1", "p.yaml:1: the directive %TAG is refused, as tags are"),
        ("a: {<<: {b: 1}}", "p.yaml:1: a: the merge key << is refused; write the keys out"),
        ("? [a]\n: b", "p.yaml:1: a key that is not a string"),
        ("? {a: b}\n: c", "p.yaml:1: a key that is not a string"),
        ("- a", "p.yaml:1: expected a mapping, such as 'kind: DriftPolicy', got a list of 1"),
        ("a", "p.yaml:1: expected a mapping, such as 'kind: DriftPolicy', got 'a'"),
        ("---\nfalse\n", "p.yaml:2: expected a mapping, such as 'kind: DriftPolicy', got false"),
    ],
)
def test_what_json_does_not_have_is_refused(text: str, problem: str) -> None:
    assert load(text) == ([], [problem])


@both_parsers
def test_an_anchor_and_its_alias_are_both_problems() -> None:
    assert load("a: &x 1\nb: [*x]\n") == (
        [],
        [
            "p.yaml:1: a: the anchor &x is refused; write the value out wherever it is needed",
            "p.yaml:2: b[0]: the alias *x is refused; write the value out wherever it is needed",
        ],
    )


@both_parsers
def test_a_key_that_is_no_string_is_a_problem_and_its_text_stands_in_for_it() -> None:
    assert load("1: a\ntrue: b\n~: c\n? \n: d\n1.5: e\n0x10: f\n") == (
        [{"1": "a", "true": "b", "~": "c", "": "d", "1.5": "e", "0x10": "f"}],
        [
            "p.yaml:1: the key 1 is an integer, not a string; quote it",
            "p.yaml:2: the key true is a boolean, not a string; quote it",
            "p.yaml:3: the key ~ is null, not a string; quote it",
            "p.yaml:4: an empty key is null, not a string; quote it",
            "p.yaml:6: the key 1.5 is a number, not a string; quote it",
            "p.yaml:7: the key 0x10 is an integer, not a string; quote it",
        ],
    )


@both_parsers
def test_quoted_keys_and_words_of_other_yaml_versions_are_strings() -> None:
    assert load("'1': a\n\"<<\": b\non: c\nyes: d\n") == ([{"1": "a", "<<": "b", "on": "c", "yes": "d"}], [])


@both_parsers
def test_duplicate_keys_are_problems_at_any_depth_and_the_first_counts() -> None:
    text = "a: 1\nb:\n  - c:\n      d: 1\n      e: 2\n      d: 3\na: 2\n'a': 3\n"
    assert load(text) == (
        [{"a": 1, "b": [{"c": {"d": 1, "e": 2}}]}],
        [
            "p.yaml:6: b[0].c.d: duplicate key; the first is on line 4",
            "p.yaml:7: a: duplicate key; the first is on line 1",
            "p.yaml:8: a: duplicate key; the first is on line 1",
        ],
    )


@both_parsers
def test_everything_that_is_wrong_is_reported_at_once() -> None:
    text = "a: &x 1\na: !!int 2\n1: *x\n---\n- b\n---\nc: .nan\n---\nd: ok\n---\ne: [\n"
    values, problems = load(text)
    assert values == [{"d": "ok"}]
    assert problems == [
        "p.yaml:1: a: the anchor &x is refused; write the value out wherever it is needed",
        "p.yaml:2: a: duplicate key; the first is on line 1",
        "p.yaml:2: a: the tag !!int is refused; quote a value to make it a string",
        "p.yaml:3: the key 1 is an integer, not a string; quote it",
        "p.yaml:3: ['1']: the alias *x is refused; write the value out wherever it is needed",
        "p.yaml:5: expected a mapping, such as 'kind: DriftPolicy', got a list of 1",
        "p.yaml:7: c: the number .nan cannot be written in JSON; quote it if it is a string",
        "p.yaml:11: a value is missing here, or a bracket is not closed or closed twice",
    ]


# Bytes


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: 1\nb: \xff\n", "p.yaml:2: the byte 0xff is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "p.yaml:1: the file is in UTF-16; save it as UTF-8"),
        (
            b"a: 1\nb: \x00\n",
            "p.yaml:2: the character U+0000 may not stand in YAML; use an escape in double quotes",
        ),
        (b"a: \x1b[31m", "p.yaml:1: the character U+001B may not stand in YAML; use an escape in double quotes"),
        (
            "a: 1 # \u2028b: 2".encode(),
            "p.yaml:1: the character U+2028 may not stand in YAML; use an escape in double quotes",
        ),
        (
            "a: 1\n# \x85b: 2".encode(),
            "p.yaml:2: the character U+0085 may not stand in YAML; use an escape in double quotes",
        ),
        (b"a: 1\n# x\rb: 2", "p.yaml:2: a carriage return without a line feed; save the file with LF line ends"),
    ],
)
def test_bytes_that_are_no_plain_text_are_one_problem(data: bytes, problem: str) -> None:
    assert problems_of(data) == [problem]


def test_a_file_larger_than_a_config_map_is_not_read() -> None:
    assert problems_of(b"#" * (1024 * 1024)) == []
    assert problems_of(b"#" * (1024 * 1024 + 1)) == [
        "p.yaml:1: the file has 1,048,577 bytes; the limit is 1,048,576, what a ConfigMap holds"
    ]


@both_parsers
@pytest.mark.parametrize("text", ["[" * 9000, "{a: " * 9000, "- " * 9000, "? " * 9000, "a:\n" + " [\n" * 9000])
def test_deep_nesting_is_one_problem(text: str) -> None:
    [problem] = problems_of(text)
    assert problem.endswith(": lists and mappings are nested more than 64 deep")


@both_parsers
def test_nesting_is_allowed_up_to_64() -> None:
    assert problems_of("{a: " * 64 + "}" * 64) == []
    assert problems_of("{a: " * 65 + "}" * 65) == ["p.yaml:1: lists and mappings are nested more than 64 deep"]


@both_parsers
def test_a_file_of_very_many_values_is_refused() -> None:
    assert problems_of("a: [" + "x," * 100_000 + "]") == ["p.yaml:1: the file has more than 100,000 values"]


@both_parsers
def test_an_alias_bomb_is_found_before_it_expands() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    started = time.perf_counter()
    values, problems = load("\n".join(lines))
    assert time.perf_counter() - started < 2  # seconds; expanded, it would have 9 to the 30th values
    assert values == []
    assert len(problems) == 30 + 29 * 9


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "9" * 1_000_000,
        '"' + "x" * 1_000_000 + '": 1',
        "a: 1\n" * 150_000,
        "".join(f"%TAG !{n}! x\n" for n in range(50_000)) + "--- a",
        "--- {}\n" * 140_000,
        "".join(f"a{n}: &a\n" for n in range(80_000)),
        "a: '" + "''" * 500_000 + "'",
    ],
    ids=["digits", "a long key", "duplicate keys", "tag directives", "documents", "anchors", "quotes"],
)
def test_the_largest_file_takes_seconds_at_most(text: str) -> None:
    started = time.perf_counter()
    load_documents(text.encode(), "p.yaml")
    assert time.perf_counter() - started < 10  # seconds, on a busy machine; the square of its size would take minutes


@both_parsers
@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    check(data)


# fmt: off
scraps = [
    "a", "b", ": ", ":", "- ", "\n", "\n  ", "  ", "[", "]", "{", "}", ", ", "? ", "&x ", "*x", "!t ", "!!int ", "<<",
    "|", ">", "'", '"', "#", "---\n", "...\n", "%YAML 1.2\n", "\t", "\r\n", "~", "1", ".5", "0x", "true", "\\u",
]
# fmt: on
yaml_like = st.lists(st.sampled_from(scraps), max_size=40).map("".join)


@both_parsers
@given(text=yaml_like)
def test_no_text_makes_it_raise(text: str) -> None:
    check(text.encode())


def check(data: bytes) -> None:
    found, problems = load_documents(data, "p.yaml")
    lines = data.count(b"\n") + 1
    assert all(1 <= problem.line <= lines and str(problem).isprintable() for problem in problems)
    assert problems == sorted(problems)
    for document in found:
        assert set(document.lines) >= set(places(document.value, ()))
        assert all(1 <= line <= lines for line in document.lines.values())


def places(value: object, key: documents.Key) -> Iterator[documents.Key]:
    if key:
        yield key
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*key, index))


# The characters that JSON and YAML escape in the same way: JSON writes those above as pairs, and DEL as it is.
texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@both_parsers
@given(value=st.dictionaries(texts, json_values, max_size=4))
def test_json_reads_as_itself(value: dict[str, Any]) -> None:
    values, problems = load(json.dumps(value))
    assert problems == []
    assert repr(values) == repr([value])


# Files


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., None]:
    def write(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a: 1\n")

    return write


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in policy_files(folder)]


def test_a_folder_gives_its_yaml_files_in_sorted_order(tmp_path: Path, make: Callable[..., None]) -> None:
    make("b.yaml", "a.yml", "c/d.yaml", "c/a.yaml", "c/driftwall-test.yaml")
    make("driftwall-test.yaml", "notes.md", "x.json", "yaml")
    assert names(tmp_path) == ["a.yml", "b.yaml", "c/a.yaml", "c/d.yaml"]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, make: Callable[..., None]) -> None:
    make(".a.yaml", ".git/b.yaml", "c.yaml")
    assert names(tmp_path) == ["c.yaml"]


def test_a_mounted_config_map_is_read_once_through_its_visible_links(tmp_path: Path, make: Callable[..., None]) -> None:
    make("..2024_01_01/a.yaml", "..2024_01_01/sub/b.yaml")
    (tmp_path / "..data").symlink_to("..2024_01_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "sub").symlink_to("..data/sub")
    assert names(tmp_path) == ["a.yaml", "sub/b.yaml"]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path, make: Callable[..., None]) -> None:
    make("a.yaml", "sub/b.yaml")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to("loop")
    assert names(tmp_path) == ["a.yaml", "sub/b.yaml"]


def test_a_file_is_itself_whatever_its_name(tmp_path: Path, make: Callable[..., None]) -> None:
    make("driftwall-test.yaml", ".hidden", "x.json")
    for name in ("driftwall-test.yaml", ".hidden", "x.json"):
        assert policy_files(tmp_path / name) == [tmp_path / name]


def test_a_folder_without_policies_gives_none(tmp_path: Path) -> None:
    assert policy_files(tmp_path) == []


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert policy_files(tmp_path) == []


def test_a_path_where_nothing_is_raises_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        policy_files(tmp_path / "nope")
    assert str(raised.value) == f"{tmp_path}/nope: no such file or folder"


def test_a_policy_that_links_to_nothing_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone")
    with pytest.raises(FileNotFoundError) as raised:
        policy_files(tmp_path)
    assert str(raised.value) == f"{tmp_path}/a.yaml: a symbolic link that leads nowhere"


def test_a_folder_that_cannot_be_read_raises_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)  # permissions do not stop the root user
    with pytest.raises(PermissionError) as raised:
        policy_files(tmp_path)
    assert str(raised.value) == f"{tmp_path}: Permission denied"
