"""What was sent, of a write that was not carried out: the objects that the API server may have made of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from webhook import meta
from webhook.audit_events import Event
from webhook.globs import Globs
from webhook.listkeys import Schema
from webhook.ownership import field_documents
from webhook.patching import PatchError, json_patch, merge_patch, strategic_merge

#: Annotations of autoscaling/v1 that are fields of autoscaling/v2.
_CONVERTED: Final = b"autoscaling.alpha.kubernetes.io/"
#: Any manager's fields tell how a list is keyed.
_EVERYBODY: Final = Globs(("*",))


def made_of(event: Event, old: dict[str, Any], sent: Any) -> Iterator[dict[str, Any]]:
    """What the API server may have made of ``old`` by what was ``sent``, the likeliest first."""
    if _is_more_than_it_says(event, old, sent):
        return
    ways: Sequence[Callable[[], dict[str, Any]]] = ()
    if event.verb == "patch":
        ways = _patches(event, old, sent)
    elif isinstance(sent, dict) and old.get("kind") == sent.get("kind"):
        ways = [lambda: sent]
    for way in ways:
        try:
            new = _as_stored(event, old, way())
            for patch in event.patches_of_others:
                new = json_patch(new, patch)
        except PatchError:
            continue
        yield new


def _is_more_than_it_says(event: Event, old: dict[str, Any], sent: Any) -> bool:
    """Whether the API server makes fields of what was sent that only it can know."""
    if _CONVERTED in bytes(event.request_object):
        return True
    if event.mutated_by_driftwall and event.patches_of_others:
        return True  # what others change of driftwall's stamps is only told together with these
    brought = meta.metadata_of(sent).get("managedFields") if isinstance(sent, dict) else None
    if event.verb == "patch":
        return brought is not None or b"/metadata/managedFields" in bytes(event.request_object)
    return bool(brought) and brought != meta.metadata_of(old).get("managedFields")


def _patches(event: Event, old: dict[str, Any], sent: Any) -> Sequence[Callable[[], dict[str, Any]]]:
    """The ways to read a patch: an event does not tell its type."""
    if isinstance(sent, list):
        return [lambda: json_patch(old, sent)]
    if not isinstance(sent, dict):
        return []
    group = meta.group_version(old.get("apiVersion"))[0]
    kind = str(old.get("kind", ""))
    schema = Schema.of(group, kind, *field_documents((old,), _EVERYBODY))
    if "apiVersion" in sent and "kind" in sent:
        # Applied on the server. Whoever applied before gives up what is no longer there, which only the schema tells.
        manager = event.query("fieldManager")
        applied = any(e.get("operation") == "Apply" and e.get("manager") == manager for e in meta.managed_entries(old))
        return [] if applied else [lambda: strategic_merge(old, _without_nulls(sent), schema)]
    if "." in group and not group.endswith(".k8s.io"):
        return [lambda: merge_patch(old, sent)]  # there is no strategic one of a custom resource
    if any(key.startswith("$") for key in _keys(sent)):
        return [lambda: strategic_merge(old, sent, schema)]
    return [lambda: strategic_merge(old, sent, schema), lambda: merge_patch(old, sent)]


def _as_stored(event: Event, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``new`` as the API server hands it to admission: what the client may not write, or left out, is as it was."""
    # The API server leaves these out where they hold nothing.
    metadata = {key: value for key, value in meta.metadata_of(new).items() if value not in ({}, [])}
    if not metadata.get("managedFields"):
        metadata["managedFields"] = meta.metadata_of(old).get("managedFields")
    if event.ref.subresource == "status":
        return {**old, "metadata": metadata, "status": new.get("status")}
    if new.get("kind") == "Secret" and isinstance(strings := new.get("stringData"), dict):
        data = {**meta.mapping(new.get("data")), **{key: _base64(value) for key, value in strings.items()}}
        new = {key: value for key, value in new.items() if key != "stringData"} | {"data": data}
    return {**new, "kind": old.get("kind"), "apiVersion": old.get("apiVersion"), "metadata": metadata}


def _base64(text: Any) -> str:
    return b64encode(str(text).encode()).decode()


def _without_nulls(value: Any) -> Any:
    """An applied null declares nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield key
            yield from _keys(child)
    elif isinstance(value, list):
        for child in value:
            yield from _keys(child)
