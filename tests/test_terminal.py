from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook import terminal

ROWS = [
    ("alice", 1200, "spec.template.spec.containers[*].image"),
    ("system:serviceaccount:kube-system:autoscaler", 3, "x"),
]


class Screen(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def test_numbers_stand_on_the_right_and_control_characters_are_written_out() -> None:
    lines = terminal.table(("WHO", "WRITES", "WHAT"), [("a\x1b[2J", 1200, "x"), ("b", 3, "yy")], 80)
    assert lines == [
        "WHO       WRITES  WHAT",
        "a\\x1b[2J   1,200  x",
        "b              3  yy",
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_is_no_wider_than_the_terminal_and_says_where_it_was_cut(columns: int) -> None:
    lines = terminal.table(("WHO", "WRITES", "WHAT"), ROWS, columns, "  ")
    assert max(map(len, lines)) <= columns
    assert ("…" in "".join(lines)) == (columns < 100)
    assert all("1,200" in line or "3" in line for line in lines[1:])


def test_without_a_terminal_nothing_is_cut_coloured_or_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    stream = io.StringIO()
    progress = terminal.Progress(1000, stream)
    for done in range(1000):
        progress.at(done)
    progress.clear()
    assert stream.getvalue() == ""
    assert terminal.width() > 1000
    assert terminal.coloured("x", terminal.RED) == "x"


def test_a_terminal_has_its_width_and_colours_unless_its_user_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen()
    assert terminal.width(screen) == 80
    assert terminal.coloured("x", terminal.RED, screen) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.coloured("x", terminal.RED, screen) == "x"


@pytest.mark.parametrize("total", [None, 1 << 30])
def test_a_progress_bar_moves_fits_and_goes_away(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    times = iter(range(1000))
    monkeypatch.setattr("webhook.terminal.time.monotonic", lambda: float(next(times)))
    screen = Screen()
    progress = terminal.Progress(total, screen)
    for call in range(1, 257):
        progress.at(call << 20)
    progress.clear()
    *pictures, last = re.split(r"\r", screen.getvalue())
    assert last == "\x1b[K"
    assert pictures[0] == ""
    shown = [picture.removesuffix("\x1b[K") for picture in pictures[1:]]
    assert len(shown) == 4
    assert all(len(picture) < 80 for picture in shown)
    if total is None:
        assert shown[-1] == "256.0 MiB  64.0 MiB/s"
    else:
        assert shown[-1] == "██████░░░░░░░░░░░░░░░░░░  25%  256.0 MiB of 1.0 GiB  64.0 MiB/s  0:12 left"


WORDS = st.text(st.sampled_from("ab/-: "), max_size=60)


@given(WORDS, st.integers(min_value=1, max_value=40))
def test_wrapped_lines_are_never_too_long_and_lose_nothing_but_spaces(text: str, columns: int) -> None:
    lines = terminal.wrapped(text, columns)
    assert all(len(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_long_name_is_broken_where_it_has_a_mark() -> None:
    assert terminal.wrapped("flux-system/kustomize-controller", 20) == ["flux-system/", "kustomize-controller"]


@given(st.lists(st.tuples(*[st.lists(WORDS, min_size=1, max_size=3)] * 3), max_size=4), st.integers(60, 200))
def test_a_table_is_never_wider_than_the_terminal(rows: list[tuple[list[str], ...]], columns: int) -> None:
    lines = terminal.paragraphs(("ONE", "TWO", "THREE"), rows, columns)
    assert lines[0].split() == ["ONE", "TWO", "THREE"]
    assert all(len(line) <= columns for line in lines)


def test_cells_of_several_lines_stand_side_by_side() -> None:
    rows = [[["a", "b"], ["x"]], [["c"], ["y", "z"]]]
    assert terminal.paragraphs(("ONE", "TWO"), rows, 80) == ["ONE  TWO", "a    x", "b", "", "c    y", "     z"]


def test_what_controls_a_terminal_is_escaped() -> None:
    assert terminal.paragraphs(("ONE",), [[["\x1b[31m"]]], 80)[1] == "\\x1b[31m"
