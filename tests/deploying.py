"""What the tests of deploy/ share: the chart as Helm renders it, an overlay as kubectl does, and how they compare."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
OVERLAYS = DEPLOY / "kustomize" / "overlays"
NAMESPACE = "driftwall-system"

Object = dict[str, Any]
Values = Mapping[str, Any]

# What the chart's values have to be for the objects of an overlay.
VALUES: Mapping[str, Values] = {
    "dry-run": {},
    "enforce": {"policies": {"mode": "enforce"}},
    "custom-resources": {"policies": {"source": "customResources"}},
}
# Helm's own labels; that of the name is the one that objects are selected by.
_HELM_LABELS = ("instance", "version", "managed-by")
# Server versions from which on a field, or an API version, is there.
_MATCH_CONDITIONS = (1, 28)
_POLICY_V1 = (1, 21)
_CRON_JOB_V1 = (1, 21)


def render(values: Values | None = None, *, namespace: str = NAMESPACE, chart: Path = CHART) -> list[Object]:
    """The chart's objects, as Helm would send them."""
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(dict(values or {}), name="driftwall", namespace=namespace)
    texts = [text for name, text in sorted(rendered.items()) if not name.endswith(".txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def build(kubectl: Path, overlay: str, kustomization: str = "") -> list[Object]:
    """An overlay's objects, as ``kubectl kustomize`` prints them; ``kustomization`` makes one of this name."""
    said = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    minor = int(json.loads(said.stdout)["clientVersion"]["minor"].rstrip("+"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "deploy")
        shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("chart", "__pycache__"))
        path = copy / "kustomize" / "overlays" / overlay
        if kustomization:
            path.mkdir()
            (path / "kustomization.yaml").write_text(kustomization)
        if minor < 21:
            for file in copy.rglob("kustomization.yaml"):
                _for_old_kustomize(file)
        built = subprocess.run([kubectl, "kustomize", path], capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    found = [document for document in yaml.safe_load_all(built.stdout) if document]
    # Where newer ones put them by themselves: nothing is to wait for what is still to be made.
    return sorted(found, key=lambda each: str(each["kind"]).endswith("WebhookConfiguration"))


def _for_old_kustomize(file: Path) -> None:
    """The same for the kustomize v2.0.3 of kubectl before v1.21: folders are ``bases`` there, and patches two kinds."""
    document = yaml.safe_load(file.read_text())
    resources = document.pop("resources")
    document["resources"] = [name for name in resources if name.endswith(".yaml")]
    document["bases"] = [name for name in resources if not name.endswith(".yaml")]
    patches = document.pop("patches", [])
    document["patchesStrategicMerge"] = [patch["path"] for patch in patches if "path" in patch]
    document["patchesJson6902"] = []
    for number, patch in enumerate(patch for patch in patches if "patch" in patch):
        (file.parent / f"{number}.yaml").write_text(patch["patch"])
        document["patchesJson6902"].append({"target": patch["target"], "path": f"{number}.yaml"})
    file.write_text(yaml.safe_dump(document))


def named(objects: Iterable[Object]) -> dict[str, Object]:
    """Objects by kind and name, as both ways to install have them: without Helm's own labels, policies as data."""
    found: dict[str, Object] = {}
    for each in objects:
        metadata = dict(each["metadata"])
        labels = {key: value for key, value in metadata.get("labels", {}).items() if not _is_helms(key)}
        name = f"{each['kind']} {metadata['name']}"
        assert name not in found
        value = _without_empty_lists({**each, "metadata": {**metadata, "labels": labels}})
        if "data" in value:
            value["data"] = {key: documents(text) for key, text in value["data"].items()}
        found[name] = value
    return found


def _without_empty_lists(value: Any) -> Any:
    """What an old kustomize leaves where it has deleted the last item."""
    if isinstance(value, dict):
        return {key: _without_empty_lists(part) for key, part in value.items() if part != []}
    return [_without_empty_lists(part) for part in value] if isinstance(value, list) else value


def documents(text: str) -> dict[str, Object]:
    """YAML documents by kind and name: their order says nothing."""
    loaded = [document for document in yaml.safe_load_all(text) if document]
    return {f"{document['kind']} {document['metadata']['name']}": document for document in loaded}


def _is_helms(label: str) -> bool:
    return label == "helm.sh/chart" or label in {f"app.kubernetes.io/{name}" for name in _HELM_LABELS}


def for_version(each: Object, version: tuple[int, int]) -> Object:
    """The object as an API server of that version takes it: what came later is put as it was, or left out."""
    if each["kind"] == "PodDisruptionBudget" and version < _POLICY_V1:
        return {**each, "apiVersion": "policy/v1beta1"}
    if each["kind"] == "CronJob" and version < _CRON_JOB_V1:
        return {**each, "apiVersion": "batch/v1beta1"}
    if each["kind"].endswith("WebhookConfiguration") and version < _MATCH_CONDITIONS:
        dropped = [{key: value for key, value in hook.items() if key != "matchConditions"} for hook in each["webhooks"]]
        return {**each, "webhooks": dropped}
    return each


def chart_for_version(version: tuple[int, int], folder: Path) -> Path:
    """The chart, or a copy in ``folder`` that Helm installs on an API server of that version; see for_version."""
    if version >= _MATCH_CONDITIONS:
        return CHART
    copy = folder / "chart"
    shutil.copytree(CHART, copy)
    for file in (copy / "files" / "webhooks").glob("*.yaml"):
        written = [for_version(document, version) for document in yaml.safe_load_all(file.read_text())]
        file.write_text(yaml.safe_dump_all(written))
    if version < _POLICY_V1:
        for file, old, new in (
            (copy / "templates" / "availability.yaml", "policy/v1\n", "policy/v1beta1\n"),
            (copy / "Chart.yaml", 'kubeVersion: ">=1.21.0-0"\n', ""),
        ):
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
    return copy


def commands(page: Path) -> list[str]:
    """The lines of the ``sh`` blocks of a page, in order."""
    found: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside and line:
            found.append(line)
    return found
