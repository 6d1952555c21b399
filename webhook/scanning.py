"""The scan: from what the API server lists, or from manifests, to the objects that have drifted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from webhook import meta, tags
from webhook.admission import ObjectRef
from webhook.cluster.connection import JSON, Answer, Connection
from webhook.cluster.declaring import OWN_WEBHOOK, Declaring, DeniedByWebhook
from webhook.cluster.listing import Listing, Reading, Resource
from webhook.drift import Inspector, is_marked
from webhook.drift_model import BY_OWNERSHIP, CHANGED, EXTRA, MISSING, DriftedField, DriftedObject, Target
from webhook.errors import ClusterError
from webhook.foreign import written_by
from webhook.globs import Globs
from webhook.listkeys import canonical_group
from webhook.manifests import Manifest
from webhook.marking import marked, with_markers, with_metadata
from webhook.policy import Snapshot
from webhook.tools import LAST_APPLIED, Claim, ManagedBy

#: What managedFields call us where no tool's name is known for an object of the manifests.
FIELD_MANAGER: Final = "driftwall-scan"
#: Kept by their controllers alone, many, and short-lived: no tool manages one.
_NEVER_MANAGED: Final = frozenset({"events", "componentstatuses", "leases.coordination.k8s.io"})
#: Labels and annotations, and what in them keeps an object from being pruned.
_KEPT: Final = (
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
    ("argocd.argoproj.io/sync-options", "Prune=false"),
    ("helm.sh/resource-policy", "keep"),
)
#: Seconds between two words on how far it is: people see no more.
_PROGRESS: Final = 0.1

Object = dict[str, Any]
Key = tuple[str, str, str, str]


class Cluster(Connection, Reading, Protocol):
    """What a scan asks of a connection."""

    def get(self, path: str, deadline: float, *, accept: str = ...) -> Answer:
        """See Connection and Reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is scanned. ``namespace`` narrows, and is that of manifests which name none.

    ``resources`` narrows by names such as ``deployments.apps``, ``exclude`` takes some out; globs. ``partial``: the
    manifests are not all of their application. ``since`` leaves out what is known to be older.
    """

    namespace: str = ""
    resources: Globs = field(default_factory=Globs)
    exclude: Globs = field(default_factory=Globs)
    partial: bool = False
    since: datetime | None = None
    all_managers: bool = False

    def wants(self, resource: Resource) -> bool:
        """Whether a resource is to be listed."""
        names = (resource.name, resource.resource)
        if resource.name in _NEVER_MANAGED or resource.resource == "events" or any(map(self.exclude.matches, names)):
            return False
        if self.namespace and not resource.namespaced:
            return False
        return not self.resources or any(map(self.resources.matches, names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What brings an object back: ``manifest`` applied as ``manager``, or merged into it as a client-side apply does.

    Without a manifest, the object with ``uid`` is to be deleted.
    """

    path: str
    manifest: Object | None
    manager: str = ""
    uid: str = ""
    merged: bool = False


@dataclass(slots=True, kw_only=True)
class Totals:
    """What a scan has seen. ``managed`` counts objects by namespace and resource.

    ``incomplete`` says what it has missed, ``denied`` which dry runs driftwall itself has denied.
    """

    scanned: int = 0
    managed: dict[tuple[str, str], int] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)

    def count(self, namespace: str, resource: str) -> None:
        """Count one managed object."""
        key = (namespace, resource)
        self.managed[key] = self.managed.get(key, 0) + 1


class LiveObjects(Mapping[ObjectRef, Mapping[str, Any] | None]):
    """The objects that a policy must know beside the one in question, read when they are asked for."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._found: dict[ObjectRef, Mapping[str, Any] | None] = {}

    def __contains__(self, ref: object) -> bool:
        return isinstance(ref, ObjectRef)

    def __getitem__(self, ref: ObjectRef) -> Mapping[str, Any] | None:
        if ref not in self._found:
            resources = (r for r in self._listing.resources() if (r.group, r.resource) == (ref.group, ref.resource))
            resource = next(resources, None)
            self._found[ref] = self._listing.one(resource, ref.namespace, ref.name) if resource else None
        return self._found[ref]

    def __iter__(self) -> Iterator[ObjectRef]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Scan:
    """One scan. ``totals`` and ``remedies`` (by the object's place) fill while its results are read."""

    def __init__(
        self,
        cluster: Cluster,
        snapshot: Snapshot,
        options: Options,
        now: datetime,
        *,
        on_progress: Callable[[str, int], None] | None = None,
    ) -> None:
        self._options = options
        self._listing = Listing(cluster)
        self._declaring = Declaring(cluster)
        self._on_progress = on_progress
        self._told = 0.0
        self.inspector = Inspector(
            snapshot=snapshot,
            now=now,
            objects=LiveObjects(self._listing),
            is_scaled=self._is_scaled,
            all_managers=options.all_managers,
        )
        self._scaled: dict[str, set[tuple[str, str]]] = {}
        self.totals = Totals()
        self.remedies: dict[ObjectRef, Remedy] = {}
        self._siblings: dict[ManagedBy, tuple[Object, str]] = {}

    # From the cluster alone

    def cluster(self) -> Iterator[DriftedObject]:
        """Every object that tells of drift by itself. Raises ClusterError where nothing can be listed."""
        for resource, obj, found in self._managed():
            drifted = self._look_into(resource, obj, found)
            if drifted is not None:
                yield drifted

    def _managed(self) -> Iterator[tuple[Resource, Object, list[Claim]]]:
        """The metadata of all objects that a tool manages, or that bear driftwall's mark."""
        for resource in self._listing.resources():
            if not self._options.wants(resource):
                continue
            try:
                for obj in self._listing.objects(resource, self._options.namespace):
                    self.totals.scanned += 1
                    self._progress(resource.name)
                    namespace = resource.ref(obj).namespace
                    if self.inspector.is_exempt(namespace):
                        continue
                    found = self.inspector.claims(obj)
                    if found:
                        self.totals.count(namespace, resource.name)
                    if found or is_marked(obj):
                        yield resource, obj, found
            except ClusterError as error:
                self.totals.incomplete.append(f"{resource.name}: {error}")
        self.totals.incomplete += self._listing.problems

    def _look_into(self, resource: Resource, obj: Object, found: Sequence[Claim]) -> DriftedObject | None:
        target = Target(ref=resource.ref(obj), kind=resource.kind)
        by_hand = self.inspector.made_by_hand(obj, found)
        if by_hand is None and not self.inspector.suspects(obj, found):
            return None
        if not target.secret and by_hand is None:
            whole = self._listing.one(resource, target.ref.namespace, target.ref.name)
            if whole is None:
                return None
            obj = whole
        fields = (by_hand,) if by_hand is not None else self.inspector.inspect(obj, target)
        fields = self._recent(fields)
        if not fields:
            return None
        self._remember_applied(resource, obj, found)
        return _drifted(target, obj, found, fields=fields, state=EXTRA if by_hand is not None else CHANGED)

    def _remember_applied(self, resource: Resource, obj: Object, found: Sequence[Claim]) -> None:
        """Keep what last-applied-configuration tells, for whoever wants it back."""
        if not found:
            return
        applied = self.inspector.applied(obj, found)
        if applied is not None:
            ref = resource.ref(obj)
            self.remedies[ref] = Remedy(
                path=resource.path(ref.namespace, ref.name),
                manifest=msgspec.json.decode(meta.annotations_of(obj)[LAST_APPLIED]),
                manager=self._manager(obj, found),
                merged=True,
            )

    # From manifests

    def manifests(self, manifests: Iterator[Manifest]) -> Iterator[DriftedObject]:
        """Every object of the manifests that is not as they say, and those of the same applications beside them.

        Raises:
            SettingsError: something there is no manifest.
            ClusterError: the API server does not say what it serves.
        """
        declared: set[Key] = set()
        applications: set[ManagedBy] = set()
        for manifest in manifests:
            self._progress(manifest.kind)
            self.totals.scanned += 1
            resource = self._listing.find(manifest.group, manifest.kind)
            namespace = manifest.namespace or self._options.namespace or "default"
            namespace = namespace if resource is None or resource.namespaced else ""
            declared.add(_key(manifest.group, manifest.kind, namespace, manifest.name))
            try:
                drifted = self._compare(manifest, resource, namespace, applications)
            except DeniedByWebhook as error:
                (self.totals.denied if error.name == OWN_WEBHOOK else self.totals.incomplete).append(str(error))
                continue
            except ClusterError as error:
                self.totals.incomplete.append(f"{manifest.file}:{manifest.line}: {error}")
                continue
            if drifted is not None:
                yield replace(drifted, file=manifest.file, line=manifest.line)
        if applications and not self._options.partial:
            yield from self._extra(declared, applications)

    def _compare(
        self, manifest: Manifest, resource: Resource | None, namespace: str, applications: set[ManagedBy]
    ) -> DriftedObject | None:
        if resource is None:
            group, version = meta.group_version(manifest.value["apiVersion"])
            ref = ObjectRef(group, version, manifest.kind.lower(), namespace, manifest.name)
            return _drifted(Target(ref=ref, kind=manifest.kind), {}, (), state=MISSING)
        # Of a kind with several versions, in the manifest's.
        version = meta.group_version(manifest.value["apiVersion"])[1]
        preferred, resource = resource, replace(resource, group=manifest.group, version=version)
        path = resource.path(namespace, manifest.name)
        live = self._declaring.live(path)
        if live is None and resource != preferred and self._declaring.live(preferred.path(namespace, manifest.name)):
            raise ClusterError(f"{manifest.value['apiVersion']} is not served; render it for {preferred.api_version}")
        target = Target(
            ref=ObjectRef(resource.group, version, resource.resource, namespace, manifest.name), kind=manifest.kind
        )
        if live is None:
            found = self.inspector.claims(manifest.value)
            manager = self._manager(manifest.value, found) if found else ""
            self.remedies[target.ref] = Remedy(path=path, manifest=manifest.value, manager=manager)
            return _drifted(target, manifest.value, found, state=MISSING)
        found = self.inspector.claims(live)
        applications.update(claim.managed_by for claim in found)
        for claim in found:
            if claim.marker.names_object is None:
                self._siblings.setdefault(claim.managed_by, (marked(live, [claim]), self._manager(live, [claim])))
        self.totals.count(namespace, resource.name)
        manager = self._manager(live, found)
        wanted = with_markers(manifest.value, live, found)
        made = self._declaring.apply(path, wanted, manager, dry_run=True)
        # What others own there beside what the manifest declares: an opened port, an opt-out.
        by_path = {each.path: each for each in self.inspector.inspect(made, target, is_known=True)}
        by_path |= {each.path: each for each in self.inspector.compare(made, live, target)}
        for each in self.inspector.inspect(live, target, is_known=True):
            if each.user and each.path in by_path:
                by_path[each.path] = replace(by_path[each.path], user=each.user)
        fields = self._recent(tuple(by_path[key] for key in sorted(by_path)))
        if not fields:
            return None
        self.remedies[target.ref] = Remedy(path=path, manifest=wanted, manager=manager)
        return _drifted(target, live, found, fields=fields)

    def _extra(self, declared: set[Key], applications: set[ManagedBy]) -> Iterator[DriftedObject]:
        managed, self.totals.managed = self.totals.managed, {}
        for resource, obj, found in self._managed():
            ref = resource.ref(obj)
            # Controllers copy labels to what they make, such as the Endpoints of a Service: the tool never wrote those.
            names = [str(entry.get("manager", "")) for entry in written_by(obj)]
            ours = any(
                claim.managed_by in applications and any(map(claim.marker.written_by.matches, names)) for claim in found
            )
            if ours and not _is_kept(obj) and _key(ref.group, resource.kind, ref.namespace, ref.name) not in declared:
                uid = str(meta.metadata_of(obj).get("uid", ""))
                self.remedies[ref] = Remedy(path=resource.path(ref.namespace, ref.name), manifest=None, uid=uid)
                yield _drifted(Target(ref=ref, kind=resource.kind), obj, found, state=EXTRA)
        self.totals.managed = managed

    def _is_scaled(self, target: Target) -> bool:
        """Whether a HorizontalPodAutoscaler is pointed at the object."""
        namespace = target.ref.namespace
        if namespace not in self._scaled:
            resource = self._listing.find("autoscaling", "HorizontalPodAutoscaler")
            scalers = self._listing.objects(resource, namespace, accept=JSON) if resource is not None else ()
            targets = (meta.mapping(meta.mapping(each.get("spec")).get("scaleTargetRef")) for each in scalers)
            self._scaled[namespace] = {(str(each.get("kind")), str(each.get("name"))) for each in targets}
        return (target.kind, target.ref.name) in self._scaled[namespace]

    def _manager(self, obj: Object, found: Sequence[Claim]) -> str:
        """The name by which the object's tool is known in managedFields: its own there, or else the tool's first."""
        tool = self.inspector.tool(found)
        names = [str(entry.get("manager", "")) for entry in written_by(obj)]
        own = [name for claim in found for name in names if claim.marker.written_by.matches(name)]
        known = own or [name for name in names if tool.matches(name)]
        return next(iter([*known, *(claim.marker.managers[0] for claim in found)]), FIELD_MANAGER)

    def _recent(self, fields: tuple[DriftedField, ...]) -> tuple[DriftedField, ...]:
        since = self._options.since
        return tuple(each for each in fields if since is None or each.at is None or each.at >= since)

    def _progress(self, what: str) -> None:
        now = time.monotonic()
        if self._on_progress is not None and now - self._told >= _PROGRESS:
            self._told = now
            self._on_progress(what, self.totals.scanned)

    # Making it so

    def remediate(self, drifted: DriftedObject) -> tuple[str, ...]:
        """Bring an object back to its declared state, or delete one that nothing declares.

        Gives the paths that stay as they are, since Git does not declare them: an apply takes nothing away.

        Raises:
            ClusterError: that failed.
        """
        remedy = self.remedies[drifted.target.ref]
        if remedy.manifest is None:
            self._declaring.delete(remedy.path, remedy.uid)
            return ()
        manifest, manager = remedy.manifest, remedy.manager
        if not manager and len(self._siblings) == 1:
            # One application, so what is missing was its own: it is to be known as such again, and be pruned one day.
            ((marks, manager),) = self._siblings.values()
            manifest = with_metadata(manifest, marks)
        if remedy.merged:
            made = self._declaring.merge(remedy.path, manifest, manager)
        else:
            made = self._declaring.apply(remedy.path, manifest, manager or FIELD_MANAGER, dry_run=False)
        if tags.is_tagged(made):
            # driftwall's own webhook takes the mark away with a trusted write; here it was not in the way.
            gone = {"labels": {tags.LABEL: None}, "annotations": {tags.ANNOTATION: None}}
            self._declaring.merge(remedy.path, {"metadata": gone}, FIELD_MANAGER)
        left = {each.path for each in self.inspector.inspect(made, drifted.target, is_known=True)}
        return tuple(each.path for each in drifted.fields if each.path in left and each.evidence == BY_OWNERSHIP)


def _is_kept(obj: Object) -> bool:
    """Whether the tool has been told to leave the object behind once nothing declares it any more."""
    marks = {**meta.labels_of(obj), **meta.annotations_of(obj)}
    return any(word in str(marks.get(key, "")) for key, word in _KEPT)


def _key(group: str, kind: str, namespace: str, name: str) -> Key:
    return (canonical_group(group, kind), kind, namespace, name)


def _drifted(
    target: Target,
    obj: Object,
    found: Sequence[Claim],
    *,
    fields: tuple[DriftedField, ...] = (),
    state: str = CHANGED,
) -> DriftedObject:
    managed_by = found[0].managed_by if found else None
    uid = str(meta.metadata_of(obj).get("uid", ""))
    return DriftedObject(target=target, managed_by=managed_by, state=state, fields=fields, uid=uid)
