from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reviews import RECORDINGS
from webhook.admission import ObjectRef, parse, respond
from webhook.errors import MalformedReview

REQUEST: dict[str, Any] = {
    "uid": "705ab4f5",
    "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
    "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
    "name": "web",
    "namespace": "shop",
    "operation": "UPDATE",
    "userInfo": {"username": "alice", "uid": "a", "groups": ["developers"], "extra": {"scope": ["x"]}},
    "object": {"metadata": {"name": "web"}, "spec": 2},
    "oldObject": {"metadata": {"name": "web"}, "spec": 1},
    "dryRun": True,
}


def body(request: Any = None, **changes: Any) -> bytes:
    asked = REQUEST if request is None else request
    envelope = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**asked, **changes}}
    return json.dumps(envelope).encode()


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in REQUEST.items() if key not in keys}


def refused(text: bytes) -> MalformedReview:
    with pytest.raises(MalformedReview) as raised:
        parse(text)
    return raised.value


def test_a_review_is_read() -> None:
    review = parse(body(subResource="status", options={"fieldManager": "x"}, unknown=1))
    assert (review.uid, review.operation, review.name, review.namespace) == ("705ab4f5", "UPDATE", "web", "shop")
    assert (review.kind.kind, review.subresource, review.dry_run) == ("Deployment", "status", True)
    assert review.qualified_resource == "deployments.apps"
    assert (review.user.username, review.user.uid, review.user.groups) == ("alice", "a", ("developers",))
    assert review.user.extra == {"scope": ("x",)}
    assert (review.old, review.new) == (REQUEST["oldObject"], REQUEST["object"])


def test_what_go_leaves_out_or_writes_as_null_has_its_default() -> None:
    review = parse(body(without("name", "namespace", "dryRun"), userInfo={"username": "x"}, subResource=""))
    assert (review.namespace, review.subresource, review.dry_run) == ("", "", False)
    assert (review.user.uid, review.user.groups, review.user.extra) == ("", (), None)
    nulls = parse(body(userInfo={"username": "x", "groups": None, "extra": None}, dryRun=None))
    assert (nulls.user.groups, nulls.user.extra, nulls.dry_run) == (None, None, False)
    assert parse(body(userInfo={"username": "x", "extra": {"scope": None}})).user.extra == {"scope": None}


def test_the_name_is_the_request_s_or_else_that_of_the_object() -> None:
    assert parse(body(name="other")).name == "other"
    assert parse(body(without("name", "object"), operation="DELETE")).name == "web"
    assert (
        parse(
            body(without("name"), object={"metadata": {"generateName": "web-"}}, oldObject=None, operation="CREATE")
        ).name
        == ""
    )
    assert parse(body(without("name"), object={"metadata": None}, oldObject={"metadata": {"name": 1}})).name == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the body is not valid JSON: Input data was truncated"),
        (b"{", "the body is not valid JSON: Input data was truncated"),
        (b"[]", "the body is no AdmissionReview: Expected `object`, got `array`"),
        (b"null", "the body is no AdmissionReview: Expected `object`, got `null`"),
        (b"{}", "the body must be an AdmissionReview of admission.k8s.io/v1, but is: no apiVersion, no kind"),
        (
            b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}',
            (
                "the body must be an AdmissionReview of admission.k8s.io/v1, but is: "
                "admission.k8s.io/v1beta1, AdmissionReview"
            ),
        ),
        (
            b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
            "the AdmissionReview has no request",
        ),
        (
            b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}',
            "the AdmissionReview has no request",
        ),
    ],
)
def test_what_is_no_review_is_refused(text: bytes, message: str) -> None:
    error = refused(text)
    assert (str(error), error.status) == (message, 400)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (without("uid"), "the body is no AdmissionReview: Object missing required field `uid`"),
        ({**REQUEST, "uid": ""}, "request.uid is empty"),
        ({**REQUEST, "uid": 5}, "the body is no AdmissionReview: Expected `str`, got `int` - at `$.uid`"),
        (without("userInfo"), "the body is no AdmissionReview: Object missing required field `userInfo`"),
        ({**REQUEST, "userInfo": {}}, "request.userInfo.username is empty"),
        (without("kind"), "the body is no AdmissionReview: Object missing required field `kind`"),
        ({**REQUEST, "kind": {}}, "request.kind.kind is empty"),
        ({**REQUEST, "resource": {}}, "request.resource.resource is empty"),
        (without("operation"), "the body is no AdmissionReview: Object missing required field `operation`"),
        (
            {**REQUEST, "operation": "update"},
            "request.operation 'update' is none of CONNECT, CREATE, DELETE, UPDATE",
        ),
        (without("object"), "a review of UPDATE must bring request.object"),
        (without("oldObject"), "a review of UPDATE must bring request.oldObject"),
        ({**REQUEST, "oldObject": None}, "a review of UPDATE must bring request.oldObject"),
        ({**REQUEST, "operation": "CREATE", "object": None}, "a review of CREATE must bring request.object"),
        ({**without("oldObject"), "operation": "DELETE"}, "a review of DELETE must bring request.oldObject"),
    ],
)
def test_a_review_that_lacks_what_a_verdict_needs_is_refused(request_: dict[str, Any], message: str) -> None:
    error = refused(body(request_))
    assert (str(error), error.status) == (message, 400)


@pytest.mark.parametrize(
    ("value", "kind"), [("x", "a string"), (1, "a number"), (1.5, "a number"), (True, "a boolean"), ([], "an array")]
)
def test_an_object_that_is_none_is_refused_when_it_is_asked_for(value: Any, kind: str) -> None:
    with pytest.raises(MalformedReview, match=f"^request.object must be a JSON object, not {kind}$"):
        _ = parse(body(object=value)).new


def test_a_review_nested_too_deeply_is_refused_as_too_large() -> None:
    deep = b'{"a":' * 9000 + b"1" + b"}" * 9000
    text = body(object="DEEP").replace(b'"DEEP"', deep)
    with pytest.raises(MalformedReview, match=re.escape("nested more deeply than driftwall reads")) as raised:
        _ = parse(text).new
    assert raised.value.status == 413


@pytest.mark.parametrize("cut", [1, 10, 100, 1000])
def test_a_review_that_was_cut_off_is_refused(cut: int) -> None:
    text = (RECORDINGS / "02-set-image" / "023-alice-update-deployment.json").read_bytes()
    assert refused(text[:-cut].rstrip()[:-1]).status == 400


def test_numbers_are_read_as_they_are_written() -> None:
    numbers = {"int": 9007199254740993, "min": -(2**63), "max": 2**64 - 1, "float": 1.0, "exponent": 1e300}
    read = parse(body(object=numbers)).new
    assert read == numbers
    assert [type(value) for value in (read or {}).values()] == [int, int, int, float, float]


def test_a_place_reads_as_kubectl_would_write_it() -> None:
    assert str(ObjectRef("apps", "v1", "deployments", "shop", "web")) == 'deployments.apps "web" in namespace "shop"'
    assert str(ObjectRef("", "v1", "nodes", "", "n1")) == 'nodes "n1"'


def answer(**given: Any) -> Any:
    return json.loads(respond(parse(body()), **given))


def test_an_answer_bears_the_uid_of_the_question() -> None:
    assert answer(allowed=True) == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "705ab4f5", "allowed": True},
    }


def test_a_denial_is_a_403_with_a_message() -> None:
    assert answer(allowed=False, message="no")["response"] == {
        "uid": "705ab4f5",
        "allowed": False,
        "status": {"code": 403, "reason": "Forbidden", "message": "no"},
    }


def test_warnings_audit_annotations_and_a_patch_are_there_if_there_are_any() -> None:
    patch = [{"op": "add", "path": "/metadata/labels", "value": {}}]
    response = answer(allowed=True, warnings=("w",), audit_annotations={"verdict": "warn"}, patch=patch)["response"]
    assert (response["warnings"], response["auditAnnotations"]) == (["w"], {"verdict": "warn"})
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"])) == patch


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_the_older_way_to_bind_a_pod_is_a_binding_of_the_pod() -> None:
    request = {
        **REQUEST,
        "operation": "CREATE",
        "kind": {"group": "", "version": "v1", "kind": "Binding"},
        "resource": {"group": "", "version": "v1", "resource": "bindings"},
        "name": "",
        "object": {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web-1"}},
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    review = parse(json.dumps(body).encode())
    assert (review.qualified_resource, review.subresource, review.name) == ("pods", "binding", "web-1")


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_malformed_review(data: bytes) -> None:
    assert 400 <= refused(data).status < 500


@given(st.dictionaries(st.sampled_from(sorted(REQUEST)), json_values, max_size=3))
def test_whatever_stands_in_for_a_part_of_a_review_it_is_read_or_refused(changes: dict[str, Any]) -> None:
    status = 200
    try:
        review = parse(body(**changes))
        _ = (review.new, review.old, review.name)
    except MalformedReview as error:
        status = error.status
    assert status in (200, 400)
