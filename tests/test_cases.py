"""``driftwall test``: cases of recorded reviews and of manifests, what can be wrong with them, and the results."""

from __future__ import annotations

import json
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from webhook import bundled
from webhook.cli import main

POLICY = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared}
spec: {mode: MODE, protect: {declared: true}}
"""
HEAD = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicyTest
metadata: {name: mine}
policies: [policy.yaml]
cases:
"""
MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}
spec:
  replicas: 2
  template:
    spec:
      containers:
        - {name: web, image: "web:1"}
        - {name: log, image: "log:1"}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(POLICY.replace("MODE", "enforce"))
    Path("web.yaml").write_text(MANIFEST)
    Path("web-2.yaml").write_text(MANIFEST.replace("web:1", "web:2"))


def write(*cases: str, head: str = HEAD) -> None:
    body = "".join(
        textwrap.indent(textwrap.dedent(case).strip(), "    ").replace("    ", "  - ", 1) + "\n" for case in cases
    )
    Path("driftwall-test.yaml").write_text(head + body)


def run_json(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    code = main(["test", "-o", "json", "."])
    shown = capsys.readouterr()
    assert shown.out, shown.err
    return code, json.loads(shown.out)


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["test", "."]) == 78
    return [line.removeprefix("driftwall: ") for line in capsys.readouterr().err.splitlines()]


IMAGE = """
    name: alice changes the image
    write: {user: alice, old: web.yaml, new: web-2.yaml}
    expect:
      allowed: false
      policies: [declared]
      fields: ["spec.template.spec.containers[name=web].image"]
"""


# ── writes made of manifests ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_without_managed_fields_is_what_its_tool_declared(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        IMAGE,
        """
        name: Flux changes the image
        write: {user: "system:serviceaccount:flux-system:kustomize-controller", old: web.yaml, new: web-2.yaml}
        expect: {allowed: true}
        """,
        """
        name: somebody as Flux changes the image
        write:
          user: {username: "system:serviceaccount:flux-system:kustomize-controller"}
          old: web.yaml
          new: web-2.yaml
        expect: {allowed: false, policies: [declared]}
        """,
        """
        name: alice deletes it
        write: {user: alice, old: web.yaml}
        expect: {allowed: false, mode: enforce, policies: [declared], fields: []}
        """,
        """
        name: alice creates it
        write: {user: alice, new: web.yaml}
        expect:
          allowed: false
          policies: [declared]
          fields:
            - metadata.labels['kustomize.toolkit.fluxcd.io/name']
            - metadata.labels['kustomize.toolkit.fluxcd.io/namespace']
        """,
    )
    code, results = run_json(capsys)
    assert [(result["case"], result["differences"]) for result in results if not result["passed"]] == []
    assert (code, len(results)) == (0, 5)


def test_what_is_declared_of_keyed_lists_and_sets_is_known_by_item(capsys: pytest.CaptureFixture[str]) -> None:
    more = MANIFEST.replace("        - {name: log", '        - {name: debug, image: "sh:1"}\n        - {name: log')
    Path("more.yaml").write_text(more.replace("  name: web\n", "  name: web\n  finalizers: [example.com/x]\n", 1))
    write(
        """
        name: alice adds a container and a finalizer, which Git declares nothing of
        write: {user: alice, old: web.yaml, new: more.yaml}
        expect: {allowed: true}
        """,
        """
        name: alice takes the container away that Git declares, and the finalizer
        write: {user: alice, old: more.yaml, new: web.yaml}
        expect:
          allowed: false
          policies: [declared]
          fields: [metadata.finalizers, "spec.template.spec.containers[name=debug]"]
        """,
    )
    code, results = run_json(capsys)
    assert [(result["case"], result["differences"]) for result in results if not result["passed"]] == []
    assert code == 0


def test_a_manifest_that_no_tool_marks_or_that_brings_managed_fields_is_taken_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("plain.yaml").write_text(MANIFEST.replace("kustomize.toolkit.fluxcd.io/name:", "team:"))
    Path("plain-2.yaml").write_text(MANIFEST.replace("kustomize.toolkit.fluxcd.io/name:", "team:").replace(":1", ":2"))
    owns = "{'f:spec': {'f:replicas': {}}}"
    entry = f"{{manager: kustomize-controller, operation: Apply, apiVersion: apps/v1, fieldsV1: {owns}}}"
    fields = f"  managedFields: [{entry}]\n"
    Path("owned.yaml").write_text(MANIFEST.replace("  name: web\n", f"  name: web\n{fields}", 1))
    write(
        """
        name: nobody manages it
        write: {user: alice, old: plain.yaml, new: plain-2.yaml}
        expect: {allowed: true}
        """,
        """
        name: of this one Git declares the replicas alone
        write: {user: alice, old: owned.yaml, new: web-2.yaml}
        expect: {allowed: true}
        """,
    )
    code, results = run_json(capsys)
    assert [(result["case"], result["differences"]) for result in results if not result["passed"]] == []
    assert code == 0


def test_a_subresource_belongs_to_an_object_and_finds_it_among_the_objects(capsys: pytest.CaptureFixture[str]) -> None:
    pod = """
        apiVersion: v1
        kind: Pod
        metadata:
          name: web-1
          namespace: shop
          labels: {kustomize.toolkit.fluxcd.io/name: a, kustomize.toolkit.fluxcd.io/namespace: b}
    """
    Path("pod.yaml").write_text(textwrap.dedent(pod))
    scale = "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: web, namespace: shop}, spec: {replicas: %d}}"
    write(
        f"""
        name: alice scales it
        write:
          user: alice
          subresource: scale
          of: web.yaml
          old: {scale % 2}
          new: {scale % 5}
        expect: {{allowed: false, policies: [declared], fields: [spec.replicas]}}
        """,
        """
        name: alice evicts the pod
        write: {user: alice, subresource: eviction, of: pod.yaml}
        expect: {allowed: false, policies: [declared], fields: []}
        """,
        """
        name: alice looks into the pod
        write: {user: alice, subresource: exec, operation: CONNECT, of: pod.yaml}
        expect: {allowed: true}
        """,
    )
    code, results = run_json(capsys)
    assert [
        (result["case"], result["error"], result["differences"]) for result in results if not result["passed"]
    ] == []
    assert code == 0


def test_a_parent_that_is_not_given_is_an_error_of_the_case(capsys: pytest.CaptureFixture[str]) -> None:
    scale = "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: web, namespace: shop}, spec: {replicas: %d}}"
    write(
        f"""
        name: alice scales it
        write: {{user: alice, subresource: scale, resource: deployments, old: {scale % 2}, new: {scale % 5}}}
        expect: {{allowed: true}}
        """
    )
    code, (result,) = run_json(capsys)
    assert code == 1
    assert result["passed"] is False
    assert result["error"].startswith("the verdict depends on deployments.autoscaling")


def test_the_time_of_a_case_tells_whether_a_glass_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    config = "---\napiVersion: driftwall.io/v1alpha1\nkind: DriftwallConfig\nmetadata: {name: default}\n"
    Path("policy.yaml").write_text(POLICY.replace("MODE", "enforce") + config + "spec: {breakGlass: {groups: [sre]}}\n")
    glass = (
        "  annotations:\n    driftwall.io/break-glass: INC-1\n    driftwall.io/break-glass-by: sre\n"
        "    driftwall.io/break-glass-expires: '2026-01-01T12:00:00Z'\n"
    )
    for name in ("web.yaml", "web-2.yaml"):
        Path(name).write_text(Path(name).read_text().replace("spec:\n", f"{glass}spec:\n", 1))
    template = """
        name: NAME
        now: '2026-01-01TTIMEZ'
        write: {user: alice, old: web.yaml, new: web-2.yaml}
        expect: EXPECT
        """
    write(
        template.replace("NAME", "before").replace("TIME", "11:59:59").replace("EXPECT", "{allowed: true}"),
        template.replace("NAME", "after")
        .replace("TIME", "12:00:00")
        .replace("EXPECT", "{allowed: false, policies: [declared]}"),
    )
    code, results = run_json(capsys)
    assert [(result["case"], result["differences"]) for result in results if not result["passed"]] == []
    assert code == 0


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WRONG = """
    name: "alice\\tis <let> through"
    write: {user: alice, old: web.yaml, new: web-2.yaml}
    expect: {allowed: true, mode: warn, policies: [other], fields: [spec.replicas]}
"""


def test_a_failed_case_exits_with_1_and_shows_what_is_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    write(IMAGE, WRONG)
    assert main(["test", "."]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "driftwall-test.yaml: mine",
        "  ID  CASE                     VERDICT  RESULT",
        "   1  alice changes the image  deny     pass",
        "   2  alice\\tis <let> through  deny     fail",
        "       at line 12",
        "       allowed:",
        "         - true",
        "         + false",
        "       policies:",
        "         - other",
        "         + declared",
        "       mode:",
        "         - warn",
        "         + enforce",
        "       fields:",
        "         - spec.replicas",
        "         + spec.template.spec.containers[name=web].image",
        "",
        "Test Summary: 1 case passed and 1 case failed",
    ]


def test_fail_only_leaves_out_what_passed(capsys: pytest.CaptureFixture[str]) -> None:
    write(IMAGE, WRONG)
    assert main(["test", "--fail-only", "."]) == 1
    out = capsys.readouterr().out
    assert "alice changes the image" not in out
    assert out.endswith("Test Summary: 1 case passed and 1 case failed\n")


def test_junit_has_a_suite_for_each_file_and_a_failure_for_each_failed_case(capsys: pytest.CaptureFixture[str]) -> None:
    write(IMAGE, WRONG)
    assert main(["test", "-o", "junit", "."]) == 1
    out, err = capsys.readouterr()
    assert err == "Test Summary: 1 case passed and 1 case failed\n"
    root = ET.fromstring(out)  # noqa: S314 - it is our own
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "2", "1", "0")
    (suite,) = root
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("mine", "2", "1")
    passed, failed = suite
    assert (passed.get("name"), passed.get("classname"), passed.get("file"), passed.get("line"), len(passed)) == (
        *("alice changes the image", "mine", "driftwall-test.yaml", "6"),
        0,
    )
    assert failed.get("name") == "alice\tis <let> through"
    assert failed[0].tag == "failure"
    assert str(failed[0].get("message")).startswith("allowed: expected true, got false; policies: expected other, got")
    assert "+ spec.template.spec.containers[name=web].image" in str(failed[0].text)


def test_a_mode_that_lets_through_is_told_by_the_policies(capsys: pytest.CaptureFixture[str]) -> None:
    Path("policy.yaml").write_text(POLICY.replace("MODE", "warn"))
    write(IMAGE.replace("allowed: false", "allowed: true\n      mode: warn"))
    code, (result,) = run_json(capsys)
    assert (code, result["passed"], result["mode"], result["policies"]) == (0, True, "warn", ["declared"])


def test_the_policies_that_come_with_driftwall_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(bundled.policies())]) == 0
    assert capsys.readouterr().out.endswith(" passed and 0 cases failed\n")


# ── what is wrong with a file of cases ───────────────────────────────────────────────────────────────────────────────


def test_every_error_of_every_file_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more").mkdir()
    Path("more/driftwall-test.yaml").write_text("kind: DriftPolicy\n")
    Path("broken.json").write_text("{}")
    write(
        "name: a\nreview: nowhere.json\nexpect: {allowed: true}",
        "name: a\nreview: broken.json\nexpect: {allowed: true}",
        "name: c\nwrite: {user: alice, old: nothing.yaml, new: web.yaml}\nexpect: {allowed: true}",
        "name: d\nreview: broken.json\nwrite: {user: alice, old: web.yaml}\nexpect: {allowed: true}",
        "name: e\nwrite: {user: alice, operation: UPDATE, new: web.yaml}\nexpect: {allowed: true}",
        """
        name: f
        write:
          user: alice
          old: web.yaml
          new: {apiVersion: v1, kind: Pod, metadata: {name: x}}
        expect: {allowed: true}
        """,
        "name: g\nwrite: {user: alice, old: {kind: Pod, metadata: {}}}\nexpect: {allowed: true}",
        head=HEAD.replace("[policy.yaml]", "[policy.yaml, missing.yaml]"),
    )
    assert errors(capsys) == [
        "driftwall-test.yaml:4: policies[1]: no file or folder is at missing.yaml",
        "driftwall-test.yaml:7: cases[0].review: nowhere.json cannot be read: No such file or directory",
        "driftwall-test.yaml:9: cases[1].name: a second case of this name; results could not be told apart",
        (
            "driftwall-test.yaml:10: cases[1].review: broken.json: the body must be an AdmissionReview of "
            "admission.k8s.io/v1, but is: no apiVersion, no kind"
        ),
        "driftwall-test.yaml:13: cases[2].write.old: nothing.yaml cannot be read: No such file or directory",
        "driftwall-test.yaml:17: cases[3].write: beside a review; give one of them",
        "driftwall-test.yaml:20: cases[4].write: UPDATE needs old and new; old is missing",
        (
            "driftwall-test.yaml:23: cases[5].write: old and new are not the same object: apiVersion, kind, namespace "
            "and name must be"
        ),
        "driftwall-test.yaml:29: cases[6].write.old.apiVersion: an object needs it, as a string",
        (
            "more/driftwall-test.yaml:1: kind: expected DriftPolicyTest of apiVersion driftwall.io/v1alpha1, got "
            "'DriftPolicy'; did you mean 'DriftPolicyTest'?"
        ),
    ]


def test_the_format_of_a_file_of_cases_is_checked_key_by_key(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "nmae: a\nexpect: {allow: true, mode: forbid}",
        "name: b\nnow: tomorrow\nwrite: {old: web.yaml, user: 1}\nexpect: {allowed: 'yes'}",
        "name: c\nwrite: {user: {uid: x}}\nexpect: {allowed: true}",
        head=HEAD.replace("metadata: {name: mine}", "metadata: {}\ncolour: red"),
    )
    assert errors(capsys) == [
        "driftwall-test.yaml:3: metadata.name: required key is missing",
        "driftwall-test.yaml:4: colour: unknown key; known here: apiVersion, kind, metadata, policies, cases",
        "driftwall-test.yaml:7: cases[0]: writes nothing: give review or write",
        "driftwall-test.yaml:7: cases[0].nmae: unknown key; did you mean 'name'?",
        "driftwall-test.yaml:8: cases[0].expect.allow: unknown key; did you mean 'allowed'?",
        "driftwall-test.yaml:8: cases[0].expect.mode: 'forbid' is not one of enforce, warn, tag, dryRun",
        "driftwall-test.yaml:10: cases[1].now: 'tomorrow' is no time such as 2006-01-02T15:04:05Z",
        "driftwall-test.yaml:11: cases[1].write.user: expected a string or a mapping, got an integer; quote it",
        "driftwall-test.yaml:12: cases[1].expect.allowed: expected a boolean, got a string; write true without quotes",
        "driftwall-test.yaml:14: cases[2].write: writes no object: give old, new or of",
        "driftwall-test.yaml:14: cases[2].write.user.username: required key is missing",
    ]


def test_a_policy_with_an_error_is_told_with_its_own_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("policy.yaml").write_text(POLICY)
    write(IMAGE)
    assert errors(capsys) == ["policy.yaml:4: spec.mode: 'MODE' is not one of dryRun, warn, tag, enforce"]


def test_a_folder_without_cases_and_a_path_with_nothing_have_exit_codes_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["test", "."]) == 66
    assert capsys.readouterr().err == "driftwall: .: no driftwall-test.yaml is here\n"
    assert main(["test", "nowhere"]) == 66
    assert main(["test"]) == 64
