"""Everything that an API server serves, page by page: what there is to list, and the objects of one resource."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from webhook import meta
from webhook.admission import ObjectRef, qualified_resource
from webhook.cluster.connection import Answer, TooLarge, json_object
from webhook.errors import ClusterError, LookupFailed
from webhook.listkeys import canonical_group

# Objects in one answer: of metadata alone, with managedFields, a page of typical objects has some 300 KB. One that has
# more than MAX_OBJECT bytes is asked for again with a tenth.
PAGE: Final = 100
# Seconds of one call: an API server reads a page from etcd in milliseconds, and answers slowly once it is pressed.
CALL_SECONDS: Final = 30.0
# Tries of one call that was not answered: a server that restarts is back within this many pauses.
_TRIES: Final = 5
_PAUSE: Final = 1.0  # seconds before the second try, twice as many before each further one
# Lists that may be begun anew after one another without a page between: more is a server that forgets faster than it
# answers.
_RESTARTS: Final = 3
#: Asks for objects without anything but their metadata, managedFields among them (Kubernetes v1.15).
METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_ANY: Final = "application/json"

Object = dict[str, Any]


class Reading(Protocol):
    """What listing asks of a connection."""

    def get(self, path: str, deadline: float, *, accept: str = ...) -> Answer: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource that can be listed. ``words`` are what kubectl takes for it, beside those of ``named``."""

    group: str
    version: str
    resource: str
    kind: str
    namespaced: bool
    words: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """As kubectl writes it."""
        return qualified_resource(self.group, self.resource)

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def collection(self, namespace: str = "") -> str:
        """The path of all of them, or of those in a namespace."""
        base = f"/apis/{self.group}" if self.group else "/api"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace and self.namespaced else ""
        return f"{base}/{self.version}{within}/{self.resource}"

    def path(self, namespace: str, name: str) -> str:
        """The path of one."""
        return f"{self.collection(namespace)}/{quote(name, safe='')}"

    def ref(self, obj: meta.Object) -> ObjectRef:
        """The place of one of them."""
        metadata = meta.metadata_of(obj)
        namespace, name = str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
        return ObjectRef(self.group, self.version, self.resource, namespace, name)


class Listing:
    """Reads lists. Every call may block; a failure that may pass is tried again for some seconds."""

    def __init__(self, connection: Reading, *, page: int = PAGE, pause: float = _PAUSE) -> None:
        self._connection = connection
        self._page = page
        self._pause = pause
        self._resources: list[Resource] | None = None
        self.problems: list[str] = []

    def resources(self) -> list[Resource]:
        """What can be listed, each once: in the preferred version that has it, and not in the group it has moved from.

        A group whose own server is away is told in ``problems``.

        Raises:
            ClusterError: the API server did not say.
        """
        if self._resources is None:
            self._resources = self._discover()
        return self._resources

    def find(self, group: str, kind: str) -> Resource | None:
        """The resource of a kind, whatever version a manifest names; None where the API server does not serve it."""
        canonical = canonical_group(group, kind)
        for each in self.resources():
            if each.kind == kind and each.group in (group, canonical):
                return each
        return None

    def named(self, word: str) -> Resource | None:
        """The resource that kubectl takes ``word`` for: ``deploy``, ``Deployment``, ``deployments.apps``; None if none.

        Of several, that of the core group, or of the group that the API server names first.
        """
        name, _, group = word.lower().partition(".")
        for each in self.resources():
            if name in (each.resource, each.kind.lower(), *each.words) and group in ("", each.group):
                return each
        return None

    def _discover(self) -> list[Resource]:
        groups = self._get("/apis", _ANY).get("groups", [])
        found: dict[tuple[str, str], Resource] = {}
        for group, version in [("", "v1"), *_versions(groups)]:
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            try:
                served = self._get(path, _ANY)
            except ClusterError as error:
                self.problems.append(f"{group}: {error}")
                continue
            for each in served.get("resources", []):
                if "/" not in each["name"] and "list" in each.get("verbs", ()):
                    resource = Resource(
                        group=group,
                        version=version,
                        resource=each["name"],
                        kind=each["kind"],
                        namespaced=each["namespaced"],
                        words=frozenset((each.get("singularName", ""), *(each.get("shortNames") or ()))),
                    )
                    found.setdefault((group, each["name"]), resource)
        groups_of = {(each.group, each.kind) for each in found.values()}
        return [
            each
            for each in found.values()
            if (moved := canonical_group(each.group, each.kind)) == each.group or (moved, each.kind) not in groups_of
        ]

    def objects(self, resource: Resource, namespace: str = "", *, accept: str = METADATA) -> Iterator[Object]:
        """All objects of a resource, a page at a time, each once: as their metadata, or whole.

        A list that takes longer than the API server remembers goes on from where it was, with what is there by then.

        Raises:
            ClusterError: the list cannot be read.
        """
        path = resource.collection(namespace)
        limit, more, last, done, restarts = self._page, "", "", "", 0
        while True:
            query = urlencode({"limit": str(limit), **({"continue": more} if more else {})})
            try:
                answer = self._call(f"{path}?{query}", accept)
            except TooLarge as error:
                if limit == 1:
                    raise ClusterError(f"GET {path}: {error}") from None
                limit = max(1, limit // 10)
                continue
            if answer.status == 410:
                # The server's own word for going on from the newest version. Without one: from the beginning, up to
                # where it was, since a list is in the order of its keys.
                more = str(meta.metadata_of(_decoded(path, answer)).get("continue") or "")
                done = done if more else last
                restarts += 1
                if restarts > _RESTARTS:
                    raise ClusterError(f"GET {path}: the API server forgets the list faster than it gives it")
                continue
            page = _document(path, answer)
            restarts = 0
            items = page.get("items")
            for item in items if isinstance(items, list) else ():
                place = _key(item)
                if done and place <= done:
                    continue
                last = place
                yield {**item, "apiVersion": resource.api_version, "kind": resource.kind}
            more = str(meta.metadata_of(page).get("continue") or "")
            if not more:
                return

    def one(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, whole, by the verb list; None if there is none.

        Raises:
            ClusterError: it could not be read.
        """
        query = urlencode({"fieldSelector": f"metadata.name={name}", "limit": "1"})
        page = self._get(f"{resource.collection(namespace)}?{query}", _ANY)
        items = page.get("items") or [None]
        return {**items[0], "apiVersion": resource.api_version, "kind": resource.kind} if items[0] else None

    def _get(self, path: str, accept: str) -> Object:
        return _document(path.partition("?")[0], self._call(path, accept))

    def _call(self, path: str, accept: str) -> Answer:
        problem = ""
        for attempt in range(_TRIES):
            try:
                answer = self._connection.get(path, time.monotonic() + CALL_SECONDS, accept=accept)
            except TooLarge:
                raise
            except LookupFailed as error:
                problem = str(error)
            else:
                if answer.status not in _PASSING:
                    return answer
                problem = _REFUSALS.get(answer.status, f"HTTP {answer.status}")
            if attempt < _TRIES - 1:
                time.sleep(self._pause * 2**attempt)
        raise ClusterError(f"GET {path.partition('?')[0]}: {problem}")


def _versions(groups: list[Object]) -> Iterator[tuple[str, str]]:
    """Groups and versions, the preferred one of each first: the others have kinds that it has not, or not yet."""
    for group in groups:
        preferred = group["preferredVersion"]["version"]
        others = [each["version"] for each in group["versions"] if each["version"] != preferred]
        yield from ((group["name"], version) for version in (preferred, *others))


_PASSING: Final = frozenset({429, 500, 502, 503, 504})
_REFUSALS: Final = {
    401: "the API server does not accept these credentials",
    403: "forbidden: the verb list is missing on this resource",
    404: "the API server does not serve this resource",
    429: "the API server has too much to do",
}


def _key(obj: Object) -> str:
    """Where an object is in its list: etcd's key, as text that sorts alike."""
    metadata = meta.metadata_of(obj)
    return f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}"


def _decoded(path: str, answer: Answer) -> Object:
    if (value := json_object(answer.body)) is None:
        raise ClusterError(f"GET {path}: the answer is nothing that driftwall can read")
    return value


def _document(path: str, answer: Answer) -> Object:
    if answer.status != 200:
        raise ClusterError(f"GET {path}: {_REFUSALS.get(answer.status, f'HTTP {answer.status}')}")
    return _decoded(path, answer)
