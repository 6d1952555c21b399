"""What a source of policies tells: the next set that may be in force, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from webhook.policy import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a source has found now.

    ``snapshot`` is to be in force from now on; None: what was in force stays. ``problems`` are all that is wrong now,
    one line each: none means that what is in force is what the source holds.
    """

    snapshot: Snapshot | None
    problems: tuple[str, ...] = ()


Report = Callable[[Update], None]


class Source(Protocol):
    """Where policies come from."""

    async def follow(self, report: Report) -> None:
        """Report what is there now, and every change of it, until cancelled."""
