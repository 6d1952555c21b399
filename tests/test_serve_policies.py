"""What ``driftwall serve`` does about policies that change, or do not load, as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.following import FakeCluster, wait_for
from tests.running import Process, command, started
from tests.serving import PATIENCE, POLICY, Certificates, certificates, environment, review

BAD_POLICY = POLICY.replace("enforce", "enforced").replace("protect:", "protects:")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    put(tmp_path / "policy.yaml", POLICY)
    return certificates(tmp_path)


@pytest.fixture
def running(made: Certificates) -> Iterator[Process]:
    with started(made) as process:
        yield process


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.stop()


def put(file: Path, text: str) -> None:
    beside = file.with_name("new")
    beside.write_text(text)
    beside.replace(file)


def ready_says(running: Process) -> tuple[int, list[str]]:
    answer = running.management.request("GET", "/readyz")
    return answer.status, answer.body.decode().splitlines()


def metric(running: Process, name: str) -> str | None:
    lines = running.management.request("GET", "/metrics").body.decode().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"driftwall_{name} ")), None)


def allows(running: Process) -> bool:
    answer = running.client.post(review())
    assert answer.status == 200
    return bool(answer.json["response"]["allowed"])


def test_with_policies_that_do_not_load_it_starts_unready_says_why_and_gets_ready_once_they_do(
    made: Certificates,
) -> None:
    policy = made.ca_file.parent / "policy.yaml"
    put(policy, BAD_POLICY)
    with started(made, until="not ready yet; /readyz says why") as running:
        status, lines = ready_says(running)
        assert status == 503
        assert [line.split(": ")[:2] for line in lines] == [["policies", f"{policy}:6"], ["policies", f"{policy}:7"]]
        assert running.client.post(review()).status == 503
        assert metric(running, "policies_last_load_successful") == "0.0"
        put(policy, POLICY)
        running.message("ready")
        assert ready_says(running) == (200, ["ok"])
        assert not allows(running)
        assert running.stop() == 0


def test_a_change_takes_effect_and_what_does_not_load_leaves_the_last_good_policies_in_force(
    running: Process, made: Certificates
) -> None:
    policy = made.ca_file.parent / "policy.yaml"
    put(policy, BAD_POLICY)
    wait_for(lambda: len(ready_says(running)[1]) == 4, "the problems")
    status, lines = ready_says(running)
    assert (status, lines[:2]) == (200, ["ok", "policies: not all is well; what was good stays in force:"])
    assert not allows(running)
    assert metric(running, "policies_last_load_successful") == "0.0"
    assert metric(running, "policy_load_errors_total") == "1.0"
    put(policy, POLICY.replace("enforce", "warn"))
    wait_for(lambda: allows(running), "the change to take effect")
    assert ready_says(running) == (200, ["ok"])
    assert metric(running, "policies_last_load_successful") == "1.0"
    assert running.stop() == 0
    told = [line["message"] for line in running.messages if line["message"].startswith("polic")]
    assert told[-2:] == ["policies changed", "policies: all problems are gone"]
    assert len(told) == 4


def test_policies_from_the_cluster_are_in_force_followed_and_given_up_at_the_end(
    made: Certificates, cluster: FakeCluster
) -> None:
    kubeconfig = str(cluster.kubeconfig(made.ca_file.parent))
    spec = {"mode": "enforce", "protect": {"fields": ["spec.replicas"]}}
    cluster.put("driftpolicies", "replicas", spec)
    with started(made, "--policies", "cluster", "--kubeconfig", kubeconfig) as running:
        assert not allows(running)
        cluster.put("driftpolicies", "replicas", {**spec, "mode": "warn"})
        wait_for(lambda: allows(running), "the change to take effect")
        assert running.stop() == 0
        wait_for(lambda: not cluster.watching(), "the watch to end")


def test_the_cluster_without_a_way_to_it_is_64(made: Certificates) -> None:
    done = subprocess.run(
        command(made, "--policies", "cluster"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 64
    assert done.stderr.splitlines()[-1] == (
        "driftwall: --policies cluster needs a way to the API server (it does not run in a cluster and there is no "
        "kubeconfig); give --kubeconfig FILE"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_worker_follows_the_policies(made: Certificates, workers: str) -> None:
    with started(made, "--workers", workers) as running:
        assert not allows(running)
        put(made.ca_file.parent / "policy.yaml", POLICY.replace("enforce", "warn"))
        # New connections go to either worker.
        wait_for(lambda: all(allows(running) for _ in range(20)), "the change to take effect everywhere")
        assert running.stop() == 0
