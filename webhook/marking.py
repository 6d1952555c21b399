"""The labels and annotations by which a tool marks what it applies, put on manifests that are rendered without them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from webhook import meta
from webhook.foreign import written_by
from webhook.tools import Claim

Object = dict[str, Any]


def with_markers(manifest: Object, live: Object, found: Sequence[Claim]) -> Object:
    """``manifest`` with the labels and annotations by which the tool itself marks what it applies.

    They are not in what is rendered, and an apply without them would take them away.
    """
    domains = {key.partition("/")[0] for claim in found for key in _keys(claim) if "/" in key} - {"app.kubernetes.io"}
    return with_metadata(manifest, marked(live, found, domains))


def _keys(claim: Claim) -> Iterator[str]:
    yield from claim.marker.labels
    yield from claim.marker.annotations


def marked(live: Object, found: Sequence[Claim], domains: Collection[str] = ()) -> Object:
    """The labels and annotations of ``live`` that are the tool's markers, or of its domain, and that it wrote."""
    marks: Object = {}
    names = {key for claim in found for key in _keys(claim)}
    for part, there in (("labels", meta.labels_of(live)), ("annotations", meta.annotations_of(live))):
        own = {
            key: value
            for key, value in there.items()
            if (key in names or key.partition("/")[0] in domains) and _is_of_tool(live, part, key, found)
        }
        if own:
            marks[part] = own
    return marks


def with_metadata(manifest: Object, marks: Object) -> Object:
    """``manifest`` with further labels and annotations; its own win."""
    metadata = dict(meta.metadata_of(manifest))
    for part, own in marks.items():
        metadata[part] = {**own, **meta.mapping(metadata.get(part))}
    return {**manifest, "metadata": metadata}


def _is_of_tool(live: Object, part: str, key: str, found: Sequence[Claim]) -> bool:
    """Whether the tool itself wrote a label or annotation, rather than somebody who opts out of it."""
    for entry in written_by(live):
        held = meta.mapping(meta.mapping(entry["fieldsV1"].get("f:metadata")).get(f"f:{part}"))
        if f"f:{key}" in held:
            return any(claim.marker.written_by.matches(str(entry.get("manager", ""))) for claim in found)
    return True
