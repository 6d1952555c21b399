"""A real control plane for tests: etcd, kube-apiserver and kube-controller-manager on loopback. No pod ever runs."""

import atexit
import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from . import binaries, processes, registration
from .api import ApiError, Object
from .servers import Options, Servers, User

T = TypeVar("T")

# Everybody but admin is cluster-admin through a binding: what stops them must be the webhook, not RBAC.
USERS: Mapping[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "alice": ("developers",),
    "bob": ("developers",),
    "sre": ("sre", "break-glass-operators"),
    "system:node:worker": ("system:nodes",),
}
# The service accounts that GitOps tools write as, under a short name: (namespace, name).
SERVICE_ACCOUNTS: Mapping[str, tuple[str, str]] = {
    "flux": ("flux-system", "kustomize-controller"),
    "helm-controller": ("flux-system", "helm-controller"),
    "argocd": ("argocd", "argocd-application-controller"),
}
_TOKEN_SECONDS = 24 * 3600
_KUBECTL_SECONDS = 120  # a kubectl that waits longer than this, for a deletion say, waits for ever
_RBAC = "rbac.authorization.k8s.io"


class KubectlError(RuntimeError):
    """kubectl failed; `completed` holds its exit code and what it wrote."""

    def __init__(self, completed: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{completed.args} ended with {completed.returncode}:\n{completed.stdout}{completed.stderr}")
        self.completed = completed


class ControlPlane:
    """The three servers and their users, started by `with` or `start`, gone after it or `stop`.

    Start it from the main thread: its processes die with the thread that started them. The attributes of a started
    one: `url` and `ca_pem` of the API server and its `version` (major, minor), `folder` with the logs of all three,
    `audit_log`, one JSON object a line, and `etcd_folder`.
    """

    def __init__(self, options: Options | None = None, *, using: binaries.Binaries | None = None) -> None:
        self._options = options or Options()
        self._binaries = using
        self._servers: Servers | None = None
        self._tokens: dict[str, str] = {}
        self._probes: dict[registration.Kind, registration.Probe] = {}

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the three servers and return once they serve, controllers have written and the users exist.

        Raises debian.PreparationError without binaries, processes.ProcessDiedError or processes.ConditionError, both
        with the end of a log, if one does not come up; nothing is left running then.
        """
        self._binaries = self._binaries or binaries.find()
        users = {name: User(token=os.urandom(16).hex(), groups=groups) for name, groups in USERS.items()}
        self._tokens = {name: user.token for name, user in users.items()}
        self._servers = servers = Servers(self._binaries, self._options, users)
        atexit.register(self.stop)
        try:
            self._api = servers.api
            self.url, self.ca_pem, self.version = servers.api.url, servers.api.ca_pem.encode(), servers.version
            self.folder, self.etcd_folder, self.audit_log = servers.folder, servers.etcd_folder, servers.audit_log
            (self.folder / "home").mkdir()
            servers.start()
            self._bind_cluster_admin("users", [_subject("User", user) for user in USERS if user != "admin"])
            for user, (namespace, name) in SERVICE_ACCOUNTS.items():
                self.add_service_account_user(user, namespace, name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill what was started and remove the folders; a second call does nothing."""
        if self._servers is not None:
            self._servers.stop()
            self._servers = None
        atexit.unregister(self.stop)

    def restart_api_server(self) -> None:
        """Kill kube-apiserver, if it is there, and start it anew, where it was; returns once it serves."""
        assert self._servers is not None
        self._servers.restart_api_server()

    def kill_api_server(self) -> None:
        """Kill kube-apiserver, until `restart_api_server`."""
        assert self._servers is not None
        self._servers.kill_api_server()

    @contextlib.contextmanager
    def slow_api_server(self) -> Iterator[None]:
        """A kube-apiserver that takes connections and answers none of them."""
        assert self._servers is not None
        self._servers.signal_api_server(signal.SIGSTOP)
        try:
            yield
        finally:
            self._servers.signal_api_server(signal.SIGCONT)

    def forget_versions(self) -> None:
        """Make etcd forget all versions but the newest, as the API server has it do every five minutes."""
        assert self._servers is not None
        version = self.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
        self._servers.compact(int(version))

    def pids(self) -> list[int]:
        """The process ids of what is running: etcd, kube-apiserver, kube-controller-manager."""
        return self._servers.pids() if self._servers else []

    def wait_for(self, predicate: Callable[[], T], what: str, seconds: float = 30) -> T:
        """Look until `predicate` gives something true, and give that; see processes.wait_for.

        Raises ProcessDiedError at once if one of the servers ends meanwhile.
        """

        def alive() -> T:
            if self._servers:
                self._servers.check()
            return predicate()

        return processes.wait_for(alive, what, seconds)

    # Talking to it

    def kubectl(
        self,
        *args: str,
        user: str = "admin",
        token: str | None = None,
        stdin: str | None = None,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as one of the users, or as the owner of a token, with an empty stdin unless one is given.

        `environment` comes on top of the little that it runs with, such as an EDITOR.
        Raises KubectlError if it fails under `check`, KeyError for an unknown user, subprocess.TimeoutExpired.
        """
        assert self._binaries is not None
        kubeconfig = self.kubeconfig(user) if token is None else self.kubeconfig_of(token)
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder),
            "KUBECONFIG": str(kubeconfig),
            **(environment or {}),
        }
        completed = subprocess.run(
            [str(self._binaries.kubectl), *args],
            input=stdin if stdin is not None else "",
            env=variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_KUBECTL_SECONDS,
        )
        if check and completed.returncode != 0:
            raise KubectlError(completed)
        return completed

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of a user; raises KeyError for one that is not known."""
        return self._write_kubeconfig(user, self.token(user))

    def kubeconfig_of(self, token: str) -> Path:
        """The kubeconfig of whoever has this token."""
        return self._write_kubeconfig(f"token-{hashlib.sha256(token.encode()).hexdigest()[:12]}", token)

    def token(self, user: str) -> str:
        """The bearer token of a user; raises KeyError for one that is not known."""
        return self._tokens[user]

    def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        user: str = "admin",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Object]:
        """Send one request as a user, or as the owner of a token; give the status and the answer, parsed.

        Headers given win over the client's own, so that `Content-Type` can say what kind of patch the body is.
        """
        return self._api.raw(method, path, body, token=token or self.token(user), headers=headers)

    def get(
        self, kind_or_path: str, name: str | None = None, namespace: str | None = None, *, user: str = "admin"
    ) -> Object:
        """One object with its managedFields, or a list where `name` is None; raises ApiError, LookupError.

        `kind_or_path` is what kubectl would take (`deploy`, `deployments.apps`), or a path such as `/apis/…/scale`.
        """
        token = self.token(user)
        return self._api.call("GET", self._api.path(kind_or_path, name, namespace, token=token), token=token)

    def exists(self, kind_or_path: str, name: str | None = None, namespace: str | None = None) -> bool:
        """Whether an object is there; other failures than its absence are raised as ApiError."""
        try:
            self.get(kind_or_path, name, namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def audit_events(self, mentioning: str = "") -> Iterator[Object]:
        """What the audit log holds so far, oldest first; bodies are kept of writes, not of reads.

        Of a long log it takes seconds; those that mention something, anywhere, are told sooner.
        """
        with self.audit_log.open() as lines:
            for line in lines:
                if mentioning in line and line.endswith("\n"):  # the last one may still be half written
                    yield json.loads(line)

    # Namespaces and identities

    def create_namespace(self, name: str) -> str:
        """Create a namespace if it is missing, wait until pods could be made in it, and give its name."""
        self._ensure("/api/v1/namespaces", _namespace(name))
        pod = _pod("driftwall-e2e-probe", "default")
        self._ensure(f"/api/v1/namespaces/{name}/pods?dryRun=All", pod, patiently=True)
        return name

    def service_account_token(self, namespace: str, name: str, pod: str | None = None) -> str:
        """A token of a service account from the real TokenRequest API, bound to a Pod object if one is named.

        Namespace, service account and pod are created where they are missing. Raises ApiError.
        """
        self._ensure("/api/v1/namespaces", _namespace(namespace))
        within = f"/api/v1/namespaces/{namespace}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        self._ensure(f"{within}/serviceaccounts", account)
        specification: Object = {"expirationSeconds": _TOKEN_SECONDS}
        if pod is not None:
            self._ensure(f"{within}/pods", _pod(pod, name), patiently=True)
            uid = self.get("pod", pod, namespace)["metadata"]["uid"]
            specification["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": specification}
        path = f"{within}/serviceaccounts/{name}/token"
        token: str = self._api.call("POST", path, request, token=self.token("admin"))["status"]["token"]
        return token

    def add_service_account_user(self, user: str, namespace: str, name: str) -> None:
        """Make `user` a short name for a service account, which is created and bound to cluster-admin."""
        self._tokens[user] = self.service_account_token(namespace, name)
        self._bind_cluster_admin(user, [{"kind": "ServiceAccount", "name": name, "namespace": namespace}])

    def _bind_cluster_admin(self, name: str, subjects: list[Object]) -> None:
        binding = {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"driftwall-e2e-{name}"},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": subjects,
        }
        self._ensure(f"/apis/{_RBAC}/v1/clusterrolebindings", binding)

    def _ensure(self, collection: str, wanted: Object, *, patiently: bool = False) -> None:
        """Create an object unless it is there; `patiently` where it has to wait for what a controller makes first."""

        def created() -> bool:
            status, answer = self.raw("POST", collection, wanted)
            if status not in (201, 409):
                raise ApiError("POST", collection, status, answer)
            return True

        if patiently:
            self.wait_for(created, f"{wanted['kind']} {wanted['metadata']['name']} to be accepted in {collection}")
        else:
            created()

    # The webhook

    def register_webhook(
        self,
        url: str,
        ca_bundle_pem: bytes,
        *,
        kind: registration.Kind = "validating",
        probe: registration.Probe = registration.DEFAULT_PROBE,
        **fields: Any,
    ) -> None:
        """Register `url` for every write there is, and return once the API server calls it.

        `fields` win over the webhook's own (`failurePolicy="Ignore"`, `timeoutSeconds=1`, `namespaceSelector=…`);
        where they leave out the creation of a ConfigMap in `default`, `probe` is a creation that they take in.
        What was registered before under the same kind is replaced. Raises ApiError, and processes.ConditionError if
        the server does not take it up.
        """
        self.unregister_webhook(kind=kind)
        self._probes[kind] = probe
        wanted = registration.configuration(kind, url, ca_bundle_pem, fields)
        registration.create(self._api, kind, wanted, token=self.token("admin"))
        self.wait_for(lambda: self._webhook_is_in_force(kind), f"the {kind} webhook to be in force")

    def unregister_webhook(self, *, kind: registration.Kind = "validating") -> None:
        """Take the registration away, if there is one, and return once the API server does not call it any more."""
        if registration.delete(self._api, kind, token=self.token("admin")):
            self.wait_for(lambda: not self._webhook_is_in_force(kind), f"the {kind} webhook to be out of force")

    def _webhook_is_in_force(self, kind: registration.Kind) -> bool:
        probe = self._probes.get(kind, registration.DEFAULT_PROBE)
        return registration.is_in_force(self._api, kind, probe, token=self.token("admin"))

    # Files

    def _write_kubeconfig(self, user: str, token: str) -> Path:
        path = self.folder / f"kubeconfig-{user.replace(':', '-')}.json"  # KUBECONFIG is a list, with colons between
        path.write_text(self._api.kubeconfig(user, token=token))
        return path


def _subject(kind: str, name: str) -> Object:
    return {"apiGroup": _RBAC, "kind": kind, "name": name}


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _pod(name: str, service_account: str) -> Object:
    containers = [{"name": "main", "image": "image.invalid/never-pulled"}]
    specification = {"serviceAccountName": service_account, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": specification}
