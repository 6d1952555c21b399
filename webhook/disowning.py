"""Whether a write takes from the record of who declared what: ownership that vanishes from what has not changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from webhook.diff import Change
from webhook.equality import strictly_equal
from webhook.fieldpath import Element, Index, Path
from webhook.globs import Globs
from webhook.ownership import as_called, own_entries, owning
from webhook.positions import Fields, HeldValue, element_of

_NOTHING: Final[Fields] = {}


def disowned(old: Mapping[str, Any], new: Mapping[str, Any], managers: Globs, changes: Sequence[Change] = ()) -> bool:
    """Whether ``new`` takes the ownership of a field away from ``managers`` without changing the field itself.

    A changed field moves to its writer's entry; that is no more than the change. Ownership that vanishes from an
    unchanged field is an attempt on the source of what is declared, be it that entry or last-applied-configuration,
    which is believed for the sake of its owner. ``changes`` are some that are known already, which spares a look.
    """
    ours, theirs = own_entries(old, managers), own_entries(new, managers)
    version = old.get("apiVersion")
    # What is the same in both was not taken away.
    if version == new.get("apiVersion") and ours == theirs and all(entry.api_version == version for entry in ours):
        return False
    before, after = [as_called(each, old).node for each in ours], [as_called(each, new).node for each in theirs]
    return _any_lost(before, after, old, new, changes)


def disowned_child(old: Mapping[str, Any], new: Mapping[str, Any], changes: Sequence[Change] = ()) -> bool:
    """As :func:`disowned`, of the controller that made the object: what it wrote is known by its entry alone."""
    return _any_lost(owning(old), owning(new), old, new, changes)


def _any_lost(
    before: Sequence[Fields],
    after: Sequence[Fields],
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    changes: Sequence[Change],
) -> bool:
    if changes and len(after) <= 1:
        known, kept = _by_key(changes), after[0] if after else _NOTHING
        if all(_is_explained(fields, kept, known) for fields in before):
            return False
    held = HeldValue(old), HeldValue(new)
    return any(not _is_kept(fields, after) and _lost(fields, after, *held) for fields in before)


#: Places by the keys of fieldsV1; in the end, what was done to what is there.
_Places: TypeAlias = dict[str, Any]


def _by_key(changes: Iterable[Change]) -> _Places:
    """Where the object is known to have changed. What cannot be told from something else is left out."""
    root: _Places = {}
    parent: Path = ()
    place: _Places | None = root
    for change in changes:
        if change.is_shared:
            continue
        path = change.path
        if path[:-1] != parent:
            parent = path[:-1]
            place = _place_at(root, parent)
        if place is not None:
            place[_key(path[-1])] = change.operation
    return root


def _place_at(root: _Places, path: Path) -> _Places | None:
    """The place at ``path``, made if it is not there; None inside of something that has changed as a whole."""
    place = root
    for element in path:
        below = place.setdefault(_key(element), {})
        if not isinstance(below, dict):
            return None
        place = below
    return place


def _key(element: Element) -> str:
    """As the API server writes it; empty for a position."""
    if isinstance(element, str):
        return "f:" + element
    return "" if isinstance(element, Index) else element.key


def _is_explained(node: Fields, kept: Fields, known: _Places) -> bool:
    """Whether all of ``node`` that is not in ``kept`` has been changed itself, as far as that is ``known``."""
    if not kept and kept is not _NOTHING:
        return True
    for key, child in node.items():
        other = kept.get(key)
        done = known.get(key)
        if done is None:
            if other not in (child, _NOTHING):
                return False
        elif isinstance(done, dict):
            # What no API server writes is left to the closer look.
            below = other if isinstance(other, dict) else _NOTHING
            if child and not (isinstance(child, dict) and _is_explained(child, below, done)):
                return False
        elif other not in (child, _NOTHING) and child and done == "changed":
            return False
    return True


def _is_kept(node: Fields, kept: Sequence[Fields]) -> bool:
    # Whole is more than a part: so the server itself writes it once a list has become atomic in its definition.
    return any(not fields or fields == node for fields in kept)


def _lost(node: Fields, kept: Sequence[Fields], old: HeldValue, new: HeldValue) -> bool:
    """Whether something of ``node``, which ``kept`` has not as it is, is in none of it though its value is the same."""
    if not node:
        return strictly_equal(old.value, new.value)
    for key, child in node.items():
        # By its own key and no other: what may be the item is not enough to say that it is still owned.
        further = [inner for fields in kept if isinstance(inner := fields.get(key), dict)]
        if not isinstance(child, dict) or _is_kept(child, further) or (element := element_of(key)) is None:
            continue
        before, after = old.step(element), new.step(element)
        if before is not None and after is not None and _lost(child, further, before, after):
            return True
    return False
