"""Counters and histograms of what every review adds to, for prometheus_client to collect.

Its own take a lock and check what they are told with each addition, ten times as long. These are added to by one thread
alone, which is that of the event loop; any thread may collect them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally(Collector):
    """A counter: ``counts`` has how often, by the values of its labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self.counts: Final[defaultdict[tuple[str, ...], float]] = defaultdict(float)
        registry.register(self)

    def begin(self, *values: str) -> None:
        """Have the series with these values there before anything is counted."""
        self.counts[values] += 0

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The one family of it."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        # A copy: there may be more meanwhile.
        for values, count in self.counts.copy().items():
            family.add_metric(values, count)
        yield family


class Distribution(Collector):
    """A histogram; ``label`` is its one label and what values that can have. A bucket has what is at most its bound."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label: tuple[str, Sequence[str]],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label, values = label
        self._bounds = buckets
        self._names = [floatToGoString(bound) for bound in (*buckets, float("inf"))]
        self._counts = {value: [0.0] * len(self._names) for value in values}
        self._sums = dict.fromkeys(values, 0.0)
        registry.register(self)

    def observe(self, value: str, amount: float) -> None:
        """Count ``amount`` for this value of the label."""
        self._counts[value][bisect_left(self._bounds, amount)] += 1
        self._sums[value] += amount

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The one family of it."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=(self._label,))
        for value, counts in self._counts.items():
            family.add_metric((value,), list(zip(self._names, accumulate(counts), strict=True)), self._sums[value])
        yield family
