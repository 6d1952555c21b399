"""What to write into a policy so that a write is let through: the fields of an automation, or an ignore rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from webhook.documents import dump
from webhook.fieldpath import format_path
from webhook.identity import service_account
from webhook.patterns import parse_pattern
from webhook.tools import DECLARED_FIELDS, LAST_APPLIED, MARKERS, OWN_PREFIX

# Items of one list that are still named one by one: an entry should give no more than it has to.
_NAMED: Final = 3
# A key of a map in quotes, which stays, or an item of a list: ['quoted key'], [name=web], [name='a b'].
_BRACKETS: Final = re.compile(r"\['(?:[^'\\]|\\.)*'\]|\[(?:[^\]'\\]|'(?:[^'\\]|\\.)*')*\]")
_OF_DRIFTWALL: Final = tuple(f"metadata.{name}['{OWN_PREFIX}" for name in ("labels", "annotations"))
#: Kept on every managed object, whatever a policy ignores (webhook.protection).
_ALWAYS: Final = frozenset(
    {
        "metadata.managedFields",
        "metadata.labels",
        "metadata.annotations",
        *(format_path(("metadata", "annotations", key)) for key in (LAST_APPLIED, DECLARED_FIELDS)),
        *(
            format_path(("metadata", name, key))
            for marker in MARKERS
            for name in ("labels", "annotations")
            for key in (*marker.labels, *marker.annotations, *marker.opt_outs)
        ),
    }
)


def general(path: str) -> str:
    """``path`` for any item of its lists: ``spec.containers[*].image`` of ``spec.containers[name=web].image``."""
    return _BRACKETS.sub(lambda found: found[0] if found[0].startswith("['") else "[*]", path)


def can_be_allowed(path: str) -> bool:
    """Whether ``path`` is one to ignore, or to give to an automation.

    Not what every managed object keeps: no ``ignore`` silences that, and whoever may write it may end the protection.
    """
    if path in _ALWAYS or path.startswith(("metadata.ownerReferences", *_OF_DRIFTWALL)):
        return False
    return _is_pattern(path)


def is_automation(user: str) -> bool:
    """Whether a program is likely to write under this name."""
    return user.startswith("system:")


def automation(user: str, paths: Iterable[str]) -> str:
    """An entry for ``spec.automation`` of the DriftwallConfig, or of a policy, as YAML; empty where nothing helps."""
    fields = _few(path for path in paths if can_be_allowed(path) or can_be_allowed(general(path)))
    if not fields:
        return ""
    account = service_account(user)
    entry: dict[str, Any] = {"name": account[1] if account is not None else user}
    entry |= {"serviceAccounts": ["/".join(account)]} if account is not None else {"users": [user]}
    return dump({"automation": [entry | {"fields": fields}]})


def _few(paths: Iterable[str]) -> list[str]:
    """``paths``, with those that differ in the items of lists alone as one, where there are more than a few."""
    alike: dict[str, set[str]] = {}
    for path in paths:
        alike.setdefault(general(path), set()).add(path)
    fields: set[str] = set()
    for pattern, exact in alike.items():
        named = len(exact) <= _NAMED and all(map(_is_pattern, exact))
        fields |= exact if named else {pattern}
    return sorted(fields)


def _is_pattern(path: str) -> bool:
    # What was cut off is not known, and what is in brackets stands for no field.
    if "…" in path or path.startswith("("):
        return False
    try:
        parse_pattern(path)
    except ValueError:
        return False
    return True
