"""What is installed: the generated files are up to date, and the chart is what its values say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from deploy import generate
from webhook import cli, settings
from webhook.policy_compiler import load
from webhook.webhook_config import Target
from webhook.webhook_config import render as webhook_configurations

from .deploying import CHART, DEPLOY, NAMESPACE, OVERLAYS, ROOT, Object, Values, commands, named, render

ENFORCE = {"mode": "enforce"}
CERTIFICATES: Mapping[str, Values] = {
    "selfManaged": {},
    "certManager": {"certificates": {"mode": "certManager"}},
    "existingSecret": {"certificates": {"mode": "existingSecret", "existingSecret": {"name": "mine", "ca": "a CA"}}},
}


def policies_of(objects: list[Object]) -> str:
    text: str = next(each for each in objects if each["kind"] == "ConfigMap")["data"]["policies.yaml"]
    return text


def webhooks_of(objects: list[Object]) -> list[Object]:
    found = [each for each in objects if each["kind"].endswith("WebhookConfiguration")]
    return [{**each, "metadata": {"name": each["metadata"]["name"]}} for each in found]


def needed(documents: str, folder: Path, *, namespace: str = NAMESPACE, custom_resources: bool = False) -> list[Object]:
    """The webhook configurations that driftwall itself says these policies need."""
    (folder / "policies.yaml").write_text(documents)
    target = Target(namespace=namespace, service="driftwall")
    return webhook_configurations(load(folder), target, custom_resources=custom_resources)


def by_kind(documents: list[Object]) -> list[Object]:
    return sorted(documents, key=lambda document: str(document["kind"]))


def deployment_of(objects: list[Object]) -> Object:
    return next(each for each in objects if each["kind"] == "Deployment")


def container_of(objects: list[Object]) -> Object:
    (container,) = deployment_of(objects)["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


def base() -> list[Object]:
    names = yaml.safe_load((DEPLOY / "kustomize/base/kustomization.yaml").read_text())["resources"]
    texts = [(DEPLOY / "kustomize/base" / name).read_text() for name in names]
    return [document for text in texts for document in yaml.safe_load_all(text)]


# What is generated


def test_what_is_generated_from_the_policies_is_up_to_date() -> None:
    made = generate.files()
    assert {name: (DEPLOY / name).read_text() for name in made} == made, "run make deploy"
    kept = {str(path.relative_to(DEPLOY)) for path in (CHART / "files").rglob("*") if path.is_file()}
    assert kept == {name for name in made if name.startswith("chart/files/")}


@pytest.mark.parametrize("overlay", ["dry-run", "enforce"])
def test_the_command_prints_the_webhook_configurations_of_an_overlay(overlay: str, tmp_path: Path) -> None:
    config_map = yaml.safe_load((OVERLAYS / overlay / "policies.yaml").read_text())
    (tmp_path / "policies.yaml").write_text(config_map["data"]["policies.yaml"])
    arguments = ["webhook-config", "--policies", str(tmp_path), "--service", f"{NAMESPACE}/driftwall"]
    printed = subprocess.run(
        [sys.executable, "-m", "webhook", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    shipped = list(yaml.safe_load_all((OVERLAYS / overlay / "webhooks.yaml").read_text()))
    assert webhooks_of(shipped) == list(yaml.safe_load_all(printed))


@pytest.mark.parametrize(
    ("mode", "glass", "guard", "source"),
    list(product(("dryRun", "warn", "tag", "enforce"), (True, False), (True, False), ("files", "customResources"))),
)
def test_the_chart_has_the_webhook_configurations_that_its_policies_need(
    mode: str, glass: bool, guard: bool, source: str, tmp_path: Path
) -> None:
    config = {"guardIdentities": guard, "breakGlass": {"groups": ["sre"] if glass else []}}
    values = {"policies": {"mode": mode}, "config": config}
    documents = policies_of(render(values))
    rendered = webhooks_of(render({**values, "policies": {"mode": mode, "source": source}}))
    assert by_kind(rendered) == by_kind(needed(documents, tmp_path, custom_resources=source == "customResources"))


def test_another_namespace_and_other_exemptions_are_put_into_the_webhook_configurations(tmp_path: Path) -> None:
    exempt = ["kube-*", "gke-managed", "kube-system"]
    objects = render({"policies": ENFORCE, "config": {"exemptNamespaces": exempt}}, namespace="guards")
    expected = needed(policies_of(objects), tmp_path, namespace="guards")
    assert by_kind(webhooks_of(objects)) == by_kind(expected)
    namespaced = [each["metadata"]["namespace"] for each in objects if "namespace" in each["metadata"]]
    assert set(namespaced) == {"guards"}
    assert NAMESPACE not in yaml.safe_dump_all(objects)


def test_policies_of_ones_own_come_with_their_webhook_configurations(tmp_path: Path) -> None:
    documents = (
        "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata:\n  name: mine\nspec:\n  mode: enforce\n"
        "  match:\n    resources:\n      - apiGroups: ['']\n        resources: [services]\n"
        "  protect:\n    fieldSets: [openedPorts]\n"
    )
    expected = needed(documents, tmp_path)
    own = {"documents": documents, "webhookConfig": yaml.safe_dump_all(expected)}
    objects = render({"policies": own})
    assert policies_of(objects).strip() == documents.strip()
    assert by_kind(webhooks_of(objects)) == by_kind(expected)
    with pytest.raises(helm.HelmRenderError, match=r"policies\.documents needs policies\.webhookConfig"):
        render({"policies": {"documents": documents}})


# The chart


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    report = helm.lint(CHART, strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["error"] != "icon is recommended"] == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"policies": {"mode": "enforced"}}, "mode"),
        ({"policies": {"source": "git"}}, "source"),
        ({"replicas": 0}, "replicas"),
        ({"replica": 2}, "replica"),
        ({"image": {"digest": "sha256:0"}}, "digest"),
        ({"config": {"trustedWriters": [{"serviceAccounts": ["flux-system/kustomize-controller"]}]}}, "name"),
        ({"config": {"breakGlass": {"maxDuration": "4 hours"}}}, "maxDuration"),
        ({"certificates": {"mode": "letsencrypt"}}, "mode"),
        ({"certificates": {"selfManaged": {"lifetime": "90 days"}}}, "lifetime"),
        ({"extraArgs": ["workers=2"]}, "extraArgs"),
        ({"rbac": {"scalable": [{"apiGroups": ["argoproj.io"]}]}}, "resources"),
    ],
)
def test_a_value_that_the_schema_does_not_know_is_refused(values: dict[str, Any], told: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=told):
        chart.validate_schema(values)


def test_the_values_of_the_chart_are_valid_and_all_in_its_schema() -> None:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema()
        values, schema = chart.values, chart.schema
    assert schema is not None
    assert set(values) | {"global"} == set(schema["properties"])
    for key, part in values.items():
        known = schema["properties"][key].get("properties")
        assert known is None or set(part) == set(known), key


def test_a_certificate_of_ones_own_is_named_with_its_ca() -> None:
    with pytest.raises(helm.HelmRenderError, match=r"existingSecret\.name is required"):
        render({"certificates": {"mode": "existingSecret", "existingSecret": {"ca": "a CA"}}})
    with pytest.raises(helm.HelmRenderError, match=r"existingSecret\.ca is required"):
        render({"certificates": {"mode": "existingSecret", "existingSecret": {"name": "mine"}}})
    objects = render({**CERTIFICATES["existingSecret"], "policies": ENFORCE})
    bundles = {hook["clientConfig"]["caBundle"] for each in webhooks_of(objects) for hook in each["webhooks"]}
    assert bundles == {"YSBDQQ=="}
    (tls,) = (v for v in deployment_of(objects)["spec"]["template"]["spec"]["volumes"] if v["name"] == "tls")
    assert tls["secret"] == {"secretName": "mine", "defaultMode": 0o440}


def test_cert_manager_brings_the_certificate_and_its_ca() -> None:
    objects = named(render({**CERTIFICATES["certManager"], "policies": ENFORCE}))
    certificate = objects["Certificate driftwall"]["spec"]
    assert certificate["secretName"] == "driftwall-tls"
    assert certificate["dnsNames"][0] == "driftwall.driftwall-system.svc"
    assert certificate["issuerRef"]["name"] == "driftwall-ca"
    for kind in ("Validating", "Mutating"):
        annotations = objects[f"{kind}WebhookConfiguration driftwall"]["metadata"]["annotations"]
        assert annotations == {"cert-manager.io/inject-ca-from": "driftwall-system/driftwall"}
    issuer = {"name": "corporate", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    objects = named(render({"certificates": {"mode": "certManager", "certManager": {"issuerRef": issuer}}}))
    assert [name for name in objects if name.startswith(("Issuer", "Certificate"))] == ["Certificate driftwall"]
    assert objects["Certificate driftwall"]["spec"]["issuerRef"] == issuer


@pytest.mark.parametrize("mode", ["certManager", "existingSecret"])
def test_rights_that_only_a_certificate_of_its_own_needs_are_not_given_without_one(mode: str) -> None:
    objects = render(CERTIFICATES[mode])
    text = yaml.safe_dump_all([each for each in objects if "Role" in each["kind"]])
    for right in ("secrets", "leases", "webhookconfigurations"):
        assert right not in text


def by_name(objects: list[Object]) -> dict[str, Object]:
    return {f"{each['kind']} {each['metadata']['name']}": each for each in objects}


def test_alerts_and_dashboard_come_with_the_chart_where_they_are_asked_for() -> None:
    assert not {"PrometheusRule driftwall", "ConfigMap driftwall-dashboard"} & set(by_name(render()))
    asked = {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": True}}
    objects = by_name(render(asked))
    rule, dashboard = objects["PrometheusRule driftwall"], objects["ConfigMap driftwall-dashboard"]
    assert rule["spec"] == yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert json.loads(dashboard["data"]["driftwall.json"]) == json.loads(
        (DEPLOY / "monitoring/dashboard.json").read_text()
    )
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_what_prometheus_is_to_watch_is_the_same_for_kustomize_as_in_the_chart() -> None:
    chart = by_name(render({each: {"enabled": True} for each in ("serviceMonitor", "prometheusRule", "dashboard")}))
    folder = DEPLOY / "monitoring"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    for name in names:
        own = yaml.safe_load((folder / name).read_text())
        theirs = chart[f"{own['kind']} {own['metadata']['name']}"]
        assert own["metadata"]["namespace"] == theirs["metadata"]["namespace"]
        assert own.get("spec") == theirs.get("spec")


# The pods


@pytest.mark.parametrize("certificates", CERTIFICATES)
@pytest.mark.parametrize("source", ["files", "customResources"])
def test_driftwall_takes_the_arguments_that_it_is_started_with(certificates: str, source: str) -> None:
    lifetimes = {"lifetime": "1000h", "caLifetime": "20000h"}
    values = {
        "policies": {"source": source},
        "extraArgs": ["--workers=2"],
        "certificates": {**CERTIFICATES[certificates].get("certificates", {}), "selfManaged": lifetimes},
    }
    objects = render(values)
    container = container_of(objects)
    command, *arguments = container["args"]
    assert command == "serve"
    parsed = cli.build_parser("serve").parse_args(["serve", *arguments])
    config = settings.read(vars(parsed), {})
    assert (config.policies is None) == (source == "customResources")
    assert (config.tls_files is None) == (certificates == "selfManaged")
    assert config.workers == 2
    leases = [each for each in objects if each["kind"] == "Lease"]
    rights = yaml.safe_dump_all([each for each in objects if "Role" in each["kind"]])
    assert (config.service is not None) == bool(leases) == ("leases" in rights)
    mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
    files = [config.policies, config.tls_files and config.tls_files.cert.parent]
    assert mounted == {str(file) for file in files if file}


def test_driftwall_takes_the_arguments_of_the_base() -> None:
    command, *arguments = container_of(base())["args"]
    config = settings.read(vars(cli.build_parser("serve").parse_args([command, *arguments])), {})
    assert str(config.service) == "driftwall-system/driftwall"
    ports = {port["name"]: port["containerPort"] for port in container_of(base())["ports"]}
    assert ports == {"webhook": config.listen.port, "management": config.management_listen.port}
    secrets = [each["metadata"]["name"] for each in base() if each["kind"] == "Secret"]
    assert secrets == [config.tls_secret]


@pytest.mark.parametrize("source", ["files", "customResources"])
@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("gateway", ["http://pushgateway.monitoring:9091", None])
def test_driftwall_takes_the_arguments_that_it_scans_with(reports: bool, source: str, gateway: str | None) -> None:
    scan = {"enabled": True, "policyReports": reports, "extraArgs": ["--exclude-resources=secrets"]}
    scan |= {"pushgateway": gateway or ""}
    objects = render({"policies": {"source": source}, "scan": scan})
    job = named(objects)["CronJob driftwall-scan"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    parsed = cli.build_parser("scan").parse_args(container["args"])
    assert (parsed.policy_reports, parsed.exclude_resources, parsed.pushgateway) == (reports, "secrets", gateway)
    assert parsed.exit_zero == (reports or gateway is not None)
    mounted = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    assert mounted == ([parsed.policies] if source == "files" else [])
    assert (parsed.policies == "cluster") == (source == "customResources")
    assert ("policyreports" in yaml.safe_dump(named(objects)["ClusterRole driftwall-scan"])) == reports
    # The Service of the webhook must not send the API server to a pod that scans.
    pods = named(objects)["CronJob driftwall-scan"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    selector = named(objects)["Service driftwall"]["spec"]["selector"]
    assert not selector.items() <= pods.items()


@pytest.mark.parametrize("certificates", CERTIFICATES)
def test_pods_are_restricted_and_can_write_nowhere(certificates: str) -> None:
    for objects in (base(), render(CERTIFICATES[certificates])):
        spec = deployment_of(objects)["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(set(volume) & {"configMap", "secret"} for volume in spec["volumes"])
        container = container_of(objects)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        }
        assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_the_drain_ends_before_kubelet_loses_its_patience() -> None:
    command, *arguments = container_of(base())["args"]
    config = settings.read(vars(cli.build_parser("serve").parse_args([command, *arguments])), {})
    patience = deployment_of(base())["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    # 24 s: draining and closing (webhook.servers).
    assert patience > config.shutdown_delay + 24


# What it may do


def test_no_right_is_wider_than_what_it_is_for() -> None:
    for objects in (base(), render({"policies": {"source": "customResources"}})):
        rules = [rule for each in objects if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
        for rule in rules:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            assert not {"delete", "deletecollection", "update", "impersonate", "bind", "escalate"} & set(rule["verbs"])
            if set(rule["resources"]) & {"secrets", "leases", "validatingwebhookconfigurations"}:
                assert len(rule["resourceNames"]) == 1


def test_every_right_is_explained() -> None:
    page = (DEPLOY / "README.md").read_text()
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| ") and row.count("|") == 4]
    explained = {
        (verb, resource)
        for _, verbs, on, *_ in rows
        for verb in verbs.split(", ")
        for resource in re.split(r"[ ,;.]+", on)
    }
    explained = {(verb.strip(), resource) for verb, resource in explained}
    objects = render({"policies": {"source": "customResources"}, "scan": {"enabled": True}})
    given = {
        (verb, resource)
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert given <= explained
    assert len(given) > 20


# Pages, and what they name


def test_the_emergency_page_begins_with_the_command_that_lets_every_write_through() -> None:
    first, *others = commands(DEPLOY / "EMERGENCY.md")
    deletion = "kubectl delete --ignore-not-found validatingwebhookconfiguration,mutatingwebhookconfiguration driftwall"
    assert first == deletion
    assert all(command.startswith("kubectl ") for command in others)
    assert deletion in commands(DEPLOY / "README.md")


def test_every_path_on_the_pages_exists() -> None:
    for page in ("README.md", "EMERGENCY.md", "MONITORING.md"):
        text = (DEPLOY / page).read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (DEPLOY / link).exists(), link
        for path in re.findall(r"deploy/[\w/-]+[\w]", text):
            assert (ROOT / path).exists(), path


def test_one_version_is_named_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kustomization = yaml.safe_load((DEPLOY / "kustomize/base/kustomization.yaml").read_text())
    assert chart["appVersion"] == version
    scan = yaml.safe_load((OVERLAYS / "scan" / "kustomization.yaml").read_text())
    assert kustomization["images"] == scan["images"] == [{"name": "driftwall", "newTag": version}]
    assert f"driftwall:{version}" in (DEPLOY / "README.md").read_text()


def test_the_base_of_the_image_is_pinned_by_digest_and_its_user_is_a_number() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"(?m)^ARG PYTHON_IMAGE=\S+:\S+@sha256:[0-9a-f]{64}$", text)
    assert [line for line in text.splitlines() if line.startswith("FROM ")] == [
        "FROM ${PYTHON_IMAGE} AS build",
        "FROM scratch",
    ]
    user = deployment_of(base())["spec"]["template"]["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in text
    assert os.linesep.join(['ENTRYPOINT ["driftwall"]', 'CMD ["serve"]']) in text
