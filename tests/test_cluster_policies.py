from __future__ import annotations

import json
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.following import FakeCluster, Followed, following, wait_for
from tests.serving import POLICY, certificates, settings_for
from webhook.admission import UserInfo
from webhook.cli import main
from webhook.cluster.connection import ApiServer, connect
from webhook.cluster.mirror import Mirror
from webhook.cluster.policies import NOTHING, ClusterPolicies, Pace
from webhook.reviewing import policy_source

Json = dict[str, Any]

# Nothing here is waited for in vain, so nothing has to be short but what a test lets run out.
PACE = Pace(together=0.0, tick=0.05, watch=60, quiet=60, longest_pause=0.05)
BRIEF = Pace(together=0.0, tick=0.05, watch=0, quiet=0.2, longest_pause=0.05)
BAD: Json = {"mode": "enforce", "protect": {"fields": ["spec..replicas"]}}
PROBLEM = "driftpolicies/a: spec.protect.fields[0]: a field name is missing at character 6 of 'spec..replicas'"


UNSERVED = "the API server does not serve this resource; its CustomResourceDefinition is missing"


def spec(mode: str = "enforce") -> Json:
    return {"mode": mode, "protect": {"fields": ["spec.replicas"]}}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's own cluster has a part in these tests."""
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.stop()


def connection_to(cluster: FakeCluster, folder: Path) -> ApiServer:
    connection = connect(cluster.kubeconfig(folder))
    assert isinstance(connection, ApiServer)
    return connection


def source(
    cluster: FakeCluster, folder: Path, pace: Pace = PACE, is_leader: Callable[[], bool] = lambda: True
) -> ClusterPolicies:
    return ClusterPolicies(connection_to(cluster, folder), is_leader=is_leader, pace=pace)


@pytest.fixture
def followed(cluster: FakeCluster, tmp_path: Path) -> Iterator[Followed]:
    """Policy a is in force."""
    cluster.put("driftpolicies", "a", spec())
    with following(source(cluster, tmp_path)) as followed:
        followed.until(lambda: followed.names == ["a"], "the first load")
        wait_for(lambda: cluster.watching() and cluster.watching("driftwallconfigs"), "both watches")
        yield followed


def accepted(cluster: FakeCluster, resource: str, name: str) -> str | None:
    condition = cluster.condition(resource, name)
    return None if condition is None else condition["status"]


# ── what takes effect ────────────────────────────────────────────────────────────────────────────────────────────────


def test_policies_that_are_created_changed_and_deleted_take_effect(cluster: FakeCluster, followed: Followed) -> None:
    cluster.put("driftpolicies", "b", spec("warn"))
    followed.until(lambda: followed.names == ["a", "b"], "the new policy")
    cluster.put("driftpolicies", "a", spec("tag"))
    followed.until(lambda: followed.modes == {"a": "tag", "b": "warn"}, "the change")
    cluster.delete("driftpolicies", "a")
    followed.until(lambda: followed.names == ["b"], "the policy to go")
    assert (cluster.lists(), cluster.lists("driftwallconfigs")) == (1, 1)
    assert followed.readiness.remarks() == []


def test_the_configuration_takes_effect_and_goes_back_to_its_defaults(cluster: FakeCluster, followed: Followed) -> None:
    def cluster_id() -> str:
        assert followed.store.snapshot is not None
        return followed.store.snapshot.config.cluster_id

    assert cluster_id() == ""
    cluster.put("driftwallconfigs", "default", {"clusterId": "prod"})
    followed.until(lambda: cluster_id() == "prod", "the configuration")
    cluster.delete("driftwallconfigs", "default")
    followed.until(lambda: cluster_id() == "", "the configuration to go")


def test_a_list_is_read_page_by_page(tmp_path: Path) -> None:
    cluster = FakeCluster(page=2)
    for number in range(5):
        cluster.put("driftpolicies", f"p{number}", spec())
    with following(source(cluster, tmp_path)) as followed:
        followed.until(lambda: followed.names == [f"p{number}" for number in range(5)], "all pages")
    cluster.stop()
    assert len([request for request in cluster.requests if "driftpolicies?limit=" in request]) == 3


def test_a_change_of_metadata_or_status_compiles_nothing_anew(cluster: FakeCluster, followed: Followed) -> None:
    wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "True", "the status")
    before = followed.store.snapshot
    cluster.put("driftpolicies", "a", spec(), metadata={"name": "a", "uid": "u", "labels": {"x": "y"}, "generation": 1})
    cluster.bookmark()
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.names == ["a", "b"], "the next change")
    assert followed.updates[0].snapshot is before
    assert len(followed.updates) == 2


def test_a_policy_that_became_managed_stays_readable_whatever_the_api_server_adds(
    cluster: FakeCluster, followed: Followed
) -> None:
    metadata = {"name": "b", "uid": "u", "generation": 1, "managedFields": [{}], "whateverComes": {"next": True}}
    cluster.put("driftpolicies", "b", spec(), metadata=metadata)
    followed.until(lambda: followed.names == ["a", "b"], "the policy")


# ── what does not ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_an_object_that_is_not_valid_the_last_good_version_stays_and_the_others_go_on(
    cluster: FakeCluster, followed: Followed
) -> None:
    cluster.put("driftpolicies", "b", spec("warn"))
    followed.until(lambda: followed.names == ["a", "b"], "both policies")
    cluster.put("driftpolicies", "a", BAD)
    followed.until(lambda: followed.readiness.remarks()[1:] == [f"policies: {PROBLEM}"], "the problem")
    assert followed.readiness.reasons() == []
    assert followed.modes == {"a": "enforce", "b": "warn"}
    cluster.put("driftpolicies", "b", spec("tag"))
    followed.until(lambda: followed.modes == {"a": "enforce", "b": "tag"}, "the other policy's change")
    condition = wait_for(lambda: cluster.condition("driftpolicies", "a"), "the status")
    wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "False", "the verdict")
    condition = cluster.condition("driftpolicies", "a")
    assert condition is not None
    assert (condition["type"], condition["reason"], condition["observedGeneration"]) == ("Accepted", "Invalid", 2)
    assert condition["message"] == f"{PROBLEM}\nIts last good version stays in force until driftwall restarts."
    cluster.put("driftpolicies", "a", spec("dryRun"))
    followed.until(lambda: followed.modes == {"a": "dryRun", "b": "tag"}, "the mended policy")
    wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "True", "the verdict to change")
    assert followed.readiness.remarks() == []


def test_a_new_object_that_is_not_valid_is_left_out(cluster: FakeCluster, followed: Followed) -> None:
    cluster.put("driftpolicies", "z", BAD)
    wait_for(lambda: accepted(cluster, "driftpolicies", "z") == "False", "the status")
    condition = cluster.condition("driftpolicies", "z")
    assert condition is not None
    assert condition["message"].endswith("\nIt is not in force.")
    assert followed.names == ["a"]
    assert followed.metric("policies_last_load_successful") == 0


def test_an_object_that_is_deleted_and_made_anew_has_no_last_good_version(
    cluster: FakeCluster, followed: Followed
) -> None:
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.names == ["a", "b"], "both")
    cluster.delete("driftpolicies", "b")
    followed.until(lambda: followed.names == ["a"], "one to go")
    cluster.put("driftpolicies", "b", BAD)
    wait_for(lambda: accepted(cluster, "driftpolicies", "b") == "False", "the status")
    assert followed.names == ["a"]


def test_a_configuration_by_another_name_is_none(cluster: FakeCluster, followed: Followed) -> None:
    cluster.put("driftwallconfigs", "other", {"clusterId": "prod"})
    wait_for(lambda: accepted(cluster, "driftwallconfigs", "other") == "False", "the status")
    condition = cluster.condition("driftwallconfigs", "other")
    assert condition is not None
    assert condition["message"].startswith(
        "driftwallconfigs/other: metadata.name: there is one configuration, and its name is 'default'"
    )
    assert followed.store.snapshot is not None
    assert followed.store.snapshot.config.cluster_id == ""


@pytest.mark.parametrize("value", [None, [], "x", {"protect": None}, {"mode": 5, "protect": {"fields": [[[]]]}}])
def test_whatever_is_stored_is_judged_and_breaks_nothing(
    cluster: FakeCluster, followed: Followed, value: object
) -> None:
    cluster.put("driftpolicies", "odd", value)  # type: ignore[arg-type]
    wait_for(lambda: accepted(cluster, "driftpolicies", "odd") == "False", "the status")
    assert followed.names == ["a"]


def test_a_failure_of_driftwall_itself_is_a_problem_of_that_object(
    cluster: FakeCluster, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("webhook.cluster.policies.check", fail)
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.told, "the problem")
    assert followed.told == [["driftpolicies/b: driftwall failed to check it; the reason is in its log"]]
    assert followed.names == ["a"]


def test_a_failure_of_driftwall_over_all_of_them_leaves_what_is_in_force(
    cluster: FakeCluster, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("webhook.cluster.policies.compile_documents", fail)
        cluster.put("driftpolicies", "b", spec())
        followed.until(lambda: followed.told, "the problem")
    assert followed.told == [["driftwall failed to read them; its log says why"]]
    assert followed.names == ["a"]
    cluster.put("driftpolicies", "c", spec())
    followed.until(lambda: followed.names == ["a", "b", "c"], "the next change")


def test_with_one_object_that_is_not_valid_at_the_start_nothing_is_in_force_until_it_is(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    cluster.put("driftpolicies", "a", BAD)
    cluster.put("driftpolicies", "b", spec())
    with following(source(cluster, tmp_path)) as followed:
        followed.until(lambda: followed.readiness.reasons() == [f"policies: {PROBLEM}"], "the problem")
        assert followed.store.snapshot is None
        wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "False", "the status of the bad one")
        wait_for(lambda: accepted(cluster, "driftpolicies", "b") == "True", "the status of the good one")
        cluster.put("driftpolicies", "a", spec())
        followed.until(lambda: followed.names == ["a", "b"], "both")
        assert followed.readiness.reasons() == []


def test_without_any_policy_at_the_start_it_is_not_ready_until_there_is_one(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    with following(source(cluster, tmp_path)) as followed:
        followed.until(lambda: followed.readiness.reasons() == [f"policies: {NOTHING}"], "the reason")
        cluster.put("driftpolicies", "a", spec())
        followed.until(lambda: followed.names == ["a"], "the policy")


def test_the_last_policy_may_be_deleted_and_that_is_told(cluster: FakeCluster, followed: Followed) -> None:
    cluster.delete("driftpolicies", "a")
    followed.until(lambda: followed.names == [], "the policy to go")
    assert followed.readiness.reasons() == []
    assert followed.readiness.remarks()[1:] == [f"policies: {NOTHING}"]


# ── the way to the API server ────────────────────────────────────────────────────────────────────────────────────────


def test_a_watch_that_is_dropped_goes_on_where_it_was(cluster: FakeCluster, followed: Followed) -> None:
    for number in range(3):
        cluster.drop()
        cluster.put("driftpolicies", f"p{number}", spec())
        followed.until(lambda n=number: f"p{n}" in (followed.names or ()), "the change")  # type: ignore[misc]
    assert cluster.lists() == 1


def test_a_watch_whose_time_is_up_goes_on_where_it_was(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("driftpolicies", "a", spec())
    with following(source(cluster, tmp_path, BRIEF)) as followed:
        wait_for(lambda: len([r for r in cluster.requests if "driftpolicies?watch" in r]) >= 3, "three watches")
        cluster.put("driftpolicies", "b", spec())
        followed.until(lambda: followed.names == ["a", "b"], "the change")
        assert cluster.lists() == 1


def test_a_bookmark_moves_the_watch_on(cluster: FakeCluster, followed: Followed) -> None:
    cluster.bookmark()
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.names == ["a", "b"], "the change")
    cluster.drop()
    wait_for(lambda: len([r for r in cluster.requests if "driftpolicies?watch" in r]) == 2, "the next watch")
    first, second = (
        r.partition("resourceVersion=")[2].partition("&")[0] for r in cluster.requests if "policies?w" in r
    )
    assert int(second) > int(first)
    assert "allowWatchBookmarks=true" in cluster.requests[-1]


def test_a_version_that_is_too_old_is_listed_anew_and_what_was_missed_is_made_good(
    cluster: FakeCluster, followed: Followed
) -> None:
    before = followed.store.snapshot
    cluster.stop()
    cluster.put("driftpolicies", "b", spec())
    cluster.delete("driftpolicies", "a")
    cluster.forget()
    assert followed.store.snapshot is before
    cluster.start()
    followed.until(lambda: followed.names == ["b"], "what was missed")
    assert cluster.lists() == 2


@pytest.mark.parametrize("status", [410, 500, 503, 429, 403, 401])
def test_a_refusal_is_told_and_ends_by_itself(cluster: FakeCluster, followed: Followed, status: int) -> None:
    before = followed.store.snapshot
    cluster.status = status
    cluster.drop()
    if status != 410:
        followed.until(lambda: len(followed.readiness.remarks()) == 3, "both problems")
        assert followed.readiness.remarks()[1].startswith("policies: driftwallconfigs.driftwall.io: ")
        assert followed.readiness.remarks()[2].startswith("policies: driftpolicies.driftwall.io: ")
        assert followed.metric("policies_last_load_successful") == 0
    assert followed.readiness.reasons() == []
    assert followed.store.snapshot is before
    cluster.put("driftpolicies", "b", spec())
    cluster.status = 0
    followed.until(lambda: followed.names == ["a", "b"], "the change")
    followed.until(lambda: not followed.readiness.remarks(), "the problems to go")


def test_an_api_server_that_restarts_is_found_again(cluster: FakeCluster, followed: Followed) -> None:
    before = followed.store.snapshot
    cluster.stop()
    followed.until(lambda: any("cannot be reached" in remark for remark in followed.readiness.remarks()), "the problem")
    assert followed.readiness.reasons() == []
    assert followed.store.snapshot is before
    cluster.put("driftpolicies", "b", spec())
    cluster.start()
    followed.until(lambda: followed.names == ["a", "b"], "the change")
    followed.until(lambda: not followed.readiness.remarks(), "the problem to go")


def test_an_api_server_that_is_away_at_the_start_is_waited_for(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("driftpolicies", "a", spec())
    cluster.stop()
    with following(source(cluster, tmp_path)) as followed:
        followed.until(lambda: len(followed.readiness.reasons()) == 2, "both reasons")
        cluster.start()
        followed.until(lambda: followed.names == ["a"], "the policy")


def test_an_api_server_that_is_too_slow_is_told_and_waited_for(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhook.cluster.mirror._LIST_SECONDS", 0.05)
    cluster.put("driftpolicies", "a", spec())
    cluster.go_on.clear()
    with following(source(cluster, tmp_path)) as followed:
        slow = "the API server did not answer in time; try again"
        followed.until(lambda: [r for r in followed.readiness.reasons() if slow in r], "the reason")
        monkeypatch.undo()
        cluster.go_on.set()
        followed.until(lambda: followed.names == ["a"], "the policy")


def test_without_its_definitions_it_says_what_is_missing(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("driftpolicies", "a", spec())
    cluster.missing = {"driftwallconfigs"}
    with following(source(cluster, tmp_path)) as followed:
        reason = followed.until(lambda: [r for r in followed.readiness.reasons() if "configs" in r], "the reason")
        assert reason == [f"policies: driftwallconfigs.driftwall.io: {UNSERVED}"]
        cluster.missing = set()
        followed.until(lambda: followed.names == ["a"], "the policy")


@pytest.mark.parametrize(
    "line", [b"hello", b"[]", b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":{"metadata":{"name":5}}}', b"\xff"]
)
def test_nonsense_in_a_watch_is_survived(cluster: FakeCluster, followed: Followed, line: bytes) -> None:
    cluster.say(line)
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.names == ["a", "b"], "the change")


def test_a_line_without_end_is_not_read_to_its_end(cluster: FakeCluster, followed: Followed) -> None:
    cluster.say(b" " * (8 * 1024 * 1024 + 1))
    cluster.put("driftpolicies", "b", spec())
    followed.until(lambda: followed.names == ["a", "b"], "the change")


def test_a_connection_that_is_dead_is_found_out(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("driftpolicies", "a", spec())
    # The API server would end the watch after a minute, but nothing comes on this connection for a tenth of a second.
    pace = Pace(together=0.0, tick=0.05, watch=60, quiet=-59.9, longest_pause=0.05)
    with following(source(cluster, tmp_path, pace)) as followed:
        followed.until(lambda: followed.names == ["a"], "the policy")
        wait_for(lambda: len([r for r in cluster.requests if "driftpolicies?watch" in r]) >= 3, "further watches")
        cluster.put("driftpolicies", "b", spec())
        followed.until(lambda: followed.names == ["a", "b"], "the change")
        assert followed.readiness.remarks() == []


def test_a_mirror_ends_at_once_in_the_middle_of_a_watch(cluster: FakeCluster, tmp_path: Path) -> None:
    changed = threading.Event()
    connection = connection_to(cluster, tmp_path)
    mirror = Mirror(connection, "/apis/driftwall.io/v1alpha1/driftpolicies", changed.set)
    mirror.start()
    wait_for(cluster.watching, "the watch")
    mirror.close(30)
    assert not any(thread.name == "watch driftpolicies" for thread in threading.enumerate())
    assert mirror.objects == {}


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_status_is_written_once(cluster: FakeCluster, followed: Followed) -> None:
    wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "True", "the status")
    cluster.put("driftpolicies", "b", spec())
    wait_for(lambda: accepted(cluster, "driftpolicies", "b") == "True", "the other status")
    cluster.put("driftwallconfigs", "default", {})
    wait_for(lambda: accepted(cluster, "driftwallconfigs", "default") == "True", "the configuration's status")
    assert [place for place, _ in cluster.patches] == ["driftpolicies/a", "driftpolicies/b", "driftwallconfigs/default"]
    condition = cluster.condition("driftpolicies", "a")
    assert condition is not None
    since = condition.pop("lastTransitionTime")
    assert since.endswith("Z")
    assert condition == {
        "type": "Accepted", "status": "True", "reason": "Valid", "message": "It is valid.", "observedGeneration": 1,
    }  # fmt: skip


def test_a_status_that_tells_it_already_is_left_alone(cluster: FakeCluster, tmp_path: Path) -> None:
    condition = {
        "type": "Accepted", "status": "True", "reason": "Valid", "message": "It is valid.",
        "lastTransitionTime": "2026-11-22T07:00:00Z",
    }  # fmt: skip
    cluster.put("driftpolicies", "a", spec(), status={"observedGeneration": 1, "conditions": [condition]})
    cluster.put("driftpolicies", "b", spec())
    with following(source(cluster, tmp_path)):
        wait_for(lambda: accepted(cluster, "driftpolicies", "b") == "True", "the other's status")
        assert [place for place, _ in cluster.patches] == ["driftpolicies/b"]
        cluster.put("driftpolicies", "a", spec("warn"))
        wait_for(lambda: len(cluster.patches) == 2, "the next generation's status")
        written = cluster.condition("driftpolicies", "a")
        assert written is not None
        # The verdict is the same, so it is since then.
        assert (written["observedGeneration"], written["lastTransitionTime"]) == (2, "2026-11-22T07:00:00Z")


def test_only_the_leader_writes_and_whoever_becomes_it_does_at_once(cluster: FakeCluster, tmp_path: Path) -> None:
    leads = threading.Event()
    cluster.put("driftpolicies", "a", spec())
    with following(source(cluster, tmp_path, is_leader=leads.is_set)) as followed:
        cluster.put("driftpolicies", "b", spec())
        followed.until(lambda: followed.names == ["a", "b"], "the policies")
        assert cluster.patches == []
        leads.set()
        wait_for(lambda: len(cluster.patches) == 2, "both statuses")


def test_two_that_think_they_lead_and_do_not_agree_write_once_each(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("driftpolicies", "a", spec())
    cluster.put("driftpolicies", "b", spec())
    with following(source(cluster, tmp_path)) as one:
        one.until(lambda: one.names == ["a", "b"], "the policies")
        wait_for(lambda: len(cluster.patches) == 2, "their statuses")
        cluster.put("driftpolicies", "a", BAD)  # of which this one knows a good version, and the other one does not
        wait_for(lambda: len(cluster.patches) == 3, "its status")
        with following(source(cluster, tmp_path)) as other:
            other.until(lambda: other.readiness.reasons() == [f"policies: {PROBLEM}"], "the problem")
            wait_for(lambda: len(cluster.patches) == 4, "the other's word")
            # Both have had a look since.
            cluster.put("driftpolicies", "c", spec())
            one.until(lambda: one.names == ["a", "b", "c"], "the next policy")
            wait_for(lambda: accepted(cluster, "driftpolicies", "c") == "True", "its status")
            others = [place for place, _ in cluster.patches if place != "driftpolicies/c"]
            assert others == ["driftpolicies/a", "driftpolicies/b", "driftpolicies/a", "driftpolicies/a"]


def test_a_status_that_could_not_be_written_is_written_later(cluster: FakeCluster, followed: Followed) -> None:
    wait_for(lambda: accepted(cluster, "driftpolicies", "a") == "True", "the status")
    calls = len(cluster.patches)
    cluster.put("driftpolicies", "b", spec())
    wait_for(lambda: len(cluster.patches) > calls, "a status")
    cluster.stop()
    cluster.put("driftpolicies", "c", spec())
    cluster.start()
    wait_for(lambda: accepted(cluster, "driftpolicies", "c") == "True", "the status")


# ── a look from the command line ─────────────────────────────────────────────────────────────────────────────────────


def test_the_webhook_configurations_of_the_policies_in_the_cluster_are_printed(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put("driftpolicies", "a", spec())
    cluster.put("driftwallconfigs", "default", {"exemptNamespaces": ["kube-system", "gke-managed"]})
    where = ("--service", "driftwall-system/driftwall", "-o", "json")
    way = ("--kubeconfig", str(cluster.kubeconfig(tmp_path)))
    assert main(["webhook-config", "--policies", "cluster", *way, *where]) == 0
    validating, mutating = json.loads(capsys.readouterr().out)["items"]
    (selector,) = validating["webhooks"][0]["namespaceSelector"]["matchExpressions"]
    assert selector["values"] == ["driftwall-system", "gke-managed", "kube-system"]
    # No tag and no break-glass ask for it: it is there to refuse policies that are not valid.
    assert [rule["apiGroups"] for rule in mutating["webhooks"][0]["rules"]] == [["driftwall.io"]]


def test_the_configuration_in_the_cluster_is_explained(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put("driftpolicies", "a", spec("warn"))
    cluster.put("driftwallconfigs", "default", {"clusterId": "prod"})
    monkeypatch.setenv("DRIFTWALL_POLICIES", "cluster")
    monkeypatch.setenv("DRIFTWALL_KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
    assert main(["explain", "config", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["clusterId"], [(policy["name"], policy["mode"]) for policy in shown["policies"]]) == (
        "prod",
        [("a", "warn")],
    )


def test_policies_in_the_cluster_that_do_not_load_give_every_problem_and_nothing_else(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put("driftpolicies", "a", BAD)
    cluster.put("driftwallconfigs", "other", {"clusterId": "prod"})
    way = ["--policies", "cluster", "--kubeconfig", str(cluster.kubeconfig(tmp_path))]
    assert main(["webhook-config", *way, "--url", "https://a"]) == 78
    shown = capsys.readouterr()
    assert shown.out == ""
    assert PROBLEM in shown.err
    assert "driftwallconfigs/other: metadata.name: there is one configuration, and its name is 'default'" in shown.err
    cluster.delete("driftpolicies", "a")
    cluster.delete("driftwallconfigs", "other")
    assert main(["explain", "config", *way]) == 78
    assert NOTHING in capsys.readouterr().err


def test_without_a_way_to_the_cluster_its_policies_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "config", "--policies", "cluster"]) == 64
    assert "--policies cluster needs a way to the API server" in capsys.readouterr().err


def test_a_cluster_without_the_definitions_is_told(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.missing = {"driftwallconfigs"}
    way = ["--policies", "cluster", "--kubeconfig", str(cluster.kubeconfig(tmp_path))]
    assert main(["explain", "config", *way]) == 69
    assert capsys.readouterr().err == f"driftwall: driftwallconfigs.driftwall.io: {UNSERVED}\n"


# ── driftwall's own service account ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["files", "cluster"])
def test_driftwall_may_leave_its_marks_under_whatever_service_account_it_runs(
    cluster: FakeCluster, tmp_path: Path, word: str
) -> None:
    cluster.put("driftpolicies", "a", spec())
    (tmp_path / "policy.yaml").write_text(POLICY)
    claims = urlsafe_b64encode(b'{"sub":"system:serviceaccount:guards:wall"}').decode()
    connection = connect(cluster.kubeconfig(tmp_path, f"e30.{claims}.c2ln"))
    config = settings_for(certificates(tmp_path), policies=None if word == "cluster" else tmp_path / "policy.yaml")
    with following(policy_source(config, connection, lambda: False)) as followed:
        snapshot = followed.until(lambda: followed.store.snapshot, "the policies")
    assert snapshot is not None
    own = snapshot.config.automation.find(UserInfo(username="system:serviceaccount:guards:wall", uid="u"))
    usual = UserInfo(username="system:serviceaccount:driftwall-system:driftwall", uid="u")
    assert own is not None
    assert (own.name, snapshot.config.automation.find(usual)) == ("driftwall", None)
