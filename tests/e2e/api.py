"""A plain HTTPS client of the API server: no client library stands between a test and what it sends."""

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

_SECONDS = 60  # above the API server's own limit of 34 s for a write


class ApiError(RuntimeError):
    """The API server answered with a status of 400 or more, kept in `status`."""

    def __init__(self, method: str, path: str, status: int, answer: Object) -> None:
        super().__init__(f"{method} {path}: {status} {answer.get('message', answer)}")
        self.status = status


@dataclass(frozen=True, slots=True)
class _Resource:
    base: str
    plural: str
    names: frozenset[str]
    namespaced: bool


@dataclass(slots=True)
class Api:
    """The API server on 127.0.0.1, as whoever's token is given with a call."""

    port: int
    ca_pem: str
    _resources: list[_Resource] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str, *, token: str | None = None, certificate: tuple[bytes, bytes] | None = None) -> str:
        """A kubeconfig for whoever owns the token, or the client certificate and its key, both PEM."""
        credentials = {} if token is None else {"token": token}
        if certificate is not None:
            credentials["client-certificate-data"] = _base64(certificate[0])
            credentials["client-key-data"] = _base64(certificate[1])
        cluster = {"server": self.url, "certificate-authority-data": _base64(self.ca_pem.encode())}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": "default"}}],
            "current-context": "e2e",
        }
        return json.dumps(config)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; give status and body. Without a token it is anonymous."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json"}
        if content is not None:
            sent["Content-Type"] = "application/json"
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        context = ssl.create_default_context(cadata=self.ca_pem)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=_SECONDS)
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Object]:
        """Like `send`, with the body parsed; what is not a JSON object comes as `{"text": …}`."""
        status, content = self.send(method, path, body, token=token, headers=headers)
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        return status, answer if isinstance(answer, dict) else {"text": content.decode(errors="replace")}

    def call(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None, *, token: str) -> Object:
        """Like `raw`, but raises ApiError for a status of 400 or more, and gives the answer alone."""
        status, answer = self.raw(method, path, body, token=token)
        if status >= 400:
            raise ApiError(method, path, status, answer)
        return answer

    def path(self, kind: str, name: str | None, namespace: str | None, *, token: str) -> str:
        """The path of an object, or of a collection where `name` is None.

        `kind` is what kubectl would take (plural, singular, kind or short name, with `.group` where it matters), or
        a path of the API already. Raises LookupError for a kind that the server does not have.
        """
        if kind.startswith("/"):
            return kind
        found = self._find(kind)
        if found is None:  # perhaps of a CustomResourceDefinition that is newer than what is remembered
            self._resources = self._discover(token)
            found = self._find(kind)
        if found is None:
            raise LookupError(f"the API server has no {kind!r}")
        if found.namespaced and namespace is None and name is not None:
            raise LookupError(f"{kind!r} is namespaced: the namespace of {name!r} is missing")
        within = f"/namespaces/{namespace}" if found.namespaced and namespace is not None else ""
        return f"{found.base}{within}/{found.plural}" + ("" if name is None else f"/{name}")

    def _find(self, kind: str) -> _Resource | None:
        return next((resource for resource in self._resources if kind.lower() in resource.names), None)

    def _discover(self, token: str) -> list[_Resource]:
        groups = self.call("GET", "/apis", token=token)["groups"]
        bases = [("/api/v1", "")]
        # The preferred version first; what a group serves in another one alone comes after all of these.
        bases += [(f"/apis/{group['preferredVersion']['groupVersion']}", group["name"]) for group in groups]
        others = [(f"/apis/{each['groupVersion']}", group["name"]) for group in groups for each in group["versions"]]
        bases += [base for base in others if base not in bases]
        found = []
        for base, group in bases:
            status, answer = self.raw("GET", base, token=token)
            if status != 200:  # an aggregated API whose server is away must not hide the others
                continue
            for resource in answer["resources"]:
                if "/" in resource["name"]:
                    continue
                short = {resource["name"], resource["singularName"], resource["kind"].lower()}
                short |= set(resource.get("shortNames", []))
                short.discard("")
                names = short | {f"{name}.{group}" for name in short}
                found.append(_Resource(base, resource["name"], frozenset(names), resource["namespaced"]))
        return found


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
