"""RBAC as the API server goes by it: which binding lets whom do what.

The matching is that of k8s.io/kubernetes, pkg/apis/rbac/v1/evaluation_helpers.go; of names, that of the request's
attributes: a create has none, since what it makes is named in its body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from webhook import meta
from webhook.labels import LabelSelector
from webhook.meta import Object

API_GROUP: Final = "rbac.authorization.k8s.io"
_CLUSTER_ROLE, _ROLE = "ClusterRole", "Role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Something that somebody may do: ``verb`` on ``resource`` (``pods``, ``pods/exec``) of ``group``.

    ``namespace`` is empty for a cluster-scoped resource. ``names`` are the objects of which any one will do; None where
    every one does.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""
    names: frozenset[str] | None = None

    def __str__(self) -> str:
        resource, slash, subresource = self.resource.partition("/")
        qualified = f"{resource}.{self.group}" if self.group else resource
        names = f" {', '.join(sorted(self.names))}" if self.names else ""
        return f"{self.verb} {qualified}{slash}{subresource}{names}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a role about resources; ``names`` is empty where it is about all of them."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        """Whether it allows every verb on every resource."""
        return "*" in self.verbs and "*" in self.groups and "*" in self.resources and not self.names

    def allows(self, access: Access) -> bool:
        """Whether it lets one have ``access``, wherever it counts."""
        if not (_has(self.verbs, access.verb) and _has(self.groups, access.group)):
            return False
        _, slash, subresource = access.resource.partition("/")
        # Unlike in a webhook configuration, * takes subresources in.
        if self.resources.isdisjoint({"*", access.resource, *([f"*/{subresource}"] if slash else ())}):
            return False
        if not self.names:
            return True
        if access.names is not None and access.names.isdisjoint(self.names):
            return False
        if slash or access.verb not in ("create", "deletecollection"):
            return True
        # A server-side apply creates what it names; no other create has a name to be allowed by.
        return access.verb == "create" and _has(self.verbs, "patch")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Subject:
    """Somebody whom a binding names: a User, a Group or a ServiceAccount."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A binding: ``rules`` of ``role`` for ``subjects``, in ``namespace``, or everywhere for the empty one."""

    binding: str
    role: str
    namespace: str
    subjects: tuple[Subject, ...]
    rules: tuple[Rule, ...]

    @property
    def everything(self) -> bool:
        """Whether it allows everything everywhere, as cluster-admin does."""
        return not self.namespace and any(rule.everything for rule in self.rules)

    def allows(self, access: Access) -> bool:
        """Whether it lets its subjects have ``access``."""
        if self.namespace and self.namespace != access.namespace:
            return False
        return any(rule.allows(access) for rule in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rbac:
    """What there is: the bindings, sorted by name, and the rules of all roles by kind, namespace and name."""

    grants: tuple[Grant, ...]
    roles: Mapping[tuple[str, str, str], tuple[Rule, ...]]


def read(objects: Iterable[Object]) -> Rbac:
    """The roles and the bindings among ``objects``.

    A binding whose role is missing gives nothing. An aggregated ClusterRole has its own rules and those of all that its
    selectors take in, whether the controller has written them together yet or not.
    """
    roles: dict[tuple[str, str, str], Object] = {}
    bindings: list[Object] = []
    for each in objects:
        metadata = meta.metadata_of(each)
        if each.get("kind") in (_CLUSTER_ROLE, _ROLE):
            roles[str(each["kind"]), str(metadata.get("namespace") or ""), str(metadata.get("name", ""))] = each
        elif each.get("kind") in ("ClusterRoleBinding", "RoleBinding"):
            bindings.append(each)
    known = _Roles(roles)
    return Rbac(
        grants=tuple(sorted((_grant(binding, known) for binding in bindings), key=lambda grant: grant.binding)),
        roles={key: known.rules(*key) for key in roles},
    )


class _Roles:
    """Roles by kind, namespace and name, and their rules."""

    def __init__(self, roles: Mapping[tuple[str, str, str], Object]) -> None:
        self._roles = roles
        self._rules: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def rules(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...]:
        key = (kind, namespace, name)
        if key not in self._rules:
            self._rules[key] = tuple(dict.fromkeys(self._all(key, set())))
        return self._rules[key]

    def _all(self, key: tuple[str, str, str], seen: set[tuple[str, str, str]]) -> Iterator[Rule]:
        role = self._roles.get(key)
        if role is None or key in seen:
            return
        seen.add(key)
        yield from _rules(role)
        if key[0] != _CLUSTER_ROLE:
            return
        for selector in _maps(meta.mapping(role.get("aggregationRule")).get("clusterRoleSelectors")):
            selects = LabelSelector(selector).matches
            for other, each in self._roles.items():
                if other[0] == _CLUSTER_ROLE and selects(meta.labels_of(each)):
                    yield from self._all(other, seen)


class Relevant:
    """Whether a rule can have anything to do with some accesses: most rules of a large cluster have not."""

    def __init__(self, accesses: Iterable[Access]) -> None:
        self._exact = {(access.resource, access.group, access.verb) for access in accesses}

    def of(self, rules: Iterable[Rule]) -> tuple[Rule, ...]:
        """Those of ``rules`` that may allow one of the accesses."""
        return tuple(rule for rule in rules if self._may(rule))

    def _may(self, rule: Rule) -> bool:
        # A resource with a * may be one of a subresource: */scale.
        if "*" in rule.verbs or "*" in rule.groups or any("*" in resource for resource in rule.resources):
            return True
        return not self._exact.isdisjoint(product(rule.resources, rule.groups, rule.verbs))


def _grant(binding: Object, roles: _Roles) -> Grant:
    metadata, ref = meta.metadata_of(binding), meta.mapping(binding.get("roleRef"))
    namespace = str(metadata.get("namespace") or "") if binding["kind"] == "RoleBinding" else ""
    kind, name = str(ref.get("kind", "")), str(ref.get("name", ""))
    place = f"{namespace}/" if namespace else ""
    return Grant(
        binding=f"{binding['kind']} {place}{metadata.get('name', '')}",
        role=f"{kind} {name}",
        namespace=namespace,
        subjects=tuple(dict.fromkeys(_subjects(binding, namespace))),
        rules=roles.rules(kind, namespace if kind == _ROLE else "", name),
    )


def _subjects(binding: Object, namespace: str) -> Iterator[Subject]:
    for each in _maps(binding.get("subjects")):
        kind, name = str(each.get("kind", "")), str(each.get("name", ""))
        if kind != "ServiceAccount":
            yield Subject(kind=kind, name=name)
        elif own := str(each.get("namespace") or namespace):
            yield Subject(kind=kind, name=name, namespace=own)


def _rules(role: Object) -> Iterator[Rule]:
    for each in _maps(role.get("rules")):
        resources = _texts(each.get("resources"))
        if resources:  # else it is about paths that are no resources
            yield Rule(
                verbs=_texts(each.get("verbs")),
                groups=_texts(each.get("apiGroups")),
                resources=resources,
                names=_texts(each.get("resourceNames")),
            )


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> frozenset[str]:
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()


def _has(allowed: frozenset[str], wanted: str) -> bool:
    return "*" in allowed or wanted in allowed
