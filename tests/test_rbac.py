"""RBAC as the API server goes by it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.rbac import Access, Grant, Relevant, Rule, Subject, read

Json = dict[str, Any]


def rule(verbs: str, groups: str, resources: str, *names: str) -> Rule:
    """Commas between; an empty group is the core one."""
    verbs_, groups_, resources_ = (frozenset(text.split(",")) for text in (verbs, groups, resources))
    return Rule(verbs=verbs_, groups=groups_, resources=resources_, names=frozenset(names))


def access(verb: str, group: str, resource: str, *names: str, namespace: str = "") -> Access:
    wanted = frozenset(names) if names else None
    return Access(verb=verb, group=group, resource=resource, namespace=namespace, names=wanted)


@pytest.mark.parametrize(
    ("one", "wanted", "allowed"),
    [
        (rule("get", "", "pods"), access("get", "", "pods"), True),
        (rule("get", "", "pods"), access("list", "", "pods"), False),
        (rule("get", "apps", "pods"), access("get", "", "pods"), False),
        (rule("*", "*", "*"), access("escalate", "rbac.authorization.k8s.io", "clusterroles"), True),
        # In RBAC * takes subresources in, and a resource without one does not.
        (rule("create", "", "*"), access("create", "", "pods/exec"), True),
        (rule("create", "", "pods"), access("create", "", "pods/exec"), False),
        (rule("create", "", "*/exec"), access("create", "", "pods/exec"), True),
        (rule("create", "", "*/exec"), access("create", "", "pods"), False),
        (rule("create", "", "pods/*"), access("create", "", "pods/exec"), False),
        # Names.
        (rule("get", "", "secrets", "a"), access("get", "", "secrets", "a", "b"), True),
        (rule("get", "", "secrets", "c"), access("get", "", "secrets", "a", "b"), False),
        (rule("get", "", "secrets", "c"), access("get", "", "secrets"), True),
        # A create has no name, unless the path has: that of a subresource, or of a server-side apply.
        (rule("create", "", "secrets", "a"), access("create", "", "secrets"), False),
        (rule("create,patch", "", "secrets", "a"), access("create", "", "secrets"), True),
        (rule("create", "", "serviceaccounts/token", "a"), access("create", "", "serviceaccounts/token", "a"), True),
        (rule("deletecollection", "", "pods", "a"), access("deletecollection", "", "pods"), False),
        (rule("impersonate", "", "users", "a"), access("impersonate", "", "users", "a"), True),
    ],
)
def test_a_rule_allows_what_the_api_server_lets_pass(one: Rule, wanted: Access, *, allowed: bool) -> None:
    assert one.allows(wanted) is allowed


VERBS, GROUPS = st.sampled_from(["get", "create", "patch", "*"]), st.sampled_from(["", "apps", "*"])
RESOURCES = st.sampled_from(["pods", "pods/exec", "secrets", "*", "*/exec", "pods/*"])
NAMES = st.sampled_from(["a", "b"])
RULES = st.builds(
    Rule,
    verbs=st.frozensets(VERBS, min_size=1, max_size=2),
    groups=st.frozensets(GROUPS, min_size=1, max_size=2),
    resources=st.frozensets(RESOURCES, min_size=1, max_size=2),
    names=st.frozensets(NAMES, max_size=1),
)
ACCESSES = st.builds(
    Access,
    verb=st.sampled_from(["get", "create", "patch"]),
    group=st.sampled_from(["", "apps"]),
    resource=st.sampled_from(["pods", "pods/exec", "secrets"]),
    namespace=st.sampled_from(["", "shop"]),
    names=st.none() | st.frozensets(NAMES, min_size=1, max_size=2),
)


@given(st.lists(RULES, max_size=4), st.lists(ACCESSES, max_size=4))
def test_no_rule_that_allows_something_is_ever_left_out_as_irrelevant(
    rules: list[Rule], accesses: list[Access]
) -> None:
    kept = Relevant(accesses).of(rules)
    for each in rules:
        if any(each.allows(wanted) for wanted in accesses):
            assert each in kept


@given(RULES, ACCESSES)
def test_more_in_a_rule_never_allows_less(one: Rule, wanted: Access) -> None:
    if one.allows(wanted):
        wider = Rule(
            verbs=one.verbs | {"*"}, groups=one.groups | {"*"}, resources=one.resources | {"*"}, names=frozenset()
        )
        assert wider.allows(wanted)


@given(RULES, ACCESSES, st.sampled_from(["", "shop", "other"]))
def test_a_binding_in_a_namespace_counts_there_and_nowhere_else(one: Rule, wanted: Access, place: str) -> None:
    grant = Grant(binding="b", role="r", namespace=place, subjects=(), rules=(one,))
    counts = place in ("", wanted.namespace) if wanted.namespace else not place
    assert grant.allows(wanted) is (counts and one.allows(wanted))


def role(name: str, *rules: Json, kind: str = "ClusterRole", namespace: str = "", **more: Any) -> Json:
    metadata: Json = {"name": name, **({"namespace": namespace} if namespace else {}), **more.pop("metadata", {})}
    return {"kind": kind, "metadata": metadata, "rules": list(rules), **more}


def binding(name: str, ref: str, *subjects: Json, kind: str = "ClusterRoleBinding", namespace: str = "") -> Json:
    role_kind, role_name = ref.split(" ")
    return {
        "kind": kind,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"kind": role_kind, "name": role_name},
        "subjects": list(subjects),
    }


PODS: Json = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
EXEC: Json = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
ALICE: Json = {"kind": "User", "name": "alice"}


def test_bindings_give_the_rules_of_their_role_to_their_subjects() -> None:
    accounts = {"kind": "ServiceAccount", "name": "runner"}
    found = read(
        [
            role("reader", PODS),
            role("reader", EXEC, kind="Role", namespace="shop"),
            binding("everywhere", "ClusterRole reader", ALICE),
            binding("here", "ClusterRole reader", accounts, kind="RoleBinding", namespace="shop"),
            binding("own", "Role reader", ALICE, ALICE, kind="RoleBinding", namespace="shop"),
        ]
    )
    by_name = {grant.binding: grant for grant in found.grants}
    assert sorted(by_name) == ["ClusterRoleBinding everywhere", "RoleBinding shop/here", "RoleBinding shop/own"]
    assert by_name["ClusterRoleBinding everywhere"].allows(access("get", "", "pods", namespace="any"))
    here = by_name["RoleBinding shop/here"]
    assert here.subjects == (Subject(kind="ServiceAccount", name="runner", namespace="shop"),)
    assert here.allows(access("get", "", "pods", namespace="shop"))
    assert not here.allows(access("get", "", "pods", namespace="other"))
    own = by_name["RoleBinding shop/own"]
    assert own.allows(access("create", "", "pods/exec", namespace="shop"))
    assert [str(subject) for subject in own.subjects] == ["User alice"]


def test_an_aggregated_role_has_the_rules_of_all_that_it_selects() -> None:
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"to": "team"}}, {"matchLabels": {"to": "all"}}]}
    found = read(
        [
            role("team", aggregationRule=selectors, metadata={"labels": {"to": "all"}}),  # which selects itself, too
            role("a", PODS, metadata={"labels": {"to": "team"}}),
            role("b", EXEC, metadata={"labels": {"to": "all"}}),
            role("c", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
            binding("team", "ClusterRole team", ALICE),
        ]
    )
    (grant,) = found.grants
    assert grant.allows(access("get", "", "pods"))
    assert grant.allows(access("create", "", "pods/exec"))
    assert not grant.everything


def test_what_is_missing_or_about_no_resources_gives_nothing() -> None:
    found = read(
        [
            role("paths", {"nonResourceURLs": ["*"], "verbs": ["*"]}),
            binding("paths", "ClusterRole paths", ALICE),
            binding("gone", "ClusterRole gone", ALICE),
            {"kind": "ClusterRoleBinding", "metadata": {"name": "nobody"}, "roleRef": {}, "subjects": None},
        ]
    )
    assert [grant.rules for grant in found.grants] == [(), (), ()]


@pytest.mark.parametrize(
    ("each", "everything"),
    [
        ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, True),
        ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}, False),
        ({"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}, False),
        ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "resourceNames": ["a"]}, False),
    ],
)
def test_everything_is_every_verb_on_every_resource_everywhere(each: Json, *, everything: bool) -> None:
    found = read(
        [
            role("r", each),
            binding("wide", "ClusterRole r", ALICE),
            binding("narrow", "ClusterRole r", ALICE, kind="RoleBinding", namespace="shop"),
        ]
    )
    assert [grant.everything for grant in found.grants] == [everything, False]
