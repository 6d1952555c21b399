"""The GitOps tools that driftwall knows: how they mark an object as theirs, under which names they write.

The facts come from the tools' sources and documentation; `driftwall explain tool NAME` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from webhook import meta
from webhook.errors import MalformedReview
from webhook.globs import Globs
from webhook.lazyjson import LazyMetadata, LazyObject
from webhook.listkeys import canonical_group
from webhook.patterns import PathSet

_KIND: Final = frozenset({"apiVersion", "kind"})
_NAMES_AND_MARKS: Final = frozenset({"labels", "annotations", "name", "namespace"})
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
DECLARED_FIELDS: Final = "configsync.gke.io/declared-fields"
OWN_PREFIX: Final = "driftwall.io/"


class ManagedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What manages an object: ``flux``, ``Kustomization``, ``flux-system/shop``."""

    tool: str
    kind: str
    application: str

    @property
    def title(self) -> str:
        """For a sentence: ``Flux (Kustomization flux-system/shop)``."""
        return f"{TITLES[self.tool]} ({self.kind} {self.application})" if self.application else TITLES[self.tool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an object calls itself; ``namespace`` is empty for a cluster-scoped one."""

    group: str
    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Marker:
    """One way in which a tool marks an object.

    All of ``labels`` and ``annotations`` must be there (with the value given, or any but the empty one for None).
    ``names_object`` tells whether the marker's value names the object that carries it; a marker without one is no
    proof on an object that a controller made, since controllers copy their owner's labels to what they create.

    ``first`` is one of their keys: what lacks it needs no closer look.
    ``protected`` are the marker and the tool's opt-outs, as places in an object, and ``written_by`` the managers, both
    made once. Opt-outs count as labels and as annotations: Flux looks in both (fluxcd/pkg, ssa, AnyInMetadata).
    """

    tool: str
    kind: str
    labels: Mapping[str, str | None]
    annotations: Mapping[str, str | None]
    application: Callable[[Mapping[str, str], Mapping[str, str]], str]
    managers: tuple[str, ...]
    names_object: Callable[[Mapping[str, str], Identity], bool] | None = None
    opt_outs: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    way_out: str
    protected: PathSet = field(init=False, compare=False, repr=False)
    first: str = field(init=False, compare=False, repr=False)
    written_by: Globs = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        paths = [("metadata", "labels", key) for key in (*self.labels, *self.opt_outs)]
        paths += [("metadata", "annotations", key) for key in (*self.annotations, *self.opt_outs)]
        object.__setattr__(self, "protected", PathSet(paths))
        object.__setattr__(self, "first", next(iter(self.labels or self.annotations)))
        object.__setattr__(self, "written_by", Globs(self.managers))


def _tracked_object(annotations: Mapping[str, str], me: Identity) -> bool:
    # <application>:<group>/<Kind>:<namespace>/<name>; a name may hold colons (system:node), so split from the left.
    parts = annotations[_ARGOCD_TRACKING].split(":", 2)
    if len(parts) != 3:
        return False
    group, _, kind = parts[1].partition("/")
    namespace, _, name = parts[2].partition("/")
    same_group = canonical_group(group, kind) == canonical_group(me.group, me.kind)
    return same_group and kind == me.kind and name == me.name and (not me.namespace or namespace == me.namespace)


def _config_sync_object(annotations: Mapping[str, str], me: Identity) -> bool:
    claimed = annotations[_CONFIG_SYNC_ID].lower()
    groups = {me.group, canonical_group(me.group, me.kind), "extensions"}
    names = {f"{me.namespace}_{me.name}"} if me.namespace else {me.name, f"_{me.name}"}
    return any(claimed == f"{group}_{me.kind}_{name}".lower() for group in groups for name in names)


def _value(key: str) -> Callable[[Mapping[str, str], Mapping[str, str]], str]:
    return lambda labels, annotations: str(annotations.get(key) or labels.get(key) or "")


def _joined(first: str, second: str) -> Callable[[Mapping[str, str], Mapping[str, str]], str]:
    one, two = _value(first), _value(second)
    return lambda labels, annotations: f"{one(labels, annotations)}/{two(labels, annotations)}"


_ARGOCD_TRACKING: Final = "argocd.argoproj.io/tracking-id"
_CONFIG_SYNC_ID: Final = "configsync.gke.io/resource-id"
_KUSTOMIZE: Final = "kustomize.toolkit.fluxcd.io"
_HELM_TOOLKIT: Final = "helm.toolkit.fluxcd.io"
#: A live object that bears a hook annotation is no longer compared (argo-cd, controller/state.go).
_ARGOCD_OPT_OUTS: Final = (
    "argocd.argoproj.io/compare-options",
    "argocd.argoproj.io/sync-options",
    "argocd.argoproj.io/hook",
    "helm.sh/hook",
)
_ARGOCD_ACCOUNTS: Final = ("argocd/argocd-application-controller", "kube-system/argocd-manager")
_ARGOCD_WAY_OUT: Final = "Change it in Git and let Argo CD sync it."

TITLES: Final[Mapping[str, str]] = {
    "flux": "Flux",
    "argocd": "Argo CD",
    "helm": "Helm",
    "configsync": "Config Sync",
    "fleet": "Rancher Fleet",
    "sveltos": "Sveltos",
    "kpt": "kpt",
    "crossplane": "Crossplane",
}

MARKERS: Final[tuple[Marker, ...]] = (
    Marker(
        tool="flux",
        kind="Kustomization",
        labels={f"{_KUSTOMIZE}/name": None, f"{_KUSTOMIZE}/namespace": None},
        annotations={},
        application=_joined(f"{_KUSTOMIZE}/namespace", f"{_KUSTOMIZE}/name"),
        managers=("kustomize-controller",),
        opt_outs=tuple(f"{_KUSTOMIZE}/{key}" for key in ("reconcile", "prune", "ssa", "force")),
        service_accounts=("flux-system/kustomize-controller",),
        way_out="Change it in Git and let Flux apply it.",
    ),
    Marker(
        tool="flux",
        kind="HelmRelease",
        labels={f"{_HELM_TOOLKIT}/name": None, f"{_HELM_TOOLKIT}/namespace": None},
        annotations={},
        application=_joined(f"{_HELM_TOOLKIT}/namespace", f"{_HELM_TOOLKIT}/name"),
        managers=("helm-controller",),
        opt_outs=(f"{_HELM_TOOLKIT}/driftDetection", "helm.sh/resource-policy"),
        service_accounts=("flux-system/helm-controller",),
        way_out="Change the values in Git and let Flux upgrade the release.",
    ),
    Marker(
        tool="argocd",
        kind="Application",
        labels={},
        annotations={_ARGOCD_TRACKING: None},
        application=lambda _, annotations: annotations[_ARGOCD_TRACKING].split(":", 1)[0],
        managers=("argocd-controller",),
        names_object=_tracked_object,
        opt_outs=_ARGOCD_OPT_OUTS,
        service_accounts=_ARGOCD_ACCOUNTS,
        way_out=_ARGOCD_WAY_OUT,
    ),
    Marker(
        tool="helm",
        kind="release",
        labels={"app.kubernetes.io/managed-by": "Helm"},
        annotations={"meta.helm.sh/release-name": None, "meta.helm.sh/release-namespace": None},
        application=_joined("meta.helm.sh/release-namespace", "meta.helm.sh/release-name"),
        managers=("helm",),
        opt_outs=("helm.sh/resource-policy",),
        way_out="Change the chart or its values and upgrade the release.",
    ),
    Marker(
        tool="configsync",
        kind="sync",
        labels={},
        annotations={"configmanagement.gke.io/managed": "enabled", _CONFIG_SYNC_ID: None},
        application=_value("configsync.gke.io/manager"),
        managers=("configsync.gke.io",),
        names_object=_config_sync_object,
        opt_outs=("client.lifecycle.config.k8s.io/mutation", "client.lifecycle.config.k8s.io/deletion"),
        service_accounts=(
            "config-management-system/root-reconciler*",
            "config-management-system/ns-reconciler-*",
        ),
        way_out="Change it in Git and let Config Sync apply it.",
    ),
    Marker(
        tool="fleet",
        kind="bundle",
        labels={"objectset.rio.cattle.io/hash": None},
        annotations={"objectset.rio.cattle.io/id": None},
        application=_value("objectset.rio.cattle.io/id"),
        managers=("fleetagent",),
        service_accounts=("cattle-fleet-system/fleet-agent",),
        way_out="Change it in Git and let Fleet deploy it.",
    ),
    Marker(
        tool="sveltos",
        kind="profile",
        labels={},
        annotations={"projectsveltos.io/owner-kind": None, "projectsveltos.io/owner-name": None},
        application=_joined("projectsveltos.io/owner-kind", "projectsveltos.io/owner-name"),
        managers=("application/apply-patch",),
        service_accounts=("projectsveltos/addon-controller",),
        way_out="Change the ClusterProfile or Profile that deploys it.",
    ),
    Marker(
        tool="kpt",
        kind="inventory",
        labels={},
        annotations={"config.k8s.io/owning-inventory": None},
        application=_value("config.k8s.io/owning-inventory"),
        managers=("kubectl",),
        opt_outs=("client.lifecycle.config.k8s.io/mutation", "client.lifecycle.config.k8s.io/deletion"),
        way_out="Change the package and apply it with kpt.",
    ),
    Marker(
        tool="crossplane",
        kind="composite",
        labels={"crossplane.io/composite": None},
        annotations={},
        application=_value("crossplane.io/composite"),
        managers=("apiextensions.crossplane.io/composed/*",),
        service_accounts=("crossplane-system/crossplane",),
        way_out="Change the composite resource or its Composition.",
    ),
)


def instance_label_marker(key: str) -> Marker:
    """Argo CD's label mode, for a configuration that asks for it; ``key`` is usually app.kubernetes.io/instance."""
    return Marker(
        tool="argocd",
        kind="Application",
        labels={key: None},
        annotations={},
        application=_value(key),
        managers=("argocd-controller",),
        opt_outs=_ARGOCD_OPT_OUTS,
        service_accounts=_ARGOCD_ACCOUNTS,
        way_out=_ARGOCD_WAY_OUT,
    )


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A marker found on an object, and what it says."""

    marker: Marker
    managed_by: ManagedBy


def claims(obj: Mapping[str, Any], markers: Iterable[Marker] = MARKERS) -> list[Claim]:
    """The tools that manage ``obj`` by their markers, in the order of ``markers``; empty for an unmanaged object.

    Raises:
        MalformedReview: a marker is no text.
    """
    labels, annotations = meta.labels_of(obj), meta.annotations_of(obj)
    if not labels and not annotations:
        return []
    found = []
    for marker in markers:
        if marker.first not in labels and marker.first not in annotations:
            continue
        if not (_has(labels, marker.labels) and _has(annotations, marker.annotations)):
            continue
        if marker.names_object is not None:
            if not marker.names_object(annotations, _identity(obj)):
                continue
        elif _is_copy(obj, marker):
            continue
        managed_by = ManagedBy(tool=marker.tool, kind=marker.kind, application=marker.application(labels, annotations))
        found.append(Claim(marker=marker, managed_by=managed_by))
    return found


def _has(there: Mapping[str, Any], wanted: Mapping[str, str | None]) -> bool:
    for key, value in wanted.items():
        found = there.get(key)
        if not found or (value is not None and found != value):
            return False
        if not isinstance(found, str):
            # No API server sends such a thing, so it is nobody's write; "unmanaged" would be an allow.
            raise MalformedReview(f"the value of {key} must be a string, as in every label and annotation")
    return True


def bear_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two objects bear the same marks, as far as their bytes tell: then :func:`claims` are the same, too."""
    ours, theirs = one.get("metadata"), other.get("metadata")
    if not (
        type(one) is LazyObject
        and type(other) is LazyObject
        and type(ours) is LazyMetadata
        and type(theirs) is LazyMetadata
    ):
        return False
    if "ownerReferences" in ours or "ownerReferences" in theirs:
        return False  # then it counts who wrote to them
    return _KIND.isdisjoint(one.differing(other)) and _NAMES_AND_MARKS.isdisjoint(ours.differing(theirs))


def _is_copy(obj: Mapping[str, Any], marker: Marker) -> bool:
    """Whether a controller made the object and the tool itself never wrote to it."""
    if meta.controller_of(obj) is None:
        return False
    entries = meta.metadata_of(obj).get("managedFields")
    return not any(
        isinstance(entry, dict) and marker.written_by.matches(str(entry.get("manager", "")))
        for entry in (entries if isinstance(entries, list) else ())
    )


def _identity(obj: Mapping[str, Any]) -> Identity:
    metadata = meta.metadata_of(obj)
    return Identity(
        group=meta.group_version(obj.get("apiVersion"))[0],
        kind=str(obj.get("kind", "")),
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
    )
