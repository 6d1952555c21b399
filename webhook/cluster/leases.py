"""Who of the replicas does what one alone may do: a Lease of coordination.k8s.io, as client-go keeps it.

Nobody's wall clock has a say: a Lease is taken for held until it has not changed for its duration by our own monotonic
clock, and its holder gives up earlier than that by its own. One that was stopped and goes on may still believe to hold
it for a moment, so every write of a leader is bound to the resourceVersion that it has read, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from webhook.cluster.resources import Resources
from webhook.errors import Conflict

# Seconds; those of Kubernetes' own controllers (leaderelection in client-go). A holder that cannot renew for DEADLINE
# stops, others take over after DURATION: the five seconds between are for a call that is under way.
DURATION: Final = 15.0
DEADLINE: Final = 10.0
RETRY: Final = 2.0
# At once, when somebody else changed the Lease: replicas write their entries into it (cluster.replicas), and where none
# is there, each of four that come in the same moment may make it between our look and our claim, and one may take it.
_ATTEMPTS: Final = 5

_log = logging.getLogger(__name__)


class Election:
    """One candidate for a Lease. :meth:`step` is to be called every RETRY seconds, from one thread.

    ``identity`` must be nobody else's, also not that of this replica before a restart. ``on_change`` is told whether it
    leads. ``now`` is what is written down for people.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        path: str,
        identity: str,
        on_change: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._resources = resources
        self._path = path
        self._identity = identity
        self._on_change = on_change
        self._clock = clock
        self._now = now
        self._until = float("-inf")
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0
        self._led = False

    def leads(self) -> bool:
        """Whether this one may do now what one alone may do; may be asked from any thread."""
        return self._clock() < self._until

    def step(self) -> None:
        """Take the Lease, renew it, or look at it.

        Raises:
            ClusterError: the API server has refused or failed.
        """
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    self._step()
                except Conflict:
                    if attempt == _ATTEMPTS - 1:
                        raise
                else:
                    return
        finally:
            self._tell()

    def release(self) -> None:
        """Leave the Lease to others, if it is ours, so that none of them waits for it to expire."""
        held, self._until = self.leads(), float("-inf")
        self._tell()
        if not held:
            return
        lease = self._resources.get(self._path)
        if lease is not None and _spec(lease).get("holderIdentity") == self._identity:
            version = lease["metadata"]["resourceVersion"]
            self._resources.merge(self._path, {"spec": {"holderIdentity": None}}, version=version)

    def _step(self) -> None:
        lease = self._resources.get(self._path) or self._resources.ensure(self._path, empty(self._path))
        # Before the call that renews: what others see happens later than this.
        began = self._clock()
        spec = _spec(lease)
        holder = spec.get("holderIdentity") or ""
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, began
        if holder not in ("", self._identity) and began < self._seen_at + DURATION:
            self._until = float("-inf")
            return
        self._resources.merge(self._path, {"spec": self._claim(spec)}, version=lease["metadata"]["resourceVersion"])
        self._until = began + DEADLINE

    def _claim(self, spec: dict[str, Any]) -> dict[str, Any]:
        # MicroTime has exactly six digits.
        now = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        claim = {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now}
        if spec.get("holderIdentity") == self._identity:
            return claim
        transitions = spec.get("leaseTransitions")
        count = transitions + 1 if isinstance(transitions, int) else 0
        return {**claim, "acquireTime": now, "leaseTransitions": count}

    def _tell(self) -> None:
        if (leads := self.leads()) != self._led:
            self._led = leads
            _log.info("this replica leads now" if leads else "this replica does not lead any more")
            self._on_change(leads)


def path_of(namespace: str, name: str) -> str:
    """The path of a Lease."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"


def empty(path: str) -> dict[str, Any]:
    """A Lease that nobody holds."""
    name = path.rpartition("/")[2]
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}


def _spec(lease: dict[str, Any]) -> dict[str, Any]:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}
