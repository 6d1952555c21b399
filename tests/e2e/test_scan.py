"""What people did with kubectl while driftwall was away is found, all of it and nothing else, and brought back."""

import contextlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploying import DEPLOY
from webhook import cli
from webhook.cluster.connection import JSON, Answer, Offline, connect
from webhook.cluster.listing import Listing

from .api import Object
from .control_plane import ControlPlane
from .driftwall import Driftwall
from .hands import Hands, apply, create_widgets, ways
from .installing import all_are_used_and_no_other_is_wanted, requests_of, rights
from .kinds import KINDS, Kind, encoded, of_flux, unmanaged
from .people import Person, config_map, manifest, path_of, pods_of, stored
from .people import of_flux as marked
from .processes import free_port

NAMESPACE, COMPARED, HEALED, APPLIED = "scanned", "compared", "healed", "scanned-argocd"
# Each kind by another of the ways that there are.
WAYS: Mapping[str, str] = {
    "services": "edit",
    "deployments": "set image",
    "statefulsets": "patch",
    "networkpolicies": "patch --type json",
    "ingresses": "replace",
    "configmaps": "apply",
    "secrets": "patch --type merge",
    "roles": "apply --server-side",
    "widgets": "edit",
    "clusterroles": "label",
}
# What Git does not declare, in objects of their own: managedFields cannot tell that it does not.
UNDECLARED = ("deployments", "configmaps", "secrets", "widgets")
HAND_MADE = "by-hand"  # as text and encoded, what is edited into Secrets
Found = dict[tuple[str, str], set[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """How a scan ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def found(self, suffix: str) -> Found:
        """Paths, or the state of what has none, by resource and name of the objects with this end of their names."""
        return {
            (each["resource"], each["name"]): {field["path"] for field in each["fields"]} or {each["state"]}
            for each in self.json["objects"]
            if each["name"].endswith(suffix)
        }


class Scanner:
    def __init__(self, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._kubeconfig = kubeconfig
        self._capsys = capsys

    def __call__(self, *args: str) -> Scanned:
        self._capsys.readouterr()
        code = cli.main(["scan", "--kubeconfig", str(self._kubeconfig), *args])
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        # Of custom resources that other tests have left in the same control plane.
        others = re.compile(
            r"driftwall: left alone, since controllers write there: .* unknown \(\d+\); see --all-managers\n"
        )
        return Scanned(code=code, out=captured.out, err=others.sub("", captured.err))


@pytest.fixture
def scan(control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Scanner:
    return Scanner(control_plane.kubeconfig("admin"), capsys)


def name_of(kind: Kind, suffix: str) -> str:
    return f"{kind.resource}-{suffix}"


def edited(plane: ControlPlane, namespace: str, suffix: str) -> Found:
    """Objects of all kinds, applied by Flux and edited by alice, each in its way."""
    expected: Found = {}
    for kind in KINDS:
        hands = hands_on(plane, kind, namespace, suffix)
        way = next(way for way in ways(kind) if way.name == WAYS[kind.resource])
        outcome = way.go(hands)
        assert outcome.done, outcome
        expected[qualified(kind), hands.name] = {str(way.touches)}
    return expected


def hands_of(plane: ControlPlane, kind: Kind, namespace: str, suffix: str) -> Hands:
    """Alice's, on an object that is there."""
    declared = of_flux(kind.manifest, name_of(kind, suffix))
    return Hands(plane=plane, user="alice", kind=kind, manifest=declared, namespace=namespace)


def hands_on(plane: ControlPlane, kind: Kind, namespace: str, suffix: str) -> Hands:
    """The same, of an object that Flux has applied again."""
    hands = hands_of(plane, kind, namespace, suffix)
    apply(plane, "flux", kind, hands.manifest, namespace)
    return hands


def qualified(kind: Kind) -> str:
    group, slash, _ = kind.manifest["apiVersion"].partition("/")
    return f"{kind.resource}.{group}" if slash else kind.resource


def next_second(plane: ControlPlane) -> str:
    """The next full second, once it has begun: managedFields have no finer times."""
    began = now()
    plane.wait_for(lambda: now() > began, "the next second")
    return now()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def drift(control_plane: ControlPlane) -> Iterator[Found]:
    """All that alice has done, by object; beside it the same objects untouched."""
    create_widgets(control_plane)
    control_plane.create_namespace(NAMESPACE)
    for kind in KINDS:
        hands_on(control_plane, kind, NAMESPACE, "quiet")
    yield edited(control_plane, NAMESPACE, "drifted")
    control_plane.kubectl("delete", "clusterrole", "-l", "kustomize.toolkit.fluxcd.io/name")


@pytest.fixture(scope="module")
def undeclared(control_plane: ControlPlane, drift: Found) -> Found:
    expected: Found = {}
    for kind in (kind for kind in KINDS if kind.resource in UNDECLARED):
        hands = hands_on(control_plane, kind, NAMESPACE, "undeclared")
        assert kind.unprotected is not None
        assert hands.make(kind.unprotected).done
        path = ".".join(str(step) for step in kind.unprotected.place)
        expected[qualified(kind), hands.name] = {path}
    return expected


@pytest.fixture(scope="module")
def busy(control_plane: ControlPlane) -> None:
    """What the control plane's own controllers write to, scaled by an autoscaler, with nobody's hand on it."""
    control_plane.create_namespace(NAMESPACE)
    flux = Person(plane=control_plane, user="flux", namespace=NAMESPACE)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"}
    spec = {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5, "targetCPUUtilizationPercentage": 80}
    workload = marked(manifest("apps/v1", "Deployment", "busy", NAMESPACE, spec={"replicas": 1, **pods_of("busy")}))
    scaler = marked(manifest("autoscaling/v1", "HorizontalPodAutoscaler", "busy", NAMESPACE, spec=spec))
    volume = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = marked(manifest("v1", "PersistentVolumeClaim", "busy", NAMESPACE, spec=volume))
    flux.applies(workload, scaler, claim)
    control_plane.wait_for(
        lambda: control_plane.get(path_of(workload)).get("status", {}).get("replicas") == 3, "the autoscaler to scale"
    )


def test_what_an_autoscaler_scales_is_no_drift_of_the_manifests(scan: Scanner, busy: None, tmp_path: Path) -> None:
    spec = {"replicas": 1, **pods_of("busy")}
    file = tmp_path / "busy.yaml"
    file.write_text(yaml.safe_dump(manifest("apps/v1", "Deployment", "busy", NAMESPACE, spec=spec)))
    scanned = scan("--manifests", str(file), "--partial")
    assert (scanned.code, scanned.err) == (0, "")


def test_all_that_was_edited_is_found_and_nothing_else_before_and_after_flux_has_applied_again(
    control_plane: ControlPlane, scan: Scanner, drift: Found, undeclared: Found, busy: None
) -> None:
    scanned = scan("-o", "json")
    assert (scanned.code, scanned.err) == (2, "")
    assert scanned.found("-drifted") == drift
    assert scanned.found("-undeclared") == undeclared
    assert scanned.found("-quiet") == scanned.found("busy") == {}
    by_hand = [each for each in scanned.json["objects"] if (each["resource"], each["name"]) in drift | undeclared]
    managers = {field["fieldManager"] for each in by_hand for field in each["fields"]}
    assert {manager.partition("-")[0] for manager in managers} == {"kubectl"}
    assert {each["managedBy"]["application"] for each in by_hand} == {"flux-system/shop"}
    fields = [field for each in by_hand for field in each["fields"]]
    assert all(field["policies"] and field["at"].endswith("Z") for field in fields)

    next_second(control_plane)  # of all that is there, times alone tell whose value a Secret has
    for kind in KINDS:
        for suffix in ("drifted", "quiet", *(["undeclared"] if kind.resource in UNDECLARED else [])):
            hands_on(control_plane, kind, NAMESPACE, suffix)
    scanned = scan("-o", "json")
    assert scanned.found("-drifted") == scanned.found("-quiet") == {}
    assert scanned.found("-undeclared") == undeclared


# With manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Manifests in a file, as an application of Flux that has been applied, and then edited by alice."""

    file: Path
    expected: Found
    before: Mapping[str, Object]


def render(plane: ControlPlane, namespace: str, file: Path) -> Rendered:
    """Ten kinds, edited; a Deployment scaled, a ConfigMap without a field, one deleted, and one that is not in Git."""
    create_widgets(plane)
    plane.create_namespace(namespace)
    flux, alice = (Person(plane=plane, user=user, namespace=namespace) for user in ("flux", "alice"))
    added_by_flux = {"kustomize.toolkit.fluxcd.io/name": namespace, "kustomize.toolkit.fluxcd.io/namespace": "apps"}

    def labelled(obj: Object, labels: Mapping[str, str]) -> Object:
        return {**obj, "metadata": {**obj["metadata"], "labels": labels}}

    in_git = []
    for kind in KINDS:
        obj = unmanaged(kind.manifest, name_of(kind, namespace))
        in_git.append({**obj, "metadata": {**obj["metadata"], "namespace": namespace}} if kind.namespaced else obj)
    in_git.append(manifest("apps/v1", "Deployment", "scaled", namespace, spec={"replicas": 1, **pods_of("scaled")}))
    in_git += [config_map(name, namespace, a="1", b="2") for name in ("shortened", "deleted")]
    for obj in (*in_git, config_map("extra", namespace)):
        labels = {**obj["metadata"].get("labels", {}), **added_by_flux}
        assert flux.apply(labelled(obj, labels), "kustomize-controller").done
    before = {path_of(obj): stored(plane, path_of(obj)) for obj in in_git}
    expected: Found = {}
    for kind, obj in zip(KINDS, in_git, strict=False):
        hands = Hands(plane=plane, user="alice", kind=kind, manifest=obj, namespace=namespace)
        way = next(way for way in ways(kind) if way.name == WAYS[kind.resource])
        assert way.go(hands).done
        expected[qualified(kind), hands.name] = {str(way.touches)}
    assert alice.kubectl("scale", "deployment/scaled", "--replicas=4").done
    assert alice.patch("configmap/shortened", {"data": {"b": None}, "metadata": {"labels": {"mine": "too"}}}).done
    assert alice.kubectl("delete", "configmap/deleted").done
    expected |= {("deployments.apps", "scaled"): {"spec.replicas"}, ("configmaps", "shortened"): {"data.b"}}
    expected |= {("configmaps", "deleted"): {"missing"}, ("configmaps", "extra"): {"extra"}}
    file.write_text(yaml.safe_dump_all(in_git))
    return Rendered(file=file, expected=expected, before=before)


@pytest.fixture(scope="module")
def rendered(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """One that tests only look at."""
    return render(control_plane, COMPARED, tmp_path_factory.mktemp("rendered") / "rendered.yaml")


def test_manifests_tell_what_is_missing_removed_scaled_and_extra_and_remediation_brings_all_of_it_back(
    control_plane: ControlPlane, scan: Scanner, tmp_path: Path
) -> None:
    rendered = render(control_plane, HEALED, tmp_path / "rendered.yaml")
    scanned = scan("-o", "json", "--manifests", str(rendered.file))
    assert (scanned.code, scanned.err) == (2, "")
    assert scanned.found("") == rendered.expected
    assert {path: stored(control_plane, path) for path in rendered.before if "/deleted" not in path} != rendered.before

    healed = scan("--manifests", str(rendered.file), "--remediate", "--prune", "--yes")
    assert healed.code == 0, healed.err
    assert "configmaps healed/extra deleted" in healed.err
    for path, was in rendered.before.items():
        assert declared_part(was, stored(control_plane, path)) == declared_part(was, was), path
    again = scan("-o", "json", "--manifests", str(rendered.file))
    assert (again.code, again.json["objects"]) == (0, [])


def test_what_an_apply_does_not_take_away_is_found_by_manifests_too_and_named_after_remediation(
    control_plane: ControlPlane, scan: Scanner, tmp_path: Path
) -> None:
    namespace = control_plane.create_namespace("scanned-added")
    hands = hands_on(control_plane, next(kind for kind in KINDS if kind.resource == "services"), namespace, "added")
    opened = {"name": "debug", "port": 5005, "protocol": "TCP"}
    assert hands.patch("json", [{"op": "add", "path": "/spec/ports/-", "value": opened}]).done
    opt_out = "kustomize.toolkit.fluxcd.io/reconcile"
    assert hands.kubectl("annotate", "service", hands.name, f"{opt_out}=disabled").done
    arguments = ("--manifests", str(written(tmp_path, hands.manifest, namespace)), "--partial")
    paths = {"spec.ports[port=5005,protocol=TCP]", f"metadata.annotations['{opt_out}']"}
    assert scan(*arguments, "-o", "json").found("") == {("services", hands.name): paths}
    healed = scan(*arguments, "--remediate", "--yes")
    assert healed.code == 2
    for path in paths:
        assert f"services scanned-added/{hands.name} keeps {path}, which Git does not declare" in healed.err


def declared_part(declared: Any, obj: Any) -> Any:
    """Of an object, what another one has: all but what was added."""
    if isinstance(declared, dict) and isinstance(obj, dict):
        keys = set(declared) - {"managedFields", "uid", "creationTimestamp", "generation"}
        return {key: declared_part(declared[key], obj.get(key)) for key in sorted(keys)}
    return obj


def test_a_scan_in_the_way_of_driftwall_is_told_whom_to_scan_as(
    control_plane: ControlPlane, driftwall_server: Driftwall, capsys: pytest.CaptureFixture[str], rendered: Rendered
) -> None:
    with driftwall_server.in_the_way():
        person = Scanner(control_plane.kubeconfig("alice"), capsys)("--manifests", str(rendered.file))
        trusted = Scanner(control_plane.kubeconfig("flux"), capsys)("-o", "json", "--manifests", str(rendered.file))
    assert person.code == 69
    assert "not compared: driftwall itself denied" in person.err
    assert "name the one that you scan as under trustedWriters" in person.err
    assert (trusted.code, trusted.found("")) == (2, rendered.expected)


# What tells


def test_what_argocd_applied_from_the_client_is_told_from_what_git_leaves_alone_and_comes_back_without_manifests(
    control_plane: ControlPlane, scan: Scanner
) -> None:
    control_plane.create_namespace(APPLIED)
    argocd = Person(plane=control_plane, user="argocd", namespace=APPLIED)
    alice = Person(plane=control_plane, user="alice", namespace=APPLIED)

    def applied(obj: Object) -> Object:
        group, kind, name = obj["apiVersion"].rpartition("/")[0], obj["kind"], obj["metadata"]["name"]
        tracking = {"argocd.argoproj.io/tracking-id": f"shop:{group}/{kind}:{APPLIED}/{name}"}
        marked_as_its = {**obj, "metadata": {**obj["metadata"], "annotations": tracking}}
        outcome = argocd.kubectl("apply", "--field-manager=argocd-controller", "-f", "-", stdin=marked_as_its)
        assert outcome.done, outcome
        return marked_as_its

    workload = applied(manifest("apps/v1", "Deployment", "web", APPLIED, spec={"replicas": 1, **pods_of("web")}))
    secret = applied(manifest("v1", "Secret", "keys", APPLIED, stringData={"password": "in-git"}))
    before = {path_of(obj): stored(control_plane, path_of(obj)) for obj in (workload, secret)}
    assert scan("-n", APPLIED).code == 0
    assert alice.kubectl("set", "image", "deployment/web", "main=image.invalid/shop:2").done
    assert alice.patch("deployment/web", {"spec": {"minReadySeconds": 5, "paused": True}}).done
    assert alice.patch("secret/keys", {"data": {"password": encoded(HAND_MADE), "extra": encoded("x")}}).done
    scanned = scan("-n", APPLIED, "-o", "json")
    image = "spec.template.spec.containers[name=main].image"
    assert scanned.found("") == {("deployments.apps", "web"): {image}, ("secrets", "keys"): {"data.password"}}
    (field,) = next(each["fields"] for each in scanned.json["objects"] if each["kind"] == "Deployment")
    assert (field["declared"], field["live"], field["change"]) == (
        "image.invalid/shop:1",
        "image.invalid/shop:2",
        "changed",
    )

    healed = scan("-n", APPLIED, "--remediate", "--yes")
    assert healed.code == 0, healed.err
    for path, was in before.items():
        assert declared_part(was, stored(control_plane, path)) == declared_part(was, was)
    assert scan("-n", APPLIED).code == 0


def test_without_manifests_nothing_that_flux_declares_can_be_brought_back_and_nobody_is_left_in_doubt(
    control_plane: ControlPlane, scan: Scanner
) -> None:
    namespace = control_plane.create_namespace("scanned-flux")
    kind = next(kind for kind in KINDS if kind.resource == "services")
    hands = hands_on(control_plane, kind, namespace, "drifted")
    assert hands.patch_by_merging().done
    before = hands.live
    refused = scan("-n", namespace, "--remediate", "--yes")
    assert refused.code == 69
    assert "services scanned-flux/services-drifted stays as it is: what Git declares of it is not in the cluster" in (
        refused.err
    )
    assert hands.live == before
    unasked = scan("-n", namespace, "--remediate")
    assert unasked.code == 64
    assert "no terminal to ask on" in unasked.err


def test_since_leaves_out_what_was_written_before(control_plane: ControlPlane, scan: Scanner) -> None:
    namespace = control_plane.create_namespace("scanned-since")
    early, late = (next(kind for kind in KINDS if kind.resource == name) for name in ("services", "deployments"))
    for kind in (early, late):
        hands_on(control_plane, kind, namespace, "drifted")
    make = {kind.resource: hands_of(control_plane, kind, namespace, "drifted") for kind in (early, late)}
    assert make["services"].patch_by_merging().done
    away = next_second(control_plane)
    assert make["deployments"].patch_by_merging().done
    assert set(scan("-n", namespace, "-o", "json").found("")) == {
        ("services", "services-drifted"),
        ("deployments.apps", "deployments-drifted"),
    }
    since = scan("-n", namespace, "-o", "json", "--since", away)
    assert (since.code, set(since.found(""))) == (2, {("deployments.apps", "deployments-drifted")})
    assert scan("-n", namespace, "--since", "2100-01-01T00:00:00Z").code == 0
    assert scan("-n", namespace, "--since", "1h").code == 2


def test_a_tag_tells_who_it_was(control_plane: ControlPlane, driftwall_server: Driftwall, scan: Scanner) -> None:
    namespace = control_plane.create_namespace("scanned-tags")
    kind = next(kind for kind in KINDS if kind.resource == "deployments")
    hands = hands_on(control_plane, kind, namespace, "tagged")
    with driftwall_server.in_the_way():
        sre = Person(plane=control_plane, user="sre", namespace=namespace)
        target = f"deployment/{hands.name}"
        assert sre.kubectl("annotate", target, "driftwall.io/break-glass=INC-7: checkout 5xx").done
        assert sre.kubectl("set", "image", target, "main=image.invalid/shop:9").done
    (obj,) = scan("-n", namespace, "-o", "json").json["objects"]
    (field,) = obj["fields"]
    assert field["path"] == "spec.template.spec.containers[name=main].image"
    assert (field["user"], field["fieldManager"], field["live"]) == ("sre", "kubectl-set", "image.invalid/shop:9")


def test_what_bears_a_mark_that_its_tool_never_wrote_is_extra(control_plane: ControlPlane, scan: Scanner) -> None:
    namespace = control_plane.create_namespace("scanned-forged")
    forged = marked(manifest("v1", "ConfigMap", "forged", namespace, data={"a": "1"}))
    assert (
        Person(plane=control_plane, user="alice", namespace=namespace).kubectl("create", "-f", "-", stdin=forged).done
    )
    scanned = scan("-n", namespace)
    assert scanned.code == 2
    assert "extra: it was made by hand with a mark of the tool, which never wrote it" in scanned.out


def test_no_value_of_a_secret_is_in_any_output(
    control_plane: ControlPlane, scan: Scanner, drift: Found, rendered: Rendered
) -> None:
    hands_of(control_plane, next(kind for kind in KINDS if kind.resource == "secrets"), NAMESPACE, "drifted").apply()
    for output in ("text", "json", "sarif", "junit", "markdown", "patch"):
        for arguments in (["-n", NAMESPACE], ["--manifests", str(rendered.file)]):
            scanned = scan(*arguments, "-o", output)
            assert scanned.code == 2
            assert "secrets" in scanned.out
            for value in (HAND_MADE, "in-git"):
                assert value not in scanned.out + scanned.err
                assert encoded(value) not in scanned.out + scanned.err


# Output for other programs


def test_reports_for_ci_tell_each_drift_with_its_place(scan: Scanner, rendered: Rendered) -> None:
    arguments = ["--manifests", str(rendered.file), "-o"]
    (run,) = json.loads(scan(*arguments, "sarif").out)["runs"]
    places = [result["locations"][0] for result in run["results"]]
    assert len(places) == sum(len(paths) for paths in rendered.expected.values())
    told = {place["logicalLocations"][0]["fullyQualifiedName"] for place in places}
    assert f"{COMPARED}/deployments/scaled:spec.replicas" in told
    lines = rendered.file.read_text().splitlines()
    scaled = next(place for place in places if "/scaled:" in place["logicalLocations"][0]["fullyQualifiedName"])
    physical = scaled["physicalLocation"]
    assert physical["artifactLocation"]["uri"].endswith("rendered.yaml")
    assert lines[physical["region"]["startLine"] - 1] == "apiVersion: apps/v1"
    suite = ET.fromstring(scan(*arguments, "junit").out)[0]  # noqa: S314 - it is our own
    failed = {case.get("name"): case for case in suite if len(case)}
    assert set(failed) == {resource for resource, _ in rendered.expected}
    assert "spec.replicas: 1 -> 4" in (failed["deployments.apps"][0].text or "")
    assert "| `spec.replicas` | `1 -> 4` |" in scan(*arguments, "markdown").out


def test_the_patch_put_into_git_leaves_no_drift(scan: Scanner, rendered: Rendered, tmp_path: Path) -> None:
    patches = {
        (patch["kind"], patch["metadata"]["name"]): patch
        for patch in yaml.safe_load_all(scan("--manifests", str(rendered.file), "-o", "patch").out)
        if patch
    }
    assert patches["Deployment", "scaled"]["spec"] == {"replicas": 4}
    assert patches["ConfigMap", "shortened"]["data"] == {"b": None}
    assert patches["Widget", "widgets-compared"]["spec"] == {"ports": [{"name": "http", "port": 8000}]}
    assert ("Secret", "secrets-compared") not in patches
    # What a strategic merge does, of what is in here: maps, lists of named items, and null for what is gone.
    in_git = [merged(obj, patches.get((obj["kind"], obj["metadata"]["name"]), {})) for obj in documents(rendered.file)]
    file = tmp_path / "patched.yaml"
    file.write_text(yaml.safe_dump_all(in_git))
    left = scan("--manifests", str(file), "-o", "json").found("")
    assert left == {
        key: rendered.expected[key] for key in rendered.expected if key[1] in ("deleted", "extra", "secrets-compared")
    }


def documents(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))


def merged(value: Any, patch: Any) -> Any:
    if isinstance(value, dict) and isinstance(patch, dict):
        both = {key: merged(value.get(key), patch[key]) if key in patch else value[key] for key in {*value, *patch}}
        return {key: inner for key, inner in both.items() if inner is not None}
    if isinstance(value, list) and isinstance(patch, list) and all(isinstance(item, dict) for item in value):
        keys = [key for key in ("name", "port") if all(key in item for item in (*value, *patch))]
        if keys:
            new = {item[keys[0]]: item for item in patch}
            return [merged(item, new.get(item[keys[0]], {})) for item in value]
    return patch


# Large clusters


def test_a_list_that_the_api_server_has_forgotten_goes_on_without_a_repetition(control_plane: ControlPlane) -> None:
    namespace = control_plane.create_namespace("scanned-pages")
    alice = Person(plane=control_plane, user="alice", namespace=namespace)
    alice.creates(*(config_map(f"page-{number}", namespace) for number in range(6)))
    cluster = connect(control_plane.kubeconfig("admin"))
    assert not isinstance(cluster, Offline)
    statuses: list[int] = []

    class Watched:
        """The connection, of which the statuses are kept."""

        def get(self, path: str, deadline: float, *, accept: str = JSON) -> Answer:
            answer = cluster.get(path, deadline, accept=accept)
            statuses.append(answer.status)
            return answer

    listing = Listing(Watched(), page=2)
    resource = listing.find("", "ConfigMap")
    assert resource is not None
    names = []
    for obj in listing.objects(resource, namespace):
        names.append(obj["metadata"]["name"])
        if names[-1] == "page-1":
            alice.creates(config_map("page-3-too", namespace), config_map("page-0-too", namespace))
            control_plane.forget_versions()
    assert 410 in statuses
    # The one that came behind its back is for the next scan to find.
    assert [name for name in names if name.startswith("page-")] == [
        *("page-0", "page-1", "page-2", "page-3", "page-3-too", "page-4", "page-5")
    ]


# In the cluster

STRING, COUNT = {"type": "string"}, {"type": "integer"}
RESULT = {
    "type": "object",
    "required": ["policy"],
    "properties": {
        **dict.fromkeys(("category", "message", "policy", "rule", "source"), STRING),
        "scored": {"type": "boolean"},
        "severity": {**STRING, "enum": ["high", "low", "medium"]},
        "result": {**STRING, "enum": ["pass", "fail", "warn", "error", "skip"]},
        "properties": {"type": "object", "additionalProperties": STRING},
        "timestamp": {
            "type": "object",
            "required": ["nanos", "seconds"],
            "properties": {"seconds": {**COUNT, "format": "int64"}, "nanos": {**COUNT, "format": "int32"}},
        },
        "resources": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": dict.fromkeys(("apiVersion", "kind", "name", "namespace", "uid"), STRING),
            },
        },
    },
}
REPORT = {
    "type": "object",
    "properties": {
        "results": {"type": "array", "items": RESULT},
        "summary": {
            "type": "object",
            "properties": dict.fromkeys(("pass", "fail", "warn", "error", "skip"), COUNT),
        },
    },
}


def report_definition(kind: str, scope: str) -> Object:
    """The definition of a report, as strict as the first one of v1alpha2."""
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": REPORT}}
    plural = f"{kind.lower()}s"
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    spec = {"group": "wgpolicyk8s.io", "names": names, "scope": scope, "versions": [version]}
    return manifest("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.wgpolicyk8s.io", None, spec=spec)


JOB = "system:serviceaccount:driftwall-system:driftwall-scan"
ROLES: Sequence[Object] = list(yaml.safe_load_all((DEPLOY / "kustomize/overlays/scan/rbac.yaml").read_text()))


@pytest.fixture
def job(control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Scanner:
    """The service account of the CronJob, with the rights that it is installed with."""
    for each in ROLES:
        if each["kind"] != "ServiceAccount":
            control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    token = control_plane.service_account_token("driftwall-system", "driftwall-scan")
    return Scanner(control_plane.kubeconfig_of(token), capsys)


def test_the_job_writes_a_report_for_each_namespace_with_the_rights_that_it_is_installed_with_and_no_less(
    control_plane: ControlPlane, job: Scanner, drift: Found, tmp_path: Path
) -> None:
    begun = sum(1 for _ in control_plane.audit_events(JOB))
    args = ["--policy-reports", "--exit-zero"]
    missing = job(*args)
    assert missing.code == 69
    assert "the API server does not serve wgpolicyk8s.io/v1alpha2; install its" in missing.err
    for kind, scope in (("PolicyReport", "Namespaced"), ("ClusterPolicyReport", "Cluster")):
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(report_definition(kind, scope)))
    reports = "/apis/wgpolicyk8s.io/v1alpha2"
    served = [f"{reports}/{plural}" for plural in ("policyreports", "clusterpolicyreports")]
    control_plane.wait_for(lambda: all(map(control_plane.exists, served)), "reports to be served")
    namespace = control_plane.create_namespace("scanned-reports")
    kinds = {kind.resource: kind for kind in KINDS}
    hands = hands_on(control_plane, kinds["services"], namespace, "drifted")
    hands_on(control_plane, kinds["configmaps"], namespace, "quiet")
    assert hands.patch_by_merging().done
    labelled = hands_on(control_plane, kinds["clusterroles"], "", "reported")
    assert labelled.label().done

    scanned = job(*args)
    assert (scanned.code, scanned.err) == (0, "")
    path = f"{reports}/namespaces/{namespace}/policyreports/driftwall-scan"
    report = control_plane.get(path)
    # The Endpoints have the Service's labels, so they count as managed, too.
    assert report["summary"] == {"pass": 2, "fail": 1, "warn": 0, "error": 0, "skip": 0}
    (result,) = report["results"]
    assert result["policy"] == "declared-fields"
    assert result["message"].startswith("services scanned-reports/services-drifted: spec.ports[port=80,protocol=TCP]")
    assert result["resources"][0]["uid"] == hands.live["metadata"]["uid"]
    of_cluster = control_plane.get(f"{reports}/clusterpolicyreports/driftwall-scan")
    assert "clusterroles-reported" in {each["name"] for result in of_cluster["results"] for each in result["resources"]}

    hands.create()
    assert hands.delete().done
    control_plane.raw("DELETE", f"/api/v1/namespaces/{namespace}/configmaps/configmaps-quiet")
    control_plane.wait_for(lambda: not control_plane.exists("endpoints", hands.name, namespace), "the Endpoints to go")
    with unavailable_group(control_plane) as group:
        partly = job(*args)
    assert partly.code == 69
    assert f"not scanned: {group}" in partly.err
    # What was not looked at is not clean.
    assert control_plane.get(path) == report
    of_cluster = control_plane.get(f"{reports}/clusterpolicyreports/driftwall-scan")
    assert of_cluster["summary"]["error"] == 1
    told = of_cluster["results"][0]
    assert (told["result"], told["message"].startswith(f"not scanned: {group}")) == ("error", True)

    assert job(*args).code == 0
    emptied = control_plane.get(path)
    assert (emptied["summary"]["pass"], emptied["summary"]["fail"], emptied["results"]) == (0, 0, [])
    all_are_used_and_no_other_is_wanted(rights(ROLES), requests_of(control_plane, JOB, begun))
    # What it may not do.
    assert "forbidden" in job("--manifests", str(written(tmp_path, hands.manifest, namespace))).err


@contextlib.contextmanager
def unavailable_group(control_plane: ControlPlane) -> Iterator[str]:
    """An API group whose server is away, as that of a metrics adapter often is."""
    version, group = "v1", "unavailable.example.com"
    service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": "default", "name": "nobody"},
        },
    }
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(service))
    try:
        control_plane.wait_for(
            lambda: group in json.dumps(control_plane.get("/apis")["groups"]), "the group to be announced"
        )
        yield group
    finally:
        control_plane.kubectl("delete", "apiservice", f"{version}.{group}")


def test_a_pushgateway_that_is_away_costs_the_metrics_and_never_what_was_found(
    control_plane: ControlPlane, scan: Scanner
) -> None:
    namespace = control_plane.create_namespace("scanned-unpushed")
    hands = hands_on(control_plane, next(kind for kind in KINDS if kind.resource == "services"), namespace, "drifted")
    assert hands.patch_by_merging().done
    gateway = f"http://127.0.0.1:{free_port()}"
    scanned = scan("-o", "json", "--pushgateway", gateway)
    assert (scanned.code, set(scanned.found("-drifted")) >= {("services", hands.name)}) == (2, True)
    told = (
        f"driftwall: the Pushgateway {gateway} does not have the metrics of this scan: [Errno 111] Connection refused"
    )
    assert scanned.err.startswith(told)
    # Nothing but the metrics would have told, so it must not look well.
    assert scan("--exit-zero", "--pushgateway", gateway).code == 69


def written(folder: Path, obj: Object, namespace: str) -> Path:
    file = folder / "one.yaml"
    file.write_text(yaml.safe_dump({**obj, "metadata": {**obj["metadata"], "namespace": namespace}}))
    return file
