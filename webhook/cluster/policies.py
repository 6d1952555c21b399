"""Policies from the custom resources DriftPolicy and DriftwallConfig: each judged by itself, followed by a watch.

An object that is not valid never takes effect. Its last good version stays in force while this process lives, and the
others go on; an object that has no good version yet is left out. Only where nothing was in force before does one bad
object keep all of them out: then nobody knows what it was to protect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from webhook import meta, settings
from webhook.admission import ObjectRef
from webhook.cluster.connection import ApiServer, Offline
from webhook.cluster.mirror import LONGEST_PAUSE, QUIET_SECONDS, WATCH_SECONDS, Listing, Mirror, Streams, listed
from webhook.cluster.status import StatusWriter, Verdict, Wanted, Writes
from webhook.documents import Document
from webhook.errors import LookupFailed, PolicyError, SettingsError
from webhook.own_objects import CONFIGS, POLICIES, check, document_of
from webhook.policy import OWN_GROUP, Snapshot
from webhook.policy_compiler import USUAL_ACCOUNT, compile_documents
from webhook.policy_source import Report, Update

VERSION: Final = "v1alpha1"
NOTHING: Final = f"no DriftPolicy is there ({POLICIES}.{OWN_GROUP}); driftwall guards nothing but its own objects"

_log = logging.getLogger(__name__)


class Connection(Streams, Writes, Protocol):
    """What following policies takes: reading, watching, and writing their status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The seconds of it all, which tests make shorter."""

    # Objects that are applied together come one by one, some milliseconds apart, and are compiled once.
    together: float = 0.05
    # Between two looks at whether statuses are still to be written: after a change of the leader, say, or where the API
    # server did not take them.
    tick: float = 5.0
    watch: int = WATCH_SECONDS
    quiet: float = QUIET_SECONDS
    longest_pause: float = LONGEST_PAUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """An object as it was judged: what of it counts, what is wrong with that, and the last version that was good."""

    content: bytes
    problems: tuple[str, ...]
    good: tuple[bytes, Document] | None


class ClusterPolicies:
    """The source of policies that is in the cluster.

    ``is_leader`` says whether it is for this process to write the statuses; ``account`` is driftwall's own (see
    :func:`webhook.policy_compiler.compile_documents`).
    """

    def __init__(
        self,
        connection: Connection,
        *,
        is_leader: Callable[[], bool] = lambda: True,
        account: str = USUAL_ACCOUNT,
        pace: Pace | None = None,
    ) -> None:
        self._connection = connection
        self._is_leader = is_leader
        self._account = account
        self._pace = pace or Pace()
        self._checked: dict[ObjectRef, _Checked] = {}
        self._in_force: tuple[bytes, ...] | None = None
        self._problems: tuple[str, ...] | None = None
        self._wanted: Mapping[ObjectRef, Wanted] = {}

    async def follow(self, report: Report) -> None:
        """Report the policies as they are, and again whenever they have changed, until cancelled."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            # A mirror's thread may outlive the loop by a moment.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        pace, status = self._pace, StatusWriter(self._connection, self._is_leader)
        mirrors = {
            resource: Mirror(
                self._connection,
                _collection(resource),
                wake,
                watch_seconds=pace.watch,
                quiet_seconds=pace.quiet,
                longest_pause=pace.longest_pause,
            )
            for resource in (CONFIGS, POLICIES)
        }
        compiling = ThreadPoolExecutor(1, thread_name_prefix="policies")
        writing = ThreadPoolExecutor(1, thread_name_prefix="status")
        written = loop.create_future()
        written.set_result(None)
        try:
            for mirror in mirrors.values():
                mirror.start()
            while True:
                # Not wait_for, which before Python 3.12 forgets that it was cancelled if the event comes just then.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pace.tick):
                        await changed.wait()
                if changed.is_set():
                    await asyncio.sleep(pace.together)
                    changed.clear()
                    if (update := await loop.run_in_executor(compiling, self._look, mirrors)) is not None:
                        report(update)
                if written.done():
                    written = loop.run_in_executor(writing, status.write, self._wanted)
        finally:
            status.stop()
            for mirror in mirrors.values():
                mirror.close()
            for threads in (compiling, writing):
                threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, mirrors: Mapping[str, Mirror]) -> Update | None:
        """What there is now, if that is not what was reported last."""
        away = [f"{resource}.{OWN_GROUP}: {mirror.problem}" for resource, mirror in mirrors.items() if mirror.problem]
        objects = {resource: mirror.objects for resource, mirror in mirrors.items()}
        update = Update(snapshot=None, problems=tuple(away))
        known = {resource: found for resource, found in objects.items() if found is not None}
        if len(known) == len(mirrors):
            try:
                update = self._judge(known, away)
            except Exception:  # noqa: BLE001 - what is in force stays, and the next change is looked at
                _log.exception("driftwall failed to read the policies")
                update = Update(snapshot=None, problems=(*away, "driftwall failed to read them; its log says why"))
        elif not away:
            return None  # still listing
        if update.snapshot is None and update.problems == self._problems:
            return None
        self._problems = update.problems
        return update

    def _judge(self, objects: Mapping[str, Mapping[str, meta.Object]], away: Sequence[str]) -> Update:
        seen = {
            ObjectRef(OWN_GROUP, VERSION, resource, "", name): obj
            for resource, named in objects.items()
            for name, obj in sorted(named.items())
        }
        self._checked = {ref: _check(ref, obj, self._checked.get(ref)) for ref, obj in seen.items()}
        self._wanted = {ref: _wanted(obj, self._checked[ref]) for ref, obj in seen.items()}
        problems = [*away, *(problem for each in self._checked.values() for problem in each.problems)]
        good = [each.good for each in self._checked.values() if each.good is not None]
        if not objects[POLICIES]:
            problems.append(NOTHING)
        if self._in_force is None and problems:
            return Update(snapshot=None, problems=tuple(problems))
        contents = tuple(content for content, _ in good)
        if contents == self._in_force:
            return Update(snapshot=None, problems=tuple(problems))
        snapshot, found = compile_documents([document for _, document in good], valid=True, account=self._account)
        if found:  # not to be had by documents that are each valid, and have different names
            return Update(snapshot=None, problems=(*problems, *map(str, sorted(found))))
        self._in_force = contents
        return Update(snapshot=snapshot, problems=tuple(problems))


def load(connection: Listing) -> Snapshot:
    """The policies in the cluster as they are written now, for whoever looks once.

    Raises:
        PolicyError: with every problem found, one line each.
        LookupFailed: they could not be read.
    """
    found: dict[str, Mapping[str, meta.Object]] = {}
    for resource in (CONFIGS, POLICIES):
        try:
            found[resource] = listed(connection, _collection(resource))[0]
        except LookupFailed as error:
            raise LookupFailed(f"{resource}.{OWN_GROUP}: {error}") from None
    documents = [document_of(resource, obj) for resource, named in found.items() for _, obj in sorted(named.items())]
    problems = [str(problem) for document in documents for problem in check(document)]
    if not found[POLICIES]:
        problems.append(NOTHING)
    if problems:
        raise PolicyError(problems)
    return compile_documents(documents, valid=True)[0]


def required(connection: ApiServer | Offline) -> ApiServer:
    """The way to the cluster that the policies are in.

    Raises:
        SettingsError: there is none.
    """
    if isinstance(connection, Offline):
        raise SettingsError(
            f"{settings.POLICIES.flag} {settings.CLUSTER} needs a way to the API server ({connection.reason}); "
            f"give {settings.KUBECONFIG.flag} FILE"
        )
    return connection


def _collection(resource: str) -> str:
    return f"/apis/{OWN_GROUP}/{VERSION}/{resource}"


def _check(ref: ObjectRef, obj: meta.Object, before: _Checked | None) -> _Checked:
    document = document_of(ref.resource, obj)
    content = msgspec.json.encode(document.value)
    if before is not None and before.content == content:
        return before
    try:
        problems = tuple(str(problem) for problem in check(document))
    except Exception:  # noqa: BLE001 - one object must not keep the others from being judged
        _log.exception("%s: driftwall failed to check it", ref)
        problems = (f"{document.file}: driftwall failed to check it; the reason is in its log",)
    good = (content, document) if not problems else before.good if before is not None else None
    return _Checked(content=content, problems=problems, good=good)


def _wanted(obj: meta.Object, checked: _Checked) -> Wanted:
    metadata = meta.metadata_of(obj)
    generation = metadata.get("generation")
    if not checked.problems:
        message = "It is valid."
    elif checked.good is not None:
        message = _message(checked.problems, "Its last good version stays in force until driftwall restarts.")
    else:
        message = _message(checked.problems, "It is not in force.")
    verdict = Verdict(
        uid=str(metadata.get("uid", "")),
        generation=generation if isinstance(generation, int) else 0,
        accepted=not checked.problems,
        reason="Invalid" if checked.problems else "Valid",
        message=message,
    )
    return Wanted(obj=obj, verdict=verdict)


def _message(problems: Iterable[str], end: str) -> str:
    return "\n".join((*problems, end))
