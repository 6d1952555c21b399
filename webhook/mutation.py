"""What the mutating webhook changes: the stamps of break-glass, and the mark on what has drifted.

It decides as the validating webhook does and leaves the verdict to that one: of a write that will be denied it changes
nothing. What it has changed already it does not change again, so calling it twice is as good as once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from webhook import breakglass, meta, own_objects, tags
from webhook.admission import Review
from webhook.decision import Decision, decide, drift_of
from webhook.policy import Snapshot
from webhook.subject import Objects

Patch = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A JSONPatch (RFC 6902) of the new object, empty where nothing is to be changed.

    ``denied`` tells that there is none because the write is going to be denied; with a ``refusal`` it is denied now.
    """

    patch: Patch = ()
    denied: bool = False
    refusal: Decision | None = None


def mutate(review: Review, snapshot: Snapshot, objects: Objects, now: datetime) -> Mutation:
    """The patch for one review; arguments and errors as for :func:`webhook.decision.decide`.

    None for a DELETE, for a subresource, whose metadata is not the caller's to write, and for a dry run.
    """
    new = review.new
    if review.dry_run or review.subresource or review.operation not in ("CREATE", "UPDATE") or new is None:
        return Mutation()
    patch = _Patch(new)
    wish = breakglass.wish(review.old, new)
    # Who broke the glass is ours to say: whatever the write says of it is replaced.
    asked = new if wish is None else _without(new, breakglass.BY)
    if wish is not None and breakglass.wish(review.old, asked) is None:
        asked = new  # it says nothing else
    decision = decide(review.with_new(asked), snapshot, objects, now)
    if not decision.allowed:
        # Of driftwall's own objects the API server checks the schema next, and tells of what it finds there alone.
        return Mutation(denied=True, refusal=decision if own_objects.concerns(review) else None)
    if decision.writer.startswith("trusted:"):
        _by_trusted(patch, new, wish)
        return Mutation(patch=patch.operations)
    if wish is not None and decision.break_glass is not None and (longest := decision.break_glass.longest):
        wish = breakglass.wish(review.old, asked) or wish
        for key, value in breakglass.stamps(wish, review.user, longest, now).items():
            patch.set("annotations", key, value)
    if decision.tagged:
        # The mark, too, is ours to say: it tells of what the write does beside touching it.
        told = _with_mark_of(review.old, asked)
        drifted = decide(review.with_new(told), snapshot, objects, now)
        label, drift = meta.labels_of(told).get(tags.LABEL), meta.annotations_of(told).get(tags.ANNOTATION)
        if drifted.tagged:
            label, drift = "true", drift_of(review, drifted, now)
        patch.set("labels", tags.LABEL, label)
        if not tags.same(meta.annotations_of(new).get(tags.ANNOTATION), drift):
            patch.set("annotations", tags.ANNOTATION, drift)
    return Mutation(patch=patch.operations)


def _by_trusted(patch: _Patch, new: Mapping[str, Any], wish: breakglass.Wish | None) -> None:
    """A trusted write ends the drift. It breaks no glass: a stamp that comes from Git is nobody's."""
    if tags.is_tagged(new):
        patch.set("labels", tags.LABEL, None)
        patch.set("annotations", tags.ANNOTATION, None)
    if wish is not None and wish.reason is not None:
        patch.set("annotations", breakglass.BY, None)
        patch.set("annotations", breakglass.EXPIRES, None)


def _without(obj: meta.Object, annotation: str) -> dict[str, Any]:
    return _with(obj, "annotations", annotation, None, keep=False)


def _with_mark_of(old: meta.Object | None, new: meta.Object) -> dict[str, Any]:
    """``new`` with the mark that ``old`` has, if it has one.

    A map that ``new`` takes away is there and empty, as it will be once our mark is in it.
    """
    for name, key in (("labels", tags.LABEL), ("annotations", tags.ANNOTATION)):
        there = meta.mapping(meta.metadata_of(old).get(name))
        new = _with(new, name, key, there.get(key), keep=bool(there))
    return dict(new)


def _with(obj: meta.Object, name: str, key: str, value: Any, *, keep: bool) -> dict[str, Any]:
    """``obj`` with ``value`` for a label or an annotation, or without it for None; ``keep``: also an empty map."""
    metadata = dict(meta.metadata_of(obj))
    there = {other: text for other, text in meta.mapping(metadata.pop(name, None)).items() if other != key}
    if value is not None:
        there[key] = value
    return {**obj, "metadata": {**metadata, name: there} if there or keep else metadata}


class _Patch:
    """Operations that change labels and annotations of one object, each of which applies after those before it."""

    def __init__(self, obj: Mapping[str, Any]) -> None:
        self._metadata = obj.get("metadata")
        self._maps: dict[str, dict[str, Any] | None] = {}
        for name in ("labels", "annotations"):
            there = meta.metadata_of(obj).get(name)
            self._maps[name] = dict(there) if isinstance(there, dict) else None
        self._operations: list[dict[str, Any]] = []

    @property
    def operations(self) -> Patch:
        return tuple(self._operations)

    def set(self, name: str, key: str, value: str | None) -> None:
        """Make ``key`` in the map ``name`` hold ``value``, or take it away; nothing if it is so already."""
        there = self._maps[name]
        if (there or {}).get(key) == value:
            return
        place = f"/metadata/{name}/{key.replace('~', '~0').replace('/', '~1')}"
        if value is None:
            self._operations.append({"op": "remove", "path": place})
            if there is not None:
                del there[key]
            return
        if there is None:
            if not meta.is_map(self._metadata):
                self._metadata = {}
                self._operations.append({"op": "add", "path": "/metadata", "value": {}})
            there = self._maps[name] = {}
            self._operations.append({"op": "add", "path": f"/metadata/{name}", "value": {}})
        self._operations.append({"op": "add", "path": place, "value": value})
        there[key] = value
