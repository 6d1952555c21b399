from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.text import cut, escaped, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 😀 text", "plain ü 😀 text"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("right-to-left \u202e", "right-to-left \\u202e"),
        ("zero width \u200b", "zero width \\u200b"),
        ("half \ud800", "half \\ud800"),
        ("line\u2028separator", "line\\u2028separator"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "'text'"),
        ("", "''"),
        ("a\nb", "'a\\nb'"),
        ("x" * 58, f"'{'x' * 58}'"),
        ("x" * 59, f"'{'x' * 57}…'"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        ([], "[]"),
        ([1, 2], "a list of 2"),
        ({}, "{}"),
        ({"a": 1}, "a mapping of 1"),
    ],
)
def test_a_value_is_shown_as_its_writer_knows_it(value: object, expected: str) -> None:
    assert shown(value) == expected


@given(st.text())
def test_what_is_shown_is_short_and_prints(text: str) -> None:
    assert len(shown(text)) <= 60
    assert shown(text).isprintable()


def test_a_text_is_cut_only_where_it_is_too_long() -> None:
    assert cut("abcd", 4) == "abcd"
    assert cut("abcde", 4) == "abc…"
