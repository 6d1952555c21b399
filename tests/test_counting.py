from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from webhook.counting import Distribution, Tally
from webhook.metrics import BYTES_BUCKETS, SECONDS_BUCKETS


def texts(registry: CollectorRegistry) -> list[bytes]:
    """What is scraped, in both formats and by name."""
    return [
        generate_latest(registry),
        openmetrics.generate_latest(registry),
        *(generate_latest(registry.restricted_registry([name])) for name in ("x_total", "x_bucket", "x_sum")),
    ]


@pytest.fixture
def registries() -> tuple[CollectorRegistry, CollectorRegistry]:
    """One for what prometheus_client counts, and one for what we do."""
    disable_created_metrics()
    return CollectorRegistry(), CollectorRegistry(auto_describe=True)


def test_a_counter_says_what_that_of_prometheus_says(registries: tuple[CollectorRegistry, CollectorRegistry]) -> None:
    theirs = Counter("x_total", "Text.", ("a", "b"), registry=registries[0])
    ours = Tally("x_total", "Text.", ("a", "b"), registry=registries[1])
    theirs.labels("none", "")
    ours.begin("none", "")
    for values in (("one", 'q"\\\n'), ("two", "x"), ("one", 'q"\\\n')):
        theirs.labels(*values).inc()
        ours.counts[values] += 1
    assert texts(registries[1]) == texts(registries[0])


@pytest.mark.parametrize("buckets", [SECONDS_BUCKETS, BYTES_BUCKETS])
def test_a_histogram_says_what_that_of_prometheus_says(
    registries: tuple[CollectorRegistry, CollectorRegistry], buckets: tuple[float, ...]
) -> None:
    theirs = Histogram("x", "Text.", ("webhook",), buckets=buckets, registry=registries[0])
    ours = Distribution("x", "Text.", ("webhook", ("validate", "mutate")), buckets=buckets, registry=registries[1])
    children = {value: theirs.labels(value) for value in ("validate", "mutate")}
    for amount in (0, *buckets, *(bound * 1.001 for bound in buckets), 7 * buckets[-1]):
        children["validate"].observe(amount)
        ours.observe("validate", amount)
    assert texts(registries[1]) == texts(registries[0])
