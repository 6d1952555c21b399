from __future__ import annotations

import re

import pytest

from webhook.fieldpath import Index, Item, Member, Path
from webhook.patterns import PathSet, parse_pattern

WEB = Item((("name", "web"),))


def covers(pattern: str, path: Path) -> bool:
    """Whether ``pattern`` covers the place itself or something above it."""
    position: PathSet | None = PathSet.of(pattern)
    for element in path:
        if position is None or position.covers:
            break
        position = position.step(element)
    return position is not None and position.covers


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("spec.replicas", ("spec", "replicas")),
        ("spec", ("spec", "replicas")),
        ("spec.template.spec.containers[*].image", ("spec", "template", "spec", "containers", WEB, "image")),
        ("containers[name=web].image", ("containers", WEB, "image")),
        ("containers[name=w*].image", ("containers", WEB, "image")),
        ("containers['name'].image", ("containers", "name", "image")),
        ("containers[name='web'].image", ("containers", WEB, "image")),
        ('containers[name="web"].image', ("containers", WEB, "image")),
        ("ports[port=80,protocol=T?P]", ("ports", Item((("port", 80), ("protocol", "TCP"))))),
        ("ports[protocol=TCP]", ("ports", Item((("port", 80), ("protocol", "TCP"))))),
        ("flags[on=true]", ("flags", Item((("on", True),)))),
        ("flags[on=null]", ("flags", Item((("on", None),)))),
        ("metadata.annotations['example.com/*']", ("metadata", "annotations", "example.com/a/b")),
        ("metadata.labels.app?", ("metadata", "labels", "apps")),
        ("data.*", ("data", "any key.yaml")),
        ("data['*']", ("data", "any key.yaml")),
        ("rules[*].host", ("rules", Index(0), "host")),
        ("metadata.finalizers[*]", ("metadata", "finalizers", Member("x"))),
        ("*.replicas", ("spec", "replicas")),
        ("['a.b'].c", ("a.b", "c")),
        ("data['it\\'s']", ("data", "it's")),
    ],
)
def test_a_pattern_covers_the_places_that_it_names_and_all_below(pattern: str, path: Path) -> None:
    assert covers(pattern, path)
    assert covers(pattern, (*path, "below", Index(0), Member(1)))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("spec.replicas", ("spec",)),
        ("spec.replicas", ("spec", "replica")),
        ("spec.replicas", ("Spec", "replicas")),
        ("containers[name=web].image", ("containers", Item((("name", "web2"),)), "image")),
        ("containers[name=web].image", ("containers", "name", "image")),
        ("ports[port=80]", ("ports", Item((("port", 8080),)))),
        ("ports[port=80,protocol=UDP]", ("ports", Item((("port", 80), ("protocol", "TCP"))))),
        ("metadata.annotations['example.com/*']", ("metadata", "annotations", "example.org/a")),
        ("containers.image", ("containers", WEB, "image")),
        ("finalizers[name=x]", ("finalizers", Member("x"))),
    ],
)
def test_a_pattern_covers_nothing_else(pattern: str, path: Path) -> None:
    assert not covers(pattern, path)


def test_a_key_that_is_not_the_list_s_own_is_looked_for_in_the_old_and_the_new_item() -> None:
    old, new = {"name": "web", "image": "a"}, {"name": "web", "image": "b"}
    for item in (Item((("port", 1),), (old, new)), Index(0, (old, new))):
        assert covers("containers[image=a]", ("containers", item))
        assert covers("containers[image=b]", ("containers", item))
        assert not covers("containers[image=c]", ("containers", item))


def test_two_keys_have_to_be_those_of_one_item() -> None:
    item = Index(0, ({"name": "web", "image": "a"}, {"name": "db", "image": "b"}))
    assert covers("containers[name=web,image=a]", ("containers", item))
    assert not covers("containers[name=web,image=b]", ("containers", item))


def test_a_key_whose_value_is_no_scalar_matches_nothing() -> None:
    assert not covers("containers[name=*]", ("containers", Index(0, ({"name": {}}, {"name": []}))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty path names no field"),
        ("spec..replicas", "a field name is missing at character 6 of 'spec..replicas'"),
        (".spec", "a field name is missing at character 1 of '.spec'"),
        ("spec.", "a field name is missing at character 6 of 'spec.'"),
        ("spec]", "expected '.' or '[' at character 5 of 'spec]'"),
        ("a[*]b", "expected '.' or '[' at character 5 of 'a[*]b'"),
        ("a[0]", "an index such as [0] is no stable place in a list; use [*] or [name=…] in 'a[0]'"),
        ("a[b]", "expected [*], [key=value] or ['name'] at character 2 of 'a[b]'"),
        ("a[]", "expected [*], [key=value] or ['name'] at character 2 of 'a[]'"),
        ("a[", "expected [*], [key=value] or ['name'] at character 2 of 'a['"),
        ("a[=b]", "a key is missing before '=' at character 3 of 'a[=b]'"),
        ("a[b=c", "expected ']' at character 6 of 'a[b=c'"),
        ("a['b]", 'the quote at character 3 of "a[\'b]" is not closed'),
        ("a['b'", "expected ']' at character 6 of \"a['b'\""),
        ("a[b='c'd]", "expected ']' at character 8 of \"a[b='c'd]\""),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_character(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_pattern(text)


def test_a_set_of_patterns_is_their_union() -> None:
    both = PathSet.of("spec.a") | PathSet.of("spec.b")
    spec = both.step("spec")
    assert spec is not None
    assert not spec.covers
    assert [name for name in "abc" if (child := spec.step(name)) is not None and child.covers] == ["a", "b"]


def test_an_empty_set_is_false_and_leads_nowhere() -> None:
    assert not PathSet()
    assert PathSet().step("spec") is None
    assert PathSet.of("spec")
