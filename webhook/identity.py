"""Who writes: system, trusted, automation or untrusted, by userInfo alone.

Nothing that the client chooses counts: no fieldManager, no annotation. A service account counts as itself only if
userInfo bears what a real token brings, since ``kubectl --as`` brings the name and the groups but no uid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from webhook.admission import UserInfo
from webhook.globs import Glob, is_glob
from webhook.patterns import PathSet

Verify = Literal["uid", "pod", "none"]

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_ACCOUNT_GROUPS: Final = "system:serviceaccounts"
_POD_EXTRA: Final = ("authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid")

SYSTEM_USERS: Final = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler")

#: The service accounts of kube-controller-manager's controllers (Kubernetes, plugin/pkg/auth/authorizer/rbac/
#: bootstrappolicy/controller_policy.go, and those of older releases). horizontal-pod-autoscaler is not among them: it
#: is automation, which may write replicas and nothing else.
SYSTEM_CONTROLLERS: Final = (
    "attachdetach-controller",
    "bootstrap-signer",
    "certificate-controller",
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemon-set-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "disruption-controller",
    "endpoint-controller",
    "endpointslice-controller",
    "endpointslicemirroring-controller",
    "ephemeral-volume-controller",
    "expand-controller",
    "generic-garbage-collector",
    "job-controller",
    "legacy-service-account-token-cleaner",
    "namespace-controller",
    "node-controller",
    "persistent-volume-binder",
    "pod-garbage-collector",
    "podcertificaterequestcleaner-controller",
    "pv-protection-controller",
    "pvc-protection-controller",
    "replicaset-controller",
    "replication-controller",
    "resource-claim-controller",
    "resourcequota-controller",
    "root-ca-cert-publisher",
    "route-controller",
    "selinux-warning-controller",
    "service-account-controller",
    "service-cidrs-controller",
    "service-controller",
    "statefulset-controller",
    "storage-version-garbage-collector",
    "storage-version-migrator-controller",
    "storageversionmigrator-controller",
    "taint-eviction-controller",
    "token-cleaner",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Somebody whom the policies name. ``fields`` are what an automation may write; None for the others."""

    name: str
    service_accounts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    verify: Verify = "uid"
    field_managers: tuple[str, ...] = ()
    fields: PathSet | None = field(default=None, compare=False)


def service_account(username: str) -> tuple[str, str] | None:
    """Namespace and name of the service account that ``username`` stands for, or None if it is none."""
    if not username.startswith(_SERVICE_ACCOUNT):
        return None
    namespace, colon, name = username[len(_SERVICE_ACCOUNT) :].partition(":")
    return (namespace, name) if colon and namespace and name and ":" not in name else None


def bears(user: UserInfo, verify: Verify) -> bool:
    """Whether ``user`` brings what ``verify`` asks of a service account."""
    if verify == "none":
        return True
    if not user.uid:
        return False
    return verify == "uid" or all(any((user.extra or {}).get(key) or ()) for key in _POD_EXTRA)


class Writers:
    """An index of writers: exact names by hash, then globs; the first match in the order given wins among globs."""

    def __init__(self, writers: Iterable[Writer] = ()) -> None:
        self._users: dict[str, Writer] = {}
        self._groups: dict[str, Writer] = {}
        self._accounts: dict[tuple[str, str], list[Writer]] = {}
        self._globs: list[tuple[Glob, Glob, Writer]] = []
        self.writers = tuple(writers)
        for writer in self.writers:
            for user in writer.users:
                self._users.setdefault(user, writer)
            for group in writer.groups:
                self._groups.setdefault(group, writer)
            for account in writer.service_accounts:
                namespace, _, name = account.partition("/")
                if is_glob(account):
                    self._globs.append((Glob(namespace), Glob(name), writer))
                else:
                    self._accounts.setdefault((namespace, name), []).append(writer)

    def find(self, user: UserInfo) -> Writer | None:
        """The writer that ``user`` is, or None."""
        account = service_account(user.username)
        if account is not None:
            for writer in self._accounts.get(account, ()) if not self._globs else self._named(account):
                if bears(user, writer.verify):
                    return writer
            # It may also be listed by its full user name or a group; it must prove itself there, too.
            if not user.uid:
                return None
        found = self._users.get(user.username)
        if found is not None:
            return found
        if self._groups:
            for group in user.groups or ():
                # Only tokens of service accounts bring these groups: anybody else who has one was given it to pass.
                if group in self._groups and (account is not None or not group.startswith(_ACCOUNT_GROUPS)):
                    return self._groups[group]
        return None

    def names_account(self, namespace: str, name: str) -> bool:
        """Whether the service account is one of the writers, whatever proof it would have to bring."""
        if f"{_SERVICE_ACCOUNT}{namespace}:{name}" in self._users:
            return True
        return next(self._named((namespace, name)), None) is not None

    def _named(self, account: tuple[str, str]) -> Iterator[Writer]:
        yield from self._accounts.get(account, ())
        for namespace, name, writer in self._globs:
            if namespace.matches(account[0]) and name.matches(account[1]):
                yield writer


SYSTEM: Final = Writer(
    name="system",
    users=SYSTEM_USERS,
    service_accounts=tuple(f"kube-system/{name}" for name in SYSTEM_CONTROLLERS),
)

HPA: Final = Writer(
    name="hpa",
    service_accounts=("kube-system/horizontal-pod-autoscaler",),
    fields=PathSet.of("spec.replicas"),
)


def is_proven(user: UserInfo) -> bool:
    """Whether ``user`` is who it says: all but a service account without the uid that a token of its own brings."""
    return bool(user.uid) or service_account(user.username) is None


def is_node(user: UserInfo) -> bool:
    """Whether ``user`` is a kubelet: its name and its group, as the node authorizer wants them."""
    return user.username.startswith("system:node:") and "system:nodes" in (user.groups or ())
