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
from webhook.decision import BreakGlassUse, Decision, FieldChange, Violation
from webhook.lines import LineWriter
from webhook.text import cut
from webhook.tools import ManagedBy

# Fields of one violated policy in one line. A person's edit changes a few; a hundred tell the story of any other.
MAX_FIELDS: Final = 100
# Characters of one text in a line. Kubernetes' own names have at most 253 and a denial 1,024; a key of a map, which is
# part of a path, may have megabytes.
MAX_TEXT: Final = 1024
# The one character of ASCII that msgspec leaves as it is and that does not print.
_DELETE: Final = 0x7F
# Frames of a traceback: the innermost tell where it went wrong; an endless recursion has a thousand.
_FRAMES: Final = 25

_encode: Final = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, frozen=True, rename="camel"):
    """One line of the decision log, as INTERFACE.md has it: the keys of a struct are not made and encoded each time.

    What is in it of the decision (ManagedBy, Violation, FieldChange) has the line's own keys in the line's order.
    """

    time: datetime | str
    uid: str
    operation: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    writer: str
    managed_by: ManagedBy | None
    allowed: bool
    mode: str | None
    break_glass: dict[str, Any] | None
    dry_run: bool
    policies: list[Violation | dict[str, Any]]
    message: str
    warnings: tuple[str, ...]
    seconds: float


def record(review: Review, decision: Decision, *, time: datetime, seconds: float) -> dict[str, Any]:
    """What one line of the decision log says; ``file`` is the review command's to put before it.

    ``time`` is when the review was decided, ``seconds`` how long that took. No value of an object is in it but those
    that the denial itself shows to the person.
    """
    line: dict[str, Any] = msgspec.json.decode(_encode(_line(review, decision, time, seconds)))
    return line


def _line(review: Review, decision: Decision, time: datetime, seconds: float) -> _Line:
    managed_by = decision.managed_by
    if managed_by is not None and len(managed_by.application) > MAX_TEXT:
        managed_by = msgspec.structs.replace(managed_by, application=cut(managed_by.application, MAX_TEXT))
    # By position: of more than fifteen keywords Python makes a dict for the call.
    return _Line(
        time if time.microsecond and time.tzinfo is UTC else _timestamp(time),
        cut(review.uid, MAX_TEXT),
        review.operation,
        cut(review.qualified_resource, MAX_TEXT),
        cut(review.subresource, MAX_TEXT),
        cut(review.namespace, MAX_TEXT),
        cut(review.name, MAX_TEXT),
        cut(review.user.username, MAX_TEXT),
        decision.writer,
        managed_by,
        decision.allowed,
        decision.mode,
        None if decision.break_glass is None else _break_glass(decision.break_glass),
        review.dry_run,
        [_policy(violation) for violation in decision.violations],
        decision.message,
        decision.warnings,
        round(seconds, 6),
    )


def json_line(value: Mapping[str, Any] | msgspec.Struct) -> bytes:
    """``value`` as one line of JSON in which all prints: what does not is an escape of JSON's, and still the same text.

    A terminal would act on control characters, and show what follows a bidirectional mark in another order.
    """
    line = _encode(value)
    if line.isascii() and _DELETE not in line:
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


def _policy(violation: Violation) -> Violation | dict[str, Any]:
    """What a line has of a violation: all that it has itself, unless that is too much."""
    fields = violation.fields
    if _fit(fields):
        return violation
    line: dict[str, Any] = {
        "name": violation.name,
        "mode": violation.mode,
        "verdict": violation.verdict,
        "fields": [{"path": cut(field.path, MAX_TEXT), "change": field.change} for field in fields[:MAX_FIELDS]],
    }
    if (more := len(fields) - MAX_FIELDS) > 0:
        line["moreFields"] = more
    return line


def _fit(fields: tuple[FieldChange, ...]) -> bool:
    """Whether all of them have room in a line."""
    if len(fields) > MAX_FIELDS:
        return False
    for field in fields:  # noqa: SIM110 - all() takes twice as long
        if len(field.path) > MAX_TEXT:
            return False
    return True


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
        line = json_line(_line(review, decision, time, seconds))
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
