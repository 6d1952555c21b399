"""Whether two JSON values are the same, with strict types: ``1``, ``1.0``, ``true`` and ``"1"`` differ."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from webhook.lazyjson import LAZY, LazyMetadata, LazyObject, decoded, is_split

#: What strictly_equal found of pairs of containers, by their ids: for as long as they live.
Known: TypeAlias = dict[tuple[int, int], bool]

_encode: Final = msgspec.json.Encoder().encode


def strictly_equal(old: Any, new: Any, known: Known | None = None) -> bool:
    """Equality of JSON values by type and value.

    With ``known``, no pair of containers is compared twice: a difference hundreds of levels deep is looked for as many
    times. Without, containers are compared at C speed.
    """
    if old is new:
        return True
    kind = type(old)
    if kind is not type(new):
        return False
    if kind is not dict and kind is not list:
        return _same_maps(old, new) if kind in LAZY else bool(old == new)
    if known is not None:
        return _equal_once(old, new, known)
    return bool(old == new) and alike(old, new)


def alike(old: Any, new: Any) -> bool:
    """Whether two JSON values, or parts of them, that Python takes for equal are so by type, too.

    It takes 1, 1.0 and true for equal, and never equal values for different.
    """
    kind = type(old)
    if kind is not type(new):
        return False
    if kind is dict:
        # Bytes have no types to be strict about: see lazyjson.split.
        if is_split(old):
            return True
    elif kind is not list:
        return True
    # What reads the same is equal; it may still be, if its maps are in another order.
    return _encode(old) == _encode(new) or _equal_once(old, new, {})


def _equal_once(old: Any, new: Any, known: Known) -> bool:
    if len(old) != len(new) or (type(old) is dict and old.keys() != new.keys()):
        return False
    pair = (id(old), id(new))
    if pair in known:
        return known[pair]
    equal = True
    # A loop rather than all(): one frame a level, so that what the parser can nest can be compared.
    pairs = zip(old, new, strict=True) if type(old) is list else ((old[key], new[key]) for key in old)
    for before, after in pairs:
        if before is after:
            continue
        kind = type(before)
        if kind is not type(after) or not (
            _equal_once(before, after, known) if kind is dict or kind is list else before == after
        ):
            equal = False
            break
    known[pair] = equal
    return equal


def _same_maps(old: LazyMetadata | LazyObject, new: LazyMetadata | LazyObject) -> bool:
    ours, theirs = old.get("metadata"), new.get("metadata")
    # A number that tells most changes, so that nothing larger has to be decoded.
    counted = type(ours) is LazyMetadata and type(theirs) is LazyMetadata
    if counted and ours.get("generation") != theirs.get("generation"):
        return False
    before, after = old.raw, new.raw
    return before.keys() == after.keys() and all(
        raw == after[name] or _same_values(raw, after[name]) for name, raw in before.items()
    )


def _same_values(before: Raw, after: Raw) -> bool:
    return strictly_equal(decoded(before), decoded(after))
