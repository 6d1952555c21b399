from __future__ import annotations

from datetime import datetime, timedelta

from tests.reviews import NOW
from webhook.cluster.events import Correlator, Event, Involved, Told


def told(name: str = "web", *, user: str = "alice", reason: str = "WriteDenied", after: float = 0) -> Told:
    involved = Involved(kind="ConfigMap", namespace="shop", name=name)
    return Told(involved=involved, reason=reason, user=user, at=NOW + timedelta(seconds=after))


def taken(correlator: Correlator, count: int, *args: Told) -> list[Event | None]:
    return [correlator.take(each) for _ in range(count) for each in args]


def seconds(at: datetime) -> float:
    return (at - NOW).total_seconds()


def test_what_is_alike_within_ten_minutes_is_one_event_and_then_another() -> None:
    correlator = Correlator()
    first = correlator.take(told())
    assert first is not None
    assert correlator.take(told(after=600)) is first
    assert (first.count, seconds(first.told.at)) == (2, 0)
    later = correlator.take(told(after=601))
    assert later is not None
    assert later is not first
    assert (later.count, seconds(later.told.at), later.name == first.name) == (1, 601, False)


def test_an_object_has_so_many_at_once_and_then_one_each_five_minutes_and_none_is_forgotten() -> None:
    correlator = Correlator()
    results = taken(correlator, 30, told(user="alice"), told(user="bob"))
    assert [event is not None for event in results] == [True] * 25 + [False] * 35
    assert correlator.take(told(after=299)) is None
    event = correlator.take(told(after=301))
    assert event is not None
    assert event.count == 32
    assert correlator.take(told(after=301)) is None
    # Another object, and another reason, have not had any.
    assert correlator.take(told("other")) is not None
    assert correlator.take(told(reason="GlassBroken")) is not None


def test_all_objects_together_have_so_many_and_another_reason_as_many_again() -> None:
    correlator = Correlator()
    results = [correlator.take(told(str(number))) for number in range(150)]
    assert [event is not None for event in results] == [True] * 100 + [False] * 50
    assert correlator.take(told("x", reason="GlassBroken")) is not None
    later = [correlator.take(told(f"later-{number}", after=1.01)) for number in range(20)]
    assert [event is not None for event in later] == [True] * 10 + [False] * 10


def test_a_clock_that_is_put_back_brings_no_more_and_stops_nothing() -> None:
    correlator = Correlator()
    assert all(taken(correlator, 20, told()))
    assert all(taken(correlator, 5, told(after=-3600)))
    assert correlator.take(told(after=-3600)) is None
    assert correlator.take(told(after=-3299)) is not None


def test_only_so_many_are_remembered() -> None:
    correlator = Correlator()
    first = correlator.take(told("first"))
    for number in range(4096):
        correlator.take(told(str(number)))
    again = correlator.take(told("first", after=60))
    assert first is not None
    assert again is not None
    assert (first.count, again.count) == (1, 1)
