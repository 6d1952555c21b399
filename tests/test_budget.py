from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.reviews import snapshot_of
from tests.serving import POLICY, deployment, review
from webhook import admission, budget
from webhook.budget import LEAST, MIB, MOST, Budget, for_reviews, memory, weight
from webhook.decision import decide
from webhook.errors import MalformedReview, Overloaded
from webhook.mutation import mutate

SNAPSHOT = snapshot_of(POLICY)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def body_with(old: str, new: str, holder: str) -> bytes:
    """A review whose objects differ in a field of ``holder``, given as JSON."""
    text = json.dumps(review(oldObject="OLD", object="NEW"))
    for place, replicas, value in (("OLD", 2, old), ("NEW", 5, new)):
        made = deployment(replicas)
        (made[holder] if holder else made)["data"] = "HERE"
        text = text.replace(f'"{place}"', json.dumps(made).replace('"HERE"', value))
    return text.encode()


def many(item: str, bytes_: int = 100_000) -> str:
    return f"[{','.join([item] * (bytes_ // (len(item) + 1)))}]"


def keyed(value: str, count: int = 10_000) -> str:
    items = ",".join(f'"{number:x}":{value}' for number in range(count))
    return f"{{{items}}}"


WIDE: Final = '"' + "x" * 1000 + '\U0001f600"'
# What does not grow with a review: a decoder, a few texts.
SLACK = 150_000
# One shape of JSON for each way in which a few bytes become many: as old and as new value.
SHAPES: Mapping[str, tuple[str, str]] = {
    "text": (json.dumps("x" * 100_000), json.dumps("y" * 100_000)),
    "text with one wide character": ('"' + "x" * 100_000 + '\\ud83d\\ude00"', '"' + "y" * 100_000 + '\U0001f600"'),
    "texts with wide characters in a map": (keyed(WIDE, 100), keyed(f"[{WIDE}]", 100)),
    "texts with wide characters in a list": (many(WIDE), many(f"[{WIDE}]")),
    "empty maps": (many("{}"), many("[]")),
    "empty lists": (many("[]"), many("[1]")),
    "maps in maps": (many('{"a":{}}'), many('{"a":{"b":1}}')),
    "small maps": (many('{"a":1}'), many('{"a":2}')),
    "numbers": (many("1"), many("2")),
    "fractions": (many("1.5"), many("2.5")),
    "keys": (keyed("1"), keyed("2")),
    "keys of maps": (keyed("{}"), keyed("[]")),
    "empty texts": (many('""'), many('"a"')),
}


@pytest.mark.parametrize("holder", ["", "spec", "metadata"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_decision_takes_more_memory_than_its_review_weighs(shape: str, holder: str) -> None:
    body = body_with(*SHAPES[shape], holder)
    assert len(body) > 150_000
    peaks = []
    for endpoint in (decide, mutate):
        tracemalloc.start()
        try:
            kept = admission.parse(body)
            endpoint(kept, SNAPSHOT, {}, NOW)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    taken = max(peaks) + len(body)
    assert taken <= weight(body) + SLACK
    assert taken <= budget.WORST * len(body)


def test_what_does_not_fit_is_refused_and_fits_once_the_others_are_done() -> None:
    all_of_it = Budget(10 * MIB)
    with all_of_it.share() as first:
        first.arrives(400_000)
        with all_of_it.share() as second:
            with pytest.raises(Overloaded, match="try again in a second"):
                second.arrives(9 * MIB)
            second.arrives(900_000)
        assert all_of_it.taken == 800_000
    assert all_of_it.taken == 0


def test_a_body_without_a_length_is_counted_as_it_grows_and_never_twice() -> None:
    all_of_it = Budget(10 * MIB)
    with all_of_it.share() as share:
        for length in (100, 200, 200, 150):
            share.arrives(length)
        assert all_of_it.taken == 400
        share.is_decided(b"x" * 200)
        assert all_of_it.taken == 200 * budget.WORST


def test_a_body_is_looked_at_closely_only_where_the_worst_of_its_size_does_not_fit() -> None:
    all_of_it = Budget(10 * MIB)
    text = b'"' + b"x" * 500_000 + b'"'
    with all_of_it.share() as share:
        share.is_decided(text)
        assert all_of_it.taken == weight(text) < 2 * MIB


def test_large_reviews_leave_room_for_ordinary_ones() -> None:
    all_of_it = Budget(64 * MIB)
    with all_of_it.share() as large, all_of_it.share() as another, all_of_it.share() as ordinary:
        large.arrives(28 * MIB)
        with pytest.raises(Overloaded):
            another.arrives(2 * MIB)
        ordinary.is_decided(b"x" * 10_000)


def test_what_never_fits_is_told_so_and_what_to_do() -> None:
    body = b"[" + b"{}," * 1_000_000 + b"{}]"
    with Budget(64 * MIB).share() as share, pytest.raises(MalformedReview) as caught:
        share.is_decided(body)
    assert caught.value.status == 413
    assert str(caught.value) == (
        "a decision on this review takes about 158 MiB of memory, and driftwall has 56 MiB for one; "
        "give it a higher limit of memory"
    )


def test_each_process_gets_its_part_of_what_is_left_beside_what_it_takes_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit, processes, expected in (
        (512 * MIB, 1, int(264 * MIB * 0.9)),
        (1536 * MIB, 3, int(264 * MIB * 0.9)),
        (100 * MIB, 1, LEAST),
        (1024 * 1024 * MIB, 1, MOST),
    ):
        monkeypatch.setattr(budget, "memory", lambda limit=limit: limit)
        assert for_reviews(processes) == expected


def test_the_memory_is_the_lowest_limit_of_the_group_and_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_CGROUPS", tmp_path)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory() == machine
    (tmp_path / "memory.max").write_text("max\n")
    assert memory() == machine
    (tmp_path / "memory.max").write_text(f"{512 * MIB}\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{256 * MIB}\n")
    # Version 2 is always there where there are control groups; version 1 only where it is mounted.
    assert memory() in (512 * MIB, 256 * MIB)
