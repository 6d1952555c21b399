from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.globs import Glob, Globs, is_glob


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("team-*", "team-"),
        ("team-*", "team-blue"),
        ("*", ""),
        ("*", "any\nthing"),
        ("**", "x"),
        ("*-reconciler-*", "ns-reconciler-shop"),
        ("v?", "v1"),
        ("?", "ü"),
        ("?", "😀"),
        ("plain", "plain"),
        ("", ""),
        ("a.b", "a.b"),
        ("[ab]*", "[ab]c"),
        ("\\*", "\\x"),
    ],
)
def test_a_glob_matches(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("team-*", "a-team-blue"),
        ("team-*", "Team-blue"),
        ("*-blue", "team-blue-2"),
        ("v?", "v"),
        ("v?", "v12"),
        ("plain", "plain2"),
        ("plain", "plain\n"),
        ("pla*n", "plain\n"),
        ("", "x"),
        ("a.b*", "axb"),
        ("[ab]*", "a"),
        ("(x|y)*", "x"),
        ("^a*$", "a"),
        ("\\d*", "1"),
    ],
)
def test_a_glob_does_not_match(pattern: str, text: str) -> None:
    assert not Glob(pattern).matches(text)


@given(st.text("ab*?[]!.\\\n-", max_size=8), st.text("ab[]!.\\\n-", max_size=12))
def test_a_glob_matches_what_fnmatch_matches_without_brackets(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) == fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


@given(st.text(max_size=20))
def test_every_text_matches_itself_and_a_star(text: str) -> None:
    assert Glob("*").matches(text)
    assert Glob(f"{text}*").matches(text)


@pytest.mark.parametrize("pattern", ["*a" * 100 + "*b", "*?a" * 100 + "b", "?" * 1000, "*a?" * 333 + "b"])
def test_a_glob_with_many_wildcards_does_not_blow_up(pattern: str) -> None:
    started = time.perf_counter()
    assert not Glob(pattern).matches("a" * 100_000 + "c")
    assert time.perf_counter() - started < 2  # seconds; a matcher that backtracks would take years


def test_half_a_surrogate_pair_counts_as_one_character() -> None:
    assert Glob("a?b").matches("a\ud800b")
    assert not Glob("ab*").matches("a\ud800b")
    assert Glob("?").matches("\ud83d\ude00")


def test_a_glob_longer_than_a_thousand_characters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^longer than 1,000 characters$"):
        Glob("*" * 1001)


def test_only_a_star_and_a_question_mark_make_a_glob() -> None:
    assert [text for text in ("a*", "a?", "[a]", "{a,b}", "a", "") if is_glob(text)] == ["a*", "a?"]


def test_a_glob_prints_as_it_was_written() -> None:
    assert str(Glob("team-*")) == "team-*"
    assert Glob("team-*") == Glob("team-*")


def test_globs_match_if_any_pattern_does() -> None:
    globs = Globs(["kube-system", "team-*", "v?"])
    assert [text for text in ("kube-system", "team-a", "v1", "v12", "default", "") if globs.matches(text)] == [
        "kube-system",
        "team-a",
        "v1",
    ]


def test_no_patterns_match_nothing() -> None:
    assert not Globs().matches("")
    assert not Globs()


def test_globs_are_equal_whatever_their_order() -> None:
    assert Globs(["b*", "a", "a"]) == Globs(["a", "b*"])
    assert hash(Globs(["b*", "a"])) == hash(Globs(["a", "b*"]))
    assert Globs(["a"]) != Globs(["a*"])
    assert Globs(["a"]) != "a"
    assert repr(Globs(["b*", "a"])) == "Globs(['a', 'b*'])"


def test_globs_refuse_what_a_glob_refuses() -> None:
    with pytest.raises(ValueError, match=r"^longer than 1,000 characters$"):
        Globs(["a", "*" * 1001])
