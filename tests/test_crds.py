from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from webhook import crds
from webhook.documents import load_documents
from webhook.policy_schema import schema

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
DEFINITIONS = {definition["metadata"]["name"]: definition for definition in crds.definitions()}
POLICIES, CONFIGS = DEFINITIONS["driftpolicies.driftwall.io"], DEFINITIONS["driftwallconfigs.driftwall.io"]
# What a node of a structural schema may have (k8s.io/apiextensions-apiserver, pkg/apiserver/schema/structural.go).
STRUCTURE = {"type", "nullable", "description", "properties", "items", "additionalProperties", "default"}
VALUES = {"enum", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems", "minimum", "required", "anyOf"}
EXTENSIONS = {"x-kubernetes-list-type", "x-kubernetes-list-map-keys"}


def version(definition: Json) -> Json:
    (only,) = definition["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def spec_schema(definition: Json) -> Json:
    found = version(definition)["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert isinstance(found, dict)
    return found


def nodes(node: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[{key}]")


ALL = [
    (f"{name}{path}", node)
    for name, definition in DEFINITIONS.items()
    for path, node in nodes(version(definition)["schema"]["openAPIV3Schema"])
]


@pytest.mark.parametrize("file", sorted(crds.files_of()))
def test_the_files_are_up_to_date(file: str) -> None:
    assert (ROOT / "deploy" / "crds" / file).read_text() == crds.files_of()[file], "run `make crds`"


def test_there_are_no_other_files() -> None:
    assert sorted(path.name for path in (ROOT / "deploy" / "crds").glob("*.io.yaml")) == sorted(crds.files_of())


def test_the_files_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    files = crds.write(tmp_path / "deep" / "crds")
    assert [yaml.safe_load(file.read_text()) for file in files] == crds.definitions()


@pytest.mark.parametrize(("path", "node"), ALL, ids=[path for path, _ in ALL])
def test_every_node_is_structural(path: str, node: Json) -> None:
    assert isinstance(node.get("type"), str)
    assert set(node) <= STRUCTURE | VALUES | EXTENSIONS
    assert not {"properties", "additionalProperties"} <= set(node)
    assert all(set(branch) == {"required"} for branch in node.get("anyOf", ()))
    if node["type"] == "array":
        assert node["x-kubernetes-list-type"] in ("atomic", "map")
    if node.get("x-kubernetes-list-type") == "map":
        (key,) = node["x-kubernetes-list-map-keys"]
        assert key in node["items"]["required"]
    if "default" in node:
        assert Draft202012Validator(node).is_valid(node["default"])


def test_nothing_is_kept_that_is_not_known() -> None:
    # Unknown fields are dropped by the API server, or refused by kubectl, so none ever seems to have an effect.
    assert not any("x-kubernetes-preserve-unknown-fields" in node for _, node in ALL)


@pytest.mark.parametrize(("path", "node"), [each for each in ALL if ".spec" in each[0] or ".status" in each[0]])
def test_everything_is_described(path: str, node: Json) -> None:
    assert node.get("description") or path.endswith(("[items]", "[additionalProperties]"))


def test_every_key_of_the_format_is_there() -> None:
    known = schema()["$defs"]
    assert set(spec_schema(POLICIES)["properties"]) == set(known["policySpec"]["properties"])
    assert set(spec_schema(CONFIGS)["properties"]) == set(known["configSpec"]["properties"])
    match = spec_schema(POLICIES)["properties"]["match"]["properties"]
    assert set(match) == set(known["match"]["properties"])
    assert set(match["objectSelector"]["properties"]["matchExpressions"]["items"]["properties"]) == {
        "key", "operator", "values",
    }  # fmt: skip


def test_a_default_never_makes_a_policy_seem_to_protect_something() -> None:
    protect = spec_schema(POLICIES)["properties"]["protect"]
    wanted = {name for branch in protect["anyOf"] for name in branch["required"]}
    assert wanted == {"declared", "fieldSets", "fields", "deletion"}
    assert not any("default" in protect["properties"][name] for name in wanted)


def test_an_empty_string_that_an_old_api_server_takes_for_null_is_let_through() -> None:
    nullable = {path for path, node in ALL if node.get("nullable")}
    match = "driftpolicies.driftwall.io.spec.match"
    assert nullable == {
        "driftpolicies.driftwall.io.spec.description",
        "driftpolicies.driftwall.io.spec.message",
        f"{match}.resources[items].apiGroups[items]",
        *(
            f"{match}.{selector}.{place}"
            for selector in ("namespaceSelector", "objectSelector")
            for place in ("matchLabels[additionalProperties]", "matchExpressions[items].values[items]")
        ),
    }


def test_nothing_in_a_list_has_a_default() -> None:
    assert not [path for path, node in ALL if "[items]" in path and "default" in node]


def test_mode_and_severity_have_their_defaults_for_the_columns_to_show() -> None:
    properties = spec_schema(POLICIES)["properties"]
    assert (properties["mode"]["default"], properties["severity"]["default"]) == ("dryRun", "medium")


def test_writers_are_keyed_by_name() -> None:
    for properties in (spec_schema(POLICIES)["properties"], spec_schema(CONFIGS)["properties"]):
        for name in {"trusted", "trustedWriters", "automation"} & set(properties):
            assert properties[name]["x-kubernetes-list-map-keys"] == ["name"]


def test_both_are_cluster_scoped_with_short_names_columns_and_a_status() -> None:
    def columns(definition: Json) -> list[str]:
        return [column["name"] for column in version(definition)["additionalPrinterColumns"]]

    assert [definition["spec"]["scope"] for definition in (POLICIES, CONFIGS)] == ["Cluster", "Cluster"]
    assert [definition["spec"]["names"]["shortNames"] for definition in (POLICIES, CONFIGS)] == [["dpol"], ["dwcfg"]]
    assert columns(POLICIES) == ["Mode", "Severity", "Accepted", "Age"]
    assert columns(CONFIGS) == ["Cluster", "Accepted", "Age"]
    assert all(version(definition)["subresources"] == {"status": {}} for definition in (POLICIES, CONFIGS))


def test_the_configuration_has_one_name() -> None:
    metadata = version(CONFIGS)["schema"]["openAPIV3Schema"]["properties"]["metadata"]
    assert metadata == {"type": "object", "properties": {"name": {"type": "string", "enum": ["default"]}}}


@pytest.mark.parametrize("file", sorted((ROOT / "policies").glob("*/policy.yaml")), ids=lambda file: file.parent.name)
def test_the_shipped_policies_meet_it(file: Path) -> None:
    documents, _ = load_documents(file.read_bytes(), file.name)
    for document in documents:
        definition = POLICIES if document.value["kind"] == "DriftPolicy" else CONFIGS
        Draft202012Validator(spec_schema(definition)).validate(document.value["spec"])
