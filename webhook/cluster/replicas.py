"""Which certificates the replicas serve: each writes its own into an annotation of the Lease.

The Lease has to be there anyway, so this needs no right to anything else: no list of Pods, no object for each replica
that somebody would have to remove. An entry that is not renewed is that of a replica which is gone; whether it is
renewed is told by our own monotonic clock, as with the Lease itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from webhook.cluster.leases import empty
from webhook.cluster.resources import Resources

PREFIX: Final = "driftwall.io/replica-"
# Looks at the Secret, one a second. Each renewal is a write, and nobody needs to know sooner that a replica is gone.
RENEW: Final = 30
# Looks. A replica that could not reach the API server for so long may still be reached by it, and what it serves is
# then not trusted any more once the old CA goes; that is why this is long. It only delays the end of a CA's rotation.
GONE_AFTER: Final = 600


class Replicas:
    """The entries of all replicas, and this one's own. ``identity`` is a part of a label: 8 hexadecimal digits, say.

    ``host`` is for people, ``look`` the seconds from one look at the Secret to the next. For one thread.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        path: str,
        identity: str,
        host: str,
        look: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._resources = resources
        self._path = path
        self._key = PREFIX + identity
        self._host = host
        self._renew = RENEW * look
        self._gone_after = GONE_AFTER * look
        self._clock = clock
        self._now = now
        self._told: tuple[str, ...] | None = None
        self._renew_at = 0.0
        self._seen: dict[str, tuple[str, float]] = {}

    def publish(self, serving: Sequence[str]) -> None:
        """Tell which certificates this replica serves now, by fingerprint; does nothing if all know it already.

        Raises:
            ClusterError: it could not be written.
        """
        told = tuple(sorted(serving))
        if told == self._told and self._clock() < self._renew_at:
            return
        if self._told is None and self._resources.get(self._path) is None:
            self._resources.ensure(self._path, empty(self._path))
        entry = {"host": self._host, "serving": told, "at": self._now().isoformat()}
        self._annotate({self._key: json.dumps(entry)})
        self._told, self._renew_at = told, self._clock() + self._renew

    def withdraw(self) -> None:
        """Take this replica's entry away."""
        if self._told is not None:
            self._annotate({self._key: None})
            self._told = None

    def serving(self) -> list[list[str]]:
        """What each replica that is there serves, and forget the others.

        Raises:
            ClusterError: they could not be read.
        """
        lease = self._resources.get(self._path) or empty(self._path)
        annotations = lease["metadata"].get("annotations") or {}
        entries = {key: value for key, value in annotations.items() if key.startswith(PREFIX)}
        now = self._clock()
        self._seen = {
            key: seen if (seen := self._seen.get(key)) and seen[0] == value else (value, now)
            for key, value in entries.items()
        }
        gone = [key for key, (_, since) in self._seen.items() if now - since >= self._gone_after]
        if gone:
            self._annotate(dict.fromkeys(gone))
        return [_serving(value) for key, value in entries.items() if key not in gone]

    def _annotate(self, annotations: Mapping[str, str | None]) -> None:
        self._resources.merge(self._path, {"metadata": {"annotations": annotations}})


def _serving(entry: str) -> list[str]:
    """The fingerprints in an entry; one that cannot be read serves what nobody knows."""
    try:
        value: Any = json.loads(entry)
        return [str(one) for one in value["serving"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
