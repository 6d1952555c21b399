from __future__ import annotations

import random

from webhook.tally import DENIED, WARNED, Tally


def test_names_are_counted_by_verdict_and_ranked_by_all_of_them() -> None:
    tally = Tally(10)
    for name, verdict in (("b", DENIED), ("a", WARNED), ("c", DENIED), ("c", WARNED)):
        tally.count(name, verdict)
    assert tally.as_json() == {
        "c": {"denied": 1, "warned": 1, "tagged": 0, "dryRun": 0},
        "a": {"denied": 0, "warned": 1, "tagged": 0, "dryRun": 0},
        "b": {"denied": 1, "warned": 0, "tagged": 0, "dryRun": 0},
    }
    assert [name for name, _ in tally.top(2)] == ["c", "a"]
    assert (tally.more(2), tally.more(3)) == (1, 0)


def test_many_names_take_the_room_of_a_few_and_those_that_come_often_stay() -> None:
    tally = Tally(50)
    often = [f"often-{number}" for number in range(20)]
    chance = random.Random(1)  # noqa: S311 - it only has to be mixed
    rows = 0
    for number in range(200_000):
        name = chance.choice(often) if number % 4 == 0 else f"once-{number}"
        tally.count(name, DENIED)
        rows = max(rows, len(tally))
    top = tally.top(20)
    assert rows == 100
    assert {name for name, _ in top} == set(often)
    # Before they stood out, some of them were given up with what they had.
    assert 49_900 <= sum(row.total for _, row in top) <= 50_000
    assert 150_000 <= tally.more(20) <= 150_100


def test_a_row_has_tallies_of_its_own() -> None:
    tally = Tally(10, fields=5)
    tally.count("alice", DENIED).below["fields"].count("spec.replicas", DENIED)
    tally.count("alice", DENIED).below["fields"].count("data", DENIED)
    ((name, row),) = tally.top()
    assert (name, row.total, [field for field, _ in row.below["fields"].top()]) == (
        "alice",
        2,
        ["data", "spec.replicas"],
    )
