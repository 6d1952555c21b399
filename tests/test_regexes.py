from __future__ import annotations

import time

import pytest

from webhook.regexes import compile_own, compile_pattern, escape


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^INC-[0-9]+: .+", "INC-1234: checkout 5xx", True),
        ("^INC-[0-9]+: .+", "see INC-1234: checkout 5xx", False),
        ("INC-[0-9]+", "see INC-1234: checkout 5xx", True),
        ("^INC-[0-9]+$", "INC-1", True),
        ("^INC-[0-9]+$", "INC-1\n", False),
        ("^INC-[0-9]+$", "x\nINC-1", False),
        ("^a.b$", "a\nb", False),
        ("(?i)^inc", "INC-1", True),
        ("^a.b$", "a\ud800b", True),
    ],
)
def test_a_pattern_is_searched_for_with_its_own_anchors(pattern: str, text: str, *, found: bool) -> None:
    assert compile_pattern(pattern).matches(text) is found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(INC", "missing ): (INC"),
        ("[z-a]", "invalid character class range: z-a"),
        ("a**", "bad repetition operator: **"),
        ("(?=x)", "invalid perl operator: (?="),
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("\ud800", "half a surrogate pair is no character"),
        ("x" * 1001, "longer than 1,000 characters"),
    ],
)
def test_a_pattern_that_re2_refuses_is_a_value_error_in_its_words(
    pattern: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is asserted whole below
        compile_pattern(pattern)
    assert str(raised.value) == message
    assert capfd.readouterr().err == ""


def test_a_pattern_that_makes_others_backtrack_is_fast() -> None:
    started = time.perf_counter()
    assert not compile_pattern("^(a+)+$").matches("a" * 100_000 + "b")
    assert time.perf_counter() - started < 2  # seconds; a matcher that backtracks would take years


def test_a_pattern_remembers_how_it_was_written() -> None:
    assert compile_pattern("^a").text == "^a"
    assert repr(compile_pattern("^a")) == "Pattern(text='^a')"


def test_an_escaped_text_matches_just_itself() -> None:
    text = "a.b*(c)[d]\\e\n^$"
    assert compile_own(f"^{escape(text)}$").matches(text)
    assert not compile_own(f"^{escape('a.b')}$").matches("axb")
