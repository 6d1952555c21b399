from __future__ import annotations

import logging
import threading

import pytest

from tests.serving import PATIENCE
from webhook.errors import ClusterError
from webhook.periodic import Periodic


def test_steps_go_on_whatever_happens_and_what_is_wrong_is_said_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes = iter([None, ClusterError("away"), ClusterError("away"), ClusterError("forbidden"), KeyError("k"), None])
    over = threading.Event()
    last = threading.Event()

    def step() -> None:
        try:
            outcome = next(outcomes)
        except StopIteration:
            over.set()
            return
        if outcome is not None:
            raise outcome

    caplog.set_level(logging.INFO)
    periodic = Periodic("certificate", step, 0.001, last=last.set)
    periodic.start()
    assert over.wait(PATIENCE)
    periodic.close(PATIENCE)
    assert last.is_set()
    assert [record.getMessage() for record in caplog.records] == [
        "certificate: away",
        "certificate: forbidden",
        "certificate: the error was",
        "certificate: driftwall failed (KeyError)",
        "certificate: all is well again",
    ]


def test_one_that_was_never_started_closes() -> None:
    Periodic("certificate", lambda: None, 1).close()
