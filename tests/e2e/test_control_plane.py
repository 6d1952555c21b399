"""The control plane is what it claims to be: real servers, real identities, real controllers, and nothing left over."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import processes
from .api import Object
from .control_plane import SERVICE_ACCOUNTS, USERS, ControlPlane, KubectlError
from .recorder import Recorder, recording

DEPLOYMENTS = "/apis/apps/v1/namespaces/{namespace}/deployments"


def deployment(name: str, *, replicas: int = 2) -> Object:
    labels = {"app": name}
    containers = [{"name": "main", "image": "image.invalid/web:1"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    specification = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": specification}


def things() -> Object:
    """A CustomResourceDefinition with a scale subresource."""
    subresources = {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": subresources, "schema": schema}
    named = {"kind": "Thing", "plural": "things", "singular": "thing"}
    specification = {"group": "driftwall.test", "scope": "Namespaced", "names": named, "versions": [version]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.driftwall.test"},
        "spec": specification,
    }


def create_deployment(plane: ControlPlane, namespace: str, name: str, *, replicas: int = 2) -> None:
    path = DEPLOYMENTS.format(namespace=plane.create_namespace(namespace))
    status, answer = plane.raw("POST", path, deployment(name, replicas=replicas))
    assert status == 201, answer


def names(plane: ControlPlane, kind: str, namespace: str) -> list[str]:
    return [item["metadata"]["name"] for item in plane.get(kind, None, namespace)["items"]]


def replicas(plane: ControlPlane, namespace: str, name: str) -> int:
    count: int = plane.get("deployment", name, namespace)["spec"]["replicas"]
    return count


def review_of(recorder: Recorder, **wanted: str) -> Object:
    return processes.wait_for(lambda: recorder.requests(**wanted), f"a review with {wanted}")[-1]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # killed, but its new parent has not looked yet


def test_the_server_is_the_one_whose_binary_was_found(control_plane: ControlPlane) -> None:
    status, version = control_plane.raw("GET", "/version")
    assert status == 200
    assert re.fullmatch(rf"v{control_plane.version[0]}\.{control_plane.version[1]}\.\d+", version["gitVersion"])


@pytest.mark.parametrize("user", [*USERS, *SERVICE_ACCOUNTS])
def test_rbac_stops_nobody(control_plane: ControlPlane, user: str) -> None:
    assert control_plane.kubectl("auth", "can-i", "*", "*", "--all-namespaces", user=user).stdout == "yes\n"


def test_a_stranger_is_stopped_by_rbac(control_plane: ControlPlane) -> None:
    token = control_plane.service_account_token("strangers", "nobody")
    with pytest.raises(KubectlError, match="cannot create resource"):
        control_plane.kubectl("create", "namespace", "no", token=token)


def test_the_audit_log_holds_the_body_of_a_write(control_plane: ControlPlane) -> None:
    control_plane.create_namespace("audited")
    control_plane.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", "audited", user="alice")

    def written() -> list[Object]:
        wanted = {"resource": "configmaps", "namespace": "audited", "name": "kept"}
        events = (event for event in control_plane.audit_events() if event["verb"] == "create")
        return [event for event in events if wanted.items() <= event.get("objectRef", {}).items()]

    event = control_plane.wait_for(written, "the write in the audit log")[0]
    assert event["user"]["username"] == "alice"
    assert event["requestObject"]["data"] == {"a": "b"}
    assert event["responseStatus"]["code"] == 201


def test_a_webhook_sees_who_writes(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("identities")
    bound = control_plane.service_account_token(*SERVICE_ACCOUNTS["flux"], pod="kustomize-controller-0")
    create = ("create", "configmap", "-n", namespace)
    flux = "system:serviceaccount:flux-system:kustomize-controller"
    with recording() as recorder:
        control_plane.register_webhook(recorder.url, recorder.ca_pem)
        try:
            control_plane.kubectl(*create, "of-alice", user="alice")
            control_plane.kubectl(*create, "of-flux", user="flux")
            control_plane.kubectl(*create, "of-its-pod", token=bound)
            control_plane.kubectl(*create, "as-flux", f"--as={flux}", user="alice")
        finally:
            control_plane.unregister_webhook()
        by = {
            name: review_of(recorder, name=name)["userInfo"]
            for name in ("of-alice", "of-flux", "of-its-pod", "as-flux")
        }

    assert by["of-alice"] == {"username": "alice", "uid": "alice-uid", "groups": ["developers", "system:authenticated"]}
    account = control_plane.get("serviceaccount", "kustomize-controller", "flux-system")
    assert by["of-flux"]["username"] == flux
    assert by["of-flux"]["uid"] == account["metadata"]["uid"]
    groups = ["system:serviceaccounts", "system:serviceaccounts:flux-system", "system:authenticated"]
    assert by["of-flux"]["groups"] == groups
    assert by["of-its-pod"]["extra"]["authentication.kubernetes.io/pod-name"] == ["kustomize-controller-0"]
    assert by["as-flux"] == {"username": flux, "groups": groups}


def test_the_controllers_write_through_the_webhook_under_their_own_names(control_plane: ControlPlane) -> None:
    with recording() as recorder:
        control_plane.register_webhook(recorder.url, recorder.ca_pem)
        try:
            create_deployment(control_plane, "watched", "web")
            control_plane.wait_for(lambda: len(names(control_plane, "pods", "watched")) == 2, "two pods")
            lease = review_of(recorder, namespace="kube-system", name="kube-controller-manager")
        finally:
            control_plane.unregister_webhook()
        created = recorder.requests(namespace="watched", operation="CREATE")

    writers = {request["resource"]["resource"]: request["userInfo"]["username"] for request in created}
    assert writers["replicasets"] == "system:serviceaccount:kube-system:deployment-controller"
    assert writers["pods"] == "system:serviceaccount:kube-system:replicaset-controller"
    assert lease["userInfo"]["username"] == "system:kube-controller-manager"


def test_a_webhook_that_is_down_blocks_writes_until_it_is_taken_away(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("closed")
    create = ("create", "configmap", "one", "-n", namespace)
    nobody = f"https://127.0.0.1:{processes.free_port()}/"
    control_plane.register_webhook(nobody, control_plane.ca_pem)
    try:
        with pytest.raises(KubectlError, match=r'failed calling webhook "validate\.driftwall\.io"'):
            control_plane.kubectl(*create)
    finally:
        control_plane.unregister_webhook()
    control_plane.kubectl(*create)


def test_a_mutating_webhook_stands_beside_the_validating_one(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("both")
    with recording() as mutating, recording() as validating:
        control_plane.register_webhook(mutating.url, mutating.ca_pem, kind="mutating")
        control_plane.register_webhook(validating.url, validating.ca_pem)
        try:
            control_plane.kubectl("create", "configmap", "one", "-n", namespace, user="alice")
        finally:
            control_plane.unregister_webhook(kind="mutating")
            control_plane.unregister_webhook()
        assert mutating.requests(name="one")
        assert validating.requests(name="one")


def test_a_rollout_creates_pods_through_the_real_controllers(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "rollout", "web", replicas=2)
    control_plane.wait_for(lambda: len(names(control_plane, "pods", "rollout")) == 2, "two pods")
    control_plane.kubectl("set", "image", "deployment/web", "main=image.invalid/web:2", "-n", "rollout", user="alice")
    control_plane.wait_for(lambda: len(names(control_plane, "rs", "rollout")) == 2, "a second ReplicaSet")


def test_a_deleted_deployment_takes_its_replica_sets_and_pods_with_it(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "garbage", "web")
    control_plane.wait_for(lambda: names(control_plane, "pods", "garbage"), "pods")
    control_plane.kubectl("delete", "deployment", "web", "-n", "garbage")
    control_plane.wait_for(lambda: not names(control_plane, "pods", "garbage"), "the pods to go")
    control_plane.wait_for(lambda: not names(control_plane, "replicasets", "garbage"), "the ReplicaSets to go")


def test_a_deleted_namespace_goes_with_all_that_is_in_it(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "doomed", "web")
    control_plane.kubectl("delete", "namespace", "doomed", "--wait=false")
    control_plane.wait_for(lambda: not control_plane.exists("namespace", "doomed"), "the namespace to go", 60)


def test_the_scale_subresource_works(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "scaled", "web", replicas=1)
    control_plane.kubectl("scale", "deployment/web", "--replicas=3", "-n", "scaled", user="bob")
    scale = control_plane.get(DEPLOYMENTS.format(namespace="scaled") + "/web/scale")
    assert scale["kind"] == "Scale"
    assert scale["spec"] == {"replicas": 3}
    control_plane.wait_for(lambda: len(names(control_plane, "pods", "scaled")) == 3, "three pods")


def test_custom_resources_are_served_and_scaled(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("custom")
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(things()))
    control_plane.kubectl("wait", "--for=condition=Established", "crd/things.driftwall.test")
    thing = {"apiVersion": "driftwall.test/v1", "kind": "Thing", "metadata": {"name": "one"}, "spec": {"replicas": 1}}
    apply = ("apply", "--server-side", "-n", namespace, "-f", "-")
    control_plane.wait_for(lambda: control_plane.kubectl(*apply, stdin=json.dumps(thing)), "the new kind to be served")
    control_plane.kubectl("scale", "thing/one", "--replicas=2", "-n", namespace, user="alice")
    assert control_plane.get("things.driftwall.test", "one", namespace)["spec"] == {"replicas": 2}


def test_an_autoscaler_keeps_replicas_within_its_bounds_without_any_metrics(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "autoscaled", "web", replicas=1)
    bounds = ("--min=3", "--max=5", "--cpu-percent=80")
    control_plane.kubectl("autoscale", "deployment", "web", *bounds, "-n", "autoscaled")
    control_plane.wait_for(lambda: replicas(control_plane, "autoscaled", "web") == 3, "the autoscaler to scale up")
    control_plane.kubectl("scale", "deployment/web", "--replicas=9", "-n", "autoscaled", user="alice")
    control_plane.wait_for(lambda: replicas(control_plane, "autoscaled", "web") == 5, "the autoscaler to scale down")


def test_a_pod_takes_an_ephemeral_container(control_plane: ControlPlane) -> None:
    create_deployment(control_plane, "debugged", "web", replicas=1)
    pod = control_plane.wait_for(lambda: names(control_plane, "pods", "debugged"), "a pod")[0]
    control_plane.kubectl("debug", pod, "--image=image.invalid/shell", "-n", "debugged", user="sre")
    added = control_plane.get("pod", pod, "debugged")["spec"]["ephemeralContainers"]
    assert [container["image"] for container in added] == ["image.invalid/shell"]


def test_an_object_comes_with_its_managed_fields(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("managed")
    apply = ("apply", "--server-side", "--field-manager=kustomize-controller", "-n", namespace, "-f", "-")
    control_plane.kubectl(*apply, user="flux", stdin=json.dumps(deployment("web")))
    entries = control_plane.get("deploy", "web", namespace)["metadata"]["managedFields"]
    assert ("kustomize-controller", "Apply") in {(entry["manager"], entry["operation"]) for entry in entries}


def test_nothing_is_left_after_it_was_stopped(control_plane: ControlPlane) -> None:
    with ControlPlane() as second:
        pids, folders = second.pids(), [second.folder, second.etcd_folder]
        assert len(pids) == 3
        assert all(is_running(pid) for pid in pids)
    assert [pid for pid in pids if is_running(pid)] == []
    assert [folder for folder in folders if folder.exists()] == []


def test_nothing_is_left_after_its_owner_was_killed(control_plane: ControlPlane) -> None:
    program = (
        f"from {ControlPlane.__module__} import ControlPlane\n"
        "with ControlPlane() as plane:\n"
        "    print(*plane.pids(), plane.folder, plane.etcd_folder, flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        *pids, folder, etcd_folder = owner.stdout.readline().split()
        assert len(pids) == 3
        owner.send_signal(signal.SIGKILL)
    processes.wait_for(lambda: not any(is_running(int(pid)) for pid in pids), "the processes to go")
    for left in (Path(folder), Path(etcd_folder)):
        processes.Folder(left.parent).remove()
        assert not left.exists()
