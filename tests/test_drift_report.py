"""What a scan prints: fit for its terminal, whole for programs, and without a Secret's values."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from webhook import drift_exchange, drift_patch, drift_report, policy_report
from webhook.admission import ObjectRef
from webhook.diff import ABSENT
from webhook.drift_model import EXTRA, MISSING, DriftedField, DriftedObject, Target
from webhook.fieldpath import Item, format_path
from webhook.fieldpath import Path as Place
from webhook.tools import ManagedBy

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FLUX = ManagedBy(tool="flux", kind="Kustomization", application="flux-system/shop")
CONTAINER: Place = ("spec", "template", "spec", "containers", Item((("name", "web"),)))


def field(place: Place, live: Any, declared: Any = ABSENT, change: str = "set", **more: Any) -> DriftedField:
    values: dict[str, Any] = {"manager": "kubectl-edit", "at": NOW - timedelta(minutes=7), "policies": ("declared",)}
    return DriftedField(
        path=format_path(place),
        place=place,
        change=change,
        declared=declared,
        live=live,
        evidence="managedFields",
        **{**values, "severity": "high", **more},
    )


def drifted(*fields: DriftedField, kind: str = "Deployment", **more: Any) -> DriftedObject:
    group = "apps" if kind == "Deployment" else ""
    ref = ObjectRef(group, "v1", f"{kind.lower()}s", "shop", "web")
    return DriftedObject(target=Target(ref=ref, kind=kind), managed_by=FLUX, fields=fields, **more)


IMAGE = field((*CONTAINER, "image"), "registry.example.com/shop/web:hotfix", "registry.example.com/shop/web:1.4.2")
LONG = field(("metadata", "annotations", f"example.com/{'a' * 60}"), "x" * 300)
OBJECTS = [drifted(replace(IMAGE, change="changed"), LONG), drifted(state=MISSING, kind="Service")]


def plain(text: str, colour: str) -> str:
    return text


def red(text: str, colour: str) -> str:
    return f"{colour}{text}\x1b[0m"


@pytest.mark.parametrize("width", [40, 80, 119, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    lines = drift_report.table(OBJECTS, NOW, width=width, paint=plain)
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    for part in (IMAGE.path, LONG.path, "kubectl-edit", "7m"):
        assert part in text


def test_on_a_wide_terminal_a_field_is_one_line_and_on_a_narrow_one_three() -> None:
    (wide,) = [line for line in drift_report.table(OBJECTS[:1], NOW, width=200, paint=plain) if IMAGE.path in line]
    assert wide.split("  ")[1] == IMAGE.path
    assert wide.endswith("kubectl-edit  7m")
    narrow = drift_report.table([drifted(replace(IMAGE, change="changed"))], NOW, width=80, paint=plain)
    assert narrow == [
        "deployments.apps shop/web  Flux (Kustomization flux-system/shop)",
        "  spec.template.spec.containers[name=web].image",
        '    "registry.example.com/shop/web:1.4.2" -> "registry.example.com/shop/web:hotf',
        '      ix"',
        "    by kubectl-edit, 7m ago",
    ]


def test_colour_takes_no_room() -> None:
    painted = drift_report.table(OBJECTS, NOW, width=200, paint=red)
    assert "\x1b" in "".join(painted)
    bare = [re.sub("\x1b\\[[0-9]+m", "", line) for line in painted]
    assert bare == drift_report.table(OBJECTS, NOW, width=200, paint=plain)


def test_control_characters_of_names_and_values_are_escaped_everywhere() -> None:
    evil = drifted(field(("metadata", "annotations", "a\x1b[2J"), "b\x1b[2J", manager="kubectl\x1b[2J"))
    outputs = [
        *drift_report.table([evil], NOW, width=80, paint=plain),
        *drift_report.table([evil], NOW, width=200, paint=plain),
        *drift_report.markdown([evil], NOW, managed=1, scanned=1),
        drift_report.as_json([evil], now=NOW, managed=1, scanned=1, incomplete=[], undecided={}),
        drift_exchange.sarif([evil]),
        drift_exchange.junit([evil], {}),
        drift_patch.patches([evil]),
    ]
    assert "\x1b" not in "".join(outputs)


def test_no_value_of_a_secret_is_told() -> None:
    hidden = drifted(field(("data", "password"), "c2VjcmV0", "Z2l0"), kind="Secret")
    outputs = [
        *drift_report.table([hidden], NOW, width=200, paint=plain),
        *drift_report.markdown([hidden], NOW, managed=1, scanned=1),
        drift_report.as_json([hidden], now=NOW, managed=1, scanned=1, incomplete=[], undecided={}),
        drift_exchange.sarif([hidden]),
        drift_exchange.junit([hidden], {}),
        drift_patch.patches([hidden]),
        json.dumps(policy_report.reports([hidden], {}, NOW)),
    ]
    for output in outputs:
        assert "c2VjcmV0" not in output
        assert "Z2l0" not in output
    assert yaml.safe_load(drift_patch.patches([hidden])) is None


def test_a_patch_holds_what_is_live_and_null_for_what_is_gone() -> None:
    env = (*CONTAINER, "env", Item((("name", "LEVEL"),)))
    obj = drifted(
        IMAGE,
        field((*env, "value"), "debug"),
        field(("spec", "paused"), ABSENT, True, "removed"),
        field(("metadata", "labels", "a/b"), "c"),
    )
    assert yaml.safe_load(drift_patch.patches([obj])) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"a/b": "c"}},
        "spec": {
            "paused": None,
            "template": {
                "spec": {
                    "containers": [
                        {"name": "web", "image": IMAGE.live, "env": [{"name": "LEVEL", "value": "debug"}]},
                    ]
                }
            },
        },
    }


def test_markdown_of_a_pull_request_is_one_table_whatever_the_values_hold() -> None:
    tricky = drifted(field(("data", "a"), "x | `y` | <b>"), kind="ConfigMap")
    row = drift_report.markdown([tricky], NOW, managed=3, scanned=9)[-1]
    cells = row.replace("\\|", "").split("|")
    assert len(cells) == 8
    assert '`` set to "x \\| `y` \\| <b>" ``' in row


def test_a_report_is_bounded_and_its_summary_is_not() -> None:
    many = [drifted(*(field(("data", f"key-{n}"), "v" * 2000) for n in range(400)), kind="ConfigMap") for _ in range(3)]
    report = policy_report.reports(many, {("shop", "configmaps"): 5}, NOW)["shop"]
    assert len(report["results"]) == policy_report.MAX_RESULTS
    assert report["summary"] == {"pass": 2, "fail": 1200, "warn": 0, "error": 0, "skip": 0}
    # etcd takes 1.5 MiB.
    assert len(json.dumps(report)) < 1024 * 1024


def test_an_extra_object_and_a_missing_one_say_so() -> None:
    missing, extra = drifted(state=MISSING), drifted(state=EXTRA)
    lines = drift_report.table([missing, extra], NOW, width=80, paint=plain)
    assert lines[1::2] == [
        "  missing: it is in the manifests and not in the cluster",
        "  extra: it is in the cluster and not in the manifests",
    ]
    assert drift_report.summary([missing, extra], 5, 7) == (
        "2 objects have drifted, in 0 fields; 5 managed objects of 7 objects looked at."
    )


def test_the_metric_of_the_documentation_is_in_the_reports() -> None:
    page = (Path(__file__).parents[1] / "deploy" / "SCAN.md").read_text()
    config = yaml.safe_load(page[page.index("kind: CustomResourceStateMetrics") :].partition("```")[0])
    cluster = replace(OBJECTS[0].target, ref=OBJECTS[0].target.ref._replace(namespace=""))
    reports = policy_report.reports([*OBJECTS, replace(OBJECTS[0], target=cluster)], {}, NOW)
    by_kind = {report["kind"]: report for report in reports.values()}
    for each in config["spec"]["resources"]:
        report = by_kind.pop(each["groupVersionKind"]["kind"])
        assert report["apiVersion"] == f"{each['groupVersionKind']['group']}/{each['groupVersionKind']['version']}"
        (metric,) = each["metrics"]
        for place in (*each["labelsFromPath"].values(), metric["each"]["gauge"]["path"]):
            value: Any = report
            for step in place:
                value = value[step]
            assert value in ("driftwall-scan", "shop", 2, 3)
    assert by_kind == {}
