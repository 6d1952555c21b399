"""Writes that nobody has sent, as the API server would send them; and ``explain write`` of a manifest."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reviews import FLUX_LABELS
from webhook.admission import ObjectRef, Review
from webhook.cli import main
from webhook.edits import parse_set
from webhook.errors import SettingsError
from webhook.meta import labels_of
from webhook.questions import Question, review, user

Json = dict[str, Any]
ALICE = user("alice", ["developers"], "", {})
POD: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "shop"}}
POD_REF = ObjectRef("", "v1", "pods", "shop", "web-0")


def asked(**changes: Any) -> Review:
    return review(Question(**{"obj": POD, "ref": POD_REF, "user": ALICE, **changes}))


def test_somebody_has_the_groups_that_the_api_server_adds() -> None:
    assert ALICE.groups == ("developers", "system:authenticated")
    assert user("system:anonymous", [], "", {}).groups == ("system:unauthenticated",)
    account = user("system:serviceaccount:shop:web", [], "uid", {"a": ("b",)})
    assert account.groups == ("system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated")
    assert (account.uid, account.extra) == ("uid", {"a": ("b",)})
    # As kubectl --as-group does: whoever gives groups gives all of them.
    assert user("system:serviceaccount:shop:web", ["g"], "", {}).groups == ("g", "system:authenticated")


@pytest.mark.parametrize(
    ("subresource", "operation", "kind"),
    [
        ("eviction", "CREATE", "Eviction"),
        ("exec", "CONNECT", "PodExecOptions"),
        ("binding", "CREATE", "Binding"),
        ("portforward", "CONNECT", "PodPortForwardOptions"),
    ],
)
def test_a_subresource_is_sent_what_belongs_there(subresource: str, operation: str, kind: str) -> None:
    found = asked(subresource=subresource)
    assert (found.operation, found.subresource, found.kind.kind, found.name) == (operation, subresource, kind, "web-0")
    assert found.old is None


def test_a_scale_has_the_replicas_of_its_workload() -> None:
    workload: Json = {**POD, "kind": "Deployment", "apiVersion": "apps/v1", "spec": {"replicas": 2}}
    ref = ObjectRef("apps", "v1", "deployments", "shop", "web")
    found = asked(obj=workload, ref=ref, subresource="scale", edits=(parse_set("spec.replicas=5"),))
    assert found.old is not None
    assert found.new is not None
    assert (found.kind.kind, found.old["spec"], found.new["spec"]) == ("Scale", {"replicas": 2}, {"replicas": 5})


def test_creations_updates_and_deletions_bring_the_objects_that_they_have() -> None:
    edits = (parse_set("metadata.labels.a=b"),)
    update, creation = asked(edits=edits), asked(operation="CREATE", edits=edits)
    assert update.old == POD
    assert creation.old is None
    for new in (update.new, creation.new):
        assert (labels_of(new), labels_of(POD)) == ({"a": "b"}, {})
    assert (asked(operation="DELETE").old, asked(operation="DELETE").new) == (POD, None)
    with pytest.raises(SettingsError, match="say what is written: --field PATH"):
        asked()


def test_the_review_of_a_namespace_bears_its_own_name() -> None:
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    found = asked(obj=obj, ref=ObjectRef("", "v1", "namespaces", "", "shop"), operation="DELETE")
    assert (found.namespace, found.name) == ("shop", "shop")


# ── a manifest ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def policies(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata: {name: declared}\n"
        "spec: {mode: enforce, protect: {declared: true, children: true}}\n"
    )
    return f"--policies={file}"


def config_map(name: str = "web", *, managed: bool = True, fields: bool = True) -> Json:
    owned = {"manager": "kustomize-controller", "operation": "Apply", "apiVersion": "v1"}
    metadata: Json = {"name": name, "namespace": "shop", "uid": name, "labels": dict(FLUX_LABELS) if managed else {}}
    if fields:
        metadata["managedFields"] = [{**owned, "fieldsV1": {"f:data": {"f:port": {}}}}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"port": "80"}}


def explain(file: Path, *flags: str) -> int:
    return main(["explain", "write", "-f", str(file), "--as", "alice", *flags])


def test_a_list_of_objects_is_a_manifest_of_which_one_is_named(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [config_map("a"), config_map("b")]}))
    flags = ("--set", "data.port=81", policies)
    assert explain(file, "configmap/b", *flags) == 1
    assert 'May alice write configmaps "b" in namespace "shop" (UPDATE)?  no' in capsys.readouterr().out
    assert explain(file, *flags) == 64
    assert "there 2 times" in capsys.readouterr().err
    assert explain(file, "configmaps/c", *flags) == 64


def test_a_manifest_comes_from_standard_input_too(
    policies: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(config_map()).encode())))
    assert explain(Path("-"), "--set", "data.port=81", "-o", "json", policies) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["allowed"], said["policies"][0]["name"]) == (False, "declared")


def test_without_managed_fields_there_is_no_answer_but_for_a_creation(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "web.json"
    file.write_text(json.dumps(config_map(fields=False)))
    assert explain(file, "--set", "data.port=81", policies) == 65
    assert "get it with kubectl get -o yaml --show-managed-fields" in capsys.readouterr().err
    assert explain(file, "--operation", "CREATE", policies) == 1
    assert "bears the mark of Flux" in capsys.readouterr().out


def test_an_object_that_the_verdict_depends_on_has_to_be_in_the_file(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    child = config_map("child", managed=False)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "web", "uid": "web", "controller": True}
    child["metadata"]["ownerReferences"] = [owner]
    file = tmp_path / "child.json"
    file.write_text(json.dumps(child))
    flags = ("--set", "data.port=81", policies)
    assert explain(file, *flags) == 0
    said = f'configmaps "web" in namespace "shop" is not in {file}, so it counts as one that does not exist'
    assert said in capsys.readouterr().err
    file.write_text(json.dumps({"kind": "List", "items": [child, config_map()]}))
    assert explain(file, "configmap/child", *flags) == 1
    assert 'belongs to configmaps "web"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--as-user-extra", "x", "--field", "data.port"], "--as-user-extra: 'x' is not KEY=VALUE"),
        ([], "say what is written: --field PATH, --set PATH=VALUE, or --operation DELETE"),
    ],
)
def test_wrong_usage_is_told(
    flags: list[str], message: str, tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "web.json"
    file.write_text(json.dumps(config_map()))
    assert explain(file, *flags, policies) == 64
    assert message in capsys.readouterr().err
