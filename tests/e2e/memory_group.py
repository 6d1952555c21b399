"""A real limit of memory for a process, as a container's: a control group, of version 1 or 2."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .debian import PreparationError

_TOP = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group that is there from `with` on; what is run by `command` is in it, and has `limit` bytes.

    Raises debian.PreparationError where none can be made: that takes root, and control groups that are not read-only.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_second = (_TOP / "cgroup.controllers").exists()

    def __enter__(self) -> Self:
        top = _TOP if self._is_second else _TOP / "memory"
        limit = "memory.max" if self._is_second else "memory.limit_in_bytes"
        try:
            if self._is_second:
                (top / "cgroup.subtree_control").write_text("+memory")
            self._folder = Path(tempfile.mkdtemp(prefix="driftwall-e2e-", dir=top))
            (self._folder / limit).write_text(str(self._limit))
        except OSError as error:
            raise PreparationError(f"a control group with a limit of memory cannot be made: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.rmdir()

    @property
    def command(self) -> Sequence[str]:
        """What goes in front of a command for it to be run in the group."""
        return ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh")

    def killed(self) -> int:
        """How many processes the kernel has killed in it for want of memory."""
        file = "memory.events" if self._is_second else "memory.oom_control"
        lines = (self._folder / file).read_text().splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])

    def peak(self) -> int:
        """The most bytes that it has had."""
        file = "memory.peak" if self._is_second else "memory.max_usage_in_bytes"
        return int((self._folder / file).read_text())
