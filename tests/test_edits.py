"""Changes as a person writes them, made to an object."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from webhook.edits import applied, parse_field, parse_set
from webhook.errors import SettingsError

OBJECT: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "paused": False,
        "template": {"spec": {"containers": [{"name": "web", "image": "a"}, {"name": "log", "image": "b"}]}},
    },
}


def at(obj: Any, *path: str | int) -> Any:
    for part in path:
        obj = obj[part]
    return obj


def changed(*texts: str, obj: dict[str, Any] | None = None) -> dict[str, Any]:
    original = copy.deepcopy(obj or OBJECT)
    result = applied(original, [parse_set(text) for text in texts])
    assert original == (obj or OBJECT)
    return result


def test_a_value_takes_the_type_of_what_is_there_or_that_of_json() -> None:
    obj = changed("spec.replicas=3", "spec.paused=true", "metadata.labels.app=7", "spec.minReadySeconds=5", "spec.x=y")
    assert at(obj, "spec", "replicas") == 3
    assert at(obj, "spec", "paused") is True
    assert at(obj, "metadata", "labels", "app") == "7"
    assert at(obj, "spec", "minReadySeconds") == 5
    assert at(obj, "spec", "x") == "y"


def test_labels_annotations_and_the_data_of_config_maps_are_strings() -> None:
    obj = changed("metadata.labels.new=1", "metadata.annotations['example.com/on']=true")
    assert at(obj, "metadata", "labels", "new") == "1"
    assert at(obj, "metadata", "annotations", "example.com/on") == "true"
    data = changed("data.port=80", 'data.quoted="8080"', obj={"kind": "ConfigMap", "metadata": {"name": "c"}})["data"]
    assert data == {"port": "80", "quoted": "8080"}


def test_items_of_keyed_lists_are_found_by_their_keys_and_made_where_they_are_missing() -> None:
    obj = changed("spec.template.spec.containers[name=web].image=x=y", "spec.ports[name=http].port=80")
    containers = at(obj, "spec", "template", "spec", "containers")
    assert containers == [{"name": "web", "image": "x=y"}, {"name": "log", "image": "b"}]
    assert at(obj, "spec", "ports") == [{"name": "http", "port": 80}]
    assert len(at(changed("spec.template.spec.containers[name=new]=on"), "spec", "template", "spec", "containers")) == 3


def test_null_takes_a_field_or_an_item_away_and_what_is_not_there_stays_so() -> None:
    obj = changed("spec.replicas=null", "spec.template.spec.containers[name=log]=null", "spec.none.at.all=null")
    assert "replicas" not in obj["spec"]
    assert at(obj, "spec", "template", "spec", "containers") == [{"name": "web", "image": "a"}]
    assert "none" not in obj["spec"]


def test_a_field_without_a_value_becomes_another_whatever_it_was() -> None:
    fields = ("spec.replicas", "spec.paused", "metadata.labels.app", "spec.template", "metadata.labels.new")
    obj = applied(OBJECT, map(parse_field, fields))
    assert at(obj, "spec", "replicas") == 3
    assert at(obj, "spec", "paused") is True
    assert at(obj, "metadata", "labels") == {"app": "web-changed", "new": "-changed"}
    assert "template" not in obj["spec"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec.replicas", "--set: 'spec.replicas' is not PATH=VALUE, such as spec.replicas=3"),
        ("spec.containers[*].image=x", "'spec.containers[*].image' has a wildcard; name one field"),
        ("spec.*=x", "'spec.*' has a wildcard; name one field"),
        ("spec.containers[0]=x", "no path of a field: an index such as [0] is no stable place"),
        ("=x", "no path of a field: an empty path names no field"),
    ],
)
def test_what_is_no_path_of_one_field_is_wrong_usage(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_set(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec.replicas.more=1", "spec.replicas.more: there is no such field in this object"),
        ("spec[name=web].x=1", "spec[name=web].x: there is no such field in this object"),
        ("spec.template.spec.containers[name=web]=1", "name a field of the item, such as"),
    ],
)
def test_a_path_that_does_not_fit_the_object_is_told(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("[", r"\[").replace(".", r"\.")):
        changed(text)


def test_a_secret_is_written_through_its_data_alone() -> None:
    with pytest.raises(SettingsError, match=r"write data\.KEY"):
        changed("stringData.password=x", obj={"kind": "Secret", "metadata": {}})
