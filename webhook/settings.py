"""The settings of ``driftwall serve``: flags and environment variables to one frozen object, read once."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from webhook.durations import parse_duration, write_duration
from webhook.errors import SettingsError

# For a Service named "driftwall", or "driftwall-…", Kubernetes sets variables in every pod of its namespace:
# DRIFTWALL_SERVICE_HOST, DRIFTWALL_SERVICE_PORT and DRIFTWALL_SERVICE_PORT_…, DRIFTWALL_PORT and DRIFTWALL_PORT_…. So
# variables that are not listed below cannot be refused, and no flag below may be named so that its variable is one of
# these: none ends in -port or -service-host, and none has -port- in it. (DRIFTWALL_SERVICE alone is none of them.)
ENVIRONMENT_PREFIX = "DRIFTWALL_"

# A CA whose certificates would outlive it could not sign one for its full lifetime; it is replaced when a third of its
# own lifetime is left, so three of the others have to fit in.
CA_LIFETIMES: Final = 3
# Shorter than this, a certificate would be renewed faster than a replica looks for the new one.
MIN_LIFETIME: Final = timedelta(seconds=1)
# Processes: more than any machine has cores for; a larger number is a typing error.
MAX_WORKERS: Final = 64
# kubelet kills 30 s after SIGTERM unless told otherwise, and draining and closing may take 24 s (webhook.app). Longer
# ones are for pods with a terminationGracePeriodSeconds of their own; an hour is a typing error.
MAX_SHUTDOWN_DELAY: Final = timedelta(minutes=10)
# Slower than this, a renewed certificate would not be noticed before a short-lived one has expired.
MAX_RELOAD_INTERVAL: Final = timedelta(minutes=1)

# What Kubernetes takes as the name of a Namespace or Service (RFC 1123 label), and of a Secret (RFC 1123 subdomain).
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One flag of ``serve`` and the environment variable beside it; the flag wins."""

    flag: str
    metavar: str
    help: str
    default: str | None = None
    required: bool = False

    @property
    def name(self) -> str:
        """The flag as a Python name: ``tls_cert``."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable: ``DRIFTWALL_TLS_CERT``."""
        return ENVIRONMENT_PREFIX + self.name.upper()


#: The value of POLICIES that stands for the custom resources; a folder of this name is ./cluster.
CLUSTER = "cluster"
POLICIES = Option(
    flag="--policies",
    metavar="PATH|cluster",
    help="the policies: a file, a folder, or 'cluster' for the DriftPolicies and the DriftwallConfig there",
    required=True,
)
TLS_CERT = Option(
    flag="--tls-cert",
    metavar="FILE",
    help="the serving certificate and its chain (PEM); read again when it changes, never written",
)
TLS_KEY = Option(flag="--tls-key", metavar="FILE", help="the key of the serving certificate (PEM)")
SERVICE = Option(
    flag="--service",
    metavar="NAMESPACE/NAME",
    help="the Service that the API server calls; without --tls-cert driftwall makes and renews its own certificate",
)
TLS_SECRET = Option(
    flag="--tls-secret",
    metavar="NAME",
    help="the Secret that driftwall keeps its own certificate in, in the namespace of --service",
    default="driftwall-tls",
)
# 90 days: a key that leaks ends with the quarter, and the thirty days left at renewal are time to notice a failure.
CERTIFICATE_LIFETIME = Option(
    flag="--certificate-lifetime",
    metavar="DURATION",
    help="how long a certificate that driftwall makes is valid; renewed when a third is left",
    default="2160h",
)
# Ten years: replacing it touches the webhook configurations, so it is rare; and it signs for one Service alone.
CA_LIFETIME = Option(
    flag="--ca-lifetime",
    metavar="DURATION",
    help="how long driftwall's own CA is valid; replaced when a third is left",
    default="87600h",
)
# A second: a ConfigMap or Secret takes kubelet a minute to bring, so a look each second adds nothing to notice; and one
# GET a second is nothing to an API server.
RELOAD_INTERVAL = Option(
    flag="--reload-interval",
    metavar="DURATION",
    help="how often the certificate is looked at, in its files or its Secret",
    default="1s",
)
CLIENT_CA = Option(
    flag="--client-ca", metavar="FILE", help="only callers with a certificate of this CA may connect (mutual TLS)"
)
# 8443 and 8080: ports above 1023 need no capability, so the server runs as any user.
LISTEN = Option(flag="--listen", metavar="HOST:PORT", help="where the API server calls", default="0.0.0.0:8443")
MANAGEMENT_LISTEN = Option(
    flag="--management-listen",
    metavar="HOST:PORT",
    help="where /livez, /readyz and /metrics are, without TLS",
    default="0.0.0.0:8080",
)
KUBECONFIG = Option(
    flag="--kubeconfig",
    metavar="FILE",
    help="how to reach the API server for look-ups (default: in-cluster, then your own kubeconfig, then offline)",
)
# One process decides thousands of reviews a second, more than an API server sends.
WORKERS = Option(flag="--workers", metavar="N", help="processes that answer reviews", default="1")
# Five seconds: an endpoint is taken away by the endpoint controller, then by kube-proxy on every node and by the API
# server, each of which takes its turn within a second or so once the pod is terminating.
SHUTDOWN_DELAY = Option(
    flag="--shutdown-delay",
    metavar="DURATION",
    help="how long SIGTERM leaves it serving, while endpoints go away; SIGINT does not wait",
    default="5s",
)
OPTIONS = (
    POLICIES,
    TLS_CERT,
    TLS_KEY,
    CLIENT_CA,
    SERVICE,
    TLS_SECRET,
    CERTIFICATE_LIFETIME,
    CA_LIFETIME,
    RELOAD_INTERVAL,
    LISTEN,
    MANAGEMENT_LISTEN,
    KUBECONFIG,
    WORKERS,
    SHUTDOWN_DELAY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service of Kubernetes, as ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The certificate that somebody else brings."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``serve`` runs with. Files are named here, not yet read. ``policies`` is None for the custom resources.

    Without ``tls_files`` there is a ``service``, and the certificate is driftwall's own. Durations are in seconds.
    """

    policies: Path | None
    tls_files: Files | None
    client_ca: Path | None
    listen: Address
    management_listen: Address
    kubeconfig: Path | None
    service: Service | None = None
    tls_secret: str = "driftwall-tls"  # noqa: S105 - the name of a Secret
    certificate_lifetime: timedelta = field(default=timedelta(days=90))
    ca_lifetime: timedelta = field(default=timedelta(days=3650))
    reload_interval: float = 1.0
    workers: int = 1
    shutdown_delay: float = 5.0


def read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Make the settings from ``flags`` (by :attr:`Option.name`; None: not given) and ``environ``.

    An empty environment variable counts as not set.

    Raises:
        SettingsError: values are missing or wrong; one line for each, which names the flag or variable.
    """
    values = _Values(flags, environ)
    policies = values.path_or_word(POLICIES, CLUSTER)
    tls_cert, tls_key = values.path(TLS_CERT), values.path(TLS_KEY)
    service, tls_secret = values.service(SERVICE), values.secret(TLS_SECRET)
    lifetime, ca_lifetime = values.duration(CERTIFICATE_LIFETIME), values.duration(CA_LIFETIME)
    reload_interval, shutdown_delay = values.duration(RELOAD_INTERVAL), values.duration(SHUTDOWN_DELAY)
    client_ca, kubeconfig, workers = values.path(CLIENT_CA), values.path(KUBECONFIG), values.number(WORKERS)
    listen, management_listen = values.address(LISTEN), values.address(MANAGEMENT_LISTEN)
    if values.given(TLS_CERT) != values.given(TLS_KEY):
        there, missing = (TLS_CERT, TLS_KEY) if values.given(TLS_CERT) else (TLS_KEY, TLS_CERT)
        values.problems.append(f"{there.flag} is given, so {missing.flag} (or {missing.variable}) is required")
    elif not values.given(TLS_CERT) and not values.given(SERVICE):
        values.problems.append(
            f"a certificate is required: {TLS_CERT.flag} FILE and {TLS_KEY.flag} FILE (or {TLS_CERT.variable} and "
            f"{TLS_KEY.variable}) for one of yours, {SERVICE.flag} {SERVICE.metavar} (or {SERVICE.variable}) to have "
            "one made in the cluster"
        )
    if listen and listen == management_listen and listen.port:
        values.problems.append(f"--listen and --management-listen are both {listen}; each needs a port of its own")
    if lifetime is not None and lifetime < MIN_LIFETIME:
        values.problems.append(f"{CERTIFICATE_LIFETIME.flag}: a certificate is valid for a second at least")
    if lifetime is not None and ca_lifetime is not None and ca_lifetime < CA_LIFETIMES * lifetime:
        values.problems.append(f"{CA_LIFETIME.flag} is less than {CA_LIFETIMES} times {CERTIFICATE_LIFETIME.flag}")
    if reload_interval is not None and not timedelta(0) < reload_interval <= MAX_RELOAD_INTERVAL:
        values.problems.append(f"{RELOAD_INTERVAL.flag} is from above zero to a minute")
    if shutdown_delay is not None and shutdown_delay > MAX_SHUTDOWN_DELAY:
        values.problems.append(f"{SHUTDOWN_DELAY.flag} is ten minutes at most")
    if values.problems or not (
        policies
        and listen
        and management_listen
        and tls_secret
        and lifetime
        and ca_lifetime
        and reload_interval
        and shutdown_delay is not None
        and workers
    ):
        raise SettingsError("\n".join(values.problems))
    return Settings(
        policies=None if policies == CLUSTER else Path(policies),
        tls_files=Files(cert=tls_cert, key=tls_key) if tls_cert and tls_key else None,
        client_ca=client_ca,
        listen=listen,
        management_listen=management_listen,
        kubeconfig=kubeconfig,
        service=service,
        tls_secret=tls_secret,
        certificate_lifetime=lifetime,
        ca_lifetime=ca_lifetime,
        reload_interval=reload_interval.total_seconds(),
        workers=workers,
        shutdown_delay=shutdown_delay.total_seconds(),
    )


def flags(config: Settings) -> dict[str, str]:
    """What :func:`read` makes ``config`` of, by :attr:`Option.name`."""
    files = config.tls_files
    values: dict[str, object] = {
        POLICIES.name: CLUSTER if config.policies is None else _no_word(config.policies),
        TLS_CERT.name: files and files.cert,
        TLS_KEY.name: files and files.key,
        CLIENT_CA.name: config.client_ca,
        SERVICE.name: config.service,
        TLS_SECRET.name: config.tls_secret,
        CERTIFICATE_LIFETIME.name: write_duration(config.certificate_lifetime),
        CA_LIFETIME.name: write_duration(config.ca_lifetime),
        RELOAD_INTERVAL.name: write_duration(timedelta(seconds=config.reload_interval)),
        LISTEN.name: config.listen,
        MANAGEMENT_LISTEN.name: config.management_listen,
        KUBECONFIG.name: config.kubeconfig,
        WORKERS.name: config.workers,
        SHUTDOWN_DELAY.name: write_duration(timedelta(seconds=config.shutdown_delay)),
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _no_word(path: Path) -> str:
    """``path`` so that it is not taken for the word: Path drops the ``./`` that told them apart."""
    return f"./{path}" if str(path) == CLUSTER else str(path)


class _Values:
    """Values by option, and the problems found with them so far."""

    def __init__(self, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> None:
        self._flags = flags
        self._environ = environ
        self.problems: list[str] = []

    def _text(self, option: Option) -> tuple[str, str] | None:
        """Where the value was given and the value, or None where it was not given."""
        if (value := self._flags.get(option.name)) is not None:
            return option.flag, value
        if value := self._environ.get(option.variable):
            return option.variable, value
        if option.default is not None:
            return option.flag, option.default
        if option.required:
            self.problems.append(f"{option.flag} {option.metavar} (or {option.variable}) is required")
        return None

    def given(self, option: Option) -> bool:
        return self._flags.get(option.name) is not None or bool(self._environ.get(option.variable))

    def path_or_word(self, option: Option, word: str) -> Path | str | None:
        given = self._text(option)
        if given is None or given[1] == word:
            return given and word
        return self._path(*given)

    def path(self, option: Option) -> Path | None:
        given = self._text(option)
        return given and self._path(*given)

    def _path(self, key: str, value: str) -> Path | None:
        if not value or "\0" in value:
            self.problems.append(f"{key}: {value!r} is no path")
            return None
        return Path(value)

    def service(self, option: Option) -> Service | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        namespace, _, name = value.partition("/")
        if _LABEL.match(namespace) and _LABEL.match(name):
            return Service(namespace=namespace, name=name)
        self.problems.append(f"{key}: {value!r} is not NAMESPACE/NAME of a Service, such as driftwall-system/driftwall")
        return None

    def secret(self, option: Option) -> str | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        if _SUBDOMAIN.match(value):
            return value
        self.problems.append(f"{key}: {value!r} is not the name of a Secret")
        return None

    def duration(self, option: Option) -> timedelta | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        try:
            return parse_duration(value)
        except ValueError as error:
            self.problems.append(f"{key}: {error}")
            return None

    def number(self, option: Option) -> int | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        # 3 digits: longer ones need no conversion to be known as too high.
        if value.isascii() and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= MAX_WORKERS:
            return int(value)
        self.problems.append(f"{key}: {value!r} is not a number from 1 to {MAX_WORKERS}")
        return None

    def address(self, option: Option) -> Address | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        host, colon, port = value.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        bare = host[1:-1] if bracketed else host
        if not (colon and bare and bracketed == (":" in bare)):
            self.problems.append(f"{key}: {value!r} is not HOST:PORT, such as 127.0.0.1:8443 or [::]:8443")
        # 65535: the highest TCP port. 5 digits: longer ones need no conversion to be known as too high.
        elif not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            self.problems.append(f"{key}: the port of {value!r} is not a number from 0 to 65535")
        else:
            return Address(host=bare, port=int(port))
        return None


def version() -> str:
    """The version of driftwall as installed, or ``0+unknown`` where it runs from a folder that was never installed."""
    try:
        return importlib.metadata.version("driftwall")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
