"""Recordings on disk, read as they come: JSON lines or one JSON document a file, plain or compressed with gzip."""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec

#: What is read of a folder, also with .gz behind it; a file that is named is read whatever it is called.
SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".log")
STDIN: Final = "-"
# Bytes of one line, or of a file that is one document. The largest review seen had 18.8 MB, and an audit event holds
# the object twice.
MAX_TEXT: Final = 64 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One line or document. ``line`` counts from 1. ``problem`` says why the text is not worth reading, if it is not.

    ``torn``: a last line without its end, which may be half of one that is still being written.
    """

    file: str
    line: int
    data: bytes
    problem: str = ""
    torn: bool = False


def find(names: Iterable[str]) -> list[str]:
    """The files that are meant: a folder stands for the recordings in and below it, in the order of their paths.

    Raises FileNotFoundError: nothing is there.
    """
    files: list[str] = []
    for name in names:
        path = Path(name)
        if name == STDIN or not path.is_dir():
            if name != STDIN and not path.exists():
                raise FileNotFoundError(f"{name}: no such file or folder")
            files.append(name)
        else:
            below = (file for file in path.rglob("*") if file.name.removesuffix(".gz").endswith(SUFFIXES))
            files += [str(file) for file in sorted(below) if file.is_file()]
    return files


def size(files: Iterable[str]) -> int | None:
    """The bytes on disk of all of them; None where that is not known."""
    total = 0
    for file in files:
        if file == STDIN or not Path(file).is_file():
            return None
        total += Path(file).stat().st_size
    return total


def read(files: Iterable[str], at: Callable[[int], None] = lambda _: None) -> Iterator[Text]:
    """The texts of all files, in their order; ``at`` is told how many bytes on disk were read so far.

    Raises OSError: a file cannot be read.
    """
    before = 0
    for file in files:
        with contextlib.nullcontext(sys.stdin.buffer) if file == STDIN else Path(file).open("rb") as stream:
            counted = _Counted(stream)
            for text in _texts(file, counted):
                yield text
                at(before + counted.bytes)
            before += counted.bytes


class _Counted:
    """A stream that counts what was taken from it; gzip reads it, too, and so do pipes that cannot tell."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._pushed = b""
        self.bytes = 0

    def peek(self, number: int) -> bytes:
        """The first bytes; they are read again."""
        self._pushed = self._stream.read(number)
        self.bytes += len(self._pushed)
        return self._pushed

    def read(self, number: int = -1) -> bytes:
        """As any stream's."""
        pushed, self._pushed = self._pushed, b""
        if pushed:
            return pushed  # fewer than asked for, which a reader has to bear
        data = self._stream.read(number)
        self.bytes += len(data)
        return data

    def readline(self, limit: int) -> bytes:
        """As any stream's."""
        pushed, self._pushed = self._pushed, b""
        if pushed.endswith(b"\n"):
            return pushed
        data = self._stream.readline(limit)
        self.bytes += len(data)
        return pushed + data


def _texts(file: str, counted: _Counted) -> Iterator[Text]:
    start = counted.peek(len(_GZIP))
    stream: Any = gzip.GzipFile(fileobj=counted, mode="rb") if start == _GZIP else counted  # type: ignore[call-overload]
    try:
        yield from _lines(file, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Text(file=file, line=0, data=b"", problem=f"the compressed file is damaged or cut off: {error}")


def _lines(file: str, stream: Any) -> Iterator[Text]:
    number = 0
    while data := stream.readline(MAX_TEXT):
        number += 1
        if len(data) >= MAX_TEXT:
            yield Text(file=file, line=number, data=b"", problem=f"a line of more than {MAX_TEXT:,} bytes")
            while data and not data.endswith(b"\n"):
                data = stream.readline(MAX_TEXT)
            continue
        if not data.strip():
            continue
        if number == 1 and not _is_json(data):
            second = stream.readline(MAX_TEXT)
            if not _is_json(second):
                yield _document(file, data + second, stream)
                return
            # The first line of a log that was cut, and its second.
            yield Text(file=file, line=1, data=data)
            number, data = 2, second
        yield Text(file=file, line=number, data=data, torn=not data.endswith(b"\n"))


def _document(file: str, start: bytes, stream: Any) -> Text:
    """A document that is written over several lines."""
    parts, length = [start], len(start)
    while length < MAX_TEXT and (more := stream.read(MAX_TEXT - length)):
        parts.append(more)
        length += len(more)
    if length >= MAX_TEXT:
        return Text(
            file=file, line=1, data=b"", problem=f"a document of more than {MAX_TEXT:,} bytes; give it in lines"
        )
    return Text(file=file, line=1, data=b"".join(parts))


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
