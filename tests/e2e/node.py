"""A node that really runs driftwall's pods: each in a network and a file system of its own, as its specification says.

But for the image: what is run is this checkout. What kubelet does besides is done by the real thing, that is by the
controllers, or not at all.
"""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .api import ApiError, Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .network import Host, Network

NAME = "worker"
_USER = f"system:node:{NAME}"
# Seconds between two rounds, and between two of what kubelet does less often.
_ROUND, _SELDOM = 0.1, 1.0
# A tmpfs over what has to have mount points that this machine does not have; the volumes; the root, as the image's user
# sees it: without rights, and not to be written to.
_SCRIPT = """\
set -eu
mount -t tmpfs tmpfs "$1"
for top in etc run; do
    mkdir -p "$1/$top/upper" "$1/$top/work"
    mount -t overlay -o "lowerdir=/$top,upperdir=$1/$top/upper,workdir=$1/$top/work" overlay "/$top"
done
shift
while [ "$1" != -- ]; do
    mkdir -p "$2"
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
    shift 2
done
shift
mount -o remount,bind,ro /
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


@dataclass(slots=True, kw_only=True)
class Replica:
    """A pod's container that runs; `folder` has what it has written, `volumes` their folders by name.

    `began` and `told`, which is when it was told to end, are on the clock of `time.monotonic`.
    """

    pod: Object
    host: Host
    folder: Path
    popen: subprocess.Popen[bytes]
    volumes: Mapping[str, Path]
    ready: bool = False
    began: float = 0.0
    told: float | None = None
    killed: bool = False
    files: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def container(self) -> Object:
        """The one container of the pod."""
        (container,) = self.pod["spec"]["containers"]
        found: Object = container
        return found

    def seconds(self) -> float:
        """Since it began, but for those that its first thread stood in line for a processor that others had."""
        # https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
        in_line = int(Path(f"/proc/{self.popen.pid}/schedstat").read_text().split()[1])
        return time.monotonic() - self.began - in_line / 1e9

    def get(self, path: str) -> tuple[int, str]:
        """Ask its management port; gives status and answer."""
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        client = http.client.HTTPConnection(self.host.address, ports["management"], timeout=2)
        with contextlib.closing(client) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def messages(self) -> list[dict[str, Any]]:
        """What it has said on stderr so far."""
        lines = (self.folder / "messages.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


class Node:
    """Runs the pods of one namespace, from `with` on, in a thread; at the end nothing that went wrong is forgiven."""

    def __init__(self, plane: ControlPlane, network: Network, namespace: str, folder: Path) -> None:
        self._plane = plane
        self._network = network
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._within = f"/api/v1/namespaces/{namespace}"
        self._folder = folder
        self._free = list(network.hosts)
        self._replicas: dict[str, Replica] = {}
        self._seldom = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node")
        self.problems: list[str] = []
        #: Of all that were ever run.
        self.messages: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}
        self._send("POST", "/api/v1/nodes", node)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for replica in self._replicas.values():
            replica.popen.kill()
            replica.popen.wait()
        if kind is None:
            assert not self.problems, "\n".join(self.problems)

    @property
    def replicas(self) -> list[Replica]:
        """Those that run and are not to end, ready or not."""
        return [replica for replica in tuple(self._replicas.values()) if replica.told is None]

    def kill(self, replica: Replica) -> None:
        """End a container with SIGKILL; as kubelet does, it is started again in its pod."""
        replica.killed = True
        replica.popen.kill()

    def _run(self) -> None:
        while not self._stop.wait(_ROUND):
            try:
                self._round()
            except Exception as error:  # noqa: BLE001 - it is told at the end, and the next round may do better
                self.problems.append(f"{type(error).__name__}: {error}")

    def _round(self) -> None:
        seldom = time.monotonic() - self._seldom > _SELDOM
        if seldom:
            self._seldom = time.monotonic()
            # Not sent is no problem: while driftwall is away, the write of a node may be one that waits for it.
            ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": _now(), "reason": "KubeletReady"}
            self._plane.raw("PATCH", f"/api/v1/nodes/{NAME}/status", {"status": {"conditions": [ready]}}, **_MERGE)
        there = {pod["metadata"]["uid"]: pod for pod in self._plane.get(self._pods)["items"]}
        for uid in self._replicas.keys() - there.keys():
            self._take_away(uid)
        for uid, pod in there.items():
            path = f"{self._pods}/{pod['metadata']['name']}"
            if (replica := self._replicas.get(uid)) is not None:
                replica.pod = pod
                self._tend(uid, replica, path, refresh=seldom)
            elif "deletionTimestamp" in pod["metadata"]:
                self._gone(path)
            elif not pod["spec"].get("nodeName"):
                self._send("POST", f"{path}/binding", _binding(pod), user="admin")
            else:
                self._start(uid, pod)

    def _tend(self, uid: str, replica: Replica, path: str, *, refresh: bool) -> None:
        code = replica.popen.poll()
        if code is not None and replica.killed:
            self._take_away(uid)
            self._free.remove(replica.host)
            self._free.insert(0, replica.host)  # the pod keeps its address
            self._start(uid, replica.pod)
        elif code is not None:
            if replica.told is None or code != 0:
                said = (replica.folder / "messages.jsonl").read_text()
                self.problems.append(f"pod {replica.name} ended with {code}:\n{said}")
            self._take_away(uid)
            self._gone(path)
        elif replica.told is not None:
            if time.monotonic() > replica.told + replica.pod["spec"]["terminationGracePeriodSeconds"]:
                self.problems.append(f"pod {replica.name} did not end within its grace period")
                replica.popen.kill()
        elif "deletionTimestamp" in replica.pod["metadata"]:
            replica.told = time.monotonic()
            replica.popen.send_signal(signal.SIGTERM)
        else:
            if refresh:
                with contextlib.suppress(ApiError):  # what is gone stays as it was
                    self._fill(replica)
            if (ready := _answers(replica)) != replica.ready:
                replica.ready = ready
                self._report(replica, path)

    def _start(self, uid: str, pod: Object) -> None:
        folder = Path(tempfile.mkdtemp(prefix=f"{pod['metadata']['name']}-", dir=self._folder))
        volumes = {volume["name"]: folder / volume["name"] for volume in pod["spec"]["volumes"]}
        scratch = folder / "scratch"
        for made in (scratch, *volumes.values()):
            made.mkdir()
        host = self._free.pop(0)
        (container,) = pod["spec"]["containers"]
        mounts = [part for mount in container["volumeMounts"] for part in (volumes[mount["name"]], mount["mountPath"])]
        replica = Replica(pod=pod, host=host, folder=folder, popen=None, volumes=volumes)  # type: ignore[arg-type]
        self._fill(replica)
        isolated = ["setpriv", "--pdeathsig", "KILL", *host.enter, "unshare", "--mount", "sh", "-c", _SCRIPT, "sh"]
        with (folder / "decisions.jsonl").open("wb") as out, (folder / "messages.jsonl").open("wb") as err:
            replica.began = time.monotonic()
            replica.popen = subprocess.Popen(
                [*isolated, scratch, *mounts, "--", "driftwall", *container["args"]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
                env={**self._surroundings(pod), **{each["name"]: _value(each, pod) for each in container["env"]}},
                start_new_session=True,
            )
        self._replicas[uid] = replica
        Driftwall.all_decisions.append(folder / "decisions.jsonl")
        self._report(replica, f"{self._pods}/{replica.name}")

    def _surroundings(self, pod: Object) -> dict[str, str]:
        """What the image and Kubernetes put into the environment of every container."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOSTNAME": pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": self._network.gateway,
            "KUBERNETES_SERVICE_PORT": self._plane.url.rpartition(":")[2],
        }

    def _take_away(self, uid: str) -> None:
        replica = self._replicas.pop(uid)
        replica.popen.kill()
        replica.popen.wait()
        self.messages += replica.messages()
        self._free.append(replica.host)

    def _gone(self, path: str) -> None:
        self._send("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})

    def _report(self, replica: Replica, path: str) -> None:
        status = "True" if replica.ready else "False"
        conditions = [{"type": kind, "status": "True"} for kind in ("Initialized", "PodScheduled")]
        conditions += [{"type": kind, "status": status} for kind in ("ContainersReady", "Ready")]
        address = replica.host.address
        running = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _now(),
            "conditions": conditions,
        }
        self._send("PATCH", f"{path}/status", {"status": running})

    # Volumes

    def _fill(self, replica: Replica) -> None:
        """Bring the pod's volumes up to date. A token is made once: it outlives the test."""
        for volume in replica.pod["spec"]["volumes"]:
            name = volume["name"]
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            before = replica.files.get(name, {})
            files: dict[str, bytes] = {}
            for source in sources:
                files |= self._content(replica.pod, source, before)
            if files != before:
                replica.files[name] = files
                _swap(replica.volumes[name], files)

    def _content(self, pod: Object, source: Object, before: Mapping[str, bytes]) -> dict[str, bytes]:
        """The files of one source of a volume."""
        if "configMap" in source:
            wanted = source["configMap"]
            data = self._plane.get(f"{self._within}/configmaps/{wanted['name']}").get("data", {})
            paths = {item["key"]: item["path"] for item in wanted.get("items", [])} or {key: key for key in data}
            return {path: data[key].encode() for key, path in paths.items()}
        if "secret" in source:
            secret = self._plane.get(f"{self._within}/secrets/{source['secret']['secretName']}")
            return {key: b64decode(value) for key, value in secret["data"].items()}
        if "downwardAPI" in source:
            items = source["downwardAPI"]["items"]
            return {item["path"]: _field(item["fieldRef"]["fieldPath"], pod).encode() for item in items}
        wanted = source["serviceAccountToken"]
        if wanted["path"] in before:
            return {wanted["path"]: before[wanted["path"]]}
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": wanted["expirationSeconds"], "boundObjectRef": bound},
        }
        path = f"{self._within}/serviceaccounts/{pod['spec']['serviceAccountName']}/token"
        return {wanted["path"]: self._send("POST", path, request)["status"]["token"].encode()}

    def _send(self, method: str, path: str, body: Object, user: str = _USER) -> Object:
        status, answer = self._plane.raw(method, path, body, **{**(_MERGE if method == "PATCH" else {}), "user": user})
        # 404 and 409: a controller was faster.
        if status >= 300 and status not in (404, 409):
            raise ApiError(method, path, status, answer)
        return answer


_MERGE: dict[str, Any] = {"user": _USER, "headers": {"Content-Type": "application/strategic-merge-patch+json"}}


def _binding(pod: Object) -> Object:
    target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
    return {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}, "target": target}


def _answers(replica: Replica) -> bool:
    """Whether the readiness probe succeeds."""
    probe = replica.container["readinessProbe"]["httpGet"]
    assert probe["port"] == "management"
    try:
        return replica.get(probe["path"])[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _value(variable: Mapping[str, Any], pod: Object) -> str:
    """A variable of the environment, the downward API resolved."""
    if "value" in variable:
        return str(variable["value"])
    return _field(variable["valueFrom"]["fieldRef"]["fieldPath"], pod)


def _field(path: str, pod: Object) -> str:
    found: Any = pod
    for key in path.split("."):
        found = found[key]
    return str(found)


def _swap(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a volume as kubelet does: all at once, behind a link."""
    data = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    for name, content in files.items():
        (data / name).write_bytes(content)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.replace(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
