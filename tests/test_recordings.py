from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.reviews import NOW, RECORDINGS, Cluster
from webhook.admission import Review, parse
from webhook.audit import record
from webhook.decision import Decision
from webhook.messages import MAX_MESSAGE
from webhook.policy_compiler import load


class Row(NamedTuple):
    file: str
    verdict: str
    policies: str


def rows() -> Iterator[Row]:
    with (RECORDINGS / "expected.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            yield Row(row["file"], row["verdict"], row["policies"])


ROWS = tuple(rows())

# user -> how the decision classes it
WRITERS = {
    "alice": "untrusted",
    "sre": "untrusted",
    "system:apiserver": "system",
    "system:serviceaccount:argocd:argocd-application-controller": "trusted:argocd",
    "system:serviceaccount:flux-system:helm-controller": "trusted:flux",
    "system:serviceaccount:flux-system:kustomize-controller": "trusted:flux",
    "system:serviceaccount:kube-system:deployment-controller": "system",
    "system:serviceaccount:kube-system:endpoint-controller": "system",
    "system:serviceaccount:kube-system:endpointslice-controller": "system",
    "system:serviceaccount:kube-system:generic-garbage-collector": "system",
    "system:serviceaccount:kube-system:horizontal-pod-autoscaler": "automation:hpa",
    "system:serviceaccount:kube-system:namespace-controller": "system",
    "system:serviceaccount:kube-system:replicaset-controller": "system",
    "system:serviceaccount:kube-system:root-ca-cert-publisher": "system",
    "system:serviceaccount:kube-system:service-account-controller": "system",
}
IMPERSONATED = "43-impersonate/214-kustomize-controller-update-deployment.json"


class Decided(NamedTuple):
    review: Review
    decision: Decision


@pytest.fixture(scope="module")
def decided() -> dict[str, Decided]:
    """Every recording decided in the order of the table, parents looked up among those before."""
    snapshot = load(RECORDINGS / "reference-policies.yaml")
    cluster = Cluster()
    found = {}
    for row in ROWS:
        review = parse((RECORDINGS / row.file).read_bytes())
        found[row.file] = Decided(review, cluster.decide(review, snapshot))
        cluster.remember(review)
    return found


def answer(decision: Decision) -> tuple[str, str]:
    names = ",".join(violation.name for violation in decision.violations)
    return "allow" if decision.allowed else "deny", names


def test_the_table_and_the_recordings_are_the_same_399_files() -> None:
    there = {str(path.relative_to(RECORDINGS)) for path in RECORDINGS.glob("*/*.json")}
    assert len(ROWS) == 399
    assert there == {row.file for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_a_recorded_write_gets_the_verdict_and_the_policies_of_the_table(row: Row, decided: dict[str, Decided]) -> None:
    assert answer(decided[row.file].decision) == (row.verdict, row.policies)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_a_recorded_writer_is_classed_by_who_it_is(row: Row, decided: dict[str, Decided]) -> None:
    review, decision = decided[row.file]
    expected = "untrusted" if row.file == IMPERSONATED else WRITERS[review.user.username]
    assert decision.writer == expected


def test_every_denial_has_a_message_of_at_most_1024_characters_and_no_control_character(
    decided: dict[str, Decided],
) -> None:
    for file, (_, decision) in decided.items():
        assert bool(decision.message) is not decision.allowed, file
        assert len(decision.message) <= MAX_MESSAGE, file
        assert decision.message.replace("\n", "").isprintable(), file


def secrets(folder: Path) -> set[str]:
    """Every value of every recorded Secret, as it is stored and as it was meant."""
    values: set[str] = set()
    for path in folder.glob("*/*.json"):
        request = json.loads(path.read_bytes())["request"]
        for side in ("object", "oldObject"):
            obj = request.get(side) or {}
            if obj.get("kind") == "Secret":
                for value in (obj.get("data") or {}).values():
                    values |= {value, base64.b64decode(value).decode()}
    return values


def test_no_value_of_a_secret_is_told_to_anyone(decided: dict[str, Decided]) -> None:
    canaries = secrets(RECORDINGS)
    assert canaries == {"bm90LWEtcmVhbC1zZWNyZXQ=", "not-a-real-secret", "YWxzby1ub3QtcmVhbA==", "also-not-real"}
    for file, (review, decision) in decided.items():
        told = json.dumps(record(review, decision, time=NOW, seconds=0.0)) + repr(decision)
        assert [canary for canary in canaries if canary in told] == [], file


def test_the_denial_of_an_edited_secret_names_the_key_and_hides_both_values(decided: dict[str, Decided]) -> None:
    assert decided["09-edit-secret/068-alice-update-secret.json"].decision.message == (
        'secrets "web-secret" in namespace "shop" is managed by Flux (Kustomization flux-system/shop).\n'
        "alice may not change:\n"
        "  data.password: (hidden) -> (hidden)\n"
        "Policy declared-fields (enforce, medium): What Git declares, only the GitOps identity changes.\n"
        "Change it in Git and let Flux apply it.\n"
        "In an incident, ask group sre to break glass."
    )


def test_a_recorded_decision_is_the_same_each_time(decided: dict[str, Decided]) -> None:
    snapshot = load(RECORDINGS / "reference-policies.yaml")
    cluster = Cluster()
    for row in ROWS:
        review = parse((RECORDINGS / row.file).read_bytes())
        assert cluster.decide(review, snapshot) == decided[row.file].decision
        cluster.remember(review)
