"""Manifests are read as kubectl reads them, whatever rendered them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from webhook.errors import SettingsError
from webhook.manifests import Manifest, read


def parsed(text: str) -> list[Manifest]:
    return list(read("-", io.BytesIO(text.encode())))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0644", 420),
        ("0x10", 16),
        ("22:22", "22:22"),
        ("2026-01-31", "2026-01-31"),
        ("yes", True),
        ("off", False),
        ("n", False),
        ("'yes'", "yes"),
        ("1e3", 1000.0),
        ("1.10", 1.1),
        ("v1.10", "v1.10"),
        ("1_000", 1000),
        ("~", None),
        ("-", "-"),
    ],
)
def test_a_plain_scalar_is_what_kubectl_makes_of_it(written: str, value: object) -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\nx: [{written}, 1]\n"
    if written == "-":
        text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nx: ["-", 1]\n'
    (manifest,) = parsed(text)
    (read_value, _) = manifest.value["x"]
    assert (read_value, type(read_value)) == (value, type(value))


def test_lists_are_taken_apart_and_empty_documents_and_hooks_left_out() -> None:
    text = """\
---
# nothing
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}
  - {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
  annotations: {helm.sh/hook: pre-upgrade}
---
{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}}
"""
    found = [(each.group, each.kind, each.namespace, each.name, each.line) for each in parsed(text)]
    assert found == [("", "ConfigMap", "shop", "a", 4), ("apps", "Deployment", "", "b", 4), ("", "Secret", "", "c", 16)]


def test_anchors_and_merge_keys_are_followed() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a}\ndata: {<<: *m, b: c}\n"
    assert parsed(text)[0].value["data"] == {"name": "a", "b": "c"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b\n", "-:1: a mapping of 1 is no manifest: it has no apiVersion and kind"),
        ("- a\n", "-:1: a list of 1 is no manifest: it has no apiVersion and kind"),
        ("apiVersion: v1\nkind: ConfigMap\n", "-:1: the ConfigMap has no metadata.name"),
        ("a: [b\n", "-:2: this is no YAML: did not find expected ',' or ']'"),
        (
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
            "-:1: manifests have to be rendered first: kustomize build DIR | driftwall scan --manifests -",
        ),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parsed(text)
    assert str(refused.value) == told


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    for name in ("b.yml", "a.yaml", "sub/c.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(manifest)
    assert [Path(each.file).name for each in read(str(tmp_path))] == ["a.yaml", "b.yml", "c.json"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SettingsError, match="here; give rendered manifests"):
        list(read(str(empty)))
