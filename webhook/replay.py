"""Recorded writes, decided by policies: lines of any source in, outcomes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.admission import API_VERSION, KIND, Review, parse
from webhook.audit_events import COMPLETE, GROUP, NEVER_ASKED, Event, EventList, of_google, unwrapped
from webhook.breakglass import read_time
from webhook.case import Context, candidates_of
from webhook.decision import Decision
from webhook.errors import DriftwallError, LookupFailed, MalformedReview, NotRecorded
from webhook.offline import decide_offline
from webhook.outcome import LogLine, Outcome, as_told, of_decision, of_log_line
from webhook.policy import OWN_GROUP, Snapshot
from webhook.reconstruction import AuditObjects, Reconstruction, Write
from webhook.subject import plural

# What is passed over, under the names that the report gives it.
READS: Final = "reads"
STAGES: Final = "otherStages"
FAILED: Final = "failed"
NEVER_SENT: Final = "leasesAndEvents"
STATES: Final = "objects"
MESSAGES: Final = "otherLines"

# How a verdict is known.
DECIDED: Final = "decided"
AS_SENT: Final = "asSent"
AS_TOLD: Final = "asTold"
AS_LOGGED: Final = "asLogged"

AMBIGUOUS: Final = "driftwall denied it, and what was sent does not tell what it would have become"
NOT_DECIDED: Final = "the line tells of no decision"


NOTHING_KNOWN: Final = "no audit event, AdmissionReview or line of the decision log"
GOOGLE: Final = (
    "an entry of Google's Cloud Logging (protoPayload), which is no audit.k8s.io event; run driftwall in mode dryRun, "
    "and replay its decision log"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome under the policies, under the ``other`` ones if there are any, and how it is known."""

    outcome: Outcome
    other: Outcome | None
    known: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A write whose verdict cannot be known, and why, in one of few sentences."""

    reason: str
    user: str
    object: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A line that tells of no write."""

    what: str


Result = Verdict | Unknown | Skipped


class Unreadable(DriftwallError):
    """A line that is none of what can be replayed."""


_event = msgspec.json.Decoder(Event)
_events = msgspec.json.Decoder(EventList)
_line = msgspec.json.Decoder(LogLine)
_SKIPPED: Final = {what: Skipped(what=what) for what in (READS, STAGES, FAILED, NEVER_SENT, STATES, MESSAGES)}


class Replay:
    """Decides what it is given, in the order in which it was recorded.

    ``other`` are policies to compare with. ``memory`` is how many bytes of objects it may remember, from which it knows
    what an object was before a write.
    """

    def __init__(self, snapshot: Snapshot, *, other: Snapshot | None = None, memory: int | None = None) -> None:
        self._snapshot = snapshot
        self._other = other
        self.objects = AuditObjects(memory)
        self._reconstruction = Reconstruction(self.objects)
        self._clock: datetime | None = None

    def take(self, text: bytes) -> Iterator[Result]:
        """What one line, or one whole document, tells.

        Raises Unreadable: nothing that can be replayed.
        """
        try:
            event = _event.decode(text)
        except msgspec.ValidationError as error:
            return self._wrapped(_json(text), str(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreadable(f"not valid JSON: {error}") from None
        except RecursionError:
            raise Unreadable("nested too deeply") from None
        if event.api_version.startswith(GROUP):
            return self._audited(event, text)
        if event.kind == KIND and event.api_version == API_VERSION:
            return self._reviewed(text)
        if not event.kind:
            return self._logged(text)
        return self._shown(text)

    # ── audit events ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _audited(self, event: Event, text: bytes) -> Iterator[Result]:
        if event.kind == "EventList":
            for item in _events.decode(text).items:
                yield from self.take(bytes(item))
        elif event.stage != COMPLETE:
            yield _SKIPPED[STAGES]
        elif not event.is_write:
            yield _SKIPPED[READS]
        elif (event.ref.api_group, event.ref.resource) in NEVER_ASKED:
            yield _SKIPPED[NEVER_SENT]
        elif event.code >= 400 and not event.is_denied_by_driftwall:
            yield _SKIPPED[FAILED]
        else:
            time = event.time
            try:
                for write in self._reconstruction.writes(event):
                    yield self._weigh(write, time)
            except MalformedReview as error:
                raise Unreadable(str(error)) from None

    def _wrapped(self, document: Any, problem: str) -> Iterator[Result]:
        """What a record of a cloud's log holds. Raises Unreadable for what is none, with the ``problem`` it has."""
        texts = unwrapped(document)
        if texts is None:
            raise Unreadable(GOOGLE if of_google(document) else f"{NOTHING_KNOWN}: {problem}")
        for text in texts:
            if not text.lstrip().startswith(b"{"):
                yield _SKIPPED[MESSAGES]  # of another part of the control plane
                continue
            try:
                event = _event.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Unreadable(f"the record of a cloud's log holds no whole audit event: {error}") from None
            if not event.api_version.startswith(GROUP):
                raise Unreadable("the record of a cloud's log holds no audit event")
            yield from self._audited(event, text)

    def _weigh(self, write: Write, time: datetime | None) -> Result:
        review = write.readings[0]
        try:
            outcome, known = self._outcome(write, self._snapshot, time)
            other = None if self._other is None else self._outcome(write, self._other, time)[0]
        except NotRecorded as error:
            return _unknown(review, error.reason)
        except (LookupFailed, MalformedReview) as error:
            return _unknown(review, str(error))
        return Verdict(outcome=outcome, other=other, known=known)

    def _outcome(self, write: Write, snapshot: Snapshot, time: datetime | None) -> tuple[Outcome, str]:
        """The outcome of a write, and how it is known. Raises NotRecorded, LookupFailed, MalformedReview."""
        review = write.readings[0]
        now = time or datetime.now(UTC)
        try:
            return self._decided(write, snapshot, time, now), AS_SENT if write.judged_as_sent else DECIDED
        except NotRecorded:
            if write.told:
                return as_told(review, write.told, snapshot, time), AS_TOLD
            if (writer := _unopposed(review, snapshot, now)) is not None:
                return of_decision(review, writer, time), DECIDED
            raise

    def _decided(self, write: Write, snapshot: Snapshot, time: datetime | None, now: datetime) -> Outcome:
        first, *others = (
            of_decision(each, decide_offline(each, snapshot, self.objects, now), time) for each in write.readings
        )
        if any(_names(other) != _names(first) for other in others):
            raise NotRecorded(AMBIGUOUS, AMBIGUOUS)
        return first

    # ── the other sources ────────────────────────────────────────────────────────────────────────────────────────────

    def _reviewed(self, text: bytes) -> Iterator[Result]:
        try:
            review = parse(text)
            self._clock = max(filter(None, (self._clock, _written_at(review))), default=None)
        except MalformedReview as error:
            raise Unreadable(str(error)) from None
        yield self._weigh(Write(readings=(review,)), self._clock)
        self.objects.remember(review)

    def _logged(self, text: bytes) -> Iterator[Result]:
        try:
            line = _line.decode(text)
        except msgspec.ValidationError as error:
            said = _json(text)
            if isinstance(said, dict) and "level" in said and "message" in said:
                yield _SKIPPED[MESSAGES]  # what driftwall says beside its decisions
                return
            if isinstance(said, dict) and "error" in said:
                yield Unknown(reason=NOT_DECIDED, user="", object="")
                return
            yield from self._wrapped(said, str(error))
            return
        other = None if self._other is None else of_log_line(line, self._other)
        yield Verdict(outcome=of_log_line(line, self._snapshot), other=other, known=AS_LOGGED)

    def _shown(self, text: bytes) -> Iterator[Result]:
        """Objects as they are: what they were before the first write that the log tells of."""
        document = msgspec.json.decode(text)
        items = document.get("items") if str(document.get("kind")).endswith("List") else [document]
        for obj in items if isinstance(items, list) else ():
            metadata = meta.metadata_of(obj)
            group, _ = meta.group_version(obj.get("apiVersion"))
            if not metadata.get("name") or not obj.get("kind"):
                raise Unreadable("no audit event, AdmissionReview, line of the decision log or object")
            place = (group, plural(str(obj["kind"])), str(metadata.get("namespace", "")), str(metadata["name"]))
            self.objects.put(place, msgspec.json.encode(obj))
            yield _SKIPPED[STATES]


def _json(text: bytes) -> Any:
    """What is known to be JSON, but maybe not to be UTF-8 everywhere, nor of a depth that can be read."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"{NOTHING_KNOWN}: {error}") from None


def _names(outcome: Outcome) -> tuple[Any, ...]:
    return (outcome.verdict, [broken.name for broken in outcome.broken])


def _unknown(review: Review, reason: str) -> Unknown:
    return Unknown(reason=reason, user=review.user.username, object=review.qualified_resource)


def _unopposed(review: Review, snapshot: Snapshot, now: datetime) -> Decision | None:
    """The decision on a write that no policy may object to, whatever the objects hold; None if one may.

    But for the annotations of break-glass, which nobody but who may break glass sets on whatever object.
    """
    group, resource = review.resource.group, review.resource.resource
    if group == OWN_GROUP or (group, resource) == ("", "secrets"):
        return None
    trusted = snapshot.config.trusted.find(review.user)
    if trusted is not None:
        return Decision(allowed=True, writer=f"trusted:{trusted.name}")
    context = Context(review=review, snapshot=snapshot, objects={}, now=now, writer="untrusted")
    # Whoever writes an autoscaler writes the replicas of another object.
    if resource != "horizontalpodautoscalers" and not candidates_of(context, resource, group, review.subresource):
        return Decision(allowed=True, writer="untrusted")
    return None


def _written_at(review: Review) -> datetime | None:
    """When a review was made: admission sees the managedFields of this very write. None where that tells nothing."""
    times = (read_time(entry.get("time")) for entry in meta.managed_entries(review.new))
    return max(filter(None, times), default=None)
