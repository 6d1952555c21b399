from __future__ import annotations

import dataclasses
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

from tests.reviews import snapshot_of
from webhook.admission import UserInfo
from webhook.documents import load_documents
from webhook.errors import PolicyError
from webhook.patterns import parse_pattern
from webhook.policy import Policy, Snapshot
from webhook.policy_compiler import check_documents, compile_documents, default_config, load
from webhook.tools import MARKERS

HEAD = "apiVersion: driftwall.io/v1alpha1\n"


def policy(spec: str, name: str = "p") -> str:
    return f"{HEAD}kind: DriftPolicy\nmetadata: {{name: {name}}}\nspec:\n{spec}"


def config(spec: str) -> str:
    return f"{HEAD}kind: DriftwallConfig\nmetadata: {{name: default}}\nspec:\n{spec}"


def matching(match: str, more: str = "") -> Snapshot:
    return snapshot_of(policy(f"  protect: {{declared: true{more}}}\n  match: {match}\n"))


def problems(text: str) -> list[str]:
    documents, found = load_documents(text.encode(), "policy.yaml")
    assert found == []
    return [str(problem) for problem in sorted(compile_documents(documents)[1])]


def selects(
    snapshot: Snapshot, group: str, resource: str, subresource: str = "", operation: str = "UPDATE"
) -> str | None:
    """``whole``, or ``metadata`` where nothing else is guarded, or None."""
    candidates = snapshot.candidates(group, resource, subresource, operation, "shop")
    assert len(candidates) <= 1
    return None if not candidates else "whole" if candidates[0].whole else "metadata"


# ── match.resources ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "resource", "subresource", "expected"),
    [
        ("services", "services", "", "whole"),
        ("services", "services", "status", "metadata"),
        ("services", "pods", "", None),
        ("services", "pods", "status", None),
        ("services/status", "services", "status", "whole"),
        ("services/status", "services", "", None),
        ("services/status", "services", "scale", None),
        ("services/*", "services", "", "whole"),
        ("services/*", "services", "status", "whole"),
        ("services/*", "pods", "status", None),
        ("*", "services", "", "whole"),
        ("*", "services", "status", "metadata"),
        ("*/*", "services", "", "whole"),
        ("*/*", "services", "status", "whole"),
        ("*/status", "services", "status", "whole"),
        ("*/status", "services", "", None),
        ("*/status", "services", "scale", None),
    ],
)
def test_resources_mean_what_they_mean_in_a_webhook_configuration(
    rule: str, resource: str, subresource: str, expected: str | None
) -> None:
    snapshot = matching(f"{{resources: [{{apiGroups: [''], resources: ['{rule}']}}]}}")
    assert selects(snapshot, "", resource, subresource) == expected


def test_without_resources_every_resource_and_subresource_is_meant() -> None:
    assert selects(matching("{}"), "example.com", "widgets") == "whole"
    assert selects(matching("{}"), "example.com", "widgets", "scale") == "whole"


def test_groups_are_compared_in_full_and_a_star_is_every_group() -> None:
    one = matching("{resources: [{apiGroups: [apps], resources: [deployments]}]}")
    assert selects(one, "apps", "deployments") == "whole"
    assert selects(one, "", "deployments") is None
    assert selects(one, "apps.example.com", "deployments") is None
    every = matching("{resources: [{apiGroups: ['*'], resources: [deployments]}]}")
    assert selects(every, "", "deployments") == "whole"
    assert selects(every, "apps", "deployments") == "whole"


def test_a_kind_is_matched_under_the_group_that_it_has_left() -> None:
    apps = matching("{resources: [{apiGroups: [apps], resources: [deployments, 'deployments/scale']}]}")
    assert selects(apps, "extensions", "deployments") == "whole"
    assert selects(apps, "extensions", "deployments", "scale") == "whole"
    networking = matching("{resources: [{apiGroups: [networking.k8s.io], resources: [ingresses, networkpolicies]}]}")
    assert selects(networking, "extensions", "ingresses") == "whole"
    assert selects(networking, "extensions", "networkpolicies") == "whole"
    assert selects(networking, "extensions", "deployments") is None


def test_one_rule_that_selects_is_enough() -> None:
    rules = "[{apiGroups: [''], resources: [pods]}, {apiGroups: [apps], resources: ['*/*']}]"
    snapshot = matching(f"{{resources: {rules}}}")
    assert selects(snapshot, "", "pods") == "whole"
    assert selects(snapshot, "apps", "deployments", "scale") == "whole"
    assert selects(snapshot, "", "services") is None


# ── match, the rest ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_operations_are_create_update_and_delete_unless_the_policy_names_some() -> None:
    by_default, updates = matching("{}"), matching("{operations: [UPDATE]}")
    operations = ("CREATE", "UPDATE", "DELETE", "CONNECT")
    assert [selects(by_default, "", "pods", "", o) for o in operations] == ["whole", "whole", "whole", None]
    assert [selects(updates, "", "pods", "", o) for o in operations] == [None, "whole", None, None]


@pytest.mark.parametrize(
    ("match", "inside", "outside"),
    [
        ("{}", ["shop", "kube-system", ""], []),
        ("{namespaces: [shop]}", ["shop"], ["shop2", "SHOP", ""]),
        ("{namespaces: ['team-*']}", ["team-", "team-a"], ["team", "a-team-b", ""]),
        ("{namespaces: ['*']}", ["shop"], [""]),
        ("{namespaces: ['team-?']}", ["team-a"], ["team-ab", "team-", ""]),
        ("{namespaces: ['team-*'], excludeNamespaces: [team-sandbox]}", ["team-a"], ["team-sandbox", ""]),
        ("{excludeNamespaces: ['*']}", [""], ["shop"]),
        ("{excludeNamespaces: [shop]}", ["shop2", ""], ["shop"]),
    ],
)
def test_namespaces_are_globs_and_a_cluster_scoped_object_has_none(
    match: str, inside: list[str], outside: list[str]
) -> None:
    compiled = matching(match).policies[0].match
    assert [namespace for namespace in inside + outside if compiled.in_namespace(namespace)] == inside


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("{}", {}, True),
        ("{matchLabels: {a: x}}", {"a": "x", "b": "y"}, True),
        ("{matchLabels: {a: x}}", {"a": "y"}, False),
        ("{matchLabels: {a: x, b: y}}", {"a": "x"}, False),
        ("{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", {"a": "y"}, True),
        ("{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", {"a": "z"}, False),
        ("{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", {}, False),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", {"a": "y"}, True),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", {}, True),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", {"a": "x"}, False),
        ("{matchExpressions: [{key: a, operator: Exists}]}", {"a": ""}, True),
        ("{matchExpressions: [{key: a, operator: Exists}]}", {}, False),
        ("{matchExpressions: [{key: a, operator: DoesNotExist}]}", {}, True),
        ("{matchExpressions: [{key: a, operator: DoesNotExist}]}", {"a": ""}, False),
        ("{matchLabels: {a: x}, matchExpressions: [{key: b, operator: Exists}]}", {"a": "x"}, False),
    ],
)
def test_a_label_selector_means_what_it_means_in_kubernetes(
    selector: str, labels: dict[str, str], *, expected: bool
) -> None:
    compiled = matching(f"{{objectSelector: {selector}}}").policies[0].match.object_selector
    assert compiled is not None
    assert compiled.matches(labels) is expected


def test_names_that_no_api_server_sends_take_no_memory_for_good() -> None:
    snapshot = matching("{namespaces: ['team-*']}")
    tracemalloc.start()
    try:
        for number in range(20):
            long = f"{number}" + "n" * 2**20
            assert snapshot.candidates("", "services", "", "UPDATE", f"team-{long}")
            assert snapshot.candidates("", long, "", "UPDATE", "team-a")
        assert tracemalloc.get_traced_memory()[0] < 10 * 2**20
    finally:
        tracemalloc.stop()


# ── defaults ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_smallest_policy_is_a_dry_run_of_everything() -> None:
    (smallest,) = snapshot_of(policy("  protect: {declared: true}\n")).policies
    assert (smallest.mode, smallest.severity, smallest.description, smallest.message) == ("dryRun", "medium", "", "")
    assert (smallest.declared, smallest.deletion, smallest.children) == (True, True, False)
    assert (smallest.match.scope_all, smallest.match.tools, smallest.match.resources) == (False, None, None)
    assert smallest.ignore is None
    assert smallest.break_glass is None


def test_deletion_is_protected_with_what_is_declared_unless_the_policy_says_otherwise() -> None:
    def deletion(protect: str) -> bool:
        return snapshot_of(policy(f"  protect: {protect}\n")).policies[0].deletion

    assert deletion("{declared: true}")
    assert not deletion("{declared: true, deletion: false}")
    assert not deletion("{fields: [a]}")
    assert deletion("{fields: [a], deletion: true}")


def test_without_a_configuration_the_tools_own_service_accounts_are_trusted_and_kube_system_is_exempt() -> None:
    found = default_config()
    named = {account for writer in found.trusted.writers for account in writer.service_accounts}
    assert named == {account for marker in MARKERS for account in marker.service_accounts}
    assert found.trusted.names_account("flux-system", "kustomize-controller")
    assert found.trusted.names_account("argocd", "argocd-application-controller")
    assert found.trusted.names_account("config-management-system", "root-reconciler-shop")
    assert not found.trusted.names_account("argocd", "argocd-server")
    assert {writer.verify for writer in found.trusted.writers} == {"uid"}
    assert found.exempt_namespaces.patterns == ("kube-system",)
    assert found.guard_identities
    assert found.break_glass is None
    assert found.cluster_id == ""
    assert snapshot_of(policy("  protect: {declared: true}\n")).config.trusted.writers == found.trusted.writers


def test_a_configuration_without_trusted_writers_keeps_the_default_and_an_empty_list_trusts_nobody() -> None:
    assert snapshot_of(config("  clusterId: x\n")).config.trusted.names_account("flux-system", "kustomize-controller")
    assert snapshot_of(config("  trustedWriters: []\n")).config.trusted.writers == ()


def test_an_empty_list_of_exempt_namespaces_exempts_none() -> None:
    assert not snapshot_of(config("  exemptNamespaces: []\n")).config.exempt_namespaces.matches("kube-system")


def test_the_configuration_adds_system_writers_to_the_built_in_ones() -> None:
    system = snapshot_of(
        config("  systemWriters: {users: ['eks:node-manager'], serviceAccounts: [ops/janitor]}\n")
    ).config.system
    for username, uid in (
        ("eks:node-manager", ""),
        ("system:kube-scheduler", ""),
        ("system:serviceaccount:ops:janitor", "u"),
        ("system:serviceaccount:kube-system:job-controller", "u"),
    ):
        assert system.find(UserInfo(username=username, uid=uid)) is not None
    assert system.find(UserInfo(username="system:serviceaccount:ops:janitor")) is None


def test_the_autoscaler_is_automation_for_replicas_unless_the_configuration_gives_it_more() -> None:
    hpa = UserInfo(username="system:serviceaccount:kube-system:horizontal-pod-autoscaler", uid="u")
    by_default = default_config().automation.find(hpa)
    assert by_default is not None
    assert by_default.name == "hpa"
    more = "{name: mine, serviceAccounts: [kube-system/horizontal-pod-autoscaler], fields: [spec]}"
    given = snapshot_of(config(f"  automation: [{more}]\n")).config.automation.find(hpa)
    assert given is not None
    assert given.name == "mine"


def test_a_policy_s_writers_come_beside_the_configuration_s() -> None:
    (one,) = snapshot_of(
        policy("  protect: {declared: true}\n  trusted: [{name: ci, users: [ci], fieldManagers: [ci-tool]}]\n")
    ).policies
    assert one.trusted.find(UserInfo(username="ci")) is not None
    assert one.trusted.names_account("flux-system", "kustomize-controller")
    assert one.field_managers.matches("ci-tool")
    assert one.field_managers.matches("kustomize-controller")


def test_a_policy_s_break_glass_overrides_the_configuration_s() -> None:
    text = (
        config("  breakGlass: {groups: [sre], reasonPattern: '^INC-', maxDuration: 1h30m}\n")
        + "---\n"
        + policy("  protect: {declared: true}\n", "a")
        + "---\n"
        + policy("  protect: {declared: true}\n  breakGlass: {users: [root]}\n", "b")
    )
    a, b = snapshot_of(text).policies
    assert a.break_glass is not None
    assert b.break_glass is not None
    assert (a.break_glass.groups, a.break_glass.users) == (frozenset({"sre"}), frozenset())
    assert a.break_glass.max_duration == timedelta(hours=1, minutes=30)
    assert (b.break_glass.groups, b.break_glass.users) == (frozenset(), frozenset({"root"}))
    assert b.break_glass.reason is None
    assert b.break_glass.max_duration == timedelta(hours=4)


def test_field_sets_and_fields_are_protected_together_in_the_kinds_that_have_them() -> None:
    (one,) = snapshot_of(policy("  protect: {fieldSets: [replicas], fields: [spec.x]}\n")).policies
    deployment, widget = one.protected("apps", "Deployment"), one.protected("example.com", "Widget")
    assert deployment is not None
    assert widget is not None
    spec = deployment.step("spec")
    assert spec is not None
    assert [name for name in ("replicas", "x", "y") if (at := spec.step(name)) is not None and at.covers] == [
        "replicas",
        "x",
    ]
    spec = widget.step("spec")
    assert spec is not None
    assert spec.step("replicas") is None


def test_policies_are_in_the_order_of_their_names() -> None:
    text = "---\n".join(policy("  protect: {declared: true}\n", name) for name in "cab")
    assert [each.name for each in snapshot_of(text).policies] == ["a", "b", "c"]


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            "  protect:\n    fields:\n      - spec.a\n      - spec..b\n",
            "policy.yaml:8: spec.protect.fields[1]: a field name is missing at character 6 of 'spec..b'",
        ),
        (
            "  protect:\n    declared: true\n    ignore: ['a[0]']\n",
            (
                "policy.yaml:7: spec.protect.ignore[0]: an index such as [0] is no stable place in a list; "
                "use [*] or [name=…] in 'a[0]'"
            ),
        ),
        (
            "  protect: {declared: true}\n  automation:\n    - name: x\n      users: [x]\n      fields: ['a[']\n",
            "policy.yaml:9: spec.automation[0].fields[0]: expected [*], [key=value] or ['name'] at character 2 of 'a['",
        ),
        (
            "  protect: {declared: true}\n  breakGlass:\n    maxDuration: 0s\n",
            "policy.yaml:7: spec.breakGlass.maxDuration: must be longer than nothing",
        ),
        (
            "  protect: {declared: true}\n  trusted:\n    - {name: a, users: [x]}\n    - {name: a, users: [y]}\n",
            "policy.yaml:8: spec.trusted[1].name: a second writer named 'a'; the log could not tell them apart",
        ),
        (
            "  protect: {declared: true}\n  match:\n    objectSelector: {matchExpressions: [{key: a, operator: In}]}\n",
            "policy.yaml:7: spec.match.objectSelector.matchExpressions[0].values: required key is missing",
        ),
    ],
)
def test_what_a_schema_cannot_say_is_a_problem_with_line_and_path(spec: str, problem: str) -> None:
    assert problems(policy(spec)) == [problem]


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("  protect: {fieldSets: [ports]}\n", "policy.yaml:5: spec.protect.fieldSets[0]: "),
        ("  protect: {declared: true}\n  match: {tools: [chef]}\n", "policy.yaml:6: spec.match.tools[0]: "),
        (
            "  protect: {declared: true}\n  breakGlass: {maxDuration: 1d}\n",
            "policy.yaml:6: spec.breakGlass.maxDuration: ",
        ),
        (
            "  protect: {declared: true}\n  breakGlass: {reasonPattern: '('}\n",
            "policy.yaml:6: spec.breakGlass.reasonPattern: ",
        ),
        (
            f"  protect: {{declared: true}}\n  match: {{namespaces: ['{'a' * 1001}']}}\n",
            "policy.yaml:6: spec.match.namespaces[0]",
        ),
        ("  protect: {declared: true}\n  trusted: [{name: a}]\n", "policy.yaml:6: spec.trusted[0]"),
        (
            "  protect: {declared: true}\n  trusted: [{name: a, serviceAccounts: [b]}]\n",
            "policy.yaml:6: spec.trusted[0]",
        ),
    ],
)
def test_what_is_wrong_is_one_problem_where_it_is(spec: str, place: str) -> None:
    found = problems(policy(spec))
    assert len(found) == 1
    assert found[0].startswith(place)


def test_a_second_configuration_and_a_second_policy_of_a_name_are_problems() -> None:
    text = "---\n".join([config("  clusterId: a\n"), config("  clusterId: b\n")])
    assert problems(text) == [
        "policy.yaml:8: kind: a second DriftwallConfig; the first is at policy.yaml:1, and there can be one"
    ]
    text = "---\n".join([policy("  protect: {declared: true}\n")] * 2)
    assert problems(text) == [
        "policy.yaml:9: metadata.name: a second DriftPolicy named 'p'; the first is at policy.yaml:1"
    ]


def test_loading_tells_every_problem_of_every_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(policy("  protect: {fields: ['a[']}\n", "a"))
    (tmp_path / "b.yaml").write_text(policy("  protect: {fields: ['b[']}\n", "b"))
    with pytest.raises(PolicyError) as raised:
        load(tmp_path)
    assert raised.value.problems == [
        f"{tmp_path}/{name}.yaml:5: spec.protect.fields[0]: "
        f"expected [*], [key=value] or ['name'] at character 2 of '{name}['"
        for name in "ab"
    ]
    count, found = check_documents([tmp_path])
    assert (count, [str(problem) for problem in found]) == (2, raised.value.problems)


def test_a_folder_without_a_policy_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path)
    assert raised.value.problems == [f"{tmp_path}:1: no policy is here; driftwall would guard nothing"]


def test_a_path_that_is_not_there_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as raised:
        load(tmp_path / "none")
    assert raised.value.problems == [f"{tmp_path}/none:1: cannot be read: {tmp_path}/none: no such file or folder"]


def test_a_pattern_that_is_right_is_compiled_as_it_is_written() -> None:
    (one,) = snapshot_of(policy("  protect: {fields: ['spec.containers[name=web].image']}\n")).policies
    assert one.fields == (parse_pattern("spec.containers[name=web].image"),)


def test_a_policy_that_is_made_of_another_does_not_share_what_that_one_remembers() -> None:
    assert [each.name for each in dataclasses.fields(Policy) if each.name.startswith("_") and each.init] == []
