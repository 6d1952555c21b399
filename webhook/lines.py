"""Lines that are written beside the work that makes them: it never waits for whoever reads them, or for a disk.

They go through a bounded queue, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol

# Bytes that wait for a slow reader: some 20,000 lines, seconds of the fastest stream of writes, and little memory.
MAX_WAITING: Final = 16 * 1024 * 1024
# Lines written with one call: enough to make the calls few, and a batch that fails loses no more.
_BATCH: Final = 256
# Seconds after a write in which lines gather that are written together: nobody who reads a log notices them.
_GATHER_SECONDS: Final = 0.01
# Seconds that the last lines may take at shutdown: a reader that is there needs milliseconds.
CLOSE_SECONDS: Final = 5.0


class Turns:
    """Lets processes that write to the same descriptors do so one after the other.

    A pipe takes 4 KiB at once and no more, so lines of several would be mixed. ``file`` is one that all of them have
    open, for writing; the kernel takes a turn back from a process that ends.
    """

    def __init__(self, file: int) -> None:
        self.file = file

    @contextlib.contextmanager
    def of(self, descriptor: int) -> Iterator[None]:
        """Wait for the turn to write to ``descriptor``, for as long as its reader takes."""
        # One byte of the file for each descriptor: a reader of one who stalls is not in the way of the other.
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, descriptor)
        try:
            yield
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, descriptor)


def turns_file() -> int:
    """A file for :class:`Turns`, in memory where the system has such; a descriptor for the life of the process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("turns")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Output(Protocol):
    """Where lines go in the end. For one thread."""

    def write(self, lines: bytes) -> bool:
        """Write whole lines, however long that takes; whether all of them are there now. Never raises."""

    def close(self) -> None:
        """There are no more lines."""


class Stream:
    """A file descriptor that somebody reads; ``turns`` is for processes that share it."""

    def __init__(self, descriptor: int, turns: Turns | None = None) -> None:
        self._descriptor = descriptor
        self._turns = turns
        self._torn = False

    def write(self, lines: bytes) -> bool:
        """See :class:`Output`; False for a closed pipe, or a full disk."""
        # A line that was cut off by an error ends here, so that it spoils no other.
        data = (b"\n" if self._torn else b"") + lines
        with self._turns.of(self._descriptor) if self._turns else contextlib.nullcontext():
            written = self._write_all(data)
            done = written == len(data)
            if written and not done and self._take_back(written):
                return False
        self._torn = not done and (self._torn or written > 0)
        return done

    def close(self) -> None:
        """Leave the descriptor to its owner."""

    def _take_back(self, written: int) -> bool:
        """Take back what was just written of more, which a file allows as long as nobody has added to it."""
        try:
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != end:
                return False
            os.ftruncate(self._descriptor, end - written)
            os.lseek(self._descriptor, end - written, os.SEEK_SET)
        except OSError:  # a pipe, for example
            return False
        return True

    def _write_all(self, data: bytes) -> int:
        """How many bytes the descriptor took: all, or those before an error."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody who shares the pipe made it non-blocking.
                select.select((), (self._descriptor,), ())
            except OSError:
                break
        return len(data) - len(rest)


class LineWriter:
    """Writes lines to ``output`` from a thread of its own.

    :meth:`write` never waits, and is for one thread at a time. ``on_drop`` is called with the number of lines lost:
    because too many wait, or because the output does not take them.
    """

    def __init__(self, output: Output, *, on_drop: Callable[[int], None] | None = None) -> None:
        self._output = output
        self._on_drop = on_drop
        # Without a lock, which would cost as much as all else that is done for a line: each side counts its own bytes,
        # and lines are added at the end and taken from the start, either in one step of the interpreter.
        self._lines: list[bytes] = []
        self._taken = 0
        self._done = 0
        self._closed = False
        self._filled = threading.Event()
        self._closing = threading.Event()
        # A daemon: a stalled reader must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line, without its newline."""
        taken = self._taken + len(line)
        if self._closed or taken - self._done > MAX_WAITING:
            self._dropped(1)
            return
        self._taken = taken
        self._lines.append(line)
        # Only after that: the thread takes what there is after it has cleared this.
        if not self._filled.is_set():
            self._filled.set()

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._taken - self._done

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, for at most ``seconds``; later lines are dropped."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._filled.set()
        self._thread.join(seconds)

    def _dropped(self, lines: int) -> None:
        if self._on_drop is not None:
            self._on_drop(lines)

    def _run(self) -> None:
        ended = False
        while not ended:
            self._filled.wait()
            self._filled.clear()
            ended = self._closed
            lines = self._lines[:]
            del self._lines[: len(lines)]
            for start in range(0, len(lines), _BATCH):
                self._put_out(lines[start : start + _BATCH])
            # To wake up for each line would cost those who make the lines more than all else that they do for them.
            self._closing.wait(_GATHER_SECONDS)
        self._output.close()

    def _put_out(self, batch: list[bytes]) -> None:
        if not self._output.write(b"\n".join(batch) + b"\n"):
            self._dropped(len(batch))
        self._done += sum(map(len, batch))
