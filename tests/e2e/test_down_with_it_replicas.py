"""Line 6 of "Down with it" in THREATS.md: one of two replicas is killed, stopped, or told to end, under load.

Where each line has its tests is told in test_down_with_it.py.
"""

import signal

import pytest

from tests.deploying import NAMESPACE

from . import processes
from .installing import kubectl, overlay
from .node import Replica
from .test_installation import Cluster
from .test_installation import cluster as cluster  # noqa: PLC0414 - a fixture is found by its name
from .writes import Writes

# Seconds that a replica may take from its restart until the API server may call it again, on a machine that has a
# processor for it.
BACK_SECONDS = 5


@pytest.fixture(scope="module")
def enforced(cluster: Cluster) -> Cluster:
    kubectl(cluster.plane, "apply", objects=overlay("enforce"))
    cluster.rolled_out()
    cluster.plane.wait_for(lambda: cluster.forbidden(0, 0) is None, "a write to be denied")
    return cluster


def is_called(cluster: Cluster, replica: Replica) -> bool:
    """Whether the Service leads to it."""
    subsets = cluster.plane.get("endpoints", "driftwall", NAMESPACE).get("subsets", [])
    return replica.host.address in [address["ip"] for each in subsets for address in each.get("addresses", [])]


def failed_clearly(*loads: Writes) -> None:
    """Assert of all that went wrong that the writer was told what, and that it was not written."""
    for load in loads:
        for failure in load.failures:
            assert "failed calling webhook" in failure, failure


def nothing_got_through(cluster: Cluster) -> None:
    """Assert that no Deployment has what alice tried to put into it."""
    for each in cluster.plane.get("deployments", None, cluster.shop)["items"]:
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert "of-alice" not in container["image"]


def goes_well(*loads: Writes) -> bool:
    """Whether every load goes on for a while without a failure."""
    before = [len(load.failures) for load in loads]
    for load in loads:
        load.go_on()
    return before == [len(load.failures) for load in loads]


def test_6_kill_9_of_one_of_two_fails_writes_until_its_endpoint_is_gone_and_it_is_back_at_once(
    enforced: Cluster,
) -> None:
    cluster = enforced
    victim = cluster.node.replicas[0]
    with cluster.writing() as writes, cluster.trying() as tries:
        assert goes_well(writes, tries)
        cluster.node.kill(victim)
        processes.wait_for(lambda: not is_called(cluster, victim), "its endpoint to be gone")
        again = next(replica for replica in cluster.node.replicas if replica.name == victim.name)
        assert again.popen.pid != victim.popen.pid
        processes.wait_for(lambda: is_called(cluster, again), "it to be called again")
        assert again.seconds() < BACK_SECONDS
        # What was on its way while the endpoint went has come to its end by now.
        writes.go_on(2)
        tries.go_on(2)
        assert goes_well(writes, tries)
        assert again.popen.poll() is None
    failed_clearly(writes, tries)
    nothing_got_through(cluster)


def test_6_a_replica_that_hangs_fails_writes_until_nobody_is_sent_there(enforced: Cluster) -> None:
    cluster = enforced
    victim = cluster.node.replicas[0]
    with cluster.writing() as writes, cluster.trying() as tries:
        assert goes_well(writes, tries)
        victim.popen.send_signal(signal.SIGSTOP)
        try:
            processes.wait_for(lambda: not is_called(cluster, victim), "its endpoint to be gone")
            # A connection that the API server has kept to it fails once more, and is given up.
            processes.wait_for(lambda: goes_well(writes, tries), "all to go well without it", 60)
        finally:
            victim.popen.send_signal(signal.SIGCONT)
        processes.wait_for(lambda: is_called(cluster, victim), "it to be called again")
        processes.wait_for(lambda: goes_well(writes, tries), "all to go well with it")
    failed_clearly(writes, tries)
    nothing_got_through(cluster)


def test_6_a_replica_that_is_told_to_end_fails_no_write(enforced: Cluster) -> None:
    cluster = enforced
    victim = cluster.node.replicas[0]
    with cluster.writing() as writes, cluster.trying() as tries:
        cluster.plane.kubectl("-n", NAMESPACE, "delete", "pod", victim.name, "--wait=false")
        cluster.plane.wait_for(lambda: victim.popen.poll() is not None, "it to end")
        cluster.rolled_out()
        assert goes_well(writes, tries)
    assert (writes.failures, tries.failures) == ([], [])
    nothing_got_through(cluster)
