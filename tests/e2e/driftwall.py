"""The real `driftwall serve` in a process of its own, in the way of every write to a control plane."""

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from tests.serving import certificates, environment

from . import processes
from .api import Api, ApiError, Object
from .clock import Clock
from .control_plane import ControlPlane

Line = dict[str, Any]

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "webhook")
# Namespaces that are guarded in another mode than all the others.
WARNED, SILENT = "guarded-by-warnings", "guarded-in-silence"
# Config Sync's own identity, beside those of the control plane's SERVICE_ACCOUNTS.
CONFIG_SYNC = ("config-management-system", "root-reconciler")

POLICIES = f"""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  clusterId: e2e
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller, flux-system/helm-controller]
      fieldManagers: [kustomize-controller, helm-controller]
    - name: argocd
      serviceAccounts: [argocd/argocd-application-controller]
      fieldManagers: [argocd-controller]
    - name: configsync
      serviceAccounts: ["{"/".join(CONFIG_SYNC)}"]
      fieldManagers: [configsync.gke.io]
  guardIdentities: true
  breakGlass:
    groups: [sre]
    reasonPattern: '^INC-[0-9]+: .+'
    maxDuration: 4h
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: declared-fields
spec:
  mode: enforce
  description: What Git declares, only the GitOps identity changes.
  match:
    excludeNamespaces: [{WARNED}, {SILENT}]
  protect:
    declared: true
    deletion: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: opened-ports
spec:
  mode: enforce
  description: Nobody opens a port by hand on a managed object.
  severity: high
  match:
    excludeNamespaces: [{WARNED}, {SILENT}]
  protect:
    fieldSets: [openedPorts]
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: warned-fields
spec:
  mode: warn
  match:
    namespaces: [{WARNED}]
  protect:
    declared: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: tried-out-fields
spec:
  mode: dryRun
  match:
    namespaces: [{SILENT}]
  protect:
    declared: true
"""

# What driftwall reads: parents of `scale` and of children, Namespaces, and where custom resources keep their replicas.
# What it writes: Events, and its mark on the parent of a `scale`.
_RULES = (
    {"apiGroups": [""], "resources": ["namespaces", "pods", "replicationcontrollers"], "verbs": ["get"]},
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "replicasets"], "verbs": ["get"]},
    {"apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": ["get"]},
    {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]},
    {"apiGroups": ["e2e.example.com"], "resources": ["*"], "verbs": ["get", "patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["replicationcontrollers"], "verbs": ["patch"]},
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "replicasets"], "verbs": ["patch"]},
)
# What the mutating webhook is called for; a patch on DELETE would make that fail.
_MUTABLE = (
    {"operations": ["CREATE", "UPDATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "*"},
)
# API servers before v1.23 leave the managedFields of the old object out of a review, so it reads any managed object.
_READS_BEFORE_1_23: Sequence[Object] = ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]},)
_RBAC = "rbac.authorization.k8s.io"


class Driftwall:
    """A `driftwall serve` that is ready from `start`, or `with`, until `stop`; `register` puts it in the way.

    `decisions` and `messages_file` are the files of its stdout and stderr, `policies` and `ca_file` what it was started
    with, and `url` is where it is, without a path; `management` is its other port. It goes by `clock`, if one is given;
    `flags` are further ones, and `command` is what is run with them.
    """

    all_decisions: ClassVar[list[Path]] = []  # of every one that was started, for who looks at a whole run

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        policies: str = POLICIES,
        *,
        clock: Clock | None = None,
        flags: Sequence[str] = (),
        command: Sequence[str | Path] = COMMAND,
    ) -> None:
        self._plane = plane
        self._folder = folder
        self._text = policies
        self._environment: Mapping[str, str] = clock.environment if clock is not None else {}
        self._flags = flags
        self._command = command
        self._popen: subprocess.Popen[bytes] | None = None
        self._registered = False
        self.decisions, self.messages_file = folder / "decisions.jsonl", folder / "messages.jsonl"
        self.policies = folder / "policies"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # Life

    def start(self) -> None:
        """Start it with certificates and an identity of its own, and return once it is ready.

        Raises processes.ProcessDiedError or processes.ConditionError, both with its messages; nothing runs then.
        """
        self._certificates = made = certificates(self._folder)
        self.ca_file = made.ca_file
        kubeconfig = self._folder / "kubeconfig.json"
        self.policies.mkdir()
        (self.policies / "policies.yaml").write_text(self._text)
        kubeconfig.write_text(self._kubeconfig())
        flags = {
            "policies": self.policies,
            "tls-cert": made.cert_file,
            "tls-key": made.key_file,
            "kubeconfig": kubeconfig,
            "listen": "127.0.0.1:0",
            "management-listen": "127.0.0.1:0",
        }
        self._serve = [*self._command, "serve", *(f"--{name}={value}" for name, value in flags.items()), *self._flags]
        self.run()
        self.all_decisions.append(self.decisions)

    def run(self, *, until: str = "ready") -> None:
        """Run what `start` has prepared, again if it was killed, and return once it says that it is ready, or `until`.

        Raises as `start` does.
        """
        with self.decisions.open("ab") as out, self.messages_file.open("ab") as err:
            said = self.messages_file.stat().st_size
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._serve],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment(**self._environment),
                start_new_session=True,  # a Ctrl-C is for pytest, which then stops it in good order
            )
        try:
            told = processes.wait_for(lambda: self._said(until, said), f"driftwall to say {until!r}")
        except BaseException:
            self._popen.kill()
            self._popen.wait()
            raise
        assert told is not None
        self.url, self.management = told["listen"], told["management"]

    def stop(self) -> None:
        """Unregister it, end it with SIGTERM and assert that it ended well; a second call does nothing."""
        if self._popen is None:
            return
        popen, self._popen = self._popen, None
        try:
            self.unregister()
        finally:
            popen.send_signal(signal.SIGTERM)
            try:
                code = popen.wait(timeout=30)
            except subprocess.TimeoutExpired:
                popen.kill()
                raise
        assert code == 0, self.messages_file.read_text()
        assert [line for line in self.messages() if "traceback" in line or line["level"] == "error"] == []

    def kill(self) -> None:
        """End it with SIGKILL, and leave it registered; a second call does nothing."""
        if self._popen is None:
            return
        popen, self._popen = self._popen, None
        popen.kill()
        popen.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._popen is not None
        self._popen.send_signal(number)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._popen is not None
        return self._popen.pid

    def register(self) -> None:
        """Put both its webhooks in the way of every write to everything; where one fails, the write fails."""
        ca = self._certificates.ca.certificate
        self._registered = True
        # First, so that no break-glass is ever judged that nothing has stamped.
        self._plane.register_webhook(
            f"{self.url}/mutate",
            ca,
            kind="mutating",
            failurePolicy="Fail",
            rules=list(_MUTABLE),
            reinvocationPolicy="IfNeeded",
        )
        self._plane.register_webhook(f"{self.url}/validate", ca, failurePolicy="Fail")

    def unregister(self) -> None:
        """Take it out of the way, if it is in it: there may be another one by the same name."""
        if not self._registered:
            return
        self._plane.unregister_webhook()
        self._plane.unregister_webhook(kind="mutating")
        self._registered = False

    @contextlib.contextmanager
    def in_the_way(self) -> Iterator[Self]:
        """`register` and `unregister`."""
        self.register()
        try:
            yield self
        finally:
            self.unregister()

    # What it says

    def log(self, **wanted: Any) -> list[Line]:
        """The decision log so far, as far as its lines have the wanted values, such as `user="alice"`."""
        return [line for line in _lines(self.decisions) if wanted.items() <= line.items()]

    def await_log(self, lines: int = 1, **wanted: Any) -> list[Line]:
        """The same, once it has that many such lines: they are written a moment after the answer."""
        return self._plane.wait_for(
            lambda: (found := self.log(**wanted))[lines - 1 :] and found, f"{lines} lines of {wanted} in the log"
        )

    def messages(self) -> list[Line]:
        """What it has said on stderr so far."""
        return _lines(self.messages_file)

    def metrics(self) -> str:
        """What a scrape of /metrics gives."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is asked for loopback
        with opener.open(f"{self.management}/metrics", timeout=10) as response:
            text: str = response.read().decode()
        return text

    def _said(self, text: str, since: int) -> Line | None:
        assert self._popen is not None
        if (code := self._popen.poll()) is not None:
            raise processes.ProcessDiedError(f"driftwall ended with {code}:\n{self.messages_file.read_text()}")
        return next((line for line in _lines(self.messages_file, since) if line["message"] == text), None)

    def _kubeconfig(self) -> str:
        """A kubeconfig of a service account that may read what driftwall has to, and nothing else."""
        name, account = "driftwall", ("driftwall-system", "driftwall")
        token = self._plane.service_account_token(*account)
        group = f"{_RBAC}/v1"
        rules = [*_RULES, *(_READS_BEFORE_1_23 if self._plane.version < (1, 23) else ())]
        role = {"apiVersion": group, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
        binding = {
            "apiVersion": group,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": account[0], "name": account[1]}],
        }
        for collection, wanted in (("clusterroles", role), ("clusterrolebindings", binding)):
            path = f"/apis/{group}/{collection}"
            status, answer = self._plane.raw("POST", path, wanted)
            if status not in (201, 409):
                raise ApiError("POST", path, status, answer)
        port = urlsplit(self._plane.url).port
        assert port is not None
        return Api(port, self._plane.ca_pem.decode()).kubeconfig(name, token=token)


def _lines(file: Path, since: int = 0) -> list[Line]:
    # The last line may still be half written.
    text = file.read_bytes()[since:].decode()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
