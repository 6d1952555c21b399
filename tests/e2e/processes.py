"""Child processes that cannot outlive the tests, and waiting for conditions instead of for time."""

import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_POLL = 0.05  # seconds between two looks at a condition
_TAIL_LINES = 25
_SHM = Path("/dev/shm")  # noqa: S108 - the one tmpfs that every Linux has
# etcd preallocates two write-ahead segments of 64 MB, and a container's /dev/shm has 64 MB unless told otherwise.
_ROOM_FOR_ETCD = 512 * 1024 * 1024
_PREFIX = "driftwall-e2e-"


# RuntimeError: what the control plane's own errors are.
_NOT_YET = (AssertionError, LookupError, OSError, RuntimeError, http.client.HTTPException)


class ProcessDiedError(RuntimeError):
    """A process ended that should be running; the message holds the end of its log."""


class ConditionError(TimeoutError):
    """A condition did not come true in time; the message says which, and what was seen last."""


def say(message: str) -> None:
    """Tell the person who waits, on stderr, so that stdout stays free for results."""
    sys.stderr.write(f"driftwall e2e: {message}\n")
    sys.stderr.flush()


def wait_for(predicate: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Look until `predicate` gives something true, and give that.

    What a server says while it starts, and what an assertion or a look-up says before its time, counts as "not yet".
    Raises ConditionError after `seconds`, naming `what` and the last value or exception, and ProcessDiedError and any
    other exception of the predicate at once.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            value = predicate()
            if value:
                return value
            last = value
        except ProcessDiedError:
            raise
        except _NOT_YET as error:
            last = error
        if time.monotonic() > deadline:
            raise ConditionError(f"waited {seconds:g} s for {what}; last seen: {last!r}")
        time.sleep(_POLL)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A child in a process group of its own, killed with its parent even if that dies of SIGKILL.

    Start it from a thread that lives as long as the tests: the kernel ties the child to the thread, not the process.
    """

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(log.parent)},
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def check(self) -> None:
        """Raise ProcessDiedError if the process has ended."""
        code = self._popen.poll()
        if code is not None:
            raise ProcessDiedError(f"{self.name} ended with {code}; the end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines that the process has written."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def wait_until(self, ready: Callable[[], object], seconds: float = 60) -> None:
        """Return once `ready` holds; raise ProcessDiedError or ConditionError with the end of the log otherwise."""

        def alive_and_ready() -> bool:
            self.check()
            return bool(ready())

        try:
            wait_for(alive_and_ready, f"{self.name} to become ready", seconds)
        except ConditionError as error:
            raise ConditionError(f"{error}; the end of {self.log}:\n{self.tail()}") from None

    def kill(self) -> None:
        """Kill the group and reap the child; a second call does nothing."""
        if self._popen.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


class Folder:
    """A temporary folder that is removed even if its owner was killed: by the next one that is made.

    A lock on a file inside tells a living owner's folder from a dead one's; the kernel lets go of it with the owner.
    """

    def __init__(self, parent: Path) -> None:
        for left in parent.glob(f"{_PREFIX}*"):
            _remove_if_abandoned(left)
        making = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
        self._held = _lock_of(making).open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        # Only now under the name that others look for: without its lock it would seem abandoned.
        self.path = making.rename(parent / making.name.removeprefix("."))

    def remove(self) -> None:
        """Remove the folder with all that is in it; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def folder_for_etcd() -> Path:
    """Where to keep etcd's data: a tmpfs with room, since each write waits for an fsync, else the temporary folder."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    is_tmpfs = any(fields[1] == str(_SHM) and fields[2] == "tmpfs" for fields in mounts)
    if is_tmpfs and os.access(_SHM, os.W_OK) and shutil.disk_usage(_SHM).free >= _ROOM_FOR_ETCD:
        return _SHM
    folder = Path(tempfile.gettempdir())
    say(f"{_SHM} is not a tmpfs with {_ROOM_FOR_ETCD >> 20} MB to spare: etcd's data is in {folder}, which may be slow")
    return folder


def _lock_of(folder: Path) -> Path:
    return folder / "owner.lock"


def _remove_if_abandoned(folder: Path) -> None:
    try:
        with _lock_of(folder).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody else's, or still in use
        return
