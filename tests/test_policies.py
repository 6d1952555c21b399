"""The policies that come with driftwall do what the cases beside them say."""

import pytest

from webhook import bundled
from webhook.case_results import run_case
from webhook.cases import Case, Suite, find_suites
from webhook.policy_compiler import check_documents, load

SUITES = find_suites(bundled.policies())
CASES = [(suite, case) for suite in SUITES for case in suite.cases]


@pytest.mark.parametrize(("suite", "case"), CASES, ids=[f"{suite.name}: {case.name}" for suite, case in CASES])
def test_a_case_gets_the_verdict_beside_its_policy(suite: Suite, case: Case) -> None:
    result = run_case(suite, case)
    assert (result.error, result.differences) == ("", ())


def test_every_policy_that_comes_with_driftwall_has_a_case_that_is_denied_and_one_that_is_allowed() -> None:
    verdicts = {suite.name: {case.allowed for case in suite.cases} for suite in SUITES}
    folders = {path.parent.name for path in bundled.policies().glob("*/policy.yaml")}
    assert folders >= {"declared-fields", "opened-ports"}
    assert verdicts == {name: {True, False} for name in folders}


def test_every_recorded_review_beside_a_policy_is_in_a_case() -> None:
    there = set(bundled.policies().rglob("cases/*.json"))
    assert there == {case.file for _, case in CASES}


def test_the_policies_that_come_with_driftwall_have_no_lint_errors() -> None:
    assert check_documents([bundled.policies()]) == (len(SUITES), [])


def test_the_policies_that_come_with_driftwall_load_as_one_set() -> None:
    assert [policy.name for policy in load(bundled.policies()).policies] == sorted(suite.name for suite in SUITES)
