"""Whether reviews should be sent to this replica, and why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Health(Protocol):
    """Where a part says how it is, by subject."""

    def block(self, subject: str, *reasons: str) -> None:
        """Reviews should not be sent here, and why."""

    def note(self, subject: str, *remarks: str) -> None:
        """Reviews can be sent here, and yet something is wrong."""

    def clear(self, subject: str) -> None:
        """All is well."""


class Readiness:
    """Why reviews should not be sent here, by subject; ready once there is no reason left. For one event loop.

    A remark makes nobody unready: were a bad policy a reason, one mistake would take every replica out of service.
    """

    def __init__(self, **reasons: str) -> None:
        self._reasons: dict[str, Sequence[str]] = {subject: (reason,) for subject, reason in reasons.items()}
        self._remarks: dict[str, Sequence[str]] = {}
        #: Set while there is no reason.
        self.ready = asyncio.Event()
        #: Called after every change.
        self.on_change: Callable[[], None] = _nothing
        self._tell()

    def block(self, subject: str, *reasons: str) -> None:
        """Be unready because of ``subject`` until it is cleared, or no more than remarked on."""
        self._remarks.pop(subject, None)
        self._reasons[subject] = reasons
        self._tell()

    def note(self, subject: str, *remarks: str) -> None:
        """Be ready as far as ``subject`` is concerned, and tell what is wrong with it."""
        self._reasons.pop(subject, None)
        self._remarks[subject] = remarks
        self._tell()

    def clear(self, subject: str) -> None:
        """Take back what was said of ``subject``, if anything was."""
        self._reasons.pop(subject, None)
        self._remarks.pop(subject, None)
        self._tell()

    def reasons(self) -> list[str]:
        """All reasons, one line each, in the order of the subjects; none means ready."""
        return _lines(self._reasons)

    def remarks(self) -> list[str]:
        """All remarks, likewise."""
        return _lines(self._remarks)

    def _tell(self) -> None:
        if self._reasons:
            self.ready.clear()
        else:
            self.ready.set()
        self.on_change()


class FromThreads:
    """The same, for the threads beside ``loop``."""

    def __init__(self, readiness: Readiness, loop: asyncio.AbstractEventLoop) -> None:
        self._readiness = readiness
        self._loop = loop

    def block(self, subject: str, *reasons: str) -> None:
        """As :meth:`Readiness.block`, a moment later."""
        self._later(lambda: self._readiness.block(subject, *reasons))

    def note(self, subject: str, *remarks: str) -> None:
        """As :meth:`Readiness.note`, a moment later."""
        self._later(lambda: self._readiness.note(subject, *remarks))

    def clear(self, subject: str) -> None:
        """As :meth:`Readiness.clear`, a moment later."""
        self._later(lambda: self._readiness.clear(subject))

    def _later(self, what: Callable[[], None]) -> None:
        call_from_thread(self._loop, what)


def call_from_thread(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Have ``loop`` call ``what``; nothing happens once the loop has ended, which its threads may outlive."""
    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(what)
        except RuntimeError:  # closed in between
            return


def _nothing() -> None:
    """The default of on_change."""


def _lines(said: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{subject}: {line}" for subject in sorted(said) for line in said[subject]]
