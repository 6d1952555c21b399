"""The policies that come with driftwall do what the cases beside them say."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from webhook import bundled
from webhook.admission import parse
from webhook.cases import Case, Suite, find_suites
from webhook.errors import PolicyError
from webhook.offline import RecordedObjects, decide_offline
from webhook.policy import Snapshot
from webhook.policy_compiler import check_documents, load

SUITES = find_suites(bundled.policies())
CASES = [(suite, case) for suite in SUITES for case in suite.cases]


def policies_of(suite: Suite) -> Snapshot:
    (path,) = suite.policies
    return load(path)


@pytest.mark.parametrize(("suite", "case"), CASES, ids=[f"{suite.name}: {case.name}" for suite, case in CASES])
def test_a_case_gets_the_verdict_beside_its_policy(suite: Suite, case: Case) -> None:
    review = parse(case.review.read_bytes())
    decision = decide_offline(review, policies_of(suite), RecordedObjects(), datetime.now(UTC))
    fields = [change.path for violation in decision.violations for change in violation.fields]
    assert decision.allowed == case.allowed
    assert [violation.name for violation in decision.violations] == list(case.policies or ())
    assert fields == list(case.fields or ())


def test_every_policy_that_comes_with_driftwall_has_a_case_that_is_denied_and_one_that_is_allowed() -> None:
    verdicts = {suite.name: {case.allowed for case in suite.cases} for suite in SUITES}
    folders = {path.parent.name for path in bundled.policies().glob("*/policy.yaml")}
    assert folders >= {"declared-fields", "opened-ports"}
    assert verdicts == {name: {True, False} for name in folders}


def test_every_recorded_review_beside_a_policy_is_in_a_case() -> None:
    there = set(bundled.policies().rglob("cases/*.json"))
    assert there == {case.review for _, case in CASES}


def test_the_policies_that_come_with_driftwall_have_no_lint_errors() -> None:
    assert check_documents([bundled.policies()]) == (len(SUITES), [])


def test_the_policies_that_come_with_driftwall_load_as_one_set() -> None:
    assert [policy.name for policy in load(bundled.policies()).policies] == sorted(suite.name for suite in SUITES)


def test_a_file_of_cases_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "driftwall-test.yaml"
    file.write_text("kind: DriftPolicy\n")
    with pytest.raises(PolicyError) as refused:
        find_suites(tmp_path)
    assert str(refused.value) == f"{file}: must hold one document of kind DriftPolicyTest"


def test_a_case_that_lacks_a_key_is_told_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "driftwall-test.yaml"
    file.write_text("kind: DriftPolicyTest\nmetadata: {name: x}\npolicies: []\ncases: [{name: a, review: b}]\n")
    with pytest.raises(PolicyError) as refused:
        find_suites(tmp_path)
    assert str(refused.value) == f"{file}: a case or the file lacks 'expect'"
