"""Is the installation sound, and who can become the trusted identity? What ``driftwall doctor`` finds out."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final

from webhook import installation, meta, own_objects, pki, webhook_config
from webhook.cluster import policies as cluster_policies
from webhook.cluster.policies import VERSION
from webhook.cluster.status import ACCEPTED
from webhook.cluster.survey import Connection, Survey
from webhook.errors import CertificateError, ClusterError, LookupFailed, PolicyError, SettingsError
from webhook.exposure import MAX_LINKS, Exposure, chains, excess, exposures, normal
from webhook.globs import Glob, is_glob
from webhook.identity import service_account
from webhook.installation import OK, PROBLEM, UNKNOWN, WARNING, Check
from webhook.meta import Object
from webhook.policy import OWN_GROUP, Snapshot
from webhook.policy_compiler import Texts, compile_texts, default_config, load
from webhook.rbac import Rbac
from webhook.rights import READS_ALL, SHIPPED, missing, needed
from webhook.settings import CLUSTER, Service, Settings
from webhook.ways import SYSTEM_NAMESPACE, Stakes, namespace_of

#: Less than this, or than a quarter of its lifetime, and a certificate should have been renewed: driftwall does so when
#: a third is left, cert-manager likewise, and people want two weeks' notice.
_SOON: Final = timedelta(days=14)
_SHARE: Final = 4
#: Server versions from which on Namespaces have a label of their name, and reviews the ownership of old objects.
_GUARDED_NAMES: Final = (1, 21)
_OWNERSHIP: Final = (1, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found: the checks in their order, and the bindings that let somebody past driftwall."""

    checks: tuple[Check, ...]
    exposures: tuple[Exposure, ...]


def examine(connection: Connection, service: Service, policies: str | None, now: datetime) -> Diagnosis:
    """Look at the cluster behind ``connection``.

    ``policies`` is where they are, as for ``serve``: a path, or the word for the custom resources; None takes those
    that the Deployment of ``service`` has.

    Raises:
        ClusterError: what everything else rests on could not be read.
        PolicyError: those at a path do not load.
    """
    return _Examination(connection, service, now).run(policies)


class _Examination:
    def __init__(self, connection: Connection, service: Service, now: datetime) -> None:
        self._survey = Survey(connection)
        self._connection = connection
        self._service = service
        self._now = now
        self._checks: list[Check] = []

    def run(self, policies: str | None) -> Diagnosis:
        survey, service = self._survey, self._service
        version, name = survey.version()
        self._checks += installation.versions(version, name)
        configurations = survey.configurations(webhook_config.NAME)
        target = installation.target_of(configurations.values(), service.namespace, service.name)
        deployment = survey.named(service.namespace, "deployments", service.name, group="apps")
        config = self._settings(deployment)
        in_cluster = policies == CLUSTER or (policies is None and config is not None and config.policies is None)
        if not target.url:
            self._checks.append(installation.replicas(deployment, f"{service.namespace}/{service.name}"))
        snapshot = self._policies(policies, deployment, config, in_cluster=in_cluster)
        if snapshot is not None:
            rendered = webhook_config.render(snapshot, target, custom_resources=in_cluster)
            self._checks += installation.compared(rendered, configurations, version)
        self._certificate(deployment, config, configurations.values())
        namespaces = survey.namespaces()
        self._reached(configurations.values(), namespaces, in_cluster=in_cluster)
        found = self._rbac(snapshot or Snapshot(default_config()), deployment, config, namespaces, version)
        return Diagnosis(checks=tuple(self._checks), exposures=tuple(found))

    def _say(self, name: str, status: str, message: str, advice: str = "") -> None:
        self._checks.append(Check(name=name, status=status, message=message, advice=advice))

    # ── the Deployment and its policies ──────────────────────────────────────────────────────────────────────────────

    def _settings(self, deployment: Object | None) -> Settings | None:
        if deployment is None:
            return None
        try:
            return installation.settings_of(deployment)
        except SettingsError as error:
            self._say("settings", PROBLEM, f"driftwall does not start with these: {error}")
            return None

    def _policies(
        self, given: str | None, deployment: Object | None, config: Settings | None, *, in_cluster: bool
    ) -> Snapshot | None:
        """The policies, and what is wrong with those that are installed."""
        if given is not None and not in_cluster:
            return load(Path(given))
        try:
            if in_cluster:
                return self._custom_resources()
            if deployment is None or config is None or config.policies is None:
                advice = "Give them with --policies PATH, or with --policies cluster."
                self._say("policies", UNKNOWN, "without a Deployment nothing says which are in force", advice)
                return None
            kind, name = installation.mounted(deployment, PurePosixPath(config.policies))
            if kind != "ConfigMap":
                self._say("policies", UNKNOWN, f"{config.policies} is not in a ConfigMap", "Give --policies PATH.")
                return None
            return self._config_map(name)
        except PolicyError as error:
            self._say(
                "policies", PROBLEM, str(error), "Correct them: the last good ones stay in force until a restart."
            )
        except LookupFailed as error:
            self._say("policies", UNKNOWN, str(error))
        return None

    def _config_map(self, name: str) -> Snapshot | None:
        where = f"ConfigMap {self._service.namespace}/{name}"
        found = self._survey.named(self._service.namespace, "configmaps", name)
        if found is None:
            self._say("policies", PROBLEM, f"{where} is missing")
            return None
        data = sorted(meta.mapping(found.get("data")).items())
        texts = tuple((file, str(text).encode()) for file, text in data if file.endswith((".yaml", ".yml")))
        snapshot = compile_texts(Texts(texts=texts, problems=()), where)
        self._say("policies", OK, f"{len(snapshot.policies)} in {where}")
        return snapshot

    def _custom_resources(self) -> Snapshot:
        for resource in own_objects.KINDS:
            path = f"/apis/{OWN_GROUP}/{VERSION}/{resource}"
            for item in _items(self._survey.get(path)):
                self._accepted(resource, item)
        return cluster_policies.load(self._connection)

    def _accepted(self, resource: str, item: Object) -> None:
        metadata, status = meta.metadata_of(item), meta.mapping(item.get("status"))
        what = f"{resource}/{metadata.get('name')}"
        conditions = {str(each.get("type")): each for each in map(meta.mapping, status.get("conditions") or ()) if each}
        condition = conditions.get(ACCEPTED)
        if condition is None or status.get("observedGeneration") != metadata.get("generation"):
            self._say("policies", WARNING, f"{what}: driftwall has not said whether it takes it", "Is it running?")
        elif condition.get("status") == "True":
            self._say("policies", OK, f"{what} is accepted")
        else:
            self._say("policies", PROBLEM, f"{what}: {condition.get('message', '')}")

    # ── the certificate, and whether driftwall is asked ──────────────────────────────────────────────────────────────

    def _certificate(
        self, deployment: Object | None, config: Settings | None, configurations: Iterable[Object | None]
    ) -> None:
        bundles = installation.bundles(configurations)
        if lacking := sorted(name for name, bundle in bundles.items() if not bundle):
            advice = "driftwall puts its own there within seconds of its start; webhook-config --ca-file another one."
            self._say("certificate", PROBLEM, f"no caBundle in {', '.join(lacking)}", advice)
        served = self._served(deployment, config)
        for name, bundle in bundles.items():
            if bundle and (problem := self._bundle_problem(bundle, served)):
                self._say("certificate", PROBLEM, f"the caBundle of {name} {problem}")
        if served is not None:
            self._validity(served, config)

    def _bundle_problem(self, bundle: str, served: bytes | None) -> str:
        try:
            authorities = b64decode(bundle, validate=True)
        except binascii.Error:
            return "is not base64"
        if not pki.bundle([authorities], now=self._now):
            return "has no certificate that is still valid"
        if served is not None and not pki.issued_by(served, authorities):
            return "is not that of the serving certificate"
        return ""

    def _served(self, deployment: Object | None, config: Settings | None) -> bytes | None:
        """The serving certificate, without its key; None where it is not in a Secret that we may read."""
        if deployment is None or config is None:
            self._say("certificate", UNKNOWN, "its end is not known: driftwall does not run in this cluster")
            return None
        kind, name, key = "Secret", config.tls_secret, "tls.crt"
        if config.tls_files is not None:
            file = PurePosixPath(config.tls_files.cert)
            key = file.name
            kind, name = installation.mounted(deployment, file.parent)
        where = f"Secret {self._service.namespace}/{name}"
        if kind != "Secret":
            self._say("certificate", UNKNOWN, "it is not in a Secret")
            return None
        try:
            secret = self._survey.named(self._service.namespace, "secrets", name)
        except ClusterError:
            self._say("certificate", UNKNOWN, f"its end is not known: you may not read {where}, which has the key, too")
            return None
        data = meta.mapping((secret or {}).get("data")).get(key)
        if not isinstance(data, str):
            self._say("certificate", PROBLEM, f"there is no certificate in {where}")
            return None
        try:
            return b64decode(data, validate=True)
        except binascii.Error:
            self._say("certificate", PROBLEM, f"{where}: {key} is not base64")
            return None

    def _validity(self, certificate: bytes, config: Settings | None) -> None:
        host = f"{self._service.name}.{self._service.namespace}.svc"
        try:
            validity = pki.validity(certificate, now=self._now)
            names = pki.names(certificate)
        except CertificateError as error:
            self._say("certificate", PROBLEM, str(error), "deploy/EMERGENCY.md says how to have a new one made.")
            return
        if host not in names:
            self._say("certificate", PROBLEM, f"it is for {', '.join(sorted(names))}, not for {host}")
            return
        left = validity.not_after - self._now
        soon = left < min(_SOON, (validity.not_after - validity.not_before) / _SHARE)
        end = f"valid until {validity.not_after:%Y-%m-%d %H:%M} UTC, for {left.days} days"
        own = config is not None and config.tls_files is None
        advice = ("driftwall should have renewed it; its log says why not." if own else "Renew it.") if soon else ""
        self._say("certificate", WARNING if soon else OK, end, advice)

    def _reached(
        self, configurations: Iterable[Object | None], namespaces: Iterable[Object], *, in_cluster: bool
    ) -> None:
        probe = installation.probe(configurations, namespaces, custom_resources=in_cluster)
        if probe is None:
            message = "not tried: the webhooks take in nothing that could be created as a dry run"
            self._say("reached", UNKNOWN, message)
            return
        try:
            status, said = self._survey.try_out(probe)
        except ClusterError as error:
            self._say("reached", UNKNOWN, str(error))
            return
        self._checks.append(installation.reached(status, said, probe.path))

    # ── RBAC ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rbac(
        self,
        snapshot: Snapshot,
        deployment: Object | None,
        config: Settings | None,
        namespaces: Iterable[Object],
        version: tuple[int, int],
    ) -> list[Exposure]:
        there = [str(meta.metadata_of(each).get("name")) for each in namespaces]
        own = self._service.namespace
        trusted = set(_namespaces(snapshot, there))
        accounts = self._survey.accounts(sorted(trusted), snapshot.guarded)
        self._missing_accounts(snapshot, {str(account) for account in accounts})
        stakes = Stakes(
            accounts=tuple(accounts),
            users=frozenset(_people(snapshot, "users")),
            groups=frozenset(_people(snapshot, "groups")),
            namespace=own,
            account=installation.account_of(deployment),
            forgeable=version < _GUARDED_NAMES,
        )
        places = {*trusted, own, SYSTEM_NAMESPACE} & set(there)
        rbac = self._survey.rbac(sorted(places))
        if deployment is not None and config is not None:
            rights = needed(certificate=config.tls_files is None, policies=config.policies is None)
            for access in missing(rbac, rights, stakes):
                message = f"service account {own}/{stakes.account} may not {access}"
                self._say("rights", PROBLEM, message, "Apply the roles in deploy/ again.")
            if not any(check.name == "rights" for check in self._checks):
                self._say("rights", OK, f"service account {own}/{stakes.account} may do all that it has to")
        shipped = [right.rule for right in SHIPPED] + ([READS_ALL] if version < _OWNERSHIP else [])
        more = [
            replace(each, remedy="Bind no more than the roles in deploy/.") for each in excess(rbac, shipped, stakes)
        ]
        return [*self._exposures(rbac, places, set(there), snapshot, stakes), *more]

    def _exposures(
        self, rbac: Rbac, places: set[str], there: set[str], snapshot: Snapshot, stakes: Stakes
    ) -> list[Exposure]:
        """Who is exposed, and who can become them: with each link there may be namespaces not looked into so far."""

        def look() -> list[Exposure]:
            direct = exposures(rbac, snapshot, stakes)
            return direct + chains(rbac, snapshot, stakes, direct)

        found = look()
        for _ in range(MAX_LINKS):
            more = {namespace_of(normal(subject)) for each in found for subject in each.subjects} & there - places
            if not more:
                break
            places = places | more
            rbac = self._survey.rbac(sorted(places))
            found = look()
        return found

    def _missing_accounts(self, snapshot: Snapshot, there: set[str]) -> None:
        writers = snapshot.config.trusted.writers
        if writers == default_config().trusted.writers:
            return  # of every tool that there is, most of which nobody has
        for writer in writers:
            for account in writer.service_accounts:
                if not is_glob(account) and account not in there:
                    message = f"trusted writer {writer.name}: there is no service account {account}"
                    self._say("writers", WARNING, message, "Whoever creates it is trusted: take it out.")


def _namespaces(snapshot: Snapshot, there: Iterable[str]) -> Iterator[str]:
    """The namespaces that a trusted service account may be in."""
    writers = [writer for each in snapshot.guarded for writer in each.writers]
    patterns = {Glob(account.partition("/")[0]) for writer in writers for account in writer.service_accounts}
    patterns |= {Glob(account[0]) for writer in writers for user in writer.users if (account := service_account(user))}
    return (name for name in there if any(pattern.matches(name) for pattern in patterns))


def _people(snapshot: Snapshot, what: str) -> Iterator[str]:
    """The users, or the groups, whom the policies trust or let break glass."""
    for writers in (*snapshot.guarded, snapshot.config.system):
        for writer in writers.writers:
            yield from getattr(writer, what)
    for rule in (snapshot.config.break_glass, *(policy.break_glass for policy in snapshot.policies)):
        if rule is not None:
            yield from getattr(rule, what)


def _items(collection: Mapping[str, Any] | None) -> Iterator[Object]:
    items = (collection or {}).get("items")
    yield from (each for each in (items if isinstance(items, list) else ()) if isinstance(each, dict))
