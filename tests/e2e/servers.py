"""The three servers of a control plane, with the flags that they are run with."""

import json
import os
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .api import Api
from .binaries import Binaries
from .certificates import Authority, new_private_key

# Bodies of writes are what tests look at; those of reads (discovery, watches) would be most of the log, and those of
# `depths` are nested so deeply that nobody could read it any more.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata", "resources": [{"group": "e2e.example.com", "resources": ["depths"]}]},
        {"level": "RequestResponse"},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a test may want otherwise: `feature_gates` of both Kubernetes servers, and flags that win over ours.

    `addresses` are those that the API server is reached at beside loopback.
    """

    feature_gates: Mapping[str, bool] = field(default_factory=dict)
    api_server_flags: Sequence[str] = ()
    controller_manager_flags: Sequence[str] = ()
    disabled_admission_plugins: Sequence[str] = ()
    addresses: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody whom the API server knows by a token."""

    token: str
    groups: Sequence[str]


class Servers:
    """etcd, kube-apiserver and kube-controller-manager, running since `start` has returned and until `stop`.

    `folder` holds their logs, keys and the audit log, `etcd_folder` etcd's data, `version` is the API server's.
    """

    def __init__(self, binaries: Binaries, options: Options, users: Mapping[str, User]) -> None:
        self._binaries = binaries
        self._options = options
        self._users = users
        self._admin = users["admin"].token
        self._processes: list[processes.Process] = []
        self._authority = Authority("driftwall-e2e")
        self.version = _version(binaries.kube_apiserver)
        self._folders = [
            processes.Folder(Path(tempfile.gettempdir())),
            processes.Folder(processes.folder_for_etcd()),
        ]
        self.folder, self.etcd_folder = (folder.path for folder in self._folders)
        self.audit_log = self.folder / "audit.jsonl"
        self.api = Api(processes.free_port(), self._authority.certificate_pem.decode())

    def start(self) -> None:
        """Start one after the other, each when the one before it serves.

        Raises processes.ProcessDiedError or processes.ConditionError, both with the end of a log.
        """
        self._write_secrets()
        self._start_etcd()
        self._start_api_server()
        self._start_controller_manager()

    def stop(self) -> None:
        """Kill all three and remove the folders; a second call does nothing."""
        # SIGKILL, since nothing is worth saving, and kube-apiserver takes its time over a polite stop.
        for process in reversed(self._processes):
            process.kill()
        self._processes.clear()
        for folder in self._folders:
            folder.remove()

    def check(self) -> None:
        """Raise processes.ProcessDiedError if one of the servers has ended."""
        for process in self._processes:
            process.check()

    def restart_api_server(self) -> None:
        """Kill kube-apiserver, if it is there, and start it anew, where it was; returns once it serves.

        Raises processes.ProcessDiedError or processes.ConditionError, both with the end of a log.
        """
        self.kill_api_server()
        self._start_api_server()

    def kill_api_server(self) -> None:
        """Kill kube-apiserver."""
        for process in self._of_api_server():
            self._processes.remove(process)
            process.kill()

    def signal_api_server(self, number: int) -> None:
        """Send kube-apiserver a signal."""
        for process in self._of_api_server():
            os.kill(process.pid, number)

    def _of_api_server(self) -> list[processes.Process]:
        return [process for process in self._processes if process.name == self._binaries.kube_apiserver.name]

    def compact(self, revision: int) -> None:
        """Make etcd forget what was before a revision, by its gateway for JSON."""
        body = json.dumps({"revision": str(revision), "physical": True}).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._etcd_url}/v3/kv/compaction", body, timeout=10) as response:
            assert response.status == 200

    def pids(self) -> list[int]:
        """The process ids of what is running: etcd, kube-apiserver, kube-controller-manager."""
        return [process.pid for process in self._processes]

    def _write_secrets(self) -> None:
        certificate, key = self._authority.serving(
            "kube-apiserver", ["127.0.0.1", "localhost", "kubernetes.default.svc", *self._options.addresses]
        )
        rows = [f'{user.token},{name},{name}-uid,"{",".join(user.groups)}"' for name, user in self._users.items()]
        contents = {
            "ca.pem": self._authority.certificate_pem,
            "api-server.pem": certificate,
            "api-server.key": key,
            "service-accounts.key": new_private_key(),
            "tokens.csv": "\n".join(rows).encode(),
            "audit-policy.json": json.dumps(_AUDIT_POLICY).encode(),
        }
        for name, content in contents.items():
            (self.folder / name).write_bytes(content)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{processes.free_port()}" for _ in range(2))
        flags = {
            "name": "e2e",
            "data-dir": self.etcd_folder / "data",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"e2e={peer}",
        }
        self._etcd_url = client
        self._run(self._binaries.etcd, flags).wait_until(lambda: _answers(f"{client}/health"))

    def _start_api_server(self) -> None:
        flags: dict[str, object] = {
            "etcd-servers": self._etcd_url,
            # It binds one address or all; those of a test's own hosts are behind links of this machine's own.
            "bind-address": "0.0.0.0" if self._options.addresses else "127.0.0.1",  # noqa: S104
            "advertise-address": "127.0.0.1",
            "secure-port": self.api.port,
            "tls-cert-file": self.folder / "api-server.pem",
            "tls-private-key-file": self.folder / "api-server.key",
            "client-ca-file": self.folder / "ca.pem",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-key-file": self.folder / "service-accounts.key",
            "service-account-signing-key-file": self.folder / "service-accounts.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-cluster-ip-range": "10.96.0.0/16",
            "allow-privileged": "true",
            "audit-policy-file": self.folder / "audit-policy.json",
            "audit-log-path": self.audit_log,
            **self._feature_gates(),
        }
        if self._options.disabled_admission_plugins:
            flags["disable-admission-plugins"] = ",".join(self._options.disabled_admission_plugins)
        server = self._run(self._binaries.kube_apiserver, flags, self._options.api_server_flags)
        server.wait_until(lambda: self.api.send("GET", "/readyz", token=self._admin)[0] == 200)

    def _start_controller_manager(self) -> None:
        name = "system:kube-controller-manager"
        kubeconfig = self.folder / "controller-manager.json"
        kubeconfig.write_text(self.api.kubeconfig(name, certificate=self._authority.client(name)))
        flags: dict[str, object] = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "secure-port": processes.free_port(),
            "cert-dir": self.folder / "controller-manager",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self.folder / "service-accounts.key",
            "root-ca-file": self.folder / "ca.pem",
            # It renews as always, but a webhook that is down for a test must not make it give up and exit.
            "leader-elect-lease-duration": "3600s",
            "leader-elect-renew-deadline": "3000s",
            "horizontal-pod-autoscaler-sync-period": "1s",
            "horizontal-pod-autoscaler-downscale-stabilization": "1s",
            # Twenty requests a second, the default, would be what most tests wait for.
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            **self._feature_gates(),
        }
        if self.version < (1, 24):
            flags["port"] = 0  # the unencrypted port, open to all addresses unless told otherwise
        manager = self._run(self._binaries.kube_controller_manager, flags, self._options.controller_manager_flags)
        manager.wait_until(self._controllers_work)

    def _controllers_work(self) -> bool:
        """Whether the controllers have written: a port that answers says only that they were started."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        authority = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"
        return all(self.api.send("GET", path, token=self._admin)[0] == 200 for path in (account, authority))

    def _feature_gates(self) -> dict[str, str]:
        gates = dict(self._options.feature_gates)
        if self.version < (1, 23):
            gates.setdefault("EphemeralContainers", True)  # alpha until then; pods/ephemeralcontainers needs it
        if self.version < (1, 21):
            gates.setdefault("BoundServiceAccountTokenVolume", True)  # alpha until then: the token of a pod is its own
        listed = ",".join(f"{gate}={str(on).lower()}" for gate, on in gates.items())
        return {"feature-gates": listed} if listed else {}

    def _run(self, executable: Path, flags: Mapping[str, object], more: Sequence[str] = ()) -> processes.Process:
        command: list[str | Path] = [executable, *(f"--{flag}={value}" for flag, value in flags.items()), *more]
        process = processes.Process(command, self.folder / f"{executable.name}.log")
        self._processes.append(process)
        return process


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
