from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admitting import BY, DRIFT, EXPIRES, LABEL, REASON, SAM, Admitted, admit, refused
from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, Json, person, review, service_account, snapshot_of
from webhook import breakglass
from webhook.admission import ObjectRef
from webhook.breakglass import BreakGlass
from webhook.decision import Violation
from webhook.errors import LookupFailed
from webhook.regexes import compile_pattern

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller]
      fieldManagers: [kustomize-controller]
  breakGlass:
    groups: [sre]
    users: [ops, 'system:serviceaccount:ops:bot']
    reasonPattern: '^INC-[0-9]+: .+'
    maxDuration: 4h
"""
OFF = CONFIG[: CONFIG.index("  breakGlass")]


def policy(name: str = "p", mode: str = "enforce", protect: str = "", match: str = "{}", glass: str = "") -> str:
    protect = protect or "{fields: [spec.replicas, data.*], deletion: true}"
    own = f", breakGlass: {glass}" if glass else ""
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: {mode}, protect: {protect}, match: {match}{own}}}
"""


ENFORCED = snapshot_of(CONFIG + policy())
INCIDENT = "INC-1: checkout 5xx"
OPS = person("ops")
FOUR_HOURS = "2026-11-22T11:00:00Z"
SECOND = timedelta(seconds=1)
WHO = "only group sre or ops or system:serviceaccount:ops:bot may break glass, or end it"


def web(replicas: int = 2, labels: Json | None = None, **annotations: Any) -> Json:
    """A Deployment of Flux. Annotations by their short names: ``reason``, ``by``, ``expires``; others as they are."""
    names = {"reason": REASON, "by": BY, "expires": EXPIRES}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "7a1c",
            "labels": FLUX_LABELS if labels is None else labels,
            "annotations": {names.get(key, key): value for key, value in annotations.items()},
        },
        "spec": {"replicas": replicas},
    }


def glass(until: str = FOUR_HOURS, by: str = "sam", reason: str = INCIDENT) -> Json:
    return {"reason": reason, "by": by, "expires": until}


def namespace(**annotations: Any) -> Json:
    obj = web(**annotations)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {**obj["metadata"], "name": "shop", "namespace": ""}}


OPEN = web(**glass())
NAMESPACE = ObjectRef("", "v1", "namespaces", "", "shop")


def change(old: Json, new: Json, user: Json = SAM, *there: Json, **how: Any) -> Admitted:
    """A write under ``ENFORCED``, unless ``policies`` are others; ``how`` also goes to the review."""
    outer = {key: how.pop(key) for key in ("now", "mutating", "late") if key in how}
    policies = how.pop("policies", ENFORCED)
    return admit(review(old, new, user=user, **how), policies, *there, **outer)


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_the_configuration_names_opens_the_object_for_all_until_it_expires() -> None:
    opened = change(web(), web(reason=INCIDENT))
    assert opened.glass == (INCIDENT, "sam", FOUR_HOURS)
    use = opened.decision.break_glass
    assert use is not None
    assert (use.action, use.by, use.reason, use.expires) == ("set", "sam", INCIDENT, FOUR_HOURS)
    assert (use.on, use.violations) == ('deployments.apps "web" in namespace "shop"', ())
    assert opened.decision.violations == ()
    used = change(opened.stored, web(5, **glass()), ALICE)
    assert used.decision.allowed
    use = used.decision.break_glass
    assert use is not None
    assert (use.action, use.by, use.reason, use.expires) == ("used", "sam", INCIDENT, FOUR_HOURS)
    (broken,) = use.violations
    assert (broken.name, broken.verdict, broken.fields[0].path) == ("p", "deny", "spec.replicas")
    assert used.decision.audit_annotations == {"break-glass": f"used by sam: {INCIDENT}"}
    assert (used.decision.violations, used.decision.mode) == ((), None)


def test_every_write_under_it_is_tagged() -> None:
    used = change(OPEN, web(5, **glass()), ALICE)
    assert used.labels[LABEL] == "true"
    assert json.loads(used.annotations[DRIFT]) == {
        "by": "alice",
        "at": "2026-11-22T07:00:00Z",
        "policy": "p",
        "fields": ["spec.replicas"],
        "reason": INCIDENT,
    }


def test_a_write_that_needs_no_open_glass_is_none_under_it() -> None:
    other = change(OPEN, web(note="x", **glass()), ALICE)
    assert other.decision.allowed
    assert other.decision.break_glass is None
    assert other.patch == ()


BOT = "system:serviceaccount:ops:bot"


@pytest.mark.parametrize(
    "user",
    [
        SAM,
        OPS,
        person("eve", "developers", "sre"),
        service_account("ops", "bot"),
        {"username": "sam", "groups": ["sre"]},
    ],
    ids=lambda user: user["username"],
)
def test_users_and_groups_of_the_rule_may_break_glass(user: Json) -> None:
    opened = change(web(), web(reason=INCIDENT), user)
    assert opened.glass == (INCIDENT, user["username"], FOUR_HOURS)


@pytest.mark.parametrize(
    "user",
    [
        ALICE,
        person("sre"),
        person("SAM", "SRE"),
        person("ops "),
        person("alice", "sre "),
        service_account("ops", "bot", uid=""),
        service_account("ops", "bot:x"),
        {**service_account("ops", "robot", uid=""), "groups": ["sre"]},
        {"username": "alice"},
        {"username": "alice", "groups": None},
    ],
    ids=json.dumps,
)
def test_nobody_else_may_be_they_named_alike_or_without_proof(user: Json) -> None:
    denied = change(web(), web(reason=INCIDENT), user)
    assert refused(denied.decision) == WHO
    assert denied.patch == ()
    # Nor with the change in one write, nor on an object that nobody manages.
    smuggled = change(web(), web(5, reason=INCIDENT), user)
    assert [field.path for field in smuggled.decision.violations[0].fields] == [
        f"metadata.annotations['{REASON}']",
        "spec.replicas",
    ]
    elsewhere = change(web(labels={}), web(labels={}, reason=INCIDENT), user)
    assert refused(elsewhere.decision) == WHO


def test_the_denial_of_a_break_glass_names_the_policy_and_whom_to_ask() -> None:
    denied = change(web(), web(reason=INCIDENT), ALICE)
    assert denied.decision.message == (
        'deployments.apps "web" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).\n'
        "alice may not change:\n"
        f"  metadata.annotations['driftwall.io/break-glass']: {WHO}\n"
        "Policy p (enforce, medium)\n"
        "Change it in Git and let Flux apply it.\n"
        "In an incident, ask group sre or ops or system:serviceaccount:ops:bot to break glass."
    )
    assert denied.decision.break_glass is None
    assert denied.decision.audit_annotations == {"verdict": "deny", "policies": "p"}


def test_on_an_unmanaged_object_the_configuration_answers_for_break_glass() -> None:
    denied = change(web(labels={}), web(labels={}, reason=INCIDENT), ALICE)
    (violation,) = denied.decision.violations
    assert (violation.name, violation.verdict) == ("(breakGlass)", "deny")
    assert denied.decision.message == (
        'deployments.apps "web" in namespace "shop" is protected.\n'
        "alice may not change:\n"
        f"  metadata.annotations['driftwall.io/break-glass']: {WHO}\n"
        "Policy (breakGlass) (enforce, medium): Only those whom the DriftwallConfig names break glass.\n"
        "Ask whoever owns this policy.\n"
        "In an incident, ask group sre or ops or system:serviceaccount:ops:bot to break glass."
    )


def test_a_warning_policy_does_not_make_a_forged_break_glass_a_warning() -> None:
    for mode in ("dryRun", "warn", "tag"):
        denied = change(web(), web(reason=INCIDENT), ALICE, policies=snapshot_of(CONFIG + policy(mode=mode)))
        assert refused(denied.decision) == WHO
        assert denied.decision.violations[0].name == "(breakGlass)"


def test_where_break_glass_is_off_nobody_may_and_no_annotation_opens() -> None:
    policies = snapshot_of(OFF + policy())
    denied = change(web(), web(reason=INCIDENT), policies=policies)
    assert refused(denied.decision) == "break-glass is off in driftwall's configuration"
    assert not change(OPEN, web(5, **glass()), policies=policies).decision.allowed


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("checkout 5xx", "the reason 'checkout 5xx' does not match ^INC-[0-9]+: .+"),
        ("see INC-1: checkout", "the reason 'see INC-1: checkout' does not match ^INC-[0-9]+: .+"),
        ("inc-1: checkout", "the reason 'inc-1: checkout' does not match ^INC-[0-9]+: .+"),
        ("INC-1: ", "the reason 'INC-1: ' does not match ^INC-[0-9]+: .+"),
        ("x\nINC-1: checkout", "the reason 'x\\nINC-1: checkout' does not match ^INC-[0-9]+: .+"),
        ("", "break-glass needs a reason"),
        (" \t\n", "break-glass needs a reason"),
        (5, "break-glass needs a reason"),
        (True, "break-glass needs a reason"),
        (["INC-1: x"], "break-glass needs a reason"),
        ({"a": "INC-1: x"}, "break-glass needs a reason"),
    ],
)
def test_a_reason_that_will_not_do_is_refused_with_the_reason_why(reason: Any, why: str) -> None:
    denied = change(web(), web(5, reason=reason))
    assert refused(denied.decision) == why
    assert denied.patch == ()


def test_without_a_pattern_any_reason_will_do_but_a_blank_one() -> None:
    config = CONFIG.replace("    reasonPattern: '^INC-[0-9]+: .+'\n", "")
    policies = snapshot_of(config + policy())
    assert change(web(), web(reason="fire"), policies=policies).glass == ("fire", "sam", FOUR_HOURS)
    assert refused(change(web(), web(reason=" "), policies=policies).decision) == "break-glass needs a reason"


# ── until when ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "stamped"),
    [
        ("2026-11-22T08:30:00Z", "2026-11-22T08:30:00Z"),
        ("2026-11-22T09:30:00+01:00", "2026-11-22T08:30:00Z"),
        ("2026-11-22T08:30:00.999Z", "2026-11-22T08:30:00Z"),
        ("2026-11-22T07:00:01Z", "2026-11-22T07:00:01Z"),
        ("2026-11-22T11:00:00Z", FOUR_HOURS),
        ("2026-11-22T11:00:01Z", FOUR_HOURS),
        ("2027-11-22T11:00:00Z", FOUR_HOURS),
        ("9999-12-31T23:59:59Z", FOUR_HOURS),
    ],
)
def test_an_earlier_expiry_is_kept_and_a_later_one_is_cut(wanted: str, stamped: str) -> None:
    opened = change(web(), web(reason=INCIDENT, expires=wanted))
    assert opened.glass == (INCIDENT, "sam", stamped)


@pytest.mark.parametrize("wanted", ["2026-11-22T07:00:00Z", "2025-11-22T07:00:00Z", "0001-01-01T00:00:00Z"])
def test_an_expiry_that_is_past_is_refused(wanted: str) -> None:
    assert refused(change(web(), web(reason=INCIDENT, expires=wanted)).decision) == "it has expired already"


NO_TIMES: tuple[Any, ...] = (
    *("", "1h", "tomorrow", "2026-11-22T08:30:00", "2026-11-22", "1795334400", "2026-13-22T08:30:00Z"),
    *("9" * 100_000, "2026-11-22T08:30:00Z\n", 5, [], {}),
    # In UTC they are not in the calendar.
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
)


@pytest.mark.parametrize("wanted", NO_TIMES, ids=lambda wanted: repr(wanted)[:40])
def test_an_expiry_that_is_no_time_is_refused(wanted: Any) -> None:
    denied = change(web(), web(reason=INCIDENT, expires=wanted))
    assert refused(denied.decision) == f"{EXPIRES} is no time such as 2006-01-02T15:04:05Z"


@pytest.mark.parametrize(
    ("after", "allowed"),
    [
        (timedelta(hours=4) - SECOND, True),
        (timedelta(hours=4) - timedelta(microseconds=1), True),
        (timedelta(hours=4), False),
        (timedelta(hours=4) + SECOND, False),
        (timedelta(days=4), False),
    ],
)
def test_it_expires_to_the_second(after: timedelta, allowed: bool) -> None:
    used = change(OPEN, web(5, **glass()), ALICE, now=NOW + after)
    assert used.decision.allowed is allowed
    assert (used.decision.break_glass is not None) is allowed


@pytest.mark.parametrize(
    ("until", "allowed"),
    [
        ("2026-11-22T11:01:00Z", True),  # the clock of the replica that stamped it may be ahead by a minute
        ("2026-11-22T11:01:01Z", False),
        ("2099-01-01T00:00:00Z", False),
    ],
)
def test_one_that_lasts_longer_than_the_rule_allows_was_not_stamped_by_us_and_opens_nothing(
    until: str, allowed: bool
) -> None:
    assert change(web(**glass(until)), web(5, **glass(until)), ALICE).decision.allowed is allowed


@pytest.mark.parametrize(
    "stored",
    [
        {"reason": INCIDENT},
        {"reason": INCIDENT, "by": "sam"},
        {"reason": INCIDENT, "expires": FOUR_HOURS},
        {"by": "sam", "expires": FOUR_HOURS},
        glass(by=""),
        glass(until=""),
        glass(until="soon"),
        {**glass(), "reason": 5},
        {**glass(), "by": ["sam"]},
        {**glass(), "expires": 5},
        {**glass(), "expires": None},
    ],
    ids=json.dumps,
)
def test_without_both_stamps_nothing_is_open(stored: Json) -> None:
    assert not change(web(**stored), web(5, **stored), ALICE).decision.allowed


def test_a_new_reason_opens_anew_whatever_stamps_are_left_of_the_last_time() -> None:
    stale = glass("2026-11-21T11:00:00Z", by="ops")
    again = change(web(**stale), web(**{**stale, "reason": "INC-2: again"}))
    assert again.glass == ("INC-2: again", "sam", FOUR_HOURS)


def test_a_new_expiry_alone_is_counted_from_now() -> None:
    later = change(OPEN, web(**glass("2026-11-22T11:30:00Z")), now=NOW + timedelta(hours=1))
    assert later.glass == (INCIDENT, "sam", "2026-11-22T11:30:00Z")
    too_late = change(OPEN, web(**glass("2026-11-22T23:30:00Z")), OPS, now=NOW + timedelta(hours=1))
    assert too_late.glass == (INCIDENT, "ops", "2026-11-22T12:00:00Z")
    sooner = change(OPEN, web(**glass("2026-11-22T07:00:01Z")))
    assert sooner.glass == (INCIDENT, "sam", "2026-11-22T07:00:01Z")


@pytest.mark.parametrize("by", ["alice", "", "sam ", 5])
def test_who_broke_the_glass_is_ours_to_say(by: Any) -> None:
    assert change(web(), web(**glass(by=by))).glass == (INCIDENT, "sam", FOUR_HOURS)
    # Without the mutating webhook a stamp that names somebody else does not pass.
    forged = change(web(), web(**glass(by=by)), mutating=False)
    assert refused(forged.decision) == f"{BY} names somebody else; driftwall writes it"


def test_without_the_mutating_webhook_a_glass_does_not_stay_broken_and_no_stamp_of_ones_own_lasts_longer() -> None:
    unstamped = change(web(), web(5, reason=INCIDENT), mutating=False)
    assert unstamped.decision.allowed
    assert not change(unstamped.stored, web(6, reason=INCIDENT), ALICE).decision.allowed
    stamped = change(web(), web(**glass("2026-11-22T11:01:01Z")), mutating=False)
    assert refused(stamped.decision) == "it may last 4:00:00 at most"
    # Nor in two steps: first the expiry, which opens nothing yet, then who.
    first = change(web(), web(reason=INCIDENT, expires="2099-01-01T00:00:00Z"), mutating=False)
    assert first.decision.allowed
    second = change(first.stored, web(**glass("2099-01-01T00:00:00Z")), mutating=False)
    assert refused(second.decision) == "it may last 4:00:00 at most"


@pytest.mark.parametrize("late", [SECOND, timedelta(seconds=34), timedelta(seconds=60)])
def test_the_validating_webhook_may_look_at_the_stamps_a_little_later_or_by_another_clock(late: timedelta) -> None:
    assert change(web(), web(5, reason=INCIDENT), late=NOW + late).decision.allowed


def test_a_stamp_that_is_all_a_write_brings_is_completed_or_taken_away() -> None:
    unstamped = web(reason=INCIDENT)
    assert change(unstamped, web(reason=INCIDENT, by="sam")).glass == (INCIDENT, "sam", FOUR_HOURS)
    assert change(unstamped, web(reason=INCIDENT, expires=FOUR_HOURS)).glass == (INCIDENT, "sam", FOUR_HOURS)
    assert refused(change(unstamped, web(reason=INCIDENT, by="ops")).decision) == (
        f"{BY} names somebody else; driftwall writes it"
    )
    assert change(web(), web(by="sam")).glass == (None, None, None)
    assert change(web(), web(by="sam", expires=FOUR_HOURS)).glass == (None, None, None)


# ── ending it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("left", [{}, {"by": "sam"}, {"expires": FOUR_HOURS}, {"by": "sam", "expires": FOUR_HOURS}])
def test_whoever_may_set_it_may_end_it_and_the_stamps_go_with_it(left: Json) -> None:
    ended = change(OPEN, web(**left), OPS)
    assert ended.glass == (None, None, None)
    use = ended.decision.break_glass
    assert use is not None
    assert (use.action, use.by, use.reason, use.expires) == ("removed", "ops", INCIDENT, None)
    assert not change(ended.stored, web(5), ALICE).decision.allowed


def test_the_last_write_under_it_may_end_it() -> None:
    ended = change(OPEN, web(5))
    assert ended.decision.allowed
    assert ended.glass == (None, None, None)
    use = ended.decision.break_glass
    assert use is not None
    assert (use.action, len(use.violations)) == ("used", 1)


@pytest.mark.parametrize(
    "touched",
    [
        {},
        glass("2026-11-22T11:00:01Z"),
        glass("2026-11-22T10:00:00Z"),
        glass(by="alice"),
        glass(reason="INC-2: mine"),
        {"reason": INCIDENT, "by": "sam"},
        {"by": "sam", "expires": FOUR_HOURS},
        {**glass(), "expires": 5},
    ],
    ids=json.dumps,
)
def test_nobody_else_touches_it_even_while_it_is_open(touched: Json) -> None:
    denied = change(OPEN, web(**touched), ALICE)
    assert refused(denied.decision) == WHO
    with_change = change(OPEN, web(5, **touched), ALICE)
    assert refused(with_change.decision) == WHO
    assert with_change.patch == ()
    through_status = change(OPEN, web(**touched), ALICE, subresource="status")
    assert refused(through_status.decision) == WHO


def test_a_stamp_forged_on_an_object_before_a_tool_adopts_it_is_refused() -> None:
    bare: Json = {"labels": {}}
    assert refused(change(web(**bare), web(**bare, **glass()), ALICE).decision) == WHO
    created = admit(review(None, web(**bare, **glass()), user=ALICE), ENFORCED)
    assert refused(created.decision) == WHO
    part = admit(review(None, web(**bare, by="sam", expires=FOUR_HOURS), user=ALICE), ENFORCED)
    assert refused(part.decision) == WHO


# ── where ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_annotation_and_the_change_may_come_in_one_write() -> None:
    both = change(web(), web(5, reason=INCIDENT))
    assert both.decision.allowed
    assert both.glass == (INCIDENT, "sam", FOUR_HOURS)
    use = both.decision.break_glass
    assert use is not None
    assert (use.action, use.by, [violation.name for violation in use.violations]) == ("used", "sam", ["p"])
    assert json.loads(both.annotations[DRIFT])["reason"] == INCIDENT


def test_a_creation_may_bring_it() -> None:
    policies = snapshot_of(CONFIG + policy(protect="{declared: true}"))
    created = admit(review(None, web(reason=INCIDENT), user=SAM), policies)
    assert created.decision.allowed  # with a marker, which nobody but the tool may set otherwise
    assert created.glass == (INCIDENT, "sam", FOUR_HOURS)
    assert not admit(review(None, web(), user=SAM), policies).decision.allowed


def test_through_status_it_opens_that_write_and_stays_without_stamps() -> None:
    through = change(web(), web(labels={"app": "web"}, reason=INCIDENT), subresource="status")
    assert through.decision.allowed
    assert through.patch == ()
    assert through.glass == (INCIDENT, None, None)
    assert not change(through.stored, web(5, reason=INCIDENT), ALICE).decision.allowed
    far = change(web(), web(**glass("2099-01-01T00:00:00Z")), subresource="status")
    assert refused(far.decision) == "it may last 4:00:00 at most"


def test_a_deletion_passes_where_it_was_annotated_first() -> None:
    assert not change(web(), None, ALICE).decision.allowed  # type: ignore[arg-type]
    gone = admit(review(OPEN, None, user=ALICE), ENFORCED)
    assert gone.decision.allowed
    assert gone.patch == ()
    use = gone.decision.break_glass
    assert use is not None
    assert use.violations == (Violation(name="p", mode="enforce", verdict="deny"),)


def scale(replicas: int) -> Json:
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": replicas},
    }


def test_a_scale_is_open_where_its_parent_is() -> None:
    for parent, allowed in ((OPEN, True), (web(), False), (web(**glass("2026-11-22T07:00:00Z")), False)):
        written = review(scale(2), scale(5), user=ALICE, subresource="scale", parent=web())
        scaled = admit(written, ENFORCED, parent, namespace())
        assert scaled.decision.allowed is allowed
        assert scaled.patch == ()
        assert (scaled.decision.break_glass is not None) is allowed


def test_on_the_namespace_it_opens_what_is_inside() -> None:
    opened = admit(review(namespace(), namespace(reason=INCIDENT), user=SAM), ENFORCED)
    assert opened.glass == (INCIDENT, "sam", FOUR_HOURS)
    inside = change(web(), web(5), ALICE, opened.stored)
    assert inside.decision.allowed
    assert inside.asked == [NAMESPACE]
    use = inside.decision.break_glass
    assert use is not None
    assert (use.action, use.by, use.on) == ("used", "sam", 'namespaces "shop"')
    assert inside.labels[LABEL] == "true"
    gone = admit(review(web(), None, user=ALICE), ENFORCED, opened.stored)
    assert gone.decision.allowed
    scaled = admit(
        review(scale(2), scale(5), user=ALICE, subresource="scale", parent=web()), ENFORCED, web(), opened.stored
    )
    assert scaled.decision.allowed
    late = change(web(), web(5), ALICE, opened.stored, now=NOW + timedelta(hours=4))
    assert not late.decision.allowed


def test_the_namespace_is_not_looked_up_for_a_write_that_passes_without_it() -> None:
    for old, new, policies in (
        (web(), web(note="x"), ENFORCED),
        (OPEN, web(5, **glass()), ENFORCED),
        (web(labels={}), web(5, labels={}), ENFORCED),
        (web(), web(5), snapshot_of(CONFIG + policy(mode="warn"))),
        (web(), web(5), snapshot_of(CONFIG + policy(mode="tag"))),
    ):
        written = change(old, new, ALICE, policies=policies)
        assert written.decision.allowed
        assert written.asked == []
    off = change(web(), web(5), ALICE, policies=snapshot_of(OFF + policy()))
    assert (off.decision.allowed, off.asked) == (False, [])


@pytest.mark.parametrize("subresource", ["", "status", "finalize"])
@pytest.mark.parametrize("labels", [{}, FLUX_LABELS], ids=["unmanaged", "managed"])
def test_nobody_else_sets_it_on_a_namespace(subresource: str, labels: Json) -> None:
    old, new = namespace(labels=labels), namespace(labels=labels, **glass())
    denied = admit(review(old, new, user=ALICE, subresource=subresource), ENFORCED)
    assert refused(denied.decision) == WHO
    longer = namespace(labels=labels, **glass("2026-11-22T11:00:30Z"))
    assert refused(admit(review(new, longer, user=ALICE, subresource=subresource), ENFORCED).decision) == WHO
    created = admit(review(None, new, user=ALICE), ENFORCED)
    assert refused(created.decision) == WHO


def test_a_namespace_in_which_nothing_is_guarded_keeps_its_break_glass_too() -> None:
    policies = snapshot_of(CONFIG + policy(match="{namespaces: [other]}"))
    denied = admit(review(namespace(), namespace(**glass()), user=ALICE), policies)
    assert refused(denied.decision) == WHO


def test_a_missing_namespace_opens_nothing() -> None:
    denied = change(web(), web(5), ALICE)
    assert not denied.decision.allowed
    assert denied.asked == [NAMESPACE]


# ── policies with a rule of their own ────────────────────────────────────────────────────────────────────────────────

STRICT = "{users: [chief], groups: [chiefs], maxDuration: 1h}"
CHIEF = person("chief")
ONE_HOUR = "2026-11-22T08:00:00Z"


def test_a_policy_of_its_own_rule_opens_to_those_whom_it_names() -> None:
    policies = snapshot_of(CONFIG + policy(glass=STRICT))
    denied = change(web(), web(reason=INCIDENT), policies=policies)
    assert refused(denied.decision) == "only group chiefs or chief may break glass, or end it"
    opened = change(web(), web(reason="because"), CHIEF, policies=policies)
    assert opened.glass == ("because", "chief", ONE_HOUR)
    assert change(
        opened.stored, web(5, **glass(ONE_HOUR, "chief", "because")), ALICE, policies=policies
    ).decision.allowed
    # What was stamped under a rule that has become stricter since.
    assert not change(OPEN, web(5, **glass()), ALICE, policies=policies).decision.allowed


def test_where_several_policies_are_about_the_object_all_their_rules_must_be_met() -> None:
    policies = snapshot_of(CONFIG + policy() + policy("q", glass=STRICT))
    assert "only group chiefs or chief may" in refused(change(web(), web(reason=INCIDENT), policies=policies).decision)
    assert refused(change(web(), web(reason=INCIDENT), CHIEF, policies=policies).decision) == WHO
    both = person("chief", "sre")
    assert change(web(), web(reason=INCIDENT), both, policies=policies).glass == (INCIDENT, "chief", ONE_HOUR)


def test_an_empty_rule_means_that_nobody_may() -> None:
    policies = snapshot_of(CONFIG + policy(glass="{}"))
    denied = change(web(), web(5, reason=INCIDENT), policies=policies)
    assert refused(denied.decision) == "only nobody may break glass, or end it"


@pytest.mark.parametrize("mode", ["dryRun", "warn", "tag"])
def test_the_rule_of_a_policy_that_does_not_enforce_bars_nobody(mode: str) -> None:
    policies = snapshot_of(CONFIG + policy() + policy("q", mode=mode, glass="{users: [chief]}"))
    assert change(web(), web(5, reason=INCIDENT), policies=policies).glass == (INCIDENT, "sam", FOUR_HOURS)


@pytest.mark.parametrize(
    "match",
    [
        "{operations: [DELETE]}",
        "{resources: [{apiGroups: [apps], resources: [deployments/scale]}]}",
        "{resources: [{apiGroups: ['*'], resources: ['*/scale']}]}",
    ],
)
def test_the_rule_of_a_policy_about_another_operation_or_subresource_of_the_object_counts(match: str) -> None:
    policies = snapshot_of(CONFIG + policy() + policy("q", match=match, glass=STRICT))
    denied = change(web(), web(reason=INCIDENT), policies=policies)
    assert refused(denied.decision) == "only group chiefs or chief may break glass, or end it"


def test_a_policy_about_other_objects_has_no_say() -> None:
    for match in (
        "{resources: [{apiGroups: [apps], resources: [daemonsets, statefulsets/scale]}]}",
        "{resources: [{apiGroups: [''], resources: ['*/*']}]}",
        "{namespaces: [other]}",
        "{tools: [argocd]}",
        "{objectSelector: {matchLabels: {tier: gold}}}",
    ):
        policies = snapshot_of(CONFIG + policy() + policy("q", match=match, glass=STRICT))
        assert change(web(), web(reason=INCIDENT), policies=policies).glass == (INCIDENT, "sam", FOUR_HOURS)


def test_a_namespace_opens_no_policy_whose_own_rule_its_opener_does_not_meet() -> None:
    policies = snapshot_of(CONFIG + policy() + policy("q", protect="{fields: [spec.paused]}", glass=STRICT))
    opened = namespace(**glass(ONE_HOUR))
    assert change(web(), web(5), ALICE, opened, policies=policies).decision.allowed
    paused = {**web(), "spec": {"replicas": 2, "paused": True}}
    assert not change(web(), paused, ALICE, opened, policies=policies).decision.allowed
    by_chief = namespace(**glass(ONE_HOUR, by="chief"))
    assert change(web(), paused, ALICE, by_chief, policies=policies).decision.allowed


def test_a_policy_that_trusts_a_writer_does_not_thereby_let_it_break_glass() -> None:
    trusting = policy().replace("mode: enforce", "mode: enforce, trusted: [{name: bot, serviceAccounts: [ci/bot]}]")
    bot = service_account("ci", "bot")
    policies = snapshot_of(CONFIG + trusting)
    assert change(web(), web(5), bot, policies=policies).decision.allowed
    assert refused(change(web(), web(reason=INCIDENT), bot, policies=policies).decision) == WHO


# ── writers that are trusted, and requests that leave nothing ────────────────────────────────────────────────────────


def test_a_trusted_write_breaks_no_glass_whatever_git_says() -> None:
    applied = admit(review(web(), web(**glass()), user=FLUX), ENFORCED)
    assert applied.decision.allowed
    assert applied.glass == (INCIDENT, None, None)
    assert applied.decision.break_glass is None
    created = admit(review(None, web(**glass()), user=FLUX), ENFORCED)
    assert created.glass == (INCIDENT, None, None)
    renewed = admit(review(applied.stored, web(**glass()), user=FLUX), ENFORCED)
    assert renewed.glass == (INCIDENT, None, None)
    assert not change(applied.stored, web(5, reason=INCIDENT), ALICE).decision.allowed
    on_namespace = admit(review(namespace(), namespace(**glass()), user=FLUX), ENFORCED)
    assert on_namespace.glass == (INCIDENT, None, None)


def test_a_trusted_write_leaves_a_glass_that_a_person_broke_as_it_is() -> None:
    applied = admit(review(OPEN, web(3, **glass()), user=FLUX), ENFORCED)
    assert applied.glass == (INCIDENT, "sam", FOUR_HOURS)
    assert applied.patch == ()


def test_a_dry_run_gets_the_same_verdict_and_no_patch() -> None:
    for old, new, user in (
        (web(), web(reason=INCIDENT), SAM),
        (web(), web(5, reason=INCIDENT), SAM),
        (web(), web(reason=INCIDENT), ALICE),
        (OPEN, web(5, **glass()), ALICE),
        (OPEN, web(), SAM),
        (OPEN, web(), ALICE),
    ):
        wet, dry = change(old, new, user), change(old, new, user, dry_run=True)
        assert dry.decision.allowed is wet.decision.allowed
        assert dry.patch == ()
        assert (dry.decision.break_glass is None) is (wet.decision.break_glass is None)


# ── what a message tells ─────────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_is_told_how_to_break_the_glass_of_this_very_object() -> None:
    denied = change(web(), web(5))
    assert denied.decision.message.splitlines()[-2:] == [
        "In an incident, break the glass first (a reason that matches ^INC-[0-9]+: .+):",
        "  kubectl annotate --overwrite deployments.apps web -n shop driftwall.io/break-glass='REASON'",
    ]
    others = change(web(), web(5), ALICE)
    assert others.decision.message.splitlines()[-1] == (
        "In an incident, ask group sre or ops or system:serviceaccount:ops:bot to break glass."
    )
    off = change(web(), web(5), policies=snapshot_of(OFF + policy()))
    assert off.decision.message.splitlines()[-1] == "Change it in Git and let Flux apply it."


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

RULE = BreakGlass(
    groups=frozenset({"sre"}),
    users=frozenset(),
    reason=compile_pattern("^INC-"),
    max_duration=timedelta(hours=4),
)


@pytest.mark.parametrize(
    "obj", [None, {}, {"metadata": None}, {"metadata": []}, {"metadata": {"annotations": [REASON]}}]
)
def test_what_has_no_annotations_is_closed(obj: Any) -> None:
    assert breakglass.opening(obj, RULE, NOW) is None
    assert breakglass.wish(obj, obj) is None


@pytest.mark.parametrize("reason", ["", "  ", "because", None, 1])
def test_a_glass_that_is_stored_without_a_good_reason_is_closed(reason: Any) -> None:
    annotations = {REASON: "INC-1", BY: "sam", EXPIRES: breakglass.write_time(NOW + timedelta(hours=1))}
    assert breakglass.opening({"metadata": {"annotations": annotations}}, RULE, NOW) is not None
    assert breakglass.opening({"metadata": {"annotations": {**annotations, REASON: reason}}}, RULE, NOW) is None


@given(st.integers(0, 250_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds + 0.5, UTC)))
def test_a_time_that_was_written_is_read_to_the_second(time: datetime) -> None:
    assert breakglass.read_time(breakglass.write_time(time)) == time.replace(microsecond=0)


_TEXTS = st.none() | st.integers() | st.text(max_size=40) | st.datetimes().map(lambda time: time.isoformat() + "Z")
_GLASSES = st.fixed_dictionaries({}, optional={"reason": _TEXTS, "by": _TEXTS | st.just("sam"), "expires": _TEXTS})


@given(_GLASSES, _GLASSES, st.sampled_from([2, 5]), st.sampled_from(["", "status"]))
def test_whatever_is_written_nobody_who_may_not_makes_or_changes_an_opening(
    before: Json, after: Json, replicas: int, subresource: str
) -> None:
    old = web(**before)
    if breakglass.opening(old, RULE, NOW) is not None:
        return
    for new in (web(replicas, **after), web(replicas, labels={}, **after)):
        written = change(old, new, ALICE, subresource=subresource)
        if written.decision.allowed:
            assert {key: written.annotations.get(key) for key in breakglass.KEYS} == {
                key: old["metadata"]["annotations"].get(key) for key in breakglass.KEYS
            }
            assert written.stored["spec"] == old["spec"]


@given(_GLASSES, _GLASSES)
def test_whatever_those_who_may_write_is_stamped_with_their_name_and_lasts_no_longer_than_the_rule_allows(
    before: Json, after: Json
) -> None:
    written = change(web(**before), web(**after))
    if not written.decision.allowed or written.stored == web(**before):
        return
    reason, by, expires = written.glass
    if all(
        written.annotations.get(key) == web(**before)["metadata"]["annotations"].get(key) for key in breakglass.KEYS
    ):
        return
    if reason is None:
        assert (by, expires) == (None, None)
        return
    until = breakglass.read_time(expires)
    assert by == "sam"
    assert until is not None
    assert NOW < until <= NOW + timedelta(hours=4)


def test_a_required_look_up_that_finds_nothing_gives_no_verdict() -> None:
    written = review(scale(2), scale(5), user=ALICE, subresource="scale", parent=web())
    with pytest.raises(LookupFailed, match="does not exist, so its write cannot be judged; try again"):
        admit(written, ENFORCED)
