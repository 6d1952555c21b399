"""The mark on an object that has drifted with driftwall's leave: a label to select it by, an annotation that tells."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from webhook import meta
from webhook.breakglass import read_time, write_time
from webhook.patterns import PathSet, Pattern, parse_pattern
from webhook.text import cut, escaped

LABEL: Final = "driftwall.io/drifted"
ANNOTATION: Final = "driftwall.io/drift"
PATHS: Final = (f"metadata.labels['{LABEL}']", f"metadata.annotations['{ANNOTATION}']")

# Between the stamp and the validating webhook's look at it; as for break-glass.
_SKEW: Final = timedelta(seconds=60)
_MAX_FIELDS: Final = 20  # an annotation is read by people; the decision log has up to a hundred
_MAX_PATH: Final = 200  # characters of one path; keys of maps may be long
_MAX_REASON: Final = 500  # characters


def content(*, by: str, at: datetime, policies: Sequence[str], fields: Sequence[str], reason: str) -> str:
    """The annotation's value: JSON with ``by``, ``at``, ``policy``, ``fields`` and ``reason``. No value of a field."""
    told = [cut(escaped(field), _MAX_PATH) for field in fields[:_MAX_FIELDS]]
    if len(fields) > _MAX_FIELDS:
        told.append(f"… and {len(fields) - _MAX_FIELDS} more")
    drift = {
        "by": by,
        "at": write_time(at),
        "policy": ",".join(policies),
        "fields": told,
        "reason": cut(escaped(reason), _MAX_REASON),
    }
    return json.dumps(drift, ensure_ascii=False, separators=(",", ":"))


def same(one: object, other: object) -> bool:
    """Whether two values of the annotation tell the same but for the time, and the times are those of one write."""
    first, second = _read(one), _read(other)
    if first is None or second is None:
        return False
    times = read_time(first.pop("at", None)), read_time(second.pop("at", None))
    return first == second and times[0] is not None and times[1] is not None and abs(times[0] - times[1]) <= _SKEW


def fields_of(obj: meta.Object | None) -> tuple[str, ...]:
    """The fields that the mark on ``obj`` tells of, as it tells of them; empty without a mark."""
    fields = (read(obj) or {}).get("fields")
    return tuple(field for field in fields if isinstance(field, str)) if isinstance(fields, list) else ()


def read(obj: meta.Object | None) -> dict[str, object] | None:
    """What the mark on ``obj`` tells: see :func:`content`; None without a mark that can be read."""
    return _read(meta.annotations_of(obj).get(ANNOTATION))


def drifted(obj: meta.Object | None) -> PathSet | None:
    """The places that the mark on ``obj`` tells of; None without a mark.

    Who changes a field takes its ownership in managedFields with it, so that is where the mark alone remembers that the
    field is Git's. Of a place that it does not tell exactly, what is around it is meant.
    """
    fields = fields_of(obj)
    return PathSet(_place(field) for field in fields) if fields else None


def _place(field: str) -> Pattern:
    while field:
        # Of what format_path quotes only these two are escaped; any other escape stands for a character lost to it.
        if "…" not in field and "\\" not in re.sub(r"\\[\\']", "", field):
            try:
                return parse_pattern(field)
            except ValueError:
                pass
        field = field[: max(field.rfind("["), field.rfind("."), 0)]
    return ()


def is_tagged(obj: meta.Object | None) -> bool:
    """Whether any part of the mark is on ``obj``."""
    return LABEL in meta.labels_of(obj) or ANNOTATION in meta.annotations_of(obj)


def changed(old: meta.Object | None, new: meta.Object | None) -> bool:
    """Whether a write from ``old`` to ``new`` touches the mark."""
    if meta.labels_of(old).get(LABEL) != meta.labels_of(new).get(LABEL):
        return True
    return bool(meta.annotations_of(old).get(ANNOTATION) != meta.annotations_of(new).get(ANNOTATION))


def is_ours(new: meta.Object | None, drift: str) -> bool:
    """Whether the mark on ``new`` is what the mutating webhook has just written: the label, and ``drift``."""
    return meta.labels_of(new).get(LABEL) == "true" and same(meta.annotations_of(new).get(ANNOTATION), drift)


def _read(text: object) -> dict[str, object] | None:
    if not isinstance(text, str):
        return None
    try:
        drift = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return drift if isinstance(drift, dict) else None
