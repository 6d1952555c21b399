from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry

from tests.reviews import snapshot_of
from tests.serving import POLICY, review
from webhook.admission import parse
from webhook.decision import Decision, Violation
from webhook.metrics import Metrics
from webhook.worker_metrics import Together, families

REVIEW = parse(json.dumps(review()).encode())
OTHER = POLICY.replace("name: replicas", "name: other")


class Worker:
    """A worker that denies by the policy that it has loaded."""

    def __init__(self, policies: str = POLICY) -> None:
        self.metrics = Metrics("1.2.3")
        self.load(policies)

    def load(self, policies: str) -> None:
        self._snapshot = snapshot_of(policies)
        self.metrics.policies_in_force(self._snapshot, 1)

    def deny(self, times: int) -> None:
        violations = tuple(Violation(name=p.name, mode=p.mode, verdict="deny") for p in self._snapshot.policies)
        denied = Decision(allowed=False, writer="untrusted", mode="enforce", violations=violations)
        for _ in range(times):
            self.metrics.review(REVIEW, denied, seconds=0.1, size=10)


class Replica:
    """A replica with workers, as Prometheus sees it."""

    def __init__(self, *workers: Worker) -> None:
        self.own = Metrics("1.2.3")
        self.together = Together(self.own.registry)
        self._registry = CollectorRegistry()
        self._registry.register(self.together)
        self._workers = dict(enumerate(workers))
        self.refresh()

    def refresh(self) -> None:
        self.together.workers = {n: families(worker.metrics.registry) for n, worker in self._workers.items()}

    def end(self, number: int) -> None:
        del self._workers[number]
        self.together.end(number)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)

    def denials(self, policy: str) -> float | None:
        labels = {"policy": policy, "operation": "UPDATE", "verdict": "deny", "mode": "enforce", "writer": "untrusted"}
        return self.value("driftwall_policy_violations_total", **labels)


@pytest.fixture
def pair() -> tuple[Worker, Worker]:
    return Worker(), Worker()


def test_what_workers_count_is_added_up_and_what_all_of_them_have_is_told_once(pair: tuple[Worker, Worker]) -> None:
    for worker, times in zip(pair, (2, 3), strict=True):
        worker.deny(times)
        worker.metrics.at_scrapes(in_flight=lambda n=times: n, memory=lambda: 10, memory_limit=100)  # type: ignore[misc]
    replica = Replica(*pair)
    assert replica.denials("replicas") == 5
    assert replica.value("driftwall_review_size_bytes_sum", webhook="validate") == 50
    assert replica.value("driftwall_reviews_in_flight") == 5
    assert replica.value("driftwall_review_memory_bytes") == 20
    assert replica.value("driftwall_review_memory_limit_bytes") == 200
    assert replica.value("driftwall_policies") == 1
    assert replica.value("driftwall_policy_info", policy="replicas", mode="enforce", severity="medium") == 1
    assert replica.value("driftwall_policies_hash") == pair[0].metrics.registry.get_sample_value(
        "driftwall_policies_hash"
    )


def test_what_the_first_process_alone_knows_is_its_own(pair: tuple[Worker, Worker]) -> None:
    replica = Replica(*pair)
    replica.own.certificate_served(not_before=1, not_after=2)
    replica.own.workers.set(2)
    assert replica.value("driftwall_certificate_not_after_timestamp_seconds") == 2
    assert replica.value("driftwall_workers_ready") == 2


def test_what_a_worker_has_counted_outlives_it_until_its_policy_is_no_more(pair: tuple[Worker, Worker]) -> None:
    pair[0].deny(2)
    pair[1].deny(3)
    replica = Replica(*pair)
    replica.end(0)
    assert replica.denials("replicas") == 5
    pair[1].load(OTHER)
    pair[1].deny(1)
    replica.refresh()
    assert replica.denials("replicas") is None
    assert replica.denials("other") == 1
    denied = {"operation": "UPDATE", "verdict": "deny", "mode": "enforce", "writer": "untrusted"}
    assert replica.value("driftwall_reviews_total", **denied) == 6


def test_without_any_worker_for_a_moment_nothing_is_forgotten(pair: tuple[Worker, Worker]) -> None:
    pair[0].deny(2)
    replica = Replica(pair[0])
    replica.end(0)
    assert replica.denials("replicas") == 2
