"""driftwall as deploy/ installs it: two replicas behind a Service, which the real controllers bring and take away.

The API server finds the replicas by the Service's endpoints. Their processes are all that the cluster lacks: they are
started as the Pods say, each on a host of its own; see Node.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import yaml

from tests.deploying import DEPLOY, NAMESPACE, Object, commands

from .control_plane import ControlPlane
from .installing import (
    all_are_used_and_no_other_is_wanted,
    bundles,
    found,
    installed,
    kubectl,
    overlay,
    requests_of,
    rights,
    shell,
)
from .kinds import WIDGETS
from .network import Network
from .node import Node, Replica
from .people import (
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
)
from .servers import Options
from .writes import Writes

README = DEPLOY / "README.md"
USER = f"system:serviceaccount:{NAMESPACE}:driftwall"
REPLICAS = 2
# While replicas are replaced there is one more, and those that end go on for some seconds.
HOSTS = 6
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/driftwall-tls"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/driftwall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A control plane and a node on which driftwall's pods run, with a namespace that Flux and alice write in."""

    plane: ControlPlane
    node: Node
    shop: str

    # Who writes

    def allowed(self, thread: int, number: int) -> str | None:
        """A write of Flux, or of alice to what nobody manages; gives what it came to grief on, if it did."""
        alice, flux = (Person(plane=self.plane, user=user, namespace=self.shop) for user in ("alice", "flux"))
        if number % 2:
            done = flux.apply(self.web(f"web-{thread}", number), "kustomize-controller")
        else:
            done = alice.apply(config_map(f"own-{thread}", self.shop, number=str(number)))
        return None if done.done else done.said

    def forbidden(self, thread: int, number: int) -> str | None:
        """A write that is to be denied; gives what became of it, if it was not."""
        path = path_of(self.web(f"web-{thread}"))
        containers = [{"name": "main", "image": f"image.invalid/of-alice:{number}"}]
        status, answer = self.plane.raw(
            "PATCH",
            path,
            {"spec": {"template": {"spec": {"containers": containers}}}},
            user="alice",
            headers={"Content-Type": MERGE},
        )
        said = str(answer.get("message"))
        denied = 'admission webhook "validate.driftwall.io" denied the request' in said
        return None if status == 403 and denied and "is managed by Flux" in said else f"{status}: {said}"

    def web(self, name: str, number: int = 1) -> Object:
        """A Deployment of Flux's that no pod is made for."""
        made = of_flux(deployment(name, self.shop, replicas=0))
        made["spec"]["template"]["spec"]["containers"][0]["image"] = f"image.invalid/shop:{number}"
        return made

    def writing(self) -> Writes:
        """A load of writes that are all to be let through."""
        return Writes(self.plane, self.allowed, threads=1)

    def trying(self) -> Writes:
        """A load of writes that are all to be denied."""
        return Writes(self.plane, self.forbidden, threads=1)

    # What driftwall is doing

    def is_up(self) -> bool:
        """Whether all replicas are ready, and the API server trusts them."""
        secret = self.plane.get(SECRET).get("data", {})
        ready = [replica for replica in self.node.replicas if replica.ready]
        return len(ready) == REPLICAS and bundles(self.plane) == {secret.get("ca.crt")}

    def rolled_out(self) -> None:
        """Wait as a person would, and until driftwall is called."""
        self.plane.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/driftwall", "--timeout=60s")
        self.plane.wait_for(self.is_up, "all replicas to be ready and trusted")

    def enforced(self) -> None:
        """Wait until every replica enforces."""
        self.plane.wait_for(lambda: self.forbidden(0, 0) is None, "a write to be denied")
        self.loaded(1)

    def loaded(self, times: int) -> None:
        """Wait until every replica has changed its policies so often since it was started."""
        self.plane.wait_for(lambda: all(changes(each) >= times for each in self.node.replicas), "the policies")

    def keys(self) -> Mapping[str, str]:
        """The Secret's data."""
        found: Mapping[str, str] = self.plane.get(SECRET)["data"]
        return found

    def rotated(self, before: Mapping[str, str]) -> bool:
        """Whether CA and certificate are others than before, and nothing is left of the rotation."""
        now = self.keys()
        changed = all(now[key] != before[key] for key in ("ca.crt", "tls.crt"))
        return changed and "previous-ca.crt" not in now and bundles(self.plane) == {now["ca.crt"]}

    def removed(self) -> None:
        """Wait until nothing of driftwall's is left."""
        self.plane.wait_for(lambda: installed(self.plane) == [], "everything to be gone")


def changes(replica: Replica) -> int:
    return [message["message"] for message in replica.messages()].count("policies changed")


@pytest.fixture(scope="module")
def cluster(
    shown: Callable[[], contextlib.AbstractContextManager[None]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        with shown():
            network = stack.enter_context(Network(HOSTS))
        flags = ["--enable-aggregator-routing=true"]
        options = Options(addresses=[network.gateway], api_server_flags=flags)
        plane = stack.enter_context(ControlPlane(options))
        # As API servers from v1.21 on do themselves; the webhook configurations exempt it by that.
        plane.kubectl("label", "namespace", "kube-system", "kubernetes.io/metadata.name=kube-system", "--overwrite")
        node = stack.enter_context(Node(plane, network, NAMESPACE, tmp_path_factory.mktemp("node")))
        cluster = Cluster(plane=plane, node=node, shop=plane.create_namespace("shop"))
        assert cluster.allowed(0, 1) is None
        yield cluster


# Policies in a ConfigMap


def test_installed_twice_enforced_and_replaced_during_a_rotation_of_the_ca_it_fails_no_write(cluster: Cluster) -> None:
    plane, enforce = cluster.plane, overlay("enforce")
    assert installed(plane) == []
    with cluster.writing() as writes:
        kubectl(plane, "apply", objects=overlay("dry-run"))
        cluster.rolled_out()
        again = kubectl(plane, "apply", objects=overlay("dry-run")).splitlines()
        assert [line for line in again if not line.endswith(" unchanged")] == []
        kubectl(plane, "apply", objects=enforce)
        cluster.enforced()
        with cluster.trying() as tries:
            before, first = cluster.keys(), {replica.name for replica in cluster.node.replicas}
            plane.kubectl("-n", NAMESPACE, "annotate", "secret", "driftwall-tls", "driftwall.io/rotate=ca")
            upgraded = next_version(enforce)
            kubectl(plane, "apply", objects=upgraded)
            cluster.rolled_out()
            assert first.isdisjoint(replica.name for replica in cluster.node.replicas)
            plane.wait_for(lambda: cluster.rotated(before), "the rotation of the CA to end", seconds=60)
            again = kubectl(plane, "apply", objects=upgraded).splitlines()
            assert [line for line in again if not line.endswith(" unchanged")] == []
            tries.go_on()
        writes.go_on()
    assert (writes.failures, tries.failures) == ([], [])
    assert min(writes.done, tries.done) > 20


def next_version(objects: Sequence[Object]) -> list[Object]:
    """The manifests with the image of the version after this one."""
    text = json.dumps(objects)
    assert text.count('"image": "driftwall:0.1.0.dev0"') == 1
    found: list[Object] = json.loads(text.replace("driftwall:0.1.0.dev0", "driftwall:0.1.0.dev1"))
    return found


# Policies as custom resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The cluster with driftwall that goes by custom resources, and how often the audit log named it before."""

    cluster: Cluster
    begun: int

    def requests(self) -> list[Object]:
        return requests_of(self.cluster.plane, USER, self.begun)


@pytest.fixture(scope="module")
def custom(cluster: Cluster) -> Installed:
    """Installed, or taken over from a ConfigMap, and put to enforcing as the page says."""
    plane, begun = cluster.plane, sum(1 for _ in cluster.plane.audit_events(USER))
    # Where it runs already, it takes its own kinds from nobody but Flux.
    shell(plane, commands_after("kubectl delete --ignore-not-found", 1)[0])
    definitions, established, policies = commands_after("kubectl apply -k deploy/crds", 3)
    shell(plane, definitions)
    shell(plane, established)
    assert policies == "kubectl apply -k deploy/kustomize/overlays/custom-resources"
    kubectl(plane, "apply", objects=overlay("custom-resources"))
    cluster.rolled_out()
    plane.wait_for(lambda: statuses(plane) == ["True"] * 3, "every policy to be accepted")
    for namespace in (TAGGED, CHILDREN):
        plane.create_namespace(namespace)
    change(plane, *POLICIES)
    (configuring,) = commands_after("driftwall webhook-config --policies cluster", 1)
    if plane.version < (1, 28):
        configuring = configuring.replace("apply", "apply --validate=false")
    shell(plane, configuring)
    cluster.enforced()
    return Installed(cluster=cluster, begun=begun)


def commands_after(beginning: str, count: int) -> list[str]:
    found = commands(README)
    index = next(index for index, command in enumerate(found) if command.startswith(beginning))
    return found[index : index + count]


def statuses(plane: ControlPlane) -> list[str]:
    items = [item for kind in ("driftpolicies", "driftwallconfigs") for item in plane.get(kind)["items"]]
    conditions = [item.get("status", {}).get("conditions", []) for item in items]
    return [condition["status"] for each in conditions for condition in each]


def change(plane: ControlPlane, *policies: Object) -> None:
    """Change policies as whoever may: the GitOps tool."""
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": policies})
    plane.kubectl("apply", "-f", "-", user="flux", stdin=stdin)


def policy(name: str, mode: str, match: Object, protect: Object, **spec: object) -> Object:
    whole = {"mode": mode, "match": match, "protect": protect, **spec}
    return {"apiVersion": "driftwall.io/v1alpha1", "kind": "DriftPolicy", "metadata": {"name": name}, "spec": whole}


TAGGED, CHILDREN = "tagged", "children"
DECLARED = {"declared": True}
ENFORCED = policy("declared-fields", "enforce", {"excludeNamespaces": [TAGGED]}, DECLARED)
# Of what a policy may ask for: each mode that leaves something behind, children, break-glass.
POLICIES: Sequence[Object] = (
    {
        "apiVersion": "driftwall.io/v1alpha1",
        "kind": "DriftwallConfig",
        "metadata": {"name": "default"},
        "spec": {"breakGlass": {"groups": ["sre"], "reasonPattern": "^INC-[0-9]+"}},
    },
    ENFORCED,
    policy("marked", "tag", {"namespaces": [TAGGED]}, DECLARED),
    policy("with-children", "enforce", {"namespaces": [CHILDREN]}, {**DECLARED, "children": True}),
)


def reloaded(cluster: Cluster, before: Mapping[str, int]) -> bool:
    """Whether every replica has other policies than before."""
    return all(changes(replica) > before[replica.name] for replica in cluster.node.replicas)


def test_a_hundred_reloads_of_policies_fail_no_write_and_let_none_through(custom: Installed) -> None:
    cluster = custom.cluster
    path = "/apis/driftwall.io/v1alpha1/driftpolicies/declared-fields"
    with cluster.writing() as writes, cluster.trying() as tries:
        for number in range(100):
            before = {replica.name: changes(replica) for replica in cluster.node.replicas}
            described = {"spec": {"description": f"Version {number}."}}
            status, answer = cluster.plane.raw("PATCH", path, described, user="flux", headers={"Content-Type": MERGE})
            assert status == 200, answer
            cluster.plane.wait_for(partial(reloaded, cluster, before), "the change to be in force everywhere")
        writes.go_on()
        tries.go_on()
    assert (writes.failures, tries.failures) == ([], [])


# Rights


def test_every_right_is_used_and_no_other_is_wanted(custom: Installed) -> None:
    cluster, plane = custom.cluster, custom.cluster.plane
    scalable = scalable_widgets()
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(scalable))
    try:
        marks_on_what_is_scaled(plane)
        deletions_of_children(plane)
        denials_that_are_alike(cluster)
        broken_glass(cluster)
        what_is_gone_is_made_anew(cluster)
        given = rights(overlay("custom-resources"))
        # The API server writes the watch of a custom resource down when it ends, which is after half a minute.
        plane.wait_for(lambda: len(watched(custom)) == 2, "the end of a watch of each kind", seconds=60)
        all_are_used_and_no_other_is_wanted(given, custom.requests(), more=rights(scalable["items"]))
    finally:
        plane.kubectl("delete", "-f", "-", stdin=json.dumps(scalable))


def watched(custom: Installed) -> set[str]:
    return {request["objectRef"]["resource"] for request in custom.requests() if request["verb"] == "watch"}


def scalable_widgets() -> Object:
    """A kind of one's own that can be scaled, and the role for it that the page shows."""
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    (shown,) = (block for block in blocks if "name: driftwall-rollouts" in block)
    role = yaml.safe_load(shown)
    role["rules"] = [{**rule, "apiGroups": ["e2e.example.com"], "resources": ["widgets"]} for rule in role["rules"]]
    name = role["metadata"]["name"]
    binding = {
        "apiVersion": role["apiVersion"],
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "driftwall"}],
    }
    return {"apiVersion": "v1", "kind": "List", "items": [WIDGETS, role, binding]}


def marks_on_what_is_scaled(plane: ControlPlane) -> None:
    """alice scales one of each kind that can be, which is let through and marked."""
    alice, flux = (Person(plane=plane, user=user, namespace=TAGGED) for user in ("alice", "flux"))
    plain = {"selector": {"pods-of": "controller"}, "template": pods_of("controller")["template"]}
    scaled = [
        manifest("apps/v1", "Deployment", "deployment", TAGGED, spec={"replicas": 0, **pods_of("deployment")}),
        manifest("apps/v1", "ReplicaSet", "set", TAGGED, spec={"replicas": 0, **pods_of("set")}),
        manifest(
            "apps/v1", "StatefulSet", "state", TAGGED, spec={"replicas": 0, "serviceName": "s", **pods_of("state")}
        ),
        manifest("v1", "ReplicationController", "controller", TAGGED, spec={"replicas": 0, **plain}),
        manifest("e2e.example.com/v1", "Widget", "widget", TAGGED, spec={"size": 0}),
    ]
    plane.kubectl("wait", "--for=condition=Established", "crd/widgets.e2e.example.com")
    for each in map(of_flux, scaled):
        # A kind that is new is served a moment later.
        plane.wait_for(partial(applied, flux, each), f"{each['kind']} to be applied")
        done = alice.kubectl("scale", f"{each['kind'].lower()}/{each['metadata']['name']}", "--replicas=1")
        assert done.done, done
    for each in scaled:
        plane.wait_for(partial(is_marked, plane, each), f"the mark on {each['kind']}")


def applied(flux: Person, each: Object) -> bool:
    return flux.apply(each, "kustomize-controller").done


def is_marked(plane: ControlPlane, each: Object) -> bool:
    return bool(plane.get(path_of(each))["metadata"]["labels"].get("driftwall.io/drifted") == "true")


def deletions_of_children(plane: ControlPlane) -> None:
    """alice may not delete or evict pods of what Flux manages, however far up that is."""
    alice, flux = (Person(plane=plane, user=user, namespace=CHILDREN) for user in ("alice", "flux"))
    batch = "batch/v1" if plane.version >= (1, 21) else "batch/v1beta1"
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "image.invalid/shop:1"}]}}
    jobs = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": {"template": template}}}
    flux.applies(
        of_flux(deployment("deployment", CHILDREN)),
        of_flux(manifest("apps/v1", "DaemonSet", "daemons", CHILDREN, spec=pods_of("daemons"))),
        of_flux(manifest(batch, "CronJob", "nightly", CHILDREN, spec=jobs)),
    )
    owner = {"apiVersion": batch, "kind": "CronJob", "name": "nightly", "controller": True}
    owner["uid"] = plane.get(f"/apis/{batch}/namespaces/{CHILDREN}/cronjobs/nightly")["metadata"]["uid"]
    job = manifest("batch/v1", "Job", "nightly-1", CHILDREN, spec={"template": template})
    job["metadata"]["ownerReferences"] = [owner]
    flux.applies(job)
    pods = f"/api/v1/namespaces/{CHILDREN}/pods"
    names = plane.wait_for(
        lambda: len(found := [pod["metadata"]["name"] for pod in plane.get(pods)["items"]]) == 3 and found, "the pods"
    )
    assert names
    for name in names:
        refused(alice.send("DELETE", f"{pods}/{name}"), "Flux")
        eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": name}}
        refused(alice.send("POST", f"{pods}/{name}/eviction", eviction), "Flux")


def denials_that_are_alike(cluster: Cluster) -> None:
    """alice tries once more than there are replicas: one of them sees two that are alike, and counts both in one."""
    assert cluster.allowed(9, 1) is None
    assert [cluster.forbidden(9, number) for number in range(REPLICAS + 1)] == [None] * (REPLICAS + 1)
    cluster.plane.wait_for(
        lambda: any(each["count"] > 1 for each in events_about(cluster.plane, cluster.shop, "web-9")), "the Event"
    )


def broken_glass(cluster: Cluster) -> None:
    """What is in a Namespace whose glass is broken may be changed, and an Event tells."""
    sre = Person(plane=cluster.plane, user="sre", namespace=cluster.shop)
    annotation = "driftwall.io/break-glass"
    assert sre.kubectl("annotate", "namespace", cluster.shop, f"{annotation}=INC-1").done
    # A look-up is good for two seconds.
    cluster.plane.wait_for(lambda: (cluster.forbidden(0, 1) or "").startswith("200"), "alice to be let through")
    told = "WriteUnderBreakGlass"
    cluster.plane.wait_for(
        lambda: told in {each["reason"] for each in events_about(cluster.plane, cluster.shop, "web-0")}, "the Event"
    )
    assert sre.kubectl("annotate", "namespace", cluster.shop, f"{annotation}-").done
    # Before each try Flux takes back what alice has taken.
    mended = partial(cluster.allowed, 0, 1), partial(cluster.forbidden, 0, 2)
    cluster.plane.wait_for(lambda: [write() for write in mended] == [None, None], "the glass to be mended")


def what_is_gone_is_made_anew(cluster: Cluster) -> None:
    """Somebody deletes what driftwall keeps for itself."""
    before = cluster.keys()
    for path in (LEASE, SECRET):
        status, answer = cluster.plane.raw("DELETE", path)
        assert status == 200, answer
    cluster.plane.wait_for(
        lambda: cluster.rotated(before) and cluster.plane.exists(LEASE), "a new certificate", seconds=60
    )
    cluster.plane.wait_for(lambda: cluster.forbidden(0, 3) is None, "it to be trusted")


# The end


def test_removed_with_its_custom_resources_it_fails_no_write_and_leaves_nothing(custom: Installed) -> None:
    cluster, plane = custom.cluster, custom.cluster.plane
    deletion, removal = commands_after("kubectl delete --ignore-not-found", 2)
    with cluster.writing() as writes:
        shell(plane, deletion)
        assert removal == "kubectl delete --ignore-not-found -k deploy/kustomize/overlays/enforce"
        # Not waited for: the namespace goes once its pods have had their time.
        kubectl(plane, "delete", "--ignore-not-found", "--wait=false", objects=overlay("custom-resources"))
        plane.wait_for(lambda: remains(plane) == [], "everything to be gone")
        writes.go_on()
    assert writes.failures == []


def remains(plane: ControlPlane) -> list[str]:
    """What is left, but for the namespace that is on its way out and what is in it."""
    status = plane.get("namespace", NAMESPACE)["status"] if plane.exists("namespace", NAMESPACE) else {}
    if status.get("phase") != "Terminating":
        return installed(plane)
    inside = f"/namespaces/{NAMESPACE}"
    return [name for name, path in found(plane).items() if inside not in path and name != f"Namespace {NAMESPACE}"]
