"""What lets somebody past driftwall by RBAC: becoming an identity that it trusts, or changing what it goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from webhook.identity import SYSTEM_CONTROLLERS, SYSTEM_USERS
from webhook.own_objects import KINDS
from webhook.policy import OWN_GROUP
from webhook.rbac import Access, Subject

SYSTEM_NAMESPACE: Final = "kube-system"
_WRITE: Final = ("create", "update", "patch")
_CHANGE: Final = ("update", "patch", "delete", "deletecollection")
#: What runs pods, by group.
_WORKLOADS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("pods", "replicationcontrollers"),
    "apps": ("deployments", "statefulsets", "daemonsets", "replicasets"),
    "batch": ("jobs", "cronjobs"),
}
#: The group of all service accounts of a namespace, without the name of that.
_ACCOUNTS_OF: Final = "system:serviceaccounts:"
#: Groups that make anybody a superuser, or a kubelet.
SYSTEM_GROUPS: Final = frozenset({"system:masters", "system:nodes"})
#: Whose client certificates the API server takes for anybody whom they name, or for a kubelet.
_SIGNERS: Final = frozenset(
    {"kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/*"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A service account that is there and that driftwall trusts. ``pods`` run as it; None where that is not known."""

    namespace: str
    name: str
    pods: frozenset[str] | None = None

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What is not to fall into other hands.

    ``users`` and ``groups`` are those whom the policies trust, or let break glass. ``namespace`` and ``account`` are
    driftwall's own. ``forgeable`` says that Namespaces do not have their label ``kubernetes.io/metadata.name`` from
    the API server, which is so before v1.21.
    """

    accounts: tuple[Account, ...]
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    namespace: str
    account: str = "driftwall"
    forgeable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Something dangerous: any of ``accesses`` is enough. ``does`` and ``to`` are for a table."""

    category: str
    does: str
    to: str
    accesses: tuple[Access, ...]


def ways(stakes: Stakes) -> list[Way]:
    """Every way that there is, in the order in which they are told."""
    found = [*_impersonation(stakes)]
    for account in stakes.accounts:
        found.append(_token(account.namespace, frozenset({account.name}), str(account)))
        found += _of_namespace(account.namespace, account.pods)
    found.append(_token(SYSTEM_NAMESPACE, frozenset(SYSTEM_CONTROLLERS), "the control plane"))
    found += _of_namespace(SYSTEM_NAMESPACE, None)
    kubelet = tuple(_each(("create", "get"), {"": ("nodes/proxy",)}))
    found.append(Way(category="exec", does="get into", to="every pod through its kubelet", accesses=kubelet))
    found += _own_objects(stakes)
    found += _webhooks(stakes)
    found.append(_policies())
    signers = tuple(
        Access(verb=verb, group="certificates.k8s.io", resource="signers", names=_SIGNERS)
        for verb in ("approve", "sign")
    )
    found.append(Way(category="certificates", does="sign", to="client certificates of any name", accesses=signers))
    return found


def ways_into(subject: Subject) -> list[Way]:
    """Every way to become somebody whom nobody trusts, but who may do what opens one of the others.

    ``subject`` is a service account if it is one, whatever it was bound as. None into a group that all are in.
    """
    if namespace := namespace_of(subject):
        one = subject.kind == "ServiceAccount"
        names = frozenset({subject.name}) if one else None
        whom = f"{namespace}/{subject.name}" if one else f"service accounts in {namespace}"
        access = _impersonate("serviceaccounts", names, namespace)
        found = [Way(category="impersonate", does="impersonate", to=whom, accesses=(access,))]
        return [*found, _token(namespace, names, whom), *_of_namespace(namespace, None)]
    if subject.name.startswith("system:"):
        return []
    access = _impersonate(f"{subject.kind.lower()}s", frozenset({subject.name}))
    return [Way(category="impersonate", does="impersonate", to=str(subject), accesses=(access,))]


def namespace_of(subject: Subject) -> str:
    """Where a service account is, or all are that the group is made of; empty for everybody else."""
    of_all = subject.kind == "Group" and subject.name.startswith(_ACCOUNTS_OF)
    return subject.name.removeprefix(_ACCOUNTS_OF) if of_all else subject.namespace


def _impersonate(resource: str, names: frozenset[str] | None, namespace: str = "", group: str = "") -> Access:
    return Access(verb="impersonate", group=group, resource=resource, namespace=namespace, names=names)


def _impersonation(stakes: Stakes) -> Iterator[Way]:
    def way(to: str, *accesses: Access) -> Way:
        return Way(category="impersonate", does="impersonate", to=to, accesses=accesses)

    for account in stakes.accounts:
        one = _impersonate("serviceaccounts", frozenset({account.name}), account.namespace)
        yield way(str(account), one)
    controllers = _impersonate("serviceaccounts", frozenset(SYSTEM_CONTROLLERS), SYSTEM_NAMESPACE)
    users = _impersonate("users", stakes.users | set(SYSTEM_USERS))
    yield way("the control plane or trusted users", controllers, users)
    groups = _impersonate("groups", stakes.groups | SYSTEM_GROUPS)
    yield way("superusers, nodes or trusted groups", groups)
    yield way("whomever with any uid", _impersonate("uids", None, group="authentication.k8s.io"))


def _token(namespace: str, names: frozenset[str] | None, whom: str) -> Way:
    access = Access(verb="create", group="", resource="serviceaccounts/token", namespace=namespace, names=names)
    return Way(category="token", does="mint a token of", to=whom, accesses=(access,))


def _of_namespace(namespace: str, pods: frozenset[str] | None) -> Iterator[Way]:
    """What makes somebody who may write in a namespace, or read its Secrets, one of its service accounts."""

    def way(category: str, does: str, accesses: Iterable[Access]) -> Way:
        return Way(category=category, does=does, to=namespace, accesses=tuple(accesses))

    yield way("exec", "get into pods in", _intrusions(namespace, pods))
    yield way("pods", "run pods in", _each(_WRITE, _WORKLOADS, namespace))
    yield way("secrets", "read Secrets in", _each(("get", "list", "watch"), {"": ("secrets",)}, namespace))
    yield way("secrets", "write Secrets in", _each(_WRITE, {"": ("secrets",)}, namespace))


def _intrusions(namespace: str, pods: frozenset[str] | None) -> Iterator[Access]:
    # A client that uses WebSockets begins with a GET.
    for subresource, verbs in (
        ("exec", ("create", "get")),
        ("attach", ("create", "get")),
        ("ephemeralcontainers", ("update", "patch")),
    ):
        for verb in verbs:
            yield Access(verb=verb, group="", resource=f"pods/{subresource}", namespace=namespace, names=pods)


def _own_objects(stakes: Stakes) -> Iterator[Way]:
    namespace = stakes.namespace

    def own(does: str, accesses: Iterable[Access]) -> Way:
        return Way(category="own", does=does, to=namespace, accesses=tuple(accesses))

    yield own("get into pods in", _intrusions(namespace, None))
    scale = _each(("update", "patch"), {"apps": ("deployments/scale",)}, namespace)
    workloads = _each((*_WRITE, "delete", "deletecollection"), _WORKLOADS, namespace)
    yield own("run or stop pods in", (*workloads, *scale))
    yield own("read Secrets in", _each(("get", "list", "watch"), {"": ("secrets",)}, namespace))
    told = {"": ("secrets", "configmaps", "services", "endpoints"), "discovery.k8s.io": ("endpointslices",)}
    yield own("write Secrets, ConfigMaps or Services in", _each((*_WRITE, *_CHANGE), told, namespace))
    token = _token(namespace, frozenset({stakes.account}), f"{namespace}/{stakes.account}")
    yield Way(category="own", does=token.does, to=token.to, accesses=token.accesses)
    gone = Access(verb="delete", group="", resource="namespaces", names=frozenset({namespace}))
    yield own("delete the Namespace", (gone,))


def _webhooks(stakes: Stakes) -> Iterator[Way]:
    group = "admissionregistration.k8s.io"
    named = frozenset({"driftwall"})
    accesses = [
        Access(verb=verb, group=group, resource=resource, names=named)
        for resource in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
        for verb in _CHANGE
    ]
    # Whatever mutates the writes of a trusted identity writes with its rights.
    mutating = ("mutatingwebhookconfigurations", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
    accesses += _each(_WRITE, {group: mutating})
    yield Way(category="webhooks", does="write", to="webhook configurations", accesses=tuple(accesses))
    if stakes.forgeable:
        labels = tuple(_each(("update", "patch"), {"": ("namespaces", "namespaces/status", "namespaces/finalize")}))
        yield Way(category="namespaces", does="label", to="Namespaces", accesses=labels)


def _policies() -> Way:
    accesses = [*_each((*_WRITE, "delete", "deletecollection"), {OWN_GROUP: tuple(KINDS)})]
    definitions = frozenset(f"{resource}.{OWN_GROUP}" for resource in KINDS)
    group, resource = "apiextensions.k8s.io", "customresourcedefinitions"
    accesses += [Access(verb=verb, group=group, resource=resource, names=definitions) for verb in _CHANGE]
    return Way(category="policies", does="write", to="DriftPolicies or the DriftwallConfig", accesses=tuple(accesses))


def _each(verbs: Iterable[str], resources: Mapping[str, Iterable[str]], namespace: str = "") -> Iterator[Access]:
    for verb in dict.fromkeys(verbs):
        for group, names in resources.items():
            for resource in names:
                yield Access(verb=verb, group=group, resource=resource, namespace=namespace)
