from __future__ import annotations

import base64
import itertools
import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fake_cluster import MUTATING, VALIDATING, FakeCluster
from tests.load import Load
from tests.running import command, started
from tests.serving import HOSTS, POLICY, Certificates, Client, certificates, environment, settings_for
from tests.test_objects import kubeconfig
from tests.test_pki import signed
from webhook import pki
from webhook.certificate import Certificate, FileSource
from webhook.cluster.connection import Answer, Connection, connect
from webhook.cluster.leases import path_of
from webhook.cluster.replicas import GONE_AFTER, PREFIX, RENEW, Replicas
from webhook.cluster.resources import Resources
from webhook.errors import CertificateError, ClusterError, NotYetValid
from webhook.metrics import Metrics
from webhook.readiness import Readiness
from webhook.rotation import Asked, Held, Seen, Step, Terms, check, next_step
from webhook.settings import Service
from webhook.tls import Material
from webhook.upkeep import ROTATE, Place, SecretSource

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PLACE = Place(
    service=Service(namespace="driftwall-system", name="driftwall"), secret="driftwall-tls", configurations="driftwall"
)
TERMS = Terms(hosts=PLACE.hosts, lifetime=90 * DAY, ca_lifetime=3650 * DAY)
LEASE = path_of("driftwall-system", "driftwall")


# ── what comes next ──────────────────────────────────────────────────────────────────────────────────────────────────


def step(held: Held, seen: Seen | None = None, *, now: datetime = NOW, asked: Asked = "") -> Step:
    found = next_step(held, TERMS, seen or Seen(), now=now, asked=asked)
    assert found is not None
    return found


def fresh(now: datetime = NOW) -> Held:
    return step(Held(), now=now).held


def test_an_empty_secret_gets_a_ca_and_a_certificate_of_it() -> None:
    first = step(Held())
    assert first.reason == "new serving certificate: new CA: there is no CA yet"
    assert check(first.held, TERMS, now=NOW) == first.held.serving
    assert first.held.serving is not None
    assert pki.names(first.held.serving.certificate) == {
        "driftwall.driftwall-system.svc", "driftwall.driftwall-system.svc.cluster.local", "driftwall.driftwall-system",
    }  # fmt: skip
    assert next_step(first.held, TERMS, Seen(), now=NOW) is None
    validity = pki.check(first.held.serving.certificate, first.held.serving.key, now=NOW)
    assert (validity.not_before, validity.not_after) == (NOW - timedelta(hours=1), NOW + 90 * DAY)


def test_what_a_secret_holds_survives_being_written_and_read() -> None:
    held = replace(fresh(), previous=b"x")
    assert Held.parse({key: value for key, value in held.data().items() if value is not None}) == held
    assert Held.parse({}) == Held()
    assert "PRIVATE KEY" not in repr(held)


def test_a_serving_certificate_is_renewed_when_a_third_of_its_lifetime_is_left() -> None:
    held = fresh()
    assert next_step(held, TERMS, Seen(), now=NOW + 60 * DAY - timedelta(seconds=1)) is None
    renewed = step(held, now=NOW + 60 * DAY)
    assert renewed.reason == ("new serving certificate: a third of its lifetime is left, until 2026-05-30 12:00:00 UTC")
    assert (renewed.held.ca, renewed.held.previous) == (held.ca, b"")
    assert renewed.held.serving != held.serving


def test_a_serving_certificate_is_renewed_when_somebody_asks() -> None:
    held = fresh()
    renewed = step(held, asked="serving")
    assert renewed.reason == "new serving certificate: a new one is asked for"
    assert renewed.held.ca == held.ca


@pytest.mark.parametrize("asked", ["", "ca"])
def test_a_ca_is_replaced_step_by_step(asked: Asked) -> None:
    held = fresh()
    now = NOW + 60 * DAY - timedelta(seconds=1) if asked else NOW + 3650 * DAY * 2 / 3
    if not asked:
        assert held.ca is not None
        assert next_step(renewed_at(held, now), TERMS, Seen(), now=now - timedelta(seconds=1)) is None
        held = renewed_at(held, now)
    old = held
    # The new CA is trusted, the old certificate served.
    held = step(held, now=now, asked=asked).held
    assert held.ca != old.ca
    assert held.serving == old.serving
    assert old.ca is not None
    assert held.previous == old.ca.certificate
    assert held.bundle(now).count(b"BEGIN") == 2
    assert next_step(held, TERMS, Seen(everywhere=True), now=now, asked=asked) is None
    # Everybody trusts both: the new certificate is served.
    third = step(held, Seen(settled=True), now=now)
    assert third.reason == "new serving certificate: it is of the previous CA"
    assert third.held.previous == held.previous
    held = third.held
    assert held.serving is not None
    assert held.ca is not None
    assert pki.issued_by(held.serving.certificate, held.ca.certificate)
    assert next_step(held, TERMS, Seen(settled=True), now=now) is None
    # Everybody serves it: the old CA goes.
    last = step(held, Seen(settled=True, everywhere=True), now=now)
    assert last.reason == "the previous CA is not needed any more"
    assert last.held == replace(held, previous=b"")
    assert next_step(last.held, TERMS, Seen(settled=True, everywhere=True), now=now) is None


def renewed_at(held: Held, now: datetime) -> Held:
    assert held.ca is not None
    return replace(held, serving=pki.create_serving(held.ca, TERMS.hosts, now=now - DAY, lifetime=TERMS.lifetime))


def test_another_ca_that_is_asked_for_during_a_rotation_waits_for_its_end() -> None:
    held = step(fresh(), asked="ca").held
    assert next_step(held, TERMS, Seen(), now=NOW, asked="ca") is None
    assert step(held, Seen(settled=True), now=NOW, asked="ca").held.ca == held.ca


def test_a_previous_ca_that_has_expired_is_dropped_whoever_serves_what() -> None:
    expired = pki.create_ca(now=NOW - 10 * DAY, lifetime=DAY).certificate
    held = replace(fresh(), previous=expired)
    assert step(held).held == replace(held, previous=b"")


@pytest.mark.parametrize(
    "damage", ["no key", "foreign key", "no certificate", "garbage", "foreign certificate", "host"]
)
def test_a_damaged_certificate_is_replaced_at_once(damage: str) -> None:
    held = fresh()
    assert held.serving is not None
    assert held.ca is not None
    other = fresh()
    assert other.serving is not None
    wrong = {
        "no key": Held.parse({**_data(held), "tls.key": b""}),
        "no certificate": replace(held, serving=None),
        "foreign key": replace(held, serving=replace(held.serving, key=other.serving.key)),
        "garbage": replace(held, serving=replace(held.serving, certificate=b"garbage")),
        "foreign certificate": replace(held, serving=other.serving),
        "host": replace(held, serving=pki.create_serving(held.ca, ["x"], now=NOW, lifetime=DAY)),
    }[damage]
    with pytest.raises(CertificateError):
        check(wrong, TERMS, now=NOW)
    replaced = step(wrong).held
    assert replaced.ca == held.ca
    assert check(replaced, TERMS, now=NOW) == replaced.serving


@pytest.mark.parametrize("damage", ["no key", "foreign key", "garbage", "no CA"])
def test_a_damaged_ca_is_replaced_and_what_it_signed_stays_good(damage: str) -> None:
    held = fresh()
    assert held.ca is not None
    key = {"no key": b"", "foreign key": pki.create_ca(now=NOW, lifetime=DAY).key, "garbage": b"garbage"}.get(damage)
    data = {**_data(held), "ca.key": held.ca.key if key is None else key}
    if damage == "no CA":
        leaf = signed()
        data |= {"ca.crt": held.ca.certificate + leaf.certificate, "ca.key": leaf.key}
    replaced = step(Held.parse(data)).held
    assert replaced.ca != held.ca
    assert replaced.serving == held.serving
    assert pki.bundle([held.ca.certificate], now=NOW) in replaced.bundle(NOW)


def test_a_secret_that_was_emptied_is_made_anew_around_what_is_still_served() -> None:
    held = fresh()
    made = step(Held(), Seen(last_good=held)).held
    assert made.serving == held.serving
    assert made.bundle(NOW).count(b"BEGIN") == 2
    assert check(made, TERMS, now=NOW) == held.serving


@pytest.mark.parametrize("what", ["ca", "serving"])
def test_a_clock_that_is_behind_replaces_nothing(what: str) -> None:
    held = fresh()
    early = NOW - timedelta(hours=2)
    if what == "serving":
        ca = pki.create_ca(now=early, lifetime=TERMS.ca_lifetime)
        held = Held(ca=ca, serving=pki.create_serving(ca, TERMS.hosts, now=NOW, lifetime=TERMS.lifetime))
    with pytest.raises(NotYetValid, match=r" is not valid before 2026-03-01 11:00:00 UTC$"):
        next_step(held, TERMS, Seen(), now=early)
    assert next_step(held, TERMS, Seen(), now=NOW - timedelta(minutes=59)) is None


def _data(held: Held) -> dict[str, bytes]:
    return {key: value for key, value in held.data().items() if value is not None}


# ── the Secret, the webhook configurations, and who looks at them ────────────────────────────────────────────────────

SETTLED = 10.0


class Crash(Exception):
    """The process is gone, at this very call."""


class Crashing:
    """A connection of a process that is killed at its ``at``-th write: before it arrives, or after it took effect."""

    def __init__(self, connection: Connection, at: int, *, after: bool) -> None:
        self._connection = connection
        self._left = at
        self._after = after

    def get(self, path: str, deadline: float) -> Answer:
        return self._connection.get(path, deadline)

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        answer = self._connection.send(method, path, body, content_type, deadline)
        if self._left == 0:
            raise Crash
        return answer


class World:
    """A cluster, its time, and the bundles that each API server may still go by."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.cluster = cluster
        self.connection = connect(kubeconfig(folder, cluster.port))
        self.seconds = 0.0
        self.trusted: list[tuple[float, bytes]] = []
        self.numbers = itertools.count()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def bundle(self, path: str) -> bytes:
        (bundle,) = {webhook["clientConfig"].get("caBundle", "") for webhook in self.cluster.objects[path]["webhooks"]}
        return base64.b64decode(bundle)

    def pass_on(self, seconds: float = 1.0) -> None:
        self.seconds += seconds
        self.trusted.append((self.seconds, self.bundle(VALIDATING)))

    def in_force(self) -> list[bytes]:
        """The bundles that some API server may go by now: it hears of a change within less than SETTLED seconds."""
        recent = [bundle for at, bundle in self.trusted if at > self.seconds - (SETTLED - 1)]
        before = [bundle for at, bundle in self.trusted if at <= self.seconds - (SETTLED - 1)]
        return [*before[-1:], *recent]


class Replica:
    """A replica without its servers, that is stepped by hand."""

    def __init__(self, world: World, *, leads: bool = True, connection: Any = None) -> None:
        self.world = world
        self.leads = leads
        self.readiness = Readiness(certificate="not loaded yet")
        self.metrics = Metrics("test")
        self.installed: list[Material] = []
        self.certificate = Certificate(
            install=lambda material, _: self.installed.append(material),
            health=self.readiness,
            metrics=self.metrics,
            now=world.now,
        )
        resources = Resources(connection or world.connection)
        self.source = SecretSource(
            resources,
            place=PLACE,
            terms=TERMS,
            certificate=self.certificate,
            replicas=Replicas(
                resources,
                path=LEASE,
                identity=f"{next(world.numbers):08x}",
                host="web-0",
                clock=lambda: world.seconds,
                now=world.now,
            ),
            leads=lambda: self.leads,
            serving=self.serving,
            settled_after=SETTLED,
            clock=lambda: world.seconds,
            now=world.now,
        )

    def serving(self) -> list[str]:
        return [pki.fingerprint(self.served)] if self.installed else []

    @property
    def served(self) -> bytes:
        return self.installed[-1].certificate

    def step(self) -> None:
        self.source.step()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def world(cluster: FakeCluster, tmp_path: Path) -> World:
    return World(cluster, tmp_path)


def held_in(cluster: FakeCluster) -> Held:
    data = cluster.objects[PLACE.path]["data"]
    return Held.parse({key: base64.b64decode(value) for key, value in data.items()})


def settle(world: World, *replicas: Replica, until: Callable[[], bool], steps: int = 60) -> None:
    """Step them, a second apart, until the condition holds; what is served is always trusted by everybody."""
    for _ in range(steps):
        for replica in replicas:
            replica.step()
        world.pass_on()
        for replica in replicas:
            if replica.installed:
                assert all(pki.issued_by(replica.served, bundle) for bundle in world.in_force())
        if until():
            return
    raise AssertionError("it never came to that")


def is_steady(cluster: FakeCluster) -> bool:
    held = held_in(cluster)
    assert held.ca is not None
    assert held.serving is not None
    return not held.previous and pki.issued_by(held.serving.certificate, held.ca.certificate)


def test_the_leader_makes_the_secret_and_everybody_serves_it(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    leader, follower = Replica(world), Replica(world, leads=False)
    follower.step()
    assert follower.readiness.reasons() == [
        "certificate: Secret driftwall-system/driftwall-tls: there is no certificate yet"
    ]
    assert follower.value("driftwall_certificate_rotations_total", result="refused") == 0
    leader.step()
    follower.step()
    assert leader.installed == follower.installed
    assert leader.readiness.ready.is_set()
    assert follower.readiness.ready.is_set()
    secret = cluster.objects[PLACE.path]
    assert (secret["type"], sorted(secret["data"])) == ("Opaque", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
    assert world.bundle(VALIDATING) == world.bundle(MUTATING) == held_in(cluster).bundle(NOW)
    assert pki.issued_by(leader.served, world.bundle(MUTATING))
    expires = (NOW + 90 * DAY).timestamp()
    assert follower.value("driftwall_certificate_not_after_timestamp_seconds") == expires
    entries = [
        value for key, value in cluster.objects[LEASE]["metadata"]["annotations"].items() if key.startswith(PREFIX)
    ]
    assert len(entries) == 2
    assert all(leader.serving()[0] in entry for entry in entries)


def test_a_follower_writes_nothing_but_its_entry(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    Replica(world).step()
    cluster.change(VALIDATING, {"webhooks": []})
    cluster.requests.clear()
    Replica(world, leads=False).step()
    assert {path for method, path in cluster.requests if method == "PATCH"} == {LEASE}


def test_a_steady_state_costs_three_reads_and_no_writes(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    leader = Replica(world)
    leader.step()
    leader.step()
    cluster.requests.clear()
    leader.step()
    assert cluster.requests == [("GET", PLACE.path), ("GET", VALIDATING), ("GET", MUTATING)]


def test_a_configuration_that_comes_later_gets_the_bundle_and_one_that_lost_it_gets_it_back(
    cluster: FakeCluster, world: World
) -> None:
    leader = Replica(world)
    leader.step()
    cluster.configure_webhooks(VALIDATING)
    leader.step()
    assert world.bundle(VALIDATING) == held_in(cluster).bundle(NOW)
    cluster.configure_webhooks()
    leader.step()
    assert world.bundle(VALIDATING) == world.bundle(MUTATING) == held_in(cluster).bundle(NOW)
    # Nothing but the bundle is ours.
    assert cluster.objects[MUTATING]["webhooks"][0]["sideEffects"] == "None"
    assert cluster.objects[MUTATING]["webhooks"][0]["clientConfig"]["url"] == "https://x"


def test_conflicts_are_tried_again(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    conflicts: dict[str, int] = {}

    def once_each(method: str, path: str) -> int | None:
        if method == "PATCH" and conflicts.setdefault(path, 0) < 1:
            conflicts[path] += 1
            return 409
        return None

    cluster.fault = once_each
    leader = Replica(world)
    with pytest.raises(ClusterError):
        leader.step()
    for _ in range(5):
        try:
            leader.step()
            break
        except ClusterError:
            continue
    assert leader.readiness.ready.is_set()
    assert set(conflicts) == {LEASE, PLACE.path, VALIDATING, MUTATING}


def test_two_that_both_believe_to_lead_make_one_secret(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    other = Replica(world)
    reads = world.connection.get
    begun = [False]

    class Interrupted:
        """The other one does a whole step between a read of the Secret and the write that follows."""

        send = world.connection.send

        def get(self, path: str, deadline: float) -> Answer:
            answer = reads(path, deadline)
            if path == PLACE.path and not begun[0]:
                begun[0] = True
                other.step()
            return answer

    one = Replica(world, connection=Interrupted())
    with pytest.raises(ClusterError, match="somebody else changed it"):
        one.step()
    one.step()
    assert one.installed[-1] == other.installed[-1]
    assert pki.issued_by(one.served, world.bundle(VALIDATING))


@pytest.mark.parametrize("wish", ["serving", "ca"])
def test_a_person_may_ask_for_a_rotation_and_the_wish_is_gone_once_it_is_done(
    cluster: FakeCluster, world: World, wish: str
) -> None:
    cluster.configure_webhooks()
    replicas = [Replica(world), Replica(world, leads=False)]
    settle(world, *replicas, until=replicas[1].readiness.ready.is_set)
    before = held_in(cluster)
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: wish}}})
    settle(world, *replicas, until=lambda: held_in(cluster).serving != before.serving and is_steady(cluster))
    assert (held_in(cluster).ca == before.ca) is (wish == "serving")
    assert cluster.objects[PLACE.path]["metadata"]["annotations"] == {}
    settle(world, *replicas, until=lambda: world.bundle(MUTATING) == held_in(cluster).bundle(NOW), steps=1)
    for replica in replicas:
        assert replica.value("driftwall_certificate_rotations_total", result="served") == 1


def test_a_wish_that_is_none_is_said(cluster: FakeCluster, world: World) -> None:
    leader = Replica(world)
    leader.step()
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "now"}}})
    with pytest.raises(CertificateError) as raised:
        leader.step()
    assert str(raised.value) == (
        "Secret driftwall-system/driftwall-tls: annotation driftwall.io/rotate is serving or ca, and nothing else"
    )


def test_the_old_ca_stays_until_a_replica_that_is_slow_serves_the_new_certificate(
    cluster: FakeCluster, world: World
) -> None:
    cluster.configure_webhooks()
    leader, slow = Replica(world), Replica(world, leads=False)
    settle(world, leader, slow, until=slow.readiness.ready.is_set)
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "ca"}}})
    for _ in range(GONE_AFTER - RENEW):
        leader.step()
        world.pass_on()
    assert held_in(cluster).previous
    assert all(pki.issued_by(slow.served, bundle) for bundle in world.in_force())
    settle(world, leader, slow, until=lambda: is_steady(cluster))


def test_a_replica_that_is_gone_is_not_waited_for_for_ever_and_its_entry_is_removed(
    cluster: FakeCluster, world: World
) -> None:
    cluster.configure_webhooks()
    leader, gone = Replica(world), Replica(world, leads=False)
    settle(world, leader, gone, until=gone.readiness.ready.is_set)
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "ca"}}})
    settle(world, leader, until=lambda: is_steady(cluster), steps=GONE_AFTER + 30)
    assert len(cluster.objects[LEASE]["metadata"]["annotations"]) == 1


def test_a_replica_that_ends_withdraws_its_entry(cluster: FakeCluster, world: World) -> None:
    replica = Replica(world)
    replica.step()
    replica.source.withdraw()
    replica.source.withdraw()
    assert cluster.objects[LEASE]["metadata"]["annotations"] == {}


def test_an_entry_that_nobody_can_read_is_waited_for(cluster: FakeCluster, world: World) -> None:
    cluster.configure_webhooks()
    leader = Replica(world)
    leader.step()
    for number, entry in enumerate(("", "[]", '{"serving": 5}', "[" * 9000)):
        cluster.change(LEASE, {"metadata": {"annotations": {f"{PREFIX}x{number}": entry}}})
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "ca"}}})
    for _ in range(int(3 * SETTLED)):
        leader.step()
        world.pass_on()
    assert held_in(cluster).previous


def writes_of_a_ca_rotation(cluster: FakeCluster, world: World) -> int:
    """From nothing to a steady state with a second CA, with one replica."""
    cluster.configure_webhooks()
    replica = Replica(world)
    replica.step()
    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "ca"}}})
    settle(world, replica, until=lambda: is_steady(cluster) and world.bundle(MUTATING).count(b"BEGIN") == 1)
    return sum(method == "PATCH" for method, _ in cluster.requests)


def test_whoever_is_killed_at_whichever_write_the_next_one_goes_on(tmp_path: Path) -> None:
    def run(at: int, *, after: bool) -> int:
        cluster = FakeCluster()
        try:
            world = World(cluster, tmp_path)
            if not at:
                return writes_of_a_ca_rotation(cluster, world)
            cluster.configure_webhooks()
            other = Replica(world, leads=False)
            replicas = [Replica(world, connection=Crashing(world.connection, at, after=after)), other]
            asked = crashed = False
            for _ in range(100):
                for replica in tuple(replicas):
                    try:
                        replica.step()
                    except Crash:
                        crashed = True
                        replicas[0] = Replica(world)
                world.pass_on()
                for replica in replicas:
                    # Before the first bundle is in place nobody is called.
                    if replica.installed and all(world.in_force()):
                        assert all(pki.issued_by(replica.served, bundle) for bundle in world.in_force())
                if all(replica.installed for replica in replicas) and not asked:
                    asked = True
                    cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "ca"}}})
                if (
                    asked
                    and "data" in cluster.objects[PLACE.path]
                    and cluster.objects[PLACE.path]["metadata"]["annotations"] == {}
                ):
                    # The entry of the one that was killed stays for GONE_AFTER.
                    if crashed:
                        world.seconds += GONE_AFTER / 50
                    if is_steady(cluster) and world.bundle(MUTATING).count(b"BEGIN") == 1:
                        return at
            raise AssertionError(f"killed at write {at}, {after=}: it never came to an end")
        finally:
            cluster.close()

    writes = run(0, after=False)
    assert writes > 8
    for at in range(1, writes + 1):
        for after in (False, True):
            assert run(at, after=after) == at


def test_while_the_api_server_is_away_what_is_there_is_served(cluster: FakeCluster, world: World) -> None:
    replica = Replica(world)
    replica.step()
    cluster.fault = lambda *_: 503
    with pytest.raises(ClusterError):
        replica.step()
    assert replica.readiness.ready.is_set()
    # And the replica says when that must end.
    world.seconds = (90 * DAY).total_seconds() - 59
    with pytest.raises(ClusterError):
        replica.step()
    assert replica.readiness.reasons() == ["certificate: it expires at 2026-05-30 12:00:00 UTC"]
    world.seconds += 60
    with pytest.raises(ClusterError):
        replica.step()
    assert replica.readiness.reasons() == ["certificate: it expired at 2026-05-30 12:00:00 UTC"]
    cluster.fault = lambda *_: None
    replica.step()
    assert replica.readiness.ready.is_set()


def test_a_follower_does_not_take_what_does_not_hold_together(cluster: FakeCluster, world: World) -> None:
    leader, follower = Replica(world), Replica(world, leads=False)
    leader.step()
    follower.step()
    for damage in ({"tls.key": "AAAA"}, {"ca.crt": "AAAA", "ca.key": None}, {"tls.crt": 5}):
        data = cluster.objects[PLACE.path]["data"]
        cluster.change(PLACE.path, {"data": damage})
        follower.step()
        assert follower.readiness.ready.is_set()
        assert follower.readiness.remarks()[0] == "certificate: the last good one is served:"
        cluster.change(PLACE.path, {"data": data})
        follower.step()
        assert follower.readiness.remarks() == []
    assert len(follower.installed) == 1


def test_a_secret_that_somebody_deletes_is_made_anew_without_a_moment_that_nobody_trusts(
    cluster: FakeCluster, world: World
) -> None:
    cluster.configure_webhooks()
    leader, follower = Replica(world), Replica(world, leads=False)
    settle(world, leader, follower, until=follower.readiness.ready.is_set)
    old = held_in(cluster)
    del cluster.objects[PLACE.path]
    settle(world, follower, leader, until=lambda: PLACE.path in cluster.objects and is_steady(cluster))
    assert held_in(cluster).ca != old.ca


# ── files that somebody else writes ──────────────────────────────────────────────────────────────────────────────────


class Watched:
    """Files, and who looks at them."""

    def __init__(self, made: Certificates, **settings: Any) -> None:
        self.made = made
        self.readiness = Readiness(certificate="not loaded yet")
        self.metrics = Metrics("test")
        self.installed: list[Material] = []
        self.now = datetime.now(UTC)
        certificate = Certificate(
            install=lambda material, _: self.installed.append(material),
            health=self.readiness,
            metrics=self.metrics,
            now=lambda: self.now,
        )
        self.source = FileSource(settings_for(made, **settings), certificate)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.source.step()

    def write(self, pair: pki.KeyPair) -> None:
        self.made.cert_file.write_bytes(pair.certificate)
        self.made.key_file.write_bytes(pair.key)

    def count(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("driftwall_certificate_rotations_total", {"result": result})


def new_pair(made: Certificates, lifetime: timedelta = DAY, now: datetime | None = None) -> pki.KeyPair:
    return pki.create_serving(made.ca, HOSTS, now=now or datetime.now(UTC), lifetime=lifetime)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    watched = Watched(certificates(tmp_path))
    watched.look()
    return watched


def test_a_new_pair_is_taken_with_the_look_that_finds_it(watched: Watched) -> None:
    assert (len(watched.installed), watched.count("served")) == (1, 0)
    pair = new_pair(watched.made)
    watched.write(pair)
    watched.look(3)
    assert watched.installed[1:] == [Material(certificate=pair.certificate, key=pair.key)]
    assert (watched.count("served"), watched.count("refused")) == (1, 0)


def test_a_pair_that_is_just_being_written_is_no_matter(watched: Watched) -> None:
    pair = new_pair(watched.made)
    watched.made.cert_file.write_bytes(pair.certificate)
    watched.look()
    watched.made.key_file.write_bytes(pair.key)
    watched.look()
    assert len(watched.installed) == 2
    assert watched.count("refused") == 0


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("key", "the certificate and the key do not belong together"),
        ("half", "the certificate holds no certificate in PEM form, or a damaged one"),
        ("empty", "the certificate holds no certificate in PEM form, or a damaged one"),
        ("expired", "the certificate expired at "),
        ("later", "the certificate is not valid before "),
    ],
)
def test_a_bad_pair_is_told_of_once_and_the_last_good_one_stays(watched: Watched, part: str, problem: str) -> None:
    pair = new_pair(watched.made)
    long_ago = datetime(2023, 4, 7, tzinfo=UTC)
    old_ca = pki.create_ca(now=long_ago, lifetime=timedelta(days=9999))
    bad = {
        "key": replace(pair, key=watched.made.ca.key),
        "half": replace(pair, certificate=pair.certificate[:200]),
        "empty": replace(pair, certificate=b""),
        "expired": pki.create_serving(old_ca, HOSTS, now=long_ago, lifetime=DAY),
        "later": pki.create_serving(old_ca, HOSTS, now=datetime.now(UTC) + DAY, lifetime=DAY),
    }[part]
    watched.write(bad)
    watched.look(5)
    assert len(watched.installed) == 1
    assert watched.readiness.ready.is_set()
    first, second = watched.readiness.remarks()
    assert first == "certificate: the last good one is served:"
    assert second.startswith(f"certificate: {watched.made.cert_file} with {watched.made.key_file}: {problem}")
    assert watched.count("refused") == 1
    watched.write(pair)
    watched.look()
    assert len(watched.installed) == 2
    assert watched.readiness.remarks() == []


def test_files_that_are_gone_are_told_of(watched: Watched) -> None:
    watched.made.key_file.unlink()
    watched.look(3)
    assert watched.readiness.remarks()[1] == (
        f"certificate: --tls-key: {watched.made.key_file} cannot be read: No such file or directory"
    )
    assert watched.count("refused") == 1


def test_another_ca_of_the_clients_is_taken_too(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    clients = tmp_path / "clients.crt"
    clients.write_bytes(made.ca.certificate)
    watched = Watched(made, client_ca=clients)
    watched.look()
    other = pki.create_ca(now=watched.now, lifetime=DAY).certificate
    clients.write_bytes(made.ca.certificate + other)
    watched.look()
    assert [material.client_ca for material in watched.installed] == [made.ca.certificate, made.ca.certificate + other]
    clients.write_bytes(b"x")
    watched.look(2)
    assert len(watched.installed) == 2
    assert watched.readiness.remarks()[1] == (
        f"certificate: --client-ca: {clients}: the CA file holds no certificate in PEM form, or a damaged one"
    )


def test_a_replica_is_unready_a_minute_before_its_certificate_expires(watched: Watched) -> None:
    watched.now += DAY - timedelta(minutes=2)
    watched.look()
    assert watched.readiness.ready.is_set()
    watched.now += timedelta(minutes=1, seconds=1)
    watched.look()
    (reason,) = watched.readiness.reasons()
    assert reason.startswith("certificate: it expires at ")
    watched.write(new_pair(watched.made, now=watched.now))
    watched.look()
    assert watched.readiness.ready.is_set()


def test_one_that_lives_for_minutes_is_served_for_nine_tenths_of_them(watched: Watched) -> None:
    watched.write(new_pair(watched.made, lifetime=timedelta(minutes=2), now=watched.now))
    watched.look()
    watched.now += timedelta(seconds=107)
    watched.look()
    assert watched.readiness.ready.is_set()
    watched.now += timedelta(seconds=2)
    watched.look()
    assert not watched.readiness.ready.is_set()


# ── under load ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Mount:
    """A folder as kubelet mounts a Secret: its files are links through ``..data``, which is swapped as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def write(self, pair: pki.KeyPair) -> None:
        new = self._folder / f"..{next(self._numbers)}"
        new.mkdir()
        (new / "tls.crt").write_bytes(pair.certificate)
        (new / "tls.key").write_bytes(pair.key)
        link = self._folder / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self._folder / "..data")
        for name in ("tls.crt", "tls.key"):
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(os.path.join("..data", name))  # noqa: PTH118 - a relative link


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hundred_swaps_under_load_fail_no_request(tmp_path: Path, workers: str) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    made = certificates(tmp_path)
    folder = tmp_path / "mount"
    folder.mkdir()
    mount = Mount(folder)
    mount.write(new_pair(made))
    made = replace(made, cert_file=folder / "tls.crt", key_file=folder / "tls.key")
    with (
        started(made, "--reload-interval", "0.01s", "--workers", workers) as running,
        Load(lambda: running.client.port, made.client) as load,
    ):
        load.go_on()
        for number in range(100):
            pair = new_pair(made)
            if number % 10 == 5:  # a bad one in between changes nothing
                mount.write(replace(pair, key=made.ca.key))
            mount.write(pair)
            serial = serial_of(pair)
            load.wait_for(lambda serial=serial: serial in load.serials)  # type: ignore[misc]
        load.go_on()
        metrics = running.management.request("GET", "/metrics").body.decode()
        assert 'driftwall_certificate_rotations_total{result="served"} 100.0' in metrics
    assert load.failures == []
    assert load.answered > 500


def test_a_process_makes_its_own_certificate_and_goes_on_without_the_api_server(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    cluster.configure_webhooks()
    flags = ("--service", "driftwall-system/driftwall", "--kubeconfig", str(kubeconfig(tmp_path, cluster.port)))
    with started(certificates(tmp_path), *flags, "--reload-interval", "0.02s") as running:

        def trusting() -> ssl.SSLContext:
            bundle = cluster.objects[VALIDATING]["webhooks"][0]["clientConfig"]["caBundle"]
            context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
            context.check_hostname = False  # it is called by its address here
            return context

        def served() -> float:
            text = running.management.request("GET", "/metrics").body.decode()
            (line,) = re.findall(r'(?m)^driftwall_certificate_rotations_total{result="served"} (\S+)$', text)
            return float(line)

        with Load(lambda: running.client.port, trusting) as load:
            load.go_on()
            for number in range(10):
                cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "serving"}}})
                load.wait_for(lambda number=number: served() > number)  # type: ignore[misc]
            cluster.fault = lambda *_: 0
            load.go_on(100)
            assert running.management.request("GET", "/readyz").body == b"ok\n"
            cluster.fault = lambda *_: None
            cluster.change(PLACE.path, {"metadata": {"annotations": {ROTATE: "serving"}}})
            load.wait_for(lambda: served() == 11)
        assert load.failures == []
        assert running.stop() == 0
    # It has left the Lease to others, and nothing that they would have to wait for.
    assert "holderIdentity" not in cluster.objects[LEASE]["spec"]
    assert cluster.objects[LEASE]["metadata"]["annotations"] == {}
    assert "PRIVATE" not in repr(running.messages)


def test_without_a_way_to_the_api_server_it_says_that_it_needs_one(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    done = subprocess.run(
        command(made, "--service", "a/b"), env=environment(), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 64
    assert done.stderr.splitlines()[-1] == (
        "driftwall: --service without --tls-cert needs a way to the API server (it does not run in a cluster and there "
        "is no kubeconfig); give --kubeconfig FILE"
    )


def test_until_there_is_a_certificate_it_is_unready_and_says_why(cluster: FakeCluster, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    made = certificates(tmp_path)
    cluster.fault = lambda *_: 403
    flags = ("--service", "driftwall-system/driftwall", "--kubeconfig", str(kubeconfig(tmp_path, cluster.port)))
    with subprocess.Popen(
        command(made, *flags, "--reload-interval", "0.02s"), env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        messages = map(json.loads, process.stderr)
        told = next(line for line in messages if line["message"] == "not ready yet; /readyz says why")
        management = Client(port=int(told["management"].rpartition(":")[2]))
        answer = management.request("GET", "/readyz")
        assert answer.status == 503
        assert b"certificate: not loaded yet\n" in answer.body
        cluster.fault = lambda *_: None
        assert next(line for line in messages if line["message"] == "ready")["management"] == told["management"]
        assert management.request("GET", "/readyz").status == 200
        process.terminate()
        assert process.wait(30) == 0


def serial_of(pair: pki.KeyPair) -> str:
    """As Python's ssl writes it."""
    digits = f"{x509.load_pem_x509_certificate(pair.certificate).serial_number:X}"
    return digits.rjust(len(digits) + len(digits) % 2, "0")
