from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admitting import BY, DRIFT, EXPIRES, LABEL, REASON, SAM, admit, looked_up, mutated
from tests.patches import applied
from tests.reviews import ALICE, FLUX, FLUX_LABELS, NOW, RECORDINGS, Cluster, Json, person, plain, review, snapshot_of
from webhook import tags
from webhook.admission import Review, parse
from webhook.decision import Decision, decide
from webhook.mutation import Mutation
from webhook.policy import Snapshot
from webhook.policy_compiler import load

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


def policy(name: str, mode: str, fields: str, scope: str = "Managed") -> str:
    return f"""
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {{name: {name}}}
spec: {{mode: {mode}, match: {{scope: {scope}}}, protect: {{fields: [{fields}]}}}}
"""


EVERYTHING = snapshot_of(CONFIG + policy("all", "tag", "data.*", "All") + policy("some", "enforce", "guarded.*"))


def thing(data: Any, **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "shop", **metadata},
        "data": data,
    }


OLD, NEW = thing({"a": "1"}), thing({"a": "2"})
MARK = '{"by":"alice","at":"2026-11-22T07:00:00Z","policy":"all","fields":["data.a"],"reason":""}'


# ── a patch that always applies ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("metadata", "made"),
    [
        ({"labels": {"a": "b"}, "annotations": {"c": "d"}}, []),
        ({"labels": {}, "annotations": {}}, []),
        ({"labels": {"a": "b"}}, ["/metadata/annotations"]),
        ({"annotations": {"c": "d"}}, ["/metadata/labels"]),
        ({}, ["/metadata/labels", "/metadata/annotations"]),
        ({"labels": None, "annotations": None}, ["/metadata/labels", "/metadata/annotations"]),
        ({"labels": [], "annotations": "x"}, ["/metadata/labels", "/metadata/annotations"]),
    ],
)
def test_a_map_that_is_not_there_is_made_first(metadata: Json, made: list[str]) -> None:
    written = review(thing({"a": "1"}, **metadata), thing({"a": "2"}, **metadata), user=ALICE)
    patch = mutated(written, EVERYTHING, Cluster()).patch
    assert [operation["path"] for operation in patch if operation["value"] == {}] == made
    patched = applied(patch, thing({"a": "2"}, **metadata))
    assert patched["metadata"]["labels"] == {**(metadata.get("labels") or {}), LABEL: "true"}
    assert patched["metadata"]["annotations"] == (
        {**metadata["annotations"], DRIFT: MARK} if isinstance(metadata.get("annotations"), dict) else {DRIFT: MARK}
    )


@pytest.mark.parametrize("metadata", [None, [], "x"])
def test_metadata_that_is_none_is_made_first(metadata: Any) -> None:
    written = review(OLD, NEW, user=ALICE)
    bare = {**NEW, "metadata": metadata}
    patch = mutated(written.with_new(bare), EVERYTHING, Cluster()).patch
    assert [operation["path"] for operation in patch][:2] == ["/metadata", "/metadata/labels"]
    assert applied(patch, bare)["metadata"]["labels"] == {LABEL: "true"}


def test_the_operations_are_those_of_the_rfc() -> None:
    assert mutated(review(OLD, NEW, user=ALICE), EVERYTHING, Cluster()).patch == (
        {"op": "add", "path": "/metadata/labels", "value": {}},
        {"op": "add", "path": "/metadata/labels/driftwall.io~1drifted", "value": "true"},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/driftwall.io~1drift", "value": MARK},
    )
    tagged = thing({"a": "1"}, labels={LABEL: "true"}, annotations={DRIFT: MARK})
    assert mutated(review(tagged, tagged, user=FLUX), EVERYTHING, Cluster()).patch == (
        {"op": "remove", "path": "/metadata/labels/driftwall.io~1drifted"},
        {"op": "remove", "path": "/metadata/annotations/driftwall.io~1drift"},
    )


def test_what_is_so_already_is_not_written_again() -> None:
    half = thing({"a": "2"}, labels={LABEL: "true"})
    assert [each["path"] for each in mutated(review(OLD, half, user=ALICE), EVERYTHING, Cluster()).patch] == [
        "/metadata/annotations",
        "/metadata/annotations/driftwall.io~1drift",
    ]
    whole = thing({"a": "2"}, labels={LABEL: "true"}, annotations={DRIFT: MARK})
    assert mutated(review(OLD, whole, user=ALICE), EVERYTHING, Cluster()).patch == ()
    # Called again by another replica, a moment later or with its clock behind.
    for seconds in (-60, 60):
        again = mutated(review(OLD, whole, user=ALICE), EVERYTHING, Cluster(), NOW + timedelta(seconds=seconds))
        assert again.patch == ()


# ── no patch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_denied_write_gets_no_patch_and_is_told_to_be_denied() -> None:
    old, new = ({**thing({}, labels=FLUX_LABELS), "guarded": {"a": value}} for value in (1, 2))
    mutation = mutated(review(old, new, user=ALICE), EVERYTHING, Cluster())
    assert (mutation.patch, mutation.denied) == ((), True)
    broken = mutated(
        review(old, {**new, "metadata": {**new["metadata"], "annotations": {REASON: "x"}}}), EVERYTHING, Cluster()
    )
    assert (broken.patch, broken.denied) == ((), True)


def test_a_write_that_concerns_nothing_gets_no_patch() -> None:
    for user in (ALICE, SAM, FLUX, person("system:apiserver")):
        assert (
            mutated(review(OLD, thing({"a": "1"}, labels={"x": "y"}), user=user), EVERYTHING, Cluster()) == Mutation()
        )


MARKED = thing({"a": "1"}, labels={LABEL: "true", **FLUX_LABELS}, annotations={DRIFT: MARK, REASON: "x"})


@pytest.mark.parametrize("user", [ALICE, SAM, FLUX], ids=lambda user: user["username"])
def test_a_deletion_a_subresource_and_a_dry_run_get_no_patch(user: Json) -> None:
    changed = {**MARKED, "data": {"a": "2"}}
    for written in (
        review(MARKED, None, user=user),
        review(MARKED, changed, user=user, subresource="status"),
        review(OLD, changed, user=user, subresource="status"),
        review(None, changed, user=user, subresource="binding"),
        review(MARKED, changed, user=user, dry_run=True),
        review(None, changed, user=user, dry_run=True),
        review(OLD, MARKED, user=user, dry_run=True),
    ):
        assert mutated(written, EVERYTHING, Cluster()).patch == ()


def test_a_system_writer_gets_no_patch() -> None:
    copied = thing({"a": "2"}, annotations={REASON: "x", BY: "sam", EXPIRES: "2026-11-22T08:00:00Z", DRIFT: MARK})
    for old in (None, OLD):
        assert (
            mutated(review(old, copied, user=person("system:kube-controller-manager")), EVERYTHING, Cluster())
            == Mutation()
        )


def test_in_an_exempt_namespace_a_person_gets_no_patch() -> None:
    old, new = ({**each, "metadata": {**each["metadata"], "namespace": "kube-system"}} for each in (OLD, NEW))
    assert mutated(review(old, new, user=ALICE), EVERYTHING, Cluster()) == Mutation()


def test_what_an_autoscaler_is_pointed_at_is_not_what_is_marked() -> None:
    policies = snapshot_of(CONFIG + policy("replicas", "tag", "spec.replicas"))
    web: Json = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "labels": FLUX_LABELS},
        "spec": {"replicas": 2},
    }
    pointed = admit(review(None, autoscaler(), user=ALICE), policies, web)
    assert (pointed.decision.mode, pointed.patch) == ("tag", ())


def autoscaler() -> Json:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "mine", "namespace": "shop"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 9},
    }


# ── over all that was recorded ───────────────────────────────────────────────────────────────────────────────────────

REFERENCE = (RECORDINGS / "reference-policies.yaml").read_text()


@cache
def snapshots() -> dict[str, Snapshot]:
    """The reference policies as they are, and in each other mode; and all children, too."""
    children = "declared: true\n    children: true"
    return {
        "enforce": load(RECORDINGS / "reference-policies.yaml"),
        **{
            mode: snapshot_of(REFERENCE.replace("mode: enforce", f"mode: {mode}")) for mode in ("tag", "warn", "dryRun")
        },
        "children": snapshot_of(REFERENCE.replace("mode: enforce", "mode: tag").replace("declared: true", children)),
    }


def in_order() -> Iterator[tuple[str, bytes, Cluster]]:
    """Each recording with the cluster as it was before."""
    cluster = Cluster()
    for file in sorted(RECORDINGS.glob("*/*.json")):
        body = file.read_bytes()
        yield str(file.relative_to(RECORDINGS)), body, cluster
        cluster.remember(parse(body))


def verdict(written: Review, snapshot: Snapshot, cluster: Cluster) -> Decision:
    return looked_up(decide, written, snapshot, cluster, NOW, [])


OURS = {*tags.PATHS, *(f"metadata.annotations['{key}']" for key in (REASON, BY, EXPIRES))}


def touched_by(decision: Decision) -> set[str]:
    return {change.path for violation in decision.violations for change in violation.fields}


def besides(decision: Decision) -> set[str]:
    """What is not in the maps that the patch writes; a map that it makes is told of in other words."""
    return {path for path in touched_by(decision) if not path.startswith(("metadata.labels", "metadata.annotations"))}


def assert_sound(written: Review, snapshot: Snapshot, cluster: Cluster) -> Mutation:
    """The patch applies, is complete, and leads to the same verdict; what it writes violates nothing."""
    mutation = mutated(written, snapshot, cluster)
    unmutated = verdict(written, snapshot, cluster)
    assert not (mutation.denied and (unmutated.allowed or mutation.patch))
    if not mutation.patch:
        return mutation
    assert not unpatched(written)
    assert written.new is not None
    before = plain(written.new)
    patched = written.with_new(applied(mutation.patch, before))
    assert plain(written.new) == before
    assert mutated(patched, snapshot, cluster).patch == ()
    after = verdict(patched, snapshot, cluster)
    assert after.allowed
    # What a person does to them in mode warn is still that person's.
    assert touched_by(after) & OURS <= touched_by(unmutated)
    if after.mode == "tag":
        assert touched_by(after).isdisjoint(OURS)
    if unmutated.allowed:
        assert besides(after) == besides(unmutated)
        assert after.mode in {unmutated.mode, None}
    return mutation


def unpatched(written: Review) -> bool:
    return written.dry_run or bool(written.subresource) or written.operation not in ("CREATE", "UPDATE")


@pytest.mark.parametrize("policies", ["enforce", "tag", "warn", "dryRun", "children"])
def test_the_patch_of_every_recorded_write_is_sound(policies: str) -> None:
    snapshot = snapshots()[policies]
    patched = {file for file, body, cluster in in_order() if assert_sound(parse(body), snapshot, cluster).patch}
    by_hand = {
        "18-break-glass-annotation/118-sre-update-deployment.json",
        "19-break-glass-and-change/120-sre-update-configmap.json",
    }
    if policies in ("tag", "children"):
        assert patched > by_hand
    else:
        assert patched == by_hand


def test_no_value_of_a_recorded_secret_is_in_a_patch() -> None:
    secrets = ("bm90LWEtcmVhbC1zZWNyZXQ", "not-a-real-secret", "YWxzby1ub3QtcmVhbA", "also-not-real")
    patches = "".join(
        json.dumps(mutated(parse(body), snapshots()[policies], cluster).patch)
        for policies in ("enforce", "tag")
        for _, body, cluster in in_order()
    )
    assert "09-edit-secret" not in patches
    assert [secret for secret in secrets if secret in patches] == []
    assert "data.password" in patches


_TEXTS = st.sampled_from(
    ["", "x", "true", "INC-1: y", "sre", "alice", "2026-11-22T08:00:00Z", "2099-01-01T00:00:00Z", MARK]
)
_TOUCHES = st.dictionaries(st.sampled_from([LABEL, DRIFT, REASON, BY, EXPIRES, "a/b~c~1d", "note"]), st.none() | _TEXTS)


def touched(obj: Json, labels: Json, annotations: Json) -> Json:
    metadata = dict(obj.get("metadata") or {})
    for name, touches in (("labels", labels), ("annotations", annotations)):
        there = dict(metadata.get(name) or {})
        for key, value in touches.items():
            if value is None:
                there.pop(key, None)
            else:
                there[key] = value
        metadata.pop(name, None)
        if there:
            metadata[name] = there
    return {**obj, "metadata": metadata}


@cache
def at_the_end() -> tuple[list[Json], Cluster]:
    """The recorded reviews that bring an object, and the cluster as it was after the last."""
    envelopes: list[Json] = []
    cluster = Cluster()
    for _, body, cluster in in_order():  # noqa: B007 - it is one and the same
        envelope = msgspec.json.decode(body)
        if envelope["request"]["object"] is not None and envelope["request"]["kind"]["kind"] != "Scale":
            envelopes.append(envelope)
    return envelopes, cluster


@given(data=st.data())
def test_the_patch_of_whatever_is_done_to_our_labels_and_annotations_is_sound(data: st.DataObject) -> None:
    envelopes, cluster = at_the_end()
    envelope = data.draw(st.sampled_from(envelopes))
    request = dict(envelope["request"])
    for side in ("oldObject", "object"):
        if request[side] is not None:
            request[side] = touched(request[side], data.draw(_TOUCHES), data.draw(_TOUCHES))
    request["userInfo"] = data.draw(st.sampled_from([request["userInfo"], ALICE, SAM, FLUX]))
    written = parse(msgspec.json.encode({**envelope, "request": request}))
    assert_sound(written, snapshots()[data.draw(st.sampled_from(sorted(snapshots())))], cluster)
