"""A clock for one process that stands still until it is set: Debian's libfaketime stands before the kernel's.

Only the time of day is made up. What a process measures durations with, and waits by, goes on as always.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from . import debian

# The one for processes with several threads.
_LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_PACKAGE = "libfaketime"


class Clock:
    """The time of day of a process that is started with `environment`, kept in `file`.

    It shows the time at which it was made, to the second, until `now` is set.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._library = _library()
        self.now = datetime.now(UTC).replace(microsecond=0)

    @property
    def now(self) -> datetime:
        """What it shows, in UTC; set it to any whole second."""
        return self._now

    @now.setter
    def now(self, time: datetime) -> None:
        self._now = time
        # In one piece: the process reads it at any moment.
        written = self._file.with_suffix(".new")
        written.write_text(time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S\n"))
        written.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that a process runs with for this to be its clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "TZ": "UTC",  # the file's times are local ones
        }


def _library() -> Path:
    """The library, installed if it is missing; raises debian.PreparationError."""
    if (found := _found()) is None:
        debian.install([_PACKAGE])
        found = _found()
    if found is None:
        raise debian.PreparationError(f"{_LIBRARY}: missing, even after installing {_PACKAGE}")
    return found


def _found() -> Path | None:
    return next(iter(sorted(Path("/").glob(_LIBRARY.lstrip("/")))), None)
