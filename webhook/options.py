"""What a setting of ``driftwall serve`` may be: a flag, its environment variable, and the value read from either."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from webhook.durations import parse_duration

# For a Service named "driftwall", or "driftwall-…", Kubernetes sets variables in every pod of its namespace:
# DRIFTWALL_SERVICE_HOST, DRIFTWALL_SERVICE_PORT and DRIFTWALL_SERVICE_PORT_…, DRIFTWALL_PORT and DRIFTWALL_PORT_…. So
# variables that are no flag's cannot be refused, and no flag may be named so that its variable is one of
# these: none ends in -port or -service-host, and none has -port- in it. (DRIFTWALL_SERVICE alone is none of them.)
ENVIRONMENT_PREFIX = "DRIFTWALL_"

# What Kubernetes takes as the name of a Namespace or Service (RFC 1123 label), and of a Secret (RFC 1123 subdomain).
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


# As much of it as a typing error would break; whoever calls it finds out the rest.
_URL: Final = re.compile(r"https?://[^\s/?#]+\S*\Z")


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


class Values:
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
        """Whether flag or variable are there; a default is none."""
        return self._flags.get(option.name) is not None or bool(self._environ.get(option.variable))

    def path_or_word(self, option: Option, word: str) -> Path | str | None:
        """A path, unless it is ``word``."""
        given = self._text(option)
        if given is None or given[1] == word:
            return given and word
        return self._path(*given)

    def path(self, option: Option) -> Path | None:
        """A path."""
        given = self._text(option)
        return given and self._path(*given)

    def _path(self, key: str, value: str) -> Path | None:
        if not value or "\0" in value:
            self.problems.append(f"{key}: {value!r} is no path")
            return None
        return Path(value)

    def url(self, option: Option) -> str | None:
        """``http://HOST…`` or ``https://HOST…``."""
        if (given := self._text(option)) is None:
            return None
        key, value = given
        if _URL.match(value):
            return value
        self.problems.append(f"{key}: {value!r} is no URL, such as http://HOST:PORT")
        return None

    def service(self, option: Option) -> Service | None:
        """``NAMESPACE/NAME``."""
        if (given := self._text(option)) is None:
            return None
        key, value = given
        namespace, _, name = value.partition("/")
        if _LABEL.match(namespace) and _LABEL.match(name):
            return Service(namespace=namespace, name=name)
        self.problems.append(f"{key}: {value!r} is not NAMESPACE/NAME of a Service, such as driftwall-system/driftwall")
        return None

    def secret(self, option: Option) -> str | None:
        """The name of a Secret."""
        if (given := self._text(option)) is None:
            return None
        key, value = given
        if _SUBDOMAIN.match(value):
            return value
        self.problems.append(f"{key}: {value!r} is not the name of a Secret")
        return None

    def duration(self, option: Option) -> timedelta | None:
        """A duration."""
        if (given := self._text(option)) is None:
            return None
        key, value = given
        try:
            return parse_duration(value)
        except ValueError as error:
            self.problems.append(f"{key}: {error}")
            return None

    def number(self, option: Option, most: int) -> int | None:
        """A whole number from 1 to ``most``."""
        if (given := self._text(option)) is None:
            return None
        key, value = given
        # One with more digits needs no conversion to be known as too high.
        if value.isascii() and value.isdigit() and len(value) <= len(str(most)) and 1 <= int(value) <= most:
            return int(value)
        self.problems.append(f"{key}: {value!r} is not a number from 1 to {most}")
        return None

    def address(self, option: Option) -> Address | None:
        """``HOST:PORT``."""
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
