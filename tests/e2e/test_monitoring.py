"""Alerts, dashboard and documentation against a real Prometheus, which scrapes a real `driftwall serve` and a real
Pushgateway to which real scans push.

Each alert is made to fire by what it is there for. Only how long that has to last is taken out of the rules.
"""

import json
import math
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.following import wait_for
from tests.running import Process, started
from tests.serving import HOSTS, POLICY, Answer, Certificates, certificates, deployment, review
from webhook import cli, pki
from webhook.breakglass import REASON
from webhook.metrics import Metrics
from webhook.policy_compiler import load
from webhook.replies import MAX_BODY
from webhook.scan_metrics import collect
from webhook.scanning import Totals

from .control_plane import ControlPlane
from .flood import Flood
from .people import Person, config_map, of_flux
from .processes import free_port
from .prometheus import Prometheus, Pushgateway, promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "monitoring" / "alerts.yaml"
DASHBOARD = DEPLOY / "monitoring" / "dashboard.json"
PAGE = DEPLOY / "MONITORING.md"
RULES = yaml.safe_load(ALERTS.read_text())
NAMES = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]

# A policy without break-glass, and one with: there a denial asks whether the Namespace is open. In namespace "open" a
# glass can be broken.
POLICIES = f"""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {{name: default}}
spec:
  automation:
    - {{name: robot, users: [robot], fields: [spec.replicas]}}
---
{POLICY}  match: {{excludeNamespaces: [open]}}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: paused}}
spec:
  mode: enforce
  protect: {{fields: [spec.paused]}}
  breakGlass: {{groups: [sre]}}
"""
PAUSED = {**deployment(2), "spec": {"replicas": 2, "paused": True}}
# Where somebody edits what Flux has applied, in a cluster with a name.
SHOP = "monitored"
SCANNED_BY = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec: {clusterId: prod}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared}
spec: {protect: {declared: true}}
"""
SCALE = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": deployment(2)["metadata"]}


class Silent:
    """An API server that takes connections and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    def kubeconfig(self, path: Path) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": f"http://127.0.0.1:{self._listener.getsockname()[1]}"}}
            ],
            "users": [{"name": "test", "user": {"token": "t"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def close(self) -> None:
        self._listener.close()


class Scene:
    """A replica that is well, a second one that is still to come, scans of a cluster, and a Prometheus for all."""

    def __init__(self, folder: Path, stack: ExitStack, plane: ControlPlane) -> None:
        self._stack = stack
        self._plane = plane
        self._policies = folder / "scanned-by.yaml"
        self._policies.write_text(SCANNED_BY)
        self._folders = {name: folder / name for name in ("first", "second", "prometheus")}
        for each in self._folders.values():
            each.mkdir()
        self.made = self._made("first", POLICIES)
        silent = Silent()
        stack.callback(silent.close)
        self._log = self._folders["first"] / "log"
        self._log.mkdir()
        flags = (
            "--kubeconfig",
            str(silent.kubeconfig(folder / "kubeconfig")),
            "--decision-log",
            str(self._log / "decisions.jsonl"),
        )
        self.first = stack.enter_context(started(self.made, *flags))
        self._second: Process | None = None
        self._second_at = f"127.0.0.1:{free_port()}"
        targets = [f"127.0.0.1:{self.first.management.port}", self._second_at]
        self.gateway = stack.enter_context(Pushgateway(folder)).address
        scraped = (targets, self.gateway)
        self.prometheus = stack.enter_context(Prometheus(self._folders["prometheus"], *scraped, without_delay(RULES)))
        self.scraped(targets[0])

    def _made(self, name: str, policies: str) -> Certificates:
        (self._folders[name] / "policy.yaml").write_text(policies)
        return certificates(self._folders[name])

    def scraped(self, instance: str, value: str = "driftwall_build_info") -> None:
        """Wait until Prometheus has seen a replica twice: from there on it sees what increases."""
        query = f'count_over_time({value}{{instance="{instance}"}}[1m]) > 1'
        wait_for(lambda: self.prometheus.query(query), f"two scrapes of {instance}")

    @property
    def second(self) -> Process:
        """The second replica, which has two processes, and bad policies when it starts."""
        if self._second is None:
            made = self._made("second", "no: policy")
            flags = ("--workers", "2", "--management-listen", self._second_at)
            until = "not ready yet; /readyz says why"
            self._second = self._stack.enter_context(started(made, *flags, until=until))
            self.scraped(self._second_at)
        return self._second

    # What alerts are there for

    def post(self, times: int = 1, status: int = 200, **changes: Any) -> None:
        for _ in range(times):
            answer: Answer = self.first.client.post(review(**changes))
            assert answer.status == status, answer.body

    def denied(self) -> None:
        self.post()

    def denied_again_and_again(self) -> None:
        self.post(60)

    def looks_up_what_is_never_answered(self) -> None:
        self.post(3, oldObject=deployment(2), object=PAUSED)

    def cannot_do_without_a_look_up(self) -> None:
        old, new = ({**SCALE, "spec": {"replicas": replicas}} for replicas in (2, 5))
        kind = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        self.post(status=500, kind=kind, subResource="scale", oldObject=old, object=new)

    def denies_an_automation(self) -> None:
        self.post(oldObject=deployment(2), object=PAUSED, userInfo={"username": "robot"})

    def breaks_glass(self) -> None:
        old, new = (deployment(2, namespace="open", **more) for more in ({}, {"annotations": {REASON: "fire"}}))
        sam = {"username": "sam", "groups": ["sre"]}
        self.post(oldObject=old, object=new, namespace="open", userInfo=sam)

    def loses_the_folder_of_its_log(self) -> None:
        for file in self._log.iterdir():
            file.unlink()
        self._log.rmdir()
        self.post()

    def gets_bad_policies(self) -> None:
        (self._folders["first"] / "policy.yaml").write_text("no: policy")

    def another_starts_with_bad_policies(self) -> None:
        assert self.second.management.request("GET", "/readyz").status == 503
        assert self.second.client.post(review()).status == 503  # which is no overload

    def has_no_memory_for_another_review(self) -> None:
        with ExitStack() as stack:
            flood = Flood(self.first.client, stack)
            while flood.upload(MAX_BODY):
                pass

    def has_other_policies_than_the_other(self) -> None:
        second = self.second
        (self._folders["second"] / "policy.yaml").write_text(POLICY)
        wait_for(lambda: second.management.request("GET", "/readyz").status == 200, "the second replica to be ready")

    def loses_a_process(self) -> None:
        pid = self.second.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)

    def gets_a_certificate_that_ends_soon(self) -> None:
        self._install(timedelta(minutes=5))  # of the hour and a bit that it is valid for

    def gets_a_key_that_does_not_match(self) -> None:
        self.made.key_file.write_bytes(self._serving(timedelta(days=1)).key)

    def serves_until_its_certificate_has_expired(self) -> None:
        self._install(timedelta(seconds=3))

    def scans_without_the_right_to_see_all(self) -> None:
        token = self._plane.service_account_token(self._plane.create_namespace(SHOP), "blind")
        assert self.scan(self._plane.kubeconfig_of(token)) == 69

    def scans_what_somebody_edited(self) -> None:
        self.applied_by_flux()
        alice = Person(plane=self._plane, user="alice", namespace=SHOP)
        assert alice.patch("configmap/web", {"data": {"port": "81"}}).done
        self.scan()

    def applied_by_flux(self) -> None:
        flux = Person(plane=self._plane, user="flux", namespace=self._plane.create_namespace(SHOP))
        flux.applies(of_flux(config_map("web", SHOP)))

    def removed_by_flux(self) -> None:
        assert Person(plane=self._plane, user="flux", namespace=SHOP).kubectl("delete", "configmap", "web").done

    def scan(self, kubeconfig: Path | None = None) -> int:
        """Scan as the CronJob does, and as the administrator unless told otherwise; the exit code."""
        kubeconfig = kubeconfig or self._plane.kubeconfig("admin")
        arguments = ["--policies", str(self._policies), "--pushgateway", f"http://{self.gateway}", "--exit-zero"]
        return cli.main(["scan", "--kubeconfig", str(kubeconfig), *arguments])

    def drifted(self) -> list[float]:
        """How many objects of the namespace have drifted, as Prometheus has it."""
        query = f'driftwall_scan_drifted_objects{{job="driftwall-scan",cluster="prod",namespace="{SHOP}"}}'
        return [value for _, value in self.prometheus.query(query)]

    def is_gone(self) -> None:
        for process in (self.first, self.second):
            process.stop(signal.SIGKILL)

    def _serving(self, lifetime: timedelta) -> pki.KeyPair:
        return pki.create_serving(self.made.ca, HOSTS, now=datetime.now(UTC), lifetime=lifetime)

    def _install(self, lifetime: timedelta) -> None:
        serving = self._serving(lifetime)
        self.made.cert_file.write_bytes(serving.certificate)
        self.made.key_file.write_bytes(serving.key)


def without_delay(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The rules as they are, but for how long something has to last."""
    return {
        "groups": [
            {**group, "rules": [{key: rule[key] for key in rule if key != "for"} for rule in group["rules"]]}
            for group in rules["groups"]
        ]
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("monitoring"), stack, control_plane)


# In this order: the last ones leave nobody who could have the others.
CAUSES: Sequence[tuple[tuple[str, ...], Callable[[Scene], None]]] = (
    (("DriftwallClusterWritesLost",), Scene.denied),
    (("DriftwallSlow", "DriftwallLookupsFailing"), Scene.looks_up_what_is_never_answered),
    (("DriftwallReviewErrors",), Scene.cannot_do_without_a_look_up),
    (("DriftwallAutomationDenied",), Scene.denies_an_automation),
    (("DriftwallBreakGlass",), Scene.breaks_glass),
    (("DriftwallDenialBurst",), Scene.denied_again_and_again),
    (("DriftwallLogLinesDropped",), Scene.loses_the_folder_of_its_log),
    (("DriftwallPoliciesNotLoaded",), Scene.gets_bad_policies),
    (("DriftwallNotReady",), Scene.another_starts_with_bad_policies),
    (("DriftwallOverloaded",), Scene.has_no_memory_for_another_review),
    (("DriftwallPoliciesDiffer",), Scene.has_other_policies_than_the_other),
    (("DriftwallWorkerRestarts",), Scene.loses_a_process),
    (("DriftwallCertificateExpiresSoon",), Scene.gets_a_certificate_that_ends_soon),
    (("DriftwallCertificateRefused",), Scene.gets_a_key_that_does_not_match),
    (("DriftwallCertificateExpired",), Scene.serves_until_its_certificate_has_expired),
    (("DriftwallScanStale",), Scene.scans_without_the_right_to_see_all),
    (("DriftwallDriftFound",), Scene.scans_what_somebody_edited),
)
LAST = ("DriftwallAbsent", Scene.is_gone)


def test_no_alert_fires_where_all_is_well(scene: Scene) -> None:
    wait_for(lambda: scene.prometheus.query('up{job="driftwall"} == 1'), "a scrape")
    wait_for(lambda: not scene.prometheus.firing(), "no alert to fire")


@pytest.mark.parametrize(("alerts", "cause"), CAUSES, ids=[f"{' and '.join(alerts)}" for alerts, _ in CAUSES])
def test_an_alert_fires_when_what_it_is_for_happens(
    scene: Scene, alerts: Sequence[str], cause: Callable[[Scene], None]
) -> None:
    assert not scene.prometheus.firing() & set(alerts)
    cause(scene)
    wait_for(lambda: scene.prometheus.firing() >= set(alerts), f"{alerts} to fire")


def test_what_was_put_right_and_what_is_gone_is_drift_no_more_after_the_next_scan(scene: Scene) -> None:
    scene.scans_what_somebody_edited()
    wait_for(lambda: scene.drifted() == [1], "the drift")
    assert "DriftwallScanStale" not in scene.prometheus.firing()
    scene.applied_by_flux()
    assert scene.scan() == 0
    wait_for(lambda: scene.drifted() == [0], "no drift")
    scene.removed_by_flux()
    assert scene.scan() == 0
    wait_for(lambda: scene.drifted() == [], "nothing that is managed")


def test_a_scan_that_has_not_seen_all_leaves_drift_and_the_time_of_the_last_success_as_they_were(scene: Scene) -> None:
    query = "driftwall_scan_last_success_timestamp_seconds"
    scene.scans_what_somebody_edited()
    wait_for(lambda: scene.drifted() == [1], "the drift")
    before = scene.prometheus.query(query)
    scene.scans_without_the_right_to_see_all()
    wait_for(lambda: scene.prometheus.query("driftwall_scan_objects == 0"), "the scan that saw nothing")
    assert len(before) == 1
    assert (scene.prometheus.query(query), scene.drifted()) == (before, [1])


def panels() -> list[tuple[str, str]]:
    """Title and query of each panel."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in found for target in panel.get("targets", ())]


def test_every_query_of_the_dashboard_gives_data(scene: Scene) -> None:
    answer = scene.second.client.request(
        "POST", "/mutate?timeout=3s", json.dumps(review()).encode(), {"Content-Type": "application/json"}
    )
    assert answer.status == 200
    scene.second.client.post(review())
    scene.scans_what_somebody_edited()
    wait_for(lambda: scene.prometheus.query('driftwall_mutations_total{result="unchanged"} > 0'), "the mutation")
    for title, expression in panels():
        query = re.sub(r"\$__(rate_interval|range)", "5m", expression).replace("$job", ".+")
        assert any(not math.isnan(value) for _, value in scene.prometheus.query(query)), (title, query)


def test_an_alert_fires_when_nobody_is_left(scene: Scene) -> None:
    alert, cause = LAST
    assert alert not in scene.prometheus.firing()
    cause(scene)
    wait_for(lambda: alert in scene.prometheus.firing(), f"{alert} to fire")


def test_every_alert_has_a_cause_here() -> None:
    assert sorted([LAST[0], *(alert for alerts, _ in CAUSES for alert in alerts)]) == sorted(NAMES)


# Without a server


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    checked = promtool("check", "rules", ALERTS)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"SUCCESS: {len(NAMES)} rules found" in checked.stdout


def test_alerts_wait_as_long_as_they_should() -> None:
    tested = promtool("test", "rules", DEPLOY / "monitoring" / "alerts.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_says_what_it_is_about_and_what_to_do() -> None:
    headings = set(re.findall(r"(?m)^### (\w+)$", PAGE.read_text()))
    assert headings == set(NAMES)
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description", "runbook"}
            assert rule["annotations"]["runbook"] == f"deploy/MONITORING.md#{rule['alert'].lower()}"


def exported(folder: Path) -> dict[str, tuple[str, str]]:
    """Type and labels of each metric that there is, by name."""
    (folder / "policy.yaml").write_text(POLICY)
    metrics = Metrics("1")
    metrics.policies_in_force(load(folder), 1)
    totals = Totals(managed={("shop", "services"): 1})
    scanned = collect([], totals, seconds=1, succeeded=datetime.now(UTC))
    found = {}
    for family in (*metrics.registry.collect(), *scanned.collect()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, ", ".join(sorted(labels)))
    return found


def documented() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| ([^|]*)\|", PAGE.read_text())
    return {name: (kind, ", ".join(sorted(labels.replace(" ", "").split(",")))) for name, kind, labels in rows}


def test_every_metric_is_documented_with_its_labels_and_nothing_else_is(tmp_path: Path) -> None:
    there, told = exported(tmp_path), documented()
    assert set(there) == set(told)
    # One without a series so far has no labels to show.
    assert {name: each for name, each in there.items() if each[1]} == {
        name: each for name, each in told.items() if there[name][1]
    }
    assert {name: kind for name, (kind, _) in there.items()} == {name: kind for name, (kind, _) in told.items()}


def test_every_metric_is_in_the_dashboard_or_in_an_alert_and_no_other_is(tmp_path: Path) -> None:
    queries = " ".join([*(expression for _, expression in panels()), ALERTS.read_text()])
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:driftwall|process)_\w+", queries)}
    assert used == set(exported(tmp_path))
