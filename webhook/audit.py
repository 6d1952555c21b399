"""What driftwall writes down: the decision log on stdout, its own messages on stderr, both as JSON lines.

Neither ever waits for its reader: both go through :mod:`webhook.lines`.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from webhook.admission import Review
from webhook.decision import BreakGlassUse, Decision, Violation
from webhook.lines import LineWriter
from webhook.text import cut

# Fields of one violated policy in one line. A person's edit changes a few; a hundred tell the story of any other.
MAX_FIELDS: Final = 100
# Characters of one text in a line. Kubernetes' own names have at most 253 and a denial 1,024; a key of a map, which is
# part of a path, may have megabytes.
MAX_TEXT: Final = 1024
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


def json_line(value: Mapping[str, Any]) -> bytes:
    """``value`` as one line of JSON in which all prints: what does not is an escape of JSON's, and still the same text.

    A terminal would act on control characters, and show what follows a bidirectional mark in another order.
    """
    line = msgspec.json.encode(value)
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode()
    if text.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text).encode()


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
    # Ten times as fast as isoformat.
    text = msgspec.json.encode(time.astimezone(UTC)).decode()[1:-1]
    return text if time.microsecond else f"{text[:-1]}.000000Z"


class DecisionLog:
    """The decision log: one JSON line for each review decided, to each of ``outputs``."""

    def __init__(self, *outputs: LineWriter) -> None:
        self._outputs = outputs

    def write(self, review: Review, decision: Decision, *, time: datetime, seconds: float) -> None:
        """Log one decision; never waits."""
        line = json_line(record(review, decision, time=time, seconds=seconds))
        for output in self._outputs:
            output.write(line)


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
            self._lines.write(json_line(_message(record)))
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
