"""The API server's audit log replayed, beside what the live webhook said of the same writes."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from webhook.breakglass import read_time
from webhook.policy_compiler import load
from webhook.replay import AS_TOLD, Replay, Unknown, Verdict

from .api import Object
from .driftwall import Driftwall, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One write: the event, what replay makes of it, and the lines of the decision log about it.

    There are several where the API server had an old state of the object in its cache, and asked again.
    """

    event: Object
    result: Verdict | Unknown
    lines: tuple[Line, ...]

    @property
    def line(self) -> Line:
        """The last word of the webhook."""
        return self.lines[-1]

    @property
    def agrees(self) -> bool:
        """Whether the verdict and the policies are those of the live webhook."""
        if isinstance(self.result, Unknown):
            return False
        live = (not self.line["allowed"], [policy["name"] for policy in self.line["policies"]])
        outcome = self.result.outcome
        return live == (outcome.verdict == "denied", [broken.name for broken in outcome.broken])

    @property
    def agrees_in_fields(self) -> bool:
        """Whether the fields are, too."""
        if isinstance(self.result, Unknown):
            return False
        live = {field["path"] for policy in self.line["policies"] for field in policy["fields"]}
        return live == {path for broken in self.result.outcome.broken for path in broken.fields}

    @property
    def told(self) -> bool:
        """Whether no more is known than which policies the webhook named."""
        return isinstance(self.result, Verdict) and self.result.known == AS_TOLD

    def __str__(self) -> str:
        event = {key: self.event.get(key) for key in ("verb", "requestURI", "requestObject")}
        return f"{json.dumps(event)[:600]}\n{self.result}\n{self.line}"


def pairs(audit_log: Path, driftwall: Driftwall) -> Iterator[Pair]:
    """Every write of the audit log that `driftwall` was asked about, by its policies.

    Both clocks are this machine's: the line that belongs to an event was written between its two times.
    """
    lines: dict[tuple[str, str, str, str], list[Line]] = defaultdict(list)
    for line in driftwall.log():
        lines[line["user"], line["operation"], line["resource"], line["subresource"]].append(line)
    replay = Replay(load(driftwall.policies))
    with audit_log.open("rb") as log:
        for text in log:
            if not text.endswith(b"\n"):
                break  # still being written
            for result in replay.take(text):
                if isinstance(result, Verdict | Unknown):
                    event: Object = json.loads(text)
                    asked = _lines_about(event, result, lines)
                    if asked:
                        yield Pair(event=event, result=result, lines=asked)


def _lines_about(
    event: Object, result: Verdict | Unknown, lines: Mapping[tuple[str, str, str, str], list[Line]]
) -> tuple[Line, ...]:
    began, ended = (read_time(event[key]) for key in ("requestReceivedTimestamp", "stageTimestamp"))
    assert began is not None
    assert ended is not None
    user = (event.get("impersonatedUser") or event["user"])["username"]
    ref = event["objectRef"]
    resource = ref["resource"] + (f".{ref['apiGroup']}" if ref.get("apiGroup") else "")
    if isinstance(result, Verdict):
        name, operations = result.outcome.object.rpartition(" ")[2].rpartition("/")[2], [result.outcome.operation]
    else:
        name, operations = ref.get("name", ""), ["CREATE", "UPDATE", "DELETE", "CONNECT"]
    return tuple(
        line
        for operation in operations
        for line in lines[user, operation, resource, ref.get("subresource", "")]
        if line["name"] in ("", name) or not name
        if began <= _time(line) <= ended
    )


def _time(line: Line) -> datetime:
    time = read_time(line["time"])
    assert time is not None
    return time
