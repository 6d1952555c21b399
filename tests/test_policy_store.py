from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.following import Followed
from tests.reviews import snapshot_of
from tests.serving import POLICY
from webhook.policy_source import Report, Update

GOOD = snapshot_of(POLICY)
OTHER = snapshot_of(POLICY.replace("name: replicas", "name: other"))
OK = ["policies: not all is well; what was good stays in force:"]


class Silent:
    """A source that says nothing by itself."""

    async def follow(self, report: Report) -> None:
        pass


@pytest.fixture
def followed() -> Followed:
    return Followed(Silent())


def state(followed: Followed) -> dict[str, Any]:
    return {
        "successful": followed.metric("policies_last_load_successful"),
        "errors": followed.metric("policy_load_errors_total"),
        "policies": followed.metric("policies"),
    }


def test_nothing_is_in_force_before_the_source_has_spoken(followed: Followed) -> None:
    assert followed.store.snapshot is None
    assert not followed.store.looked.is_set()
    assert followed.readiness.reasons() == ["policies: not loaded yet"]
    assert state(followed) == {"successful": 0, "errors": 0, "policies": 0}
    assert followed.metric("policies_loaded_timestamp_seconds") == 0


def test_an_update_puts_its_policies_in_force(followed: Followed) -> None:
    followed.store.take(Update(snapshot=GOOD))
    assert followed.store.snapshot is GOOD
    assert followed.store.looked.is_set()
    assert (followed.readiness.reasons(), followed.readiness.remarks()) == ([], [])
    assert state(followed) == {"successful": 1, "errors": 0, "policies": 1}
    assert followed.metric("policies_loaded_timestamp_seconds") == 1_700_000_000


def test_policies_that_do_not_load_at_the_start_make_it_unready_with_every_reason(followed: Followed) -> None:
    followed.store.take(Update(snapshot=None, problems=("a.yaml:1: bad", "b.yaml:2: worse")))
    assert followed.store.snapshot is None
    assert followed.store.looked.is_set()
    assert followed.readiness.reasons() == ["policies: a.yaml:1: bad", "policies: b.yaml:2: worse"]
    assert state(followed) == {"successful": 0, "errors": 1, "policies": 0}
    assert followed.told == [["a.yaml:1: bad", "b.yaml:2: worse"]]
    followed.store.take(Update(snapshot=GOOD))
    assert followed.readiness.reasons() == []
    assert state(followed) == {"successful": 1, "errors": 1, "policies": 1}


def test_policies_that_do_not_load_later_leave_the_last_good_ones_in_force_and_it_stays_ready(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.store.take(Update(snapshot=GOOD))
    with caplog.at_level(logging.INFO):
        followed.store.take(Update(snapshot=None, problems=("a.yaml:1: bad",)))
    assert followed.store.snapshot is GOOD
    assert followed.readiness.reasons() == []
    assert followed.readiness.remarks() == [*OK, "policies: a.yaml:1: bad"]
    assert state(followed) == {"successful": 0, "errors": 1, "policies": 1}
    assert [record.getMessage() for record in caplog.records] == ["policies: a.yaml:1: bad"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        followed.store.take(Update(snapshot=OTHER))
    assert followed.store.snapshot is OTHER
    assert followed.readiness.remarks() == []
    assert state(followed) == {"successful": 1, "errors": 1, "policies": 1}
    assert [record.getMessage() for record in caplog.records] == ["policies changed", "policies: all problems are gone"]


def test_the_same_problems_are_told_and_counted_once(followed: Followed) -> None:
    followed.store.take(Update(snapshot=GOOD))
    for _ in range(3):
        followed.store.take(Update(snapshot=None, problems=("bad",)))
    followed.store.take(Update(snapshot=None, problems=("worse",)))
    assert followed.told == [["bad"], ["worse"]]
    assert state(followed)["errors"] == 2


def test_a_part_of_the_policies_may_be_in_force_while_the_rest_is_told(followed: Followed) -> None:
    followed.store.take(Update(snapshot=GOOD))
    followed.store.take(Update(snapshot=OTHER, problems=("driftpolicies/x: bad",)))
    assert followed.store.snapshot is OTHER
    assert followed.readiness.reasons() == []
    assert followed.readiness.remarks() == [*OK, "policies: driftpolicies/x: bad"]
    assert state(followed)["successful"] == 0


def test_readiness_tells_of_twenty_problems_and_counts_the_rest(followed: Followed) -> None:
    followed.store.take(Update(snapshot=None, problems=tuple(f"problem {number}" for number in range(25))))
    reasons = followed.readiness.reasons()
    assert len(reasons) == 21
    assert reasons[-1] == "policies: … and 5 more; the log has them all"
