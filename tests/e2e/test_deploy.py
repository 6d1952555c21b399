"""What is in deploy/, on a real API server: accepted, installed twice, upgraded, removed; and the emergency page."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import helm_python as helm
import pytest
import yaml

from tests.deploying import (
    DEPLOY,
    NAMESPACE,
    VALUES,
    Object,
    chart_for_version,
    commands,
    for_version,
    named,
    render,
)
from webhook.cluster import leases
from webhook.cluster.connection import connect
from webhook.cluster.resources import Resources
from webhook.errors import ClusterError

from .control_plane import ControlPlane
from .installing import WEBHOOKS, client, in_namespace, installed, kubectl, overlay, shell, take_away
from .kinds import FLUX

CHOICES: Sequence[Object] = (
    {"policies": {"mode": "tag"}, "extraEnv": [{"name": "A", "value": "b"}], "podLabels": {"a": "b"}},
    {"certificates": {"mode": "certManager"}, "serviceMonitor": {"enabled": True}},
    {"certificates": {"mode": "existingSecret", "existingSecret": {"name": "mine", "ca": "no matter"}}},
    {
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": "pull"}],
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {"nodeAffinity": {}},
        "rbac": {"scalable": [{"apiGroups": ["argoproj.io"], "resources": ["rollouts"]}]},
        "config": {"exemptNamespaces": []},
        "scan": {"enabled": True, "policyReports": False, "pushgateway": "http://pushgateway.monitoring:9091"},
    },
)


@pytest.fixture(scope="module")
def cluster(own_plane: ControlPlane) -> ControlPlane:
    """A control plane of its own: while the webhooks are there and nobody answers them, no other test could write."""
    return own_plane


@pytest.fixture
def plane(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane, with nothing of driftwall's in it before and after."""
    assert installed(cluster) == []
    yield cluster
    take_away(cluster)


def collection_of(plane: ControlPlane, each: Object) -> str:
    """The path that an object is created at."""
    group = each["apiVersion"].rpartition("/")[0]
    kind = f"{each['kind'].lower()}.{group}" if group else each["kind"].lower()
    return client(plane).path(kind, None, each["metadata"].get("namespace"), token=plane.token("admin"))


def config(plane: ControlPlane) -> helm.Config:
    return helm.Config(kubeconfig_path=plane.kubeconfig("admin"), namespace=NAMESPACE)


# What is accepted


@pytest.mark.parametrize("name", VALUES)
def test_kustomize_and_the_chart_agree(name: str) -> None:
    built, rendered = named(overlay(name)), named(render(VALUES[name]))
    # A release does not make its own namespace; definitions and policies are there before it.
    before = ("Namespace", "CustomResourceDefinition", "DriftPolicy", "DriftwallConfig")
    built = {key: each for key, each in built.items() if not key.startswith(before)}
    assert sorted(built) == sorted(rendered)
    for key, each in built.items():
        assert rendered[key] == each


def scan_of_the_chart(**values: object) -> Object:
    without, rendered = named(render()), named(render({"scan": {"enabled": True, **values}}))
    return {key: each for key, each in rendered.items() if key not in without}


def test_the_scan_is_the_same_by_kustomize_and_by_the_chart() -> None:
    assert named(overlay("scan")) == scan_of_the_chart()


def test_the_overlay_on_the_page_gives_the_scan_a_pushgateway_as_the_chart_does() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    (shown,) = (block for block in blocks if "--pushgateway" in block)
    gateway = "http://pushgateway.monitoring:9091"
    assert named(overlay("own", shown)) == scan_of_the_chart(pushgateway=gateway)


def test_the_api_server_accepts_every_object_of_every_overlay(plane: ControlPlane) -> None:
    plane.create_namespace(NAMESPACE)
    kubectl(plane, "apply", objects=[yaml.safe_load(file.read_text()) for file in (DEPLOY / "crds").glob("*.io.yaml")])
    plane.wait_for(lambda: plane.get("driftpolicies") and plane.get("driftwallconfigs"), "the definitions")
    for name in (*VALUES, "scan"):
        for each in overlay(name):
            if each["kind"] not in ("Namespace", "CustomResourceDefinition"):
                accept(plane, each)


def test_the_api_server_accepts_every_object_of_the_chart(plane: ControlPlane) -> None:
    plane.create_namespace(NAMESPACE)
    for values in CHOICES:
        for each in render(values):
            # Of other people's definitions, which are not here.
            if each["apiVersion"].partition("/")[0] in ("cert-manager.io", "monitoring.coreos.com"):
                continue
            if each["kind"].endswith("WebhookConfiguration"):
                for hook in each["webhooks"]:
                    hook["clientConfig"].pop("caBundle", None)  # the API server wants a real one
            accept(plane, each)


def accept(plane: ControlPlane, each: Object) -> None:
    """Have the API server look at an object, and keep every field of it."""
    wanted = for_version(each, plane.version)
    status, answer = plane.raw("POST", f"{collection_of(plane, wanted)}?dryRun=All", wanted)
    assert status == 201, answer
    assert missing(wanted, answer) == []


def missing(wanted: object, there: object, where: str = "") -> list[str]:
    """What the API server has dropped: fields that it does not know."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        lost = [f"{where}.{key}" for key, value in wanted.items() if key not in there and value not in ({}, [], False)]
        return lost + [
            path for key in wanted.keys() & there.keys() for path in missing(wanted[key], there[key], f"{where}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(there, list):
        if len(wanted) != len(there):
            return [where]
        pairs = enumerate(zip(wanted, there, strict=True))
        return [path for index, pair in pairs for path in missing(*pair, f"{where}[{index}]")]
    return [] if wanted == there else [f"{where}: {wanted!r} became {there!r}"]


# Installed, upgraded, removed


def patch(plane: ControlPlane, path: str, body: Object, kind: str) -> None:
    status, answer = plane.raw("PATCH", path, body, headers={"Content-Type": f"application/{kind}-patch+json"})
    assert status == 200, answer


def test_a_release_is_installed_upgraded_and_uninstalled_webhooks_first(plane: ControlPlane, tmp_path: Path) -> None:
    chart = chart_for_version(plane.version, tmp_path)
    with config(plane) as release:
        release.install(chart, "driftwall", create_namespace=True)
        # As API servers from v1.21 on do themselves.
        plane.kubectl("label", "namespace", NAMESPACE, f"kubernetes.io/metadata.name={NAMESPACE}", "--overwrite")
        with pytest.raises(helm.HelmError, match=r"cannot re-?use a name"):
            release.install(chart, "driftwall")
        first = installed(plane)
        release.upgrade(chart, "driftwall")
        assert [name for name in installed(plane) if "helm.release" not in name and "Pod" not in name] == [
            name for name in first if "helm.release" not in name and "Pod" not in name
        ]
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/driftwall-tls?fieldManager=driftwall"
        patch(plane, path, {"data": {"tls.crt": "aGVsZA=="}}, "merge")
        release.upgrade(chart, "driftwall", {"policies": {"mode": "enforce"}})
        assert "MutatingWebhookConfiguration driftwall" in installed(plane)
        assert plane.get("secret", "driftwall-tls", NAMESPACE)["data"] == {"tls.crt": "aGVsZA=="}
        before = len(deleted(plane))
        release.uninstall("driftwall")
    plane.wait_for(lambda: in_namespace(plane) == default_objects(plane), "everything to be gone but the namespace")
    resources = deleted(plane)[before:]
    assert set(resources[:2]) == set(WEBHOOKS)
    assert {"deployments", "services", "secrets", "leases", "clusterroles", "priorityclasses"} <= set(resources[2:])


def deleted(plane: ControlPlane) -> list[str]:
    """The resources whose objects somebody has deleted so far, one by one, in order."""
    events = (event for event in plane.audit_events() if event["verb"] == "delete")
    return [event["objectRef"]["resource"] for event in events if not event["user"]["username"].startswith("system:")]


def default_objects(plane: ControlPlane) -> list[str]:
    """What a namespace has by itself: a service account's token, in older versions."""
    return [name for name in in_namespace(plane) if name.startswith("Secret default-token-")]


# What it may do


def test_the_rights_by_name_are_enough_to_make_what_is_gone_anew(plane: ControlPlane) -> None:
    kubectl(plane, "apply", objects=overlay("dry-run"))
    kubeconfig = plane.folder / "as-driftwall.json"
    token = plane.service_account_token(NAMESPACE, "driftwall")
    kubeconfig.write_text(client(plane).kubeconfig("driftwall", token=token))
    resources = Resources(connect(kubeconfig))
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    lease = leases.path_of(NAMESPACE, "driftwall")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "driftwall-tls"}, "type": "Opaque"}
    plane.raw("DELETE", f"{secrets}/driftwall-tls")
    plane.raw("DELETE", lease)
    assert resources.ensure(f"{secrets}/driftwall-tls", secret)["metadata"]["name"] == "driftwall-tls"
    assert resources.ensure(lease, leases.empty(lease))["metadata"]["name"] == "driftwall"
    other = {**secret, "metadata": {"name": "another"}}
    with pytest.raises(ClusterError, match="driftwall may not"):
        resources.ensure(f"{secrets}/another", other)
    with pytest.raises(ClusterError, match="driftwall may not"):
        resources.get(secrets)


# The emergency page


def test_the_commands_of_the_emergency_page_do_what_it_says(plane: ControlPlane) -> None:
    enforce = overlay("enforce")
    shop = plane.create_namespace("shop")
    kubectl(plane, "apply", objects=[deployment(shop)])
    kubectl(plane, "apply", objects=enforce)
    # Nobody answers: what is guarded cannot be written.
    plane.wait_for(lambda: refusal(plane, shop), "writes to be refused")
    assert "failed calling webhook" in refusal(plane, shop)

    page = DEPLOY / "EMERGENCY.md"
    deletion, softening, glass, *others = commands(page)
    shell(plane, softening)
    plane.wait_for(lambda: not refusal(plane, shop), "writes to go through while driftwall is away")
    shell(plane, glass)
    kubectl(plane, "apply", objects=enforce)
    plane.wait_for(lambda: refusal(plane, shop), "writes to be refused again")
    shell(plane, deletion)
    plane.wait_for(lambda: not refusal(plane, shop), "writes to go through")
    kubectl(plane, "apply", objects=enforce)
    plane.wait_for(lambda: refusal(plane, shop), "writes to be refused again")
    # Its own namespace never waits for it.
    kubectl(plane, "apply", objects=[revised(enforce)])
    plane.wait_for(lambda: revisions(plane) == 2, "two revisions of the Deployment")
    *repairs, restoring = others
    for command in repairs:
        shell(plane, command)
    assert restoring == "kubectl apply -k deploy/kustomize/overlays/enforce"
    kubectl(plane, "apply", objects=enforce)
    assert plane.get("secret", "driftwall-tls", NAMESPACE)["type"] == "Opaque"
    shell(plane, deletion)
    plane.kubectl("delete", "namespace", shop)


def deployment(namespace: str) -> Object:
    labels = {"app": "web"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "image.invalid/web"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace, "labels": FLUX},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
    }


def revised(objects: list[Object]) -> Object:
    found = next(each for each in objects if each["kind"] == "Deployment")
    text = json.dumps(found).replace('"cpu": "100m"', '"cpu": "101m"')
    changed: Object = json.loads(text)
    return changed


def revisions(plane: ControlPlane) -> int:
    return len(plane.get("replicasets", None, NAMESPACE)["items"])


def refusal(plane: ControlPlane, namespace: str) -> str:
    """Why the managed Deployment cannot be written now, if it cannot; nothing is written."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web?dryRun=All"
    body = {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    status, answer = plane.raw("PATCH", path, body, headers=headers)
    return "" if status == 200 else str(answer["message"])
