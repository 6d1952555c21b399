"""The change to put into Git: what is live, as partial manifests of the fields that have drifted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from webhook.diff import ABSENT
from webhook.documents import dump
from webhook.drift_model import CHANGED, DriftedField, DriftedObject
from webhook.drift_report import place, state, title, who
from webhook.fieldpath import Index, Item, Member, Path
from webhook.text import escaped


def patches(objects: Iterable[DriftedObject]) -> str:
    """One YAML document for each object; what cannot be written in one, and no value of a Secret, is a comment."""
    return "---\n".join(_patch(each) for each in objects)


def _patch(drifted: DriftedObject) -> str:
    ref = drifted.target.ref
    metadata = {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})}
    patch: dict[str, Any] = {
        "apiVersion": drifted.target.api_version,
        "kind": drifted.target.kind,
        "metadata": metadata,
    }
    head = [f"{place(drifted)}  {title(drifted)}".rstrip()]
    if drifted.state != CHANGED:
        head.append(state(drifted))
    else:
        for field in drifted.fields:
            note = _note(drifted, field)
            if not note:
                _put(patch, field.place, None if field.change == "removed" else field.live)
            head.append(f"{field.path}: {note or f'by {who(field)}'}")
    comments = "".join(f"# {escaped(line)}\n" for line in head)
    # Without a field there is nothing to patch: not even an empty patch, which a tool would apply.
    return comments if len(patch) == 3 and patch["metadata"].keys() <= {"name", "namespace"} else comments + dump(patch)


def _note(drifted: DriftedObject, field: DriftedField) -> str:
    """Why a field is not in the patch; empty where it is."""
    if drifted.target.secret:
        return f"{field.change} by {who(field)}; the values of a Secret are not shown"
    if not field.place:
        return f"{field.change} by {who(field)}; where it is now cannot be told"
    if any(isinstance(element, Index) for element in field.place):
        return f"{field.change} by {who(field)}; edit the list by hand"
    if field.change == "removed" and isinstance(field.place[-1], Member):
        return f"removed by {who(field)}; take it out of the list by hand"
    return ""


def _put(patch: dict[str, Any], place: Path, value: Any) -> None:
    """Set the value at ``place``; None takes away what is there, as in a strategic merge patch."""
    parent: Any = patch
    for element, following in zip(place, (*place[1:], None), strict=True):
        last = following is None
        match element:
            case str():
                if last:
                    parent[element] = None if value is ABSENT else value
                    return
                empty: Any = {} if isinstance(following, str) else []
                parent = parent.setdefault(element, empty)
            case Item(keys):
                key = dict(keys)
                item = next((each for each in parent if key.items() <= each.items()), None)
                if item is None:
                    item = dict(key)
                    parent.append(item)
                if last:
                    item.update({"$patch": "delete"} if value is None else value)
                    return
                parent = item
            case Member(member):
                parent.append(member)
                return
            case Index():
                return
