"""A JSON object whose fields are decoded when somebody asks for them.

Most of a review is never looked at: ``status``, the managedFields of others, whatever is the same in old and new. What
is not asked for costs no more than to be skipped, and two objects are compared by their bytes first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import compress
from operator import ne
from typing import Any, Final, Self, TypeAlias

import msgspec
from msgspec import Raw, Struct, field

from webhook.errors import MalformedReview

NESTED: Final = "the AdmissionReview is nested more deeply than driftwall reads (about 900 levels)"

_NULL: Final = Raw(b"null")
_METADATA: Final = "metadata"
_ABSENT: Final = object()
#: Stands for the bytes of a field that is not there.
_NOTHING: Final = Raw()
_BRACE: Final = ord("{")
_decode = msgspec.json.Decoder().decode
_split = msgspec.json.Decoder(dict[str, Raw]).decode
_Fields: TypeAlias = dict[str, Raw]
# Of lists, those of maps and of texts alone: so two parts of one type are the same if Python takes them for equal.
_Part: TypeAlias = _Fields | list[_Fields | str] | str | int | float | bool | None
_parts = msgspec.json.Decoder(dict[str, _Part] | list[_Fields | str]).decode


class Entry(Struct, kw_only=True, dict=True):
    """One entry of metadata.managedFields. ``raw`` is its fieldsV1, which nobody has to read who finds it unchanged."""

    manager: str | None = None
    operation: str | None = None
    api_version: str | None = field(name="apiVersion", default=None)
    subresource: str | None = None
    raw: Raw = field(name="fieldsV1", default=_NULL)

    @property
    def has_fields(self) -> bool:
        """Whether it brings fields."""
        return memoryview(self.raw)[0] == _BRACE


class _ObjectMeta(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """All that metadata can have, in the order in which the API server writes it (k8s.io/apimachinery, ObjectMeta).

    A field that a later Kubernetes may add has metadata decoded whole, which is slower and nothing else.
    """

    name: Raw = _NOTHING
    generate_name: Raw = _NOTHING
    namespace: Raw = _NOTHING
    self_link: Raw = _NOTHING
    uid: Raw = _NOTHING
    resource_version: Raw = _NOTHING
    generation: Raw = _NOTHING
    creation_timestamp: Raw = _NOTHING
    deletion_timestamp: Raw = _NOTHING
    deletion_grace_period_seconds: Raw = _NOTHING
    labels: Raw = _NOTHING
    annotations: Raw = _NOTHING
    owner_references: Raw = _NOTHING
    finalizers: Raw = _NOTHING
    cluster_name: Raw = _NOTHING
    managed_fields: list[Entry] = []


_MANAGED_FIELDS: Final = "managedFields"
_OTHER_FIELDS: Final = _ObjectMeta.__struct_encode_fields__[:-1]
_ATTRIBUTES: Final = dict(zip(_OTHER_FIELDS, _ObjectMeta.__struct_fields__[:-1], strict=True))
_object_meta = msgspec.json.Decoder(_ObjectMeta).decode


class _Lazy(Mapping[str, Any]):
    """What a map that cannot be changed has in common, be it an object or its metadata."""

    __slots__ = ("_compared", "_place", "_values")

    _place: str
    _values: dict[str, Any]
    _compared: tuple[Self, list[str]] | None

    @property
    @abstractmethod
    def raw(self) -> dict[str, Raw]:
        """The bytes of each field."""

    @abstractmethod
    def _differing(self, other: Self) -> list[str]: ...

    def differing(self, other: Self) -> list[str]:
        """The fields that have other bytes in ``other``, or are there in one of both alone; but for managedFields."""
        if self._compared is None or self._compared[0] is not other:
            self._compared = other, self._differing(other)
        return self._compared[1]

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


class LazyMetadata(_Lazy):
    """The metadata of an object as a map that cannot be changed.

    ``entries`` are those of managedFields, which are most of it; ``own`` is for those of some managers, by their names,
    once somebody has asked for them.
    """

    __slots__ = ("_fields", "_raw", "entries", "own")

    def __init__(self, raw: Raw, place: str) -> None:
        """Read it. Raises msgspec.DecodeError for what no API server sends."""
        self._place = place
        self._values = {}
        self._compared = None
        self._raw = raw
        self._fields = _object_meta(raw)
        self.entries: Final = self._fields.managed_fields
        self.own: Final[dict[tuple[str, ...], list[Entry]]] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, decoded."""
        values = self._values
        value = values.get(key, _ABSENT)
        if value is not _ABSENT:
            return value
        raw = self.part(key)
        if raw is None:
            return default
        value = values[key] = _decoded(raw, self._place)
        return value

    def part(self, key: str) -> Raw | None:
        """The bytes of a field; None if it is not there."""
        attribute = _ATTRIBUTES.get(key)
        if attribute is None:
            return self.raw.get(key) if key == _MANAGED_FIELDS else None
        raw: Raw = getattr(self._fields, attribute)
        return None if raw is _NOTHING else raw

    @property
    def raw(self) -> dict[str, Raw]:
        """The bytes of each field, read anew."""
        return _split(self._raw)

    def _differing(self, other: LazyMetadata) -> list[str]:
        ours, theirs = msgspec.structs.astuple(self._fields), msgspec.structs.astuple(other._fields)
        # managedFields come last.
        return list(compress(_OTHER_FIELDS, map(ne, ours, theirs)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.part(key) is not None


class LazyObject(_Lazy):
    """An object of Kubernetes as a map that cannot be changed.

    ``raw`` has the bytes of each field; ``place`` is where it comes from, for an error. A field that turns out to be no
    JSON raises :class:`MalformedReview`. ``metadata`` is that field once somebody has asked for it, unless it is such
    as no API server sends.
    """

    __slots__ = ("metadata", "raw")

    raw: dict[str, Raw]

    def __init__(self, raw: dict[str, Raw], place: str) -> None:
        self._place = place
        self._values = {}
        self._compared = None
        self.raw = raw
        self.metadata: LazyMetadata | None = None

    @classmethod
    def of(cls, raw: Raw, place: str) -> LazyObject | None:
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

    def _metadata(self, raw: Raw) -> Any:
        try:
            self.metadata = LazyMetadata(raw, self._place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _decoded(raw, self._place)
        return self.metadata

    def part(self, key: str) -> Raw | None:
        """The bytes of a field; None if it is not there."""
        return self.raw.get(key)

    def _differing(self, other: LazyObject) -> list[str]:
        ours, theirs = self.raw, other.raw
        names = [name for name, raw in ours.items() if raw != theirs.get(name)]
        if ours.keys() != theirs.keys():
            names += [name for name in theirs if name not in ours]
        return names

    def __contains__(self, key: object) -> bool:
        return key in self.raw


#: The types of maps that are not decoded.
LAZY: Final = frozenset({LazyMetadata, LazyObject})


def split(one: Raw, other: Raw) -> tuple[Any, Any]:
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
    if type(value) is not Raw:
        return value
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decoded(value, "the review")


def is_split(fields: Mapping[str, Any]) -> bool:
    """Whether the values of a map are not decoded yet."""
    return type(next(iter(fields.values()), None)) is Raw


def whole(value: Any) -> Any:
    """``value``, decoded if it, or what :func:`split` has made of it, is not yet.

    Raises:
        MalformedReview: it is no JSON.
    """
    # The items of a list are maps in parts at most: what is decoded may be as deep as the parser reads.
    return [_whole_map(item) for item in value] if type(value) is list else _whole_map(value)


def _whole_map(value: Any) -> Any:
    if type(value) is dict and is_split(value):
        return {name: decoded(part) for name, part in value.items()}
    return decoded(value)


def _decoded(raw: Raw, place: str) -> Any:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReview(f"{place} is not valid JSON: {error}") from None
    except RecursionError:
        raise MalformedReview(NESTED, 413) from None


def _json_type(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")
