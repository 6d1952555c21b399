"""The control plane's own controllers work on what Flux manages as if driftwall were not there."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .kubelet import NODE, Kubelet
from .people import MERGE, Person, config_map, manifest, of_flux, path_of, pods_of

NAMESPACE, DOOMED = "controllers", "controllers-doomed"


@pytest.fixture(scope="module", autouse=True)
def kubelet(control_plane: ControlPlane, driftwall: Driftwall) -> Kubelet:
    control_plane.create_namespace(NAMESPACE)
    made = Kubelet(control_plane)
    made.register()
    return made


@pytest.fixture
def flux(control_plane: ControlPlane) -> Person:
    return Person(plane=control_plane, user="flux", namespace=NAMESPACE)


def on_node(content: Object) -> Object:
    """Selector and template of a workload, or a template alone, whose pods are the node's."""
    template = content.get("template", content)
    # One second, not thirty: the controllers wait for as long.
    template["spec"] |= {"nodeName": NODE, "terminationGracePeriodSeconds": 1}
    return content


def workload(name: str, *, image: str = "image.invalid/shop:1", namespace: str = NAMESPACE, **spec: Any) -> Object:
    pods = on_node(pods_of(name, image))
    return of_flux(manifest("apps/v1", "Deployment", name, namespace, spec={**spec, **pods}))


def items(plane: ControlPlane, kind: str, app: str, namespace: str = NAMESPACE) -> list[Object]:
    found: list[Object] = plane.get(kind, None, namespace)["items"]
    return [item for item in found if item["metadata"].get("labels", {}).get("pods-of") == app]


def is_rolled_out(plane: ControlPlane, kubelet: Kubelet, obj: Object, replicas: int) -> bool:
    kubelet.work(obj["metadata"]["namespace"])
    live = plane.get(path_of(obj))
    status = live["status"]
    counts = {status.get(f"{count}eplicas") for count in ("r", "readyR", "updatedR", "availableR")}
    return status["observedGeneration"] == live["metadata"]["generation"] and counts == {replicas}


def roll_out(plane: ControlPlane, kubelet: Kubelet, flux: Person, obj: Object, replicas: int) -> None:
    flux.applies(obj)
    name = obj["metadata"]["name"]
    plane.wait_for(lambda: is_rolled_out(plane, kubelet, obj, replicas), f"{name} to be rolled out")


def await_writes(plane: ControlPlane, driftwall: Driftwall, *controllers: str, namespace: str = NAMESPACE) -> None:
    """Wait until the decision log holds a write of each of these service accounts: driftwall was in their way."""
    users = {f"system:serviceaccount:kube-system:{controller}" for controller in controllers}

    def are_logged() -> bool:
        return users <= {line["user"] for line in driftwall.log(namespace=namespace, allowed=True)}

    plane.wait_for(are_logged, f"writes of {', '.join(controllers)} in the decision log")


def test_a_rollout_completes(control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person) -> None:
    roll_out(control_plane, kubelet, flux, workload("web", replicas=3), 3)
    roll_out(control_plane, kubelet, flux, workload("web", image="image.invalid/shop:2", replicas=3), 3)
    replica_sets = items(control_plane, "replicasets", "web")
    assert sorted(each["spec"]["replicas"] for each in replica_sets) == [0, 3]
    (new,) = [each for each in replica_sets if each["spec"]["replicas"]]
    assert new["spec"]["template"]["spec"]["containers"][0]["image"] == "image.invalid/shop:2"
    assert flux.kubectl("rollout", "status", "deployment/web").done
    await_writes(control_plane, driftwall, "deployment-controller", "replicaset-controller")
    assert driftwall.log(user=f"system:node:{NODE}", namespace=NAMESPACE, writer="system")


def test_a_stateful_set_starts_its_pods_one_after_the_other(
    control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person
) -> None:
    spec = {"replicas": 2, "serviceName": "database", **on_node(pods_of("database"))}
    database = of_flux(manifest("apps/v1", "StatefulSet", "database", NAMESPACE, spec=spec))
    flux.applies(database)

    def is_ready() -> bool:
        kubelet.work(NAMESPACE)
        ready = control_plane.get(path_of(database))["status"].get("readyReplicas")
        return bool(ready == 2)

    control_plane.wait_for(is_ready, "both pods to be ready")
    await_writes(control_plane, driftwall, "statefulset-controller")


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_what_flux_deletes_takes_its_pods_with_it(
    cascade: str, control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person
) -> None:
    obj = workload(cascade, replicas=2)
    roll_out(control_plane, kubelet, flux, obj, 2)
    deleted = flux.kubectl("delete", f"deployment/{cascade}", f"--cascade={cascade}", "--wait=false")
    assert deleted.done, deleted

    def are_gone() -> bool:
        kubelet.work(NAMESPACE)
        rest = [items(control_plane, kind, cascade) for kind in ("replicasets", "pods")]
        return not any(rest) and not control_plane.exists(path_of(obj))

    control_plane.wait_for(are_gone, "the Deployment, its ReplicaSet and its pods to go")
    await_writes(control_plane, driftwall, "generic-garbage-collector")


@pytest.mark.parametrize("declared", [{}, {"replicas": 1}], ids=["left open", "declared"])
def test_an_autoscaler_scales_replicas(
    declared: dict[str, Any], control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person
) -> None:
    name = f"scaled-{len(declared)}"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    spec = {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5, "targetCPUUtilizationPercentage": 80}
    obj = workload(name, **declared)
    flux.applies(obj, of_flux(manifest("autoscaling/v1", "HorizontalPodAutoscaler", name, NAMESPACE, spec=spec)))
    control_plane.wait_for(lambda: is_rolled_out(control_plane, kubelet, obj, 3), "three replicas")
    written = driftwall.log(name=name, subresource="scale")
    assert {(line["writer"], line["allowed"], len(line["policies"])) for line in written} == {
        ("automation:hpa", True, 0)
    }


def test_a_cron_job_starts_jobs_that_complete(
    control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person
) -> None:
    template = on_node(pods_of("nightly")["template"])
    template["spec"]["restartPolicy"] = "Never"
    version = "batch/v1beta1" if control_plane.version < (1, 21) else "batch/v1"
    job = {"metadata": {"labels": {"pods-of": "nightly"}}, "spec": {"template": template}}
    spec = {"schedule": "* * * * *", "jobTemplate": job}
    nightly = of_flux(manifest(version, "CronJob", "nightly", NAMESPACE, spec=spec))
    flux.applies(nightly)
    # As if it had run ten minutes ago: what it has missed since then is due at once, not at the next full minute.
    before = (datetime.now(UTC) - timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    outcome = flux.send(
        "PATCH", f"{path_of(nightly)}/status", {"status": {"lastScheduleTime": before}}, content_type=MERGE
    )
    assert outcome.done, outcome

    def is_complete() -> bool:
        kubelet.work(NAMESPACE, finish=True)
        return any(job["status"].get("succeeded") == 1 for job in items(control_plane, "jobs", "nightly"))

    control_plane.wait_for(is_complete, "a job of it to complete", 60)
    await_writes(control_plane, driftwall, "cronjob-controller", "job-controller")


def test_a_job_completes(control_plane: ControlPlane, kubelet: Kubelet, flux: Person) -> None:
    template = on_node(pods_of("once")["template"])
    template["spec"]["restartPolicy"] = "Never"
    once = of_flux(manifest("batch/v1", "Job", "once", NAMESPACE, spec={"template": template}))
    flux.applies(once)

    def is_complete() -> bool:
        kubelet.work(NAMESPACE, finish=True)
        status = control_plane.get(path_of(once))["status"]
        return any(condition["type"] == "Complete" for condition in status.get("conditions", []))

    control_plane.wait_for(is_complete, "the job to complete")


def test_a_namespace_goes_with_all_that_flux_manages_in_it(
    control_plane: ControlPlane, driftwall: Driftwall, kubelet: Kubelet, flux: Person
) -> None:
    flux.applies(of_flux(manifest("v1", "Namespace", DOOMED, None)))
    control_plane.create_namespace(DOOMED)  # which waits until pods can be made in it
    service = manifest("v1", "Service", "web", DOOMED, spec={"ports": [{"protocol": "TCP", "port": 80}]})
    flux.applies(of_flux(config_map("web", DOOMED)), of_flux(service))
    roll_out(control_plane, kubelet, flux, workload("web", namespace=DOOMED, replicas=2), 2)
    assert flux.kubectl("delete", "namespace", DOOMED, "--wait=false").done

    def is_gone() -> bool:
        if control_plane.exists("namespace", DOOMED):
            kubelet.work(DOOMED)
            return False
        return True

    control_plane.wait_for(is_gone, "the namespace to go", 60)
    await_writes(control_plane, driftwall, "namespace-controller", namespace=DOOMED)
