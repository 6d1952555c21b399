"""What a scan has found, in the formats of other programs: SARIF for code scanning, JUnit for CI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from webhook import settings
from webhook.breakglass import write_time
from webhook.drift_model import CHANGED, DriftedField, DriftedObject
from webhook.drift_report import lines_of, place, state, what, who
from webhook.text import cut, escaped

#: What a rule is called where no policy is about what was found.
_NO_POLICY: Final = "drift"
_LEVELS: Final[Mapping[str, str]] = {"low": "note", "medium": "warning", "high": "error", "critical": "error"}
_SARIF: Final = "https://json.schemastore.org/sarif-2.1.0.json"
# Characters of one message: GitHub shows 1,000.
_MAX_MESSAGE: Final = 1000


def sarif(objects: Sequence[DriftedObject]) -> str:
    """A SARIF 2.1.0 log (OASIS): a result for each field, a rule for each policy.

    Where the manifest is not known, what stands for its file is the object's place in the cluster.
    """
    rules: dict[str, None] = {}
    results = []
    for obj in objects:
        fields: Sequence[DriftedField | None] = obj.fields if obj.state == CHANGED else (None,)
        for field in fields:
            policy = field.policies[0] if field is not None and field.policies else _NO_POLICY
            rules.setdefault(policy)
            results.append(_result(obj, field, policy))
    order = sorted(rules)
    for result in results:
        result["ruleIndex"] = order.index(result["ruleId"])
    driver = {
        "name": "driftwall",
        "version": settings.version(),
        "rules": [
            {"id": name, "name": name, "shortDescription": {"text": f"Drift that policy {name} is about"}}
            if name != _NO_POLICY
            else {"id": name, "name": name, "shortDescription": {"text": "A live object differs from its manifest"}}
            for name in order
        ],
    }
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _result(obj: DriftedObject, field: DriftedField | None, policy: str) -> dict[str, Any]:
    ref = obj.target.ref
    where = "/".join(filter(None, (ref.namespace, ref.resource, ref.name)))
    path = field.path if field is not None else ""
    message = f"{place(obj)} is {state(obj)}"
    if field is not None:
        when = f" at {write_time(field.at)}" if field.at is not None else ""
        message = f"{place(obj)}: {path}: {what(field, secret=obj.target.secret)}, by {who(field)}{when}"
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(obj.file or f"cluster/{where}.yaml")}}
    # Code scanning wants a line; of what is no file, the first.
    physical["region"] = {"startLine": obj.line or 1}
    return {
        "ruleId": policy,
        "level": _LEVELS[(field.severity if field is not None else "") or "medium"],
        "message": {"text": cut(message, _MAX_MESSAGE)},
        "locations": [
            {
                "physicalLocation": physical,
                "logicalLocations": [{"fullyQualifiedName": f"{where}:{path}" if path else where, "kind": "resource"}],
            }
        ],
        # The same drift is the same alert at the next scan.
        "partialFingerprints": {"driftwall/v1": f"{obj.target.api_version}/{where}:{path}"},
    }


def junit(objects: Sequence[DriftedObject], managed: Mapping[tuple[str, str], int]) -> str:
    """A JUnit report: one test case for each resource of a namespace that has managed objects."""
    failed: dict[tuple[str, str], list[DriftedObject]] = {}
    for obj in objects:
        ref = obj.target.ref
        resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
        failed.setdefault((ref.namespace, resource), []).append(obj)
    cases = sorted({*managed, *failed})
    suite = ElementTree.Element(
        "testsuite", {"name": "driftwall scan", "tests": str(len(cases)), "failures": str(len(failed))}
    )
    for key in cases:
        namespace, resource = key
        case = ElementTree.SubElement(suite, "testcase", {"classname": namespace or "(cluster)", "name": resource})
        if found := failed.get(key):
            count = "1 object has drifted" if len(found) == 1 else f"{len(found)} objects have drifted"
            failure = ElementTree.SubElement(case, "failure", {"type": "drift", "message": count})
            failure.text = "\n".join(escaped(line) for line in lines_of(found))
    root = ElementTree.Element("testsuites", {"tests": str(len(cases)), "failures": str(len(failed))})
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
