"""Audit events back to the reviews that the API server sent, as far as the log tells them.

What a write made of the object is in the answer to it, and what the object was before in the answer to the write before
that. So the log is read in order, and the newest state of every object is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.admission import GroupVersionKind, GroupVersionResource, ObjectRef, Parts, Review, assemble
from webhook.audit_events import Event
from webhook.errors import NotRecorded
from webhook.offline import GONE, NOT_THE_OBJECT, Place, RecordedObjects
from webhook.sent import made_of
from webhook.states import NOTHING, NULL, Object, read_state, scaled, unmarked
from webhook.subject import LookupNeeded, replicas_path

# Why a verdict cannot be known. Few, so that they can be counted; the text is for a person.
LEVEL: Final = "recorded below level RequestResponse, without the objects"
NO_STATE: Final = "the log shows no earlier state of the object"
GAP: Final = "a write before it is missing from the log"
ORDER: Final = "two writes of the object at the same moment, logged in another order"
NO_OBJECT: Final = "the answer in the log is not the object"
NO_OWNERSHIP: Final = "the log leaves managedFields out, which tell what Git declares"
VERSION: Final = "the log shows the object in another API version before"
OTHER_OBJECT: Final = "it depends on another object, which the log does not show"


class _List(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    items: tuple[dict[str, Any], ...] | None = ()


_list = msgspec.json.Decoder(_List)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write of the log. ``readings`` are the reviews that it may have been: one, unless a patch is ambiguous.

    ``unknown`` says why the objects are not known; then the one reading has none. ``told`` are the policies that the
    webhook named when it denied the write. ``judged_as_sent``: what would have been stored is not known, but what was
    sent is.
    """

    readings: tuple[Review, ...]
    unknown: str = ""
    told: tuple[str, ...] | None = None
    judged_as_sent: bool = False


class Unseen(Review):
    """A review without its objects: whoever asks for one is told that it cannot be known."""

    unknown: str = LEVEL

    def __init__(self, *request: Any) -> None:
        super().__init__(*request)
        del self.new, self.old

    def __getattr__(self, name: str) -> Any:
        """Raises NotRecorded for the objects."""
        if name in ("new", "old"):
            raise NotRecorded(self.unknown, self.unknown)
        raise AttributeError(name)

    @cached_property
    def name(self) -> str:
        """The name in the request; empty where that has none."""
        return self._name


class AuditObjects(RecordedObjects):
    """The objects as an audit log shows them. What it does not show may exist all the same."""

    def look_up(self, needed: LookupNeeded) -> Mapping[str, Any] | None:
        """As the class it stands on; raises NotRecorded where it cannot tell whether the object exists."""
        ref = needed.ref
        found = self.get(ref)
        if ref.resource_version and not needed.optional and not meta.metadata_of(found).get("managedFields"):
            raise NotRecorded(NO_OWNERSHIP, NO_OWNERSHIP)
        if found is not None or needed.optional or self.state(_place_of(ref)) == GONE:
            return found
        if not ref.resource or ref.resource == "customresourcedefinitions":
            return None  # the rule for names of resources, and spec.replicas, hold for nearly all
        raise NotRecorded(OTHER_OBJECT, f"the verdict depends on {ref}, which the log does not show")


def _place_of(ref: ObjectRef) -> Place:
    return (ref.group, ref.resource, ref.namespace, ref.name)


class Reconstruction:
    """Makes reviews of events, which have to come in the order of the log. ``objects`` is what it has learnt."""

    def __init__(self, objects: RecordedObjects) -> None:
        self.objects = objects

    def writes(self, event: Event) -> Iterator[Write]:
        """The reviews of one event: of a complete request that was carried out, or that driftwall denied.

        What it made of the object is remembered once the caller asks for the next: a verdict rests on what was before.
        """
        place = self._place(event)
        if event.code >= 400:
            yield self._denied(event, place)
        elif event.level != "RequestResponse":
            yield self._without_answer(event, place)
        elif event.verb == "deletecollection":
            yield from self._collection(event, place)
        elif event.is_connection or (event.verb == "create" and event.ref.subresource):
            operation = "CONNECT" if event.is_connection else "CREATE"
            new = bytes(event.request_object)
            yield _write(event, place, operation, new=new)
        elif event.verb == "delete":
            yield from self._deletion(event, place)
        elif event.ref.subresource == "scale":
            yield from self._scale(event, place)
        else:
            yield from self._change(event, place)

    def _place(self, event: Event) -> Place:
        ref = event.ref
        namespace = "" if _is_namespace(event) else ref.namespace
        return (ref.api_group, ref.resource, namespace, ref.name)

    # ── carried out ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _change(self, event: Event, place: Place) -> Iterator[Write]:
        answer = bytes(event.response_object)
        obj = read_state(answer)
        metadata = obj.metadata
        place = (*place[:3], metadata.name or place[3])
        if obj.kind in ("", "Status", "PartialObjectMetadata", "Table"):
            # It was written, and what it is now is not known.
            self.objects.pop(place)
            yield _unknown(event, place, NO_OBJECT)
            return
        if obj.kind in NOT_THE_OBJECT:
            yield _write(event, place, "UPDATE", new=answer)
            return
        dry = bool(event.query("dryRun"))
        created = event.code == 201 or event.verb == "create"
        before = None if created else self.objects.state(place)
        was = read_state(before or NULL)
        newest = True
        if created:
            yield _write(event, place, "CREATE", new=_unmarked(event, NULL, answer))
        elif before is None or before == GONE:
            yield _unknown(event, place, NO_STATE)
        elif was.metadata.uid != metadata.uid:
            yield _unknown(event, place, GAP)
        elif was.api_version != obj.api_version:
            yield _unknown(event, place, VERSION)
        elif _is_older(metadata.resource_version, was.metadata.resource_version) and not dry:
            newest = False
            yield _unknown(event, place, ORDER)
        elif self._is_gap(event, was):
            yield _unknown(event, place, GAP)
        else:
            new = _unmarked(event, before, answer)
            yield _write(event, place, "UPDATE", old=before, new=new)
        if newest and not dry and place[3]:
            self.objects.put(place, answer)

    @staticmethod
    def _is_gap(event: Event, was: Object) -> bool:
        """Whether a PUT was made of another version than the one that is remembered."""
        if event.verb != "update":
            return False
        sent = read_state(bytes(event.request_object)).metadata.resource_version
        return bool(sent) and sent != was.metadata.resource_version

    def _deletion(self, event: Event, place: Place) -> Iterator[Write]:
        answer = bytes(event.response_object)
        obj = read_state(answer)
        gone = obj.kind == "Status"
        before = self.objects.state(place)
        if before in (None, GONE):
            before = None if gone else answer
        if before is None:
            yield _unknown(event, place, NO_STATE)
        else:
            yield _write(event, place, "DELETE", old=before)
        if not _is_dry(event):
            self.objects.put(place, GONE if gone else answer)

    def _collection(self, event: Event, place: Place) -> Iterator[Write]:
        """One review for each object that was deleted; the answer holds them all."""
        try:
            answer = _list.decode(event.response_object)
        except msgspec.DecodeError:
            yield _unknown(event, place, NO_OBJECT)
            return
        if not answer.kind.endswith("List"):
            yield _unknown(event, place, NO_OBJECT)
            return
        for item in answer.items or ():
            # The items of a list do not repeat what they are.
            deleted = {"kind": answer.kind.removesuffix("List"), "apiVersion": answer.api_version, **item}
            state = msgspec.json.encode(deleted)
            metadata = meta.metadata_of(deleted)
            this = (*place[:3], str(metadata.get("name", "")))
            yield _write(event, this, "DELETE", old=state)
            if not _is_dry(event):
                self.objects.put(this, state if metadata.get("finalizers") else GONE)

    def _scale(self, event: Event, place: Place) -> Iterator[Write]:
        answer = bytes(event.response_object)
        made = self._old_scale(place)
        if made is None:
            yield _unknown(event, place, NO_STATE)
            return
        old, parent, path = made
        yield _write(event, place, "UPDATE", old=old, new=answer)
        if not event.query("dryRun"):
            spec = meta.mapping(msgspec.json.decode(answer)).get("spec")
            number = meta.mapping(spec).get("replicas", 0)
            self.objects.put(place, scaled(parent, path, number, read_state(answer).metadata.resource_version))

    def _old_scale(self, place: Place) -> tuple[bytes, Mapping[str, Any], tuple[str, ...]] | None:
        """The Scale that there was, the object that it belongs to, and where that keeps the number."""
        group, resource, namespace, name = place
        state = self.objects.state(place)
        if state is None or state == GONE:
            return None
        parent: dict[str, Any] = msgspec.json.decode(state)
        version = meta.group_version(parent.get("apiVersion"))[1]
        definition = ObjectRef("apiextensions.k8s.io", "v1", "customresourcedefinitions", "", f"{resource}.{group}")
        path = replicas_path(
            ObjectRef(group, version, resource, namespace, name), {definition: self.objects.get(definition)}
        )
        value: Any = parent
        for field in path:
            value = meta.mapping(value).get(field)
        scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": value or 0}}
        return msgspec.json.encode(scale), parent, path

    # ── not carried out, or not told ─────────────────────────────────────────────────────────────────────────────────

    def _without_answer(self, event: Event, place: Place) -> Write:
        """At a lower level: a creation is known by what was sent, if that is there."""
        self.objects.pop(place)
        sent = bytes(event.request_object)
        if event.is_connection or event.ref.subresource in ("token", "eviction"):
            operation = "CONNECT" if event.is_connection else "CREATE"
            return _write(event, place, operation, new=sent)
        if event.verb == "create" and sent != NULL:
            return _write(event, place, "CREATE", new=sent, as_sent=True)
        return _unknown(event, place, LEVEL)

    def _denied(self, event: Event, place: Place) -> Write:
        """What driftwall denied: the answer holds no object, so what there would be now follows from what was sent."""
        told = event.policies_named
        sent = bytes(event.request_object)
        before = self.objects.state(place)
        if event.level == "Metadata" or event.verb == "deletecollection":
            return _unknown(event, place, LEVEL if event.level == "Metadata" else NO_OBJECT, told)
        if event.is_connection or (event.verb == "create" and (event.ref.subresource or sent != NULL)):
            operation = "CONNECT" if event.is_connection else "CREATE"
            return _write(event, place, operation, new=sent, as_sent=True)
        scale = event.ref.subresource == "scale"
        if scale and (made := self._old_scale(place)) is not None:
            before = made[0]
        if before is None or before == GONE:
            return _unknown(event, place, NO_STATE, told)
        if event.verb == "delete":
            return _write(event, place, "DELETE", old=before, as_sent=True)
        if sent == NULL:
            return _unknown(event, place, NO_OBJECT, told)
        if event.verb == "update" and not scale and self._is_gap(event, read_state(before)):
            return _unknown(event, place, GAP, told)
        old: dict[str, Any] = msgspec.json.decode(before)
        # A patch without lists makes the same of the object, however it is read.
        states = dict.fromkeys(map(msgspec.json.encode, made_of(event, old, msgspec.json.decode(sent))))
        if not states:
            return _unknown(event, place, NO_OBJECT, told)
        writes = (_write(event, place, "UPDATE", old=before, new=new) for new in states)
        readings = tuple(review for write in writes for review in write.readings)
        return Write(readings=readings, told=told, judged_as_sent=True)


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_namespace(event: Event) -> bool:
    return event.ref.api_group == "" and event.ref.resource == "namespaces"


def _is_dry(event: Event) -> bool:
    """Whether nothing is stored; a deletion may also say so in its body, which are its options."""
    if event.query("dryRun"):
        return True
    return event.verb in ("delete", "deletecollection") and b'"dryRun"' in bytes(event.request_object)


def _is_older(version: str, than: str) -> bool:
    # Comparable as numbers: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _write(
    event: Event,
    place: Place,
    operation: str,
    *,
    old: bytes = NULL,
    new: bytes = NULL,
    as_sent: bool = False,
) -> Write:
    """A write with its objects, of which the newer says what they are. ``as_sent`` and denied: with who denied it."""
    kind = read_state(new if old == NULL or new != NULL else old)
    review = assemble(_parts(event, place, operation, kind, old, new), Review)
    denied = as_sent and event.code >= 400
    return Write(readings=(review,), told=event.policies_named if denied else None, judged_as_sent=as_sent)


def _unknown(event: Event, place: Place, reason: str, told: tuple[str, ...] | None = None) -> Write:
    operation = {"create": "CREATE", "delete": "DELETE", "deletecollection": "DELETE"}.get(event.verb, "UPDATE")
    if event.is_connection:
        operation = "CONNECT"
    review = assemble(_parts(event, place, operation, NOTHING, NULL, NULL), Unseen)
    review.unknown = reason
    return Write(readings=(review,), unknown=reason, told=told)


def _parts(event: Event, place: Place, operation: str, kind: Object, old: bytes, new: bytes) -> Parts:
    group, version = meta.group_version(kind.api_version)
    ref = event.ref
    name = place[3]
    return Parts(
        uid=event.audit_id,
        kind=GroupVersionKind(group=group, version=version, kind=kind.kind),
        resource=GroupVersionResource(group=ref.api_group, version=ref.api_version, resource=ref.resource),
        operation=operation,
        user=event.writer,
        subresource=ref.subresource,
        # The review of a Namespace bears its own name there.
        namespace=name if _is_namespace(event) else ref.namespace,
        name=name,
        old=old,
        new=new,
        dry_run=_is_dry(event),
    )


def _unmarked(event: Event, before: bytes, answer: bytes) -> bytes:
    return unmarked(before, answer) if event.mutated_by_driftwall else answer
