"""The metrics of a replica's processes as one set: what Prometheus scrapes must not depend on who answers it.

Counters and histograms are added up, with those of workers that have ended. What is a gauge in a worker is the same in
all of them, so the least one tells what holds for the whole replica; but some are shares of a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from webhook.channel import Family, Sample
from webhook.metrics import is_current

# Gauges of which each process has a part.
SHARES: Final = frozenset(
    {
        "driftwall_review_memory_bytes",
        "driftwall_review_memory_limit_bytes",
        "driftwall_reviews_in_flight",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
# Gauges that the first process alone knows; a worker's are never set.
OF_THE_REPLICA: Final = frozenset(
    {
        "driftwall_certificate_not_before_timestamp_seconds",
        "driftwall_certificate_not_after_timestamp_seconds",
        "driftwall_leader",
        "driftwall_ready",
        "driftwall_workers_ready",
    }
)
# Gauges that the first process has too, and that say something of it.
_OF_ALL: Final = SHARES | {"process_start_time_seconds", "process_max_fds", "driftwall_build_info"}
_ADDED: Final = frozenset({"counter", "histogram", "summary"})
_POLICY_INFO: Final = "driftwall_policy_info"

_Key = tuple[str, tuple[tuple[str, str], ...]]


def families(registry: CollectorRegistry) -> list[Family]:
    """All metrics of a process."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class Together(Collector):
    """The metrics of the first process and its workers. ``workers`` are those of the living, by their number."""

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own
        self._ended: list[Family] = []
        self.workers: dict[int, list[Family]] = {}

    def end(self, number: int) -> None:
        """Keep what a worker that has ended counted: a counter that fell would look like a restart of the replica."""
        counted = [family for family in self.workers.pop(number, []) if family.kind in _ADDED]
        self._ended = self._in_force(_merged([self._ended, counted]))

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a registry."""
        own = [
            family
            for family in families(self._own)
            if family.kind in _ADDED or family.name in OF_THE_REPLICA or family.name in _OF_ALL
        ]
        workers = [[family for family in told if family.name not in OF_THE_REPLICA] for told in self.workers.values()]
        for family in _merged([own, self._in_force(self._ended), *workers]):
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric

    def _in_force(self, families: Iterable[Family]) -> list[Family]:
        """``families`` without what is about policies that are no more, so that these do not add up for ever."""
        living = [family for told in self.workers.values() for family in told if family.name == _POLICY_INFO]
        names = {sample.labels["policy"] for family in living for sample in family.samples}
        if not names:
            return list(families)
        return [
            msgspec.structs.replace(family, samples=[each for each in family.samples if is_current(each.labels, names)])
            for family in families
        ]


def _merged(parts: Iterable[list[Family]]) -> Iterator[Family]:
    found: dict[str, Family] = {}
    values: dict[str, dict[_Key, float]] = {}
    for part in parts:
        for family in part:
            found.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                known[key] = _both(family, sample, known[key]) if key in known else sample.value
    for name in sorted(found):
        samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
        yield Family(name, found[name].documentation, found[name].kind, samples)


def _both(family: Family, sample: Sample, other: float) -> float:
    if family.kind in _ADDED or family.name in SHARES:
        return sample.value + other
    return min(sample.value, other)
