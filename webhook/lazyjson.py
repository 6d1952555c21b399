"""A JSON object whose fields are decoded when somebody asks for them.

Most of a review is never looked at: ``status``, the managedFields of others, whatever is the same in old and new. What
is not asked for costs no more than to be skipped, and two objects are compared by their bytes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from webhook.errors import MalformedReview

NESTED: Final = "the AdmissionReview is nested more deeply than driftwall reads (about 900 levels)"

_T = TypeVar("_T")

_METADATA: Final = "metadata"
_ABSENT: Final = object()
_decode = msgspec.json.Decoder().decode
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Fields: TypeAlias = dict[str, msgspec.Raw]
# Of lists, those of maps and of texts alone: so two parts of one type are the same if Python takes them for equal.
_Part: TypeAlias = _Fields | list[_Fields | str] | str | int | float | bool | None
_parts = msgspec.json.Decoder(dict[str, _Part] | list[_Fields | str]).decode


class LazyObject(Mapping[str, Any]):
    """An object of Kubernetes as a map that cannot be changed; its ``metadata`` is such a map, too.

    ``raw`` has the bytes of each field; ``place`` is where it comes from, for an error. A field that turns out to be no
    JSON raises :class:`MalformedReview`. ``metadata`` is the map of that name once somebody has asked for it.
    """

    __slots__ = ("_compared", "_place", "_typed", "_values", "metadata", "raw")

    def __init__(self, raw: dict[str, msgspec.Raw], place: str) -> None:
        self.raw = raw
        self._place = place
        self._values: dict[str, Any] = {}
        self._typed: dict[str, Any] = {}
        self._compared: tuple[LazyObject, list[str]] | None = None
        self.metadata: LazyObject | None = None

    @classmethod
    def of(cls, raw: msgspec.Raw, place: str) -> LazyObject | None:
        """The object in ``raw``, or None for null.

        Raises:
            MalformedReview: it is neither; or it is no JSON, as far as that can be told without decoding all of it.
        """
        try:
            return cls(_split(raw), place)
        except msgspec.ValidationError:
            if (value := _decoded(raw, place)) is None:
                return None
            raise MalformedReview(f"{place} must be a JSON object, not {_json_type(value)}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedReview(f"{place} is not valid JSON: {error}") from None
        except RecursionError:
            raise MalformedReview(NESTED, 413) from None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, decoded."""
        values = self._values
        value = values.get(key, _ABSENT)
        if value is not _ABSENT:
            return value
        raw = self.raw.get(key)
        if raw is None:
            return default
        value = values[key] = self._metadata(raw) if key == _METADATA else _decoded(raw, self._place)
        return value

    def _metadata(self, raw: msgspec.Raw) -> Any:
        try:
            self.metadata = LazyObject(_split(raw), self._place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _decoded(raw, self._place)
        return self.metadata

    def get_as(self, key: str, decode: Callable[[msgspec.Raw], _T]) -> _T | None:
        """A field's value as ``decode``, always the same for it, gives it; None if it is absent or does not fit."""
        if key not in self._typed:
            raw = self.raw.get(key)
            try:
                self._typed[key] = None if raw is None else decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._typed[key] = None
        found: _T | None = self._typed[key]
        return found

    def differing(self, other: LazyObject) -> list[str]:
        """The fields that have other bytes in ``other``, or are there in one of both alone."""
        if self._compared is None or self._compared[0] is not other:
            ours, theirs = self.raw, other.raw
            names = [name for name, raw in ours.items() if raw != theirs.get(name)]
            if ours.keys() != theirs.keys():
                names += [name for name in theirs if name not in ours]
            self._compared = other, names
        return self._compared[1]

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self.raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


def split(one: msgspec.Raw, other: msgspec.Raw) -> tuple[Any, Any]:
    """Two values, both in parts: what is two levels further down is not decoded. If one does not fit that, both are.

    Raises:
        MalformedReview: one is no JSON.
    """
    try:
        return _parts(one), _parts(other)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decoded(one), decoded(other)


def decoded(value: Any) -> Any:
    """``value``, decoded if it is not yet.

    Raises:
        MalformedReview: it is no JSON.
    """
    return _decoded(value, "the review") if type(value) is msgspec.Raw else value


def is_split(fields: Mapping[str, Any]) -> bool:
    """Whether the values of a map are not decoded yet."""
    return type(next(iter(fields.values()), None)) is msgspec.Raw


def whole(value: Any) -> Any:
    """``value``, decoded if it, or what :func:`split` has made of it, is not yet.

    Raises:
        MalformedReview: it is no JSON.
    """
    # The items of a list are maps in parts at most: what is decoded may be as deep as the parser reads.
    return [_whole_map(item) for item in value] if type(value) is list else _whole_map(value)


def _whole_map(value: Any) -> Any:
    if type(value) is dict:
        return {name: decoded(part) for name, part in value.items()} if is_split(value) else value
    return decoded(value)


def _decoded(raw: msgspec.Raw, place: str) -> Any:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReview(f"{place} is not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedReview(NESTED, 413) from None


def _json_type(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")
