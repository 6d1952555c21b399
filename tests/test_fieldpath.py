from __future__ import annotations

import pytest

from webhook.fieldpath import MAX_TEXT, Index, Item, Member, Path, format_path

WEB = Item((("name", "web"),))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("spec", "replicas"), "spec.replicas"),
        (("spec", "containers", WEB, "image"), "spec.containers[name=web].image"),
        (("spec", "ports", Item((("port", 80), ("protocol", "TCP")))), "spec.ports[port=80,protocol=TCP]"),
        (("metadata", "annotations", "example.com/x"), "metadata.annotations['example.com/x']"),
        (("metadata", "finalizers", Member("a b")), "metadata.finalizers[='a b']"),
        (("spec", "rules", Index(3), "host"), "spec.rules[3].host"),
        (("data", "it's"), "data['it\\'s']"),
        (("data", ""), "data['']"),
        (("list", Item((("a", None), ("b", True), ("c", 1.5), ("d", "")))), "list[a=null,b=true,c=1.5,d='']"),
        (("example.com/x",), "['example.com/x']"),
    ],
)
def test_a_place_is_written_as_a_policy_would_write_it(path: Path, text: str) -> None:
    assert format_path(path) == text


def test_a_place_that_is_very_long_is_cut() -> None:
    for path in (("x" * 5000,), ("é" * 5000,), ("n",) * 5000, (Item((("k", "x" * 5000),)),), (Member("x" * 5000),)):
        text = format_path(path)
        assert len(text) == MAX_TEXT
        assert text.endswith("…")
