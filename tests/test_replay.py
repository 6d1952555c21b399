"""``driftwall replay``: what it reads, counts, suggests and prints."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.audited import DEPLOYMENT, IMAGE, SPEC, applied, changed, denied, event, line
from tests.reviews import ALICE, NOW, RECORDINGS, Json, person, service_account, snapshot_of
from webhook import audit
from webhook.admission import parse
from webhook.cli import main
from webhook.offline import RecordedObjects, decide_offline
from webhook.replay_report import Timeline
from webhook.suggestions import automation, can_be_allowed, general

REFERENCE = str(RECORDINGS / "reference-policies.yaml")
POLICY = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared-fields}
spec: {mode: MODE, protect: {declared: true}}
"""
SCALER = service_account("tools", "scaler")
SCALED = changed(DEPLOYMENT, SPEC, 5, version="11")
BACK = changed(DEPLOYMENT, SPEC, 2, version="12")
UPGRADED = changed(changed(DEPLOYMENT, SPEC, 2), IMAGE, "web:2", version="13")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, "-o", "json", *arguments)
    assert (code, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.fixture
def enforced(tmp_path: Path) -> Path:
    return policy(tmp_path, "enforce")


def policy(folder: Path, mode: str, name: str = "policy.yaml", **protect: Any) -> Path:
    file = folder / name
    more = "".join(f", {key}: {json.dumps(value)}" for key, value in protect.items())
    file.write_text(POLICY.replace("MODE", mode).replace("declared: true", f"declared: true{more}"))
    return file


def log(folder: Path, *events: Json, name: str = "audit.log") -> Path:
    file = folder / name
    file.write_bytes(b"".join(map(line, events)))
    return file


# ── recorded reviews ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_recorded_reviews_get_the_verdicts_that_review_gives_them(capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "--policies", REFERENCE, RECORDINGS)
    assert main(["review", "-o", "json", "--policies", REFERENCE, str(RECORDINGS)]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    refused = [told for told in lines if not told["allowed"]]
    counts = ("lines", "reviewed", "allowed", "denied", "warned", "tagged", "dryRun")
    assert [report[name] for name in counts] == [
        len(lines),
        len(lines),
        len(lines) - len(refused),
        len(refused),
        0,
        0,
        0,
    ]
    assert report["unknown"] == {}
    for name in ("declared-fields", "opened-ports", "(guardIdentities)"):
        number = sum(name in (each["name"] for each in told["policies"]) for told in refused)
        assert report["byPolicy"][name] == {"denied": number, "warned": 0, "tagged": 0, "dryRun": 0}
    assert {user: row["denied"] for user, row in report["byUser"].items()} == {
        user: sum(told["user"] == user for told in refused) for user in {told["user"] for told in refused}
    }
    assert sum(report["byWriter"].values()) == len(lines)


def test_a_broken_glass_is_as_old_as_the_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "---\napiVersion: driftwall.io/v1alpha1\nkind: DriftwallConfig\nmetadata: {name: default}\n"
    rules = tmp_path / "p.yaml"
    rules.write_text(POLICY.replace("MODE", "enforce") + config + "spec: {breakGlass: {groups: [sre]}}\n")
    glass = {
        "driftwall.io/break-glass": "INC-1",
        "driftwall.io/break-glass-by": "sre",
        "driftwall.io/break-glass-expires": "2020-01-01T12:00:00Z",
    }
    old = changed(DEPLOYMENT, ("metadata", "annotations"), glass)
    new = changed(old, SPEC, 5, version="11")
    new["metadata"]["managedFields"].append({"manager": "kubectl", "time": "2020-01-01T11:00:00Z"})
    old["metadata"]["managedFields"][0]["time"] = new["metadata"]["managedFields"][0]["time"] = "2020-01-01T10:00:00Z"
    (tmp_path / "r.json").write_text(json.dumps(review(old, new)))
    report = run_json(capsys, "--policies", rules, tmp_path / "r.json")
    assert (report["allowed"], report["breakGlass"], report["from"]) == (1, 1, "2020-01-01T11:00:00Z")


def review(old: Json, new: Json) -> Json:
    request = {
        "uid": "1",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "name": "web",
        "namespace": "shop",
        "operation": "UPDATE",
        "userInfo": ALICE,
        "oldObject": old,
        "object": new,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sources_of_all_kinds_are_one_stream_in_their_order(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "audit-1.log.gz").write_bytes(gzip.compress(line(applied())))
    log(folder, event("update", SCALED), name="audit-2.log")
    (folder / "review.json").write_text(json.dumps(review(SCALED, UPGRADED), indent=2))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line(event("update", UPGRADED)))))
    report = run_json(capsys, "--policies", enforced, folder, "-")
    assert (report["lines"], report["reviewed"], report["denied"]) == (4, 4, 2)
    # What the review brought was the newest state, so the last write changed nothing.
    assert report["byField"] == {
        "spec.replicas": {"denied": 2, "warned": 0, "tagged": 0, "dryRun": 0},
        "spec.template.spec.containers[*].image": {"denied": 1, "warned": 0, "tagged": 0, "dryRun": 0},
    }


def test_what_cannot_be_read_is_told_by_its_place_and_the_rest_is_counted(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(
        line(applied()) + b'{"kind":"Event",\n{"kind":"Pod"}\n[1]\n' + line(event("update", SCALED)) + b'{"ki'
    )
    code, out, err = run(capsys, "-o", "json", "--policies", enforced, file)
    report = json.loads(out)
    assert (code, report["reviewed"], report["denied"], report["unreadable"]["lines"]) == (65, 2, 1, 3)
    no_event = "no audit event, AdmissionReview or line of the decision log"
    assert err.splitlines() == [
        f"driftwall: {file}:6: the last line is cut off; it may still be being written",
        f"driftwall: {file}:2: not valid JSON: Input data was truncated",
        f"driftwall: {file}:3: no audit event, AdmissionReview, line of the decision log or object",
        f"driftwall: {file}:4: {no_event}: Expected `object`, got `array`",
    ]


def test_a_log_that_is_still_being_written_is_no_error(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(line(applied()) + line(event("update", SCALED))[:100])
    code, _, err = run(capsys, "--policies", enforced, file)
    assert (code, err) == (0, f"driftwall: {file}:2: the last line is cut off; it may still be being written\n")


def test_exit_codes(enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allowed, refused = log(tmp_path, applied(), name="a.log"), log(tmp_path, applied(), event("update", SCALED))
    assert run(capsys, "--policies", enforced, refused)[0] == 0
    assert run(capsys, "--policies", enforced, "--fail-on-deny", refused)[0] == 1
    assert run(capsys, "--policies", enforced, "--fail-on-deny", allowed)[0] == 0
    assert run(capsys, "--policies", enforced, tmp_path / "nowhere")[0] == 66
    assert run(capsys, "--policies", enforced)[0] == 64
    assert run(capsys, "--policies", enforced, "--memory", "much", allowed)[0] == 64
    assert run(capsys, allowed)[0] == 64
    (tmp_path / "bad.yaml").write_text("kind: Nonsense")
    assert run(capsys, "--policies", enforced, "--compare", tmp_path / "bad.yaml", allowed)[0] == 78


# ── the decision log ─────────────────────────────────────────────────────────────────────────────────────────────────


def logged(folder: Path, mode: str) -> Path:
    """The decision log of a webhook with the policy in this mode."""
    snapshot = snapshot_of(POLICY.replace("MODE", mode))
    lines = []
    for old, new in ((DEPLOYMENT, SCALED), (SCALED, SCALED)):
        asked = parse(json.dumps(review(old, new)).encode())
        decision = decide_offline(asked, snapshot, RecordedObjects(), NOW)
        lines.append(json.dumps(audit.record(asked, decision, time=NOW, seconds=0.001)))
    lines.append('{"time":"2026-11-22T07:00:00Z","level":"info","message":"ready"}')
    file = folder / f"decisions-{mode}.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_decision_log_tells_what_was_violated_and_the_policies_what_that_comes_to_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logged(tmp_path, "dryRun")
    for mode, verdict in (("dryRun", "dryRun"), ("tag", "tagged"), ("warn", "warned"), ("enforce", "denied")):
        report = run_json(capsys, "--policies", policy(tmp_path, mode), file)
        assert (report["reviewed"], report["allowed"], report[verdict]) == (2, 1, 1)
        assert report["byUser"]["alice"][verdict] == 1
        assert report["byObject"] == {"deployments.apps shop/web": report["byUser"]["alice"]}
        assert report["byApplication"] == {"Flux (Kustomization flux-system/shop)": report["byUser"]["alice"]}
        assert (report["knownBy"]["asLogged"], report["skipped"]) == (2, {"otherLines": 1})
    text = run(capsys, "--policies", policy(tmp_path, "enforce"), file)[1]
    assert "2 from the decision log, which holds no objects" in text
    assert "broke glass" not in text
    gone = policy(tmp_path, "enforce", "other.yaml")
    gone.write_text(gone.read_text().replace("declared-fields", "other"))
    assert run_json(capsys, "--policies", gone, file)["allowed"] == 2


def test_a_line_of_the_review_command_is_one_of_the_decision_log_and_one_without_a_verdict_is_unknown(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.jsonl"
    told = json.loads(logged(tmp_path, "enforce").read_text().splitlines()[0])
    lines = [{"file": "x", **told, "patch": []}, {"file": "y", "allowed": False, "error": "no"}]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    report = run_json(capsys, "--policies", enforced, file)
    assert (report["denied"], report["unknown"]) == (1, {"the line tells of no decision": 1})


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_entry_for_an_automation_is_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enforced = policy(tmp_path, "enforce")
    by: Json = {"user": SCALER}
    events = [applied(), event("update", SCALED, **by), event("update", BACK, **by), event("update", UPGRADED, **by)]
    report = run_json(capsys, "--policies", enforced, log(tmp_path, *events, event("patch", SCALED, user=ALICE)))
    (suggestion,) = report["automation"]
    assert (suggestion["user"], suggestion["writes"]) == ("system:serviceaccount:tools:scaler", 3)
    assert (suggestion["notCovered"], suggestion["impersonated"]) == ([], False)
    entry = suggestion["entry"]
    assert entry.splitlines() == [
        "automation:",
        "- name: scaler",
        "  serviceAccounts:",
        "  - tools/scaler",
        "  fields:",
        "  - spec.replicas",
        "  - spec.template.spec.containers[name=web].image",
    ]
    config = "---\napiVersion: driftwall.io/v1alpha1\nkind: DriftwallConfig\nmetadata: {name: default}\nspec:\n"
    enforced.write_text(enforced.read_text() + config + "".join(f"  {text}\n" for text in entry.splitlines()))
    report = run_json(capsys, "--policies", enforced, log(tmp_path, *events))
    assert (report["denied"], report["automation"], report["byWriter"]["automation:scaler"]) == (0, [], 3)


def test_who_deletes_or_is_impersonated_gets_no_entry_that_would_not_help(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    borrowed = {key: value for key, value in SCALER.items() if key != "uid"}
    other = service_account("tools", "cleaner")
    events = [
        applied(),
        event("update", SCALED, user=person("admin"), impersonatedUser=borrowed),
        event("delete", gone, obj=DEPLOYMENT, user=other),
    ]
    report = run_json(capsys, "--policies", enforced, log(tmp_path, *events))
    assert report["automation"] == [
        {"user": other["username"], "writes": 1, "entry": "", "notCovered": ["(deletion)"], "impersonated": False},
        {"user": SCALER["username"], "writes": 1, "entry": "", "notCovered": [], "impersonated": True},
    ]
    text = run(capsys, "--policies", enforced, log(tmp_path, *events))[1]
    assert "  # (deletion) is nothing to give to an automation; whoever may do that is named under trusted." in text
    assert "  # It never wrote with a token of its own: somebody impersonates it." in text


def test_many_items_of_a_list_become_one_path_and_few_stay_as_they_are() -> None:
    few = automation("system:serviceaccount:a:b", [f"spec.x[name={name}].y" for name in "ab"])
    assert few.splitlines()[-2:] == ["  - spec.x[name=a].y", "  - spec.x[name=b].y"]
    many = automation(
        "system:x", [f"spec.x[name={name}].y" for name in "abcd"] + ["spec.l[3]", "metadata.managedFields"]
    )
    assert many.splitlines()[1:] == [
        "- name: system:x",
        "  users:",
        "  - system:x",
        "  fields:",
        "  - spec.l[*]",
        "  - spec.x[*].y",
    ]
    marker = "metadata.labels['kustomize.toolkit.fluxcd.io/name']"
    assert automation("system:x", ["metadata.managedFields", "metadata.labels", marker, "(deletion)"]) == ""
    assert general("data['a.b[c]'].x[name='y]z'].k[=3][0]") == "data['a.b[c]'].x[*].k[*][*]"
    assert can_be_allowed("spec.replicas")
    for path in ("metadata.ownerReferences[uid=1]", "metadata.labels['kustomize.toolkit.fluxcd.io/name']", "spec.lon…"):
        assert not can_be_allowed(path)


def test_an_ignore_rule_silences_as_much_as_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = changed(SCALED, IMAGE, "web:3", version="14")
    stripped = changed(both, ("metadata", "labels"), {}, version="15")
    file = log(
        tmp_path,
        applied(),
        *(event("update", obj) for obj in (SCALED, BACK, UPGRADED, both)),
        event("update", stripped),
    )
    report = run_json(capsys, "--policies", policy(tmp_path, "enforce"), file)
    assert report["denied"] == 5
    assert report["ignore"] == [
        {"policy": "declared-fields", "path": "spec.replicas", "silences": 2, "of": 5},
        {"policy": "declared-fields", "path": "spec.template.spec.containers[*].image", "silences": 1, "of": 5},
    ]
    for path, silenced in ((each["path"], each["silences"]) for each in report["ignore"]):
        rules = policy(tmp_path, "enforce", "ignoring.yaml", ignore=[path])
        assert run_json(capsys, "--policies", rules, file)["denied"] == 5 - silenced


def test_two_sets_of_policies_are_compared_write_by_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = policy(tmp_path, "warn", "now.yaml")
    then = policy(tmp_path, "enforce", "then.yaml", ignore=["spec.replicas"])
    file = log(tmp_path, applied(), *(event("update", obj) for obj in (SCALED, BACK, UPGRADED)))
    report = run_json(capsys, "--policies", now, "--compare", then, file)
    assert (report["warned"], report["denied"]) == (3, 0)
    assert report["compare"] == {
        "allowed": 3,
        "denied": 1,
        "warned": 0,
        "tagged": 0,
        "dryRun": 0,
        "changed": 3,
        "changes": [
            {
                "from": "warned",
                "to": "allowed",
                "writes": 2,
                "what": {"alice  deployments.apps shop/web  declared-fields: spec.replicas": 2},
            },
            {
                "from": "warned",
                "to": "denied",
                "writes": 1,
                "what": {
                    "alice  deployments.apps shop/web  declared-fields: spec.template.spec.containers[*].image": 1
                },
            },
        ],
    }
    out = run(capsys, "--policies", now, "--compare", then, file)[1]
    assert "Under the other policies: 3 writes would be told otherwise" in out
    assert "  warned -> denied: 1" in out
    same = run_json(capsys, "--policies", now, "--compare", now, file)
    assert (same["compare"]["changed"], same["compare"]["changes"]) == (0, [])


def test_the_time_that_a_log_covers_is_cut_into_as_many_pieces_however_long_it_is() -> None:
    timeline = Timeline()
    for day in range(400):
        timeline.add(NOW.fromtimestamp(NOW.timestamp() + day * 86400, NOW.tzinfo), "denied")
    rows = list(timeline.rows())
    assert 60 <= len(rows) <= 120
    assert sum(counts["denied"] for _, counts in rows) == 400
    assert timeline.seconds == 2**19


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_tells_how_many_who_what_and_what_to_do(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = log(
        tmp_path,
        applied(),
        event("update", SCALED),
        event("get", None, obj=DEPLOYMENT),
        event("patch", None, obj=DEPLOYMENT),
    )
    _, out, err = run(capsys, "--policies", enforced, file)
    assert err == ""
    assert out.splitlines() == [
        "3 writes in 4 lines",
        "from 2026-11-22 06:30:00 to 2026-11-22 06:30:00 UTC",
        "  1 line passed over: reads",
        "",
        "  denied             1   50.0%",
        "  warned             0    0.0%",
        "  tagged             0    0.0%",
        "  dry run            0    0.0%",
        "  allowed            1   50.0%",
        "",
        "Cannot be known: 1",
        "  WRITES  WHY",
        "       1  the answer in the log is not the object",
        "",
        "Policies",
        "  POLICY           MODE     SEVERITY  DENIED",
        "  declared-fields  enforce  medium         1",
        "",
        "Who",
        "  USER   DENIED  MOST OFTEN",
        "  alice       1  spec.replicas",
        "",
        "Objects",
        "  OBJECT                     DENIED",
        "  deployments.apps shop/web       1",
        "",
        "Fields",
        "  FIELD          DENIED",
        "  spec.replicas       1",
        "",
        "Managed by",
        "  TOOL AND APPLICATION                   DENIED",
        "  Flux (Kustomization flux-system/shop)       1",
        "",
        "Under protect.ignore, this would silence",
        "  POLICY           PATH           WRITES",
        "  declared-fields  spec.replicas       1  of 1",
    ]


def test_what_was_denied_then_is_told_apart(enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = log(tmp_path, applied(), denied("patch", DEPLOYMENT, {"spec": {"replicas": 5}}), denied("patch", DEPLOYMENT))
    out = run(capsys, "--policies", enforced, file)[1]
    assert "  1 judged by what was sent: driftwall denied them then" in out
    assert "  1 denied by driftwall then, and what was sent does not tell why" in out
    assert "(not known)" in out


# ── HTML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Page(HTMLParser):
    """Collects elements, attributes and text, and asserts that what is opened is closed."""

    VOID = ("meta", "line", "rect", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_it_needs_and_nothing_that_somebody_wrote_runs(
    enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = person("<script>alert(1)</script>\"'><img src=x onerror=y>\x1b[2J")
    named = changed(SCALED, ("metadata", "labels", "x"), "</style><b>")
    events = [
        applied(),
        event("update", named, user=evil),
        event("update", BACK, user=SCALER),
        event("patch", None, obj=DEPLOYMENT),
    ]
    code, out, err = run(
        capsys,
        "--policies",
        enforced,
        "--compare",
        policy(tmp_path, "warn", "o.yaml"),
        "-o",
        "html",
        log(tmp_path, *events),
    )
    assert (code, err) == (0, "")
    page = Page(out)
    assert {"script", "img", "b", "link", "iframe"} & {tag for tag in page.tags if tag != "b"} == set()
    assert page.tags.count("b") == out.count('<div class="card') + 1
    assert "<script>alert(1)</script>\"'><img src=x onerror=y>\\x1b[2J" in page.text
    assert "http" not in re.sub(r"http-equiv", "", out)
    assert "default-src 'none'" in " ".join(page.values)
    assert "@media (prefers-color-scheme: dark)" in out
    assert page.tags.count("svg") == 3
    for said in (
        "2denied",
        "1cannot be known",
        "tools/scaler",
        "spec.replicas",
        "denied → warned: 2",
        "may not change",
    ):
        assert said in page.text, said


def test_a_page_about_nothing_is_a_page(enforced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--policies", enforced, "-o", "html", log(tmp_path))
    assert code == 0
    assert "svg" not in Page(out).tags
