"""A JSONPatch applied as the API server does it, for what driftwall's patches use of RFC 6902.

By hand: two operations are no reason for a library, and one that driftwall does not use is a failure here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def applied(patch: Iterable[Mapping[str, Any]], obj: dict[str, Any]) -> dict[str, Any]:
    """``obj`` with ``patch`` applied; it fails as the API server would where an operation does not apply."""
    patched = copy.deepcopy(obj)
    for operation in patch:
        assert isinstance(operation["path"], str)
        first, *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/"))
        assert first == ""
        place: Any = patched
        for part in parents:
            assert isinstance(place, dict), operation
            place = place[part]
        assert isinstance(place, dict), operation
        match operation["op"]:
            case "add":
                assert set(operation) == {"op", "path", "value"}
                place[last] = copy.deepcopy(operation["value"])
            case "remove":
                assert set(operation) == {"op", "path"}
                del place[last]
            case other:
                raise AssertionError(f"driftwall uses no {other}")
    return patched
