"""Whether driftwall is installed as it should be, by what was read of the cluster: one check for each thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from webhook import breakglass, meta, settings
from webhook.errors import SettingsError
from webhook.labels import LabelSelector
from webhook.meta import Object
from webhook.options import ENVIRONMENT_PREFIX
from webhook.own_objects import POLICIES
from webhook.policy_schema import API_VERSION, POLICY_KIND
from webhook.settings import Settings
from webhook.text import cut, escaped
from webhook.webhook_config import Target

OK, WARNING, PROBLEM, UNKNOWN = "ok", "warning", "problem", "unknown"
#: What API servers before a version do without, and what that means here.
_LACKS: Final[Mapping[tuple[int, int], str]] = {
    (1, 21): "Namespaces have no label of their own name that only the API server sets: whoever may label them can "
    "have one left out",
    (1, 23): "old objects come without managedFields: driftwall has to look them up, and needs the verb get on "
    "whatever is managed",
    (1, 28): "no matchConditions: writes of the control plane and of what nobody manages wait for driftwall, too",
    (1, 29): "tokens bring no credential-id: the audit log cannot tell two of one service account apart",
}
_MATCH_CONDITIONS: Final = (1, 28)
_MAX_SAID: Final = 300  # characters of what the API server said


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found out of one thing: ``status`` is ok, warning, problem or unknown; ``advice`` is what to do."""

    name: str
    status: str
    message: str
    advice: str = ""


def versions(version: tuple[int, int], name: str) -> Iterator[Check]:
    """What the API server's version means."""
    lacking = [text for since, text in _LACKS.items() if version < since]
    if not lacking:
        yield Check(name="API server", status=OK, message=f"{name} has all that driftwall uses")
    for text in lacking:
        yield Check(name="API server", status=WARNING, message=f"{name}: {text}")


# ── the Deployment ───────────────────────────────────────────────────────────────────────────────────────────────────


def settings_of(deployment: Object) -> Settings:
    """What the container of a Deployment makes driftwall run with.

    Raises:
        SettingsError: driftwall would not start with that.
    """
    container = _container(deployment)
    arguments = [str(each) for each in (*_list(container.get("command")), *_list(container.get("args")))]
    flags: dict[str, str] = {}
    known = {option.flag: option.name for option in settings.OPTIONS}
    waiting = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if waiting:
            flags[known[waiting]], waiting = argument, ""
        elif flag in known and equals:
            flags[known[flag]] = value
        elif flag in known:
            waiting = flag
    environment = {
        str(each["name"]): str(each["value"])
        for each in map(meta.mapping, _list(container.get("env")))
        if str(each.get("name", "")).startswith(ENVIRONMENT_PREFIX) and "value" in each
    }
    return settings.read({name: flags.get(name) for name in known.values()}, environment)


def mounted(deployment: Object, path: PurePosixPath) -> tuple[str, str]:
    """Kind and name of what is mounted at ``path``, or above it: ConfigMap or Secret; empty where it is neither."""
    wanted = {str(path), *map(str, path.parents)}
    names = [
        each.get("name")
        for each in map(meta.mapping, _list(_container(deployment).get("volumeMounts")))
        if str(each.get("mountPath", "")).rstrip("/") in wanted
    ]
    for volume in map(meta.mapping, _list(_pod(deployment).get("volumes"))):
        if volume.get("name") in names:
            if config_map := meta.mapping(volume.get("configMap")):
                return "ConfigMap", str(config_map.get("name", ""))
            if secret := meta.mapping(volume.get("secret")):
                return "Secret", str(secret.get("secretName", ""))
    return "", ""


def account_of(deployment: Object | None) -> str:
    """The name of the service account that the pods run as."""
    return str(_pod(deployment or {}).get("serviceAccountName") or "driftwall")


def replicas(deployment: Object | None, where: str) -> Check:
    """How many replicas are ready."""
    name = "replicas"
    if deployment is None:
        advice = "Install it as deploy/README.md says, or name its Service with --service NAMESPACE/NAME."
        return Check(name=name, status=PROBLEM, message=f"there is no Deployment {where}", advice=advice)
    wanted = meta.mapping(deployment.get("spec")).get("replicas", 1)
    ready = meta.mapping(deployment.get("status")).get("readyReplicas") or 0
    message = f"{ready} of {wanted} are ready"
    if ready and ready >= wanted:
        return Check(name=name, status=OK, message=message)
    namespace = where.partition("/")[0]
    advice = f"kubectl -n {namespace} get pods,events; /readyz on port 8080 of a pod says what it waits for."
    return Check(name=name, status=WARNING if ready else PROBLEM, message=message, advice=advice)


def _pod(deployment: Object) -> Mapping[str, Any]:
    template = meta.mapping(meta.mapping(deployment.get("spec")).get("template"))
    return meta.mapping(template.get("spec"))


def _container(deployment: Object) -> Mapping[str, Any]:
    containers = [meta.mapping(each) for each in _list(_pod(deployment).get("containers"))]
    if not containers:
        raise SettingsError("the Deployment has no container")
    return next((each for each in containers if each.get("name") == "driftwall"), containers[0])


# ── the webhook configurations ───────────────────────────────────────────────────────────────────────────────────────


def target_of(configurations: Iterable[Object | None], namespace: str, service: str) -> Target:
    """Where the configurations send reviews: a URL if they name one, else the Service given."""
    for hook in _hooks(configurations):
        url = meta.mapping(hook.get("clientConfig")).get("url")
        if isinstance(url, str):
            return Target(url=url.rpartition("/")[0])
    return Target(namespace=namespace, service=service)


def compared(
    rendered: Sequence[Object], found: Mapping[str, Object | None], version: tuple[int, int]
) -> Iterator[Check]:
    """The configurations that are there, by kind, against those that the policies need."""
    wanted = {str(document["kind"]): document for document in rendered}
    for kind, there in found.items():
        document = wanted.get(kind)
        name = f"{kind} driftwall"
        apply = "Apply what 'driftwall webhook-config' prints for these policies, or deploy/ again."
        if document is None:
            if there is not None:
                message = f"{name} is there, and these policies need none"
                yield Check(name="webhooks", status=WARNING, message=message, advice=apply)
            continue
        if there is None:
            yield Check(name="webhooks", status=PROBLEM, message=f"{name} is missing", advice=apply)
            continue
        differences = list(_differences(document, there, version))
        for difference in differences:
            yield Check(name="webhooks", status=PROBLEM, message=f"{name}: {difference}", advice=apply)
        if not differences:
            yield Check(name="webhooks", status=OK, message=f"{name} is as these policies need it")


def _differences(wanted: Object, there: Object, version: tuple[int, int]) -> Iterator[str]:
    hooks = {str(hook.get("name")): hook for hook in _hooks([there])}
    for hook in _hooks([wanted]):
        name = str(hook["name"])
        found = hooks.pop(name, None)
        if found is None:
            yield f"webhook {name} is missing"
            continue
        for key in _KEYS:
            if key == "matchConditions" and version < _MATCH_CONDITIONS:
                continue
            if _normal(key, hook.get(key)) != _normal(key, found.get(key)):
                yield _difference(name, key, hook.get(key), found.get(key))
    for name in hooks:
        yield f"webhook {name} is not one of driftwall's"


def _difference(name: str, key: str, wanted: Any, found: Any) -> str:
    if isinstance(wanted, str | int):
        text = f"{name} has {key} {found}, not {wanted}"
        return f"{text}: writes pass unchecked while driftwall is away" if found == "Ignore" else text
    return f"{name} has other {key} than these policies need"


#: What of a webhook is compared, with what the API server makes of a key that is not given.
_KEYS: Final[Mapping[str, Any]] = {
    "clientConfig": {},
    "rules": [],
    "failurePolicy": "Fail",
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "matchConditions": [],
    "sideEffects": None,
    "timeoutSeconds": 10,
    "admissionReviewVersions": [],
    "reinvocationPolicy": "Never",
}


def _normal(key: str, value: Any) -> Any:
    """``value`` without what says nothing: the order of rules, the bundle, which has a check of its own."""
    if value is None:
        value = _KEYS[key]
    if key == "clientConfig":
        config = {name: part for name, part in meta.mapping(value).items() if name != "caBundle"}
        service = meta.mapping(config.get("service"))
        return config | ({"service": {"port": 443, **service}} if service else {})
    if key == "rules":
        return sorted(_rule(meta.mapping(rule)) for rule in _list(value))
    return value


def _rule(rule: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    keys = ("apiGroups", "apiVersions", "operations", "resources")
    return (*(tuple(sorted(map(str, _list(rule.get(key))))) for key in keys), (str(rule.get("scope", "*")),))


def bundles(configurations: Iterable[Object | None]) -> dict[str, str]:
    """The CAs by which the API server knows driftwall, as base64, by webhook; empty where there is none."""
    found: dict[str, str] = {}
    for hook in _hooks(configurations):
        bundle = meta.mapping(hook.get("clientConfig")).get("caBundle")
        found[str(hook.get("name"))] = bundle if isinstance(bundle, str) else ""
    return found


def _hooks(configurations: Iterable[Object | None]) -> Iterator[Mapping[str, Any]]:
    for configuration in configurations:
        yield from map(meta.mapping, _list((configuration or {}).get("webhooks")))


# ── a write that driftwall must refuse ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A creation, to be sent as a dry run to the collection ``path``: whoever sends it, driftwall refuses it."""

    path: str
    body: Mapping[str, Any]


def probe(
    configurations: Iterable[Object | None], namespaces: Iterable[Object], *, custom_resources: bool
) -> Probe | None:
    """A write that reaches driftwall by these configurations; None if there is none that can be tried.

    It is an object that says of itself that it was opened by break-glass until a time that is none: driftwall takes
    that from nobody but trusted writers, whatever the modes of the policies. Where that is not possible, and policies
    are ``custom_resources``, it is a policy that is not valid.
    """
    known = sorted(namespaces, key=lambda each: meta.metadata_of(each).get("name") != "default")
    for hook in _hooks(configurations):
        if meta.mapping(hook.get("objectSelector")):
            continue
        selects = LabelSelector(meta.mapping(hook.get("namespaceSelector"))).matches
        places = [str(meta.metadata_of(each).get("name")) for each in known if selects(meta.labels_of(each))]
        for resource, (api_version, kind, content) in _TRIED.items():
            taken = any(_takes(meta.mapping(rule), api_version, resource) for rule in _list(hook.get("rules")))
            if taken and places:
                path = f"/{'apis' if '/' in api_version else 'api'}/{api_version}/namespaces/{places[0]}/{resource}"
                metadata = {"name": _NAME, "namespace": places[0], "annotations": _OPENED}
                return Probe(path=path, body={"apiVersion": api_version, "kind": kind, "metadata": metadata, **content})
    if not custom_resources:
        return None
    policy = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": {"name": _NAME}}
    return Probe(
        path=f"/apis/{API_VERSION}/{POLICIES}", body={**policy, "spec": {"protect": {"fields": ["not a path["]}}}
    )


_NAME: Final = "driftwall-doctor"
_OPENED: Final = {breakglass.REASON: "driftwall doctor asks whether driftwall is asked", breakglass.EXPIRES: "never"}
#: What can be created without anything else being there.
_TRIED: Final[Mapping[str, tuple[str, str, Mapping[str, Any]]]] = {
    "configmaps": ("v1", "ConfigMap", {}),
    "secrets": ("v1", "Secret", {"type": "Opaque"}),
    "services": ("v1", "Service", {"spec": {"ports": [{"port": 80}]}}),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {}}}),
    "roles": ("rbac.authorization.k8s.io/v1", "Role", {"rules": []}),
    "deployments": (
        "apps/v1",
        "Deployment",
        {
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": _NAME}},
                "template": {
                    "metadata": {"labels": {"app": _NAME}},
                    "spec": {"containers": [{"name": "none", "image": "none"}]},
                },
            }
        },
    ),
}


def _takes(rule: Mapping[str, Any], api_version: str, resource: str) -> bool:
    group = meta.group_version(api_version)[0]
    resources = {"*", "*/*", resource, f"{resource}/*"}
    return (
        not {"*", group}.isdisjoint(_list(rule.get("apiGroups")))
        and not resources.isdisjoint(_list(rule.get("resources")))
        and not {"*", "CREATE"}.isdisjoint(_list(rule.get("operations")))
    )


def reached(status: int, said: str, collection: str) -> Check:
    """What the answer to a probe tells."""
    name = "reached"
    text = cut(escaped(said), _MAX_SAID)
    if ".driftwall.io" in said and "denied the request" in said:
        message = "the API server asks driftwall, and goes by its answer (a dry run was refused)"
        return Check(name=name, status=OK, message=message)
    if "failed calling webhook" in said and ".driftwall.io" in said:
        advice = "deploy/EMERGENCY.md says what to type when driftwall is in the way."
        return Check(name=name, status=PROBLEM, message=f"the API server cannot ask driftwall: {text}", advice=advice)
    if status < 300:
        message = (
            "a dry run that driftwall refuses to all but trusted writers has passed: the API server does not ask it, "
            "or gets no answer and goes on (failurePolicy Ignore)"
        )
        advice = "See the pods of driftwall, and its webhook configurations."
        return Check(name=name, status=PROBLEM, message=message, advice=advice)
    if status == 403:
        message = f"not tried: you may not create {collection.rpartition('/')[2]} there, not even as a dry run"
        return Check(name=name, status=UNKNOWN, message=message)
    return Check(name=name, status=UNKNOWN, message=f"a dry run failed otherwise (HTTP {status}): {text}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
