from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook import meta
from webhook.equality import strictly_equal
from webhook.lazyjson import LazyMetadata, LazyObject
from webhook.ownership import entries

TEXTS = st.text('ab"\\é', max_size=3)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=2)
ENTRIES = st.fixed_dictionaries(
    {"manager": TEXTS, "operation": st.sampled_from(["Apply", "Update"])},
    optional={"apiVersion": TEXTS, "subresource": TEXTS, "time": TEXTS, "fieldsV1": st.just({"f:a": {}})},
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXTS,
        "generateName": TEXTS,
        "resourceVersion": TEXTS,
        "generation": st.integers(0, 3),
        "labels": MAPS,
        "annotations": st.none() | MAPS,
        "ownerReferences": st.lists(MAPS, max_size=2),
        "finalizers": st.lists(TEXTS, max_size=2),
        "managedFields": st.lists(ENTRIES, max_size=2),
    },
)


def lazy(metadata: Any) -> LazyObject:
    found = LazyObject.of(msgspec.Raw(json.dumps({"kind": "Widget", "metadata": metadata}).encode()), "request.object")
    assert found is not None
    return found


def metadata_of(metadata: Any) -> LazyMetadata:
    found = meta.metadata_of(lazy(metadata))
    assert isinstance(found, LazyMetadata)
    return found


@given(METADATA)
def test_metadata_that_is_read_as_the_api_server_writes_it_is_the_same_map(metadata: dict[str, Any]) -> None:
    read = metadata_of(metadata)
    assert dict(read) == metadata
    assert len(read) == len(metadata)
    for name in ("name", "generateName", "labels", "annotations", "ownerReferences", "managedFields", "spec"):
        assert (name in read) is (name in metadata)
        assert read.get(name, "nothing") == metadata.get(name, "nothing")
    for name in ("name", "finalizers", "managedFields", "spec"):
        part = read.part(name)
        assert (part is None) is (name not in metadata)
        assert part is None or json.loads(bytes(part)) == metadata[name]


@given(METADATA, METADATA)
def test_two_metadata_differ_where_their_values_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    absent = object()
    names = (one.keys() | other.keys()) - {"managedFields"}
    wanted = {name for name in names if one.get(name, absent) != other.get(name, absent)}
    ours, theirs = metadata_of(one), metadata_of(other)
    assert set(ours.differing(theirs)) == wanted
    assert strictly_equal(ours, theirs) is (one == other)
    assert strictly_equal(lazy(one), lazy(other)) is (one == other)


@given(METADATA)
def test_who_owns_what_is_the_same_in_metadata_of_another_shape(metadata: dict[str, Any]) -> None:
    """A field that no API server writes has metadata read as any JSON."""
    odd = lazy({**metadata, "colour": "red"})
    assert type(meta.metadata_of(odd)) is dict
    told = [(e.manager, e.operation, e.api_version, e.subresource, json.loads(bytes(e.raw))) for e in entries(odd)]
    assert told == [
        (e.manager, e.operation, e.api_version, e.subresource, json.loads(bytes(e.raw)))
        for e in entries(lazy(metadata))
    ]


@pytest.mark.parametrize(
    "metadata", [None, [], "x", {"colour": 1}, {"managedFields": None}, {"managedFields": [{"manager": 5}]}]
)
def test_metadata_of_any_other_shape_is_read_as_it_is(metadata: Any) -> None:
    assert lazy(metadata).get("metadata") == metadata
    assert lazy(metadata).metadata is None
