"""driftwall's own custom resources: what a valid one is, and the words for whoever writes another.

Who may change them is said by :attr:`webhook.policy.Snapshot.own_guards`; here it is about what they say.
"""

from __future__ import annotations

from typing import Any, Final

from webhook import meta
from webhook.admission import ObjectRef, Review
from webhook.documents import Document, Problem
from webhook.equality import strictly_equal
from webhook.policy import OWN_GROUP, OWN_RULE
from webhook.policy_compiler import compile_documents
from webhook.policy_schema import API_VERSION, CONFIG_KIND, POLICY_KIND
from webhook.text import cut, escaped

#: Stands where a policy's name does.
RULE: Final = OWN_RULE
POLICIES: Final = "driftpolicies"
CONFIGS: Final = "driftwallconfigs"
KINDS: Final = {POLICIES: POLICY_KIND, CONFIGS: CONFIG_KIND}
#: The one name under which a DriftwallConfig takes effect, so that there can be only one.
CONFIG_NAME: Final = "default"
#: INTERFACE: a denial has at most this many characters.
_MAX_MESSAGE: Final = 1024
_MAX_LINE: Final = 300  # characters of one problem: a place, a value cut short, and a sentence


def document_of(resource: str, obj: meta.Object) -> Document:
    """A custom resource as a document of policies: what the API server adds, and has checked, is left out."""
    metadata = meta.metadata_of(obj)
    # A name that is still to be made up is checked by the API server once it is.
    name = metadata.get("name") or f"{metadata.get('generateName', '')}0"
    value: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KINDS[resource]}
    value |= {key: part for key, part in obj.items() if key not in ("metadata", "status")}
    value["metadata"] = {"name": name}
    return Document(file=f"{resource}/{name}", line=0, value=value, lines={})


def check(document: Document) -> list[Problem]:
    """Everything that is wrong with a custom resource, sorted."""
    problems = compile_documents([document])[1]
    name = document.value["metadata"]["name"]
    if document.value.get("kind") == CONFIG_KIND and name != CONFIG_NAME:
        problems.append(
            document.problem(("metadata", "name"), f"there is one configuration, and its name is '{CONFIG_NAME}'")
        )
    return sorted(problems)


def concerns(review: Review) -> bool:
    """Whether a policy or the configuration itself is written."""
    gvr = review.resource
    return gvr.group == OWN_GROUP and gvr.resource in KINDS and not review.subresource


def refusal(review: Review) -> str:
    """Why this object may not be stored, with every problem that fits into a message; empty if it may.

    An update that leaves the specification as it is may pass whatever that says: it makes nothing worse, and taking a
    finalizer away from what was stored while driftwall was away must be possible.
    """
    new = review.new
    if not concerns(review) or review.operation not in ("CREATE", "UPDATE") or new is None:
        return ""
    if review.old is not None and strictly_equal(review.old.get("spec"), new.get("spec")):
        return ""
    problems = check(document_of(review.resource.resource, new))
    return _denial(review, problems) if problems else ""


def _denial(review: Review, problems: list[Problem]) -> str:
    gvr = review.resource
    ref = ObjectRef(gvr.group, gvr.version, gvr.resource, "", review.name)
    head = f"{cut(escaped(str(ref)), _MAX_LINE)} is no valid {KINDS[gvr.resource]}:"
    tail = "Nothing was stored. driftwall lint finds the same in a file, before it is applied."
    room = _MAX_MESSAGE - len(head) - len(tail) - 2
    lines: list[str] = []
    for index, problem in enumerate(problems):
        place = f"{problem.path}: " if problem.path else ""
        line = "  " + cut(escaped(place + problem.message), _MAX_LINE)
        rest = len(problems) - index
        more = f"  … and {rest} more"
        if len(line) + 1 + (len(more) + 1 if rest > 1 else 0) > room:
            lines.append(more)
            break
        lines.append(line)
        room -= len(line) + 1
    return "\n".join([head, *lines, tail])
