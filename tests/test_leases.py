from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cluster import FakeCluster
from tests.serving import PATIENCE
from tests.test_objects import kubeconfig
from webhook.cluster.connection import connect
from webhook.cluster.leases import DEADLINE, DURATION, RETRY, Election, path_of
from webhook.cluster.resources import Resources
from webhook.errors import ClusterError, Conflict

PATH = path_of("driftwall-system", "driftwall")


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


class Candidate:
    """A candidate with a clock of its own."""

    def __init__(self, cluster: FakeCluster, folder: Path, identity: str, *, began: float = 0.0) -> None:
        self.now = began
        self.told: list[bool] = []
        self.resources = Resources(connect(kubeconfig(folder, cluster.port)))
        self.election = Election(
            self.resources, path=PATH, identity=identity, on_change=self.told.append, clock=lambda: self.now
        )

    def step(self, seconds: float = 0.0) -> bool:
        """Whether it leads after a step, so many seconds later."""
        self.now += seconds
        self.election.step()
        return self.election.leads()


@pytest.fixture
def first(cluster: FakeCluster, tmp_path: Path) -> Candidate:
    return Candidate(cluster, tmp_path, "first")


@pytest.fixture
def second(cluster: FakeCluster, tmp_path: Path) -> Candidate:
    # Its clock has nothing to do with the other's.
    return Candidate(cluster, tmp_path, "second", began=5e6)


def test_who_comes_first_leads_and_writes_down_what_kubernetes_wants(cluster: FakeCluster, first: Candidate) -> None:
    assert not first.election.leads()
    assert first.step()
    spec = cluster.objects[PATH]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("first", 15, 0)
    assert spec["acquireTime"] == spec["renewTime"]
    assert cluster.objects[PATH]["kind"] == "Lease"
    assert first.told == [True]


def test_a_lease_that_is_renewed_stays_with_its_holder(
    cluster: FakeCluster, first: Candidate, second: Candidate
) -> None:
    first.step()
    acquired = cluster.objects[PATH]["spec"]["acquireTime"]
    for _ in range(20):
        assert first.step(RETRY)
        assert not second.step(RETRY)
    assert cluster.objects[PATH]["spec"]["acquireTime"] == acquired
    assert (first.told, second.told) == ([True], [])


def test_a_holder_that_is_gone_is_followed_after_the_duration_by_ones_own_clock(
    cluster: FakeCluster, first: Candidate, second: Candidate
) -> None:
    first.step()
    assert not second.step()
    assert not second.step(DURATION - 0.001)
    assert second.step(0.001)
    assert cluster.objects[PATH]["spec"]["leaseTransitions"] == 1
    assert not first.step()
    assert first.told == [True, False]


def test_a_holder_gives_up_before_others_may_take_over(cluster: FakeCluster, first: Candidate) -> None:
    first.step()
    cluster.fault = lambda *_: 500
    first.now += DEADLINE - 0.001
    with pytest.raises(ClusterError) as raised:
        first.election.step()
    assert str(raised.value) == f"GET {PATH}: HTTP 500"
    assert first.election.leads()
    first.now += 0.001
    assert not first.election.leads()
    with pytest.raises(ClusterError):
        first.election.step()
    assert first.told == [True, False]
    cluster.fault = lambda *_: None
    assert first.step()


def test_a_candidate_that_starts_anew_waits_like_any_other(
    cluster: FakeCluster, first: Candidate, tmp_path: Path
) -> None:
    first.step()
    again = Candidate(cluster, tmp_path, "first-again")
    assert not again.step()
    assert again.step(DURATION)


def test_entries_that_replicas_write_into_the_lease_do_not_make_it_look_renewed(
    cluster: FakeCluster, first: Candidate, second: Candidate
) -> None:
    first.step()
    second.step()
    for number in range(5):
        cluster.change(PATH, {"metadata": {"annotations": {"driftwall.io/replica-a": str(number)}}})
        assert second.step(DURATION / 5) is (number == 4)


def test_a_lease_that_was_released_is_taken_at_once(cluster: FakeCluster, first: Candidate, second: Candidate) -> None:
    first.step()
    assert not second.step()
    first.election.release()
    assert not first.election.leads()
    assert "holderIdentity" not in cluster.objects[PATH]["spec"]
    assert second.step()


def test_nobody_releases_what_somebody_else_holds(cluster: FakeCluster, first: Candidate, second: Candidate) -> None:
    first.step()
    second.step()
    second.election.release()
    assert cluster.objects[PATH]["spec"]["holderIdentity"] == "first"
    first.now += DEADLINE
    first.election.release()
    assert cluster.objects[PATH]["spec"]["holderIdentity"] == "first"


def test_a_conflict_is_tried_again_at_once_and_not_for_ever(cluster: FakeCluster, first: Candidate) -> None:
    first.step()
    refused: list[str] = []

    def conflicts(method: str, path: str) -> int | None:
        if method == "PATCH" and len(refused) < 2:
            refused.append(path)
            return 409
        return None

    cluster.fault = conflicts
    assert first.step(DEADLINE)
    assert len(refused) == 2
    cluster.fault = lambda method, _: 409 if method == "PATCH" else None
    with pytest.raises(Conflict):
        first.step()


def test_of_two_that_want_it_at_the_same_time_one_gets_it(cluster: FakeCluster, tmp_path: Path) -> None:
    for _ in range(20):
        cluster.objects.clear()
        candidates = [Candidate(cluster, tmp_path, f"candidate-{number}") for number in range(4)]
        at_once = threading.Barrier(len(candidates))

        def run(candidate: Candidate, at_once: threading.Barrier = at_once) -> None:
            at_once.wait(PATIENCE)
            candidate.election.step()

        threads = [threading.Thread(target=run, args=(candidate,)) for candidate in candidates]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sum(candidate.election.leads() for candidate in candidates) == 1


def test_an_api_server_that_is_away_or_talks_nonsense_is_an_error_that_quotes_nothing(
    cluster: FakeCluster, first: Candidate
) -> None:
    cluster.fault = lambda *_: 0
    with pytest.raises(ClusterError, match=r"^GET .*: the API server cannot be reached"):
        first.step()
    cluster.fault = lambda *_: None
    nothing: list[dict[str, Any]] = [{"kind": "Lease"}, {"metadata": []}]
    for nonsense in nothing:
        cluster.objects[PATH] = nonsense
        with pytest.raises(ClusterError, match=r"the answer is no object that driftwall can read$"):
            first.step()
    cluster.put(PATH, {"spec": {"leaseTransitions": "x", "holderIdentity": None}})
    assert first.step()
    cluster.fault = lambda *_: 403
    with pytest.raises(ClusterError) as raised:
        first.step()
    assert str(raised.value) == f"GET {PATH}: driftwall may not; its role is not as deploy/ has it"
