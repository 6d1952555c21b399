"""The webhook configurations that a set of policies needs, no wider than they need.

Writes that can never concern driftwall are kept away by the API server itself: by ``rules``, by ``namespaceSelector``
and, from Kubernetes v1.28, by ``matchConditions``, which older servers drop.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from webhook.identity import SYSTEM, SYSTEM_USERS
from webhook.own_objects import KINDS
from webhook.policy import ENFORCE, OWN_GROUP, OWN_LABEL, TAG, Policy, Snapshot
from webhook.tools import OWN_PREFIX

NAME: Final = "driftwall"
#: Seconds. Every write waits for it; one that takes longer than a look-up and a slow second is lost anyway.
TIMEOUT: Final = 3
# Set by the API server on every Namespace from v1.21; an older one has none, and NotIn takes those in.
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
_EVERYWHERE: Final = frozenset({("*", "*/*")})
_WITHOUT_METADATA: Final = ("scale", "eviction", "binding", "token", "exec", "attach", "portforward", "proxy")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the API server finds driftwall: ``url`` without a path, or a Service as ``namespace`` and ``service``."""

    url: str = ""
    namespace: str = ""
    service: str = ""
    ca: bytes = b""

    def client_config(self, path: str) -> Document:
        """``clientConfig`` of a webhook."""
        config: Document
        if self.url:
            config = {"url": self.url.rstrip("/") + path}
        else:
            config = {"service": {"namespace": self.namespace, "name": self.service, "path": path, "port": 443}}
        if self.ca:
            config["caBundle"] = b64encode(self.ca).decode()
        return config


@dataclass(frozen=True, slots=True, order=True)
class _Rule:
    group: str
    resource: str
    operation: str

    def covers(self, other: _Rule) -> bool:
        if self.operation != other.operation or self.group not in ("*", other.group):
            return False
        resource, _, subresource = other.resource.partition("/")
        # */* takes everything in, */scale that subresource of all, * all resources without their subresources.
        wider = {"*/*", f"{resource}/*", other.resource, f"*/{subresource}" if subresource else "*"}
        return self.resource in wider

    def meets(self, other: _Rule) -> bool:
        """Whether there is a write that both take in."""
        mine, others = self.resource.partition("/")[::2], other.resource.partition("/")[::2]
        pairs = ((self.group, other.group), *zip(mine, others, strict=True))
        return self.operation == other.operation and all("*" in pair or pair[0] == pair[1] for pair in pairs)


def render(snapshot: Snapshot, target: Target, *, custom_resources: bool = False) -> list[Document]:
    """The configurations for ``snapshot``: a validating one, and a mutating one if tags or break-glass need it.

    Where policies are ``custom_resources``, the mutating one is there to refuse those that are not valid, too: before
    the API server looks at them, which would tell of what offends their schema and of nothing else.
    """
    enforcing = [policy for policy in snapshot.policies if policy.mode == ENFORCE]
    others = [policy for policy in snapshot.policies if policy.mode != ENFORCE]
    fail = _rules(enforcing) | _guards(snapshot)
    ignore = {rule for rule in _rules(others) if not any(wide.covers(rule) for wide in fail)}
    # What the failing webhook takes it decides by all policies, so those of them that it meets have a say in what it is
    # sent, too.
    met = [policy for policy in others if any(one.meets(other) for one in _rules([policy]) for other in fail)]
    exempt = list(snapshot.config.exempt_namespaces.patterns)
    own = [target.namespace] if target.namespace else []
    webhooks = []
    if fail:
        conditions = _conditions(snapshot, [*enforcing, *met])
        webhooks.append(
            _webhook("validate.driftwall.io", target, "/validate", fail, "Fail", _not_in([*exempt, *own]), conditions)
        )
    if ignore:
        conditions = [*_conditions(snapshot, others), *_apart(fail)]
        webhooks.append(
            _webhook(
                "observe.driftwall.io", target, "/validate", ignore, "Ignore", _not_in([*exempt, *own]), conditions
            )
        )
    if own and (fail or ignore):
        # Its own namespace: guarded while driftwall runs, and never in the way of its start.
        conditions = _conditions(snapshot, snapshot.policies)
        webhooks.append(
            _webhook("self.driftwall.io", target, "/validate", fail | ignore, "Ignore", _in(own), conditions)
        )
    webhooks.append(_definitions(target))
    documents = [_document("ValidatingWebhookConfiguration", webhooks)]
    if _mutates(snapshot) or custom_resources:
        rules = {
            _Rule(rule.group, rule.resource.partition("/")[0], rule.operation)
            for rule in _rules(snapshot.policies) | _glass_rules(snapshot)
            if rule.operation in ("CREATE", "UPDATE")
        }
        if not _mutates(snapshot):
            rules = set()
        rules |= {rule for rule in _own() if rule.operation in ("CREATE", "UPDATE")}
        conditions = _conditions(snapshot, snapshot.policies)
        # Without a stamp a glass does not stay broken, without a mark the log still tells: never a reason to fail.
        mutating = _webhook("mutate.driftwall.io", target, "/mutate", rules, "Ignore", _not_in(exempt), conditions)
        mutating |= {"sideEffects": "None", "reinvocationPolicy": "IfNeeded"}
        documents.append(_document("MutatingWebhookConfiguration", [mutating]))
    return documents


def _mutates(snapshot: Snapshot) -> bool:
    return any(policy.mode == TAG or policy.break_glass is not None for policy in snapshot.policies)


def _document(kind: str, webhooks: Sequence[Document]) -> Document:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": NAME},
        "webhooks": list(webhooks),
    }


def _webhook(
    name: str,
    target: Target,
    path: str,
    rules: Iterable[_Rule],
    failure_policy: str,
    namespaces: Document,
    conditions: Sequence[Document],
) -> Document:
    return {
        "name": name,
        "clientConfig": target.client_config(path),
        "rules": _merged(rules),
        "failurePolicy": failure_policy,
        "matchPolicy": "Equivalent",
        "namespaceSelector": namespaces,
        "matchConditions": list(conditions),
        "sideEffects": "NoneOnDryRun",
        "timeoutSeconds": TIMEOUT,
        "admissionReviewVersions": ["v1"],
    }


def _not_in(namespaces: Iterable[str]) -> Document:
    # A selector knows no wildcards: what a glob exempts is sent and let through by driftwall itself.
    names = sorted({name for name in namespaces if "*" not in name and "?" not in name})
    if not names:
        return {}
    return {"matchExpressions": [{"key": _NAMESPACE_LABEL, "operator": "NotIn", "values": names}]}


def _in(namespaces: Iterable[str]) -> Document:
    return {"matchExpressions": [{"key": _NAMESPACE_LABEL, "operator": "In", "values": sorted(namespaces)}]}


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rules(policies: Iterable[Policy]) -> set[_Rule]:
    rules: set[_Rule] = set()
    for policy in policies:
        places, operations = _places(policy), policy.match.operations
        rules |= {_Rule(group, resource, operation) for group, resource in places for operation in operations}
        if policy.match.deletes_pods:
            rules.add(_Rule("", "pods/eviction", "CREATE"))
        if places != _EVERYWHERE and "UPDATE" in operations and any(_scales(*place) for place in places):
            # A workload's replicas are changed by whoever points an autoscaler at it.
            rules |= {_Rule("autoscaling", "horizontalpodautoscalers", operation) for operation in ("CREATE", "UPDATE")}
    return {rule for rule in rules if not any(wide != rule and wide.covers(rule) for wide in rules)}


def _places(policy: Policy) -> Set[tuple[str, str]]:
    """Group and resource of all that ``policy`` is about."""
    if policy.match.resources is None or policy.children:
        # A child may be of any kind.
        return _EVERYWHERE
    return {
        (group, name)
        for rule in policy.match.resources
        for group in rule.api_groups
        for resource in rule.resources
        for name in _with_metadata(resource)
    }


def _scales(group: str, resource: str) -> bool:
    """Whether it may have a scale subresource; of the core group's resources one has."""
    return bool(group) or resource.partition("/")[0] in ("*", "replicationcontrollers")


def _with_metadata(resource: str) -> tuple[str, ...]:
    """A resource, and its subresources, through which its metadata can be written."""
    if "/" in resource:
        return (resource,)
    return ("*/*",) if resource == "*" else (resource, f"{resource}/*")


def _guards(snapshot: Snapshot) -> set[_Rule]:
    rules = _glass_rules(snapshot) | _own()
    if snapshot.config.guard_identities:
        rules.add(_Rule("", "serviceaccounts/token", "CREATE"))
        rules |= {_Rule("", "secrets", operation) for operation in ("CREATE", "UPDATE")}
    return rules


def _own() -> set[_Rule]:
    """Writes of driftwall's own objects, which it guards whatever the policies say, and checks whoever writes them."""
    operations = ("CREATE", "UPDATE", "DELETE")
    return {_Rule(OWN_GROUP, resource, operation) for resource in KINDS for operation in operations}


def _definitions(target: Target) -> Document:
    """For the definitions of its own kinds: whoever deletes one deletes all policies with it.

    They are selected by their label, so that nobody else's definition ever waits for driftwall.
    """
    rules = {
        _Rule("apiextensions.k8s.io", "customresourcedefinitions", operation) for operation in ("UPDATE", "DELETE")
    }
    conditions = [{"name": "not-the-control-plane", "expression": f"!({_system()})"}]
    webhook = _webhook("definitions.driftwall.io", target, "/validate", rules, "Fail", {}, conditions)
    label, value = OWN_LABEL
    return webhook | {"objectSelector": {"matchLabels": {label: value}}}


def _glass_rules(snapshot: Snapshot) -> set[_Rule]:
    """Where the annotations of break-glass are written that open something to an enforcing policy.

    That is the object itself, whatever operation or subresource of it the policy is about, and its Namespace.
    """
    rules: set[_Rule] = set()
    for policy in snapshot.policies:
        if policy.mode != ENFORCE or policy.break_glass is None:
            continue
        places = {(group, f"{name.partition('/')[0]}/*") for group, name in _places(policy)} | {("", "namespaces/*")}
        rules |= {_Rule(group, name, operation) for group, name in places for operation in ("CREATE", "UPDATE")}
    return rules


def _merged(rules: Iterable[_Rule]) -> list[Document]:
    """Rules of the API, as few as say the same."""
    kept = set(rules)
    kept = {rule for rule in kept if not any(wide != rule and wide.covers(rule) for wide in kept)}
    by_place: dict[tuple[str, str], set[str]] = {}
    for rule in kept:
        by_place.setdefault((rule.group, rule.resource), set()).add(rule.operation)
    by_operations: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for (group, resource), operations in by_place.items():
        by_operations.setdefault((group, tuple(sorted(operations))), set()).add(resource)
    return [
        {
            "apiGroups": [group],
            "apiVersions": ["*"],
            "operations": list(operations),
            "resources": sorted(resources),
            "scope": "*",
        }
        for (group, operations), resources in sorted(by_operations.items())
    ]


# ── matchConditions (CEL) ────────────────────────────────────────────────────────────────────────────────────────────


def _conditions(snapshot: Snapshot, policies: Sequence[Policy]) -> list[Document]:
    conditions = [
        {"name": "not-the-control-plane", "expression": f"!({_system()})"},
        {
            "name": "not-leases-or-events",
            "expression": "!(request.resource.group == 'coordination.k8s.io' && request.resource.resource == 'leases')"
            " && !(request.resource.group in ['', 'events.k8s.io'] && request.resource.resource == 'events')",
        },
    ]
    if not any(policy.match.scope_all for policy in policies):
        children = any(policy.children for policy in policies)
        conditions.append({"name": "managed-or-marked", "expression": _marked(snapshot, children=children)})
    return conditions


def _system() -> str:
    """The built-in system writers by exact name; a service account only with the uid that its token brings."""
    accounts = [f"system:serviceaccount:{name.replace('/', ':')}" for name in SYSTEM.service_accounts]
    named = f"request.userInfo.username in {_list(SYSTEM_USERS)}"
    proven = (
        f"request.userInfo.username in {_list(accounts)} && has(request.userInfo.uid) && request.userInfo.uid != ''"
    )
    node = (
        "request.userInfo.username.startsWith('system:node:') && has(request.userInfo.groups)"
        " && 'system:nodes' in request.userInfo.groups"
    )
    return f"({named}) || ({proven}) || ({node})"


def _marked(snapshot: Snapshot, *, children: bool) -> str:
    """Whether old or new object may be managed, or carries a label or annotation of ours, or cannot tell."""
    labels: list[str] = []
    annotations: list[str] = []
    for marker in snapshot.config.markers:
        # All keys of a marker must be there, so any one tells; annotations are the less common.
        if marker.annotations:
            annotations.append(next(iter(marker.annotations)))
        else:
            labels.append(next(iter(marker.labels)))
    own = f"k.startsWith('{OWN_PREFIX}')"
    tests = [
        f"(has(o.metadata.labels) && o.metadata.labels.exists(k, k in {_list(labels)} || {own}))",
        f"(has(o.metadata.annotations) && o.metadata.annotations.exists(k, k in {_list(annotations)} || {own}))",
    ]
    if children:
        tests.append(
            "(has(o.metadata.ownerReferences)"
            " && o.metadata.ownerReferences.exists(r, has(r.controller) && r.controller == true))"
        )
    ways = [
        f"(has(request.subResource) && request.subResource in {_list(_WITHOUT_METADATA)})",
        "request.resource.resource == 'horizontalpodautoscalers'",
        f"request.resource.group == '{OWN_GROUP}'",
        f"[object, oldObject].exists(o, o != null && has(o.metadata) && ({' || '.join(tests)}))",
    ]
    if snapshot.config.guard_identities:
        ways.append(
            "(request.resource.group == '' && request.resource.resource == 'secrets' && object != null"
            " && has(object.type) && object.type == 'kubernetes.io/service-account-token')"
        )
    return " || ".join(ways)


def _apart(fail: Iterable[_Rule]) -> list[Document]:
    """Keeps what the failing webhook takes from being decided, and logged, a second time."""
    tests = []
    for group, resource in sorted({(rule.group, rule.resource) for rule in fail}):
        name, _, subresource = resource.partition("/")
        parts = [] if group == "*" else [f"request.resource.group == '{group}'"]
        parts += [] if name == "*" else [f"request.resource.resource == '{name}'"]
        # Where it is empty, the API server leaves it out, and what is not there is an error in CEL.
        if not subresource:
            parts.append("!has(request.subResource)")
        elif subresource != "*":
            parts.append(f"has(request.subResource) && request.subResource == '{subresource}'")
        operations = sorted({rule.operation for rule in fail if (rule.group, rule.resource) == (group, resource)})
        parts.append(f"request.operation in {_list(operations)}")
        tests.append(f"({' && '.join(parts)})")
    return [{"name": "not-decided-already", "expression": f"!({' || '.join(tests)})"}] if tests else []


def _list(values: Iterable[str]) -> str:
    """A list of strings in CEL; JSON's escapes are CEL's, too."""
    return "[" + ", ".join("'" + json.dumps(value)[1:-1].replace("'", "\\'") + "'" for value in values) + "]"
