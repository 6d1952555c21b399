from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.admitting import BY, DRIFT, EXPIRES, LABEL
from tests.reviews import RECORDINGS
from tests.serving import review
from webhook.cli import main

REFERENCE = str(RECORDINGS / "reference-policies.yaml")

Run = tuple[int, list[str], str]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    """The exit code, the lines of standard output, and standard error."""
    code = main(["review", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    code, lines, _ = run(capsys, "-o", "json", *arguments)
    return code, [json.loads(line) for line in lines]


def expected() -> list[tuple[str, bool, str]]:
    with (RECORDINGS / "expected.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(row["file"], row["verdict"] == "allow", row["policies"]) for row in rows]


def patches(lines: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The paths that are patched, by file."""
    return {
        str(Path(line["file"]).relative_to(RECORDINGS)): [operation["path"] for operation in line["patch"]]
        for line in lines
        if line["patch"]
    }


def stamp(key: str) -> str:
    return "/metadata/annotations/" + key.replace("/", "~1")


def test_all_recordings_get_the_verdicts_of_the_table_in_the_order_of_their_paths(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines = run_json(capsys, "--policies", REFERENCE, RECORDINGS)
    assert code == 0
    told = [
        (
            str(Path(line["file"]).relative_to(RECORDINGS)),
            line["allowed"],
            ",".join(each["name"] for each in line["policies"]),
        )
        for line in lines
    ]
    assert told == expected()
    assert patches(lines) == {
        "18-break-glass-annotation/118-sre-update-deployment.json": [stamp(BY), stamp(EXPIRES)],
        "19-break-glass-and-change/120-sre-update-configmap.json": [
            stamp(BY),
            stamp(EXPIRES),
            "/metadata/labels/" + LABEL.replace("/", "~1"),
            stamp(DRIFT),
        ],
    }


def test_a_json_line_has_all_that_the_decision_log_has_and_file_and_patch(capsys: pytest.CaptureFixture[str]) -> None:
    file = RECORDINGS / "18-break-glass-annotation/118-sre-update-deployment.json"
    code, (line,) = run_json(capsys, "--policies", REFERENCE, file)
    assert code == 0
    assert set(line) == {
        *("file", "time", "uid", "operation", "resource", "subresource", "namespace", "name", "user", "writer"),
        *(
            "managedBy",
            "allowed",
            "mode",
            "breakGlass",
            "dryRun",
            "policies",
            "message",
            "warnings",
            "seconds",
            "patch",
        ),
    }
    assert (line["file"], line["allowed"], line["mode"], line["policies"]) == (str(file), True, None, [])
    glass = line["breakGlass"]
    assert glass.pop("expires") is None  # nothing has stamped it yet
    assert glass == {
        "action": "set",
        "by": "sre",
        "reason": json.loads(file.read_bytes())["request"]["object"]["metadata"]["annotations"][
            "driftwall.io/break-glass"
        ],
        "on": 'deployments.apps "web" in namespace "shop"',
        "policies": [],
    }
    assert [operation["op"] for operation in line["patch"]] == ["add", "add"]
    assert line["patch"][0]["value"] == "sre"


def test_no_patch_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = run_json(capsys, "--policies", REFERENCE, RECORDINGS / "02-set-image")
    assert [line["patch"] for line in lines] == [[]] * 8


def test_text_tells_the_verdict_the_reason_and_the_patch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "p.yaml"
    mode = policies(policy)
    (tmp_path / "r.json").write_text(json.dumps(review()))
    shown = {
        each: run(capsys, "--policies", mode(each), tmp_path / "r.json")
        for each in ("enforce", "warn", "tag", "dryRun")
    }
    head = "alice (untrusted) UPDATE deployments.apps shop/web replicas"
    assert {code for code, _, _ in shown.values()} == {0}
    assert {err for _, _, err in shown.values()} == {""}
    assert {each: lines[0] for each, (_, lines, _) in shown.items()} == {
        "enforce": f"DENY   {head}",
        "warn": f"WARN   {head}",
        "tag": f"TAG    {head}",
        "dryRun": f"DRYRUN {head}",
    }
    assert shown["enforce"][1][1:] == [
        '       deployments.apps "web" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).',
        "       alice may not change:",
        "         spec.replicas: 2 -> 5",
        "       Policy replicas (enforce, medium)",
        "       Change it in Git and let Flux apply it.",
    ]
    (warning,) = shown["warn"][1][1:]
    assert warning == (
        '       driftwall: deployments.apps "web" in namespace "shop" is managed by Flux '
        "(Kustomization flux-system/shop); policy replicas warns of: spec.replicas"
    )
    assert shown["dryRun"][1][1:] == []
    (patch,) = shown["tag"][1][1:]
    assert patch.startswith(
        '       patch: [{"op": "add", "path": "/metadata/labels/driftwall.io~1drifted", "value": "true"}'
    )
    assert [operation["op"] for operation in json.loads(patch.removeprefix("       patch: "))] == ["add", "add", "add"]
    assert run(capsys, "--policies", mode("enforce"), tmp_path / "allowed.json")[0] == 66
    (tmp_path / "allowed.json").write_text(json.dumps(review(object=review()["request"]["oldObject"])))
    assert run(capsys, "--policies", mode("enforce"), tmp_path / "allowed.json")[1] == [
        "ALLOW  alice (untrusted) UPDATE deployments.apps shop/web"
    ]


def policies(file: Path) -> Any:
    """A policy about replicas in the mode that is asked for."""

    def write(mode: str) -> Path:
        file.write_text(
            "apiVersion: driftwall.io/v1alpha1\nkind: DriftPolicy\nmetadata: {name: replicas}\n"
            f"spec: {{mode: {mode}, protect: {{fields: [spec.replicas]}}}}\n"
        )
        return file

    return write


@pytest.fixture
def enforced(tmp_path: Path) -> Path:
    written: Path = policies(tmp_path / "p.yaml")("enforce")
    return written


def test_a_file_may_not_forge_a_line(enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = review(userInfo={"username": "ali\nce\x1b[2J"}, name="w\nDENY")
    (tmp_path / "r.json").write_text(json.dumps(odd))
    _, lines, _ = run(capsys, "--policies", enforced, tmp_path / "r.json")
    assert lines[0] == "DENY   ali\\nce\\x1b[2J (untrusted) UPDATE deployments.apps shop/w\\nDENY replicas"
    assert all(line.isprintable() for line in lines)


# ── look-ups ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def scale() -> dict[str, Any]:
    sides = ({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": number}} for number in (2, 5))
    old, new = sides
    kind = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    return review(uid="scale", kind=kind, subResource="scale", oldObject=old, object=new)


def test_a_parent_is_looked_up_among_the_reviews_before(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = tmp_path / "2-parent.json", tmp_path / "1-scale.json"
    parent.write_text(json.dumps(review(userInfo={"username": "system:apiserver"})))
    child.write_text(json.dumps(scale()))
    code, told = run_json(capsys, "--policies", enforced, parent, child)
    assert (code, [line["allowed"] for line in told]) == (0, [True, False])
    code, lines, err = run(capsys, "--policies", enforced, child, parent)
    assert (code, lines) == (
        65,
        [f"ERROR  {child}", "ALLOW  system:apiserver (system) UPDATE deployments.apps shop/web"],
    )
    assert err == (
        f'driftwall: {child}: the verdict depends on deployments.apps "web" in namespace "shop", '
        "which no review before has shown; give one that does first\n"
    )


def test_an_object_is_known_from_a_review_that_was_denied_or_could_not_be_decided(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denied, child = tmp_path / "denied.json", tmp_path / "scale.json"
    denied.write_text(json.dumps(review()))
    child.write_text(json.dumps(scale()))
    _, lines = run_json(capsys, "--policies", enforced, denied, child)
    assert [line["allowed"] for line in lines] == [False, False]


# ── what is given ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_stands_for_the_json_files_below_it_in_the_order_of_their_paths(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reviews"
    for name in ("b/1.json", "a/2.json", "a/10.json", "c.json", "a/note.txt", "a/deeper/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(review()))
    _, lines = run_json(capsys, "--policies", enforced, folder / "c.json", folder)
    assert [str(Path(line["file"]).relative_to(folder)) for line in lines] == [
        *("c.json", "a/10.json", "a/2.json", "a/deeper/x.json", "b/1.json", "c.json")
    ]


def test_a_dash_stands_for_the_standard_input(
    enforced: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(review()).encode())))
    code, (line,) = run_json(capsys, "--policies", enforced, "-")
    assert (code, line["file"], line["allowed"]) == (0, "-", False)


def test_a_denial_is_1_where_it_is_to_fail(enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "denied.json").write_text(json.dumps(review()))
    (tmp_path / "allowed.json").write_text(json.dumps(review(object=review()["request"]["oldObject"])))
    assert run(capsys, "--policies", enforced, tmp_path / "denied.json")[0] == 0
    assert run(capsys, "--policies", enforced, "--fail-on-deny", tmp_path / "denied.json")[0] == 1
    assert run(capsys, "--policies", enforced, "--fail-on-deny", tmp_path / "allowed.json")[0] == 0
    both = (tmp_path / "denied.json", tmp_path / "allowed.json")
    assert run(capsys, "--policies", enforced, "--fail-on-deny", *both)[0] == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"hello", "the body is not valid JSON: "),
        (b"", "the body is not valid JSON: "),
        (b"{}", "the body must be an AdmissionReview of admission.k8s.io/v1, but is: no apiVersion, no kind"),
        (json.dumps(review(object=[])).encode(), "request.object must be a JSON object, not an array"),
        (json.dumps(review(uid="")).encode(), "request.uid is empty"),
    ],
)
def test_a_broken_file_is_no_allow_and_the_others_are_decided(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes, why: str
) -> None:
    broken, good = tmp_path / "broken.json", tmp_path / "good.json"
    broken.write_bytes(body)
    good.write_text(json.dumps(review()))
    code, lines, err = run(capsys, "--policies", enforced, "-o", "json", "--fail-on-deny", broken, good)
    first, second = map(json.loads, lines)
    assert code == 65
    assert (first["file"], first["allowed"], set(first)) == (str(broken), False, {"file", "allowed", "error"})
    assert first["error"].startswith(why)
    assert err.startswith(f"driftwall: {broken}: {why}")
    assert second["allowed"] is False
    text = run(capsys, "--policies", enforced, broken)
    assert (text[0], text[1]) == (65, [f"ERROR  {broken}"])


def test_what_cannot_be_given_has_its_own_exit_codes(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "--policies", enforced, tmp_path / "missing.json")[0] == 66
    assert run(capsys, "--policies", enforced)[0] == 64
    assert run(capsys, tmp_path)[0] == 64
    (tmp_path / "bad.yaml").write_text("kind: Nonsense")
    assert run(capsys, "--policies", tmp_path / "bad.yaml", tmp_path)[0] == 78
