"""The policies in force: one immutable snapshot, swapped as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from webhook import policy_compiler
from webhook.policy import Snapshot


class PolicyStore:
    """Holds the snapshot that every review is decided with.

    ``snapshot`` is None until the first successful :meth:`load`. A request takes it once and keeps it to the end, so a
    swap never shows a request two sets of policies.
    """

    def __init__(self, path: Path, read: Callable[[Path], Snapshot] = policy_compiler.load) -> None:
        self._path = path
        self._read = read
        self.snapshot: Snapshot | None = None

    def load(self) -> Snapshot:
        """Read the policies and put them in force.

        Raises:
            PolicyError: they do not load; the snapshot that was in force stays.
        """
        snapshot = self._read(self._path)
        self.snapshot = snapshot
        return snapshot
