"""Policies from a file or folder that is followed: a ConfigMap that Kubernetes swaps, or files that somebody edits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from webhook.documents import policy_files
from webhook.errors import PolicyError
from webhook.policy_compiler import USUAL_ACCOUNT, Texts, compile_texts, read_texts
from webhook.policy_source import Report, Update

# Seconds between two looks. A change takes effect with the second look that finds it, so within twice this and the time
# to compile it, which is half a second for a thousand policies: together less than the second that is promised.
POLL_SECONDS: Final = 0.2
# Of a core's time, for looking. A look at a thousand files takes 20 ms, and so comes less often.
_SHARE: Final = 0.05
# Nanoseconds: a file that was written this short a time before it was read may be written again without its times
# telling, since file systems count in ticks (milliseconds on Linux's own, up to two seconds on others).
_TICK: Final = 2_000_000_000

_Signature = tuple[object, ...]

_log = logging.getLogger(__name__)


class PolicyFiles:
    """The policies at ``path``, read anew whenever a file there changes.

    Files that are still being written are left alone: what has changed is read once two looks have found the same.
    ``account`` is driftwall's own (see :func:`webhook.policy_compiler.compile_documents`), ``poll`` the seconds between
    two looks.
    """

    def __init__(self, path: Path, *, account: str = USUAL_ACCOUNT, poll: float = POLL_SECONDS) -> None:
        self._path = path
        self._account = account
        self._poll = poll
        self._seen: _Signature | None = None
        self._changing: _Signature | None = None
        self._digest: bytes | None = None
        self._doubtful = False
        self._cost = 0.0

    async def follow(self, report: Report) -> None:
        """Report the policies as they are, and again whenever they have changed, until cancelled."""
        loop = asyncio.get_running_loop()
        # A thread: a look at a network file system may take its time, and compiling does.
        threads = ThreadPoolExecutor(1, thread_name_prefix="policies")
        try:
            while True:
                if (update := await loop.run_in_executor(threads, self.look)) is not None:
                    report(update)
                await asyncio.sleep(max(self._poll, self._cost / _SHARE))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def look(self) -> Update | None:
        """What is there, if that is not what it was at the last look, or is not known to be; else None."""
        started = time.thread_time()
        signature, newest = _signature(self._path)
        self._cost = time.thread_time() - started
        first = self._digest is None
        if signature == self._seen and not self._doubtful:
            return None
        if not first and signature not in (self._seen, self._changing):
            self._changing = signature
            return None
        began = time.time_ns()
        read = read_texts([self._path])
        if not first and _signature(self._path)[0] != signature:
            return None
        self._seen, self._changing = signature, None
        self._doubtful = began - newest < _TICK
        if (digest := _digest(read)) == self._digest:
            return None
        self._digest = digest
        try:
            return Update(snapshot=compile_texts(read, str(self._path), account=self._account))
        except PolicyError as error:
            return Update(snapshot=None, problems=tuple(error.problems))
        except Exception:  # noqa: BLE001 - whatever a file brings, what was in force stays, and the next one is read
            _log.exception("%s: driftwall failed to read it", self._path)
            return Update(snapshot=None, problems=(f"{self._path}: driftwall failed to read it; its log says why",))


def _digest(read: Texts) -> bytes:
    digest = hashlib.sha256()
    for name, text in read.texts:
        digest.update(f"{len(name)} {len(text)} ".encode() + os.fsencode(name) + text)
    for problem in read.problems:
        digest.update(os.fsencode(str(problem)))
    return digest.digest()


def _signature(path: Path) -> tuple[_Signature, int]:
    """What changes when a file there does, and when that was last (ns since 1970), as the kernel keeps it."""
    found: list[object] = []
    newest = 0
    try:
        for file in policy_files(path):
            stat = file.stat()
            newest = max(newest, stat.st_ctime_ns)
            found.append((str(file), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        found.append(str(error))
    return tuple(found), newest
