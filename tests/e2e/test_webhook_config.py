"""What `driftwall webhook-config` prints: the real API server takes it, goes by it, and gets on without driftwall."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.serving import environment

from .api import Object
from .control_plane import ControlPlane
from .driftwall import COMMAND, ROOT, Driftwall
from .people import MERGE, Person, config_map, deployment, manifest, of_flux, path_of, pods_of, refused, unchanged

NAMESPACE = "printed"
PORT = {"data": {"port": "8080"}}
NAME_LABEL = "kubernetes.io/metadata.name"
NODE_LEASES = "kube-node-lease"
POLICIES = f"""\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  exemptNamespaces: [kube-system, {NODE_LEASES}]
  breakGlass:
    groups: [sre]
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: declared-fields
spec:
  mode: enforce
  protect:
    declared: true
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata:
  name: watched-annotations
spec:
  mode: warn
  protect:
    fields: ["metadata.annotations['e2e.example.com/watched']"]
"""
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A driftwall, and the configurations that its own command has printed and kubectl has applied."""

    plane: ControlPlane
    server: Driftwall
    documents: list[Object]

    def person(self, user: str, namespace: str = NAMESPACE) -> Person:
        """Somebody."""
        return Person(plane=self.plane, user=user, namespace=namespace)

    @property
    def knows_conditions(self) -> bool:
        """Whether the API server knows matchConditions."""
        return self.plane.version >= (1, 28)

    def apply(self) -> None:
        """`kubectl apply`, as the README has it, and wait until the API server goes by it."""
        # A kubectl that does not know matchConditions would refuse them, where its server drops them.
        flags = () if self.knows_conditions else ("--validate=false",)
        text = yaml.safe_dump_all(self.documents)
        self.plane.kubectl("apply", *flags, "-f", "-", stdin=text)
        probe = of_flux(config_map("probe", NAMESPACE))

        def in_force() -> bool:
            outcome = self.person("alice").send("POST", f"{path_of(probe).rpartition('/')[0]}?dryRun=All", probe)
            asked = re.search(r"(?m)^driftwall_mutations_total{.*} [1-9]", self.server.metrics())
            return not outcome.done and asked is not None

        self.plane.wait_for(in_force, "both webhooks to be in force")


@pytest.fixture(scope="module")
def printed(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Printed]:
    control_plane.create_namespace(NAMESPACE)
    if control_plane.version < (1, 21):
        for namespace in ("kube-system", NODE_LEASES):  # as later ones do by themselves
            control_plane.kubectl("label", "--overwrite", "namespace", namespace, f"{NAME_LABEL}={namespace}")
    with Driftwall(control_plane, tmp_path_factory.mktemp("printed"), POLICIES) as server:
        flags = (f"--policies={server.policies}", f"--url={server.url}", f"--ca-file={server.ca_file}")
        command = [*COMMAND, "webhook-config", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment())
        printed = Printed(plane=control_plane, server=server, documents=list(yaml.safe_load_all(done.stdout)))
        Person(plane=control_plane, user="flux", namespace=NAMESPACE).applies(of_flux(config_map("web", NAMESPACE)))
        try:
            printed.apply()
            yield printed
        finally:
            control_plane.unregister_webhook()
            control_plane.unregister_webhook(kind="mutating")


def test_the_api_server_takes_it_as_it_was_printed(printed: Printed) -> None:
    assert [document["kind"] for document in printed.documents] == [
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
    ]
    for document in printed.documents:
        collection = f"{document['kind'].lower()}s"
        stored = printed.plane.get(f"{CONFIGURATIONS}/{collection}/{document['metadata']['name']}")
        for wanted, webhook in zip(document["webhooks"], stored["webhooks"], strict=True):
            conditions = wanted.pop("matchConditions") if not printed.knows_conditions else None
            assert wanted.items() <= webhook.items()
            assert conditions != []  # what only newer servers go by
            assert webhook["timeoutSeconds"] <= 3


def test_it_denies_allows_and_mutates(printed: Printed) -> None:
    web, own = of_flux(config_map("web", NAMESPACE)), config_map("own", NAMESPACE)
    alice, sre, flux = (printed.person(user) for user in ("alice", "sre", "flux"))
    with unchanged(printed.plane, web):
        refused(alice.patch("configmap/web", PORT), 'data.port: "80" -> "8080"')
        refused(alice.kubectl("delete", "configmap/web"), "may not delete it")
    alice.creates(own)
    outcome = alice.patch("configmap/own", PORT)
    assert outcome.done, outcome
    outcome = alice.kubectl("annotate", "configmap/web", "e2e.example.com/watched=yes")
    assert outcome.done, outcome
    assert "Warning: driftwall: " in outcome.said
    outcome = sre.kubectl("annotate", "configmap/web", "driftwall.io/break-glass=INC-1: down")
    assert outcome.done, outcome
    outcome = alice.patch("configmap/web", PORT)
    assert outcome.done, outcome
    metadata = printed.plane.get(path_of(web))["metadata"]
    assert metadata["annotations"]["driftwall.io/break-glass-by"] == "sre"
    assert metadata["labels"]["driftwall.io/drifted"] == "true"
    flux.applies(web)
    live = printed.plane.get(path_of(web))
    assert (live["data"]["port"], live["metadata"]["labels"].get("driftwall.io/drifted")) == ("80", None)


def test_a_subresource_and_another_version_are_sent_too(printed: Printed) -> None:
    workload = of_flux(deployment("scaled", NAMESPACE))
    service = of_flux(manifest("v1", "Service", "web", NAMESPACE, spec={"ports": [{"port": 80, "protocol": "TCP"}]}))
    printed.person("flux").applies(workload, service)
    alice = printed.person("alice")
    with unchanged(printed.plane, workload, service):
        refused(alice.kubectl("scale", "deployment/scaled", "--replicas=0"), "spec.replicas: 1 -> 0")
        unmarked = {"metadata": {"labels": None}}
        outcome = alice.send("PATCH", f"{path_of(service)}/status", unmarked, content_type=MERGE)
        refused(outcome, "kustomize.toolkit.fluxcd.io/name")


def test_a_namespace_is_left_out_by_a_label_that_is_the_servers(printed: Printed) -> None:
    name = "printed-opted-out"
    namespace, within = manifest("v1", "Namespace", name, None), of_flux(config_map("web", name))
    alice = printed.person("alice", name)
    alice.creates(namespace)
    printed.person("flux").applies(within)
    alice.kubectl("label", "--overwrite", "namespace", name, f"{NAME_LABEL}=kube-system")
    if printed.plane.version >= (1, 21):
        with unchanged(printed.plane, within):
            refused(alice.patch("configmap/web", PORT), 'data.port: "80" -> "8080"')
        return
    outcome = alice.patch("configmap/web", PORT)
    assert outcome.done, outcome
    security = " ".join((ROOT / "SECURITY.md").read_text().split())
    assert f"`{NAME_LABEL}`, which the API server itself sets from v1.21 on" in security


def test_6_the_control_plane_gets_on_when_everything_of_driftwall_is_killed(printed: Printed) -> None:
    plane = printed.plane
    lease = "/apis/coordination.k8s.io/v1/namespaces"
    printed.server.kill()
    # Somebody who writes is told what is the matter, and nothing is written.
    web = of_flux(config_map("web", NAMESPACE))
    alice = printed.person("alice")
    for outcome in (
        alice.patch("configmap/web", PORT),
        alice.kubectl("delete", "configmap/web"),
        alice.patch("configmap/web", {"metadata": {"labels": None}}),
    ):
        assert not outcome.done
        assert 'failed calling webhook "validate.driftwall.io"' in outcome.said
        assert "connection refused" in outcome.said
    assert plane.get(path_of(web))["data"] == {"port": "80"}
    # What nobody manages goes on where the API server can tell: it has matchConditions for that.
    assert alice.kubectl("create", "configmap", "unmanaged").done is printed.knows_conditions
    # The control plane's own goes on everywhere: kube-system, leases there and of nodes.
    system = printed.person("alice", "kube-system")
    outcome = system.kubectl("create", "configmap", "while-driftwall-is-dead")
    assert outcome.done, outcome
    workload = deployment("while-driftwall-is-dead", "kube-system")
    workload["spec"] = {"replicas": 1, **pods_of("while-driftwall-is-dead")}
    system.creates(workload)
    plane.wait_for(
        lambda: plane.get(path_of(workload))["status"].get("replicas") == 1, "the controllers to make a pod of it"
    )
    node = printed.person("system:node:worker", NODE_LEASES)
    own = manifest("coordination.k8s.io/v1", "Lease", "worker", NODE_LEASES, spec={"leaseDurationSeconds": 40})
    node.creates(own)
    for seconds in (41, 42):
        patch = {"spec": {"leaseDurationSeconds": seconds}}
        outcome = node.send("PATCH", f"{lease}/{NODE_LEASES}/leases/worker", patch, content_type=MERGE)
        assert outcome.done, outcome
    leader = f"{lease}/kube-system/leases/kube-controller-manager"
    renewed = plane.get(leader)["spec"]["renewTime"]
    plane.wait_for(lambda: plane.get(leader)["spec"]["renewTime"] != renewed, "the leader's lease to be renewed")
    outcome = system.kubectl("delete", "deployment/while-driftwall-is-dead", "configmap/while-driftwall-is-dead")
    assert outcome.done, outcome


def test_json_is_one_list_for_kubectl(printed: Printed) -> None:
    flags = (f"--policies={printed.server.policies}", "--service=driftwall-system/driftwall", "-o", "json")
    command = [*COMMAND, "webhook-config", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment())
    listed = json.loads(done.stdout)
    # By another name, so that it stands beside the one in force; a dry run is all that a Service nobody serves is for.
    for item in listed["items"]:
        item["metadata"]["name"] = "driftwall-of-a-service"
        plural = f"{item['kind'].lower()}s"
        status, answer = printed.plane.raw("POST", f"{CONFIGURATIONS}/{plural}?dryRun=All", item)
        assert status == 201, answer
