"""Ways around driftwall, one test for each: tried on the real API server, and then the stored object is looked at."""

import json
import re
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from . import registration
from .api import Object
from .certificates import Authority
from .control_plane import ControlPlane
from .driftwall import ROOT, Driftwall
from .kinds import FLUX, gizmos
from .people import (
    JSON,
    MERGE,
    Person,
    config_map,
    deployment,
    events_about,
    manifest,
    of_flux,
    path_of,
    pods_of,
    refused,
    unchanged,
)
from .recorder import recording

WAYS, CHILDREN, TAGGED, OWN = "ways", "ways-children", "ways-tagged", "driftwall-system"
TOOLS, LOOKALIKE = "ways-tools", "flux-system-x"
FLUX_ACCOUNT = "system:serviceaccount:flux-system:kustomize-controller"
KEPT = {"e2e.example.com/kept": "yes"}
TRACKING, LAST_APPLIED = "argocd.argoproj.io/tracking-id", "kubectl.kubernetes.io/last-applied-configuration"
GLASS, BY, EXPIRES = (f"driftwall.io/break-glass{part}" for part in ("", "-by", "-expires"))
REASON = "INC-1234: checkout 5xx"
SECURITY = (ROOT / "SECURITY.md").read_text()

POLICIES = f"""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  clusterId: e2e
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
    - name: argocd
      serviceAccounts: [argocd/argocd-application-controller]
      fieldManagers: [argocd-controller]
    - name: configsync
      serviceAccounts: [config-management-system/root-reconciler]
      fieldManagers: [configsync.gke.io]
    - name: bound
      serviceAccounts: [{TOOLS}/bound]
      verify: pod
  automation:
    - name: scaler
      serviceAccounts: [{TOOLS}/scaler]
      fields: [spec.replicas]
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
  match:
    excludeNamespaces: [{TAGGED}]
  protect:
    declared: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: children
spec:
  mode: enforce
  match:
    namespaces: [{CHILDREN}]
  protect:
    declared: true
    children: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: tagged
spec:
  mode: tag
  match:
    namespaces: [{TAGGED}]
  protect:
    declared: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: kept
spec:
  mode: enforce
  match:
    scope: All
    resources:
      - apiGroups: [""]
        resources: [namespaces, configmaps]
      - apiGroups: [apiextensions.k8s.io]
        resources: [customresourcedefinitions]
    objectSelector:
      matchLabels: {json.dumps(KEPT)}
  protect:
    fields: ["metadata.labels['e2e.example.com/kept']"]
    deletion: true
"""


def gizmo(name: str, namespace: str = WAYS, version: str = "v1", **spec: Any) -> Object:
    return manifest(f"e2e.example.com/{version}", "Gizmo", name, namespace, spec=spec or {"size": 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everybody, working in the namespace of these tests, and the driftwall that is in their way."""

    plane: ControlPlane
    server: Driftwall
    tokens: dict[str, str]

    def person(self, user: str, namespace: str = WAYS) -> Person:
        """Somebody by the name of a user or of a token."""
        return Person(plane=self.plane, user=user, namespace=namespace, token=self.tokens.get(user))

    def live(self, obj: Object) -> Object:
        """The stored object, all of it."""
        return self.plane.get(path_of(obj))

    def gone(self, obj: Object) -> bool:
        """Whether there is no such object."""
        return not self.plane.exists(path_of(obj))

    def await_gone(self, obj: Object) -> None:
        """Wait until there is none."""
        self.plane.wait_for(lambda: self.gone(obj), f"{path_of(obj)} to go")


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plane = control_plane
    for namespace in (WAYS, CHILDREN, TAGGED, OWN):
        plane.create_namespace(namespace)
    # Before driftwall is there: it lets nobody have a token of a trusted service account.
    accounts = {
        "configsync": ("config-management-system", "root-reconciler", None),
        "scaler": (TOOLS, "scaler", None),
        "unbound": (TOOLS, "bound", None),
        "bound": (TOOLS, "bound", "bound-pod"),
        "evil": ("kube-system", "evil", None),
        "other-namespace": (LOOKALIKE, "kustomize-controller", None),
        "other-name": ("flux-system", "kustomize-controller.evil", None),
    }
    tokens = {user: plane.service_account_token(*account) for user, account in accounts.items()}
    every = {"kind": "Group", "name": "system:serviceaccounts", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = manifest("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "ways-accounts", None)
    admin = Person(plane=plane, user="admin", namespace=WAYS)
    admin.creates({**binding, "roleRef": role, "subjects": [every]}, gizmos())
    plane.wait_for(lambda: plane.exists("/apis/e2e.example.com/v1/gizmos"), "gizmos to be served")
    Person(plane=plane, user="flux", namespace=WAYS).applies(*unstamped())
    with Driftwall(plane, tmp_path_factory.mktemp("ways-around"), POLICIES) as server, server.in_the_way():
        yield World(plane=plane, server=server, tokens=tokens)
    # What came after would find strangers that may do anything.
    plane.kubectl("delete", "clusterrolebinding", "ways-accounts")


@pytest.fixture
def alice(world: World) -> Person:
    return world.person("alice")


@pytest.fixture
def sre(world: World) -> Person:
    return world.person("sre")


@pytest.fixture
def flux(world: World) -> Person:
    return world.person("flux")


@pytest.fixture
def web(request: pytest.FixtureRequest, flux: Person) -> Object:
    """A ConfigMap of Flux that this test has for itself."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    made = of_flux(config_map(name, WAYS))
    flux.applies(made)
    return made


def served(plane: ControlPlane, group: str) -> str:
    """The version of a group of the API that its server likes best."""
    version: str = plane.get(f"/apis/{group}")["preferredVersion"]["groupVersion"]
    return version


def target(obj: Object) -> str:
    """An object as kubectl names it."""
    return f"{obj['kind'].lower()}/{obj['metadata']['name']}"


def documented(*phrases: str) -> None:
    """Assert that SECURITY.md says so, whatever its line breaks."""
    text = " ".join(SECURITY.split())
    for phrase in phrases:
        assert phrase in text, phrase


PORT = {"data": {"port": "8080"}}
PORT_PATH = 'data.port: "80" -> "8080"'


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_01_impersonating_the_gitops_service_account(world: World, alice: Person, web: Object) -> None:
    as_flux = ("--as", FLUX_ACCOUNT)
    as_group = ("--as-group", "system:serviceaccounts", "--as-group", "system:serviceaccounts:flux-system")
    body = json.dumps(PORT)
    with unchanged(world.plane, web):
        for flags in (as_flux, (*as_flux, *as_group)):
            outcome = alice.kubectl("patch", target(web), "-p", body, *flags)
            refused(outcome, f"{FLUX_ACCOUNT} (without a token of its own) may not change", PORT_PATH)
            refused(alice.kubectl("delete", target(web), *flags), "may not delete it")
        # What a pod-bound token brings beside the uid, without a uid.
        headers = {
            "Impersonate-User": FLUX_ACCOUNT,
            "Impersonate-Extra-authentication.kubernetes.io%2fpod-name": "kustomize-controller-0",
            "Impersonate-Extra-authentication.kubernetes.io%2fpod-uid": "0",
        }
        refused(alice.send("PATCH", path_of(web), PORT, content_type=MERGE, headers=headers), PORT_PATH)
    lines = world.server.await_log(5, user=FLUX_ACCOUNT, name=web["metadata"]["name"], allowed=False)
    assert {line["writer"] for line in lines} == {"untrusted"}
    documented("Whoever may impersonate uids and extras (`userextras`, `uids`) passes: do not grant it.")


def test_02_a_token_for_the_gitops_service_account(world: World, alice: Person, web: Object) -> None:
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    accounts = "/api/v1/namespaces/flux-system/serviceaccounts"
    refused(
        alice.send("POST", f"{accounts}/kustomize-controller/token", token),
        "flux-system/kustomize-controller is a trusted GitOps identity: alice may not mint a token for it.",
    )
    assert alice.send("POST", f"{accounts}/default/token", token).done

    def secret(name: str, account: str) -> Object:
        made = manifest("v1", "Secret", name, "flux-system", type="kubernetes.io/service-account-token")
        made["metadata"]["annotations"] = {"kubernetes.io/service-account.name": account}
        return made

    stolen, own = secret("stolen", "kustomize-controller"), secret("own", "default")
    there = replace(alice, namespace="flux-system")
    refused(there.kubectl("create", "-f", "-", stdin=stolen), "alice may not mint a token for it")
    assert world.gone(stolen)
    alice.creates(own)
    pointed = {"metadata": {"annotations": {"kubernetes.io/service-account.name": "kustomize-controller"}}}
    refused(there.patch("secret/own", pointed), "alice may not mint a token for it")
    annotations = world.live(own)["metadata"]["annotations"]
    assert annotations["kubernetes.io/service-account.name"] == "default"
    # Under `verify: pod` a token that somebody got all the same is not enough.
    with unchanged(world.plane, web):
        refused(world.person("unbound").patch(target(web), PORT), PORT_PATH)
    outcome = world.person("bound").patch(target(web), PORT)
    assert outcome.done, outcome
    documented("`guardIdentities` denies both.", "A **stolen token** of the GitOps service account")


def test_03_the_field_manager_of_the_tool(world: World, alice: Person, web: Object) -> None:
    manager = "--field-manager=kustomize-controller"
    edited = {**web, **PORT}
    with unchanged(world.plane, web):
        refused(alice.patch(target(web), PORT, manager), PORT_PATH)
        refused(alice.kubectl("apply", "--server-side", manager, "-f", "-", stdin=edited), PORT_PATH)
        refused(alice.kubectl("replace", manager, "-f", "-", stdin=edited), PORT_PATH)
        outcome = alice.send("PUT", f"{path_of(web)}?fieldManager=kustomize-controller", edited)
        refused(outcome, PORT_PATH)
    documented("a fieldManager of the tool's name | is no identity")


def test_04_server_side_apply_with_force(world: World, alice: Person, web: Object) -> None:
    edited = {**config_map(web["metadata"]["name"], WAYS), **PORT}
    with unchanged(world.plane, web):
        forced = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        refused(alice.kubectl(*forced, stdin=edited), PORT_PATH)
        refused(alice.kubectl(*forced, stdin={**web, **PORT}), PORT_PATH)


# ── the marker, metadata, subresources ───────────────────────────────────────────────────────────────────────────────


def test_05_the_marker_stripped_first(world: World, alice: Person, flux: Person, web: Object) -> None:
    keys = list(FLUX)
    off = {"labels": dict.fromkeys(keys)}
    with unchanged(world.plane, web):
        for key in keys:
            refused(alice.kubectl("label", target(web), f"{key}-"), f"metadata.labels['{key}']")
        refused(alice.patch(target(web), {"metadata": off}), *keys)
        refused(alice.patch(target(web), {"metadata": off, **PORT}), PORT_PATH, *keys)
        refused(alice.patch(target(web), {"metadata": {"labels": None}}), *keys)
        other = {"labels": {keys[0]: "of-alice"}}
        refused(alice.patch(target(web), {"metadata": other}), f"metadata.labels['{keys[0]}']")
        replaced = config_map(web["metadata"]["name"], WAYS, port="8080")
        refused(alice.kubectl("replace", "-f", "-", stdin=replaced), PORT_PATH, *keys)
        opt_out = {"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}}
        refused(alice.patch(target(web), opt_out), "kustomize.toolkit.fluxcd.io/reconcile")
        refused(alice.patch(target(web), PORT), PORT_PATH)
    tracked = config_map("tracked", WAYS)
    tracked["metadata"]["annotations"] = {TRACKING: f"shop:/ConfigMap:{WAYS}/tracked"}
    assert world.person("argocd").apply(tracked, "argocd-controller").done
    with unchanged(world.plane, tracked):
        for value in ("-", f"=shop:/ConfigMap:{WAYS}/another"):
            refused(alice.kubectl("annotate", "--overwrite", "configmap/tracked", f"{TRACKING}{value}"), TRACKING)
        refused(alice.patch("configmap/tracked", PORT), PORT_PATH, "Argo CD (Application shop)")


def test_06_a_forged_marker(world: World, alice: Person) -> None:
    forged = of_flux(config_map("forged", WAYS))
    refused(alice.kubectl("create", "-f", "-", stdin=forged), "bears the mark of Flux", "may not create it with")
    refused(alice.kubectl("apply", "--server-side", "-f", "-", stdin=forged), "bears the mark of Flux")
    assert world.gone(forged)
    own = config_map("own-of-alice", WAYS)
    alice.creates(own)
    mark = f"{TRACKING}=shop:/ConfigMap:{WAYS}/own-of-alice"
    with unchanged(world.plane, own):
        refused(alice.kubectl("label", target(own), *(f"{key}={value}" for key, value in FLUX.items())), *FLUX)
        refused(alice.kubectl("annotate", target(own), mark), TRACKING)
    # A copy that names another object makes nothing managed, and so protects nothing.
    copied = alice.kubectl("annotate", target(own), f"{TRACKING}=shop:apps/Deployment:{WAYS}/web")
    assert copied.done, copied
    changed = alice.patch(target(own), PORT)
    assert changed.done, changed
    assert world.live(own)["data"] == PORT["data"]


def statusful(plane: ControlPlane) -> list[Object]:
    """An object of every kind through whose status more than the status can be written."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "image.invalid/shop:1"}]}}
    backend = {"service": {"name": "shop", "port": {"number": 80}}}
    absent = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "absent"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    port = {"name": "http", "protocol": "TCP", "port": 80}
    cron = "batch/v1" if plane.version >= (1, 21) else "batch/v1beta1"
    specs: list[tuple[str, str, Object]] = [
        ("v1", "Service", {"selector": {"pods-of": "status"}, "ports": [port]}),
        ("v1", "PersistentVolumeClaim", claim),
        ("v1", "ResourceQuota", {"hard": {"pods": "1000"}}),
        ("apps/v1", "Deployment", {"replicas": 1, **pods_of("status-deployment")}),
        ("apps/v1", "StatefulSet", {"replicas": 1, "serviceName": "status", **pods_of("status-stateful")}),
        ("apps/v1", "DaemonSet", pods_of("status-daemon")),
        ("batch/v1", "Job", {"template": template}),
        (cron, "CronJob", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}),
        ("networking.k8s.io/v1", "Ingress", {"defaultBackend": backend}),
        ("autoscaling/v1", "HorizontalPodAutoscaler", {"maxReplicas": 3, "scaleTargetRef": absent}),
        (served(plane, "policy"), "PodDisruptionBudget", {"minAvailable": 1, "selector": {"matchLabels": {"x": "y"}}}),
    ]
    made = [of_flux(manifest(version, kind, "status", WAYS, spec=spec)) for version, kind, spec in specs]
    for obj in made:
        obj["metadata"]["annotations"] = {"e2e.example.com/owner": "team-shop"}
    return made


def test_07_metadata_through_the_status_of_every_kind(world: World, alice: Person, flux: Person) -> None:
    objects = statusful(world.plane)
    own = config_map("owner-of-alice", WAYS)
    alice.creates(own)
    flux.applies(*objects)
    uid = world.live(own)["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner-of-alice", "uid": uid}
    attempts: list[tuple[str, Object]] = [
        ("kustomize.toolkit.fluxcd.io/name", {"labels": dict.fromkeys(FLUX)}),
        ("metadata.annotations['e2e.example.com/owner']", {"annotations": {"e2e.example.com/owner": "alice"}}),
        ("metadata.ownerReferences", {"ownerReferences": [owner]}),
        ("kustomize.toolkit.fluxcd.io/ssa", {"annotations": {"kustomize.toolkit.fluxcd.io/ssa": "Ignore"}}),
        (f"metadata.annotations['{GLASS}']", {"annotations": {GLASS: REASON}}),
        ("driftwall.io/drifted", {"labels": {"driftwall.io/drifted": "true"}}),
    ]
    with unchanged(world.plane, *objects):
        for obj in objects:
            status = f"{path_of(obj)}/status"
            for path, metadata in attempts:
                if obj["kind"] == "Deployment" and "labels" in metadata:
                    continue  # no status brings labels to a Deployment, whoever writes it
                refused(alice.send("PATCH", status, {"metadata": metadata}, content_type=MERGE), path)
            whole = world.live(obj)
            del whole["metadata"]["annotations"]
            refused(alice.send("PUT", status, whole), "metadata.annotations")
            # The status itself is not driftwall's concern.
            assert alice.send("PATCH", status, {"status": {}}, content_type=MERGE).done
    # Of a custom resource the API server itself keeps the metadata; older ones note down who wrote it all the same.
    custom = of_flux(gizmo("status"))
    flux.applies(custom)
    for _, metadata in attempts:
        alice.send("PATCH", f"{path_of(custom)}/status", {"metadata": metadata}, content_type=MERGE)
    kept = world.live(custom)["metadata"]
    assert (kept["labels"], kept.get("annotations"), kept.get("ownerReferences")) == (FLUX, None, None)


def test_08_a_namespace_opted_out_by_a_label(world: World, alice: Person) -> None:
    namespace = manifest("v1", "Namespace", "ways-opted-out", None)
    alice.creates(namespace)
    within = of_flux(config_map("web", "ways-opted-out"))
    world.person("flux").applies(within)
    labels = {
        "driftwall.io/ignore": "true",
        "admission.driftwall.io/ignore": "no-self-managing",
        "kubernetes.io/metadata.name": "kube-system",
        "name": "kube-system",
        "control-plane": "driftwall",
    }
    path = path_of(namespace)
    own = {key: value for key, value in labels.items() if key != "kubernetes.io/metadata.name"}
    assert alice.send("PATCH", f"{path}/status", {"metadata": {"labels": own}}, content_type=MERGE).done
    finalized = {**world.live(namespace), "spec": {"finalizers": []}}
    finalized["metadata"]["labels"] = own
    assert alice.send("PUT", f"{path}/finalize", finalized).done
    alice.send("PATCH", path, {"metadata": {"labels": labels}}, content_type=MERGE)
    assert own.items() <= world.live(namespace)["metadata"]["labels"].items()
    bob = world.person("bob", "ways-opted-out")
    with unchanged(world.plane, within):
        refused(bob.patch("configmap/web", PORT), PORT_PATH)
        refused(bob.kubectl("delete", "configmap/web"), "may not delete it")
    documented("Nothing but `exemptNamespaces` exempts.", "trusts Namespace labels: protect them, or use `namespaces`")


def test_09_the_scale_of_built_in_kinds_and_custom_resources(world: World, alice: Person, flux: Person) -> None:
    labels = pods_of("scaled-controller")["selector"]["matchLabels"]
    template = pods_of("scaled-controller")["template"]
    objects = [
        of_flux(deployment("scaled", WAYS, 2)),
        of_flux(manifest("apps/v1", "ReplicaSet", "scaled", WAYS, spec={"replicas": 2, **pods_of("scaled-set")})),
        of_flux(
            manifest(
                "apps/v1",
                "StatefulSet",
                "scaled",
                WAYS,
                spec={"replicas": 2, "serviceName": "scaled", **pods_of("scaled-stateful")},
            )
        ),
        of_flux(
            manifest(
                "v1",
                "ReplicationController",
                "scaled",
                WAYS,
                spec={"replicas": 2, "selector": labels, "template": template},
            )
        ),
        of_flux(gizmo("scaled")),
    ]
    flux.applies(*objects)
    with unchanged(world.plane, *objects):
        for obj in objects:
            path = "spec.size" if obj["kind"] == "Gizmo" else "spec.replicas"
            refused(alice.kubectl("scale", target(obj), "--replicas=5"), f"{path}: 2 -> 5")
            scale = f"{path_of(obj)}/scale"
            refused(alice.send("PATCH", scale, {"spec": {"replicas": 0}}, content_type=MERGE), f"{path}: 2 -> 0")
            whole = world.plane.get(scale)
            refused(alice.send("PUT", scale, {**whole, "spec": {"replicas": 3}}), f"{path}: 2 -> 3")
    # A number that Git leaves open is anybody's.
    open_one = of_flux(deployment("open", WAYS))
    del open_one["spec"]["replicas"]
    flux.applies(open_one)
    scaled = alice.kubectl("scale", "deployment/open", "--replicas=3")
    assert scaled.done, scaled
    assert world.live(open_one)["spec"]["replicas"] == 3


def resize_of(pod: Object, user: str) -> Object:
    """The review of a resize, as servers send it that have this subresource."""
    new = json.loads(json.dumps(pod))
    new["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "2"}}
    request = {
        "uid": "3f0a",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "subResource": "resize",
        "name": pod["metadata"]["name"],
        "namespace": pod["metadata"]["namespace"],
        "operation": "UPDATE",
        "userInfo": {"username": user, "groups": ["system:authenticated"]},
        "object": new,
        "oldObject": pod,
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def test_10_the_pods_of_a_managed_deployment(world: World, flux: Person) -> None:
    plane = world.plane
    alice = world.person("alice", CHILDREN)
    web = of_flux(deployment("web", CHILDREN, 2))
    flux.applies(web)
    of_web = f"/api/v1/namespaces/{CHILDREN}/pods?labelSelector=pods-of%3Dweb"
    pods = plane.wait_for(lambda: (found := plane.get(of_web)["items"])[1:] and found, "the pods of the Deployment")
    pod = plane.get("pods", pods[0]["metadata"]["name"], CHILDREN)
    name, path = pod["metadata"]["name"], path_of(pod)
    reached_into = {
        "exec into": f"{path}/exec?command=ls&stdout=true",
        "attach to": f"{path}/attach?stdout=true",
        "forward a port of": f"{path}/portforward?ports=80",
        "proxy to": f"{path}/proxy/",
    }
    because = 'deployments.apps "web" in namespace "ways-children", which is managed by Flux'
    eviction = {"apiVersion": served(plane, "policy"), "kind": "Eviction", "metadata": {"name": name}}
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "worker"},
    }
    replica_set = plane.get("replicasets", pod["metadata"]["ownerReferences"][0]["name"], CHILDREN)
    with unchanged(plane, web, pod, replica_set):
        # Before the API server finds out that the pod runs nowhere.
        for verb, place in reached_into.items():
            refused(alice.send("POST", place), because, f"alice may not {verb} it")
        refused(alice.kubectl("exec", name, "--", "ls"), because, "alice may not exec into it")
        debug = ("debug", name, "--image=image.invalid/tools", "--container=tools")
        refused(alice.kubectl(*debug), because, "alice may not debug it")
        refused(alice.send("POST", f"{path}/eviction", eviction), because, "alice may not evict it")
        refused(alice.send("POST", f"{path}/binding", binding), because, "alice may not bind it")
        refused(alice.kubectl("label", f"pod/{name}", "--overwrite", "pods-of=alice"), "metadata.labels.pods-of")
        refused(alice.patch(f"pod/{name}", {"metadata": {"ownerReferences": None}}), "metadata.ownerReferences")
        image = [{"op": "replace", "path": "/spec/containers/0/image", "value": "image.invalid/shop:2"}]
        refused(alice.patch(f"pod/{name}", image, how="json"), "spec.containers[name=main].image")
        refused(alice.kubectl("delete", f"pod/{name}", "--wait=false"), because, "alice may not delete it")
        refused(alice.send("DELETE", of_web), because)
        refused(alice.kubectl("scale", target(replica_set), "--replicas=0"), "spec.replicas: 2 -> 0")
        refused(alice.kubectl("delete", target(replica_set), "--wait=false"), because)
        resized = {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "2"}}}]}}
        outcome = alice.send("PATCH", f"{path}/resize", resized, content_type=MERGE)
        if plane.version < (1, 32):
            assert (outcome.done, outcome.said) == (False, "the server could not find the requested resource")
        else:
            refused(outcome, because)
        answer = post(world.server, resize_of(pod, "alice"))
        assert answer["response"]["allowed"] is False
        assert "alice may not resize it" in answer["response"]["status"]["message"]
    documented("`ephemeralcontainers`, `resize`, `eviction`, `binding`, exec, attach | as `children` says")


def post(server: Driftwall, review: Object, path: str = "/validate", tls: ssl.SSLContext | None = None) -> Object:
    """Send a review to driftwall as anybody could who reaches it."""
    context = tls or ssl.create_default_context(cafile=str(server.ca_file))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(  # noqa: S310 - https, as driftwall itself says
        f"{server.url}{path}", json.dumps(review).encode(), {"Content-Type": "application/json"}
    )
    with opener.open(request, timeout=30) as response:
        answer: Object = json.load(response)
    return answer


# ── break-glass ──────────────────────────────────────────────────────────────────────────────────────────────────────


def glass(reason: str | None = REASON, **stamps: str) -> Object:
    """A merge patch that breaks glass; keywords are `by` and `expires`."""
    return {"metadata": {"annotations": {GLASS: reason, **{f"{GLASS}-{key}": value for key, value in stamps.items()}}}}


def at(**later: float) -> str:
    """A time as a stamp says it, by default now."""
    return (datetime.now(UTC) + timedelta(**later)).strftime("%Y-%m-%dT%H:%M:%SZ")


def annotations_of(obj: Object) -> Object:
    annotations: Object = obj["metadata"].get("annotations", {})
    return annotations


def test_11_break_glass_by_somebody_else(world: World, alice: Person, flux: Person, web: Object) -> None:
    service = of_flux(manifest("v1", "Service", "glass", WAYS, spec={"ports": [{"port": 80, "protocol": "TCP"}]}))
    flux.applies(service)
    forged = glass(by="sre", expires=at(hours=1))
    only = "only group sre may break glass, or end it"
    with unchanged(world.plane, web, service):
        refused(alice.kubectl("annotate", target(web), f"{GLASS}={REASON}"), GLASS, only)
        refused(alice.patch(target(web), forged), only)
        refused(alice.patch(target(web), {**glass(), **PORT}), only, PORT_PATH)
        refused(alice.patch(target(web), {**forged, **PORT}), only, PORT_PATH)
        status = f"{path_of(service)}/status"
        refused(alice.send("PATCH", status, forged, content_type=MERGE), only)
        # The name of somebody who may, without the group.
        refused(alice.patch(target(web), glass(), "--as=sre"), only)
        refused(alice.patch(target(web), PORT), PORT_PATH)
    created = config_map("glass-of-alice", WAYS)
    created["metadata"]["annotations"] = forged["metadata"]["annotations"]
    refused(alice.kubectl("create", "-f", "-", stdin=created), only)
    assert world.gone(created)


def test_11_break_glass_on_the_namespace_by_somebody_else(world: World, alice: Person, web: Object) -> None:
    namespace = manifest("v1", "Namespace", WAYS, None)
    forged, only = glass(by="sre", expires=at(hours=1)), "only group sre may break glass, or end it"
    with unchanged(world.plane, namespace, web):
        refused(alice.kubectl("annotate", "namespace", WAYS, f"{GLASS}={REASON}"), only)
        for place in ("", "/status"):
            path = f"{path_of(namespace)}{place}"
            refused(alice.send("PATCH", path, forged, content_type=MERGE), only)
        finalized = world.live(namespace)
        finalized["metadata"].setdefault("annotations", {}).update(annotations_of(forged))
        refused(alice.send("PUT", f"{path_of(namespace)}/finalize", finalized), only)
        refused(alice.patch(target(web), PORT), PORT_PATH)
    made = manifest("v1", "Namespace", "ways-glass-of-alice", None)
    made["metadata"]["annotations"] = annotations_of(forged)
    refused(alice.kubectl("create", "-f", "-", stdin=made), only)
    assert world.gone(made)


def test_11_break_glass_for_no_good_reason(world: World, alice: Person, sre: Person, web: Object) -> None:
    with unchanged(world.plane, web):
        for reason in ("because", "INC-: x", "xINC-1234: y", "INC-1234:"):
            refused(sre.kubectl("annotate", target(web), f"{GLASS}={reason}"), "does not match ^INC-[0-9]+: .+")
            refused(sre.patch(target(web), {**glass(reason), **PORT}), "does not match ^INC-[0-9]+: .+", PORT_PATH)
        refused(sre.kubectl("annotate", target(web), f"{GLASS}="), "break-glass needs a reason")
        refused(sre.patch(target(web), glass(expires="tomorrow")), "is no time such as 2006-01-02T15:04:05Z")
        refused(sre.patch(target(web), glass(expires=at(seconds=-1))), "it has expired already")
        # Stamps without a reason are none.
        refused(sre.patch(target(web), {**PORT, **glass(None, by="sre", expires=at(hours=1))}), PORT_PATH)
        refused(alice.patch(target(web), PORT), PORT_PATH)


def test_11_a_glass_that_has_expired_or_that_nobody_stamped(world: World, alice: Person) -> None:
    for obj in unstamped():
        with unchanged(world.plane, obj):
            refused(alice.patch(target(obj), PORT), PORT_PATH)
            refused(alice.kubectl("delete", target(obj)), "may not delete it")


def unstamped() -> list[Object]:
    """Objects with glasses that open nothing, as they can have been stored before driftwall was there."""
    glasses = {
        "expired": glass(by="sre", expires=at(seconds=-1)),
        "far-away": glass(by="sre", expires="2099-01-01T00:00:00Z"),
        "without-anybody": glass(expires=at(hours=1)),
        "without-an-end": glass(by="sre"),
        "without-a-reason": glass("", by="sre", expires=at(hours=1)),
        "for-no-good-reason": glass("because", by="sre", expires=at(hours=1)),
        "without-a-zone": glass(by="sre", expires=at(hours=1).removesuffix("Z")),
    }
    made = [of_flux(config_map(f"glass-{name}", WAYS)) for name in glasses]
    for obj, patch in zip(made, glasses.values(), strict=True):
        obj["metadata"]["annotations"] = annotations_of(patch)
    return made


def test_11_an_expiry_far_away_and_a_stamp_of_somebody_else(world: World, sre: Person, web: Object) -> None:
    outcome = sre.patch(target(web), glass(by="bob", expires="2099-01-01T00:00:00Z"))
    assert outcome.done, outcome
    annotations = annotations_of(world.live(web))
    assert annotations[BY] == "sre"
    assert at(hours=3.9) < annotations[EXPIRES] <= at(hours=4)
    # Through a subresource nothing is stamped, so there what is written has to be right already.
    service = of_flux(manifest("v1", "Service", "far", WAYS, spec={"ports": [{"port": 80, "protocol": "TCP"}]}))
    world.person("flux").applies(service)
    status = f"{path_of(service)}/status"
    with unchanged(world.plane, service):
        far = glass(by="sre", expires="2099-01-01T00:00:00Z")
        refused(sre.send("PATCH", status, far, content_type=MERGE), "it may last 4:00:00 at most")
        other = glass(by="bob", expires=at(hours=1))
        refused(sre.send("PATCH", status, other, content_type=MERGE), f"{BY} names somebody else")


def test_11_a_glass_kept_alive_by_editing_its_stamps(world: World, alice: Person, sre: Person, web: Object) -> None:
    assert sre.kubectl("annotate", target(web), f"{GLASS}={REASON}").done
    only = "only group sre may break glass, or end it"
    with unchanged(world.plane, web):
        for change in ({EXPIRES: at(hours=9)}, {EXPIRES: at(minutes=5)}, {BY: "alice"}, {GLASS: None}, {EXPIRES: None}):
            metadata = {"metadata": {"annotations": change}}
            refused(alice.patch(target(web), metadata), only)
            refused(alice.patch(target(web), {**metadata, **PORT}), only)
    opened = alice.patch(target(web), PORT)
    assert opened.done, opened
    # The one who may break it anew is held to the longest time, too, counted from now.
    assert sre.patch(target(web), {"metadata": {"annotations": {EXPIRES: at(hours=9)}}}).done
    assert annotations_of(world.live(web))[EXPIRES] <= at(hours=4)


# ── taking it away ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_12_every_way_to_delete(world: World, alice: Person, flux: Person, web: Object) -> None:
    workload = of_flux(deployment("undeletable", WAYS))
    labelled = of_flux(config_map("collected", WAYS))
    labelled["metadata"]["labels"]["e2e.example.com/collected"] = "yes"
    namespace = of_flux(manifest("v1", "Namespace", "ways-of-flux", None))
    flux.applies(workload, labelled, namespace)
    no = "alice may not delete it"
    with unchanged(world.plane, web, workload, labelled, namespace):
        for flags in ((), ("--force", "--grace-period=0"), ("--now",)):
            refused(alice.kubectl("delete", target(web), *flags), no)
        for how in ("background", "orphan", "foreground"):
            refused(alice.kubectl("delete", target(workload), f"--cascade={how}"), no)
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": how.capitalize()}
            refused(alice.send("DELETE", path_of(workload), options), no)
        selector = "e2e.example.com/collected=yes"
        refused(alice.kubectl("delete", "configmaps", "-l", selector), no)
        collection = f"/api/v1/namespaces/{WAYS}/configmaps?labelSelector=e2e.example.com%2Fcollected"
        refused(alice.send("DELETE", collection), no)
        refused(alice.kubectl("delete", "namespace", "ways-of-flux"), no)
        replaced = {**config_map(web["metadata"]["name"], WAYS), **PORT}
        refused(alice.kubectl("replace", "--force", "-f", "-", stdin=replaced), no)
    collected = world.server.await_log(2, user="alice", operation="DELETE", name="collected")
    assert [line["allowed"] for line in collected] == [False, False]


def test_12_an_owner_a_namespace_and_a_definition_that_nobody_manages(world: World, alice: Person) -> None:
    flux = world.person("flux")

    def family(name: str, labels: Object) -> tuple[list[Object], list[Object]]:
        """An owner, a Namespace and a definition with labels, and what depends on each."""
        owner = config_map(f"owner-{name}", WAYS)
        namespace = manifest("v1", "Namespace", f"ways-doomed-{name}", None)
        definition = gizmos(f"gadgets{name}s", **labels)
        for obj in (owner, namespace):
            obj["metadata"]["labels"] = labels
        flux.creates(owner, namespace, definition)  # without its mark: nobody manages them
        kind = definition["spec"]["names"]["kind"]
        collection = f"/apis/e2e.example.com/v1/gadgets{name}s"
        world.plane.wait_for(lambda: world.plane.exists(collection), f"{kind} to be served")
        owned = of_flux(config_map(f"owned-{name}", WAYS))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"]}
        owned["metadata"]["ownerReferences"] = [{**reference, "uid": world.live(owner)["metadata"]["uid"]}]
        within = of_flux(config_map("within", f"ways-doomed-{name}"))
        instance = of_flux(manifest("e2e.example.com/v1", kind, "instance", WAYS, spec={"size": 2}))
        flux.applies(owned, within, instance)
        return [owner, namespace, definition], [owned, within, instance]

    # A policy with `scope: All` and `deletion: true` keeps them.
    parents, dependents = family("kept", KEPT)
    with unchanged(world.plane, *parents, *dependents):
        for obj in parents:
            refused(alice.kubectl("delete", target(obj), "--wait=false"), "alice may not delete it", "Policy kept")
            refused(alice.send("DELETE", path_of(obj)), "Policy kept")
            unlabelled = {"metadata": {"labels": dict.fromkeys(KEPT)}}
            refused(alice.send("PATCH", path_of(obj), unlabelled, content_type=MERGE), "e2e.example.com/kept")
    # Without one, the control plane clears up after whoever deletes them.
    parents, dependents = family("free", {})
    for obj, dependent in zip(parents, dependents, strict=True):
        outcome = alice.kubectl("delete", target(obj), "--wait=false")
        assert outcome.done, outcome
        world.await_gone(dependent)
    documented(
        "**Not closed:** deleting an unmanaged owner, an unmanaged Namespace or a CustomResourceDefinition takes",
        "managed objects along",
        "protect them by a policy with `scope: All` and `deletion: true`",
    )


def test_13_an_owner_reference_to_an_object_of_ones_own(world: World, alice: Person, web: Object) -> None:
    own = config_map("doomed-owner", WAYS)
    alice.creates(own)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "doomed-owner"}
    reference["uid"] = world.live(own)["metadata"]["uid"]
    for more in ({}, {"controller": True}, {"blockOwnerDeletion": True}):
        adopted = {"metadata": {"ownerReferences": [{**reference, **more}]}}
        with unchanged(world.plane, web):
            refused(alice.patch(target(web), adopted), "metadata.ownerReferences")
            outcome = alice.apply({**web, "metadata": {**web["metadata"], **adopted["metadata"]}})
            refused(outcome, "metadata.ownerReferences")
    assert alice.kubectl("delete", target(own)).done
    assert "deletionTimestamp" not in world.live(web)["metadata"]


def test_14_the_last_finalizer_taken_away(world: World, alice: Person, flux: Person) -> None:
    held = of_flux(config_map("held", WAYS))
    held["metadata"]["finalizers"] = ["e2e.example.com/hold"]
    flux.applies(held)
    assert flux.send("DELETE", path_of(held)).done
    assert "deletionTimestamp" in world.live(held)["metadata"]
    with unchanged(world.plane, held):
        for patch in ('{"metadata": {"finalizers": []}}', '{"metadata": {"finalizers": null}}'):
            refused(alice.patch(target(held), json.loads(patch)), "metadata.finalizers")
        taken = [{"op": "remove", "path": "/metadata/finalizers/0"}]
        refused(alice.patch(target(held), taken, how="json"), "metadata.finalizers")
    assert flux.patch(target(held), {"metadata": {"finalizers": None}}).done
    world.await_gone(held)
    documented("protected if declared; an undeclared finalizer is free")


# ── what tells which fields are declared ─────────────────────────────────────────────────────────────────────────────


def test_15_the_record_of_what_was_declared(world: World, alice: Person, web: Object) -> None:
    record = "metadata.managedFields: takes away the record of what was declared"
    [entry] = world.live(web)["metadata"]["managedFields"]
    narrower = {**entry, "fieldsV1": {"f:metadata": entry["fieldsV1"]["f:metadata"]}}
    ways = [[{}], [{**entry, "manager": "alice"}], [narrower]]
    if world.plane.version >= (1, 22):  # older ones know no such field
        ways.append([{**entry, "subresource": "status"}])
    for entries in ways:
        with unchanged(world.plane, web):
            path = path_of(web)
            refused(alice.patch(target(web), {"metadata": {"managedFields": entries}}), record)
            outcome = alice.send(
                "PATCH",
                path,
                [{"op": "replace", "path": "/metadata/managedFields", "value": entries}],
                content_type=JSON,
            )
            refused(outcome, record)
            refused(alice.patch(target(web), {"metadata": {"managedFields": entries}, **PORT}), PORT_PATH)
    # This one the API server itself takes for a client that knows nothing of them.
    with unchanged(world.plane, web):
        alice.send("PATCH", path_of(web), {"metadata": {"managedFields": []}}, content_type=MERGE)


def test_15_the_annotations_that_tell_what_was_declared(world: World, alice: Person, flux: Person) -> None:
    applied = of_flux(config_map("last-applied", WAYS))
    applied["metadata"]["annotations"] = {"e2e.example.com/owner": "team-shop"}
    outcome = flux.kubectl("apply", "--field-manager=kustomize-controller", "-f", "-", stdin=applied)
    assert outcome.done, outcome
    synced = config_map("synced", WAYS)
    fields: Object = {"f:data": {"f:port": {}}}
    declared = "configsync.gke.io/declared-fields"
    synced["metadata"]["annotations"] = {
        "configmanagement.gke.io/managed": "enabled",
        "configsync.gke.io/resource-id": f"_configmap_{WAYS}_synced",
        declared: json.dumps(fields),
    }
    outcome = world.person("configsync").apply(synced, "configsync.gke.io")
    assert outcome.done, outcome
    with unchanged(world.plane, applied, synced):
        emptied = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last-applied"}})
        for obj, key, value in ((applied, LAST_APPLIED, emptied), (synced, declared, "{}")):
            for change in (value, "", "no JSON", None):
                patch = {"metadata": {"annotations": {key: change}}}
                refused(alice.patch(target(obj), patch), f"metadata.annotations['{key}']")
            refused(alice.patch(target(obj), PORT), PORT_PATH)
        refused(alice.kubectl("apply", "set-last-applied", "-f", "-", stdin=config_map("last-applied", WAYS)), "last-")
        refused(alice.kubectl("apply", "-f", "-", stdin={**config_map("last-applied", WAYS), **PORT}), PORT_PATH)
        # What she has taken off there is not taken off by her next apply, either.
        refused(alice.kubectl("apply", "-f", "-", stdin=config_map("last-applied", WAYS)), "last-applied")


def test_15_ownership_shared_by_force_and_then_dropped(world: World, alice: Person, flux: Person) -> None:
    shared = of_flux(config_map("shared", WAYS, port="80", host="shop"))
    flux.applies(shared)
    same = config_map("shared", WAYS, port="80", host="shop")
    outcome = alice.apply(same, "alice")
    assert outcome.done, outcome
    record = "metadata.managedFields: takes away the record of what was declared"
    without = of_flux(config_map("shared", WAYS, host="shop"))
    with unchanged(world.plane, shared):
        # Under the tool's own name: her share keeps the value, and the tool's would be gone.
        refused(alice.apply(without, "kustomize-controller"), record)
    dropped = alice.apply(config_map("shared", WAYS, host="shop"), "alice")
    assert dropped.done, dropped
    live = world.live(shared)
    assert live["data"] == {"port": "80", "host": "shop"}
    with unchanged(world.plane, shared):
        refused(alice.apply(without, "kustomize-controller"), "data.port: removed")
        refused(alice.patch(target(shared), PORT), PORT_PATH)
        refused(alice.patch(target(shared), {"data": {"port": None}}), "data.port: removed")


def test_16_every_version_of_an_ingress(world: World, alice: Person, flux: Person) -> None:
    plane = world.plane
    backend = {"service": {"name": "shop", "port": {"number": 80}}}
    rules = [{"host": "shop.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    spec = {"rules": rules, "defaultBackend": backend}
    ingress = of_flux(manifest("networking.k8s.io/v1", "Ingress", "versions", WAYS, spec=spec))
    flux.applies(ingress)
    groups = plane.get("/apis")["groups"]
    versions = sorted(
        version["groupVersion"]
        for group in groups
        if group["name"] in ("networking.k8s.io", "extensions")
        for version in group["versions"]
        if plane.exists(f"/apis/{version['groupVersion']}/ingresses")
    )
    if plane.version == (1, 20):
        assert versions == ["extensions/v1beta1", "networking.k8s.io/v1", "networking.k8s.io/v1beta1"]
    with unchanged(plane, ingress):
        for version in versions:
            path = path_of({**ingress, "apiVersion": version})
            outcome = alice.send("DELETE", path)
            refused(outcome, "may not delete it")
            other_host = [{"op": "replace", "path": "/spec/rules/0/host", "value": "alice.example.com"}]
            refused(alice.send("PATCH", path, other_host, content_type=JSON), "spec.rules")
            name = "defaultBackend/service/name" if version.endswith("/v1") else "backend/serviceName"
            other_backend = [{"op": "replace", "path": f"/spec/{name}", "value": "of-alice"}]
            refused(alice.send("PATCH", path, other_backend, content_type=JSON), "of-alice")
            unmarked = {"metadata": {"labels": dict.fromkeys(FLUX)}}
            refused(alice.send("PATCH", path, unmarked, content_type=MERGE), *FLUX)
        refused(alice.patch("ingresses.v1.networking.k8s.io/versions", {"spec": {"rules": None}}), "spec.rules")
    # What Git does not declare is free in all of them.
    for version in versions:
        path = path_of({**ingress, "apiVersion": version})
        outcome = alice.send(
            "PATCH", path, {"metadata": {"labels": {"of-alice": version.replace("/", "-")}}}, content_type=MERGE
        )
        assert outcome.done, outcome


def test_16_every_version_of_an_autoscaler(world: World, alice: Person, flux: Person) -> None:
    plane = world.plane
    group = next(group for group in plane.get("/apis")["groups"] if group["name"] == "autoscaling")
    versions = [version["groupVersion"] for version in group["versions"]]
    declared_in = next(version for version in ("autoscaling/v2", "autoscaling/v2beta2") if version in versions)
    metric: Object = {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}
    spec: Object = {
        "minReplicas": 1,
        "maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "absent"},
        "metrics": [{"type": "Resource", "resource": metric}],
    }
    scaler = of_flux(manifest(declared_in, "HorizontalPodAutoscaler", "versions", WAYS, spec=spec))
    flux.applies(scaler)
    with unchanged(plane, scaler):
        for version in versions:
            path = path_of({**scaler, "apiVersion": version})
            for change in ({"maxReplicas": 9}, {"minReplicas": 2}):
                outcome = alice.send("PATCH", path, {"spec": change}, content_type=MERGE)
                refused(outcome, f"spec.{next(iter(change))}")
            if version == "autoscaling/v1":
                # What this version has no field for it keeps in annotations.
                key = "autoscaling.alpha.kubernetes.io/metrics"
                kept = plane.get(path)["metadata"]["annotations"][key]
                for value in (kept.replace("60", "95"), None):
                    patch = {"metadata": {"annotations": {key: value}}}
                    refused(alice.send("PATCH", path, patch, content_type=MERGE))
                target_of_cpu = {"spec": {"targetCPUUtilizationPercentage": 95}}
                outcome = alice.send("PATCH", path, target_of_cpu, content_type=MERGE)
                refused(outcome, "spec.targetCPUUtilizationPercentage")
            else:
                removed = [{"op": "remove", "path": "/spec/metrics/0"}]
                refused(alice.send("PATCH", path, removed, content_type=JSON), "spec.metrics")


def test_16_both_versions_of_a_custom_resource(world: World, alice: Person, flux: Person) -> None:
    for declared_in in ("v1", "v1beta1"):
        made = of_flux(gizmo(f"in-{declared_in}", version=declared_in, size=2, note="in Git"))
        flux.applies(made)
        with unchanged(world.plane, made):
            for version in ("v1", "v1beta1"):
                path = path_of({**made, "apiVersion": f"e2e.example.com/{version}"})
                patch = {"spec": {"note": "by hand"}}
                refused(alice.send("PATCH", path, patch, content_type=MERGE), 'spec.note: "in Git" -> "by hand"')
                scale = {"spec": {"replicas": 5}}
                refused(alice.send("PATCH", f"{path}/scale", scale, content_type=MERGE), "spec.size: 2 -> 5")
                refused(alice.send("DELETE", path), "may not delete it")
                kind = f"gizmos.{version}.e2e.example.com/in-{declared_in}"
                refused(alice.patch(kind, patch), 'spec.note: "in Git" -> "by hand"')


# ── values and names ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_17_types_null_and_order(world: World, alice: Person, flux: Person) -> None:
    values: Object = {
        "port": 80,
        "text": "80",
        "on": True,
        "one": 1,
        "half": 0.5,
        "list": [1, 2],
        "map": {"a": 1},
        "empty": {},
    }
    made = of_flux(gizmo("types", **values))
    flux.applies(made)
    others: dict[str, list[Any]] = {
        "port": ["80", 80.5, None, [80], {}, True],
        "text": [80, None, ["80"], ""],
        "on": [1, "true", None, False],
        "one": [True, "1", 1.5],
        "half": ["0.5", 0, 1],
        "list": [[2, 1], [1], [1, 2, 3], None, {}, ["1", "2"], [[1, 2]]],
        "map": [{"a": "1"}, {}, None, [], 1, {"b": 1}],
        "empty": [None, [], "", 0],
    }
    with unchanged(world.plane, made):
        for key, changes in others.items():
            for change in changes:
                if isinstance(change, dict) or change is None:  # which mean something else in a merge patch
                    operation = [{"op": "replace", "path": f"/spec/{key}", "value": change}]
                    outcome = alice.send("PATCH", path_of(made), operation, content_type=JSON)
                else:
                    outcome = alice.send("PATCH", path_of(made), {"spec": {key: change}}, content_type=MERGE)
                refused(outcome, f"spec.{key}")
            removed = [{"op": "remove", "path": f"/spec/{key}"}]
            refused(alice.send("PATCH", path_of(made), removed, content_type=JSON), f"spec.{key}: removed")


def test_17_a_keyed_list_may_be_reordered_and_an_atomic_one_may_not(world: World, alice: Person, flux: Person) -> None:
    ports = [{"name": name, "port": port, "protocol": "TCP"} for name, port in (("a", 80), ("b", 81))]
    service = of_flux(manifest("v1", "Service", "order", WAYS, spec={"selector": {"x": "y"}, "ports": ports}))
    environment: list[Object] = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    workload = of_flux(deployment("order", WAYS))
    workload["spec"]["replicas"] = 0
    container = workload["spec"]["template"]["spec"]["containers"][0]
    container |= {"command": ["run", "--fast"], "env": environment}
    flux.applies(service, workload)
    containers = "/spec/template/spec/containers/0"
    with unchanged(world.plane, workload):
        swapped = [{"op": "replace", "path": f"{containers}/command", "value": ["--fast", "run"]}]
        refused(alice.send("PATCH", path_of(workload), swapped, content_type=JSON), "command")
        other = [{"name": "B", "value": "1"}, {"name": "A", "value": "2"}]
        renamed = [{"op": "replace", "path": f"{containers}/env", "value": other}]
        outcome = alice.send("PATCH", path_of(workload), renamed, content_type=JSON)
        refused(outcome, "env[name=A].value", "env[name=B].value")
    live = world.live(service)["spec"]["ports"]
    reordered = [{"op": "replace", "path": "/spec/ports", "value": live[::-1]}]
    outcome = alice.send("PATCH", path_of(service), reordered, content_type=JSON)
    assert outcome.done, outcome
    assert sorted(world.live(service)["spec"]["ports"], key=str) == sorted(live, key=str)
    with unchanged(world.plane, service):
        swapped_names = [{**live[0], "name": "b"}, {**live[1], "name": "a"}]
        renamed = [{"op": "replace", "path": "/spec/ports", "value": swapped_names}]
        refused(alice.send("PATCH", path_of(service), renamed, content_type=JSON), "spec.ports[port=80,protocol=TCP]")


ODD_KEYS = {
    "dots": "a.b.c",
    "slashes": "a/b//c~d~1",
    "brackets": "a[b=c][*]['d']",
    "quotes": "'single' \"double\" `back` \\",
    "unicode": "ключ-鍵-é-\u0301",
    "control characters": "line\nfeed\r\x1b[31mred\x07\x7f",
    "bidirectional marks": "gpj.\u202egnp\u2066x\u2069\u200f",
    "spaces": " \u00a0\u2003\u200b\ufeff ",
    "wildcards": "*?",
    "nothing": "",
    "long": "k" * 1000,  # longer ones the API server does not read in an apply
}


@pytest.mark.parametrize("name", ODD_KEYS)
def test_18_odd_keys_and_long_values(world: World, alice: Person, flux: Person, name: str) -> None:
    key = ODD_KEYS[name]
    made = of_flux(gizmo(f"odd-{name.replace(' ', '-')}", free={key: {"inner": "in Git"}, "value": key * 65, "a": "b"}))
    flux.applies(made)
    escaped = key.replace("~", "~0").replace("/", "~1")
    long = "v" * 64 * 1024
    operations = [
        {"op": "replace", "path": f"/spec/free/{escaped}/inner", "value": "by hand"},
        {"op": "replace", "path": f"/spec/free/{escaped}/inner", "value": f"{long}\n\x1b[2J\u202e"},
        {"op": "remove", "path": f"/spec/free/{escaped}"},
        {"op": "replace", "path": f"/spec/free/{escaped}", "value": None},
        {"op": "move", "from": f"/spec/free/{escaped}", "path": "/spec/free/moved"},
        {"op": "replace", "path": "/spec/free/value", "value": f"{key}x"},
        {"op": "replace", "path": "/spec/free/value", "value": long},
        {"op": "replace", "path": "/spec/free", "value": long},
    ]
    with unchanged(world.plane, made):
        for operation in operations:
            outcome = alice.send("PATCH", path_of(made), [operation], content_type=JSON)
            message = refused(outcome, "alice may not change:\n  spec.free", "Policy declared-fields")
            assert len(message) <= 1024
            assert all(line.isprintable() for line in message.split("\n")), message
            assert "kkkkkkkkkk" * 20 not in message
            assert "vvvvvvvvvv" * 20 not in message


def test_19_a_name_that_the_server_makes_or_that_only_the_old_object_has(
    world: World, alice: Person, flux: Person
) -> None:
    forged = of_flux(config_map("", WAYS))
    forged["metadata"] = {"generateName": "generated-", "namespace": WAYS, "labels": {**FLUX, "generated": "yes"}}
    collection = f"/api/v1/namespaces/{WAYS}/configmaps"
    refused(alice.send("POST", collection, forged), "bears the mark of Flux", "alice may not create it with")
    refused(alice.kubectl("create", "-f", "-", stdin=forged), "bears the mark of Flux")
    glassy = {**forged, "metadata": {**forged["metadata"], "labels": {"generated": "yes"}}}
    glassy["metadata"]["annotations"] = annotations_of(glass(by="sre", expires=at(hours=1)))
    refused(alice.send("POST", collection, glassy), "only group sre may break glass")
    generated = f"{collection}?labelSelector=generated%3Dyes"
    assert world.plane.get(generated)["items"] == []
    outcome = flux.send("POST", f"{collection}?fieldManager=kustomize-controller", forged)
    assert outcome.done, outcome
    [made] = world.plane.get(generated)["items"]
    name = made["metadata"]["name"]
    made = config_map(name, WAYS)
    with unchanged(world.plane, made):
        message = refused(alice.send("DELETE", generated), "may not delete it")
        assert f'configmaps "{name}" in namespace "{WAYS}" is managed by Flux' in message
        refused(alice.patch(target(made), PORT), PORT_PATH)
    [line] = world.server.await_log(user="alice", operation="DELETE", name=name)
    assert line["allowed"] is False


def test_20_a_write_during_termination(world: World, alice: Person, flux: Person) -> None:
    ending = of_flux(config_map("ending", WAYS))
    ending["metadata"]["finalizers"] = ["e2e.example.com/hold"]
    flux.applies(ending)
    assert flux.send("DELETE", path_of(ending)).done
    with unchanged(world.plane, ending):
        refused(alice.patch(target(ending), PORT), PORT_PATH)
        refused(alice.patch(target(ending), {**PORT, "metadata": {"finalizers": None}}), PORT_PATH)
        refused(alice.kubectl("label", target(ending), *(f"{key}-" for key in FLUX)), *FLUX)
        refused(alice.kubectl("delete", target(ending), "--wait=false"), "may not delete it")
    assert flux.patch(target(ending), {"metadata": {"finalizers": None}}).done
    world.await_gone(ending)


# ── other hands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_21_an_autoscaler_pointed_at_a_managed_workload(world: World, alice: Person, flux: Person) -> None:
    plane = world.plane
    workload, custom = of_flux(deployment("autoscaled", WAYS)), of_flux(gizmo("autoscaled"))
    own = deployment("autoscaled-of-alice", WAYS, 0)
    flux.applies(workload, custom)
    alice.creates(own)

    def scaler(obj: Object) -> Object:
        reference = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": obj["metadata"]["name"]}
        spec = {"minReplicas": 2, "maxReplicas": 5, "scaleTargetRef": reference}
        return manifest("autoscaling/v1", "HorizontalPodAutoscaler", "of-alice", WAYS, spec=spec)

    with unchanged(plane, workload, custom):
        for obj, path in ((workload, "spec.replicas"), (custom, "spec.size")):
            refused(alice.kubectl("create", "-f", "-", stdin=scaler(obj)), path, "is managed by Flux")
        refused(alice.kubectl("autoscale", target(workload), "--min=2", "--max=5"), "spec.replicas")
        group = next(group for group in plane.get("/apis")["groups"] if group["name"] == "autoscaling")
        alice.creates(scaler(own))
        for version in group["versions"]:
            path = path_of({**scaler(own), "apiVersion": version["groupVersion"]})
            retargeted = {"spec": {"scaleTargetRef": {"name": "autoscaled"}}}
            refused(alice.send("PATCH", path, retargeted, content_type=MERGE), "spec.replicas", '"autoscaled"')
        assert plane.get(path_of(scaler(own)))["spec"]["scaleTargetRef"]["name"] == "autoscaled-of-alice"
    # One that Git brings scales what Git brings, without a word from anybody.
    by_git = of_flux(scaler(workload))
    by_git["metadata"]["name"] = "of-git"
    flux.applies(by_git)
    replicas = plane.wait_for(lambda: world.live(workload)["spec"]["replicas"] == 2, "the autoscaler to scale")
    assert replicas


def test_21_automation_that_writes_fields_it_was_not_given(world: World, flux: Person) -> None:
    workload = of_flux(deployment("automated", WAYS))
    flux.applies(workload)
    scaler = world.person("scaler")
    with unchanged(world.plane, workload):
        image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "image.invalid/other"}]}}}}
        refused(scaler.patch(target(workload), image, how="strategic"), "containers[name=main].image")
        both = {"spec": {"replicas": 2, **image["spec"]}}
        message = refused(scaler.patch(target(workload), both, how="strategic"), "containers[name=main].image")
        assert "spec.replicas" not in message
        refused(scaler.kubectl("label", target(workload), *(f"{key}-" for key in FLUX)), *FLUX)
        refused(scaler.kubectl("delete", target(workload)), "may not delete it")
    for outcome in (
        scaler.kubectl("scale", target(workload), "--replicas=2"),
        scaler.patch(target(workload), {"spec": {"replicas": 0}}),
    ):
        assert outcome.done, outcome
    assert world.live(workload)["spec"]["replicas"] == 0
    [last] = world.server.await_log(name="automated", subresource="scale")
    assert (last["writer"], last["allowed"]) == ("automation:scaler", True)


def test_22_a_dry_run_tells_the_same_and_leaves_nothing(world: World, alice: Person, sre: Person, web: Object) -> None:
    plane, dry = world.plane, "--dry-run=server"
    with unchanged(plane, web):
        told = refused(alice.patch(target(web), PORT, dry), PORT_PATH)
        assert refused(alice.patch(target(web), PORT), PORT_PATH) == told
        refused(alice.kubectl("delete", target(web), dry), "may not delete it")
        refused(alice.kubectl("annotate", target(web), f"{GLASS}={REASON}", dry), "only group sre may break glass")
        for outcome in (
            sre.kubectl("annotate", target(web), f"{GLASS}={REASON}", dry),
            sre.patch(target(web), {**glass(), **PORT}, dry),
        ):
            assert outcome.done, outcome
        # Nothing was broken by that.
        refused(alice.patch(target(web), PORT), PORT_PATH)
        refused(sre.patch(target(web), PORT), PORT_PATH)
    drifting = of_flux(config_map("drifting", TAGGED))
    world.person("flux").applies(drifting)
    there = replace(alice, namespace=TAGGED)
    with unchanged(plane, drifting):
        outcome = there.patch("configmap/drifting", PORT, dry, "-o", "json")
        assert outcome.done, outcome
        seen = json.loads(outcome.said)
        assert (seen["data"], seen["metadata"]["labels"]) == (PORT["data"], FLUX)
    # With the glass really broken, a dry run is allowed under it, and is still no use of it.
    assert sre.kubectl("annotate", target(web), f"{GLASS}={REASON}").done
    with unchanged(plane, web):
        outcome = alice.patch(target(web), PORT, dry)
        assert outcome.done, outcome
    outcome = alice.patch(target(web), {"data": {"port": "8081"}})
    assert outcome.done, outcome
    name = web["metadata"]["name"]

    def counts() -> Counter[str]:
        found: Counter[str] = Counter()
        for event in events_about(plane, WAYS, name):
            found[event["reason"]] += event["count"]
        return found

    # Events are written in the order of the writes, so none of an earlier one is still to come.
    plane.wait_for(lambda: counts()["WriteUnderBreakGlass"], "the Event of the write that was none")
    left = counts()
    # There are only so many Events of denials at once.
    assert left.pop("WriteDenied", 0) <= len(world.server.log(name=name, allowed=False, dryRun=False))
    assert left == {"GlassBroken": 1, "WriteUnderBreakGlass": 1}
    lines = world.server.await_log(3, user="sre", name=name, allowed=True)
    assert [line["dryRun"] for line in lines] == [True, True, False]


def test_23_a_mutating_webhook_that_comes_later(world: World, alice: Person, sre: Person, flux: Person) -> None:
    plane = world.plane
    chosen = {"e2e.example.com/later": "yes"}
    port: Object = {"op": "replace", "path": "/data/port", "value": "8080"}
    stamp = EXPIRES.replace("/", "~1")
    far = {"op": "add", "path": f"/metadata/annotations/{stamp}", "value": "2099-01-01T00:00:00Z"}
    own_stamps: list[Object] = [
        {"op": "add", "path": "/metadata/annotations", "value": annotations_of(glass(by="sre", expires=at(hours=1)))}
    ]
    patches: list[Object] = []
    with recording(lambda request: patches if "object" in request else ()) as later:
        register_later(plane, later.url, later.ca_pem, chosen)
        probe = config_map("later-probe", WAYS)
        probe["metadata"]["labels"] = chosen
        collection = f"/api/v1/namespaces/{WAYS}/configmaps?dryRun=All"

        def in_force() -> bool:
            alice.send("POST", collection, probe)
            return bool(later.requests(name="later-probe"))

        plane.wait_for(in_force, "the later webhook to be in force")
        web = of_flux(config_map("later", WAYS))
        web["metadata"]["labels"] |= chosen
        flux.applies(web)
        harmless = {"metadata": {"labels": {"of-alice": "yes"}}}
        for patch in ([port], own_stamps, [*own_stamps, port]):
            patches[:] = patch
            with unchanged(plane, web):
                parts = [PORT_PATH] if port in patch else ["only group sre may break glass"]
                refused(alice.patch(target(web), harmless), *parts)
        patches[:] = [far]
        with unchanged(plane, web):
            refused(sre.patch(target(web), glass()), "it may last 4:00:00 at most")
        # What it does to a write under break-glass is that write's, and told of.
        patches[:] = [port]
        outcome = sre.patch(target(web), glass())
        assert outcome.done, outcome
        patches.clear()
    unregister_later(plane)
    live = world.live(web)
    assert live["data"] == PORT["data"]
    assert live["metadata"]["labels"]["driftwall.io/drifted"] == "true"
    drift = json.loads(annotations_of(live)["driftwall.io/drift"])
    assert (drift["by"], drift["fields"]) == ("sre", ["data.port"])


def register_later(plane: ControlPlane, url: str, ca: bytes, labels: Object) -> None:
    """Put a mutating webhook behind driftwall's, for objects with the labels."""
    # It has the last word: after driftwall's has been called anew because of it, so is it.
    fields = {"objectSelector": {"matchLabels": labels}, "reinvocationPolicy": "IfNeeded"}
    wanted = registration.configuration("mutating", url, ca, fields)
    wanted["metadata"]["name"], wanted["webhooks"][0]["name"] = LATER, "later.e2e.example.com"
    status, answer = plane.raw("POST", LATER_PATH, wanted)
    assert status == 201, answer


def unregister_later(plane: ControlPlane) -> None:
    status, answer = plane.raw("DELETE", f"{LATER_PATH}/{LATER}")
    assert status == 200, answer


LATER, LATER_PATH = "zz-later", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


# ── driftwall itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_24_what_driftwall_itself_is_made_of(world: World, alice: Person, flux: Person) -> None:
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "driftwall-of-git"}
    account = {"kind": "ServiceAccount", "namespace": OWN, "name": "driftwall"}
    text, other = "kind: DriftwallConfig\n", "kind: DriftwallConfig\nspec: {}\n"
    port = {"name": "https", "port": 443, "protocol": "TCP"}
    parts: list[tuple[Object, Object, str]] = [
        (config_map("policies", OWN, **{"policies.yaml": text}), {"data": {"policies.yaml": other}}, "data["),
        (
            manifest("v1", "Secret", "tls", OWN, data={"tls.key": "a2V5"}, type="Opaque"),
            {"data": {"tls.key": "c3RvbGVu"}},
            "data['tls.key']: (hidden) -> (hidden)",
        ),
        (
            manifest("v1", "Service", "driftwall", OWN, spec={"selector": {"app": "driftwall"}, "ports": [port]}),
            {"spec": {"selector": {"app": "of-alice"}}},
            "spec.selector",
        ),
        (deployment("driftwall", OWN), {"spec": {"replicas": 0}}, "spec.replicas: 1 -> 0"),
        (manifest("v1", "ServiceAccount", "driftwall-of-git", OWN), {"metadata": {"labels": None}}, "metadata.labels"),
        (manifest(f"{rbac}/v1", "ClusterRole", "driftwall-of-git", None, rules=[rule]), {"rules": []}, "rules"),
        (
            manifest(f"{rbac}/v1", "ClusterRoleBinding", "driftwall-of-git", None, roleRef=role, subjects=[account]),
            {"subjects": None},
            "subjects",
        ),
    ]
    objects = [of_flux(obj) for obj, _, _ in parts]
    flux.applies(*objects)
    there = replace(alice, namespace=OWN)
    with unchanged(world.plane, *objects):
        for obj, (_, patch, path) in zip(objects, parts, strict=True):
            message = refused(there.patch(target(obj), patch), path)
            assert "c3RvbGVu" not in message
            refused(there.kubectl("delete", target(obj), "--wait=false"), "may not delete it")
    # The one thing that is never sent through webhooks, so RBAC has to close it.
    configuration = "validatingwebhookconfiguration/driftwall"
    outcome = alice.kubectl("annotate", configuration, "e2e.example.com/by=alice")
    assert outcome.done, outcome
    documented("never sends writes of ValidatingWebhookConfiguration and MutatingWebhookConfiguration through webhooks")


def forged_review(obj: Object, user: str, *, groups: list[str], patch: Object) -> Object:
    """A review of a write that nobody makes."""
    new = json.loads(json.dumps(obj))
    new["metadata"].setdefault("annotations", {}).update(patch.get("metadata", {}).get("annotations", {}))
    new["data"] |= patch.get("data", {})
    request = {
        "uid": "forged",
        "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
        "resource": {"group": "", "version": "v1", "resource": "configmaps"},
        "name": obj["metadata"]["name"],
        "namespace": obj["metadata"]["namespace"],
        "operation": "UPDATE",
        "userInfo": {"username": user, "groups": groups},
        "object": new,
        "oldObject": obj,
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def forged_scale(workload: Object) -> Object:
    name, namespace = workload["metadata"]["name"], workload["metadata"]["namespace"]
    old, new = (
        {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, "spec": {"replicas": number}}
        for number in (1, 9)
    )
    request = {
        "uid": "forged-scale",
        "kind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "subResource": "scale",
        "name": name,
        "namespace": namespace,
        "operation": "UPDATE",
        "userInfo": {"username": "alice"},
        "object": new,
        "oldObject": old,
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def test_25_calls_that_do_not_come_from_the_api_server(world: World, alice: Person, web: Object) -> None:
    server, plane = world.server, world.plane
    live = world.live(web)
    with unchanged(plane, web):
        breaking = forged_review(live, "sre", groups=["sre"], patch={**glass(), **PORT})
        assert post(server, breaking)["response"]["allowed"] is True
        answer = post(server, breaking, "/mutate")["response"]
        assert (answer["allowed"], answer["patchType"]) == (True, "JSONPatch")
        trusted = forged_review(live, FLUX_ACCOUNT, groups=[], patch=PORT)
        trusted["request"]["userInfo"]["uid"] = "any"
        assert post(server, trusted)["response"]["allowed"] is True
        # No glass is broken by that, and nobody is trusted more than before.
        refused(alice.patch(target(web), PORT), PORT_PATH)
    # What can be left behind: an Event, and the mark of a workload that nobody scaled.
    name = web["metadata"]["name"]
    reasons = {event["reason"] for event in plane.wait_for(lambda: events_about(plane, WAYS, name), "the Event")}
    assert reasons - {"WriteDenied"} == {"WriteUnderBreakGlass"}
    workload = of_flux(deployment("unscaled", TAGGED))
    world.person("flux").applies(workload)
    assert post(server, forged_scale(workload))["response"]["allowed"] is True
    marked = plane.wait_for(
        lambda: (live := world.live(workload))["metadata"]["labels"].get("driftwall.io/drifted") and live, "the mark"
    )
    assert marked["spec"]["replicas"] == 1
    documented("a false Event, a false mark on a workload", "`--client-ca` asks callers for a certificate")


def test_25_mutual_tls(world: World, tmp_path_factory: pytest.TempPathFactory, web: Object) -> None:
    folder, authority = tmp_path_factory.mktemp("mutual-tls"), Authority("e2e-clients")
    (folder / "clients.pem").write_bytes(authority.certificate_pem)
    stranger = Authority("e2e-strangers")
    review = forged_review(world.live(web), "alice", groups=[], patch=PORT)
    flags = [f"--client-ca={folder / 'clients.pem'}"]
    with Driftwall(world.plane, tmp_path_factory.mktemp("guarded"), POLICIES, flags=flags) as server:
        for issuer in (None, stranger):
            with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                post(server, review, tls=client_of(server, issuer, folder))
        answer = post(server, review, tls=client_of(server, authority, folder))
        assert answer["response"]["allowed"] is False
        assert [line["uid"] for line in server.await_log()] == ["forged"]


def client_of(server: Driftwall, issuer: Authority | None, folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    if issuer is not None:
        pair = folder / "client.pem"
        pair.write_bytes(b"".join(issuer.client("kube-apiserver")))
        context.load_cert_chain(pair)
    return context


def test_26_names_that_look_like_those_of_others(world: World, alice: Person, web: Object) -> None:
    with unchanged(world.plane, web):
        for user in ("evil", "other-namespace", "other-name"):
            someone = world.person(user)
            refused(someone.patch(target(web), PORT), PORT_PATH, "system:serviceaccount:")
            refused(someone.kubectl("delete", target(web)), "may not delete it")
        for name in (
            "system:serviceaccount:kube-system:evil",
            "system:serviceaccount:kube-system:generic-garbage-collector",  # without a token of its own
            f"{FLUX_ACCOUNT}:",
            f"{FLUX_ACCOUNT} ",
            FLUX_ACCOUNT.upper(),
            FLUX_ACCOUNT.replace("kustomize-controller", "Kustomize-Controller"),
            FLUX_ACCOUNT.replace("system:", "System:"),
            f"x{FLUX_ACCOUNT}",
            "flux",
            "kustomize-controller",
            "system:kube-controller-manager-2",
            "system:kube-scheduler:",
            "System:kube-scheduler",
            "system:apiserver.evil",
            "system:node:worker",  # without the group of nodes
        ):
            flags = ("--as", name, "--as-group", "system:masters")
            refused(alice.kubectl("patch", target(web), "-p", json.dumps(PORT), *flags), PORT_PATH)
        # The group of nodes, without the name of one.
        nodes = ("--as", "worker", "--as-group", "system:nodes", "--as-group", "system:masters")
        refused(alice.kubectl("patch", target(web), "-p", json.dumps(PORT), *nodes), PORT_PATH)
    lines = world.server.await_log(9, name=web["metadata"]["name"], allowed=False)
    assert {line["writer"] for line in lines} == {"untrusted"}
    documented("exact names, service accounts by namespace and name", "**Impersonating the control plane**")
