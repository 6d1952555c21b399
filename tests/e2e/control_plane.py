"""A real control plane for tests: etcd, kube-apiserver and kube-controller-manager on loopback. No pod ever runs."""

import atexit
import base64
import hashlib
import json
import os
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from . import binaries, processes
from .api import Api, ApiError, Object
from .certificates import Authority, new_private_key

T = TypeVar("T")

# Everybody but admin is cluster-admin through a binding: what stops them must be the webhook, not RBAC.
USERS: Mapping[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "alice": ("developers",),
    "bob": ("developers",),
    "sre": ("sre", "break-glass-operators"),
}
# The service accounts that GitOps tools write as, under a short name.
SERVICE_ACCOUNTS: Mapping[str, tuple[str, str]] = {
    "flux": ("flux-system", "kustomize-controller"),
    "helm-controller": ("flux-system", "helm-controller"),
    "argocd": ("argocd", "argocd-application-controller"),
}
WEBHOOK_CONFIGURATION = "driftwall"
_WEBHOOK = {"validating": "validate.driftwall.io", "mutating": "mutate.driftwall.io"}
_REGISTRATIONS = "/apis/admissionregistration.k8s.io/v1"
_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
_CONTROLLER_MANAGER = "system:kube-controller-manager"
_TOKEN_SECONDS = 24 * 3600
_KUBECTL_SECONDS = 120  # a kubectl that waits longer than this, for a deletion say, waits for ever
# Bodies of writes are what tests look at; those of reads (discovery, watches) would be most of the log.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": ["get", "list", "watch"]}, {"level": "RequestResponse"}],
}


class KubectlError(RuntimeError):
    """kubectl failed; `completed` holds its exit code and what it wrote."""

    def __init__(self, completed: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{completed.args} ended with {completed.returncode}:\n{completed.stdout}{completed.stderr}")
        self.completed = completed


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager, started by `with` or `start`, gone after it or `stop`.

    `feature_gates` go to both Kubernetes servers, the two lists of flags to one each, after the built-in ones, so
    that they win. Start it from the main thread: its processes die with the thread that started them.
    """

    def __init__(
        self,
        *,
        using: binaries.Binaries | None = None,
        feature_gates: Mapping[str, bool] | None = None,
        api_server_flags: Sequence[str] = (),
        controller_manager_flags: Sequence[str] = (),
        disabled_admission_plugins: Sequence[str] = (),
    ) -> None:
        self._binaries = using
        self._feature_gates = feature_gates
        self._api_server_flags = api_server_flags
        self._controller_manager_flags = controller_manager_flags
        self._disabled_admission_plugins = disabled_admission_plugins
        self._folders: list[processes.Folder] = []
        self._processes: list[processes.Process] = []
        self._tokens: dict[str, str] = {}

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the three servers and return once they serve and the users exist.

        Raises debian.PreparationError without binaries, processes.ProcessDiedError or processes.ConditionError, both
        with the end of a log, if one does not come up; nothing is left running then.
        """
        self._binaries = self._binaries or binaries.find()
        atexit.register(self.stop)
        try:
            self._start(self._binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill what was started and remove the folders; a second call does nothing."""
        # SIGKILL, since nothing is worth saving, and kube-apiserver takes its time over a polite stop.
        for process in reversed(self._processes):
            process.kill()
        self._processes.clear()
        for folder in self._folders:
            folder.remove()
        self._folders.clear()
        atexit.unregister(self.stop)

    def pids(self) -> list[int]:
        """The process ids of what is running: etcd, kube-apiserver, kube-controller-manager."""
        return [process.pid for process in self._processes]

    def check(self) -> None:
        """Raise processes.ProcessDiedError if one of the servers has ended."""
        for process in self._processes:
            process.check()

    def _start(self, using: binaries.Binaries) -> None:
        self._folders = [
            processes.Folder(Path(tempfile.gettempdir())),
            processes.Folder(processes.folder_for_etcd()),
        ]
        self.folder, self.etcd_folder = (folder.path for folder in self._folders)
        self.audit_log = self.folder / "audit.jsonl"
        self.version = _version(using.kube_apiserver)
        self._write_secrets()
        self._start_etcd(using.etcd)
        self._start_api_server(using.kube_apiserver)
        self._start_controller_manager(using.kube_controller_manager)
        self._bind_cluster_admin("driftwall-e2e-users", [_subject("User", user) for user in USERS if user != "admin"])
        for user, (namespace, name) in SERVICE_ACCOUNTS.items():
            self.add_service_account_user(user, namespace, name)

    def _write_secrets(self) -> None:
        authority = Authority("driftwall-e2e")
        self.ca_pem = authority.certificate_pem
        serving = authority.serving("kube-apiserver", ["127.0.0.1", "localhost", "kubernetes.default.svc"])
        self._controller_manager_identity = authority.client(_CONTROLLER_MANAGER)
        self._write("ca.pem", self.ca_pem)
        self._write("api-server.pem", serving[0])
        self._write("api-server.key", serving[1])
        self._write("service-accounts.key", new_private_key())
        self._write("audit-policy.json", json.dumps(_AUDIT_POLICY).encode())
        lines = []
        for user, groups in USERS.items():
            self._tokens[user] = os.urandom(16).hex()
            lines.append(f'{self._tokens[user]},{user},{user}-uid,"{",".join(groups)}"\n')
        self._write("tokens.csv", "".join(lines).encode())
        (self.folder / "home").mkdir()

    def _start_etcd(self, executable: Path) -> None:
        client, peer = (f"http://127.0.0.1:{processes.free_port()}" for _ in range(2))
        self._etcd_url = client
        flags = {
            "--name": "e2e",
            "--data-dir": self.etcd_folder / "data",
            "--listen-client-urls": client,
            "--advertise-client-urls": client,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": f"e2e={peer}",
        }
        self._run(executable, flags).wait_until(lambda: _answers(f"{client}/health"))

    def _start_api_server(self, executable: Path) -> None:
        port = processes.free_port()
        issuer = "https://kubernetes.default.svc"
        flags: dict[str, object] = {
            "--etcd-servers": self._etcd_url,
            "--bind-address": "127.0.0.1",
            "--advertise-address": "127.0.0.1",
            "--secure-port": port,
            "--tls-cert-file": self.folder / "api-server.pem",
            "--tls-private-key-file": self.folder / "api-server.key",
            "--client-ca-file": self.folder / "ca.pem",
            "--token-auth-file": self.folder / "tokens.csv",
            "--authorization-mode": "RBAC",
            "--service-account-key-file": self.folder / "service-accounts.key",
            "--service-account-signing-key-file": self.folder / "service-accounts.key",
            "--service-account-issuer": issuer,
            "--service-cluster-ip-range": "10.96.0.0/16",
            "--allow-privileged": "true",
            "--audit-policy-file": self.folder / "audit-policy.json",
            "--audit-log-path": self.audit_log,
            "--feature-gates": self._gates(),
        }
        if self._disabled_admission_plugins:
            flags["--disable-admission-plugins"] = ",".join(self._disabled_admission_plugins)
        self.url = f"https://127.0.0.1:{port}"
        self._api = Api(port, self.ca_pem.decode())
        server = self._run(executable, flags, self._api_server_flags)
        server.wait_until(lambda: self._api.send("GET", "/readyz", token=self._tokens["admin"])[0] == 200)

    def _start_controller_manager(self, executable: Path) -> None:
        certificate, key = self._controller_manager_identity
        identity = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
        kubeconfig = self._write_kubeconfig("controller-manager", identity)
        port = processes.free_port()
        flags: dict[str, object] = {
            "--kubeconfig": kubeconfig,
            "--authentication-kubeconfig": kubeconfig,
            "--authorization-kubeconfig": kubeconfig,
            "--bind-address": "127.0.0.1",
            "--secure-port": port,
            "--cert-dir": self.folder / "controller-manager",
            "--use-service-account-credentials": "true",
            "--service-account-private-key-file": self.folder / "service-accounts.key",
            "--root-ca-file": self.folder / "ca.pem",
            "--controllers": "*",
            # It renews as always, but a webhook that is down for a test must not make it give up and exit.
            "--leader-elect-lease-duration": "3600s",
            "--leader-elect-renew-deadline": "3000s",
            "--horizontal-pod-autoscaler-sync-period": "1s",
            "--horizontal-pod-autoscaler-downscale-stabilization": "1s",
            "--kube-api-qps": 500,
            "--kube-api-burst": 1000,
            "--feature-gates": self._gates(),
        }
        if self.version < (1, 24):
            flags["--port"] = 0  # the unencrypted port, open to all addresses unless told otherwise
        manager = self._run(executable, flags, self._controller_manager_flags)
        manager.wait_until(self._controllers_work)

    def _controllers_work(self) -> bool:
        """Whether the controllers have written: a port that answers says only that they were started."""
        accounts = "/api/v1/namespaces/default/serviceaccounts/default"
        authority = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"
        return all(self.raw("GET", path)[0] == 200 for path in (accounts, authority))

    def _run(self, executable: Path, flags: Mapping[str, object], more: Sequence[str] = ()) -> processes.Process:
        command: list[str | Path] = [executable, *(f"{flag}={value}" for flag, value in flags.items()), *more]
        process = processes.Process(command, self.folder / f"{executable.name}.log")
        self._processes.append(process)
        return process

    def _gates(self) -> str:
        gates = dict(self._feature_gates or {})
        if self.version < (1, 23):
            gates.setdefault("EphemeralContainers", True)  # alpha until then; pods/ephemeralcontainers needs it
        return ",".join(f"{gate}={str(on).lower()}" for gate, on in gates.items())

    # Talking to it

    def kubectl(
        self,
        *args: str,
        user: str = "admin",
        token: str | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as one of the users, or as the owner of a token, with an empty stdin unless one is given.

        Raises KubectlError if it fails under `check`, KeyError for an unknown user, subprocess.TimeoutExpired.
        """
        assert self._binaries is not None
        kubeconfig = self.kubeconfig(user) if token is None else self._kubeconfig_of_token(token)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder / "home"),
            "KUBECONFIG": str(kubeconfig),
        }
        completed = subprocess.run(
            [str(self._binaries.kubectl), *args],
            input=stdin if stdin is not None else "",
            env=environment,
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
        return self._write_kubeconfig(user, {"token": self.token(user)})

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

    def wait_for(self, predicate: Callable[[], T], what: str, seconds: float = 30) -> T:
        """Look until `predicate` gives something true, and give that; see processes.wait_for.

        Raises ProcessDiedError at once if one of the servers ends meanwhile.
        """

        def alive() -> T:
            self.check()
            return predicate()

        return processes.wait_for(alive, what, seconds)

    def audit_events(self) -> Iterator[Object]:
        """What the audit log holds so far, oldest first; bodies are kept of writes, not of reads."""
        with self.audit_log.open() as lines:
            for line in lines:
                if line.endswith("\n"):  # the last one may still be half written
                    yield json.loads(line)

    # Identities

    def create_namespace(self, name: str) -> str:
        """Create a namespace if it is missing, wait until pods could be made in it, and give its name."""
        self._ensure("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        pods = f"/api/v1/namespaces/{name}/pods"
        self._ensure(f"{pods}?dryRun=All", _pod("driftwall-e2e-probe", "default"), patiently=True)
        return name

    def service_account_token(self, namespace: str, name: str, pod: str | None = None) -> str:
        """A token of a service account from the real TokenRequest API, bound to a Pod object if one is named.

        Namespace, service account and pod are created where they are missing. Raises ApiError.
        """
        self._ensure("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
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
        self._bind_cluster_admin(f"driftwall-e2e-{user}", [_subject("ServiceAccount", name, namespace)])

    def _bind_cluster_admin(self, name: str, subjects: list[Object]) -> None:
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        binding: Object = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
        self._ensure(_BINDINGS, {**binding, "metadata": {"name": name}, "roleRef": role, "subjects": subjects})

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
        kind: Literal["validating", "mutating"] = "validating",
        failure_policy: Literal["Fail", "Ignore"] = "Fail",
        timeout_seconds: int = 10,
        rules: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> None:
        """Register `url` for every write there is, or for `rules`, and return once the API server calls it.

        `more` are further fields of the webhook, such as `namespaceSelector`. What was registered before under the
        same kind is replaced. Raises ApiError, and processes.ConditionError if the server does not take it up.
        """
        self.unregister_webhook(kind=kind)
        everything = [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]
        webhook = {
            "name": _WEBHOOK[kind],
            "clientConfig": {"url": url, "caBundle": _base64(ca_bundle_pem)},
            "rules": [{**rule, "scope": "*"} for rule in everything] if rules is None else list(rules),
            "failurePolicy": failure_policy,
            "matchPolicy": "Equivalent",
            "timeoutSeconds": timeout_seconds,
            "sideEffects": "NoneOnDryRun",
            "admissionReviewVersions": ["v1"],
            **more,
        }
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{kind.capitalize()}WebhookConfiguration",
            "metadata": {"name": WEBHOOK_CONFIGURATION},
            "webhooks": [webhook],
        }
        path = f"{_REGISTRATIONS}/{kind}webhookconfigurations"
        self._api.call("POST", path, configuration, token=self.token("admin"))
        self.wait_for(lambda: self._probe_is_reviewed(kind), f"the {kind} webhook to be in force")

    def unregister_webhook(self, *, kind: Literal["validating", "mutating"] = "validating") -> None:
        """Take the registration away, if there is one, and return once the API server does not call it any more."""
        path = f"{_REGISTRATIONS}/{kind}webhookconfigurations/{WEBHOOK_CONFIGURATION}"
        status, answer = self.raw("DELETE", path)
        if status == 404:
            return
        if status >= 400:
            raise ApiError("DELETE", path, status, answer)
        self.wait_for(lambda: not self._probe_is_reviewed(kind), f"the {kind} webhook to be out of force")

    def _probe_is_reviewed(self, kind: str) -> bool:
        """Whether a write that changes nothing goes through the webhook, whatever that says to it.

        The API server's own count of calls tells; the webhook need not know about it, nor even be up.
        """
        before = self._webhook_calls(kind)
        probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "driftwall-e2e-probe"}}
        self.raw("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", probe)
        return self._webhook_calls(kind) > before

    def _webhook_calls(self, kind: str) -> float:
        text = self._api.send("GET", "/metrics", token=self.token("admin"))[1].decode()
        metric = "apiserver_admission_webhook_admission_duration_seconds_count"
        pattern = rf'(?m)^{metric}{{[^}}]*name="{re.escape(_WEBHOOK[kind])}"[^}}]*}} (\S+)$'
        return sum(float(count) for count in re.findall(pattern, text))

    # Files

    def _write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def _kubeconfig_of_token(self, token: str) -> Path:
        return self._write_kubeconfig(f"token-{hashlib.sha256(token.encode()).hexdigest()[:12]}", {"token": token})

    def _write_kubeconfig(self, user: str, credentials: Mapping[str, str]) -> Path:
        path = self.folder / f"kubeconfig-{user}.json"
        if not path.exists():
            cluster = {"server": self.url, "certificate-authority-data": _base64(self.ca_pem)}
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "e2e", "cluster": cluster}],
                "users": [{"name": user, "user": dict(credentials)}],
                "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": "default"}}],
                "current-context": "e2e",
            }
            path.write_text(json.dumps(config))
        return path


def _subject(kind: str, name: str, namespace: str | None = None) -> Object:
    if namespace is not None:
        return {"kind": kind, "name": name, "namespace": namespace}
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def _pod(name: str, service_account: str) -> Object:
    containers = [{"name": "main", "image": "image.invalid/never-pulled"}]
    specification = {"serviceAccountName": service_account, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": specification}


def _version(executable: Path) -> tuple[int, int]:
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+)\.(\d+)\.", said)
    if found is None:
        raise RuntimeError(f"{executable} --version says {said!r}, which has no version")
    return int(found[1]), int(found[2])


def _answers(url: str) -> bool:
    # An empty ProxyHandler: the environment's proxy must not be asked for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        return bool(response.status == 200)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
