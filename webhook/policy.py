"""Policies as the decision uses them: compiled once per load into an immutable :class:`Snapshot`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias, TypeVar

import msgspec

from webhook.breakglass import BreakGlass
from webhook.fieldsets import patterns as field_set
from webhook.globs import Globs
from webhook.identity import Writers
from webhook.labels import LabelSelector
from webhook.listkeys import canonical_group
from webhook.patterns import PathSet, Pattern, parse_pattern
from webhook.tools import MARKERS, Marker

_K = TypeVar("_K")
_T = TypeVar("_T")
#: Group, resource, subresource and operation.
_Kind: TypeAlias = tuple[str, str, str, str]

ENFORCE, WARN, TAG, DRY_RUN = "enforce", "warn", "tag", "dryRun"
#: From the least strict; a write is judged by the strictest mode that it violates.
MODES: Final = (DRY_RUN, TAG, WARN, ENFORCE)

DEFAULT_OPERATIONS: Final = ("CREATE", "UPDATE", "DELETE")
#: Of a policy about children, too: exec and attach are CONNECT.
CHILDREN_OPERATIONS: Final = (*DEFAULT_OPERATIONS, "CONNECT")
DEFAULT_EXEMPT_NAMESPACES: Final = ("kube-system",)
DEFAULT_MAX_DURATION: Final = timedelta(hours=4)

OWN_GROUP: Final = "driftwall.io"
#: Stands where a policy's name does.
OWN_RULE: Final = "(ownObjects)"
#: By this label, and whatever their names, the definitions of driftwall's own kinds are known.
OWN_LABEL: Final = ("app.kubernetes.io/part-of", "driftwall")
# All of an object that means anything, but for the annotations of break-glass, which are judged by themselves.
_ALL: Final = ("spec", "metadata.labels", "metadata.annotations", "metadata.finalizers", "metadata.ownerReferences")
_GLASS: Final = "metadata.annotations['driftwall.io/break-glass*']"

# Kinds and namespaces come from the API server and are few and short; the bounds are for callers who are not the API
# server: how many are kept, and how many characters of names one may have.
_MEMO_SIZE: Final = 4096
_MEMO_LENGTH: Final = 1024


def _kept(memo: dict[_K, _T], key: _K, value: _T, length: int) -> _T:
    """``value``, kept in ``memo`` as long as its key has no absurd ``length``; all is made anew once there are many."""
    if length <= _MEMO_LENGTH:
        if len(memo) >= _MEMO_SIZE:
            memo.clear()
        memo[key] = value
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRule:
    """One entry of ``match.resources``, with the meaning that rules of a webhook configuration have."""

    api_groups: frozenset[str]
    resources: frozenset[str]

    def selects(self, group: str, resource: str, subresource: str) -> bool:
        """Whether the rule names this resource: ``*`` leaves subresources out, ``*/*`` takes them in."""
        if "*" not in self.api_groups and group not in self.api_groups:
            return False
        wanted = {"*/*", f"{resource}/*"}
        wanted |= {f"{resource}/{subresource}", f"*/{subresource}"} if subresource else {"*", resource}
        return not self.resources.isdisjoint(wanted)

    def selects_any(self, group: str, resource: str) -> bool:
        """Whether the rule names this resource, or any subresource of it."""
        if "*" not in self.api_groups and group not in self.api_groups:
            return False
        return any(name.partition("/")[0] in ("*", resource) for name in self.resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which reviews a policy is about; what is None or empty does not narrow."""

    scope_all: bool = False
    tools: frozenset[str] | None = None
    resources: tuple[ResourceRule, ...] | None = None
    operations: frozenset[str] = frozenset(DEFAULT_OPERATIONS)
    namespaces: Globs | None = None
    exclude_namespaces: Globs = field(default_factory=Globs)
    namespace_selector: LabelSelector | None = None
    object_selector: LabelSelector | None = None

    def names(self, group: str, resource: str, subresource: str) -> bool:
        """Whether ``resources`` takes this resource or subresource in, in this group or the one it has moved to."""
        if self.resources is None:
            return True
        groups = (group, *_MOVED_RESOURCES.get((group, resource), ()))
        return any(rule.selects(g, resource, subresource) for rule in self.resources for g in groups)

    def names_any(self, group: str, resource: str) -> bool:
        """Whether ``resources`` takes in this resource, or any subresource of it."""
        if self.resources is None:
            return True
        groups = (group, *_MOVED_RESOURCES.get((group, resource), ()))
        return any(rule.selects_any(g, resource) for rule in self.resources for g in groups)

    @property
    def deletes_pods(self) -> bool:
        """Whether the deletion of a pod is taken in."""
        return "DELETE" in self.operations and self.names("", "pods", "")

    def in_namespace(self, namespace: str) -> bool:
        """Whether objects of ``namespace`` are meant; the empty string is a cluster-scoped object's."""
        if self.namespaces is not None and not (namespace and self.namespaces.matches(namespace)):
            return False
        return not (namespace and self.exclude_namespaces.matches(namespace))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One DriftPolicy, compiled. ``trusted`` and ``automation`` hold the configuration's writers, too."""

    name: str
    mode: str
    description: str = ""
    severity: str = "medium"
    controls: tuple[str, ...] = ()
    message: str = ""
    match: Match
    declared: bool = False
    field_sets: tuple[str, ...] = ()
    fields: tuple[Pattern, ...] = ()
    ignore: PathSet | None = None
    deletion: bool = False
    children: bool = False
    trusted: Writers
    automation: Writers
    break_glass: BreakGlass | None = None
    field_managers: Globs
    # No arguments: a policy that is made of another one has its own.
    _managers: dict[tuple[Marker, ...], Globs] = field(default_factory=dict, init=False, repr=False, compare=False)
    _protected: dict[tuple[str, str], PathSet | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _let_be: dict[tuple[int, int], PathSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def managers(self, markers: tuple[Marker, ...]) -> Globs:
        """The names in managedFields whose fields count as declared on an object with these markers."""
        found = self._managers.get(markers)
        if found is None:
            found = Globs((*self.field_managers.patterns, *(name for m in markers for name in m.managers)))
            self._managers[markers] = found
        return found

    def let_be(self, settled: PathSet, allowance: PathSet | None) -> PathSet:
        """What the policy ignores, beside ``settled`` and what its writer is allowed; both live as long as it does."""
        key = (id(settled), id(allowance))
        found = self._let_be.get(key)
        if found is None:
            found = settled
            for more in (self.ignore, allowance):
                if more is not None:
                    found |= more
            self._let_be[key] = found
        return found

    def protected(self, group: str, kind: str) -> PathSet | None:
        """The paths that ``fields`` and ``fieldSets`` name in this kind; None if there are none."""
        key = (group, kind)
        if key not in self._protected:
            patterns = (*self.fields, *(p for name in self.field_sets for p in field_set(name, group, kind)))
            found = PathSet(patterns) if patterns else None
            return _kept(self._protected, key, found, len(group) + len(kind))
        return self._protected[key]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that may select a review.

    ``whole`` is false where it names the object's resource but not the subresource that is written: then the object's
    metadata is guarded there and nothing else. ``direct`` is false where it names neither, and can be about the object
    as a child alone.
    """

    policy: Policy
    whole: bool = True
    direct: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The DriftwallConfig, or what stands for it when there is none."""

    name: str = "default"
    cluster_id: str = ""
    trusted: Writers
    automation: Writers
    system: Writers
    system_groups: frozenset[str] = frozenset()
    exempt_namespaces: Globs
    guard_identities: bool = True
    break_glass: BreakGlass | None = None
    markers: tuple[Marker, ...] = MARKERS


class Snapshot:
    """Everything that a decision needs to know of policies and configuration. Never changed: replaced."""

    def __init__(self, config: Config, policies: Iterable[Policy] = (), digest: bytes = b"") -> None:
        self.config = config
        #: The same for the same documents, whatever files they come from and in which order.
        self.digest = digest
        self.policies = tuple(sorted(policies, key=lambda policy: policy.name))
        #: Stands for a policy where a break-glass is refused and no policy that enforces is about the object.
        self.glass_guard = Policy(
            name="(breakGlass)",
            mode=ENFORCE,
            description="Only those whom the DriftwallConfig names break glass.",
            match=Match(),
            trusted=config.trusted,
            automation=config.automation,
            break_glass=config.break_glass,
            field_managers=Globs(),
        )
        self.own_guards = _own_guards(config)
        self.guarded = tuple({id(w): w for w in (config.trusted, *(p.trusted for p in self.policies))}.values())
        self._everywhere: dict[_Kind, tuple[Candidate, ...]] = {}
        self._in_namespace: dict[tuple[_Kind, str], tuple[Candidate, ...]] = {}

    def candidates(
        self, group: str, resource: str, subresource: str, operation: str, namespace: str
    ) -> tuple[Candidate, ...]:
        """The policies that take this kind of review in, in this namespace, in the order of their names.

        The empty string is the namespace of cluster-scoped objects.
        """
        kind = (group, resource, subresource, operation)
        found = self._in_namespace.get((kind, namespace))
        if found is None:
            everywhere = self._everywhere.get(kind)
            if everywhere is None:
                everywhere = _kept(self._everywhere, kind, tuple(self._select(*kind)), sum(map(len, kind)))
            here = tuple([each for each in everywhere if each.policy.match.in_namespace(namespace)])
            found = _kept(self._in_namespace, (kind, namespace), here, sum(map(len, kind)) + len(namespace))
        return found

    def _select(self, group: str, resource: str, subresource: str, operation: str) -> Iterable[Candidate]:
        for policy in (*self.own_guards, *self.policies):
            match = policy.match
            # An eviction is a deletion of the pod, by another name.
            if (group, resource, subresource) == ("", "pods", "eviction") and match.deletes_pods:
                yield Candidate(policy=policy)
                continue
            if operation not in match.operations:
                continue
            if match.names(group, resource, subresource):
                yield Candidate(policy=policy)
            elif subresource and match.names(group, resource, ""):
                yield Candidate(policy=policy, whole=False)
            elif policy.children:
                yield Candidate(policy=policy, direct=False)


def _own_guards(config: Config) -> tuple[Policy, ...]:
    """What keeps driftwall's own objects from all but the configuration's writers, whatever the policies say.

    The definitions belong to them: deleting one deletes every object of its kind, and no webhook is asked about those.
    """

    def guard(rule: ResourceRule, selector: LabelSelector | None) -> Policy:
        return Policy(
            name=OWN_RULE,
            mode=ENFORCE,
            description="Only those whom the DriftwallConfig trusts change driftwall's own objects.",
            severity="critical",
            message="They are changed through Git, by a writer in spec.trustedWriters.",
            match=Match(scope_all=True, resources=(rule,), object_selector=selector),
            fields=tuple(parse_pattern(path) for path in _ALL),
            ignore=PathSet.of(_GLASS),
            deletion=True,
            trusted=config.trusted,
            automation=Writers(),
            break_glass=config.break_glass,
            field_managers=Globs(),
        )

    label, value = OWN_LABEL
    own = ResourceRule(api_groups=frozenset({OWN_GROUP}), resources=frozenset({"*"}))
    definitions = ResourceRule(
        api_groups=frozenset({"apiextensions.k8s.io"}), resources=frozenset({"customresourcedefinitions"})
    )
    return guard(own, None), guard(definitions, LabelSelector({"matchLabels": {label: value}}))


_MOVED_RESOURCES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("extensions", kind.lower() + plural): (canonical_group("extensions", kind),)
    for kind, plural in (("Deployment", "s"), ("DaemonSet", "s"), ("ReplicaSet", "s"), ("Ingress", "es"))
} | {("extensions", "networkpolicies"): ("networking.k8s.io",)}
