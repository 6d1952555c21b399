"""The settings of ``driftwall serve``: flags and environment variables to one frozen object, read once."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from webhook.durations import write_duration
from webhook.errors import SettingsError
from webhook.options import Address, Option, Service, Values

__all__ = ["OPTIONS", "Address", "Files", "Option", "Service", "Settings", "flags", "read", "version"]

# A CA whose certificates would outlive it could not sign one for its full lifetime; it is replaced when a third of its
# own lifetime is left, so three of the others have to fit in.
CA_LIFETIMES: Final = 3
# Shorter than this, a certificate would be renewed faster than a replica looks for the new one.
MIN_LIFETIME: Final = timedelta(seconds=1)
# Processes: more than any machine has cores for; a larger number is a typing error.
MAX_WORKERS: Final = 64
# A terabyte in one file, and as many files as logrotate or Docker ever keep: more is a typing error.
MAX_LOG_MIB: Final = 1024 * 1024
MAX_LOG_FILES: Final = 1000
# kubelet kills 30 s after SIGTERM unless told otherwise, and draining and closing may take 24 s (webhook.app). Longer
# ones are for pods with a terminationGracePeriodSeconds of their own; an hour is a typing error.
MAX_SHUTDOWN_DELAY: Final = timedelta(minutes=10)
# Slower than this, a renewed certificate would not be noticed before a short-lived one has expired.
MAX_RELOAD_INTERVAL: Final = timedelta(minutes=1)

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
DECISION_LOG = Option(
    flag="--decision-log",
    metavar="FILE",
    help="where the decision log goes beside stdout; rotated, and opened anew where somebody else has rotated it",
)
# 100 and 5, with which half a gigabyte is the most: some 700,000 lines, a day of a busy cluster.
DECISION_LOG_MAX_SIZE = Option(
    flag="--decision-log-max-size", metavar="MIB", help="how large the file gets before it is rotated", default="100"
)
DECISION_LOG_MAX_FILES = Option(
    flag="--decision-log-max-files",
    metavar="N",
    help="how many files are kept: FILE, FILE.1, which is the one before, and so on",
    default="5",
)
OTLP_ENDPOINT = Option(
    flag="--otlp-endpoint",
    metavar="URL",
    help="where OpenTelemetry traces go by OTLP over HTTP (http://HOST:4318; default: the variables "
    "OTEL_EXPORTER_OTLP_…, then nowhere); needs driftwall[otel]",
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
    DECISION_LOG,
    DECISION_LOG_MAX_SIZE,
    DECISION_LOG_MAX_FILES,
    OTLP_ENDPOINT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The certificate that somebody else brings."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``serve`` runs with. Files are named here, not yet read. ``policies`` is None for the custom resources.

    Without ``tls_files`` there is a ``service``, and the certificate is driftwall's own. Durations are in seconds, and
    ``decision_log_max_size`` is in MiB.
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
    decision_log: Path | None = None
    decision_log_max_size: int = 100
    decision_log_max_files: int = 5
    otlp_endpoint: str | None = None


def read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Make the settings from ``flags`` (by :attr:`Option.name`; None: not given) and ``environ``.

    An empty environment variable counts as not set.

    Raises:
        SettingsError: values are missing or wrong; one line for each, which names the flag or variable.
    """
    values = Values(flags, environ)
    policies = values.path_or_word(POLICIES, CLUSTER)
    tls_cert, tls_key = values.path(TLS_CERT), values.path(TLS_KEY)
    service, tls_secret = values.service(SERVICE), values.secret(TLS_SECRET)
    lifetime, ca_lifetime = values.duration(CERTIFICATE_LIFETIME), values.duration(CA_LIFETIME)
    reload_interval, shutdown_delay = values.duration(RELOAD_INTERVAL), values.duration(SHUTDOWN_DELAY)
    client_ca, kubeconfig, workers = (
        values.path(CLIENT_CA),
        values.path(KUBECONFIG),
        values.number(WORKERS, MAX_WORKERS),
    )
    listen, management_listen = values.address(LISTEN), values.address(MANAGEMENT_LISTEN)
    decision_log, otlp_endpoint = values.path(DECISION_LOG), values.url(OTLP_ENDPOINT)
    log_size = values.number(DECISION_LOG_MAX_SIZE, MAX_LOG_MIB)
    log_files = values.number(DECISION_LOG_MAX_FILES, MAX_LOG_FILES)
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
        and log_size
        and log_files
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
        decision_log=decision_log,
        decision_log_max_size=log_size,
        decision_log_max_files=log_files,
        otlp_endpoint=otlp_endpoint,
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
        DECISION_LOG.name: config.decision_log,
        DECISION_LOG_MAX_SIZE.name: config.decision_log_max_size,
        DECISION_LOG_MAX_FILES.name: config.decision_log_max_files,
        OTLP_ENDPOINT.name: config.otlp_endpoint,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _no_word(path: Path) -> str:
    """``path`` so that it is not taken for the word: Path drops the ``./`` that told them apart."""
    return f"./{path}" if str(path) == CLUSTER else str(path)


def version() -> str:
    """The version of driftwall as installed, or ``0+unknown`` where it runs from a folder that was never installed."""
    try:
        return importlib.metadata.version("driftwall")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
