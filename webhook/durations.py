"""Durations as Go writes them (https://pkg.go.dev/time#ParseDuration): ``4h``, ``30m``, ``1h30m``, ``1.5h``."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from webhook.text import shown

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-zµμ]*)", re.ASCII)
_LONGEST = Decimal(2**63) / 10**9  # seconds: Go counts nanoseconds in 64 bits, some 292 years
_MAX_LENGTH = 64  # characters: more than any duration below _LONGEST needs


def parse_duration(text: str) -> timedelta:
    """The duration that ``text`` writes, from zero to 292 years, to the microsecond.

    Units are ``h``, ``m`` and ``s``, in any order, as in Go. Go's finer units are refused, as nothing in a policy is
    that short, and so are days, which Go does not know. Raises ValueError with a sentence for a person.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"{shown(text)} is not a duration; write it as 4h, 30m or 1h30m")
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{shown(text)} is not a duration; write it as 4h, 30m or 1h30m")
    seconds = Decimal(0)
    for number, unit in parts:
        if unit not in _SECONDS:
            raise ValueError(f"{shown(text)} is not a duration: {_advice(number, unit)}")
        seconds += Decimal(number) * _SECONDS[unit]
    if seconds >= _LONGEST:
        raise ValueError(f"{shown(text)} is too long a duration: the limit is 292 years")
    return timedelta(microseconds=int(seconds * 10**6))


def write_duration(duration: timedelta) -> str:
    """``duration`` in seconds, so that :func:`parse_duration` gives it back."""
    return f"{Decimal(duration // timedelta(microseconds=1)) / 10**6:f}s"


def _advice(number: str, unit: str) -> str:
    if not unit:
        return f"{number} has no unit; write {number}s, {number}m or {number}h"
    if unit in ("d", "day", "days"):
        return f"there is no unit for days; use {Decimal(number) * 24:f}h"
    return f"{shown(unit)} is no unit; use h, m or s"
