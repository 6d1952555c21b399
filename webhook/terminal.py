"""What a person sees in a terminal: tables that fit into its width, colours and a progress bar where there is one."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import IO, Final

from webhook.text import cut, escaped

GREEN, RED, YELLOW, BOLD, DIM, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
# Columns are not cut where nobody looks: a file or a pipe takes any width.
_UNBOUNDED: Final = 10_000
# Two spaces between columns, as kubectl has three and `kyverno test` has lines.
_GAP: Final = "  "
# A column that has to give is not made narrower than this: a name cut to less tells nothing.
_NARROWEST: Final = 12
# Seconds between two pictures of the progress bar: often enough to be seen moving, too seldom to cost.
_REDRAW: Final = 0.2
_BAR: Final = 24  # characters


def width(stream: IO[str] | None = None) -> int:
    """The columns of the terminal behind ``stream`` (standard output); very many where there is none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else _UNBOUNDED


def coloured(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """``text`` in a colour, on a terminal whose user has nothing against it (https://no-color.org)."""
    if not (stream or sys.stdout).isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{colour}{text}{PLAIN}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], columns: int, indent: str = "") -> list[str]:
    """The lines of a table that is not wider than ``columns``. Numbers stand on the right.

    The widest column of text gives way first. The last one loses its end, the others their middle: names that begin
    alike, such as those of service accounts, end differently.
    """
    cells = [[escaped(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row] for row in rows]
    numeric = [all(isinstance(row[i], int) for row in rows) and bool(rows) for i in range(len(head))]
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
    room = columns - len(indent) - len(_GAP) * (len(head) - 1)
    while sum(widths) > room:
        widest = max((i for i in range(len(head)) if not numeric[i]), key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        others = max((widths[i] for i in range(len(head)) if i != widest and not numeric[i]), default=0)
        widths[widest] -= min(sum(widths) - room, max(1, widths[widest] - max(others, _NARROWEST)))
    lines = []
    for row in (head, *cells):
        parts = [
            cell.rjust(w) if right else (_cut_middle(cell, w) if i < len(row) - 1 else cut(cell, w)).ljust(w)
            for i, (cell, w, right) in enumerate(zip(row, widths, numeric, strict=True))
        ]
        lines.append((indent + _GAP.join(parts)).rstrip())
    return lines


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = limit * 2 // 3
    return f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"


def paragraphs(head: Sequence[str], rows: Iterable[Sequence[Sequence[str]]], columns: int) -> list[str]:
    """The lines of a table not wider than ``columns``, whose cells are lines of text; longer ones go on below.

    The widest column gives way first.
    """
    cells = [[[escaped(line) for line in cell] for cell in row] for row in ([[text] for text in head], *rows)]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(head))]
    while sum(widths) > columns - len(_GAP) * (len(head) - 1) and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    lines: list[str] = []
    for number, row in enumerate(cells):
        broken = [[part for line in cell for part in wrapped(line, w)] for cell, w in zip(row, widths, strict=True)]
        if number > 1:
            lines.append("")  # rows of several lines are told apart by nothing else
        for index in range(max(map(len, broken))):
            parts = [part[index] if index < len(part) else "" for part in broken]
            lines.append(_GAP.join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip())
    return lines


def wrapped(text: str, columns: int) -> list[str]:
    """``text`` in lines not longer than ``columns``, broken between words, else behind a ``/:.,-``, else anywhere."""
    lines: list[str] = []
    for line in textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]:
        rest = line
        while len(rest) > columns:
            at = max(rest.rfind(mark, 0, columns) for mark in "/:.,-") + 1 or columns
            lines.append(rest[:at])
            rest = rest[at:]
        lines.append(rest)
    return lines


class Progress:
    """A progress bar on standard error; nothing at all where that is no terminal.

    ``total`` are the bytes to come, or None where nobody knows.
    """

    def __init__(self, total: int | None, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total
        self._shown = self._stream.isatty()
        self._started = self._next = time.monotonic()
        self._calls = 0

    def at(self, done: int) -> None:
        """So many bytes were read."""
        self._calls += 1
        if not self._shown or self._calls & 63:
            return  # asking for the time of every line would cost more than the picture
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REDRAW
            self._stream.write("\r" + self._picture(done, now - self._started) + "\x1b[K")
            self._stream.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _picture(self, done: int, seconds: float) -> str:
        speed = done / seconds if seconds > 0 else 0.0
        text = f"{_bytes(done)}  {_bytes(speed)}/s"
        if self._total:
            share = min(1.0, done / self._total)
            filled = round(share * _BAR)
            left = f"{_time((self._total - done) / speed)} left" if speed else ""
            bar = "█" * filled + "░" * (_BAR - filled)
            text = f"{bar} {share:4.0%}  {_bytes(done)} of {_bytes(self._total)}  {_bytes(speed)}/s  {left}"
        return cut(text, width(self._stream) - 1)


class Counter:
    """How many there were so far, on standard error, gone at the end of ``with``; nothing where that is no terminal."""

    def __init__(self, noun: str, stream: IO[str] | None = None) -> None:
        self._noun = noun
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._next = time.monotonic()

    def at(self, what: str, count: int) -> None:
        """So many, and what it is about now."""
        if self._shown and (now := time.monotonic()) >= self._next:
            self._next = now + _REDRAW
            line = cut(escaped(f"{count:,} {self._noun}: {what}"), width(self._stream) - 1)
            self._stream.write(f"\r{line}\x1b[K")
            self._stream.flush()

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02}"
