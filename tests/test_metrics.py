from __future__ import annotations

import json

import pytest
from prometheus_client.samples import Sample

from tests.reviews import snapshot_of
from tests.serving import POLICY, review
from webhook.admission import parse
from webhook.decision import BreakGlassUse, Decision, Violation
from webhook.metrics import Metrics, verdict

REVIEW = parse(json.dumps(review()).encode())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def samples(metrics: Metrics) -> list[Sample]:
    return [sample for family in metrics.registry.collect() for sample in family.samples]


def violations_in(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """How often each policy was violated, with what verdict in which mode."""
    return {
        tuple(sample.labels[name] for name in ("policy", "verdict", "mode")): sample.value
        for sample in samples(metrics)
        if sample.name == "driftwall_policy_violations_total"
    }


def violation(name: str, mode: str) -> Violation:
    return Violation(name=name, mode=mode, verdict="deny" if mode == "enforce" else mode)


@pytest.mark.parametrize(
    ("allowed", "mode", "expected"),
    [
        (True, None, "allow"),
        (True, "warn", "warn"),
        (True, "tag", "tag"),
        (True, "dryRun", "dryRun"),
        (False, "enforce", "deny"),
    ],
)
def test_a_review_is_counted_by_what_became_of_it(allowed: bool, mode: str | None, expected: str) -> None:
    decision = Decision(allowed=allowed, writer="automation:hpa", mode=mode)
    assert verdict(decision) == expected
    metrics = Metrics("1.2.3")
    for _ in range(2):
        metrics.review(REVIEW, decision, seconds=0.002, size=3000)
    labels = {"operation": "UPDATE", "verdict": expected, "mode": mode or "none", "writer": "automation"}
    assert value(metrics, "driftwall_reviews_total", **labels) == 2
    for name, below, above in (
        ("driftwall_review_duration_seconds_bucket", "0.001", "0.0025"),
        ("driftwall_review_size_bytes_bucket", "1024.0", "4096.0"),
    ):
        assert value(metrics, name, webhook="validate", le=below) == 0
        assert value(metrics, name, webhook="validate", le=above) == 2


def test_a_review_counts_for_each_policy_that_it_violates_or_would_have() -> None:
    metrics = Metrics("1.2.3")
    glass = BreakGlassUse(
        action="used", by="sam", reason="fire", expires=None, on="", violations=(violation("guarded", "enforce"),)
    )
    warned = (violation("noted", "warn"), violation("tried", "dryRun"))
    decision = Decision(allowed=True, writer="untrusted", mode="warn", violations=warned, break_glass=glass)
    metrics.review(REVIEW, decision, seconds=0, size=0)
    assert violations_in(metrics) == {
        ("guarded", "breakGlass", "enforce"): 1,
        ("noted", "warn", "warn"): 1,
        ("tried", "dryRun", "dryRun"): 1,
    }
    assert value(metrics, "driftwall_break_glass_total", action="used") == 1
    reviews = {"operation": "UPDATE", "verdict": "warn", "mode": "warn", "writer": "untrusted"}
    assert value(metrics, "driftwall_reviews_total", **reviews) == 1


def test_a_policy_that_is_no_more_leaves_no_series_behind() -> None:
    metrics = Metrics("1.2.3")
    metrics.policies_in_force(snapshot_of(POLICY), 1)
    for name in ("replicas", "(breakGlass)"):
        denied = Decision(allowed=False, writer="untrusted", mode="enforce", violations=(violation(name, "enforce"),))
        metrics.review(REVIEW, denied, seconds=0, size=0)
    metrics.policies_in_force(snapshot_of(POLICY.replace("spec.replicas", "spec.paused")), 2)
    assert len(violations_in(metrics)) == 2
    metrics.policies_in_force(snapshot_of(POLICY.replace("name: replicas", "name: other")), 3)
    assert list(violations_in(metrics)) == [("(breakGlass)", "deny", "enforce")]
    info = [sample for sample in samples(metrics) if sample.name == "driftwall_policy_info"]
    assert [sample.labels for sample in info] == [{"policy": "other", "mode": "enforce", "severity": "medium"}]


def test_the_hash_tells_policies_apart_and_not_their_order_or_layout() -> None:
    def hash_of(text: str) -> float | None:
        metrics = Metrics("1.2.3")
        metrics.policies_in_force(snapshot_of(text), 1)
        return value(metrics, "driftwall_policies_hash")

    other = POLICY.replace("name: replicas", "name: other")
    assert hash_of(f"{POLICY}---\n{other}") == hash_of(f"# a comment\n{other}---\n{POLICY}")
    assert len({hash_of(text) for text in (POLICY, other, f"{POLICY}---\n{other}")} - {0, None}) == 3


def test_a_writers_name_is_no_label() -> None:
    metrics = Metrics("1.2.3")
    for writer in ("trusted:a", "trusted:b", "made-up"):
        metrics.review(REVIEW, Decision(allowed=True, writer=writer), seconds=0, size=0)
    labels = {"operation": "UPDATE", "verdict": "allow", "mode": "none"}
    assert value(metrics, "driftwall_reviews_total", **labels, writer="trusted") == 2
    assert value(metrics, "driftwall_reviews_total", **labels, writer="other") == 1


def test_the_mutating_webhook_is_told_apart() -> None:
    metrics = Metrics("1.2.3")
    metrics.mutation(patched=True, seconds=0.002, size=3000)
    assert value(metrics, "driftwall_mutations_total", result="patched") == 1
    assert value(metrics, "driftwall_review_duration_seconds_count", webhook="mutate") == 1
    assert value(metrics, "driftwall_review_size_bytes_sum", webhook="mutate") == 3000
    assert value(metrics, "driftwall_review_duration_seconds_count", webhook="validate") == 0


def test_errors_look_ups_and_lost_lines_are_counted() -> None:
    metrics = Metrics("1.2.3")
    metrics.error(413, "request")
    metrics.lookup("hit")
    metrics.log_drop("file", 3)
    metrics.trace("event", "limited", 2)
    assert value(metrics, "driftwall_review_errors_total", status="413", reason="request") == 1
    assert value(metrics, "driftwall_lookups_total", result="hit") == 1
    assert value(metrics, "driftwall_log_lines_dropped_total", output="file") == 3
    assert value(metrics, "driftwall_cluster_writes_total", kind="event", result="limited") == 2


def test_what_alerts_ask_for_is_there_before_anything_has_happened() -> None:
    metrics = Metrics("1.2.3")
    denied = {"operation": "DELETE", "verdict": "deny", "mode": "enforce", "writer": "untrusted"}
    assert value(metrics, "driftwall_reviews_total", **denied) == 0
    assert value(metrics, "driftwall_review_errors_total", status="500", reason="internal") == 0
    assert value(metrics, "driftwall_log_lines_dropped_total", output="stdout") == 0
    assert value(metrics, "driftwall_cluster_writes_total", kind="event", result="failed") == 0
    assert value(metrics, "driftwall_break_glass_total", action="set") == 0


def test_two_processes_share_no_registry() -> None:
    assert Metrics("1").registry is not Metrics("1").registry
