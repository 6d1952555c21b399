"""What the mutating webhook changes: the stamps of break-glass, and the mark on what has drifted.

It decides as the validating webhook does and leaves the verdict to that one: of a write that will be denied it changes
nothing. What it has changed already it does not change again, so calling it twice is as good as once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from webhook import breakglass, meta, tags
from webhook.admission import Review
from webhook.decision import Decision, decide
from webhook.policy import Snapshot
from webhook.subject import Objects

Patch = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A JSONPatch (RFC 6902) of the new object, empty where nothing is to be changed."""

    patch: Patch = ()


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
    decision = decide(review.with_new(asked), snapshot, objects, now)
    if not decision.allowed:
        return Mutation()
    if decision.writer.startswith("trusted:"):
        _by_trusted(patch, new, wish)
        return Mutation(patch=patch.operations)
    if wish is not None and decision.break_glass is not None and (longest := decision.break_glass.longest):
        wish = breakglass.wish(review.old, asked) or wish
        for key, value in breakglass.stamps(wish, review.user, longest, now).items():
            patch.set("annotations", key, value)
    if decision.tagged:
        _tag(patch, new, review, decision, now)
    return Mutation(patch=patch.operations)


def drift_of(review: Review, decision: Decision, now: datetime) -> str:
    """The annotation for a write that ``decision`` lets through with a mark."""
    glass = decision.break_glass
    return tags.content(
        by=review.user.username,
        at=now,
        policies=[violation.name for violation in decision.tagged],
        fields=list(dict.fromkeys(change.path for violation in decision.tagged for change in violation.fields)),
        reason=glass.reason if glass is not None and glass.violations else "",
    )


def _by_trusted(patch: _Patch, new: Mapping[str, Any], wish: breakglass.Wish | None) -> None:
    """A trusted write ends the drift. It breaks no glass: a stamp that comes from Git is nobody's."""
    if tags.is_tagged(new):
        patch.set("labels", tags.LABEL, None)
        patch.set("annotations", tags.ANNOTATION, None)
    if wish is not None and wish.reason is not None:
        patch.set("annotations", breakglass.BY, None)
        patch.set("annotations", breakglass.EXPIRES, None)


def _tag(patch: _Patch, new: Mapping[str, Any], review: Review, decision: Decision, now: datetime) -> None:
    drift = drift_of(review, decision, now)
    patch.set("labels", tags.LABEL, "true")
    if not tags.same(meta.annotations_of(new).get(tags.ANNOTATION), drift):
        patch.set("annotations", tags.ANNOTATION, drift)


def _without(obj: Mapping[str, Any], annotation: str) -> dict[str, Any]:
    kept = {key: value for key, value in meta.annotations_of(obj).items() if key != annotation}
    return {**obj, "metadata": {**meta.metadata_of(obj), "annotations": kept}}


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
            if not isinstance(self._metadata, dict):
                self._metadata = {}
                self._operations.append({"op": "add", "path": "/metadata", "value": {}})
            there = self._maps[name] = {}
            self._operations.append({"op": "add", "path": f"/metadata/{name}", "value": {}})
        self._operations.append({"op": "add", "path": place, "value": value})
        there[key] = value
