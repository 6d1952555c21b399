"""A file of lines that is rotated: by the processes that write it, or by somebody else, such as logrotate."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Its owner's alone: who writes what in a cluster is nobody else's business.
_MODE: Final = 0o600

_log = logging.getLogger(__name__)


class LogFile:
    """Appends lines to ``path``, which any number of processes may do at once.

    Whoever writes holds a lock on the file meanwhile, and makes sure before that it still is what is found at ``path``.
    Before a file gets longer than ``max_bytes`` it becomes ``path.1``, that ``path.2``, and so on; ``max_files`` are
    kept, ``path`` among them.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._file: int | None = None
        self._problem = ""

    def check(self) -> None:
        """Open the file once, or make it.

        Raises:
            OSError: why that cannot be done.
        """
        os.close(self._opened())

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        file = os.open(self._path, flags, _MODE)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "it is no regular file")
        return file

    def close(self) -> None:
        """Let go of the file, until the next line."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, lines: bytes) -> bool:
        """Append whole lines, all or none of them; whether they are there now. Never raises."""
        problem = ""
        try:
            with self._held(len(lines)) as file:
                _append(file, lines)
        except OSError as error:
            problem = error.strerror or type(error).__name__
        # Once, and not with every line.
        if problem != self._problem:
            self._problem = problem
            if problem:
                _log.warning("decision log: %s cannot be written, so lines are lost: %s", self._path, problem)
            else:
                _log.info("decision log: %s can be written again", self._path)
        return not problem

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[int]:
        """The file that is at the path now and has room for ``size`` bytes, while nobody else writes to it."""
        while True:
            if self._file is None:
                self._file = self._opened()
            file = self._file
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if self._is_there(file) and not self._rotated(file, size):
                    yield file
                    return
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
            self.close()

    def _is_there(self, file: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(file))
        except FileNotFoundError:
            return False

    def _rotated(self, file: int, size: int) -> bool:
        """Put the file aside if ``size`` more bytes are too many for it; what is too long gets one for itself."""
        length = os.fstat(file).st_size
        if not length or length + size <= self._max_bytes:
            return False
        # The oldest goes first; the file itself last, since its name is what the others look for.
        for number in range(self._max_files - 1, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        if self._max_files > 1:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()
        return True

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _append(file: int, lines: bytes) -> None:
    """Append to ``file`` all lines or nothing."""
    length = os.fstat(file).st_size
    # What a process left half-written as it was killed is ended, so that it spoils no other line.
    torn = length and os.pread(file, 1, length - 1) != b"\n"
    rest = memoryview(b"\n" + lines if torn else lines)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        # A disk that is full takes a part of a line.
        os.ftruncate(file, length)
        raise
