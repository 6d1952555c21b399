"""How much memory the reviews that are being decided may take together, so that the kernel never has to kill.

A body is counted by its declared length before it is read, or as it streams in, and once it is there by what its
decision will take: a review that is text takes twice its size, one that is a list of small numbers thirty times. What
does not fit is told to come again, and whatever was held is given back when the answer is out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from webhook.errors import MalformedReview, Overloaded

MIB: Final = 1024 * 1024
# What a process takes beside reviews: 80 MiB when idle, 60 KiB for each of 2,048 sockets (webhook.servers), and 16 MiB
# of lines that wait for whoever reads them, for each of stdout, stderr and the log's file (webhook.lines).
BASE: Final = 248 * MIB
# And what is never used: memory that was given back and is in pieces.
MARGIN: Final = 0.1
# However little there is, one write of 3 MiB to an object of 1.5 MiB, the largest that etcd keeps, can be decided.
LEAST: Final = 64 * MIB
# However much there is: more could not be decided in the seconds that a webhook has.
MOST: Final = 2048 * MIB
# The part that is kept for reviews of ordinary size: large ones are few, and must not be in the way of all others.
_KEPT: Final = 1 / 8
_ORDINARY: Final = MIB

# Bytes of memory for each byte of the worst body (numbers of one digit: 33). What fits even so is not looked at closer.
WORST: Final = 48
# And for each of what a body is made of: a byte of text, an item or key, a map or list. One character beyond Latin-1
# makes every character of its text take up to four bytes.
_TEXT, _WIDE_TEXT, _ITEM, _CONTAINER = 2, 6, 120, 40
_WIDE: Final = re.compile(rb"[\x80-\xff]|\\u(?!00)")

_CGROUPS: Final = Path("/sys/fs/cgroup")


class Budget:
    """What all reviews of one process may take together, in bytes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    def share(self) -> Share:
        """What one review takes: nothing yet; to be used with ``with``."""
        return Share(self)

    def for_one(self, length: int) -> int:
        """What there is for one review of ``length`` bytes when there is no other."""
        return self.total if length <= _ORDINARY else int(self.total * (1 - _KEPT))


class Share:
    """What one review takes of a :class:`Budget`, given back at the end."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._budget.taken -= self._held
        self._held = 0

    def arrives(self, length: int) -> None:
        """Hold what a body of ``length`` bytes takes while it is read.

        Raises:
            Overloaded: there is no room for it now.
        """
        more = _TEXT * length - self._held
        if more > 0:
            self._hold(more, self._budget.for_one(length))

    def is_decided(self, body: bytes) -> None:
        """Hold what the decision on ``body`` takes, too.

        Raises:
            Overloaded: there is no room for it now.
            MalformedReview: there never is.
        """
        length = len(body)
        needed, most = WORST * length, self._budget.for_one(length)
        if needed - self._held > most - self._budget.taken:
            needed = weight(body)
        if needed > most:
            raise MalformedReview(
                f"a decision on this review takes about {needed // MIB} MiB of memory, and driftwall has "
                f"{most // MIB} MiB for one; give it a higher limit of memory",
                413,
            )
        if (more := needed - self._held) > 0:
            self._hold(more, most)

    def _hold(self, more: int, most: int) -> None:
        budget = self._budget
        if more > most - budget.taken:
            raise Overloaded("driftwall decides as many writes as it has memory for; try again in a second")
        budget.taken += more
        self._held += more


def weight(body: bytes) -> int:
    """About how many bytes of memory a decision on ``body`` takes, never much too few."""
    text = _WIDE_TEXT if _WIDE.search(body) else _TEXT
    items = body.count(b",") + body.count(b":")
    containers = body.count(b"{") + body.count(b"[")
    return text * len(body) + _ITEM * items + _CONTAINER * containers


def for_reviews(processes: int) -> int:
    """The total for each of so many processes that share the memory of this container, or machine."""
    each = memory() // processes
    return max(LEAST, min(MOST, int((each - BASE) * (1 - MARGIN))))


def memory() -> int:
    """The bytes of memory that this process may use together with all that are in its container.

    The lowest limit of its control group and those above it, of version 1 or 2, or what the machine has.
    """
    limits = [_number(file) for file in _limit_files()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(limit for limit in limits if limit)])


def _limit_files() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container, its own group is often at the top while the path is that of the host.
        yield top / name
        here = Path(path.lstrip("/"))
        for folder in (here, *here.parents):
            yield top / folder / name


def _number(file: Path) -> int | None:
    """The limit in ``file``; None where there is none, or no such file."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
