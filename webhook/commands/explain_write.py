"""``driftwall explain write``: may this user write this object's field, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from webhook import audit, meta
from webhook.admission import ObjectRef, Review
from webhook.commands import add_policies_or_cluster, policies_of
from webhook.documents import load_documents
from webhook.edits import parse_field, parse_set
from webhook.errors import LookupFailed, MalformedReview, SettingsError
from webhook.explanation import Explanation, explain
from webhook.messages import KUBECTL
from webhook.offline import Recorded, with_look_ups
from webhook.questions import Question, review, user
from webhook.subject import LookupNeeded, place_of, plural
from webhook.terminal import BOLD, GREEN, RED, coloured, width, wrapped
from webhook.text import escaped

if TYPE_CHECKING:
    from webhook.cluster.connection import ApiServer

_DESCRIPTION: Final = """\
Says whether somebody may write a field of an object, and goes through every step of the decision. The object is that of
the cluster, or the one in a manifest with managedFields. Nothing is written, and no webhook is asked: the verdict is
that of the policies given. Exits with 0 if the write is allowed, with 1 if it is denied."""
_EXAMPLES: Final = """\
examples:
  driftwall explain write deployment/web -n shop --as alice --field spec.replicas --policies policies
  driftwall explain write deploy/web -n shop --as alice --as-group sre --set spec.replicas=5 --policies cluster
  driftwall explain write deploy/web -n shop --as alice --subresource scale --set spec.replicas=5 --policies cluster
  kubectl get deploy/web -o yaml --show-managed-fields |
    driftwall explain write -f - --as alice --operation DELETE --policies policies

--as is what it is to kubectl: a service account without the uid that its token brings, which --as-uid gives."""
_OPERATIONS: Final = ("CREATE", "UPDATE", "DELETE")
_INDENT: Final = 21  # characters: those of the longest question, its number, and room behind


def add_topic(parser: argparse.ArgumentParser) -> None:
    """Give the parser of the topic its arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", nargs="?", metavar="KIND/NAME", help="the object, as kubectl names it")
    parser.add_argument("-n", "--namespace", default="default", metavar="NAME", help="its namespace (default: default)")
    parser.add_argument("-f", "--filename", metavar="FILE", help="a manifest with managedFields, or - for stdin")
    parser.add_argument("--as", dest="as_user", required=True, metavar="USER", help="who writes")
    parser.add_argument(
        "--as-group", action="append", default=[], metavar="GROUP", help="a group of theirs; repeatable"
    )
    parser.add_argument(
        "--as-uid", default="", metavar="UID", help="their uid, such as a service account's token brings"
    )
    parser.add_argument(
        "--as-user-extra",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what else their token brings; repeatable",
    )
    parser.add_argument("--field", action="append", default=[], metavar="PATH", help="a field to change; repeatable")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="a field and its value; null takes it away"
    )
    parser.add_argument("--operation", choices=_OPERATIONS, default="UPDATE", help="default: UPDATE")
    parser.add_argument("--subresource", default="", metavar="NAME", help="what it is written through, such as scale")
    add_policies_or_cluster(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain; 0 for a write that is allowed, 1 for one that is denied."""
    snapshot = policies_of(args)
    found, recorded, notes = _object(args)
    question = _question(args, *found)
    asked = review(question)
    now = datetime.now(UTC)
    explanation = with_look_ups(explain, asked, snapshot, recorded, now)
    for note in notes:
        print(f"driftwall: {note}", file=sys.stderr)
    if args.output == "json":
        print(json.dumps(_document(asked, explanation, now), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(args, asked, explanation)))
    return 0 if explanation.decision.allowed else 1


def _question(args: argparse.Namespace, obj: dict[str, Any], ref: ObjectRef) -> Question:
    extra: dict[str, tuple[str, ...]] = {}
    for each in args.as_user_extra:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise SettingsError(f"--as-user-extra: {each!r} is not KEY=VALUE")
        extra[key] = (*extra.get(key, ()), value)
    return Question(
        obj=obj,
        ref=ref,
        user=user(args.as_user, args.as_group, args.as_uid, extra),
        operation=args.operation,
        subresource=args.subresource,
        edits=(*map(parse_field, args.field), *map(parse_set, args.set)),
    )


# ── the object ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _object(args: argparse.Namespace) -> tuple[tuple[dict[str, Any], ObjectRef], Recorded, Sequence[str]]:
    """The object and its place, where look-ups are answered from, and what could not be looked up."""
    if args.filename is not None:
        given = _Manifests(args.filename)
        return given.chosen(args.target, args.operation), given, given.notes
    if args.target is None:
        raise SettingsError("name an object as KIND/NAME, or give a manifest with -f FILE")
    from webhook.cluster import connection, policies  # only now: a file needs no client

    way = policies.required(connection.connect(Path(args.kubeconfig) if args.kubeconfig else None))
    return _live(args, way)


def _live(args: argparse.Namespace, way: ApiServer) -> tuple[tuple[dict[str, Any], ObjectRef], Recorded, Sequence[str]]:
    from webhook.cluster.listing import Listing
    from webhook.cluster.objects import LiveObjects

    word, name = _target(args.target)
    resource = Listing(way).named(word)
    if resource is None:
        raise SettingsError(f"the API server has no {word!r}; 'kubectl api-resources' lists what it has")
    namespace = args.namespace if resource.namespaced else ""
    ref = ObjectRef(resource.group, resource.version, resource.resource, namespace, name)
    objects = LiveObjects(way)
    obj = objects.get(ref)
    if obj is None:
        raise LookupFailed(f"{ref} does not exist")
    return (obj, ref), objects, objects.notes


class _Manifests:
    """The objects of a file, which answer look-ups, too."""

    def __init__(self, name: str) -> None:
        self._name = name
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        documents, problems = load_documents(text, "standard input" if name == "-" else name)
        if problems:
            raise MalformedReview("\n".join(map(str, problems)))
        self._objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        for document in documents:
            value = document.value
            items = value.get("items") if value.get("kind") == "List" else [value]
            for item in items if isinstance(items, list) else ():
                self._objects[_place(item)] = item
        self.notes: list[str] = []

    def chosen(self, target: str | None, operation: str) -> tuple[dict[str, Any], ObjectRef]:
        """The object that is meant, and its place."""
        found = [obj for obj in self._objects.values() if target is None or _is(obj, *_target(target))]
        if len(found) != 1:
            which = f"{target} is" if target else "one object is wanted, and KIND/NAME says which if there are several;"
            raise SettingsError(f"{self._name}: {which} there {len(found)} times")
        (obj,) = found
        if operation != "CREATE" and "managedFields" not in meta.metadata_of(obj):
            raise MalformedReview(
                f"{self._name}: the manifest has no managedFields, which say what Git declares; "
                "get it with kubectl get -o yaml --show-managed-fields"
            )
        group, version = meta.group_version(obj.get("apiVersion"))
        _, resource, namespace, name = _place(obj)
        return obj, ObjectRef(group, version, resource, namespace, name)

    def look_up(self, needed: LookupNeeded) -> Mapping[str, Any] | None:
        ref = needed.ref
        found = self._objects.get((ref.group, ref.resource, ref.namespace, ref.name))
        if found is None and needed.required:
            raise LookupFailed(f"the verdict depends on {ref}, which is not in {self._name}; put it there, too")
        if found is None and ref.resource:
            self.notes.append(f"{ref} is not in {self._name}, so it counts as one that does not exist")
        return found


def _place(obj: dict[str, Any]) -> tuple[str, str, str, str]:
    metadata = meta.metadata_of(obj)
    group, _ = meta.group_version(obj.get("apiVersion"))
    name, namespace = str(metadata.get("name") or ""), str(metadata.get("namespace") or "")
    return group, plural(str(obj.get("kind", ""))), namespace, name


def _is(obj: dict[str, Any], word: str, name: str) -> bool:
    group, resource, _, its_name = _place(obj)
    words = {resource, str(obj.get("kind", "")).lower()}
    return name == its_name and word.lower() in words | {f"{each}.{group}" for each in words}


def _target(text: str) -> tuple[str, str]:
    word, slash, name = text.partition("/")
    if not (word and slash and name):
        raise SettingsError(f"{text!r} is not KIND/NAME, such as deployment/web")
    return word, name


# ── what is printed ──────────────────────────────────────────────────────────────────────────────────────────────────


def _document(asked: Review, explanation: Explanation, now: datetime) -> dict[str, Any]:
    line = audit.record(asked, explanation.decision, time=now, seconds=0)
    steps = [
        {"step": step.name, "question": step.question, "answer": step.answer, "details": list(step.details)}
        for step in explanation.steps
    ]
    return {**{key: value for key, value in line.items() if key not in ("uid", "seconds")}, "steps": steps}


def _text(args: argparse.Namespace, asked: Review, explanation: Explanation) -> list[str]:
    decision, columns = explanation.decision, width()
    through = f"{asked.operation} of its {asked.subresource}" if asked.subresource else asked.operation
    verdict = coloured("yes", GREEN) if decision.allowed else coloured("no", RED)
    question = f"May {escaped(args.as_user)} write {escaped(str(place_of(asked)))} ({through})?"
    *lines, last = wrapped(question, columns - len("  yes"))
    lines += [f"{last}  {verdict}", ""]
    for number, step in enumerate(explanation.steps, 1):
        head = f"{number}. {step.question}".ljust(_INDENT)
        lines.append(head + coloured(escaped(step.answer), BOLD))
        lines += _indented(map(escaped, step.details), " " * _INDENT, columns)
    said = (
        f"{KUBECTL} {decision.message}" if decision.message else "\n".join(f"Warning: {w}" for w in decision.warnings)
    )
    if said:
        lines += ["", "kubectl would say:", *_indented(said.splitlines(), "  ", columns)]
    return lines


def _indented(texts: Iterable[str], indent: str, columns: int) -> Iterator[str]:
    """The texts behind ``indent`` and whatever they are indented by themselves, also where they are broken."""
    for text in texts:
        bare = text.lstrip(" ")
        margin = indent + text[: len(text) - len(bare)]
        yield from (margin + line for line in wrapped(bare, columns - len(margin)))
