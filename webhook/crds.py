"""The CustomResourceDefinitions of driftwall's own kinds, made from the JSON Schema that policy files are held to.

The API server takes a structural schema: nothing is referred to, every value has one type, and what only compares
values stays out. What a schema cannot say (``if``, names of labels, formats such as field paths) driftwall checks when
an object is written.

``python -m webhook.crds FOLDER`` writes them there; ``make crds`` keeps ``deploy/crds`` up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from webhook.documents import dump
from webhook.own_objects import CONFIG_NAME, CONFIGS, POLICIES
from webhook.policy import OWN_GROUP, OWN_LABEL
from webhook.policy_schema import API_VERSION, CONFIG_KIND, POLICY_KIND, schema
from webhook.regexes import compile_own

_HEADER: Final = "# Made from webhook/policy.schema.json by `make crds`; not to be edited by hand.\n"
#: Keywords that mean the same to the API server.
_KEPT: Final = ("type", "description", "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "required")
_SINCE: Final = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_ACCEPTED: Final = {
    "name": "Accepted",
    "type": "string",
    "description": "Whether driftwall goes by it.",
    "jsonPath": '.status.conditions[?(@.type=="Accepted")].status',
}
# Characters, as metav1.Condition has them.
_MAX_REASON, _MAX_MESSAGE, _MAX_TYPE = 1024, 32768, 316

Json = dict[str, Any]


def definitions() -> list[Json]:
    """Both definitions, apiextensions.k8s.io/v1."""
    policies = _definition(
        POLICIES,
        "driftpolicy",
        POLICY_KIND,
        ["dpol"],
        [
            _column("Mode", ".spec.mode", "What becomes of a write that violates it."),
            _column("Severity", ".spec.severity", "How grave a violation is."),
            _ACCEPTED,
            _SINCE,
        ],
    )
    configs = _definition(
        CONFIGS,
        "driftwallconfig",
        CONFIG_KIND,
        ["dwcfg"],
        [_column("Cluster", ".spec.clusterId", "The cluster's name in logs and metrics."), _ACCEPTED, _SINCE],
    )
    properties = configs["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["metadata"]["properties"] = {"name": {"type": "string", "enum": [CONFIG_NAME]}}
    return [policies, configs]


def write(folder: Path) -> list[Path]:
    """Write a file for each definition into ``folder``; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in files_of().items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def files_of() -> dict[str, str]:
    """Name and content of the files."""
    return {f"{definition['metadata']['name']}.yaml": _HEADER + dump(definition) for definition in definitions()}


def _definition(plural: str, singular: str, kind: str, short: list[str], columns: list[Json]) -> Json:
    version = API_VERSION.partition("/")[2]
    label, value = OWN_LABEL
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{OWN_GROUP}", "labels": {label: value}},
        "spec": {
            "group": OWN_GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": short,
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _object_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def _column(name: str, path: str, description: str) -> Json:
    return {"name": name, "type": "string", "description": description, "jsonPath": path}


def _object_schema(kind: str) -> Json:
    known = schema()["$defs"][kind]
    return {
        "type": "object",
        "description": known["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this format."},
            "kind": {"type": "string", "description": "What this object is."},
            "metadata": {"type": "object"},
            "spec": _structural(known["properties"]["spec"]),
            "status": _status_schema(),
        },
    }


def _structural(rule: Mapping[str, Any], *, in_list: bool = False) -> Json:
    """``rule`` without references and without what the API server does not take.

    What is ``in_list`` has no defaults: GitOps tools compare lists as a whole, and would see drift in each of them.
    """
    if (reference := rule.get("$ref")) is not None:
        # What stands beside a reference, such as a description, wins over what it leads to.
        beside = {key: value for key, value in rule.items() if key != "$ref"}
        return _structural({**schema()["$defs"][reference.removeprefix("#/$defs/")], **beside}, in_list=in_list)
    made: Json = {key: rule[key] for key in _KEPT if key in rule}
    if made.get("type") == "string" and _may_be_empty(rule):
        # An API server of v1.20 that was built with a Go of today takes an empty string for null (type.go in
        # go-openapi/validate compares with reflect.Zero). Null itself driftwall refuses.
        made["nullable"] = True
    if "properties" in rule:
        optional = _alternatives(rule)
        made["properties"] = {
            # A default would make each alternative seem to be there.
            name: _structural(
                {key: value for key, value in child.items() if key != "default" or name not in optional},
                in_list=in_list,
            )
            for name, child in rule["properties"].items()
        }
        if optional:
            made["anyOf"] = [{"required": branch["required"]} for branch in rule["anyOf"]]
    elif isinstance(rule.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _structural(rule["additionalProperties"], in_list=in_list)
    if "items" in rule:
        made["items"] = _structural(rule["items"], in_list=True)
        made |= _list_type(made["items"])
    if "default" in rule and not in_list:
        made["default"] = rule["default"]
    return made


def _may_be_empty(rule: Mapping[str, Any]) -> bool:
    """Whether the empty string is a value, as the core group's name is."""
    if {"enum", "format", "minLength"} & set(rule):
        return False
    return compile_own(rule.get("pattern", "")).matches("")


def _alternatives(rule: Mapping[str, Any]) -> set[str]:
    """The keys of which ``rule`` wants at least one."""
    return {name for branch in rule.get("anyOf", ()) for name in branch["required"]}


def _list_type(items: Json) -> Json:
    """Writers are known by their names; every other list is one value."""
    if items["type"] == "object" and "name" in items.get("required", ()):
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    return {"x-kubernetes-list-type": "atomic"}


def _status_schema() -> Json:
    text = {"type": "string"}
    generation = {
        "type": "integer",
        "format": "int64",
        "minimum": 0,
        "description": "The generation of the object that this is about.",
    }
    condition = {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {**text, "maxLength": _MAX_TYPE, "description": "Accepted: whether driftwall goes by the object."},
            "status": {**text, "enum": ["True", "False", "Unknown"], "description": "Whether it is so."},
            "reason": {**text, "maxLength": _MAX_REASON, "minLength": 1, "description": "Why, in one word."},
            "message": {**text, "maxLength": _MAX_MESSAGE, "description": "Why, with every problem, a line each."},
            "observedGeneration": generation,
            "lastTransitionTime": {**text, "format": "date-time", "description": "Since when it is so."},
        },
    }
    conditions = {
        "type": "array",
        "description": "What driftwall makes of the object.",
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    return {
        "type": "object",
        "description": "Written by driftwall, and not read by it.",
        "properties": {"observedGeneration": generation, "conditions": conditions},
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
