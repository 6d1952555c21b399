from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.serving import PATIENCE, deployment, review
from webhook import audit
from webhook.admission import Review, parse
from webhook.audit import MAX_FIELDS, MAX_TEXT, DecisionLog, JsonHandler, record
from webhook.decision import BreakGlassUse, Decision, FieldChange, Violation
from webhook.lines import MAX_WAITING, LineWriter, Stream
from webhook.tools import ManagedBy

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
DENIED = Decision(
    allowed=False,
    writer="untrusted",
    managed_by=ManagedBy(tool="flux", kind="Kustomization", application="flux-system/shop"),
    mode="enforce",
    violations=(
        Violation(
            name="replicas",
            mode="enforce",
            verdict="deny",
            fields=(FieldChange(path="spec.replicas", change="changed"),),
        ),
    ),
    message="no",
    warnings=("careful",),
)


def parsed(**changes: Any) -> Review:
    return parse(json.dumps(review(**changes)).encode())


def test_a_line_has_every_key_that_is_promised_in_order() -> None:
    line = record(parsed(), DENIED, time=NOW, seconds=0.00123456)
    assert line == {
        "time": "2026-03-01T12:30:00.000000Z",
        "uid": "0b9e",
        "operation": "UPDATE",
        "resource": "deployments.apps",
        "subresource": "",
        "namespace": "shop",
        "name": "web",
        "user": "alice",
        "writer": "untrusted",
        "managedBy": {"tool": "flux", "kind": "Kustomization", "application": "flux-system/shop"},
        "allowed": False,
        "mode": "enforce",
        "breakGlass": None,
        "dryRun": False,
        "policies": [
            {
                "name": "replicas",
                "mode": "enforce",
                "verdict": "deny",
                "fields": [{"path": "spec.replicas", "change": "changed"}],
            }
        ],
        "message": "no",
        "warnings": ["careful"],
        "seconds": 0.001235,
    }
    assert " ".join(line) == (
        "time uid operation resource subresource namespace name user writer managedBy allowed mode breakGlass dryRun "
        "policies message warnings seconds"
    )


def test_an_allowed_write_of_an_unmanaged_object_has_nulls() -> None:
    core = {"group": "", "version": "v1", "resource": "services"}
    line = record(parsed(resource=core, dryRun=True), Decision(allowed=True, writer="untrusted"), time=NOW, seconds=0)
    assert (line["resource"], line["managedBy"], line["mode"], line["policies"]) == ("services", None, None, [])
    assert line["dryRun"] is True


def test_a_write_under_break_glass_tells_who_broke_it_where_and_what_for() -> None:
    use = BreakGlassUse(
        action="used",
        by="sam",
        reason="INC-1: checkout" + "x" * MAX_TEXT,
        expires="2026-03-01T14:00:00Z",
        on='namespaces "shop"',
        violations=DENIED.violations,
        longest=timedelta(hours=4),
    )
    line = record(parsed(), Decision(allowed=True, writer="untrusted", break_glass=use), time=NOW, seconds=0)
    assert (line["allowed"], line["mode"], line["policies"]) == (True, None, [])
    reason = line["breakGlass"].pop("reason")
    assert (reason[:15], len(reason)) == ("INC-1: checkout", MAX_TEXT)
    assert line["breakGlass"] == {
        "action": "used",
        "by": "sam",
        "expires": "2026-03-01T14:00:00Z",
        "on": 'namespaces "shop"',
        "policies": record(parsed(), DENIED, time=NOW, seconds=0)["policies"],
    }


@pytest.mark.parametrize("microseconds", [0, 7])
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=1))])
def test_the_time_is_utc_whatever_the_zone_and_has_microseconds(zone: timezone, microseconds: int) -> None:
    time = (NOW + timedelta(microseconds=microseconds)).astimezone(zone)
    line = record(parsed(), DENIED, time=time, seconds=0)
    assert line["time"] == f"2026-03-01T12:30:00.00000{microseconds}Z"


def test_a_policy_shows_at_most_a_hundred_fields_and_how_many_more() -> None:
    fields = tuple(FieldChange(path=f"data.k{number}", change="added") for number in range(MAX_FIELDS + 7))
    violation = Violation(name="p", mode="enforce", verdict="deny", fields=fields)
    (line,) = record(
        parsed(), Decision(allowed=False, writer="untrusted", violations=(violation,)), time=NOW, seconds=0
    )["policies"]
    assert len(line["fields"]) == MAX_FIELDS
    assert line["moreFields"] == 7
    violation = Violation(name="p", mode="enforce", verdict="deny", fields=fields[:MAX_FIELDS])
    (line,) = record(
        parsed(), Decision(allowed=False, writer="untrusted", violations=(violation,)), time=NOW, seconds=0
    )["policies"]
    assert "moreFields" not in line


def test_texts_that_a_client_chooses_are_cut() -> None:
    long = "x" * 2_000_000
    field = FieldChange(path=f"data.{long}", change="added")
    decision = Decision(
        allowed=False,
        writer="untrusted",
        managed_by=ManagedBy(tool="flux", kind="Kustomization", application=long),
        violations=(Violation(name="p", mode="enforce", verdict="deny", fields=(field,)),),
    )
    line = record(parsed(uid=long, name=long, userInfo={"username": long}), decision, time=NOW, seconds=0)
    assert {len(line[key]) for key in ("uid", "name", "user")} == {MAX_TEXT}
    assert len(line["managedBy"]["application"]) == MAX_TEXT
    assert len(line["policies"][0]["fields"][0]["path"]) == MAX_TEXT


def test_no_value_of_an_object_is_in_a_line() -> None:
    old, new = deployment(2, annotations={"a": "canary-old"}), deployment(5, annotations={"a": "canary-new"})
    line = record(parsed(oldObject=old, object=new), DENIED, time=NOW, seconds=0)
    assert "canary" not in json.dumps(line)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pipe:
    """A pipe that a writer writes to, and what it lost."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.lost = 0
        self.dropped = threading.Event()
        self.writer = LineWriter(Stream(self.write_end), on_drop=self._drop)

    def _drop(self, lines: int) -> None:
        self.lost += lines
        self.dropped.set()

    def read_all(self) -> list[bytes]:
        """What was written, once the writer is closed."""
        os.close(self.write_end)
        with os.fdopen(self.read_end, "rb") as file:
            return file.read().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.writer.close(0)


def test_lines_come_out_whole_and_in_order_and_closing_waits_for_the_last(pipe: Pipe) -> None:
    lines = [f"line {number}".encode() for number in range(1000)]
    for line in lines:
        pipe.writer.write(line)
    pipe.writer.close()
    assert pipe.read_all() == lines
    assert pipe.lost == 0


def test_a_reader_that_stalls_costs_lines_and_never_time(pipe: Pipe) -> None:
    line = b"x" * (1024 * 1024)
    taken = MAX_WAITING // len(line)
    for _ in range(taken + 5):
        pipe.writer.write(line)  # nobody reads, so this would hang if it waited
    assert pipe.lost == 5
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(pipe.read_end, 1 << 20), b"")])
    reader.start()
    pipe.writer.close(PATIENCE)
    os.close(pipe.write_end)
    reader.join(PATIENCE)
    os.close(pipe.read_end)


def test_closing_gives_up_on_a_reader_that_stalls(pipe: Pipe) -> None:
    pipe.writer.write(b"x" * (1024 * 1024))
    pipe.writer.close(0.01)
    os.close(pipe.read_end)  # so that the thread ends


def test_a_closed_pipe_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.read_end)
    pipe.writer.write(b"one")
    assert pipe.dropped.wait(PATIENCE)
    pipe.writer.close()
    pipe.writer.write(b"two")
    assert pipe.lost == 2


def test_a_full_disk_costs_lines_and_they_are_counted() -> None:
    dropped = threading.Event()
    with Path("/dev/full").open("wb") as full:
        writer = LineWriter(Stream(full.fileno()), on_drop=lambda _: dropped.set())
        writer.write(b"one")
        assert dropped.wait(PATIENCE)
        writer.close()


def test_a_line_that_was_cut_off_spoils_no_other(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    real = os.write
    calls: list[int] = []

    def half_then_fail(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, data[:4])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("webhook.lines.os.write", half_then_fail)
    pipe.writer.write(b"torn line")
    assert pipe.dropped.wait(PATIENCE)
    pipe.writer.write(b"whole")
    pipe.writer.close()
    assert pipe.read_all() == [b"torn", b"whole"]
    assert pipe.lost == 1


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_end, False)
    lines = [b"x" * 100_000 for _ in range(10)]
    for line in lines:
        pipe.writer.write(line)
    read: list[bytes] = []

    def read_all() -> None:
        with os.fdopen(pipe.read_end, "rb") as file:
            read.extend(file.read().splitlines())

    reader = threading.Thread(target=read_all)
    reader.start()
    pipe.writer.close(PATIENCE)
    os.close(pipe.write_end)
    reader.join(PATIENCE)
    assert read == lines


def test_the_decision_log_is_json_lines(pipe: Pipe) -> None:
    log = DecisionLog(pipe.writer)
    log.write(parsed(name="a\nb"), DENIED, time=NOW, seconds=0.5)
    pipe.writer.close()
    (line,) = pipe.read_all()
    assert json.loads(line) == record(parsed(name="a\nb"), DENIED, time=NOW, seconds=0.5)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("web", "web"),
        ("grüße-世界", "grüße-世界"),
        ('a"b\\c/d', r"a\"b\\c/d"),
        ("a\nb\x1b[2J", r"a\nb\u001b[2J"),
        ("a\x7fb\x9bc", r"a\u007fb\u009bc"),
        ("a\u202eb\u2028c\ufeff", r"a\u202eb\u2028c\ufeff"),
        ("ü\U000e0001", r"ü\udb40\udc01"),
    ],
)
def test_all_of_a_line_prints_and_it_still_says_the_same(pipe: Pipe, name: str, written: str) -> None:
    DecisionLog(pipe.writer).write(parsed(name=name), DENIED, time=NOW, seconds=0.5)
    pipe.writer.close()
    (line,) = pipe.read_all()
    assert f'"name":"{written}"' in line.decode()
    assert line.decode().isprintable()
    assert json.loads(line)["name"] == name


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def message(pipe: Pipe, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "webhook.test", "level": logging.WARNING, "pathname": "x.py", "lineno": 1,
        "msg": "it is %s", "args": ("so",), "exc_info": None,
    }  # fmt: skip
    a_record = logging.LogRecord(**(values | changes))
    a_record.created = NOW.timestamp()
    JsonHandler(pipe.writer).emit(a_record)
    pipe.writer.close()
    (line,) = pipe.read_all()
    decoded: dict[str, Any] = json.loads(line)
    return decoded


def raised_by(function: Callable[[], None]) -> object:
    """What ``sys.exc_info`` says in the handler of what ``function`` raises."""
    try:
        function()
    except Exception:  # noqa: BLE001
        return sys.exc_info()
    return None


def test_a_message_is_a_json_line_of_time_level_and_text(pipe: Pipe) -> None:
    assert message(pipe) == {"time": "2026-03-01T12:30:00.000000Z", "level": "warning", "message": "it is so"}


def test_an_exception_shows_where_and_what_and_never_its_text(pipe: Pipe) -> None:
    def fail() -> None:
        raise ValueError("canary")

    line = message(pipe, exc_info=raised_by(fail))
    assert line["error"] == "ValueError"
    assert line["traceback"][-1].endswith(" fail")
    assert "canary" not in json.dumps(line)


def test_an_endless_recursion_shows_its_innermost_frames(pipe: Pipe) -> None:
    def deeper() -> None:
        deeper()

    line = message(pipe, exc_info=raised_by(deeper))
    assert len(line["traceback"]) == 25


def test_what_cannot_be_logged_does_not_fail_the_work(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    JsonHandler(pipe.writer).emit(logging.LogRecord("n", logging.INFO, "x", 1, "%d", ("no number",), None))
    pipe.writer.close()
    assert pipe.read_all() == []


def test_every_logger_ends_up_in_the_lines_with_its_data(pipe: Pipe) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        audit.log_to(pipe.writer)
        logging.getLogger("webhook.anything").info("ready", extra={"data": {"listen": "x"}})
        logging.getLogger("urllib3").debug("too much")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    pipe.writer.close()
    (line,) = pipe.read_all()
    decoded = json.loads(line)
    assert (decoded["message"], decoded["listen"]) == ("ready", "x")
