"""Who can get past driftwall by RBAC alone: become an identity that it trusts, or change what it goes by.

RBAC grants add up, and each binding is looked at by itself. Chains are followed: whoever can become somebody who is
listed is listed, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from webhook.admission import UserInfo
from webhook.identity import is_node, service_account
from webhook.policy import Snapshot
from webhook.rbac import API_GROUP, Access, Grant, Rbac, Relevant, Rule, Subject
from webhook.ways import SYSTEM_GROUPS, SYSTEM_NAMESPACE, Stakes, Way, ways, ways_into

_ACCOUNT: Final = "ServiceAccount"
#: Of the control plane, and no system writers: what they may do the bootstrap roles of Kubernetes say.
_SYSTEM_ACCOUNTS: Final = frozenset({"horizontal-pod-autoscaler", "cloud-provider", "resource-claim-controller"})
#: The tools' other accounts, by namespace, as the tools install them: they count as the tool's own where it is trusted.
_TOOL_ACCOUNTS: Final[Mapping[str, frozenset[str]]] = {
    "flux-system": frozenset(
        {
            "source-controller",
            "kustomize-controller",
            "helm-controller",
            "notification-controller",
            "image-reflector-controller",
            "image-automation-controller",
            "source-watcher",
        }
    ),
    "argocd": frozenset(
        {
            "argocd-application-controller",
            "argocd-applicationset-controller",
            "argocd-commit-server",
            "argocd-dex-server",
            "argocd-notifications-controller",
            "argocd-redis",
            "argocd-repo-server",
            "argocd-server",
        }
    ),
    "config-management-system": frozenset({"reconciler-manager", "config-management-operator", "importer"}),
    "cattle-fleet-system": frozenset({"fleet-agent", "fleet-controller", "gitjob"}),
    "projectsveltos": frozenset({"addon-controller", "sc-manager", "classifier-manager", "hc-manager"}),
    "crossplane-system": frozenset({"crossplane", "rbac-manager"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A binding that lets ``subjects`` do what ``does`` says, by ``accesses``; ``remedy`` is what to do about it.

    ``through`` are those whom it lets them become, where that is all it does: they are listed for what they can do.
    """

    subjects: tuple[Subject, ...]
    binding: str
    role: str
    does: tuple[str, ...]
    categories: tuple[str, ...]
    accesses: tuple[Access, ...]
    remedy: str
    through: tuple[Subject, ...] = ()


EVERYTHING: Final = "everything"
#: Links of a chain that are followed. A longer one shows once the first link of it is put right.
MAX_LINKS: Final = 3
_REMEDIES: Final[Mapping[str, str]] = {
    EVERYTHING: "Give a narrower role. Whoever has this gets around any webhook.",
    "impersonate": "Take the verb impersonate away, or name harmless identities under resourceNames.",
    "token": "Take create on serviceaccounts/token away: nobody but kubelet needs it there.",
    "exec": "Take pods/exec, pods/attach, pods/ephemeralcontainers and nodes/proxy away.",
    "pods": "Take the right to write pods and workloads there away: Git writes them.",
    "secrets": "Keep the Secrets there to their owners: take these verbs away.",
    "rbac": "Take the verbs escalate and bind away, or name harmless roles under resourceNames.",
    "webhooks": "Take writes of webhook configurations away: no webhook is asked about them.",
    "policies": "Take writes of driftwall.io away. driftwall refuses them, but only while it runs.",
    "own": "Keep driftwall's namespace to whoever installs it.",
    "certificates": "Take approve and sign on these signers away.",
    "namespaces": "Take writes of Namespaces away: their labels say what the webhooks leave out.",
}


def exposures(rbac: Rbac, snapshot: Snapshot, stakes: Stakes) -> list[Exposure]:
    """The bindings that open a way to somebody who has no business there, the widest first, each once."""
    open_ways = [*ways(stakes), _roles(rbac, stakes)]
    relevant = Relevant(access for way in open_ways for access in way.accesses)
    found = []
    for each in rbac.grants:
        grant = replace(each, rules=relevant.of(each.rules))
        if not grant.rules:
            continue
        subjects = tuple(sorted(who for who in grant.subjects if not is_meant(who, snapshot, stakes)))
        if subjects and (exposure := _exposure(grant, subjects, open_ways)) is not None:
            found.append(exposure)
    return sorted(found, key=lambda each: (EVERYTHING not in each.categories, -len(each.categories), each.binding))


def chains(rbac: Rbac, snapshot: Snapshot, stakes: Stakes, found: Iterable[Exposure]) -> list[Exposure]:
    """The bindings that let somebody become one of those whom ``found`` lists, and one of these, and so on."""
    links: list[Exposure] = []
    last = list(found)
    bindings = {each.binding for each in last}
    exposed: set[Subject] = set()
    for _ in range(MAX_LINKS):
        reached = {normal(subject) for each in last for subject in each.subjects} - exposed
        exposed |= reached
        into = {subject: ways_into(subject) for subject in sorted(reached)}
        last = [
            link
            for grant in rbac.grants
            if grant.binding not in bindings and (link := _link(grant, into, exposed, snapshot, stakes)) is not None
        ]
        bindings |= {each.binding for each in last}
        links += last
    return links


def _link(
    grant: Grant, into: Mapping[Subject, list[Way]], exposed: Collection[Subject], snapshot: Snapshot, stakes: Stakes
) -> Exposure | None:
    """A binding as a link of a chain, if it lets somebody become one of those whom ``into`` has the ways into."""
    subjects = tuple(
        sorted(who for who in grant.subjects if normal(who) not in exposed and not is_meant(who, snapshot, stakes))
    )
    through = {who: ways for who, ways in into.items() if any(grant.allows(a) for way in ways for a in way.accesses)}
    if not subjects or not through:
        return None
    exposure = _exposure(grant, subjects, [way for ways in through.values() for way in ways])
    whom = ", ".join(map(str, through))
    remedy = f"Harmless once this table is without {whom}. Else: {exposure.remedy}" if exposure else ""
    return exposure and replace(exposure, through=tuple(through), remedy=remedy)


def excess(rbac: Rbac, shipped: Collection[Rule], stakes: Stakes) -> list[Exposure]:
    """The bindings that open a way to driftwall's own service account by more than what is ``shipped``."""
    me = Subject(kind=_ACCOUNT, name=stakes.account, namespace=stakes.namespace)
    found = []
    for grant in rbac.grants:
        if me in map(normal, grant.subjects):
            rest = replace(grant, rules=tuple(_beyond(grant.rules, shipped)))
            if (exposure := _exposure(rest, (me,), ways(stakes))) is not None:
                found.append(exposure)
    return found


def is_meant(subject: Subject, snapshot: Snapshot, stakes: Stakes) -> bool:
    """Whether it is one of those who are at stake: the control plane, the trusted writers, the tools, driftwall."""
    config = snapshot.config
    each = normal(subject)
    if each.kind == "Group":
        known = (config.system, *snapshot.guarded)
        named = {group for writers in known for writer in writers.writers for group in writer.groups}
        return each.name in SYSTEM_GROUPS or each.name in named
    if each.kind != _ACCOUNT:
        node, user = UserInfo(username=each.name, groups=("system:nodes",)), UserInfo(username=each.name, uid="uid")
        return is_node(node) or any(writers.find(user) is not None for writers in (config.system, *snapshot.guarded))
    if (each.namespace, each.name) == (stakes.namespace, stakes.account):
        return True
    if config.system.names_account(each.namespace, each.name) or (
        each.namespace == SYSTEM_NAMESPACE and each.name in _SYSTEM_ACCOUNTS
    ):
        return True
    if any(writers.names_account(each.namespace, each.name) for writers in snapshot.guarded):
        return True
    tool_is_there = any(account.namespace == each.namespace for account in stakes.accounts)
    return tool_is_there and each.name in _TOOL_ACCOUNTS.get(each.namespace, ())


def normal(subject: Subject) -> Subject:
    """A service account that is bound by its user name as the service account that it is."""
    account = service_account(subject.name) if subject.kind == "User" else None
    return Subject(kind=_ACCOUNT, name=account[1], namespace=account[0]) if account else subject


def _exposure(grant: Grant, subjects: tuple[Subject, ...], open_ways: Iterable[Way]) -> Exposure | None:
    if grant.everything:
        opened = [Way(category=EVERYTHING, does="everything", to="", accesses=())]
        accesses: tuple[Access, ...] = ()
    else:
        opened = [way for way in open_ways if any(map(grant.allows, way.accesses))]
        accesses = tuple(dict.fromkeys(access for way in opened for access in way.accesses if grant.allows(access)))
    if not opened:
        return None
    categories = tuple(dict.fromkeys(way.category for way in opened))
    remedy = _REMEDIES[categories[0]]
    if len(categories) > 1:
        where = f" in {grant.namespace}" if grant.namespace else ""
        remedy = f"Delete the binding, or bind a role{where} that has less: view, for example."
    return Exposure(
        subjects=subjects,
        binding=grant.binding,
        role=grant.role,
        does=tuple(_told(opened)),
        categories=categories,
        accesses=accesses,
        remedy=remedy,
    )


def _told(opened: Iterable[Way]) -> Iterator[str]:
    """What can be done, each verb once with all that it can be done to."""
    together: dict[str, list[str]] = {}
    for way in opened:
        if way.to not in (objects := together.setdefault(way.does, [])):
            objects.append(way.to)
    return (f"{does} {', '.join(objects)}".rstrip() for does, objects in together.items())


def _roles(rbac: Rbac, stakes: Stakes) -> Way:
    """Escalate on whatever role, and bind on those by which one of the other ways is opened."""
    others = [access for way in ways(stakes) for access in way.accesses]
    places = ["", *sorted({stakes.namespace, SYSTEM_NAMESPACE, *(account.namespace for account in stakes.accounts)})]
    relevant = Relevant(others)
    dangerous = frozenset(
        name
        for (_, _, name), rules in rbac.roles.items()
        if any(rule.allows(each) for rule in relevant.of(rules) for each in others)
    )
    accesses = [
        Access(verb=verb, group=API_GROUP, resource=resource, namespace=place, names=names)
        for place, resource in product(places, ("clusterroles", "roles"))
        for verb, names in (("escalate", None), ("bind", dangerous))
    ]
    return Way(category="rbac", does="give rights that one does not have", to="", accesses=tuple(accesses))


def _beyond(rules: Iterable[Rule], shipped: Collection[Rule]) -> Iterator[Rule]:
    """What ``rules`` allow and ``shipped`` do not, one verb, group and resource at a time."""
    for rule in rules:
        for verb, group, resource in product(sorted(rule.verbs), sorted(rule.groups), sorted(rule.resources)):
            covered = any(
                not each.verbs.isdisjoint({verb, "*"})
                and not each.groups.isdisjoint({group, "*"})
                and not each.resources.isdisjoint({resource, "*"})
                and (not each.names or (rule.names and rule.names <= each.names))
                for each in shipped
            )
            if not covered:
                yield Rule(
                    verbs=frozenset({verb}),
                    groups=frozenset({group}),
                    resources=frozenset({resource}),
                    names=rule.names,
                )
