from __future__ import annotations

import json
from pathlib import Path

import pytest

from webhook.cli import main

GOOD = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: NAME}
spec: {protect: {declared: true}}
"""
BAD = GOOD.replace("spec: {", "spec: {mode: enforced, colour: red, ")
MODE = "spec.mode: 'enforced' is not one of dryRun, warn, tag, enforce"
COLOUR = (
    "spec.colour: unknown key; known here: mode, description, severity, controls, match, protect, trusted, "
    "automation, breakGlass, message"
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str, name: str = "a") -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("NAME", name))


def test_good_files_exit_with_0_and_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    write("policies/a.yaml", GOOD, "a")
    write("policies/sub/b.yml", f"{GOOD}---\n{GOOD.replace('NAME', 'c')}", "b")
    write("policies/sub/driftwall-test.yaml", "cases: []")
    write("policies/.hidden.yaml", "[")
    assert main(["lint", "policies"]) == 0
    assert capsys.readouterr() == ("", "3 documents, no errors\n")


def test_a_single_document_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", GOOD)
    assert main(["lint", "a.yaml"]) == 0
    assert capsys.readouterr() == ("", "1 document, no errors\n")


def test_every_error_of_every_file_is_a_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write("policies/a.yaml", BAD, "a")
    write("policies/b.yaml", "a: [\n")
    assert main(["lint", "policies"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"policies/a.yaml:4: {COLOUR}",
        f"policies/a.yaml:4: {MODE}",
        "policies/b.yaml:1: a value is missing here, or a bracket is not closed or closed twice",
    ]
    assert err == "3 errors in 2 files\n"


def test_a_single_error_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", "a: [\n")
    assert main(["lint", "a.yaml"]) == 1
    assert capsys.readouterr().err == "1 error in 1 file\n"


def test_what_only_the_whole_shows_is_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", GOOD.replace("declared: true", "fieldSets: [nothing]"), "a")
    write("b.yaml", GOOD.replace("declared: true", "fields: ['spec[']"), "b")
    write("c.yaml", GOOD, "c")
    write("d.yaml", GOOD, "c")
    config = "apiVersion: driftwall.io/v1alpha1\nkind: DriftwallConfig\nmetadata: {name: NAME}\nspec: {}\n"
    write("e.yaml", config)
    write("f.yaml", config)
    assert main(["lint", "."]) == 1
    out, err = capsys.readouterr()
    places = [":".join(line.split(":")[:3]) for line in out.splitlines()]
    assert places == [
        "a.yaml:4: spec.protect.fieldSets[0]",
        "b.yaml:4: spec.protect.fields[0]",
        "d.yaml:3: metadata.name",
        "f.yaml:2: kind",
    ]
    assert err == "4 errors in 4 files\n"


def test_json_is_one_array_of_objects(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", BAD)
    assert main(["lint", "-o", "json", "a.yaml"]) == 1
    out, err = capsys.readouterr()
    path, _, message = MODE.partition(": ")
    assert json.loads(out)[1] == {"file": "a.yaml", "line": 4, "path": path, "message": message}
    assert len(json.loads(out)) == 2
    assert err == "2 errors in 1 file\n"


def test_json_without_an_error_is_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", GOOD)
    assert main(["lint", "--output", "json", "a.yaml"]) == 0
    assert capsys.readouterr() == ("[]\n", "1 document, no errors\n")


def test_github_gets_its_workflow_commands_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    write("100%, a:b/x\ny.yaml", BAD.replace("enforced", "100%"))
    write("z.yaml", "[")
    assert main(["lint", "-o", "github", "."]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        (
            "::error file=100%25%2C a%3Ab/x%0Ay.yaml,line=4,title=driftwall::"
            "spec.mode: '100%25' is not one of dryRun, warn, tag, enforce"
        ),
        (
            "::error file=z.yaml,line=1,title=driftwall::"
            "a value is missing here, or a bracket is not closed or closed twice"
        ),
    ]


def test_a_path_where_nothing_is_exits_with_66(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yaml", BAD)
    assert main(["lint", "a.yaml", "gone", "gone-too"]) == 66
    assert capsys.readouterr() == (
        "",
        "driftwall: gone: no such file or folder\ndriftwall: gone-too: no such file or folder\n",
    )


def test_wrong_usage_exits_with_64(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint"]) == 64
    assert main(["lint", "-o", "xml", "a.yaml"]) == 64
    assert "driftwall lint: argument -o/--output: invalid choice: 'xml'" in capsys.readouterr().err


def test_help_says_what_is_read_and_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--help"]) == 0
    out = capsys.readouterr().out
    assert "no hidden ones and no driftwall-test.yaml" in out
    assert "exits with 1 if there is any" in out
