"""Audit events back to reviews: what each tells of the write, and what cannot be known."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.audited import DEPLOYMENT, IMAGE, SPEC, applied, changed, denied, event, line
from tests.reviews import ALICE, FLUX, FLUX_LABELS, Json, service_account, snapshot_of
from webhook import reconstruction
from webhook.admission import Review
from webhook.decision import Decision, decide
from webhook.replay import (
    AMBIGUOUS,
    AS_SENT,
    AS_TOLD,
    DECIDED,
    FAILED,
    GOOGLE,
    MESSAGES,
    NEVER_SENT,
    READS,
    STAGES,
    Replay,
    Result,
    Skipped,
    Unknown,
    Unreadable,
    Verdict,
)

POLICIES = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata: {name: default}
spec: {breakGlass: {groups: [sre]}}
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: declared-fields}
spec: {mode: enforce, protect: {declared: true}}
"""
SNAPSHOT = snapshot_of(POLICIES)
SCALED = changed(DEPLOYMENT, SPEC, 5, version="11")
MERGE = {"spec": {"replicas": 5}}


def replayed(*events: Json, policies: str = POLICIES, memory: int | None = None) -> list[Result]:
    """The results of all events."""
    replay = Replay(snapshot_of(policies), memory=memory)
    return [result for each in events for result in replay.take(line(each))]


def told(results: Iterable[Result]) -> list[Any]:
    """Of each result what matters: verdict and fields and how it is known, or why there is none."""
    found: list[Any] = []
    for result in results:
        match result:
            case Verdict(outcome=outcome, known=known):
                fields = [path for broken in outcome.broken for path in broken.fields]
                found.append((outcome.verdict, fields, known) if outcome.broken else (outcome.verdict, known))
            case Unknown(reason=reason):
                found.append(reason)
            case Skipped(what=what):
                found.append(what)
    return found


def last(*events: Json, **more: Any) -> Any:
    return told(replayed(*events, **more))[-1]


# ── what was carried out ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["update", "patch"])
def test_what_an_object_was_before_is_in_the_answer_to_the_write_before(verb: str) -> None:
    assert told(replayed(applied(), event(verb, SCALED, sent=MERGE))) == [
        ("allowed", DECIDED),
        ("denied", ["spec.replicas"], DECIDED),
    ]


def test_a_write_is_judged_by_what_was_before_it_and_not_by_what_it_left() -> None:
    back = changed(DEPLOYMENT, SPEC, 2, version="12")
    same = changed(DEPLOYMENT, SPEC, 2, version="12")
    assert told(replayed(applied(), event("update", SCALED), event("update", back), event("update", same))) == [
        ("allowed", DECIDED),
        ("denied", ["spec.replicas"], DECIDED),
        ("denied", ["spec.replicas"], DECIDED),
        ("allowed", DECIDED),
    ]


def test_a_creation_by_apply_or_put_is_one() -> None:
    for verb in ("create", "patch", "update"):
        (result,) = replayed(event(verb, DEPLOYMENT, code=201))
        assert isinstance(result, Verdict)
        assert (result.outcome.operation, result.outcome.verdict) == ("CREATE", "denied")


def test_the_writer_is_whom_the_request_impersonates() -> None:
    borrowed = {key: value for key, value in FLUX.items() if key != "uid"}
    admin = {"username": "admin", "groups": ["system:masters"]}
    assert last(applied(), event("update", SCALED, user=FLUX)) == ("allowed", DECIDED)
    assert last(applied(), event("update", SCALED, user=admin, impersonatedUser=borrowed)) == (
        "denied",
        ["spec.replicas"],
        DECIDED,
    )


def test_a_dry_run_has_a_verdict_and_leaves_nothing_behind() -> None:
    dry = event("patch", SCALED, sent=MERGE, query="dryRun=All")
    results = replayed(applied(), dry, event("patch", SCALED, sent=MERGE))
    assert told(results[1:]) == [("denied", ["spec.replicas"], DECIDED)] * 2
    assert [result.outcome.dry_run for result in results if isinstance(result, Verdict)] == [False, True, False]


def test_a_status_is_judged_by_the_object_that_it_belongs_to() -> None:
    written = changed(DEPLOYMENT, ("status",), {"replicas": 2}, version="11")
    stripped = changed(written, ("metadata", "labels"), {}, version="12")
    events = [applied(), event("update", written, subresource="status"), event("patch", stripped, subresource="status")]
    assert told(replayed(*events))[1:] == [
        ("allowed", DECIDED),
        ("denied", [f"metadata.labels['{key}']" for key in FLUX_LABELS], DECIDED),
    ]


def test_a_deletion_is_judged_by_the_state_before_and_the_next_of_that_name_is_another_object() -> None:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    gone = event("delete", status, obj=DEPLOYMENT)
    other = changed(changed(DEPLOYMENT, SPEC, 7), ("metadata", "uid"), "uid-2", version="20")
    assert told(replayed(applied(), gone, event("update", other))) == [
        ("allowed", DECIDED),
        ("denied", [], DECIDED),
        reconstruction.NO_STATE,
    ]
    # An object with a finalizer is in the answer, and stays.
    held = event("delete", changed(DEPLOYMENT, ("metadata", "deletionTimestamp"), "2026-11-22T06:30:00Z", version="11"))
    assert told(replayed(held, event("update", changed(SCALED, SPEC, 5, version="12")))) == [
        ("denied", [], DECIDED),
        ("denied", ["spec.replicas"], DECIDED),
    ]


@pytest.mark.parametrize("where", ["query", "body"])
def test_a_dry_deletion_deletes_nothing(where: str) -> None:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    options: Json = (
        {"query": "dryRun=All"} if where == "query" else {"sent": {"kind": "DeleteOptions", "dryRun": ["All"]}}
    )
    dry = event("delete", status, obj=DEPLOYMENT, **options)
    assert told(replayed(applied(), dry, event("update", SCALED)))[1:] == [
        ("denied", [], DECIDED),
        ("denied", ["spec.replicas"], DECIDED),
    ]


def test_each_object_of_a_deleted_collection_is_a_write() -> None:
    other = changed(DEPLOYMENT, ("metadata",), {"name": "free", "namespace": "shop", "uid": "uid-2"})
    items = [
        {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")} for obj in (DEPLOYMENT, other)
    ]
    collection = {"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": items}
    made = event("deletecollection", collection, obj=changed(DEPLOYMENT, ("metadata",), {"namespace": "shop"}))
    results = replayed(made)
    assert told(results) == [("denied", [], DECIDED), ("allowed", DECIDED)]
    assert [result.outcome.object for result in results if isinstance(result, Verdict)] == [
        "deployments.apps shop/web",
        "deployments.apps shop/free",
    ]


SCALE: Json = {
    "kind": "Scale",
    "apiVersion": "autoscaling/v1",
    "metadata": {"name": "web", "namespace": "shop", "uid": "uid-1", "resourceVersion": "11"},
    "spec": {"replicas": 5},
}


def test_a_scale_is_judged_by_its_parent_which_is_another_one_after_it() -> None:
    scale = event("patch", SCALE, obj=DEPLOYMENT, sent=MERGE, subresource="scale")
    assert told(replayed(scale)) == [reconstruction.NO_STATE]
    again = changed(SCALE, SPEC, 6, version="12")
    label = changed(SCALED, ("metadata", "labels", "team"), "payments", version="13")
    fields = label["metadata"]["managedFields"][0]["fieldsV1"]
    fields["f:spec"] = {key: value for key, value in fields["f:spec"].items() if key != "f:replicas"}
    label["spec"]["replicas"] = 6
    assert told(
        replayed(
            applied(),
            scale,
            # The number is nobody's after that but whoever scaled's, as the API server has it.
            event("patch", again, obj=DEPLOYMENT, subresource="scale"),
            event("patch", label, sent={"metadata": {"labels": {"team": "payments"}}}),
        )
    )[1:] == [("denied", ["spec.replicas"], DECIDED), ("allowed", DECIDED), ("allowed", DECIDED)]


def test_a_scale_that_changes_nothing_takes_the_number_from_nobody() -> None:
    same = event("update", changed(SCALE, SPEC, 2), obj=DEPLOYMENT, subresource="scale")
    assert last(applied(), same, event("update", changed(SCALED, SPEC, 5, version="12"))) == (
        "denied",
        ["spec.replicas"],
        DECIDED,
    )


POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "uid": "pod-1", "resourceVersion": "5", "labels": FLUX_LABELS},
    "spec": {},
}


def test_an_eviction_is_the_deletion_of_its_pod_which_the_log_has_to_show() -> None:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    eviction = event("create", status, obj=POD, subresource="eviction", sent=None)
    assert told(replayed(eviction)) == [reconstruction.OTHER_OBJECT]
    assert last(event("create", POD, user=FLUX), eviction) == ("denied", [], DECIDED)
    gone = event("delete", status, obj=POD, user=FLUX)
    assert last(event("create", POD, user=FLUX), gone, eviction) == ("allowed", DECIDED)


@pytest.mark.parametrize(("verb", "code"), [("create", 101), ("get", 101), ("get", 200)])
def test_exec_is_a_connection_whatever_its_verb(verb: str, code: int) -> None:
    children = POLICIES.replace("declared: true", "declared: true, children: true")
    connection = event(verb, None, obj=POD, subresource="exec", code=code)
    (result,) = replayed(connection)
    assert isinstance(result, Verdict)
    assert (result.outcome.operation, result.outcome.verdict) == ("CONNECT", "allowed")
    assert told(replayed(connection, policies=children)) == [reconstruction.OTHER_OBJECT]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "uid-1", "controller": True}
    pod = {**POD, "metadata": {**POD["metadata"], "labels": {}, "ownerReferences": [owner]}}
    made = event("create", pod, user=service_account("kube-system", "replicaset-controller"))
    assert last(made, connection, policies=children) == reconstruction.OTHER_OBJECT
    assert last(applied(), made, connection, policies=children) == ("denied", [], DECIDED)


def test_what_driftwall_itself_put_on_the_object_then_is_not_the_writers() -> None:
    marked = copy.deepcopy(SCALED)
    marked["metadata"]["labels"]["driftwall.io/drifted"] = "true"
    marked["metadata"]["annotations"] = {"driftwall.io/drift": '{"by":"alice"}'}
    mutation = '{"configuration":"driftwall","webhook":"mutate.driftwall.io","mutated":true}'
    by_us: Json = {"annotations": {"mutation.webhook.admission.k8s.io/round_0_index_0": mutation}}
    assert last(applied(), event("update", marked, **by_us)) == ("denied", ["spec.replicas"], DECIDED)
    by_hand = last(applied(), event("update", marked))
    assert by_hand[1] == [
        *("metadata.annotations['driftwall.io/drift']", "metadata.labels['driftwall.io/drifted']"),
        "spec.replicas",
    ]


def test_a_glass_is_broken_at_the_time_of_the_write() -> None:
    glass = {
        "driftwall.io/break-glass": "INC-1",
        "driftwall.io/break-glass-by": "sre",
        "driftwall.io/break-glass-expires": "2026-11-22T06:30:00Z",
    }
    opened = changed(DEPLOYMENT, ("metadata", "annotations"), glass)
    change = changed(opened, SPEC, 5, version="11")
    for time, verdict in (("2026-11-22T06:29:59Z", "allowed"), ("2026-11-22T06:30:00Z", "denied")):
        assert last(applied(opened), event("update", change, requestReceivedTimestamp=time))[0] == verdict


# ── what cannot be known ─────────────────────────────────────────────────────────────────────────────────────────────


def test_without_an_earlier_state_it_is_not_known_what_changed() -> None:
    assert told(replayed(event("update", SCALED), event("update", changed(SCALED, SPEC, 6, version="12")))) == [
        reconstruction.NO_STATE,
        ("denied", ["spec.replicas"], DECIDED),
    ]


def test_objects_that_are_given_first_are_the_earlier_state() -> None:
    replay = Replay(SNAPSHOT)
    given = {"kind": "List", "apiVersion": "v1", "items": [DEPLOYMENT, POD]}
    assert told(replay.take(json.dumps(given).encode())) == ["objects", "objects"]
    assert told(replay.take(line(event("update", SCALED)))) == [("denied", ["spec.replicas"], DECIDED)]


def test_a_put_of_another_version_than_the_last_one_shows_a_gap() -> None:
    sent = changed(SCALED, SPEC, 5, version="10")
    assert last(applied(), event("update", changed(SCALED, SPEC, 5, version="12"), sent=sent))[0] == "denied"
    sent["metadata"]["resourceVersion"] = "11"
    assert last(applied(), event("update", changed(SCALED, SPEC, 5, version="12"), sent=sent)) == reconstruction.GAP


def test_an_object_of_the_same_name_and_another_uid_shows_a_gap() -> None:
    other = changed(SCALED, ("metadata", "uid"), "uid-2")
    assert last(applied(), event("patch", other)) == reconstruction.GAP


def test_writes_that_are_logged_in_another_order_than_they_were_stored_in_are_not_compared() -> None:
    late = event("patch", changed(DEPLOYMENT, ("spec", "paused"), True, version="9"))
    assert told(replayed(applied(), late, event("patch", SCALED)))[1:] == [
        reconstruction.ORDER,
        ("denied", ["spec.replicas"], DECIDED),
    ]


def test_two_versions_of_the_api_are_not_compared() -> None:
    beta = changed(SCALED, ("apiVersion",), "apps/v1beta1")
    assert last(applied(), event("patch", beta)) == reconstruction.VERSION


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": DEPLOYMENT["metadata"]},
        {"kind": "Table", "apiVersion": "meta.k8s.io/v1"},
        [],
    ],
)
def test_an_answer_that_is_not_the_object_leaves_the_next_write_unknown_too(answer: Any) -> None:
    assert told(replayed(applied(), event("patch", answer, obj=DEPLOYMENT), event("patch", SCALED)))[1:] == [
        reconstruction.NO_OBJECT,
        reconstruction.NO_STATE,
    ]


def test_a_log_without_managed_fields_does_not_tell_what_is_declared() -> None:
    bare = copy.deepcopy(DEPLOYMENT)
    del bare["metadata"]["managedFields"]
    assert last(applied(bare), event("patch", changed(bare, SPEC, 5, version="11"))) == reconstruction.NO_OWNERSHIP
    ports = POLICIES.replace("declared: true", "fields: [spec.replicas]")
    assert last(applied(bare), event("patch", changed(bare, SPEC, 5, version="11")), policies=ports)[0] == "denied"


def test_at_level_metadata_only_the_writer_can_settle_it() -> None:
    controller = service_account("kube-system", "deployment-controller")

    def at_metadata(user: Json, policies: str = POLICIES) -> Any:
        made = event("patch", None, obj=DEPLOYMENT, user=user, level="Metadata")
        (result,) = told(replayed(made, policies=policies))
        return result

    assert at_metadata(controller) == ("allowed", DECIDED)
    assert at_metadata(FLUX) == ("allowed", DECIDED)
    assert at_metadata(ALICE) == reconstruction.LEVEL
    services = POLICIES.replace("protect:", "match: {resources: [{apiGroups: [''], resources: [services]}]}, protect:")
    assert at_metadata(ALICE, services) == ("allowed", DECIDED)


def test_at_level_request_a_creation_is_judged_by_what_was_sent() -> None:
    created = event("create", None, obj=DEPLOYMENT, sent=DEPLOYMENT, level="Request")
    assert last(created) == ("denied", [f"metadata.labels['{key}']" for key in FLUX_LABELS], AS_SENT)
    assert last(applied(), event("patch", None, obj=DEPLOYMENT, sent=MERGE, level="Request")) == reconstruction.LEVEL


def test_a_token_for_a_trusted_account_is_refused_at_any_level() -> None:
    account: Json = {"kind": "ServiceAccount", "apiVersion": "v1"}
    account |= {"metadata": {"name": "kustomize-controller", "namespace": "flux-system"}}
    for level in ("Metadata", "Request", "RequestResponse"):
        minted = event("create", None, obj=account, subresource="token", level=level)
        (result,) = replayed(minted)
        assert isinstance(result, Verdict)
        assert [broken.name for broken in result.outcome.broken] == ["(guardIdentities)"]


def test_what_tells_of_no_write_is_passed_over() -> None:
    lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "x", "namespace": "y"}}
    events = [
        event("get", None, obj=DEPLOYMENT),
        event("watch", None, obj=DEPLOYMENT),
        event("patch", None, obj=DEPLOYMENT, stage="RequestReceived"),
        event("patch", None, obj=DEPLOYMENT, code=409),
        event("update", lease),
    ]
    assert told(replayed(*events)) == [READS, READS, STAGES, FAILED, NEVER_SENT]
    health = {"kind": "Event", "apiVersion": "audit.k8s.io/v1", "stage": "ResponseComplete", "verb": "get"}
    assert told(replayed(health)) == [READS]


def test_a_list_of_events_is_as_good_as_its_lines() -> None:
    batch = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [applied(), event("update", SCALED)]}
    assert told(replayed(batch)) == [("allowed", DECIDED), ("denied", ["spec.replicas"], DECIDED)]


PLAIN = "I1122 06:00:00.000000       1 controller.go:1] of the control plane, and no event"


def wrapped(text: Any) -> dict[str, Any]:
    """A text as the clouds hand it out: by which way, and the document."""
    message = {"logStreamName": "kube-apiserver-audit-1", "timestamp": 1, "message": text}
    azure = {"time": "2026-11-22T06:00:00Z", "category": "kube-audit", "properties": {"log": text, "stream": "stdout"}}
    return {
        "aws logs get-log-events": {"events": [message], "nextForwardToken": "f/1"},
        "aws logs filter-log-events": {"events": [message], "searchedLogStreams": []},
        "one of these a line": message,
        "a subscription": {"messageType": "DATA_MESSAGE", "logGroup": "/aws/eks/x/cluster", "logEvents": [message]},
        "Logs Insights": [{"@timestamp": "2026-11-22 06:00:00.000", "@message": text}],
        "Azure's storage": azure,
        "Azure's Event Hubs": {"records": [azure]},
        "AzureDiagnostics": [{"Category": "kube-audit", "log_s": text}],
    }


@pytest.mark.parametrize("way", wrapped(""))
def test_what_a_cloud_wraps_an_event_in_is_taken_off(way: str) -> None:
    first, second = (line(each).decode() for each in (applied(), event("update", SCALED)))
    documents = [wrapped(text)[way] for text in (first, PLAIN, second)]
    assert told(replayed(*documents)) == [("allowed", DECIDED), MESSAGES, ("denied", ["spec.replicas"], DECIDED)]


def test_an_insight_may_have_the_event_as_an_object() -> None:
    assert told(replayed(wrapped(applied())["Logs Insights"])) == [("allowed", DECIDED)]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"protoPayload": {"@type": "a"}, "resource": {"type": "k8s_cluster"}}, GOOGLE),
        ([{"insertId": "a", "protoPayload": {}}], GOOGLE),
        ([], "no audit event, AdmissionReview or line of the decision log: Expected `object`, got `array`"),
        ({"message": '{"kind":"Event","apiVer'}, "the record of a cloud's log holds no whole audit event: Input data"),
        ({"records": [{"properties": {"log": '{"kind":"Pod"}'}}]}, "the record of a cloud's log holds no audit event"),
        ({"records": [{"message": "a"}, 1]}, "no audit event, AdmissionReview or line of the decision log"),
    ],
)
def test_what_a_cloud_has_that_cannot_be_replayed_is_told(document: Any, said: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(said)):
        replayed(document)


def test_with_little_memory_less_is_known_and_it_says_how_much_was_forgotten() -> None:
    replay = Replay(SNAPSHOT, memory=3000)
    many = [changed(DEPLOYMENT, ("metadata", "name"), f"web-{number}") for number in range(20)]
    for obj in many:
        list(replay.take(line(applied(obj))))
    last_seen = changed(many[-1], SPEC, 5, version="11")
    assert told(replay.take(line(event("update", last_seen)))) == [("denied", ["spec.replicas"], DECIDED)]
    assert told(replay.take(line(event("update", changed(many[0], SPEC, 5, version="11"))))) == [
        reconstruction.NO_STATE
    ]
    assert 17 <= replay.objects.forgotten <= 20


# ── what driftwall denied ────────────────────────────────────────────────────────────────────────────────────────────

REPLICAS = ("denied", ["spec.replicas"], AS_SENT)
CONTAINER = "spec.template.spec.containers[name=web].image"


@pytest.mark.parametrize(
    ("verb", "sent", "fields"),
    [
        ("update", changed(DEPLOYMENT, SPEC, 5), ["spec.replicas"]),
        ("patch", MERGE, ["spec.replicas"]),
        ("patch", [{"op": "replace", "path": "/spec/replicas", "value": 5}], ["spec.replicas"]),
        (
            "patch",
            {
                "spec": {
                    "template": {
                        "spec": {
                            "$setElementOrder/containers": [{"name": "web"}],
                            "containers": [{"name": "web", "image": "web:2"}],
                        }
                    }
                }
            },
            [CONTAINER],
        ),
        (
            "patch",
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 5}},
            ["spec.replicas"],
        ),
        (
            "patch",
            {"metadata": {"labels": dict.fromkeys(FLUX_LABELS)}},
            [f"metadata.labels['{k}']" for k in FLUX_LABELS],
        ),
        ("delete", {"kind": "DeleteOptions"}, []),
    ],
)
def test_what_was_sent_tells_what_it_would_have_become(verb: str, sent: Any, fields: list[str]) -> None:
    # Labels that the patch leaves none of are not there as an empty map.
    kept = copy.deepcopy(DEPLOYMENT)
    kept["metadata"]["labels"]["other"] = "stays"
    if isinstance(sent, dict) and verb == "update":
        sent = changed(sent, ("metadata", "labels"), kept["metadata"]["labels"])
    assert last(applied(kept), denied(verb, DEPLOYMENT, sent)) == ("denied", fields, AS_SENT)
    # Nothing of it was stored.
    stored = changed(kept, ("spec", "paused"), True, version="11")
    assert last(applied(kept), denied(verb, DEPLOYMENT, sent), event("patch", stored)) == ("allowed", DECIDED)


def test_a_denied_creation_is_judged_by_what_was_sent() -> None:
    assert last(denied("create", DEPLOYMENT, DEPLOYMENT))[::2] == ("denied", AS_SENT)


def test_a_denied_scale_is_judged_by_the_parent_or_by_what_was_told() -> None:
    scale = {"subresource": "scale"}
    assert last(applied(), denied("patch", DEPLOYMENT, MERGE, **scale)) == REPLICAS
    assert last(applied(), denied("update", DEPLOYMENT, None, **scale)) == ("denied", [], AS_TOLD)


def test_what_was_denied_then_may_pass_these_policies() -> None:
    ignoring = POLICIES.replace("declared: true", "declared: true, ignore: [spec.replicas]")
    assert last(applied(), denied("patch", DEPLOYMENT, MERGE), policies=ignoring) == ("allowed", AS_SENT)
    warning = POLICIES.replace("enforce", "warn")
    assert last(applied(), denied("patch", DEPLOYMENT, MERGE), policies=warning) == (
        "warned",
        ["spec.replicas"],
        AS_SENT,
    )


def test_the_patches_of_other_webhooks_are_part_of_it() -> None:
    label = {"metadata": {"labels": {"team": "payments"}}}
    patch = {"configuration": "x", "webhook": "x", "patch": [{"op": "replace", "path": "/spec/replicas", "value": 9}]}
    other = {"patch.webhook.admission.k8s.io/round_0_index_1": json.dumps(patch)}
    verdict = {"validate.driftwall.io/verdict": "deny", "validate.driftwall.io/policies": "declared-fields"}
    assert last(applied(), denied("patch", DEPLOYMENT, label)) == ("allowed", AS_SENT)
    assert last(applied(), denied("patch", DEPLOYMENT, label, annotations=verdict | other)) == REPLICAS


@pytest.mark.parametrize(
    ("verb", "sent"),
    [
        ("patch", None),
        ("patch", {"metadata": {"managedFields": [{}]}}),
        ("patch", [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]),
        ("patch", [{"op": "remove", "path": "/spec/nothing"}]),
        ("patch", {"metadata": {"annotations": {"autoscaling.alpha.kubernetes.io/metrics": "[]"}}}),
        # Applied by whoever had applied before: what it does not name any more is taken away.
        ("patch", {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {}}),
        ("deletecollection", None),
        ("update", changed(changed(DEPLOYMENT, SPEC, 5), ("metadata", "resourceVersion"), "9")),
    ],
)
def test_where_what_was_sent_does_not_tell_what_it_comes_to_the_webhook_s_word_counts(verb: str, sent: Any) -> None:
    made = denied(verb, DEPLOYMENT, sent, query="fieldManager=kustomize-controller")
    assert last(applied(), made) == ("denied", [], AS_TOLD)
    # With the modes of now, and not at all under policies that have none of that name.
    assert last(applied(), made, policies=POLICIES.replace("enforce", "tag")) == ("tagged", [], AS_TOLD)
    assert last(applied(), made, policies=POLICIES.replace("declared-fields", "other")) == ("allowed", AS_TOLD)


def test_a_patch_that_may_be_read_in_two_ways_counts_if_both_come_to_the_same() -> None:
    tolerations = ("spec", "template", "spec", "tolerations")
    two = changed(DEPLOYMENT, IMAGE[:-2], [{"name": "web", "image": "web:1"}, {"name": "log", "image": "log:1"}])
    harmless = {"spec": {"template": {"spec": {tolerations[-1]: [{"key": "k"}]}}}}
    assert last(applied(two), denied("patch", DEPLOYMENT, harmless)) == ("allowed", AS_SENT)
    # Merged, the container that Git declares stays; replaced, it is gone.
    either = {"spec": {"template": {"spec": {"containers": [{"name": "log", "image": "log:2"}]}}}}
    assert last(applied(two), denied("patch", DEPLOYMENT, either, policies="")) == AMBIGUOUS
    assert last(applied(two), denied("patch", DEPLOYMENT, either)) == ("denied", [], AS_TOLD)


def test_a_patch_that_comes_to_the_same_however_it_is_read_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[Review] = []

    def counted(review: Review, *rest: Any) -> Decision:
        decided.append(review)
        return decide(review, *rest)

    monkeypatch.setattr("webhook.offline.decide", counted)
    # Nor does the Namespace that may have been opened make it begin again.
    assert last(applied(), denied("patch", DEPLOYMENT, MERGE)) == REPLICAS
    assert [review.operation for review in decided] == ["CREATE", "UPDATE"]


def test_a_denial_is_known_from_the_message_alone_too() -> None:
    made = denied("patch", DEPLOYMENT, MERGE, annotations={})
    assert last(applied(), made) == REPLICAS
    made = denied("patch", DEPLOYMENT, MERGE, annotations={}, responseStatus={"code": 403, "message": ""})
    made["responseObject"]["message"] = made["responseObject"]["message"].replace("validate.driftwall", "other")
    assert last(applied(), made) == FAILED


def test_an_event_whose_object_is_none_is_unreadable() -> None:
    eviction = event("create", None, obj=POD, subresource="eviction", sent=["x"])
    with pytest.raises(Unreadable, match=r"request\.object must be a JSON object, not an array"):
        replayed(eviction)


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = [
    applied(),
    event("update", SCALED, sent=SCALED),
    denied("patch", DEPLOYMENT, MERGE),
    denied("update", DEPLOYMENT, SCALED, subresource="status"),
    event("patch", SCALE, obj=DEPLOYMENT, sent=MERGE, subresource="scale"),
    event("deletecollection", {"kind": "PodList", "apiVersion": "v1", "items": [POD]}, obj=POD),
]
values: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "x", 0, True, [], {}, [[]], [{}], {"metadata": []}, {"a": {"b": None}}]
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*here,), *(place for key, child in inner for place in places(child, (*here, key)))]


@given(data=st.data())
def test_whatever_stands_in_an_event_gives_a_result_or_is_unreadable(data: st.DataObject) -> None:
    replay = Replay(SNAPSHOT)
    for made in data.draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3)):
        place = data.draw(st.sampled_from([place for place in places(made) if place]))
        try:
            for result in replay.take(line(changed(made, place, data.draw(values)))):
                assert isinstance(result, Verdict | Unknown | Skipped)
        except Unreadable:
            continue
