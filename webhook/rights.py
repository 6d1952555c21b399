"""What driftwall's own service account may do as it is shipped: the roles in deploy/, as tests hold them to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from webhook.own_objects import KINDS
from webhook.policy import OWN_GROUP
from webhook.rbac import Access, Rbac, Rule, Subject
from webhook.ways import Stakes

#: Needed always, for a certificate of driftwall's own, for policies as custom resources, or for either.
ALWAYS, CERTIFICATE, POLICIES, LEASE = "always", "certificate", "policies", "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A rule of a role that is shipped; ``namespaced`` where it counts in driftwall's own namespace alone."""

    when: str
    rule: Rule
    namespaced: bool = False


def _right(when: str, group: str, resources: Iterable[str], verbs: Iterable[str], *names: str) -> Right:
    rule = Rule(
        verbs=frozenset(verbs), groups=frozenset({group}), resources=frozenset(resources), names=frozenset(names)
    )
    return Right(when=when, rule=rule, namespaced=group in ("", "coordination.k8s.io") and bool(names))


SHIPPED: Final = (
    _right(ALWAYS, "", ("namespaces", "pods", "replicationcontrollers"), ("get",)),
    _right(ALWAYS, "apps", ("deployments", "statefulsets", "replicasets", "daemonsets"), ("get",)),
    _right(ALWAYS, "batch", ("jobs", "cronjobs"), ("get",)),
    _right(ALWAYS, "apiextensions.k8s.io", ("customresourcedefinitions",), ("get",)),
    _right(ALWAYS, "", ("events",), ("create", "patch")),
    _right(ALWAYS, "", ("replicationcontrollers",), ("patch",)),
    _right(ALWAYS, "apps", ("deployments", "statefulsets", "replicasets"), ("patch",)),
    _right(
        CERTIFICATE,
        "admissionregistration.k8s.io",
        ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"),
        ("get", "patch"),
        "driftwall",
    ),
    _right(CERTIFICATE, "", ("secrets",), ("get", "create", "patch"), "driftwall-tls"),
    _right(LEASE, "coordination.k8s.io", ("leases",), ("get", "create", "patch"), "driftwall"),
    _right(POLICIES, OWN_GROUP, tuple(KINDS), ("list", "watch")),
    _right(POLICIES, OWN_GROUP, tuple(f"{resource}/status" for resource in KINDS), ("patch",)),
)


#: Before v1.23 the API server leaves the managedFields of old objects out, so driftwall reads whatever is managed.
READS_ALL: Final = Rule(verbs=frozenset({"get"}), groups=frozenset({"*"}), resources=frozenset({"*"}))


def needed(*, certificate: bool, policies: bool) -> list[Right]:
    """What it needs where it makes its ``certificate`` itself, and where ``policies`` are custom resources."""
    wanted = {ALWAYS: True, CERTIFICATE: certificate, POLICIES: policies, LEASE: certificate or policies}
    return [right for right in SHIPPED if wanted[right.when]]


def missing(rbac: Rbac, rights: Iterable[Right], stakes: Stakes) -> list[Access]:
    """What of ``rights`` no binding gives to driftwall's service account."""
    groups = {"system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{stakes.namespace}"}
    me = {
        Subject(kind="ServiceAccount", name=stakes.account, namespace=stakes.namespace),
        Subject(kind="User", name=f"system:serviceaccount:{stakes.namespace}:{stakes.account}"),
        *(Subject(kind="Group", name=group) for group in groups),
    }
    mine = [grant for grant in rbac.grants if not me.isdisjoint(grant.subjects)]
    return [access for access in _accesses(rights, stakes.namespace) if not any(grant.allows(access) for grant in mine)]


def _accesses(rights: Iterable[Right], namespace: str) -> Iterator[Access]:
    for right in rights:
        rule = right.rule
        for group, resource, verb in product(sorted(rule.groups), sorted(rule.resources), sorted(rule.verbs)):
            yield Access(
                verb=verb,
                group=group,
                resource=resource,
                namespace=namespace if right.namespaced else "",
                names=rule.names or None,
            )
