"""Work that is done again and again beside the replies, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from webhook.errors import DriftwallError

# Seconds that a call under way at shutdown gets to end by itself, before the process goes without it.
CLOSE_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class Periodic:
    """Calls ``step`` every ``seconds`` from a thread, until :meth:`close`.

    A step that fails is tried again the next time; what is wrong is logged when it begins, changes and ends, and not
    every time. ``last`` is done in the same thread after the last step.
    """

    def __init__(
        self, name: str, step: Callable[[], None], seconds: float, *, last: Callable[[], None] | None = None
    ) -> None:
        self._name = name
        self._step = step
        self._seconds = seconds
        self._last = last
        self._problem = ""
        self._stop = threading.Event()
        # A daemon: a call that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, with a first step at once."""
        self._thread.start()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Take no more steps but the last; waits for it, for at most ``seconds``."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._say(self._attempt(self._step))
            self._stop.wait(self._seconds)
        if self._last is not None:
            self._attempt(self._last)

    def _attempt(self, work: Callable[[], None]) -> str:
        """What is wrong, if anything."""
        try:
            work()
        except DriftwallError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever one step brings
            problem = f"driftwall failed ({type(error).__name__})"
            if problem != self._problem:
                _log.exception("%s: the error was", self._name)
            return problem
        return ""

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            if problem:
                _log.warning("%s: %s", self._name, problem)
            else:
                _log.info("%s: all is well again", self._name)
            self._problem = problem
