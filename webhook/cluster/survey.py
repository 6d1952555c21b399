"""What ``driftwall doctor`` reads of a cluster, and the one write that it sends as a dry run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from webhook import meta
from webhook.cluster.bundles import path_of
from webhook.cluster.connection import JSON, Answer, json_object
from webhook.cluster.listing import Listing, Reading, Resource
from webhook.errors import ClusterError, LookupFailed
from webhook.identity import Writers
from webhook.installation import Probe
from webhook.meta import Object
from webhook.rbac import API_GROUP, Rbac, read
from webhook.ways import Account

# One call: an API server that is well answers in milliseconds, also for a page of a hundred roles.
_CALL_SECONDS: Final = 10.0
#: The kinds of webhook configurations, and their resources.
CONFIGURATIONS: Final = {
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
}


class Connection(Reading, Protocol):
    """What a survey asks of a connection."""

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer: ...  # noqa: D102


class Survey:
    """Reads one thing after the other. Every method raises ClusterError for what it could not read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listing = Listing(connection)

    def version(self) -> tuple[tuple[int, int], str]:
        """The API server's version: its numbers, and as it calls itself."""
        value = self.get("/version") or {}
        # Some providers write "27+".
        numbers = [str(value.get(key, "")).rstrip("+") for key in ("major", "minor")]
        if not all(number.isdecimal() for number in numbers):
            raise ClusterError("GET /version: the answer has no version")
        return (int(numbers[0]), int(numbers[1])), str(value.get("gitVersion", ""))

    def get(self, path: str) -> dict[str, Any] | None:
        """One object; None if there is none."""
        try:
            answer = self._connection.get(path, time.monotonic() + _CALL_SECONDS)
        except LookupFailed as error:
            raise ClusterError(f"GET {path}: {error}") from None
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise ClusterError(f"GET {path}: {_REFUSALS.get(answer.status, f'HTTP {answer.status}')}")
        return _decoded(answer)

    def named(self, namespace: str, resource: str, name: str, *, group: str = "") -> dict[str, Any] | None:
        """One object of a namespace; None if there is none."""
        return self.get(f"{_collection(group, namespace, resource)}/{quote(name, safe='')}")

    def configurations(self, name: str) -> dict[str, Object | None]:
        """The webhook configurations of that name, by kind."""
        return {kind: self.get(path_of(resource, name)) for kind, resource in CONFIGURATIONS.items()}

    def namespaces(self) -> list[Object]:
        """All Namespaces, sorted by name."""
        return list(self._listing.objects(_NAMESPACES, accept=JSON))

    def accounts(self, namespaces: Iterable[str], trusted: Iterable[Writers]) -> list[Account]:
        """The service accounts of ``namespaces`` that are ``trusted``, each with the pods that run as it."""
        known = list(trusted)
        return sorted((account for namespace in namespaces for account in self._accounts(namespace, known)), key=str)

    def _accounts(self, namespace: str, trusted: Iterable[Writers]) -> Iterator[Account]:
        there = map(_name, self._listing.objects(_ACCOUNTS, namespace))
        names = [name for name in there if any(writers.names_account(namespace, name) for writers in trusted)]
        if not names:
            return
        pods = list(self._listing.objects(_PODS, namespace, accept=JSON))
        for name in names:
            running = frozenset(
                _name(pod) for pod in pods if meta.mapping(pod.get("spec")).get("serviceAccountName", "default") == name
            )
            yield Account(namespace=namespace, name=name, pods=running or None)

    def rbac(self, namespaces: Iterable[str]) -> Rbac:
        """What counts everywhere, and in these namespaces."""
        places = list(namespaces)
        found: list[Object] = []
        for resource in _RBAC:
            for namespace in places if resource.namespaced else ("",):
                found += self._listing.objects(resource, namespace, accept=JSON)
        return read(found)

    def try_out(self, probe: Probe) -> tuple[int, str]:
        """Send a creation as a dry run; the status, and what was said."""
        body = msgspec.json.encode(probe.body)
        path = f"{probe.path}?dryRun=All"
        # A webhook may take its time before the API server gives it up, and there may be several.
        deadline = time.monotonic() + 3 * _CALL_SECONDS
        try:
            answer = self._connection.send("POST", path, body, "application/json", deadline)
        except LookupFailed as error:
            raise ClusterError(f"POST {probe.path} (dry run): {error}") from None
        return answer.status, str(_decoded(answer).get("message", ""))


def _resource(kind: str, group: str = "", *, namespaced: bool = True) -> Resource:
    return Resource(group=group, version="v1", resource=f"{kind.lower()}s", kind=kind, namespaced=namespaced)


_NAMESPACES: Final = _resource("Namespace", namespaced=False)
_ACCOUNTS: Final = _resource("ServiceAccount")
_PODS: Final = _resource("Pod")
_RBAC: Final = (
    _resource("ClusterRole", API_GROUP, namespaced=False),
    _resource("ClusterRoleBinding", API_GROUP, namespaced=False),
    _resource("Role", API_GROUP),
    _resource("RoleBinding", API_GROUP),
)


def _name(obj: Object) -> str:
    return str(meta.metadata_of(obj).get("name"))


def _collection(group: str, namespace: str, resource: str) -> str:
    base = f"/apis/{group}" if group else "/api"
    return f"{base}/v1/namespaces/{quote(namespace, safe='')}/{resource}"


def _decoded(answer: Answer) -> dict[str, Any]:
    if (value := json_object(answer.body)) is None:
        raise ClusterError(f"the API server's answer (HTTP {answer.status}) is nothing that driftwall can read")
    return value


_REFUSALS: Final = {
    401: "the API server does not accept your credentials",
    403: "you may not read it; deploy/README.md has the role that doctor needs",
    429: "the API server has too much to do; try again",
}
