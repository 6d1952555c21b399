"""Policies as custom resources and as files, on the real API server: what takes effect, what does not, who may."""

import json
import re
import signal
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.serving import Client, review

from . import processes
from .api import ApiError, Object
from .control_plane import ControlPlane
from .driftwall import ROOT, Driftwall

GROUP = "driftwall.io/v1alpha1"
CRDS = ROOT / "deploy" / "crds"
NAMESPACE = "policies"
RULE = "Only those whom the DriftwallConfig trusts change driftwall's own objects."
FLAGS = ("--policies=cluster", "--shutdown-delay=0s")
# All that policies in the cluster take of the API, beside what look-ups do.
RULES = [
    {"apiGroups": ["driftwall.io"], "resources": ["driftpolicies", "driftwallconfigs"], "verbs": ["list", "watch"]},
    {
        "apiGroups": ["driftwall.io"],
        "resources": ["driftpolicies/status", "driftwallconfigs/status"],
        "verbs": ["patch"],
    },
]
CONFIG: Object = {
    "apiVersion": GROUP,
    "kind": "DriftwallConfig",
    "metadata": {"name": "default"},
    "spec": {
        "clusterId": "e2e",
        "trustedWriters": [
            {
                "name": "flux",
                "serviceAccounts": ["flux-system/kustomize-controller"],
                "fieldManagers": ["kustomize-controller"],
            }
        ],
        "breakGlass": {"groups": ["sre"], "reasonPattern": "^INC-[0-9]+"},
    },
}


def policy(name: str, mode: str = "enforce", **spec: object) -> Object:
    protect = {"fields": ["data.*"]}
    match = {"scope": "All", "namespaces": [NAMESPACE], "resources": [{"apiGroups": [""], "resources": ["configmaps"]}]}
    return {
        "apiVersion": GROUP,
        "kind": "DriftPolicy",
        "metadata": {"name": name},
        "spec": {"mode": mode, "severity": "high", "match": match, "protect": protect, **spec},
    }


BAD = policy(
    "kept",
    "enforced",
    protect={"fields": ["data..x", "data["], "fieldSets": ["openPorts"]},
    breakGlass={"maxDuration": "4d"},
)
EVERY_ERROR = (
    "spec.mode: 'enforced' is not one of dryRun, warn, tag, enforce",
    "spec.protect.fields[0]: a field name is missing",
    "spec.protect.fields[1]: ",
    "spec.protect.fieldSets[0]: 'openPorts' is no field set",
    "spec.breakGlass.maxDuration: '4d'",
)


class Cluster:
    """A control plane with driftwall's kinds, and a namespace whose ConfigMaps the policies here are about."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def write(self, user: str, *objects: Object, check: bool = True) -> str:
        """`kubectl apply` as somebody; what was said."""
        stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # Not validated by kubectl: what is bad is to reach the API server.
        done = self.plane.kubectl("apply", "--validate=false", "-f", "-", user=user, stdin=stdin, check=check)
        return done.stdout + done.stderr

    def kubectl(self, user: str, *args: str, check: bool = False) -> str:
        done = self.plane.kubectl(*args, user=user, check=check)
        return done.stdout + done.stderr

    def edits(self, user: str = "alice") -> bool:
        """Whether somebody may change a ConfigMap that the policies protect."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/kept?dryRun=All"
        patch = {"Content-Type": "application/merge-patch+json"}
        status, answer = self.plane.raw("PATCH", path, {"data": {"a": "changed"}}, user=user, headers=patch)
        if status == 403:
            assert "denied the request" in answer["message"]
            return False
        if status != 200:
            raise ApiError("PATCH", path, status, answer)
        return True

    def accepted(self, resource: str, name: str) -> Object:
        """The condition in an object's status, once it is about the object as it is."""

        def current() -> Object | None:
            found = self.plane.get(resource, name)
            status = found.get("status", {})
            if status.get("observedGeneration") != found["metadata"]["generation"]:
                return None
            (condition,) = status["conditions"]
            assert condition["type"] == "Accepted"
            return dict(condition)

        condition = self.plane.wait_for(current, f"the status of {resource} {name}")
        assert condition is not None
        return condition

    def spec(self, name: str) -> Object:
        """The specification of a policy, as it is stored."""
        return dict(self.plane.get("driftpolicies", name)["spec"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane of its own: the definitions are not for other tests, and its API server is restarted."""
    with ControlPlane() as plane:
        plane.create_namespace(NAMESPACE)
        plane.kubectl("apply", "-f", str(CRDS / "driftpolicies.driftwall.io.yaml"))
        plane.kubectl("apply", "-f", str(CRDS / "driftwallconfigs.driftwall.io.yaml"))
        for name in ("driftpolicies", "driftwallconfigs"):
            plane.kubectl("wait", "--for=condition=Established", f"crd/{name}.driftwall.io")
        rbac = "rbac.authorization.k8s.io"
        account = {"kind": "ServiceAccount", "namespace": "driftwall-system", "name": "driftwall"}
        named = {"name": "driftwall-policies"}
        role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": named, "rules": RULES}
        binding = {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", **named},
            "subjects": [account],
        }
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kept", "namespace": NAMESPACE},
            "data": {"a": "b"},
        }
        cluster = Cluster(plane)
        # Before the webhook is there, whoever installs it creates its first configuration and policies.
        processes.wait_for(
            lambda: cluster.write("admin", role, binding, config_map, CONFIG, policy("kept")), "the kinds to be served"
        )
        yield cluster


@pytest.fixture(scope="module")
def driftwall(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driftwall]:
    """A driftwall that goes by the custom resources."""
    with Driftwall(cluster.plane, tmp_path_factory.mktemp("driftwall"), flags=FLAGS) as server:
        yield server


@pytest.fixture
def guarded(cluster: Cluster, driftwall: Driftwall) -> Iterator[Cluster]:
    """The cluster with driftwall in the way, and policy `kept` in force."""
    cluster.write("flux", CONFIG, policy("kept"))
    with driftwall.in_the_way():
        cluster.plane.wait_for(lambda: not cluster.edits(), "the policy to be in force")
        yield cluster


# ── the kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["driftpolicies.driftwall.io", "driftwallconfigs.driftwall.io"])
def test_the_definitions_are_structural_and_established(cluster: Cluster, name: str) -> None:
    conditions = cluster.plane.get("crd", name)["status"]["conditions"]
    assert {condition["type"]: condition["status"] for condition in conditions} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


def test_kubectl_shows_mode_severity_and_whether_it_is_accepted(guarded: Cluster) -> None:
    assert guarded.accepted("driftpolicies", "kept")["status"] == "True"
    assert guarded.accepted("driftwallconfigs", "default")["status"] == "True"
    header, row = guarded.kubectl("alice", "get", "driftpolicies").splitlines()
    assert header.split() == ["NAME", "MODE", "SEVERITY", "ACCEPTED", "AGE"]
    assert row.split()[:4] == ["kept", "enforce", "high", "True"]
    header, row = guarded.kubectl("alice", "get", "dwcfg").splitlines()
    assert header.split() == ["NAME", "CLUSTER", "ACCEPTED", "AGE"]
    assert row.split()[:3] == ["default", "e2e", "True"]


def test_kubectl_shows_the_defaults(guarded: Cluster) -> None:
    plain = {"apiVersion": GROUP, "kind": "DriftPolicy", "metadata": {"name": "plain"}}
    guarded.write("flux", {**plain, "spec": {"match": {"namespaces": ["nowhere"]}, "protect": {"declared": True}}})
    assert guarded.kubectl("alice", "get", "dpol", "plain", "--no-headers").split()[:3] == ["plain", "dryRun", "medium"]
    guarded.kubectl("flux", "delete", "dpol", "plain", check=True)


def test_kubectl_explains_the_fields(cluster: Cluster) -> None:
    assert "Every field that the managing tool declared." in cluster.kubectl(
        "alice", "explain", "driftpolicies.spec.protect.declared"
    )


def test_kubectl_finds_a_misspelt_key(cluster: Cluster) -> None:
    misspelt = json.dumps(policy("misspelt", mod="warn"))
    done = cluster.plane.kubectl("apply", "-f", "-", stdin=misspelt, check=False)
    assert 'unknown field "mod"' in done.stderr
    assert not cluster.plane.exists("driftpolicies", "misspelt")


def test_there_is_one_configuration(cluster: Cluster) -> None:
    other = {**CONFIG, "metadata": {"name": "other"}}
    assert "metadata.name" in cluster.write("admin", other, check=False)
    assert not cluster.plane.exists("driftwallconfigs", "other")


# ── what takes effect ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_created_changed_and_deleted_takes_effect(guarded: Cluster) -> None:
    guarded.write("flux", policy("kept", "dryRun"))
    guarded.plane.wait_for(guarded.edits, "the relaxed policy")
    guarded.write("flux", policy("second"))
    guarded.plane.wait_for(lambda: not guarded.edits(), "the second policy")
    guarded.kubectl("flux", "delete", "driftpolicy", "second", check=True)
    guarded.plane.wait_for(guarded.edits, "the second policy to go")


def test_who_is_trusted_is_what_the_configuration_says_now(guarded: Cluster) -> None:
    assert not guarded.edits("argocd")
    both = ["flux-system/kustomize-controller", "argocd/argocd-application-controller"]
    trusted = [{"name": "both", "serviceAccounts": both}]
    guarded.write("flux", {**CONFIG, "spec": {**CONFIG["spec"], "trustedWriters": trusted}})
    guarded.plane.wait_for(lambda: guarded.edits("argocd"), "the new writer to be trusted")
    guarded.write("argocd", CONFIG)
    guarded.plane.wait_for(lambda: not guarded.edits("argocd"), "it not to be trusted any more")


def test_after_a_restart_of_the_api_server_it_goes_on(guarded: Cluster, driftwall: Driftwall) -> None:
    guarded.plane.restart_api_server()
    # Whatever it knew before is in force.
    guarded.plane.wait_for(lambda: not guarded.edits(), "the policy still to be in force")
    guarded.write("flux", policy("kept", "warn"))
    guarded.plane.wait_for(guarded.edits, "the change after the restart")
    guarded.plane.wait_for(lambda: ready_says(driftwall) == (200, ["ok"]), "all to be well")


def listings(plane: ControlPlane) -> Counter[str]:
    """How often driftwall has asked for all objects of a kind, by resource."""
    events = plane.audit_events("system:serviceaccount:driftwall-system:driftwall")
    return Counter(event["objectRef"]["resource"] for event in events if event["verb"] == "list")


def gone(server: Driftwall) -> set[str]:
    """The resources of which the API server has told it that what it had seen is gone."""
    said = (re.match(r"/apis/.+/(\w+): .+ \(410 Gone\)", line["message"]) for line in server.messages())
    return {found[1] for found in said if found}


@pytest.fixture
def alone(cluster: Cluster, tmp_path: Path) -> Iterator[Driftwall]:
    """A driftwall that is put in the way by nobody, and may complain."""
    server = Driftwall(cluster.plane, tmp_path, flags=FLAGS)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_7_without_an_api_server_decisions_go_on_from_what_is_known(guarded: Cluster, alone: Driftwall) -> None:
    plane, driftwall = guarded.plane, alone
    client = Client(
        port=int(driftwall.url.rpartition(":")[2]), tls=ssl.create_default_context(cafile=str(driftwall.ca_file))
    )
    kept = {"metadata": {"name": "kept", "namespace": NAMESPACE}, "apiVersion": "v1", "kind": "ConfigMap"}
    edit = review(
        kind={"group": "", "version": "v1", "kind": "ConfigMap"},
        resource={"group": "", "version": "v1", "resource": "configmaps"},
        name="kept",
        namespace=NAMESPACE,
        oldObject=kept | {"data": {"a": "b"}},
        object=kept | {"data": {"a": "changed"}},
    )
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": NAMESPACE}}
    look_up = review(
        kind={"group": "autoscaling", "version": "v1", "kind": "Scale"},
        subResource="scale",
        namespace=NAMESPACE,
        oldObject=scale | {"spec": {"replicas": 1}},
        object=scale | {"spec": {"replicas": 5}},
    )

    scaled = {"apiGroups": ["apps"], "resources": ["deployments/scale"]}
    guarded.write("flux", policy("scaled", match={"resources": [scaled]}, protect={"fields": ["spec.replicas"]}))
    guarded.accepted("driftpolicies", "scaled")

    def goes_on(trouble: str) -> None:
        answer = client.post(edit)
        assert (answer.status, answer.json["response"]["allowed"]) == (200, False)
        # Of what it cannot know it says so, in time, and lets nothing through.
        answer = client.post(look_up)
        assert (answer.status, trouble in answer.message) == (500, True), answer.body

    with plane.slow_api_server():
        goes_on("could not be looked up within 1 s; try again")
    plane.wait_for(lambda: not guarded.edits(), "the policy still to be in force")
    for number in range(20):
        guarded.kubectl("admin", "-n", NAMESPACE, "create", "configmap", f"later-{number}")
    before = listings(plane)
    plane.kill_api_server()
    try:
        goes_on("could not be looked up: ")
        driftwall.signal(signal.SIGSTOP)  # until the new one is all there: sooner, it would have other answers for it
    finally:
        plane.restart_api_server()
    plane.wait_for(lambda: not guarded.edits(), "the policy still to be in force")
    guarded.write("flux", policy("kept", "warn"))
    plane.wait_for(guarded.edits, "the change after the restart")
    assert not gone(driftwall)
    driftwall.signal(signal.SIGCONT)
    # What it had seen last is too old for the new one to go on from.
    plane.wait_for(lambda: gone(driftwall) == {"driftpolicies", "driftwallconfigs"}, "410 Gone in each watch")
    plane.wait_for(lambda: client.post(edit).json["response"]["allowed"], "the change that it has missed")
    plane.wait_for(lambda: ready_says(driftwall) == (200, ["ok"]), "all to be well")
    assert listings(plane) >= before + Counter(driftpolicies=1, driftwallconfigs=1)


# ── what does not ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_one_is_refused_with_every_error(guarded: Cluster) -> None:
    before = guarded.spec("kept")
    said = guarded.write("flux", BAD, check=False)
    for error in EVERY_ERROR:
        assert error in said
    assert 'driftpolicies.driftwall.io "kept" is no valid DriftPolicy:' in said
    assert guarded.spec("kept") == before
    assert not guarded.edits()


def test_a_bad_configuration_is_refused_with_every_error(guarded: Cluster) -> None:
    writers = [{"name": "A", "serviceAccounts": ["flux"]}, {"name": "nobody"}]
    said = guarded.write(
        "flux", {**CONFIG, "spec": {"trustedWriters": writers, "breakGlass": {"reasonPattern": "("}}}, check=False
    )
    for error in (
        "spec.breakGlass.reasonPattern: not a regular expression",
        "spec.trustedWriters[0].name: 'A' is no name of a writer",
        "spec.trustedWriters[0].serviceAccounts[0]: 'flux' is no service account",
        "spec.trustedWriters[1]: names nobody",
    ):
        assert error in said
    assert guarded.plane.get("driftwallconfigs", "default")["spec"]["clusterId"] == "e2e"


def test_without_driftwall_the_schema_alone_refuses_what_it_can(cluster: Cluster) -> None:
    said = cluster.write("admin", policy("odd", "enforced"), check=False)
    assert 'spec.mode: Unsupported value: "enforced"' in said
    assert "spec: Required value" in cluster.write(
        "admin", {"apiVersion": GROUP, "kind": "DriftPolicy", "metadata": {"name": "odd"}}, check=False
    )
    assert not cluster.plane.exists("driftpolicies", "odd")


def test_one_that_got_in_while_driftwall_was_away_never_takes_effect_and_says_why(
    guarded: Cluster, driftwall: Driftwall
) -> None:
    driftwall.unregister()
    guarded.write("admin", policy("kept", protect={"fields": ["data..x"]}), policy("new", protect={"fields": ["["]}))
    problem = "driftpolicies/kept: spec.protect.fields[0]: a field name is missing at character 6 of 'data..x'"
    condition = guarded.accepted("driftpolicies", "kept")
    assert (condition["status"], condition["reason"]) == ("False", "Invalid")
    assert condition["message"] == f"{problem}\nIts last good version stays in force until driftwall restarts."
    assert guarded.accepted("driftpolicies", "new")["message"].endswith("\nIt is not in force.")
    rows = guarded.kubectl("alice", "get", "driftpolicies", "kept", "new", "--no-headers").splitlines()
    assert [row.split()[3] for row in rows] == ["False", "False"]
    status, lines = ready_says(driftwall)
    assert (status, lines[0], lines[2]) == (200, "ok", f"policies: {problem}")
    assert "driftwall_policies_last_load_successful 0.0" in driftwall.metrics()
    driftwall.register()
    assert not guarded.edits()
    guarded.kubectl("flux", "delete", "driftpolicy", "new", check=True)
    guarded.write("flux", policy("kept", "dryRun"))
    guarded.plane.wait_for(guarded.edits, "the mended policy")
    assert guarded.accepted("driftpolicies", "kept")["status"] == "True"
    guarded.plane.wait_for(lambda: ready_says(driftwall) == (200, ["ok"]), "all to be well")


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("user", ["alice", "admin", "sre", "argocd"])
def test_nobody_outside_the_configuration_changes_them(guarded: Cluster, driftwall: Driftwall, user: str) -> None:
    before = {kind: guarded.plane.get(kind)["items"] for kind in ("driftpolicies", "driftwallconfigs")}
    definitions = [guarded.plane.get("crd", f"{kind}.driftwall.io")["metadata"]["uid"] for kind in before]
    attempts = [
        guarded.write(user, policy("kept", "dryRun"), check=False),
        guarded.write(user, policy("mine"), check=False),
        guarded.write(user, {**CONFIG, "spec": {}}, check=False),
        guarded.kubectl(user, "annotate", "driftpolicy", "kept", "a=b"),
        guarded.kubectl(user, "label", "driftwallconfig", "default", "a=b"),
        guarded.kubectl(user, "delete", "driftpolicy", "kept"),
        guarded.kubectl(user, "delete", "driftpolicies", "--all"),
        guarded.kubectl(user, "delete", "driftwallconfig", "default"),
        guarded.kubectl(user, "delete", "crd", "driftpolicies.driftwall.io"),
        guarded.kubectl(user, "label", "crd", "driftpolicies.driftwall.io", "app.kubernetes.io/part-of-"),
    ]
    status, answer = guarded.plane.raw("DELETE", f"/apis/{GROUP}/driftpolicies", user=user)
    assert status == 403
    for said in (*attempts, answer["message"]):
        assert RULE in said
    after = {kind: guarded.plane.get(kind)["items"] for kind in before}
    assert after == before
    assert definitions == [guarded.plane.get("crd", f"{kind}.driftwall.io")["metadata"]["uid"] for kind in before]
    assert not guarded.edits()
    lines = [line for line in driftwall.log(allowed=False) if line["resource"] == "driftpolicies.driftwall.io"]
    assert {violated["name"] for line in lines[-5:] for violated in line["policies"]} == {"(ownObjects)"}


def test_an_impersonated_writer_is_nobody(guarded: Cluster) -> None:
    flux = "--as=system:serviceaccount:flux-system:kustomize-controller"
    assert RULE in guarded.kubectl("alice", "delete", "driftpolicy", "kept", flux)


def test_in_an_incident_whoever_may_breaks_the_glass(guarded: Cluster) -> None:
    glass = "driftwall.io/break-glass=INC-1: the policy stops the rollout"
    assert "only group sre may break glass" in guarded.kubectl("alice", "annotate", "driftpolicy", "kept", glass)
    guarded.kubectl("sre", "annotate", "driftpolicy", "kept", glass, check=True)
    relaxed = '{"spec":{"mode":"dryRun"}}'
    guarded.kubectl("sre", "patch", "driftpolicy", "kept", "--type=merge", "-p", relaxed, check=True)
    guarded.plane.wait_for(guarded.edits, "the relaxed policy")
    guarded.kubectl("flux", "annotate", "driftpolicy", "kept", "driftwall.io/break-glass-", check=True)


def test_the_first_ones_are_made_before_the_webhook_is_there_and_the_last_way_out_is_to_take_it_away(
    guarded: Cluster, driftwall: Driftwall
) -> None:
    assert RULE in guarded.write("admin", policy("kept", "dryRun"), check=False)
    # Webhook configurations never go through webhooks, so whoever may delete one is never locked out.
    for kind in ("validating", "mutating"):
        guarded.kubectl("admin", "delete", f"{kind}webhookconfiguration", "driftwall", check=True)
    guarded.plane.wait_for(lambda: guarded.write("admin", policy("kept", "dryRun")), "the policy to be changed")
    driftwall.register()
    assert guarded.edits()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class InPod(Driftwall):
    """A driftwall that knows the pod that it would run in."""

    def __init__(self, plane: ControlPlane, folder: Path, policies: str) -> None:
        super().__init__(plane, folder, policies, flags=("--shutdown-delay=0s",))
        self._environment: Mapping[str, str] = {"POD_NAMESPACE": NAMESPACE, "POD_NAME": "driftwall-0"}

    def put(self, text: str) -> None:
        """Put another file in the place of the one that it goes by."""
        beside = self.policies / "policies.new"
        beside.write_text(text)
        beside.replace(self.policies / "policies.yaml")


def ready_says(driftwall: Driftwall) -> tuple[int, list[str]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is asked for loopback
    try:
        with opener.open(f"{driftwall.management}/readyz", timeout=10) as response:
            return response.status, response.read().decode().splitlines()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().splitlines()


def test_a_bad_file_leaves_the_last_good_set_in_force_and_everybody_hears_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    def enforced(mode: str) -> str:
        return f"{json.dumps(CONFIG)}\n---\n{json.dumps(policy('kept', mode))}\n"

    with InPod(cluster.plane, tmp_path, enforced("enforce")) as server, server.in_the_way():
        assert not cluster.edits()
        server.put(json.dumps(BAD))
        cluster.plane.wait_for(lambda: ready_says(server)[1][1:], "the problems")
        status, lines = ready_says(server)
        assert status == 200
        for error in EVERY_ERROR:
            assert any(error in line for line in lines)
        assert not cluster.edits()
        metrics = server.metrics()
        assert "driftwall_policies_last_load_successful 0.0" in metrics
        assert "driftwall_policy_load_errors_total 1.0" in metrics
        events = cluster.plane.wait_for(
            lambda: [
                event
                for event in cluster.plane.get("events", None, NAMESPACE)["items"]
                if event["reason"] == "PoliciesNotLoaded"
            ],
            "the Event",
        )
        assert events[0]["involvedObject"]["name"] == "driftwall-0"
        assert "(and 4 more)" in events[0]["message"]
        server.put(enforced("warn"))
        cluster.plane.wait_for(cluster.edits, "the mended file")
        assert ready_says(server) == (200, ["ok"])
