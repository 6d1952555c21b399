"""The settings of ``driftwall serve``: flags and environment variables to one frozen object, read once."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from webhook.errors import SettingsError

# A Service named "driftwall" makes Kubernetes set DRIFTWALL_SERVICE_HOST, DRIFTWALL_PORT and the like in every pod of
# its namespace. So variables that are not listed below cannot be refused, and none below may have such a name.
ENVIRONMENT_PREFIX = "DRIFTWALL_"


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


POLICIES = Option(flag="--policies", metavar="PATH", help="the policies: a file or a folder", required=True)
TLS_CERT = Option(flag="--tls-cert", metavar="FILE", help="the serving certificate and its chain (PEM)", required=True)
TLS_KEY = Option(flag="--tls-key", metavar="FILE", help="the key of the serving certificate (PEM)", required=True)
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
OPTIONS = (POLICIES, TLS_CERT, TLS_KEY, CLIENT_CA, LISTEN, MANAGEMENT_LISTEN, KUBECONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``serve`` runs with. Files are named here, not yet read."""

    policies: Path
    tls_cert: Path
    tls_key: Path
    client_ca: Path | None
    listen: Address
    management_listen: Address
    kubeconfig: Path | None


def read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Make the settings from ``flags`` (by :attr:`Option.name`; None: not given) and ``environ``.

    An empty environment variable counts as not set.

    Raises:
        SettingsError: values are missing or wrong; one line for each, which names the flag or variable.
    """
    values = _Values(flags, environ)
    policies, tls_cert, tls_key = values.path(POLICIES), values.path(TLS_CERT), values.path(TLS_KEY)
    client_ca, kubeconfig = values.path(CLIENT_CA), values.path(KUBECONFIG)
    listen, management_listen = values.address(LISTEN), values.address(MANAGEMENT_LISTEN)
    if listen and listen == management_listen and listen.port:
        values.problems.append(f"--listen and --management-listen are both {listen}; each needs a port of its own")
    if values.problems or not (policies and tls_cert and tls_key and listen and management_listen):
        raise SettingsError("\n".join(values.problems))
    return Settings(
        policies=policies,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        listen=listen,
        management_listen=management_listen,
        kubeconfig=kubeconfig,
    )


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

    def path(self, option: Option) -> Path | None:
        if (given := self._text(option)) is None:
            return None
        key, value = given
        if not value or "\0" in value:
            self.problems.append(f"{key}: {value!r} is no path")
            return None
        return Path(value)

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
