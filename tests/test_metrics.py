from __future__ import annotations

import json

import pytest

from tests.serving import review
from webhook.admission import parse
from webhook.decision import Decision
from webhook.metrics import Metrics, verdict

REVIEW = parse(json.dumps(review()).encode())


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
    metrics.review(REVIEW, decision, 0.002)
    metrics.review(REVIEW, decision, 0.002)
    labels = {"operation": "UPDATE", "verdict": expected, "mode": mode or "none", "writer": "automation"}
    assert metrics.registry.get_sample_value("driftwall_reviews_total", labels) == 2
    assert metrics.registry.get_sample_value("driftwall_review_seconds_bucket", {"le": "0.0025"}) == 2
    assert metrics.registry.get_sample_value("driftwall_review_seconds_bucket", {"le": "0.001"}) == 0


def test_a_writers_name_is_no_label() -> None:
    metrics = Metrics("1.2.3")
    for writer in ("trusted:a", "trusted:b", "made-up"):
        metrics.review(REVIEW, Decision(allowed=True, writer=writer), 0)
    labels = {"operation": "UPDATE", "verdict": "allow", "mode": "none"}
    assert metrics.registry.get_sample_value("driftwall_reviews_total", {**labels, "writer": "trusted"}) == 2
    assert metrics.registry.get_sample_value("driftwall_reviews_total", {**labels, "writer": "other"}) == 1


def test_errors_look_ups_and_lost_lines_are_counted() -> None:
    metrics = Metrics("1.2.3")
    metrics.error(413)
    metrics.lookup("hit")
    metrics.log_drop(3)
    value = metrics.registry.get_sample_value
    assert value("driftwall_review_errors_total", {"status": "413"}) == 1
    assert value("driftwall_lookups_total", {"result": "hit"}) == 1
    assert value("driftwall_log_lines_dropped_total") == 3


def test_two_processes_share_no_registry() -> None:
    assert Metrics("1").registry is not Metrics("1").registry
