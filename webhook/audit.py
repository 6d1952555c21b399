"""What driftwall writes down: the decision log on stdout, its own messages on stderr, both as JSON lines.

Neither ever waits for its reader: lines go through a bounded queue, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import select
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from webhook.admission import Review
from webhook.decision import BreakGlassUse, Decision, Violation
from webhook.text import cut

# Fields of one violated policy in one line. A person's edit changes a few; a hundred tell the story of any other.
MAX_FIELDS: Final = 100
# Characters of one text in a line. Kubernetes' own names have at most 253 and a denial 1,024; a key of a map, which is
# part of a path, may have megabytes.
MAX_TEXT: Final = 1024
# Bytes that wait for a slow reader: some 20,000 lines, seconds of the fastest stream of writes, and little memory.
MAX_WAITING: Final = 16 * 1024 * 1024
# Lines written with one call: enough to make the calls few, and a batch that fails loses no more.
_BATCH: Final = 256
# Seconds that the last lines may take at shutdown: a reader that is there needs milliseconds.
CLOSE_SECONDS: Final = 5.0
# Frames of a traceback: the innermost tell where it went wrong; an endless recursion has a thousand.
_FRAMES: Final = 25


def record(review: Review, decision: Decision, *, time: datetime, seconds: float) -> dict[str, Any]:
    """One line of the decision log, as INTERFACE.md has it; ``file`` is the review command's to put before it.

    ``time`` is when the review was decided, ``seconds`` how long that took. No value of an object is in it but those
    that the denial itself shows to the person.
    """
    managed_by = decision.managed_by
    return {
        "time": _timestamp(time),
        "uid": cut(review.uid, MAX_TEXT),
        "operation": review.operation,
        "resource": cut(review.qualified_resource, MAX_TEXT),
        "subresource": cut(review.subresource, MAX_TEXT),
        "namespace": cut(review.namespace, MAX_TEXT),
        "name": cut(review.name, MAX_TEXT),
        "user": cut(review.user.username, MAX_TEXT),
        "writer": decision.writer,
        "managedBy": managed_by
        and {
            "tool": managed_by.tool,
            "kind": managed_by.kind,
            "application": cut(managed_by.application, MAX_TEXT),
        },
        "allowed": decision.allowed,
        "mode": decision.mode,
        "breakGlass": decision.break_glass and _break_glass(decision.break_glass),
        "dryRun": review.dry_run,
        "policies": [_policy(violation) for violation in decision.violations],
        "message": decision.message,
        "warnings": list(decision.warnings),
        "seconds": round(seconds, 6),
    }


def _break_glass(use: BreakGlassUse) -> dict[str, Any]:
    return {
        "action": use.action,
        "by": cut(use.by, MAX_TEXT),
        "reason": cut(use.reason, MAX_TEXT),
        "expires": use.expires,
        "on": cut(use.on, MAX_TEXT),
        "policies": [_policy(violation) for violation in use.violations],
    }


def _policy(violation: Violation) -> dict[str, Any]:
    line: dict[str, Any] = {
        "name": violation.name,
        "mode": violation.mode,
        "verdict": violation.verdict,
        "fields": [
            {"path": cut(field.path, MAX_TEXT), "change": field.change} for field in violation.fields[:MAX_FIELDS]
        ],
    }
    if (more := len(violation.fields) - MAX_FIELDS) > 0:
        line["moreFields"] = more
    return line


def _timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, with microseconds so that lines of one second sort."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


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


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own.

    :meth:`write` never waits. ``on_drop`` is called with the number of lines lost: because too many wait, or because
    the descriptor does not take them (a closed pipe, a full disk). ``turns`` is for processes that share it.
    """

    def __init__(
        self, descriptor: int, *, on_drop: Callable[[int], None] | None = None, turns: Turns | None = None
    ) -> None:
        self._descriptor = descriptor
        self._on_drop = on_drop
        self._turns = turns
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        # A daemon: a stalled reader must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line, without its newline."""
        with self._lock:
            taken = not self._closed and self._waiting + len(line) <= MAX_WAITING
            if taken:
                self._waiting += len(line)
        if taken:
            self._lines.put(line)
        else:
            self._dropped(1)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, for at most ``seconds``; later lines are dropped."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._lines.put(None)
        self._thread.join(seconds)

    def _dropped(self, lines: int) -> None:
        if self._on_drop is not None:
            self._on_drop(lines)

    def _run(self) -> None:
        torn = False
        ended = False
        while not ended:
            batch, ended = self._next()
            if not batch:
                continue
            # A line that was cut off by an error ends here, so that it spoils no other.
            data = (b"\n" if torn else b"") + b"\n".join(batch) + b"\n"
            with self._turns.of(self._descriptor) if self._turns else contextlib.nullcontext():
                written = self._write_all(data)
            if written < len(data):
                torn = torn or written > 0
                self._dropped(len(batch))
            else:
                torn = False
            with self._lock:
                self._waiting -= sum(map(len, batch))

    def _next(self) -> tuple[list[bytes], bool]:
        """The lines that wait, at least one unless the end came, and whether it came."""
        line = self._lines.get()
        batch: list[bytes] = []
        while line is not None:
            batch.append(line)
            if len(batch) == _BATCH:
                return batch, False
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

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


class DecisionLog:
    """The decision log: one JSON line for each review decided."""

    def __init__(self, lines: LineWriter) -> None:
        self._lines = lines
        self._encode = msgspec.json.Encoder().encode

    def write(self, review: Review, decision: Decision, *, time: datetime, seconds: float) -> None:
        """Log one decision; never waits."""
        self._lines.write(self._encode(record(review, decision, time=time, seconds=seconds)))


class JsonHandler(logging.Handler):
    """Puts Python's log records out as JSON lines: ``time``, ``level``, ``message``.

    ``extra={"data": {...}}`` adds keys. Of an exception the frames and the type are shown and never its text: that may
    quote what was being read, and nobody knows whether it is a Secret's.
    """

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; never waits, never raises."""
        try:
            self._lines.write(msgspec.json.encode(_message(record)))
        except Exception:  # noqa: BLE001 - logging must not fail the work that logs
            self.handleError(record)


def _message(record: logging.LogRecord) -> dict[str, Any]:
    line: dict[str, Any] = {
        "time": _timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "message": record.getMessage(),
    }
    line.update(getattr(record, "data", {}))
    if record.exc_info and (error := record.exc_info[1]):
        line["error"] = type(error).__name__
        line["traceback"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__, limit=-_FRAMES)
        ]
    return line


def log_to(lines: LineWriter) -> None:
    """Send driftwall's own messages, and those of the libraries it uses, to ``lines``."""
    logging.basicConfig(handlers=[JsonHandler(lines)], level=logging.INFO, force=True)
