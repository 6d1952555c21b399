"""What drift is made of: the object, its fields, who wrote them and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from webhook.admission import ObjectRef
from webhook.diff import ABSENT
from webhook.fieldpath import Path
from webhook.tools import ManagedBy

SEVERITIES: Final = ("low", "medium", "high", "critical")
#: What became of an object: some of its fields differ, it is not there, or nothing declares it.
CHANGED, MISSING, EXTRA = "changed", "missing", "extra"
#: Where a finding comes from.
BY_OWNERSHIP, BY_TAG, BY_MANIFEST = "managedFields", "tag", "manifest"
#: What became of a field where only its present owner is known: whether it was there before is not.
SET: Final = "set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An object's place in the API, and what it calls itself."""

    ref: ObjectRef
    kind: str

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.ref.group}/{self.ref.version}" if self.ref.group else self.ref.version

    @property
    def secret(self) -> bool:
        """Whether values must not be shown, nor read where that can be done without."""
        return self.kind == "Secret" and self.ref.group == ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftedField:
    """A field that is not what was declared. ``declared`` and ``live`` are ABSENT where unknown or not there.

    ``user`` and ``manager`` are who wrote it, as far as a tag or managedFields tell, and ``at`` when.
    """

    path: str
    place: Path
    change: str
    declared: Any = ABSENT
    live: Any = ABSENT
    user: str = ""
    manager: str = ""
    at: datetime | None = None
    policies: tuple[str, ...] = ()
    severity: str = ""
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftedObject:
    """An object with drift. ``file`` and ``line`` are its manifest's."""

    target: Target
    managed_by: ManagedBy | None
    state: str = CHANGED
    fields: tuple[DriftedField, ...] = ()
    file: str = ""
    line: int = 0
    uid: str = ""

    @property
    def severity(self) -> str:
        """The highest of its fields'; medium where no policy is about it."""
        found = [field.severity for field in self.fields if field.severity]
        return max(found, key=SEVERITIES.index, default="medium")
