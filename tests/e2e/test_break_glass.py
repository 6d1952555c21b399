"""A way through in an incident: broken with kubectl, used, told of, and over to the second."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .api import Object
from .clock import Clock
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .people import (
    Person,
    config_map,
    deployment,
    events_about,
    manifest,
    of_flux,
    path_of,
    refused,
    unchanged,
)

GLASS, INSIDE, TAGGED = "glass", "glass-inside", "glass-tagged"
REASON_KEY, BY, EXPIRES = (f"driftwall.io/break-glass{part}" for part in ("", "-by", "-expires"))
LABEL, DRIFT = "driftwall.io/drifted", "driftwall.io/drift"
REASON = "INC-1234: checkout 5xx"
LONGEST = timedelta(hours=4)
PORT = {"data": {"port": "8080"}}

POLICIES = f"""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  breakGlass:
    groups: [sre]
    reasonPattern: '^INC-[0-9]+: .+'
    maxDuration: 4h
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: declared-fields
spec:
  mode: enforce
  match:
    excludeNamespaces: [{TAGGED}]
  protect:
    declared: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: watched-fields
spec:
  mode: tag
  match:
    namespaces: [{TAGGED}]
  protect:
    declared: true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A driftwall whose clock is ours, and the people that have to do with it."""

    plane: ControlPlane
    server: Driftwall
    clock: Clock

    def person(self, user: str, namespace: str = GLASS) -> Person:
        """Somebody."""
        return Person(plane=self.plane, user=user, namespace=namespace)

    def live(self, obj: Object) -> Object:
        """The stored object."""
        return self.plane.get(path_of(obj))

    def annotations(self, obj: Object) -> Object:
        """Those of the stored object."""
        found: Object = self.live(obj)["metadata"].get("annotations", {})
        return found

    def stamp(self, later: timedelta = LONGEST) -> str:
        """A time on driftwall's clock as a stamp says it."""
        return (self.clock.now + later).strftime("%Y-%m-%dT%H:%M:%SZ")

    def metric(self, name: str, **labels: str) -> float:
        """One value of driftwall's metrics; 0 for one that is not there yet."""
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        found = re.search(rf"(?m)^{name}{{{re.escape(wanted)}}} (\S+)$", self.server.metrics())
        return float(found[1]) if found else 0

    def events(self, obj: Object, reason: str) -> list[Object]:
        """Wait for Events with a reason about an object, and give them."""
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "default")

        def found() -> list[Object]:
            events = events_about(self.plane, namespace, metadata["name"])
            return [event for event in events if event["reason"] == reason]

        return self.plane.wait_for(found, f"an Event {reason} about {metadata['name']}")


@pytest.fixture(scope="module")
def incident(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incident]:
    folder = tmp_path_factory.mktemp("break-glass")
    for namespace in (GLASS, INSIDE, TAGGED):
        control_plane.create_namespace(namespace)
    clock = Clock(folder / "clock")
    with Driftwall(control_plane, folder, POLICIES, clock=clock) as server, server.in_the_way():
        yield Incident(plane=control_plane, server=server, clock=clock)


@pytest.fixture
def alice(incident: Incident) -> Person:
    return incident.person("alice")


@pytest.fixture
def sre(incident: Incident) -> Person:
    return incident.person("sre")


@pytest.fixture
def flux(incident: Incident) -> Person:
    return incident.person("flux")


def drift_of(obj: Object) -> Object:
    """The mark that driftwall has left on an object."""
    assert obj["metadata"]["labels"][LABEL] == "true"
    drift: Object = json.loads(obj["metadata"]["annotations"][DRIFT])
    return drift


def command_in(message: str) -> list[str]:
    """The command to paste that a message has for who may break the glass."""
    [line] = [line.strip() for line in message.splitlines() if line.strip().startswith("kubectl ")]
    command = shlex.split(line.replace("REASON", REASON))
    assert command.pop(0) == "kubectl"
    return command


def patch(port: str) -> Object:
    return {"data": {"port": port}}


def test_an_incident_from_its_begin_to_its_end(incident: Incident, alice: Person, sre: Person, flux: Person) -> None:
    web = of_flux(config_map("web", GLASS))
    flux.applies(web)
    # Closed: each is told a way.
    with unchanged(incident.plane, web):
        told = refused(alice.patch("configmap/web", PORT), 'data.port: "80" -> "8080"')
        assert told.rstrip().endswith("In an incident, ask group sre to break glass.")
        assert "kubectl annotate" not in told
        told = refused(sre.patch("configmap/web", PORT), 'data.port: "80" -> "8080"')
    command = command_in(told)
    assert command == ["annotate", "--overwrite", "configmaps", "web", "-n", GLASS, f"{REASON_KEY}={REASON}"]
    # Broken, by exactly that command.
    broken = sre.kubectl(*command)
    assert broken.done, broken
    begun, expires = incident.clock.now, incident.stamp()
    stamped = incident.live(web)
    assert stamped["metadata"]["annotations"] == {REASON_KEY: REASON, BY: "sre", EXPIRES: expires}
    assert LABEL not in stamped["metadata"]["labels"]
    # Open to whoever comes.
    for who, port in ((sre, "8080"), (alice, "8081")):
        outcome = who.patch("configmap/web", patch(port))
        assert outcome.done, outcome
        live = incident.live(web)
        assert live["data"] == {"port": port}
        at = begun.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert drift_of(live) == {
            "by": who.user,
            "at": at,
            "policy": "declared-fields",
            "fields": ["data.port"],
            "reason": REASON,
        }
        assert live["metadata"]["annotations"][EXPIRES] == expires
    # Told of.
    [set_event] = incident.events(web, "GlassBroken")
    assert set_event["message"] == f"set by sre: {REASON}"
    used = incident.plane.wait_for(
        lambda: (found := incident.events(web, "WriteUnderBreakGlass"))[1:] and found, "an Event of each write"
    )
    assert {event["message"] for event in used} == {
        f"{user} wrote data.port under break-glass ({REASON}, by sre), against policy declared-fields"
        for user in ("alice", "sre")
    }
    assert {(event["type"], event["involvedObject"]["kind"]) for event in (set_event, *used)} == {
        ("Warning", "ConfigMap")
    }
    seen = alice.kubectl("get", "events", "--field-selector", "involvedObject.name=web")
    assert "GlassBroken" in seen.said
    assert "WriteUnderBreakGlass" in seen.said
    lines = [line for line in incident.server.await_log(5, name="web", operation="UPDATE") if line["breakGlass"]]
    assert [(line["user"], line["breakGlass"]["action"], line["allowed"]) for line in lines] == [
        ("sre", "set", True),
        ("sre", "used", True),
        ("alice", "used", True),
    ]
    last = lines[-1]["breakGlass"]
    assert (last["by"], last["reason"], last["expires"]) == ("sre", REASON, expires)
    assert [policy["name"] for policy in last["policies"]] == ["declared-fields"]
    assert incident.metric("driftwall_break_glass_total", action="set") >= 1
    assert incident.metric("driftwall_break_glass_total", action="used") >= 2
    # Open to the last second, and not a second longer. What has drifted is Git's all the same.
    incident.clock.now = begun + LONGEST - timedelta(seconds=1)
    outcome = alice.patch("configmap/web", patch("8082"))
    assert outcome.done, outcome
    incident.clock.now = begun + LONGEST
    with unchanged(incident.plane, web):
        for who in (alice, sre):
            refused(who.patch("configmap/web", patch("8083")), 'data.port: "8082" -> "8083"')
    # Git has the last word: its next apply takes the drift and the mark away.
    flux.applies(web)
    live = incident.live(web)
    assert live["data"] == {"port": "80"}
    assert LABEL not in live["metadata"]["labels"]
    assert DRIFT not in live["metadata"]["annotations"]


def test_a_namespace_opens_what_is_inside(incident: Incident, flux: Person) -> None:
    inside, outside = of_flux(config_map("web", INSIDE)), of_flux(config_map("outside", GLASS))
    flux.applies(inside, outside)
    namespace = manifest("v1", "Namespace", INSIDE, None)
    alice, sre = incident.person("alice", INSIDE), incident.person("sre", INSIDE)
    refused(alice.patch("configmap/web", PORT))
    broken = sre.kubectl("annotate", "namespace", INSIDE, f"{REASON_KEY}={REASON}")
    assert broken.done, broken
    begun = incident.clock.now
    assert incident.annotations(namespace)[EXPIRES] == incident.stamp()
    # At once: a denial of a moment ago is not held against whoever tries again.
    outcome = alice.patch("configmap/web", PORT)
    assert outcome.done, outcome
    drift = drift_of(incident.live(inside))
    assert (drift["by"], drift["reason"], drift["fields"]) == ("alice", REASON, ["data.port"])
    [event] = incident.events(inside, "WriteUnderBreakGlass")
    assert event["involvedObject"]["kind"] == "ConfigMap"
    [event] = incident.events(namespace, "GlassBroken")
    assert event["involvedObject"]["kind"] == "Namespace"
    [used] = [line for line in incident.server.await_log(2, namespace=INSIDE, user="alice") if line["breakGlass"]]
    assert used["breakGlass"]["on"] == f'namespaces "{INSIDE}"'
    with unchanged(incident.plane, outside):
        refused(incident.person("alice").patch("configmap/outside", PORT))
    incident.clock.now = begun + LONGEST - timedelta(seconds=1)
    outcome = alice.patch("configmap/web", patch("8081"))
    assert outcome.done, outcome
    incident.clock.now = begun + LONGEST
    with unchanged(incident.plane, inside):
        refused(alice.patch("configmap/web", patch("8082")), 'data.port: "8081" -> "8082"')
        refused(alice.kubectl("delete", "configmap/web"), "may not delete it")
    flux.applies(inside)
    assert LABEL not in incident.live(inside)["metadata"]["labels"]


def test_the_scale_of_a_workload_whose_glass_is_broken(
    incident: Incident, alice: Person, sre: Person, flux: Person
) -> None:
    workload = of_flux(deployment("scaled", GLASS, 1))
    flux.applies(workload)
    scale = ("scale", "deployment/scaled")
    with unchanged(incident.plane, workload):
        refused(alice.kubectl(*scale, "--replicas=3"), "spec.replicas: 1 -> 3", "ask group sre to break glass")
        told = refused(sre.kubectl(*scale, "--replicas=3"), "spec.replicas: 1 -> 3")
    command = command_in(told)
    assert command[2:4] == ["deployments.apps", "scaled"]
    broken = sre.kubectl(*command)
    assert broken.done, broken
    begun = incident.clock.now
    outcome = alice.kubectl(*scale, "--replicas=3")
    assert outcome.done, outcome
    # A review of a scale brings nothing of the workload, so driftwall marks that itself, a moment later.
    marked = incident.plane.wait_for(
        lambda: (live := incident.live(workload))["metadata"]["labels"].get(LABEL) and live, "the mark"
    )
    assert marked["spec"]["replicas"] == 3
    drift = drift_of(marked)
    assert (drift["by"], drift["fields"], drift["reason"]) == ("alice", ["spec.replicas"], REASON)
    incident.events(workload, "WriteUnderBreakGlass")
    own = incident.server.await_log(
        user="system:serviceaccount:driftwall-system:driftwall", name="scaled", operation="UPDATE"
    )
    assert {(line["writer"], line["allowed"], line["mode"]) for line in own} == {("automation:driftwall", True, None)}
    incident.clock.now = begun + LONGEST
    assert refused(alice.kubectl(*scale, "--replicas=5"), "spec.replicas: 3 -> 5")
    assert incident.live(workload)["spec"]["replicas"] == 3
    flux.applies(workload)
    live = incident.live(workload)
    assert (live["spec"]["replicas"], live["metadata"]["labels"].get(LABEL)) == (1, None)


def test_a_deletion_wants_the_glass_broken_first(incident: Incident, alice: Person, sre: Person, flux: Person) -> None:
    kept, doomed = (of_flux(config_map(name, GLASS)) for name in ("kept", "doomed"))
    flux.applies(kept, doomed)
    for obj in (kept, doomed):
        told = refused(sre.kubectl("delete", f"configmap/{obj['metadata']['name']}"), "sre may not delete it")
        broken = sre.kubectl(*command_in(told))
        assert broken.done, broken
    outcome = alice.kubectl("delete", "configmap/doomed")
    assert outcome.done, outcome
    assert not incident.plane.exists(path_of(doomed))
    [event] = incident.events(doomed, "WriteUnderBreakGlass")
    assert event["message"].startswith("alice wrote delete under break-glass")
    incident.clock.now += LONGEST
    with unchanged(incident.plane, kept):
        refused(alice.kubectl("delete", "configmap/kept"), "alice may not delete it")


def test_annotation_and_change_in_one_write(incident: Incident, sre: Person, flux: Person) -> None:
    web = of_flux(config_map("in-one", GLASS))
    flux.applies(web)
    both: dict[str, Any] = {**PORT, "metadata": {"annotations": {REASON_KEY: REASON}}}
    outcome = sre.patch("configmap/in-one", both)
    assert outcome.done, outcome
    live = incident.live(web)
    assert live["data"] == PORT["data"]
    annotations = live["metadata"]["annotations"]
    assert (annotations[BY], annotations[EXPIRES]) == ("sre", incident.stamp())
    assert drift_of(live)["fields"] == ["data.port"]
    [event] = incident.events(web, "WriteUnderBreakGlass")
    assert event["message"].startswith("sre wrote data.port under break-glass")


def test_an_earlier_expiry_is_kept_and_a_later_one_is_cut(
    incident: Incident, alice: Person, sre: Person, flux: Person
) -> None:
    web = of_flux(config_map("expiries", GLASS))
    flux.applies(web)
    earlier = incident.stamp(timedelta(minutes=10))
    broken = sre.kubectl("annotate", "configmap/expiries", f"{REASON_KEY}={REASON}", f"{EXPIRES}={earlier}")
    assert broken.done, broken
    assert incident.annotations(web)[EXPIRES] == earlier
    begun = incident.clock.now
    incident.clock.now = begun + timedelta(minutes=10, seconds=-1)
    outcome = alice.patch("configmap/expiries", PORT)
    assert outcome.done, outcome
    incident.clock.now = begun + timedelta(minutes=10)
    refused(alice.patch("configmap/expiries", patch("8081")), 'data.port: "8080" -> "8081"')
    # Broken anew, for as long as may be, whatever is asked for.
    later = incident.stamp(timedelta(days=30))
    again = (f"{REASON_KEY}=INC-1235: again", f"{EXPIRES}={later}")
    broken = sre.kubectl("annotate", "--overwrite", "configmap/expiries", *again)
    assert broken.done, broken
    assert incident.annotations(web)[EXPIRES] == incident.stamp()
    # Ended early by one who may.
    ended = sre.kubectl("annotate", "configmap/expiries", f"{REASON_KEY}-")
    assert ended.done, ended
    assert not {REASON_KEY, BY, EXPIRES} & incident.annotations(web).keys()
    refused(alice.patch("configmap/expiries", patch("8082")))
    incident.events(web, "GlassMended")


def test_mode_tag_marks_what_drifts_until_git_puts_it_right(incident: Incident) -> None:
    flux, alice = incident.person("flux", TAGGED), incident.person("alice", TAGGED)
    web, workload = of_flux(config_map("drifting", TAGGED)), of_flux(deployment("drifting", TAGGED, 1))
    untouched = of_flux(config_map("untouched", TAGGED))
    flux.applies(web, workload, untouched)

    def drifted() -> set[str]:
        found = alice.kubectl("get", "configmaps,deployments", "-A", "-l", f"{LABEL}=true", "-o", "name")
        assert found.done, found
        return set(found.said.split())

    before = drifted()
    outcome = alice.patch("configmap/drifting", PORT)
    assert outcome.done, outcome
    live = incident.live(web)
    assert live["data"] == PORT["data"]
    assert drift_of(live) == {
        "by": "alice",
        "at": incident.stamp(timedelta()),
        "policy": "watched-fields",
        "fields": ["data.port"],
        "reason": "",
    }
    outcome = alice.kubectl("scale", "deployment/drifting", "--replicas=2")
    assert outcome.done, outcome
    both = {"configmap/drifting", "deployment.apps/drifting"}
    incident.plane.wait_for(lambda: drifted() - before == both, "both in the inventory")
    # Nobody but driftwall sets the mark, or takes it off.
    for metadata in ({"labels": {LABEL: None}}, {"annotations": {DRIFT: "{}"}}, {"labels": {LABEL: "false"}}):
        alice.patch("configmap/drifting", {"metadata": metadata})
        assert drift_of(incident.live(web))["by"] == "alice"
    alice.patch("configmap/untouched", {"metadata": {"labels": {LABEL: "true"}}})
    flux.applies(web, workload)
    assert not both & (drifted() - before)
    assert DRIFT not in incident.annotations(web)
    assert incident.metric("driftwall_reviews_total", operation="UPDATE", verdict="tag", mode="tag", writer="untrusted")


def test_the_time_that_driftwall_goes_by_is_ours(incident: Incident) -> None:
    incident.clock.now += timedelta(hours=1)
    incident.person("flux").applies(of_flux(config_map("clock", GLASS)))
    [line] = incident.server.await_log(name="clock")
    assert datetime.fromisoformat(line["time"]) == incident.clock.now > datetime.now(UTC)
