"""What of a managed object others than its tool own, by managedFields; and the object as it would be without that.

managedFields tell who wrote a field last, by a name that the client chose: enough to find drift that is there, and no
proof of identity. What they cannot tell is in the documentation of ``driftwall scan``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from webhook import meta
from webhook.breakglass import read_time
from webhook.diff import ABSENT
from webhook.equality import strictly_equal
from webhook.fieldpath import Item, Member, Path
from webhook.globs import Globs
from webhook.listkeys import KEY_DEFAULTS
from webhook.ownership import last_applied, owns_last_applied
from webhook.positions import Fields, HeldValue, OwnedFields, element_of
from webhook.tools import LAST_APPLIED

#: The control plane's own names, as the user agents of its programs begin. ``before-first-apply`` is what the API
#: server calls the owner of fields that nobody is known to have written (k8s.io/apimachinery, managedfields).
SYSTEM_MANAGERS: Final = Globs(
    (
        "kube-controller-manager",
        "kube-apiserver",
        "kube-scheduler",
        "kubelet",
        "cloud-controller-manager",
        "clusterrole-aggregation-controller",
        "before-first-apply",
        "driftwall",
    )
)
#: Programs that people sit at, by the names that their user agents begin with.
MANUAL_MANAGERS: Final = Globs(("kubectl*", "oc", "k9s", "curl", "Mozilla", "argocd-server"))
#: kubectl's names for what changes an object that is there, and never makes one.
_EDITORS: Final = Globs(
    f"kubectl-{verb}"
    for verb in ("edit", "patch", "label", "annotate", "set", "rollout", "replace", "scale", "taint", "autoscale")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What one manager that is not the tool's owns, beside the tool: a fieldsV1 document. ``at`` is its last write."""

    manager: str
    at: datetime | None
    fields: Fields

    @property
    def by_hand(self) -> bool:
        """Whether the manager is a program that people sit at."""
        return MANUAL_MANAGERS.matches(self.manager)


def written_by(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of metadata.managedFields that bring fields, times and all."""
    found = meta.metadata_of(obj).get("managedFields")
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("fieldsV1"), dict)]


def foreign(obj: Mapping[str, Any], tool: Globs) -> list[Foreign]:
    """What managers other than ``tool`` and the control plane own in ``obj``, and the tool does not.

    Nothing of the status, nor of what the object was made with before the tool took it over: that holds the server's
    defaults, which nobody wrote.
    """
    entries = written_by(obj)
    ours = [entry for entry in entries if tool.matches(_manager(entry)) and entry.get("subresource") != "status"]
    if not ours:
        return []
    found = []
    for entry in entries:
        manager = _manager(entry)
        if tool.matches(manager) or SYSTEM_MANAGERS.matches(manager) or entry.get("subresource") == "status":
            continue
        at = _time(entry)
        fields: Fields = {key: child for key, child in entry["fieldsV1"].items() if key != "f:status"}
        if entry.get("operation") == "Update":
            if _made_it(entry, obj, ours):
                continue
            fields = _as_applied(entry, fields, obj)
        is_secret = obj.get("kind") == "Secret" and obj.get("apiVersion") == "v1"
        owned = [e["fieldsV1"] for e in ours]
        if is_secret:
            fields = _as_data(fields)
            # The tool owns the stringData that it applied, whoever owns the data: whose value is there, the times tell.
            owned += [_as_data(e["fieldsV1"]) for e in ours if at is None or (_time(e) or at) > at]
        rest = without_fields(fields, owned)
        if rest:
            found.append(Foreign(manager=manager, at=at, fields=rest))
    return found


def _manager(entry: Mapping[str, Any]) -> str:
    return str(entry.get("manager", ""))


def _time(entry: Mapping[str, Any]) -> datetime | None:
    return read_time(entry.get("time"))


def _made_it(entry: Mapping[str, Any], obj: Mapping[str, Any], ours: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the entry is that of the object's creation, before the tool wrote to it."""
    created = meta.metadata_of(obj).get("creationTimestamp")
    if entry.get("time") != created or any(each.get("time") == created for each in ours):
        return False
    return not _EDITORS.matches(_manager(entry))


def _as_applied(entry: Mapping[str, Any], fields: Fields, obj: Mapping[str, Any]) -> Fields:
    """Of a client-side apply what it declared: the rest are the server's defaults."""
    if not owns_last_applied(entry["fieldsV1"]):
        return fields
    applied = last_applied(obj, Globs((_manager(entry),)))
    return {} if applied is None else _within(fields, HeldValue(applied))


def _within(fields: Fields, held: HeldValue) -> Fields:
    kept: dict[str, Any] = {}
    for key, child in fields.items():
        element = element_of(key)
        inner = held.step(element) if element is not None else None
        if key == ".":
            kept[key] = child
        elif inner is not None and isinstance(child, dict):
            below = _within(child, inner) if child and not inner.covers else child
            if below or not child:
                kept[key] = below
    return {} if kept.keys() <= {"."} else kept


def _as_data(fields: Fields) -> Fields:
    strings = fields.get("f:stringData")
    if not isinstance(strings, dict):
        return fields
    return {
        **{k: v for k, v in fields.items() if k != "f:stringData"},
        "f:data": {**fields.get("f:data", {}), **strings},
    }


def without_fields(fields: Fields, owned: Sequence[Fields]) -> Fields:
    """``fields`` without what is in any of ``owned``, or inside it; an item of a list that is in none is one leaf."""
    kept: dict[str, Any] = {}
    for key, child in fields.items():
        if key == "." or not isinstance(child, dict):
            continue
        others = [other for node in owned if isinstance(other := node.get(key), dict)]
        if not child:
            # Owned whole, or in parts by the tool as well. A tool that owns a container whole of which others own parts
            # owned it when it was empty: what somebody has put there since is not the tool's.
            if not others:
                kept[key] = {}
        elif key.startswith("k:") and "." in child and not others:
            kept[key] = {}
        elif below := without_fields(child, others):
            kept[key] = below
    return kept


def has_item(fields: Fields, path: Path) -> bool:
    """Whether ``path`` ends at an item or a member of a list that is owned whole."""
    if not path or isinstance(path[-1], str):
        return False
    position: OwnedFields | None = OwnedFields(fields)
    for element in path:
        position = position.step(element) if position is not None else None
    return position is not None and position.covers


def restored(value: Any, fields: Fields, declared: HeldValue | None) -> Any:
    """``value`` as it would be without ``fields``: each as it was declared, as far as that is known, or absent."""
    if not fields:
        return declared.value if declared is not None else ABSENT
    if isinstance(value, dict):
        return _restored_map(value, fields, declared)
    if isinstance(value, list):
        return _restored_list(value, fields, declared)
    return value


def _restored_map(value: Mapping[str, Any], fields: Fields, declared: HeldValue | None) -> dict[str, Any]:
    result = dict(value)
    for key, child in fields.items():
        name = key[2:]
        if key.startswith("f:") and name in result:
            inner = restored(result[name], child, declared.step(name) if declared is not None else None)
            if inner is ABSENT:
                del result[name]
            else:
                result[name] = inner
    return result


def _restored_list(value: Sequence[Any], fields: Fields, declared: HeldValue | None) -> list[Any]:
    result = list(value)
    for key, child in fields.items():
        element = element_of(key)
        for index, item in enumerate(result):
            if item is not ABSENT and _is_at(item, element):
                inner = declared.step(element) if declared is not None and element is not None else None
                result[index] = restored(item, child, inner)
                break
    return [item for item in result if item is not ABSENT]


def _is_at(item: Any, element: object) -> bool:
    match element:
        case Member(value):
            return strictly_equal(item, value)
        case Item(keys):
            return isinstance(item, dict) and all(
                strictly_equal(item.get(name, KEY_DEFAULTS.get(name)), want) for name, want in keys
            )
        case _:
            return False


#: Stands for a value that was never fetched.
HIDDEN: Final = "(hidden)"


def skeleton(fields: Fields) -> Any:
    """A value that has all of ``fields``, with HIDDEN in the place of each: for what must not be read."""
    if not fields:
        return HIDDEN
    if any(key.startswith("f:") for key in fields):
        return {key[2:]: skeleton(child) for key, child in fields.items() if key.startswith("f:")}
    return list(_items(fields))


def _items(fields: Fields) -> Iterator[Any]:
    for key, child in fields.items():
        match element_of(key):
            case Item(keys):
                inner = skeleton({k: v for k, v in child.items() if k != "."}) if child.keys() - {"."} else {}
                yield {**(inner if isinstance(inner, dict) else {}), **dict(keys)}
            case Member(value):
                yield value
            case _:
                continue


def is_last_applied(path: Path) -> bool:
    """Whether ``path`` is the annotation last-applied-configuration."""
    return path == ("metadata", "annotations", LAST_APPLIED)
