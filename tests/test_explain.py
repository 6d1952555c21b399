"""``driftwall explain``: the configuration in force, field sets and tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from webhook.cli import main
from webhook.fieldsets import FIELD_SETS
from webhook.tools import TITLES


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["explain", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_configuration_the_usual_service_accounts_are_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    config = explained(capsys, "config")
    trusted = {writer["name"]: writer["serviceAccounts"] for writer in config["trustedWriters"]}
    assert trusted == {
        "flux": ["flux-system/kustomize-controller", "flux-system/helm-controller"],
        "argocd": ["argocd/argocd-application-controller", "kube-system/argocd-manager"],
        "configsync": ["config-management-system/root-reconciler*", "config-management-system/ns-reconciler-*"],
        "fleet": ["cattle-fleet-system/fleet-agent"],
        "sveltos": ["projectsveltos/addon-controller"],
        "crossplane": ["crossplane-system/crossplane"],
    }
    assert config["breakGlass"] == "off"
    assert config["exemptNamespaces"] == ["kube-system"]
    assert config["guardIdentities"] is True
    hpa = next(writer for writer in config["automation"] if writer["name"] == "hpa")
    assert hpa["fields"] == ["spec.replicas"]


def test_a_configuration_is_shown_as_it_is_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.yaml").write_text(
        "apiVersion: driftwall.io/v1alpha1\n"
        "kind: DriftwallConfig\n"
        "metadata: {name: default}\n"
        "spec:\n"
        "  clusterId: lab\n"
        "  trustedWriters: []\n"
        "  breakGlass: {groups: [sre], reasonPattern: '^INC-', maxDuration: 1h}\n"
        "---\n"
        "apiVersion: driftwall.io/v1alpha1\n"
        "kind: DriftPolicy\n"
        "metadata: {name: ports}\n"
        "spec: {mode: warn, protect: {fieldSets: [openedPorts]}}\n"
    )
    config = explained(capsys, "config", "--policies", str(tmp_path))
    assert (config["clusterId"], config["trustedWriters"]) == ("lab", [])
    assert config["breakGlass"] == {"groups": ["sre"], "users": [], "reasonPattern": "^INC-", "maxDuration": "1:00:00"}
    assert [(policy["name"], policy["mode"], policy["fieldSets"]) for policy in config["policies"]] == [
        ("ports", "warn", ["openedPorts"])
    ]


def test_a_field_set_is_shown_per_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "fieldset", "permissions") == {
        "name": "permissions",
        "description": "RBAC rules, subjects and role references.",
        "kinds": {
            "ClusterRole.rbac.authorization.k8s.io": ["rules", "aggregationRule"],
            "ClusterRoleBinding.rbac.authorization.k8s.io": ["subjects", "roleRef"],
            "Role.rbac.authorization.k8s.io": ["rules"],
            "RoleBinding.rbac.authorization.k8s.io": ["subjects", "roleRef"],
        },
    }
    assert set(explained(capsys, "fieldset")) == set(FIELD_SETS)


def test_a_tool_is_shown_with_its_marker(capsys: pytest.CaptureFixture[str]) -> None:
    (marker,) = explained(capsys, "tool", "argocd")["markers"]
    assert marker["annotations"] == {"argocd.argoproj.io/tracking-id": "(any)"}
    assert marker["namesTheObject"] is True
    assert set(explained(capsys, "tool")) == set(TITLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fieldset", "ports"), "there is no field set 'ports'; there are openedPorts, images, replicas, resources, "),
        (("tool", "jenkins"), "driftwall knows no tool 'jenkins'; it knows flux, argocd, helm, configsync, fleet, "),
    ],
)
def test_a_name_that_does_not_exist_is_a_wrong_usage_that_lists_those_that_do(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 64
    assert capsys.readouterr().err.startswith(f"driftwall: {message}")


def test_the_text_is_yaml_that_a_policy_file_could_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "tool", "helm"]) == 0
    assert capsys.readouterr().out == (
        "name: helm\n"
        "title: Helm\n"
        "markers:\n"
        "  - kind: release\n"
        "    labels:\n"
        "      app.kubernetes.io/managed-by: Helm\n"
        "    annotations:\n"
        "      meta.helm.sh/release-name: (any)\n"
        "      meta.helm.sh/release-namespace: (any)\n"
        "    namesTheObject: false\n"
        "    fieldManagers:\n"
        "      - helm\n"
        "    optOuts:\n"
        "      - helm.sh/resource-policy\n"
        "    trustedByDefault: []\n"
    )
