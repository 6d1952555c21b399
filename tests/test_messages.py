from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reviews import ALICE, FLUX_LABELS, Cluster, Json, person, review, service_account, snapshot_of
from webhook.decision import Decision
from webhook.diff import ABSENT
from webhook.messages import MAX_MESSAGE, MAX_WARNING, value_text

CONFIG = """
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec:
  trustedWriters: [{name: flux, serviceAccounts: [flux-system/kustomize-controller]}]
"""
GLASS = CONFIG + "  breakGlass: {groups: [sre], reasonPattern: '^INC-[0-9]+: .+'}\n"


def policy(
    name: str = "guard", mode: str = "enforce", protect: str = "{fields: [spec, data], deletion: true}", more: str = ""
) -> str:
    return f"""---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec:
  mode: {mode}
  protect: {protect}
{more}
"""


def widget(spec: Any, **metadata: Any) -> Json:
    meta: Json = {"name": "w", "namespace": "shop", "labels": dict(FLUX_LABELS)}
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": meta | metadata, "spec": spec}


def decide(old: Json | None, new: Json | None, policies: str = CONFIG + policy(), user: Json = ALICE) -> Decision:
    return Cluster().decide(review(old, new, user=user), snapshot_of(policies))


def lines(decision: Decision) -> list[str]:
    assert not decision.allowed
    return decision.message.splitlines()


HEAD = 'widgets.example.com "w" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).'
POLICY = "Policy guard (enforce, medium)"
WAY_OUT = "Change it in Git and let Flux apply it."


def test_a_denial_says_what_is_managed_by_whom_who_may_not_change_which_field_which_policy_and_what_to_do() -> None:
    assert lines(decide(widget({"a": 1}), widget({"a": 2, "b": [1], "c": {"x": 1}}))) == [
        HEAD,
        "alice may not change:",
        "  spec.a: 1 -> 2",
        "  spec.b: added [1]",
        '  spec.c: added {"x":1}',
        POLICY,
        WAY_OUT,
    ]


def test_a_removed_field_is_told_with_what_it_was() -> None:
    assert lines(decide(widget({"a": "x"}), widget({})))[2] == '  spec.a: removed, was "x"'


def test_a_creation_a_deletion_and_an_object_that_nobody_manages_are_told_as_such() -> None:
    assert lines(decide(None, widget({}, labels=dict(FLUX_LABELS))))[:2] == [
        'widgets.example.com "w" in namespace "shop" bears the mark of Flux (Kustomization flux-system/shop).',
        "alice may not create it with:",
    ]
    assert lines(decide(widget({}), None)) == [HEAD, "alice may not delete it.", POLICY, WAY_OUT]
    everything = CONFIG + policy(more="  match: {scope: All}")
    assert lines(decide(widget({}, labels={}), None, everything)) == [
        'widgets.example.com "w" in namespace "shop" is protected.',
        "alice may not delete it.",
        POLICY,
        "Ask whoever owns this policy.",
    ]


def test_a_policy_is_told_with_its_description_and_its_message() -> None:
    more = "  severity: high\n  description: Nobody opens a port by hand.\n  message: Ask in channel sre.\n"
    assert lines(decide(widget({"a": 1}), widget({"a": 2}), CONFIG + policy(more=more)))[3:] == [
        "Policy guard (enforce, high): Nobody opens a port by hand.",
        WAY_OUT,
        "Ask in channel sre.",
    ]


def test_an_impersonated_service_account_is_told_why_it_is_not_trusted() -> None:
    flux = service_account("flux-system", "kustomize-controller", uid="")
    assert lines(decide(widget({"a": 1}), widget({"a": 2}), user=flux))[1] == (
        "system:serviceaccount:flux-system:kustomize-controller (without a token of its own) may not change:"
    )


def test_whoever_may_break_glass_is_told_how_and_the_others_whom_to_ask() -> None:
    old, new = widget({"a": 1}), widget({"a": 2})
    assert lines(decide(old, new, GLASS + policy()))[-1] == "In an incident, ask group sre to break glass."
    assert lines(decide(old, new, GLASS + policy(), person("bob", "sre")))[-2:] == [
        "In an incident, break the glass first (a reason that matches ^INC-[0-9]+: .+):",
        "  kubectl annotate --overwrite widgets.example.com w -n shop driftwall.io/break-glass='REASON'",
    ]


def test_a_name_that_a_shell_would_act_upon_is_quoted_in_the_command() -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "x; rm -rf ~", "labels": dict(FLUX_LABELS)},
    }
    policies = GLASS + policy(protect="{fields: [rules]}")
    told = lines(decide({**role, "rules": []}, {**role, "rules": [1]}, policies, person("bob", "sre")))
    assert told[-1] == (
        "  kubectl annotate --overwrite clusterroles.rbac.authorization.k8s.io 'x; rm -rf ~' "
        "driftwall.io/break-glass='REASON'"
    )


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ABSENT, "(none)"),
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (1.5, "1.5"),
        ("", '""'),
        ("x", '"x"'),
        ("first\nsecond", '"first…"'),
        ("\nsecond", '"…"'),
        ("\x1b[31mred\x07", '"\\x1b[31mred\\x07"'),
        ("\u202eevil", '"\\u202eevil"'),
        ("tab\tand\rreturn", '"tab\\tand\\rreturn"'),
        ("x" * 200, '"' + "x" * 99 + '…"'),
        ({}, "{}"),
        ([], "[]"),
        ({"a": 1, "b": "x"}, '{"a":1,"b":"x"}'),
        ([1, 2], "[1,2]"),
        ({"a": {}}, "(1 field)"),
        ([[], []], "(2 items)"),
        (["a\nb"], "(1 item)"),
        (list(range(5)), "(5 items)"),
        (["x" * 200], "(1 item)"),
    ],
)
def test_a_value_is_shown_short_on_one_line_and_without_control_characters(value: Any, text: str) -> None:
    assert value_text(value, secret=False) == text


@pytest.mark.parametrize("value", [None, 0, "", "x", {"a": 1}, ["a"], True])
def test_no_value_of_a_secret_is_shown(value: Any) -> None:
    assert value_text(value, secret=True) == "(hidden)"
    assert value_text(ABSENT, secret=True) == "(none)"


def test_neither_the_data_nor_last_applied_of_a_secret_is_told() -> None:
    def secret(canary: str) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "s",
                "namespace": "shop",
                "labels": dict(FLUX_LABELS),
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": canary},
            },
            "data": {"password": canary},
        }

    policies = CONFIG + policy() + policy("warns", "warn")
    decision = decide(secret("canary-1"), secret("canary-2"), policies)
    assert lines(decision) == [
        'secrets "s" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).',
        "alice may not change:",
        "  data.password: (hidden) -> (hidden)",
        "  metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']: (hidden) -> (hidden)",
        POLICY,
        WAY_OUT,
    ]
    assert "canary" not in repr(decision)
    warned = decide(secret("canary-1"), secret("canary-2"), CONFIG + policy("warns", "warn"))
    assert "canary" not in repr(warned)


# ── length ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fields_that_do_not_fit_are_counted_and_what_is_said_around_them_stays() -> None:
    old, new = ({f"field-{number:03}": value for number in range(100)} for value in ("old", "new"))
    decision = decide(widget(old), widget(new))
    told = lines(decision)
    assert len(decision.message) <= MAX_MESSAGE
    assert told[:3] == [HEAD, "alice may not change:", '  spec.field-000: "old" -> "new"']
    shown = [line for line in told if line.startswith("  spec.")]
    assert told[2 + len(shown) :] == [f"  … and {100 - len(shown)} more; the log has them all", POLICY, WAY_OUT]
    assert len(decision.violations[0].fields) == 100


def test_the_last_field_is_shown_where_there_is_room_for_it() -> None:
    decision = decide(widget({"a": 1, "b": 1}), widget({"a": 2, "b": 2}))
    assert lines(decision)[2:4] == ["  spec.a: 1 -> 2", "  spec.b: 1 -> 2"]


def test_a_single_field_that_is_too_long_is_cut() -> None:
    old, new = widget({"k" * 5000: "x" * 5000}), widget({"k" * 5000: "y" * 5000})
    decision = decide(old, new)
    assert lines(decision)[2] == f'  spec.{"k" * 154}…: "{"x" * 99}…" -> "{"y" * 99}…"'


def test_many_policies_with_long_texts_leave_a_message_of_bounded_length() -> None:
    long = f"  description: {'d' * 500}\n  message: {'m' * 500}\n"
    policies = CONFIG + "".join(policy(f"policy-{number}-{'n' * 200}", more=long) for number in range(20))
    decision = decide(widget({"a": 1}), widget({"a": 2}), policies)
    assert len(decision.message) <= MAX_MESSAGE
    assert len(decision.violations) == 20


def test_a_warning_is_one_line_of_bounded_length() -> None:
    warns = CONFIG + policy("warns", "warn")
    about = (
        'driftwall: widgets.example.com "w" in namespace "shop" is managed by Flux (Kustomization flux-system/shop);'
    )
    changed = decide(widget({"a": 1}), widget({"a": 2}), warns)
    assert changed.warnings == (f"{about} policy warns warns of: spec.a",)
    assert decide(widget({}), None, warns).warnings == (f"{about} policy warns warns of: delete",)
    old, new = ({f"new\nline {number}": value for number in range(100)} for value in (1, 2))
    (warning,) = decide(widget(old), widget(new), warns).warnings
    assert len(warning) == MAX_WARNING
    assert warning.isprintable()


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_from_outside_breaks_a_line_or_the_limit(user: str, key: str, value: str, application: str) -> None:
    labels = {
        "kustomize.toolkit.fluxcd.io/name": application + "x",
        "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    }
    old, new = widget({key: 1}, labels=labels), widget({key: value}, labels=labels)
    decision = decide(old, new, user={"username": user + "x", "uid": "u"})
    assert len(decision.message) <= MAX_MESSAGE
    assert [line for line in lines(decision) if not line.isprintable()] == []
    assert len(lines(decision)) == 5
