"""A steady load of writes through the API server that notes every failure."""

import http.client
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .control_plane import ControlPlane


class Writes:
    """Threads that write all the time, from `with` on; `done` is how often that went well, `failures` how it did not.

    `write` is given the number of its thread and of the write there, and gives what was wrong, if anything was.
    """

    def __init__(self, plane: ControlPlane, write: Callable[[int, int], str | None], threads: int = 2) -> None:
        self._plane = plane
        self._write = write
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.done = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, writes: int = 10) -> None:
        """Wait for so many writes more."""
        wanted = self.done + writes
        self._plane.wait_for(lambda: self.done >= wanted, "more writes")

    def _run(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                failure = self._write(thread, number)
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
            if failure is None:
                self.done += 1
            else:
                self.failures.append(failure)
