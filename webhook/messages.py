"""What a person reads: denials and warnings. Nothing of a Secret's values, no control characters, bounded length."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from webhook.admission import ObjectRef
from webhook.breakglass import REASON, BreakGlass
from webhook.diff import ABSENT
from webhook.policy import Policy
from webhook.protection import Finding, Note, path_of
from webhook.subject import Subject
from webhook.text import cut, escaped
from webhook.tools import Claim

#: INTERFACE: a denial has at most this many characters; the rest is in the log.
MAX_MESSAGE: Final = 1024
#: What kubectl puts before a denial.
KUBECTL: Final = 'Error from server (Forbidden): admission webhook "validate.driftwall.io" denied the request:'
#: API servers keep 256 characters of a warning once there are many (k8s.io/apiserver, warning.go).
MAX_WARNING: Final = 256
_MAX_PATH: Final = 160  # characters: a path of a container's environment variable has about 70
_MAX_VALUE: Final = 100  # characters: an image with its digest, or a port with all its fields
_MAX_USER: Final = 100  # characters: a service account of long names; user names have no limit of their own
_MAX_TEXT: Final = 160  # characters of a policy's description, and of its own message
_MAX_POLICIES: Final = 3  # whose descriptions are told


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What a message tells of: the object, who wrote, what was found, and which policies object.

    ``owner`` is the managed object that owns this one, if that is why it is protected. ``glass`` are the break-glass
    rules that would all have to be met, empty where break-glass is no way out; ``may_break`` whether the writer may.
    """

    subject: Subject
    user: str
    proven: bool
    claims: Sequence[Claim]
    owner: ObjectRef | None
    findings: Sequence[Finding]
    policies: Sequence[Policy]
    glass: Sequence[BreakGlass]
    may_break: bool

    @property
    def secret(self) -> bool:
        """Whether values must not be shown."""
        return self.subject.kind == "Secret" and self.subject.group == ""

    @property
    def creation(self) -> bool:
        """Whether the object does not exist yet."""
        return self.subject.old is None


def denial(refusal: Refusal) -> str:
    """The text of a denial, one block of lines of at most 1,024 characters."""
    subject = refusal.subject
    head = [f"{_clip(str(subject.ref), _MAX_PATH)} {_managed(refusal)}."]
    who = _clip(refusal.user, _MAX_USER)
    if not refusal.proven:
        who += " (without a token of its own)"
    via = f" through {_clip(subject.via, _MAX_PATH)}" if subject.via else ""
    fields: list[str] = []
    if subject.verb and not refusal.findings:
        head.append(f"{who} may not {subject.verb} it.")
    else:
        verb = subject.verb or ("create" if refusal.creation else "")
        head.append(f"{who} may not {verb} it with:" if verb else f"{who} may not change{via}:")
        secret = refusal.secret
        fields = list(dict.fromkeys([f"  {_line(finding, secret=secret)}" for finding in refusal.findings]))
    tail = [f"Policy {_policy(policy)}" for policy in refusal.policies[:_MAX_POLICIES]]
    if more := refusal.policies[_MAX_POLICIES:]:
        tail.append(f"and policies {_clip(', '.join(policy.name for policy in more), _MAX_TEXT)}")
    tail.append(refusal.claims[0].marker.way_out if refusal.claims else "Ask whoever owns this policy.")
    tail += _glass(refusal)
    tail += [_clip(policy.message, _MAX_TEXT) for policy in refusal.policies[:_MAX_POLICIES] if policy.message]
    return _fit(head, fields, tail)


def warning(refusal: Refusal) -> str:
    """One line for a client whose write is let through in mode warn."""
    paths = ", ".join(dict.fromkeys(path_of(finding) for finding in refusal.findings))
    what = paths or refusal.subject.verb
    names = ", ".join(policy.name for policy in refusal.policies)
    return cut(
        escaped(f"driftwall: {refusal.subject.ref} {_managed(refusal)}; policy {names} warns of: {what}"), MAX_WARNING
    )


def value_text(value: Any, *, secret: bool) -> str:
    """A field's value for a message: shortened to its first line, or hidden if the object is a Secret."""
    if value is ABSENT:
        return "(none)"
    if secret:
        return "(hidden)"
    if isinstance(value, str):
        first, newline, _ = value.partition("\n")
        text = escaped(first)
        return f'"{cut(text, _MAX_VALUE)}"' if not newline else f'"{cut(text, _MAX_VALUE - 1).removesuffix("…")}…"'
    if isinstance(value, dict | list):
        noun = ("field" if isinstance(value, dict) else "item") + ("" if len(value) == 1 else "s")
        text = msgspec.json.encode(value).decode() if _is_small(value) else ""
        return escaped(text) if text and len(text) <= _MAX_VALUE else f"({len(value)} {noun})"
    return cut(msgspec.json.encode(value).decode(), _MAX_VALUE)


def _is_small(value: Any) -> bool:
    # Only a flat and short value is shown: a deep one would be cut in the middle of something.
    if len(value) > 4:
        return False
    children = value.values() if isinstance(value, dict) else value
    return not any(isinstance(c, dict | list) or (isinstance(c, str) and "\n" in c) for c in children)


def _managed(refusal: Refusal) -> str:
    if not refusal.claims:
        return "is protected"
    titles = _clip(" and ".join(claim.managed_by.title for claim in refusal.claims), _MAX_PATH)
    if refusal.owner is not None:
        return f"belongs to {_clip(str(refusal.owner), _MAX_PATH)}, which is managed by {titles}"
    return f"bears the mark of {titles}" if refusal.creation else f"is managed by {titles}"


def _line(finding: Finding, *, secret: bool) -> str:
    path = _clip(path_of(finding), _MAX_PATH)
    if isinstance(finding, Note):
        return f"{path}: {finding.note}"
    old, new = value_text(finding.old, secret=secret), value_text(finding.new, secret=secret)
    match finding.operation:
        case "added":
            return f"{path}: added {new}"
        case "removed":
            return f"{path}: removed, was {old}"
        case _:
            return f"{path}: {old} -> {new}"


def _policy(policy: Policy) -> str:
    text = f"{policy.name} ({policy.mode}, {policy.severity})"
    return f"{text}: {_clip(policy.description, _MAX_TEXT)}" if policy.description else text


def _glass(refusal: Refusal) -> list[str]:
    """How to break glass for this very object, for those who may; whom to ask, for the others."""
    if not refusal.glass or refusal.creation:
        return []
    if not refusal.may_break:
        whom = dict.fromkeys(rule.whom for rule in refusal.glass)
        return [f"In an incident, ask {_clip(', and '.join(whom), _MAX_TEXT)} to break glass."]
    ref = refusal.owner or refusal.subject.ref
    resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
    namespace = f" -n {ref.namespace}" if ref.namespace else ""
    patterns = [rule.reason.text for rule in refusal.glass if rule.reason is not None]
    hint = f" (a reason that matches {_clip(patterns[0], _MAX_TEXT)})" if patterns else ""
    # Names of RBAC objects may hold whatever a shell acts upon.
    command = f"kubectl annotate --overwrite {resource} {shlex.quote(ref.name)}{namespace} {REASON}='REASON'"
    return [f"In an incident, break the glass first{hint}:", f"  {_clip(command, 2 * _MAX_PATH)}"]


def _clip(text: str, limit: int) -> str:
    return cut(escaped(text), limit)


def _fit(head: list[str], fields: list[str], tail: list[str]) -> str:
    """All of ``head`` and ``tail``, and as many of ``fields`` as fit between them."""
    whole = "\n".join([*head, *fields, *tail])
    if len(whole) <= MAX_MESSAGE:
        return whole
    room = MAX_MESSAGE - sum(len(line) + 1 for line in (*head, *tail))
    kept: list[str] = []
    for index, line in enumerate(fields):
        rest = len(fields) - index
        more = f"  … and {rest - 1} more; the log has them all"
        if len(line) + 1 + (len(more) + 1 if rest > 1 else 0) > room:
            kept.append(f"  {'… and ' if kept else ''}{rest} {'more' if kept else 'fields'}; the log has them all")
            break
        kept.append(line)
        room -= len(line) + 1
    return cut("\n".join([*head, *kept, *tail]), MAX_MESSAGE)
