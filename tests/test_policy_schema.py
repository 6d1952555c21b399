from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from webhook.documents import Document, load_documents, path_of
from webhook.policy_schema import schema, validate
from webhook.regexes import compile_pattern

EXAMPLE = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: opened-ports
spec:
  mode: enforce
  description: Nobody opens a port by hand.
  severity: high
  controls: [PCI DSS 4.0.1 Req 1.2.5]
  match:
    scope: Managed
    tools: [flux, argocd]
    resources:
      - apiGroups: [""]
        resources: [services, "*/scale"]
    operations: [CREATE, UPDATE, DELETE]
    namespaces: ["shop", "team-*"]
    excludeNamespaces: ["team-sandbox"]
    namespaceSelector: {}
    objectSelector: {}
  protect:
    declared: true
    fieldSets: [openedPorts]
    fields:
      - spec.template.spec.containers[*].image
      - spec.template.spec.containers[name=web].env[name=LOG_LEVEL]
      - metadata.annotations['example.com/*']
      - data.*
    ignore: [spec.replicas]
    deletion: true
    children: false
  trusted: []
  automation: []
  breakGlass: {}
  message: Ask in channel sre.
---
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  clusterId: prod-eu-1
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      users: []
      groups: []
      verify: uid
      fieldManagers: [kustomize-controller]
  automation:
    - name: hpa
      serviceAccounts: [kube-system/horizontal-pod-autoscaler]
      fields: [spec.replicas]
  systemWriters:
    users: [eks:node-manager]
    serviceAccounts: []
  exemptNamespaces: [kube-system]
  guardIdentities: true
  breakGlass:
    groups: [sre]
    users: []
    reasonPattern: '^INC-[0-9]+: .+'
    maxDuration: 4h
  argocd:
    instanceLabelKey: app.kubernetes.io/instance
"""


def read(text: str) -> Document:
    [document], problems = load_documents(text.encode(), "p.yaml")
    assert problems == []
    return document


def check(text: str) -> list[str]:
    return [str(problem) for problem in validate(read(text))]


def policy(spec: str) -> list[str]:
    """The problems of a policy with this ``spec``, which begins on line 2."""
    kind = "apiVersion: driftwall.io/v1alpha1, kind: DriftPolicy"
    return check(f"{{{kind}, metadata: {{name: p}}, spec: {{\n{spec}\n}}}}")


def config(spec: str) -> list[str]:
    """The problems of a configuration with this ``spec``, which begins on line 2."""
    kind = "apiVersion: driftwall.io/v1alpha1, kind: DriftwallConfig"
    return check(f"{{{kind}, metadata: {{name: default}}, spec: {{\n{spec}\n}}}}")


# What is right


def test_the_whole_format_is_valid() -> None:
    documents, problems = load_documents(EXAMPLE.encode(), "p.yaml")
    assert problems == []
    assert [validate(document) for document in documents] == [[], []]


def test_the_whole_format_is_valid_for_an_editor_that_takes_the_schema_as_it_is() -> None:
    documents, _ = load_documents(EXAMPLE.encode(), "p.yaml")
    for document in documents:
        Draft202012Validator(schema()).validate(document.value)


def test_the_smallest_policy_and_configuration_are_valid() -> None:
    assert policy("protect: {declared: true}") == []
    assert config("") == []


def test_a_custom_resource_as_the_api_server_returns_it_is_valid() -> None:
    value = {
        "apiVersion": "driftwall.io/v1alpha1",
        "kind": "DriftPolicy",
        "metadata": {
            "name": "p",
            "labels": {"app.kubernetes.io/name": "driftwall", "empty": ""},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
            "namespace": "driftwall",
            "generateName": "p-",
            "uid": "0b2ff6c5-0d4c-4d1c-8d0f-3b7c0ad3f3a1",
            "resourceVersion": "7",
            "generation": 2,
            "creationTimestamp": "2025-01-01T00:00:00Z",
            "deletionTimestamp": None,
            "deletionGracePeriodSeconds": 0,
            "selfLink": "",
            "finalizers": ["example.com/x"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}],
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {"protect": {"declared": True}},
        "status": {"conditions": [{"type": "Ready"}]},
    }
    assert validate(Document(file="driftpolicies/p", line=1, value=value, lines={})) == []


@pytest.mark.parametrize(
    "spec",
    [
        "protect: {deletion: true}",
        "protect: {fields: [spec]}, match: {namespaces: ['*', 'a?', kube-system]}",
        "protect: {fieldSets: [images]}, match: {resources: [{apiGroups: ['*'], resources: ['*', '*/*', pods/exec]}]}",
        "protect: {declared: true}, match: {resources: [{apiGroups: [apps, cert-manager.io], resources: [a]}]}",
        "protect: {declared: true}, match: {objectSelector: {matchLabels: {example.com/a: B_1.c, b: ''}}}",
        "protect: {declared: true}, match: {objectSelector: {matchExpressions: [{key: a, operator: Exists}]}}",
        "protect: {fields: [a]}, match: {objectSelector: {matchExpressions: [{key: a, operator: Exists, values: []}]}}",
        "protect: {fields: [a]}, match: {objectSelector: {matchExpressions: [{key: a, operator: In, values: ['']}]}}",
        "protect: {declared: true}, trusted: [{name: x, serviceAccounts: ['*/ns-reconciler-*', a?/b.c]}]",
        "protect: {declared: true}, trusted: [{name: x, users: ['system:x'], verify: none}]",
        "protect: {declared: true}, breakGlass: {maxDuration: 1h30m, reasonPattern: .}",
    ],
)
def test_a_policy_is_valid(spec: str) -> None:
    assert policy(spec) == []


# What kind of document it is


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: 1",
            (
                "p.yaml:1: kind: expected DriftPolicy or DriftwallConfig of apiVersion driftwall.io/v1alpha1; "
                "the required key is missing"
            ),
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {}",
            (
                "p.yaml:2: kind: expected DriftPolicy or DriftwallConfig of apiVersion driftwall.io/v1alpha1, "
                "got 'ConfigMap'"
            ),
        ),
        (
            "apiVersion: driftwall.io/v1alpha1\nkind: driftPolicy",
            (
                "p.yaml:2: kind: expected DriftPolicy or DriftwallConfig of apiVersion driftwall.io/v1alpha1, "
                "got 'driftPolicy'; did you mean 'DriftPolicy'?"
            ),
        ),
        (
            "kind: [DriftPolicy]",
            (
                "p.yaml:1: kind: expected DriftPolicy or DriftwallConfig of apiVersion driftwall.io/v1alpha1, "
                "got a list of 1"
            ),
        ),
        (
            "\nkind: DriftPolicy\nspec: 1",
            "p.yaml:2: apiVersion: expected driftwall.io/v1alpha1; the required key is missing",
        ),
        (
            "kind: DriftPolicy\napiVersion: driftwall.io/v1\nspec: 1",
            "p.yaml:2: apiVersion: expected driftwall.io/v1alpha1, got 'driftwall.io/v1'",
        ),
    ],
)
def test_a_document_of_another_kind_or_version_is_one_problem(text: str, problem: str) -> None:
    assert check(text) == [problem]


# Every key, used wrongly


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("mode: enforced", "2: spec.mode: 'enforced' is not one of dryRun, warn, tag, enforce"),
        ("mode: true", "2: spec.mode: true is not one of dryRun, warn, tag, enforce"),
        ("description: 2", "2: spec.description: expected a string, got an integer; quote it"),
        ("severity: fatal", "2: spec.severity: 'fatal' is not one of low, medium, high, critical"),
        ("controls: PCI", "2: spec.controls: expected a list, got a string; write it as ['PCI']"),
        ("controls: [1.2]", "2: spec.controls[0]: expected a string, got a number; quote it"),
        ("controls: ['']", "2: spec.controls[0]: an empty string"),
        ("match: [a]", "2: spec.match: expected a mapping, got a list"),
        ("match: {scope: managed}", "2: spec.match.scope: 'managed' is not one of Managed, All"),
        (
            "match: {tools: []}",
            "2: spec.match.tools: is empty, which selects nothing; leave the key out to select everything",
        ),
        (
            "match: {tools: [null]}",
            "2: spec.match.tools[0]: expected a string, got null; give it a value or leave the key out",
        ),
        (
            "match: {resources: {apiGroups: []}}",
            "2: spec.match.resources: expected a list, got a mapping; begin each item with '- '",
        ),
        ("match: {resources: [{apiGroups: [apps]}]}", "2: spec.match.resources[0].resources: required key is missing"),
        (
            "match: {resources: [{apiGroups: [apps/v1], resources: [deployments]}]}",
            (
                "2: spec.match.resources[0].apiGroups[0]: 'apps/v1' is no API group: give its name without a version, "
                "such as apps, '' for the core group, or '*'"
            ),
        ),
        (
            "match: {resources: [{apiGroups: [], resources: [deployments]}]}",
            "2: spec.match.resources[0].apiGroups: is empty, which selects nothing; write ['*'] for every API group",
        ),
        (
            "match: {resources: [{apiGroups: [apps], resources: [Deployment]}]}",
            (
                "2: spec.match.resources[0].resources[0]: 'Deployment' is no resource: "
                "write it in the plural and in lower case, "
                "such as services or deployments/scale, or with '*'"
            ),
        ),
        (
            "match: {resources: [{apiGroups: [apps], resources: []}]}",
            (
                "2: spec.match.resources[0].resources: is empty, which selects nothing; "
                "write ['*/*'] for every resource and subresource"
            ),
        ),
        (
            "match: {operations: [PATCH]}",
            "2: spec.match.operations[0]: 'PATCH' is not one of CREATE, UPDATE, DELETE, CONNECT",
        ),
        (
            "match: {namespaces: [Shop]}",
            (
                "2: spec.match.namespaces[0]: 'Shop' is no namespace: use lower case letters, digits and '-', "
                "and '*' or '?' as wildcards"
            ),
        ),
        (
            'match: {excludeNamespaces: ["a\\n"]}',
            (
                "2: spec.match.excludeNamespaces[0]: 'a\\n' is no namespace: use lower case letters, digits and '-', "
                "and '*' or '?' as wildcards"
            ),
        ),
        (
            f"match: {{namespaces: [{'a' * 64}]}}",
            f"2: spec.match.namespaces[0]: '{'a' * 57}…' is longer than 63 characters",
        ),
        (
            "match: {namespaceSelector: {app: x}}",
            "2: spec.match.namespaceSelector.app: unknown key; known here: matchLabels, matchExpressions",
        ),
        (
            "match: {objectSelector: {matchLabels: {a: true}}}",
            "2: spec.match.objectSelector.matchLabels.a: expected a string, got a boolean; quote it",
        ),
        (
            "match: {objectSelector: {matchLabels: {-a: b}}}",
            (
                "2: spec.match.objectSelector.matchLabels['-a']: '-a' is no key of a label or annotation: "
                "write it as name or example.com/name"
            ),
        ),
        (
            "match: {objectSelector: {matchLabels: {a: b c}}}",
            (
                "2: spec.match.objectSelector.matchLabels.a: 'b c' is no value of a label: at most 63 letters, digits, "
                "'-', '_' and '.', with a letter or digit first and last"
            ),
        ),
        (
            "match: {objectSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            (
                "2: spec.match.objectSelector.matchExpressions[0].operator: "
                "'in' is not one of In, NotIn, Exists, DoesNotExist"
            ),
        ),
        (
            "match: {objectSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "2: spec.match.objectSelector.matchExpressions[0].values: required key is missing",
        ),
        (
            "match: {objectSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}",
            (
                "2: spec.match.objectSelector.matchExpressions[0].values: "
                "is empty; In and NotIn need a value to compare with"
            ),
        ),
        (
            "match: {objectSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            (
                "2: spec.match.objectSelector.matchExpressions[0].values: is given, "
                "but Exists and DoesNotExist compare with nothing"
            ),
        ),
        (
            "match: {objectSelector: {matchExpressions: [{key: a, values: [b]}]}}",
            "2: spec.match.objectSelector.matchExpressions[0].operator: required key is missing",
        ),
        ("trusted: {}", "2: spec.trusted: expected a list, got a mapping; begin each item with '- '"),
        ("trusted: [{users: [a]}]", "2: spec.trusted[0].name: required key is missing"),
        (
            "trusted: [{name: Flux, users: [a]}]",
            (
                "2: spec.trusted[0].name: 'Flux' is no name of a writer: use lower case letters, digits, '-' and '.', "
                "with a letter or digit first and last"
            ),
        ),
        ("trusted: [{name: x}]", "2: spec.trusted[0]: names nobody: give serviceAccounts, users or groups"),
        (
            "trusted: [{name: x, fieldManagers: [y]}]",
            "2: spec.trusted[0]: names nobody: give serviceAccounts, users or groups",
        ),
        (
            "trusted: [{name: x, users: [5]}]",
            "2: spec.trusted[0].users[0]: expected a string, got an integer; quote it",
        ),
        ("trusted: [{name: x, groups: ['']}]", "2: spec.trusted[0].groups[0]: an empty string"),
        (
            "trusted: [{name: x, serviceAccounts: ['system:serviceaccount:a:b']}]",
            (
                "2: spec.trusted[0].serviceAccounts[0]: 'system:serviceaccount:a:b' is no service account: "
                "write it as namespace/name, such as flux-system/kustomize-controller"
            ),
        ),
        (
            "trusted: [{name: x, serviceAccounts: [a/b/c]}]",
            (
                "2: spec.trusted[0].serviceAccounts[0]: 'a/b/c' is no service account: "
                "write it as namespace/name, such as flux-system/kustomize-controller"
            ),
        ),
        (
            "trusted: [{name: x, users: [a], verify: token}]",
            "2: spec.trusted[0].verify: 'token' is not one of uid, pod, none",
        ),
        (
            "trusted: [{name: x, users: [a], fieldManagers: y}]",
            "2: spec.trusted[0].fieldManagers: expected a list, got a string; write it as ['y']",
        ),
        (
            "trusted: [{name: x, users: [a], fields: [spec]}]",
            (
                "2: spec.trusted[0].fields: unknown key; known here: "
                "name, serviceAccounts, users, groups, verify, fieldManagers"
            ),
        ),
        ("automation: [{name: x, users: [a]}]", "2: spec.automation[0].fields: required key is missing"),
        (
            "automation: [{name: x, users: [a], fields: []}]",
            "2: spec.automation[0].fields: is empty; give the fields that it may write",
        ),
        (
            "automation: [{name: x, fields: [spec]}]",
            "2: spec.automation[0]: names nobody: give serviceAccounts, users or groups",
        ),
        ("breakGlass: []", "2: spec.breakGlass: expected a mapping, got a list"),
        (
            "breakGlass: {maxDuration: 1d}",
            "2: spec.breakGlass.maxDuration: '1d' is not a duration: there is no unit for days; use 24h",
        ),
        ("breakGlass: {maxDuration: 4}", "2: spec.breakGlass.maxDuration: expected a string, got an integer; quote it"),
        (
            "breakGlass: {reasonPattern: (INC}",
            "2: spec.breakGlass.reasonPattern: not a regular expression (RE2): missing ): (INC",
        ),
        ("breakGlass: {reasonPattern: ''}", "2: spec.breakGlass.reasonPattern: an empty string"),
        (
            f"breakGlass: {{reasonPattern: {'x' * 1001}}}",
            f"2: spec.breakGlass.reasonPattern: '{'x' * 57}…' is longer than 1,000 characters",
        ),
        ("breakGlass: {group: [sre]}", "2: spec.breakGlass.group: unknown key; did you mean 'groups'?"),
        ("message: [a]", "2: spec.message: expected a string, got a list"),
        (
            "foo: bar",
            (
                "2: spec.foo: unknown key; known here: mode, description, severity, controls, match, protect, trusted, "
                "automation, breakGlass, message"
            ),
        ),
    ],
)
def test_a_key_of_a_policy_used_wrongly_is_one_problem(spec: str, problem: str) -> None:
    assert policy(f"{spec}, protect: {{declared: true}}") == [f"p.yaml:{problem}"]


@pytest.mark.parametrize(
    ("protect", "problem"),
    [
        ("[a]", "spec.protect: expected a mapping, got a list"),
        ("{}", "spec.protect: protects nothing: give at least one of declared, fieldSets, fields and deletion"),
        (
            "{children: true, ignore: [spec]}",
            "spec.protect: protects nothing: give at least one of declared, fieldSets, fields and deletion",
        ),
        ("{declared: yes}", "spec.protect.declared: expected a boolean, got a string; write true without quotes"),
        ("{declared: 'False'}", "spec.protect.declared: expected a boolean, got a string; write false without quotes"),
        ("{declared: 1}", "spec.protect.declared: expected a boolean, got an integer"),
        ("{deletion: maybe}", "spec.protect.deletion: expected a boolean, got a string"),
        (
            "{declared: true, children: null}",
            "spec.protect.children: expected a boolean, got null; give it a value or leave the key out",
        ),
        (
            "{fieldSets: openedPorts}",
            "spec.protect.fieldSets: expected a list, got a string; write it as ['openedPorts']",
        ),
        ("{fieldSets: []}", "spec.protect.fieldSets: is empty, which protects nothing; leave the key out"),
        ("{fields: []}", "spec.protect.fields: is empty, which protects nothing; leave the key out"),
        ("{fields: [{spec: x}]}", "spec.protect.fields[0]: expected a string, got a mapping"),
        ("{declared: true, ignore: ['']}", "spec.protect.ignore[0]: an empty string"),
        ("{declard: true}", "spec.protect.declard: unknown key; did you mean 'declared'?"),
        ("{fieldsets: [a]}", "spec.protect.fieldsets: unknown key; did you mean 'fieldSets'?"),
    ],
)
def test_a_key_of_protect_used_wrongly_is_one_problem(protect: str, problem: str) -> None:
    assert policy(f"protect: {protect}") == [f"p.yaml:2: {problem}"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("clusterId: 1", "spec.clusterId: expected a string, got an integer; quote it"),
        ("clusterId: ''", "spec.clusterId: an empty string"),
        ("trustedWriter: []", "spec.trustedWriter: unknown key; did you mean 'trustedWriters'?"),
        ("trustedWriters: [flux]", "spec.trustedWriters[0]: expected a mapping, got a string"),
        (
            "automation: [{name: x, groups: [a], field: [b]}]",
            "spec.automation[0].field: unknown key; did you mean 'fields'?",
        ),
        ("systemWriters: [a]", "spec.systemWriters: expected a mapping, got a list"),
        (
            "systemWriters: {name: x}",
            "spec.systemWriters.name: unknown key; known here: serviceAccounts, users, groups",
        ),
        (
            "exemptNamespaces: kube-system",
            "spec.exemptNamespaces: expected a list, got a string; write it as ['kube-system']",
        ),
        ("guardIdentities: off", "spec.guardIdentities: expected a boolean, got a string; write false without quotes"),
        ("argocd: {}", "spec.argocd.instanceLabelKey: required key is missing"),
        (
            "argocd: {instanceLabelKey: a/b/c}",
            (
                "spec.argocd.instanceLabelKey: 'a/b/c' is no key of a label or annotation: "
                "write it as name or example.com/name"
            ),
        ),
        (
            "mode: enforce",
            (
                "spec.mode: unknown key; known here: "
                "clusterId, trustedWriters, automation, systemWriters, exemptNamespaces, "
                "guardIdentities, breakGlass, argocd"
            ),
        ),
    ],
)
def test_a_key_of_the_configuration_used_wrongly_is_one_problem(spec: str, problem: str) -> None:
    assert config(spec) == [f"p.yaml:2: {problem}"]


def test_what_is_missing_is_reported_where_it_belongs() -> None:
    assert check(
        "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata:\n  labels: {}\nspec:\n  mode: warn\n"
    ) == [
        "p.yaml:3: metadata.name: required key is missing",
        "p.yaml:5: spec.protect: required key is missing",
    ]
    assert check("apiVersion: driftwall.io/v1alpha1\nkind: DriftwallConfig\n") == [
        "p.yaml:1: metadata: required key is missing",
        "p.yaml:1: spec: required key is missing",
    ]


def test_a_misspelt_key_is_not_reported_as_a_missing_one_too() -> None:
    head = "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\n"
    assert check(f"{head}metaData: {{name: p}}\nspec: {{protects: {{declared: true}}}}\n") == [
        "p.yaml:3: metaData: unknown key; did you mean 'metadata'?",
        "p.yaml:4: spec.protects: unknown key; did you mean 'protect'?",
    ]
    assert policy("protect: {declared: true}, trusted: [{name: x, serviceAcounts: [a/b]}]") == [
        "p.yaml:2: spec.trusted[0].serviceAcounts: unknown key; did you mean 'serviceAccounts'?"
    ]


def test_metadata_is_checked() -> None:
    head = "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nspec: {protect: {declared: true}}\n"
    text = (
        "metadata:\n  name: Bad_Name\n  labels:\n    a: 1\n"
        "  annotations:\n    a/b/c: 2\n    ok: [x]\n  creationTimestamp: 5\n  clusterName: x\n"
    )
    known = ", ".join(schema()["$defs"]["metadata"]["properties"])
    assert check(head + text) == [
        (
            "p.yaml:5: metadata.name: 'Bad_Name' is no name: use lower case letters, digits, '-' and '.', "
            "with a letter or digit first and last"
        ),
        "p.yaml:7: metadata.labels.a: expected a string, got an integer; quote it",
        (
            "p.yaml:9: metadata.annotations['a/b/c']: 'a/b/c' is no key of a label or annotation: "
            "write it as name or example.com/name"
        ),
        "p.yaml:9: metadata.annotations['a/b/c']: expected a string, got an integer; quote it",
        "p.yaml:10: metadata.annotations.ok: expected a string, got a list",
        "p.yaml:11: metadata.creationTimestamp: expected a string or null, got an integer; quote it",
        f"p.yaml:12: metadata.clusterName: unknown key; known here: {known}",
    ]


def test_everything_that_is_wrong_is_reported_at_once_in_the_order_of_lines() -> None:
    text = (
        "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata: {name: p}\nspec:\n  mode: enforced\n"
        "  match:\n    namespaces: [A, b, C]\n  protect:\n    declared: yes\n    fields: [1]\n  extra: 1\n"
    )
    assert [problem.split(": ")[0:2] for problem in check(text)] == [
        ["p.yaml:5", "spec.mode"],
        ["p.yaml:7", "spec.match.namespaces[0]"],
        ["p.yaml:7", "spec.match.namespaces[2]"],
        ["p.yaml:9", "spec.protect.declared"],
        ["p.yaml:10", "spec.protect.fields[0]"],
        ["p.yaml:11", "spec.extra"],
    ]


def test_what_a_problem_quotes_is_short_and_prints() -> None:
    value = "\\e[31m" + "x" * 500
    assert policy(f'protect: {{declared: true}}, mode: "{value}"') == [
        f"p.yaml:2: spec.mode: '\\x1b[31m{'x' * 49}…' is not one of dryRun, warn, tag, enforce"
    ]


# The schema itself


def nodes(node: object, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield at, node
        for key, value in node.items():
            yield from nodes(value, f"{at}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from nodes(value, f"{at}/{index}")


def test_the_schema_is_valid_json_schema() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema()["$id"] == "urn:driftwall:policy:v1alpha1"


def test_every_object_of_the_format_is_closed() -> None:
    for at, node in nodes(schema()["$defs"]):
        if node.get("type") == "object":
            free = at.endswith(("/status", "/ownerReferences/items", "/managedFields/items"))
            assert free or "additionalProperties" in node, at


def test_every_key_has_a_description() -> None:
    for at, node in nodes(schema()["$defs"]):
        if at.count("/properties/") and at.split("/")[-2] == "properties" and "/then/" not in at and "/if/" not in at:
            assert node.get("description", "").endswith("."), at
    assert all(node["description"].endswith(".") for node in schema()["$defs"].values())


def test_every_pattern_is_one_for_re2_and_every_limit_has_words() -> None:
    for at, node in nodes(schema()["$defs"]):
        if isinstance(node.get("pattern"), str):
            compile_pattern(node["pattern"])
            assert "x-explanation" in node or "format" in node, at
        if {"minItems", "maxItems", "anyOf"} & node.keys():
            assert "x-explanation" in node, at
        assert node.get("format", "re2") in ("re2", "go-duration", "field-path", "field-set", "tool"), at


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
examples = load_documents(EXAMPLE.encode(), "p.yaml")[0]


@given(data=st.data())
def test_whatever_stands_in_for_a_value_is_valid_or_a_problem_there(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from(examples))
    key = data.draw(st.sampled_from(sorted(document.lines, key=str)))
    value = copy.deepcopy(document.value)
    parent: Any = value
    for part in key[:-1]:
        parent = parent[part]
    parent[key[-1]] = data.draw(json_values)
    changed = Document(file="p.yaml", line=document.line, value=value, lines=document.lines)
    problems = validate(changed)
    assert problems == sorted(set(problems))
    assert all(problem.path.startswith(path_of(key)) for problem in problems)
    assert all(str(problem).isprintable() for problem in problems)
    plain = Draft202012Validator(schema())
    assert bool(problems) or plain.is_valid(value)


@given(value=st.dictionaries(st.text(max_size=4) | st.just("kind"), json_values, max_size=4))
def test_no_document_makes_it_raise(value: dict[str, Any]) -> None:
    assert validate(Document(file="p.yaml", line=1, value=value, lines={})) != []


def test_the_largest_file_is_checked_in_seconds() -> None:
    text = EXAMPLE.partition("---\n")[0]
    documents, problems = load_documents(f"{text}---\n".encode() * (1_000_000 // len(text)), "p.yaml")
    assert problems == []
    started = time.perf_counter()
    assert not any(validate(document) for document in documents)
    assert time.perf_counter() - started < 10  # seconds, on a busy machine
