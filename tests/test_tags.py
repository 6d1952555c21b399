from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admitting import BY, DRIFT, EXPIRES, LABEL, REASON, SAM, Admitted, admit
from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, Json, person, review, snapshot_of
from webhook import tags
from webhook.messages import MAX_MESSAGE

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  breakGlass: {groups: [sre]}
"""


def policy(fields: str, name: str = "p", mode: str = "tag") -> str:
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: {mode}, protect: {{fields: [{fields}]}}}}
"""


TAGGED = snapshot_of(CONFIG + policy("data.*"))
BOB = person("bob")


def settings(data: Json, labels: Json | None = None, annotations: Json | None = None, kind: str = "ConfigMap") -> Json:
    metadata: Json = {"name": "web", "namespace": "shop", "labels": {**FLUX_LABELS, **(labels or {})}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}


OLD = settings({"level": "info", "mode": "a"})
NEW = settings({"level": "debug", "mode": "a"})
AT = "2026-11-22T07:00:00Z"


def mark(by: str = "alice", at: str = AT, **more: Any) -> str:
    drift = {"by": by, "at": at, "policy": "p", "fields": ["data.level"], "reason": ""} | more
    return json.dumps(drift, separators=(",", ":"))


def marked(data: Json, content: str = mark(), label: str = "true") -> Json:
    return settings(data, {LABEL: label}, {DRIFT: content})


DEBUG = {"level": "debug", "mode": "a"}
TRACE = {"level": "trace", "mode": "a"}


def write(old: Json | None, new: Json, user: Json = ALICE, *there: Json, **how: Any) -> Admitted:
    outer = {key: how.pop(key) for key in ("now", "mutating") if key in how}
    policies = how.pop("policies", TAGGED)
    return admit(review(old, new, user=user, **how), policies, *there, **outer)


def test_a_write_that_mode_tag_lets_through_leaves_a_label_and_what_happened() -> None:
    written = write(OLD, NEW)
    decision = written.decision
    assert (decision.allowed, decision.mode, decision.warnings, decision.message) == (True, "tag", (), "")
    assert [(each.name, each.verdict) for each in decision.violations] == [("p", "tag")]
    assert decision.audit_annotations == {"verdict": "tag", "policies": "p"}
    assert written.labels == {**FLUX_LABELS, LABEL: "true"}
    assert written.annotations == {DRIFT: mark()}


def test_what_violates_nothing_is_not_marked() -> None:
    assert write(OLD, settings(OLD["data"], annotations={"note": "x"})).patch == ()


def test_a_creation_is_marked_too() -> None:
    policies = snapshot_of(CONFIG + policy("data.*").replace("{fields: [data.*]}", "{declared: true}"))
    forged = write(None, NEW, policies=policies)
    assert forged.labels[LABEL] == "true"
    assert json.loads(forged.annotations[DRIFT])["fields"] == [
        f"metadata.labels['kustomize.toolkit.fluxcd.io/{key}']" for key in ("name", "namespace")
    ]


def test_the_mark_tells_of_the_last_write() -> None:
    again = write(marked(DEBUG), marked(TRACE), BOB, now=NOW + timedelta(hours=1))
    assert again.annotations == {DRIFT: mark("bob", "2026-11-22T08:00:00Z")}
    assert again.labels[LABEL] == "true"


@pytest.mark.parametrize("mode", ["tag", "enforce"])
def test_what_has_drifted_stays_gits_though_its_writer_owns_it_now(mode: str) -> None:
    policies = snapshot_of(CONFIG + policy("data.*", mode=mode).replace("{fields: [data.*]}", "{declared: true}"))
    fields: Json = {"kustomize-controller": {"f:mode": {}}, "kubectl-edit": {"f:level": {}, "f:own": {}}}
    entries = [
        {"manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": owned}}
        for manager, owned in fields.items()
    ]

    def owned(data: Json, content: str = mark()) -> Json:
        obj = marked(data, content)
        obj["metadata"]["managedFields"] = entries
        return obj

    data = {**DEBUG, "own": "1"}
    again = write(owned(data), owned({**data, "level": "trace"}), BOB, policies=policies)
    assert again.decision.allowed is (mode == "tag")
    assert [change.path for each in again.decision.violations for change in each.fields] == ["data.level"]
    assert write(owned(data), owned({**data, "own": "2"}), BOB, policies=policies).decision.violations == ()
    both = write(owned(data), owned({**data, "mode": "b"}), BOB, policies=policies)
    if mode == "tag":
        assert json.loads(both.annotations[DRIFT])["fields"] == ["data.level", "data.mode"]


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("data['a.b']", ("data", "a.b")),
        ("data['it\\'s \\\\']", ("data", "it's \\")),
        ("data['a\\nb']", ("data",)),
        ("data['k" + "k" * 200 + "…", ("data",)),
        ("metadata.finalizers[=x]", ("metadata", "finalizers")),
        ("spec.a[3].b", ("spec", "a")),
        ("… and 3 more", ()),
    ],
)
def test_of_a_place_that_the_mark_does_not_tell_exactly_what_is_around_it_is_meant(
    told: str, meant: tuple[str, ...]
) -> None:
    position = tags.drifted(marked(DEBUG, mark(fields=[told])))
    for element in meant:
        assert position is not None
        assert not position.covers
        position = position.step(element)
    assert position is not None
    assert position.covers


@pytest.mark.parametrize("fields", [None, "data.level", [], [1, None], {"data.level": 1}])
def test_a_mark_that_tells_of_no_field_means_none(fields: object) -> None:
    assert tags.drifted(marked(DEBUG, mark(fields=fields))) is None


def test_the_next_trusted_write_takes_the_mark_away_and_nothing_else() -> None:
    cleared = write(
        settings(DEBUG, {LABEL: "true", "app": "web"}, {DRIFT: mark(), "note": "x"}),
        settings(OLD["data"], {LABEL: "true", "app": "web"}, {DRIFT: mark(), "note": "x"}),
        FLUX,
    )
    assert cleared.labels == {**FLUX_LABELS, "app": "web"}
    assert cleared.annotations == {"note": "x"}
    half = write(settings(DEBUG, {LABEL: "true"}), settings(DEBUG, {LABEL: "true"}), FLUX)
    assert half.labels == FLUX_LABELS
    committed = write(None, marked(DEBUG), FLUX)
    assert (committed.labels, committed.annotations) == (FLUX_LABELS, {})
    assert write(OLD, NEW, FLUX).patch == ()


@pytest.mark.parametrize(
    "touched",
    [
        settings(DEBUG),
        settings(DEBUG, {LABEL: "true"}),
        settings(DEBUG, annotations={DRIFT: mark()}),
        marked(DEBUG, label="false"),
        marked(DEBUG, label=""),
        marked(DEBUG, mark("nobody")),
        marked(DEBUG, "{}"),
        marked(DEBUG, ""),
        marked(DEBUG, "no JSON"),
        marked(DEBUG, "[" * 100_000),
        marked(DEBUG, '{"by":"alice","at":"9999-12-31T23:59:59-14:00"}'),
        marked(DEBUG, '{"by":"alice","at":5}'),
    ],
)
def test_a_mark_that_a_person_takes_away_or_edits_comes_back_as_it_was(touched: Json) -> None:
    written = write(marked(DEBUG), touched, BOB)
    assert written.stored == marked(DEBUG)
    assert written.decision.violations == ()


def test_a_mark_that_a_person_sets_is_taken_away() -> None:
    forged = write(OLD, marked(OLD["data"], mark("carol")), ALICE)
    assert (forged.labels, forged.annotations) == (FLUX_LABELS, {})
    # Without the mutating webhook it is a drift like any other.
    unpatched = write(OLD, marked(OLD["data"], mark("carol")), ALICE, mutating=False)
    assert [field.path for field in unpatched.decision.violations[0].fields] == sorted(tags.PATHS)


def test_a_mark_that_a_person_writes_over_a_drift_does_not_hide_it() -> None:
    for content in (mark(fields=[]), mark(policy="other"), mark("carol"), mark(reason="harmless"), "{}"):
        forged = write(OLD, marked(DEBUG, content))
        assert forged.stored == marked(DEBUG)


@pytest.mark.parametrize("subresource", ["", "status"])
def test_under_an_enforcing_policy_nobody_touches_the_mark(subresource: str) -> None:
    policies = snapshot_of(CONFIG + policy("data.*", mode="enforce"))
    for old, new in (
        (marked(DEBUG), settings(DEBUG)),
        (marked(DEBUG), marked(DEBUG, mark("bob"))),
        (marked(DEBUG), marked(DEBUG, label="false")),
        (OLD, marked(OLD["data"])),
        (OLD, settings(OLD["data"], {LABEL: "true"})),
    ):
        denied = write(old, new, policies=policies, subresource=subresource)
        assert not denied.decision.allowed
        touched = {field.path for field in denied.decision.violations[0].fields}
        assert touched <= {*tags.PATHS, "metadata.annotations"}  # all of them went with the last


def test_the_mark_of_our_own_hand_is_no_violation_of_an_enforcing_policy_beside() -> None:
    policies = snapshot_of(CONFIG + policy("data.level") + policy("data.mode", "q", "enforce"))
    written = write(OLD, NEW, policies=policies)
    assert written.decision.allowed
    assert [each.name for each in written.decision.violations] == ["p"]
    assert written.labels[LABEL] == "true"
    # The next write may leave it there, and may not take it away.
    assert write(written.stored, {**written.stored, "data": TRACE}, BOB, policies=policies).decision.allowed
    assert not write(written.stored, NEW, BOB, policies=policies).decision.allowed


def test_of_a_write_that_violates_several_modes_the_mark_tells_of_mode_tag() -> None:
    policies = snapshot_of(
        CONFIG + policy("data.level") + policy("data.mode", "q", "warn") + policy("data.*", "r", "dryRun")
    )
    written = write(OLD, settings({"level": "debug", "mode": "b"}), policies=policies)
    assert (written.decision.allowed, written.decision.mode, len(written.decision.warnings)) == (True, "warn", 1)
    drift = json.loads(written.annotations[DRIFT])
    assert (drift["policy"], drift["fields"]) == ("p", ["data.level"])
    assert write(OLD, settings({"level": "info", "mode": "b"}), policies=policies).patch == ()


def test_a_denied_write_is_not_marked() -> None:
    policies = snapshot_of(CONFIG + policy("data.level") + policy("data.mode", "q", "enforce"))
    denied = write(OLD, settings({"level": "debug", "mode": "b"}), policies=policies)
    assert (denied.decision.allowed, denied.patch) == (False, ())


def test_several_policies_are_named_with_each_field_once() -> None:
    policies = snapshot_of(CONFIG + policy("data.level") + policy("data.*", "q"))
    drift = json.loads(write(OLD, NEW, policies=policies).annotations[DRIFT])
    assert (drift["policy"], drift["fields"]) == ("p,q", ["data.level"])


def test_under_an_open_glass_the_mark_tells_its_reason_and_both_kinds_of_policies() -> None:
    policies = snapshot_of(CONFIG + policy("data.level") + policy("data.mode", "q", "enforce"))
    glass = {REASON: "fire", BY: "sam", EXPIRES: "2026-11-22T08:00:00Z"}
    written = write(
        settings(OLD["data"], annotations=glass),
        settings({"level": "debug", "mode": "b"}, annotations=glass),
        policies=policies,
    )
    drift = json.loads(written.annotations[DRIFT])
    assert drift == {
        "by": "alice",
        "at": AT,
        "policy": "p,q",
        "fields": ["data.level", "data.mode"],
        "reason": "fire",
    }


def test_under_an_open_glass_too_the_mark_comes_back() -> None:
    policies = snapshot_of(CONFIG + policy("data.*", mode="enforce"))
    glass = {REASON: "fire", BY: "sam", EXPIRES: "2026-11-22T08:00:00Z"}
    open_and_marked = settings(DEBUG, {LABEL: "true"}, {**glass, DRIFT: mark()})
    for user in (ALICE, SAM):
        assert (
            write(open_and_marked, settings(DEBUG, annotations=glass), user, policies=policies).stored
            == open_and_marked
        )


def test_a_person_may_mark_what_nobody_manages() -> None:
    unmanaged = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "shop"}}
    labelled = {**unmanaged, "metadata": {**unmanaged["metadata"], "labels": {LABEL: "true"}}}  # type: ignore[dict-item]
    assert write(unmanaged, labelled).stored == labelled
    # Once a tool adopts it, the mark goes.
    adopted = {**labelled, "metadata": {**labelled["metadata"], "labels": {LABEL: "true", **FLUX_LABELS}}}  # type: ignore[dict-item]
    assert write(labelled, adopted, FLUX).labels == FLUX_LABELS


def test_no_value_of_a_secret_is_in_its_mark() -> None:
    old = settings({"password": "Y2FuYXJ5LW9sZA=="}, kind="Secret")
    new = settings({"password": "Y2FuYXJ5LW5ldw=="}, kind="Secret")
    written = write(old, new)
    assert json.loads(written.annotations[DRIFT])["fields"] == ["data.password"]
    assert "Y2FuYXJ5" not in json.dumps(written.patch)


def test_a_mark_is_short_whatever_is_written() -> None:
    data = {f"k{number:03}{'long' * 1000}": "x" for number in range(500)}
    written = write(settings({}), settings(data), person("a" * 64))
    drift = json.loads(written.annotations[DRIFT])
    assert len(drift["fields"]) == 21
    assert drift["fields"][-1] == "… and 480 more"
    assert {len(field) for field in drift["fields"][:20]} == {200}
    assert len(written.annotations[DRIFT]) < 5 * MAX_MESSAGE


def test_control_characters_of_keys_and_reasons_are_escaped() -> None:
    policies = snapshot_of(CONFIG + policy("data.*", mode="enforce"))
    glass = {REASON: "fi\u202ere\n" + "x" * 1000, BY: "sam", EXPIRES: "2026-11-22T08:00:00Z"}
    written = write(settings({}, annotations=glass), settings({"a\x1b[31m": "x"}, annotations=glass), policies=policies)
    text = written.annotations[DRIFT]
    assert text.isprintable()
    assert json.loads(text)["fields"] == ["data['a\\x1b[31m']"]
    assert json.loads(text)["reason"].startswith("fi\\u202ere\\nxxx")
    assert len(json.loads(text)["reason"]) == 500


def test_a_dry_run_is_not_marked() -> None:
    dry = write(OLD, NEW, dry_run=True)
    assert (dry.decision.allowed, dry.decision.mode, dry.patch) == (True, "tag", ())
    assert write(marked(DEBUG), marked(TRACE), FLUX, dry_run=True).patch == ()


@pytest.mark.parametrize(
    ("seconds", "ours"), [(-61, False), (-60, True), (0, True), (34, True), (60, True), (61, False)]
)
def test_the_validating_webhook_knows_our_mark_within_a_minute(seconds: int, ours: bool) -> None:
    then = marked(DEBUG)
    now = mark(at=(NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert tags.is_ours(then, now) is ours


def test_a_mark_that_says_something_else_is_not_ours() -> None:
    assert not tags.is_ours(marked(DEBUG), mark("bob"))
    assert not tags.is_ours(marked(DEBUG), mark(fields=["data.mode"]))
    assert not tags.is_ours(marked(DEBUG, label="TRUE"), mark())
    assert not tags.is_ours(settings(DEBUG, {LABEL: "true"}), mark())


def test_a_mark_forged_through_a_subresource_which_no_patch_reaches_is_a_violation() -> None:
    policies = snapshot_of(CONFIG + policy("data.level") + policy("data.mode", "q", "enforce"))
    through = {**marked(DEBUG, mark(fields=[])), "data": OLD["data"]}
    assert not write(OLD, through, policies=policies, subresource="status").decision.allowed


@given(
    by=st.text(),
    policies=st.lists(st.text(max_size=20), max_size=5),
    fields=st.lists(st.text(), max_size=30),
    reason=st.text(),
)
def test_a_mark_is_json_that_equals_itself_a_moment_later_and_no_longer_after_a_minute(
    by: str, policies: list[str], fields: list[str], reason: str
) -> None:
    def at(seconds: int) -> str:
        return tags.content(by=by, at=NOW + timedelta(seconds=seconds), policies=policies, fields=fields, reason=reason)

    assert set(json.loads(at(0))) == {"by", "at", "policy", "fields", "reason"}
    assert tags.same(at(0), at(60))
    assert not tags.same(at(0), at(61))
    assert not tags.same(at(0), at(0).replace('"fields":[', '"fields":["other",', 1).replace(",]", "]"))


@pytest.mark.parametrize(
    "text", [None, 5, [], "", "null", "[]", '"x"', "{}", '{"at":"soon"}', '{"at":"0001-01-01T00:00:00+14:00"}']
)
def test_what_is_no_mark_equals_none(text: object) -> None:
    assert not tags.same(text, mark())
    assert not tags.same(text, text if isinstance(text, str) else "")
