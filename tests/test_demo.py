"""``driftwall demo`` as a newcomer runs it: in a process of its own, over HTTPS."""

import json
import os
import subprocess
import sys
from pathlib import Path

from webhook import bundled
from webhook.cases import find_suites

ROOT = Path(__file__).parents[1]
CASES = [case for suite in find_suites(bundled.policies()) for case in suite.cases]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "webhook", "demo", *arguments]
    # Settings of a webhook that runs for real are nothing to the demo.
    environment = os.environ | {"DRIFTWALL_LISTEN": "203.0.113.1:1", "KUBECONFIG": "nowhere"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=120)


def test_the_demo_refuses_manual_edits_and_lets_git_through() -> None:
    shown = demo()
    denied = sum(not case.allowed for case in CASES)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("DENIED") == denied
    assert f"{denied} manual edits refused, {len(CASES) - denied} writes let through" in shown.stdout
    assert (
        'Error from server (Forbidden): admission webhook "validate.driftwall.io" denied the request:' in shown.stdout
    )
    assert "\x1b" not in shown.stdout


def test_the_demo_in_json_has_a_line_for_each_review_in_order() -> None:
    lines = [json.loads(line) for line in demo("-o", "json").stdout.splitlines()]
    assert [(line["case"], line["allowed"]) for line in lines] == [(case.name, case.allowed) for case in CASES]
    assert all(line["allowed"] == line["expected"] for line in lines)
    assert all(bool(line["message"]) != line["allowed"] for line in lines)
