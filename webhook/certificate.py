"""The certificate that this replica serves: a new one is checked, then served; the last good one stays otherwise."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from webhook import pki, settings, tls
from webhook.errors import CertificateError
from webhook.metrics import Metrics
from webhook.readiness import Health
from webhook.settings import Option, Settings
from webhook.tls import Material

#: What readiness calls the subject.
SUBJECT: Final = "certificate"
# A replica whose certificate is about to expire, while others may have renewed theirs, gets no more reviews: kubelet
# needs 30 s to see that (three probes, 10 s apart), and the endpoint some more to go. Of what was left when it was
# taken it is a tenth at most, for certificates that live for minutes.
UNREADY_BEFORE: Final = timedelta(minutes=1)
_SHARE: Final = 10

Install = Callable[[Material, ssl.SSLContext], None]

_log = logging.getLogger(__name__)


class Certificate:
    """What is served, and what was wrong with what is not. For one thread at a time.

    ``install`` puts a checked certificate in force for new connections. ``material`` is None until there is one.
    """

    def __init__(
        self,
        *,
        install: Install,
        health: Health,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._install = install
        self._health = health
        self._metrics = metrics
        self._now = now
        self._problem = ""
        self._not_after = datetime.max.replace(tzinfo=UTC)
        self._margin = timedelta(0)
        self.material: Material | None = None

    def offer(self, material: Material, where: str) -> bool:
        """Serve ``material``, if it is good; ``where`` it comes from is for people. Says whether it is served now."""
        now = self._now()
        if material != self.material:
            try:
                validity = pki.check(material.certificate, material.key, now=now)
                context = tls.context(material)
            except CertificateError as error:
                self.refuse(f"{where}: {error}")
                return False
            self._install(material, context)
            self._metrics.certificate_served(
                not_before=validity.not_before.timestamp(), not_after=validity.not_after.timestamp()
            )
            if self.material is not None:
                self._metrics.certificate("served")
            not_after = f"{validity.not_after:%Y-%m-%dT%H:%M:%SZ}"
            data = {"fingerprint": pki.fingerprint(material.certificate), "notAfter": not_after}
            _log.info("serving a certificate", extra={"data": data})
            self.material = material
            self._not_after = validity.not_after
            self._margin = min(UNREADY_BEFORE, (validity.not_after - now) / _SHARE)
        self._problem = ""
        self.look()
        return True

    def would_take(self, material: Material) -> bool:
        """Whether :meth:`offer` would serve it."""
        if material == self.material:
            return True
        try:
            pki.check(material.certificate, material.key, now=self._now())
            tls.context(material)
        except CertificateError:
            return False
        return True

    def refuse(self, problem: str) -> None:
        """Keep what is served, and tell what is wrong with what was to take its place."""
        if problem != self._problem:
            self._metrics.certificate("refused")
            _log.warning("certificate not taken: %s", problem)
        self.lack(problem)

    def lack(self, problem: str) -> None:
        """Keep what is served, and tell why there is nothing that could take its place."""
        self._problem = problem
        self.look()

    def look(self) -> None:
        """Tell how the certificate that is served is by now; it may be about to expire."""
        left = self._not_after - self._now()
        problem = [self._problem] if self._problem else []
        if self.material is None:
            self._health.block(SUBJECT, *(problem or ["not loaded yet"]))
        elif left <= self._margin:
            verb = "expires" if left > timedelta(0) else "expired"
            self._health.block(SUBJECT, f"it {verb} at {self._not_after:%Y-%m-%d %H:%M:%S} UTC", *problem)
        elif problem:
            self._health.note(SUBJECT, "the last good one is served:", *problem)
        else:
            self._health.clear(SUBJECT)


class FileSource:
    """The certificate in files that somebody else writes, and the CA of the clients. :meth:`step` looks at them."""

    def __init__(self, config: Settings, certificate: Certificate) -> None:
        self._config = config
        self._certificate = certificate
        self._suspect: Material | str | None = None

    def step(self) -> None:
        """Offer what is there now, if it is not served already."""
        try:
            found: Material | str = read(self._config)
        except CertificateError as error:
            found = str(error)
        if isinstance(found, Material) and self._certificate.would_take(found):
            self._certificate.offer(found, _where(self._config))
        elif found == self._suspect:
            # The files are written one after the other, and read so: only what stays wrong is wrong.
            if isinstance(found, Material):
                self._certificate.offer(found, _where(self._config))
            else:
                self._certificate.refuse(found)
        self._suspect = found


def load(config: Settings, now: datetime | None = None) -> Material:
    """The certificate in the files of ``config``, checked.

    Raises:
        CertificateError: a file cannot be read, or what is in it cannot be served at ``now``.
    """
    material = read(config)
    try:
        pki.check(material.certificate, material.key, now=now or datetime.now(UTC))
        tls.context(material)
    except CertificateError as error:
        raise CertificateError(f"{_where(config)}: {error}") from None
    return material


def read(config: Settings) -> Material:
    """What is in the files of ``config``, unchecked.

    Raises:
        CertificateError: a file cannot be read.
    """
    assert config.tls_files is not None  # noqa: S101 - for mypy: nobody asks otherwise
    return Material(
        certificate=_read(settings.TLS_CERT, config.tls_files.cert),
        key=_read(settings.TLS_KEY, config.tls_files.key),
        client_ca=client_ca(config),
    )


def client_ca(config: Settings) -> bytes | None:
    """The CA of the clients, if they must have one.

    Raises:
        CertificateError: the file cannot be read, or there is no CA in it.
    """
    if config.client_ca is None:
        return None
    content = _read(settings.CLIENT_CA, config.client_ca)
    try:
        pki.check_ca(content)
    except CertificateError as error:
        raise CertificateError(f"{settings.CLIENT_CA.flag}: {config.client_ca}: {error}") from None
    return content


def _where(config: Settings) -> str:
    assert config.tls_files is not None  # noqa: S101 - for mypy, as above
    return f"{config.tls_files.cert} with {config.tls_files.key}"


def _read(option: Option, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{option.flag}: {path} cannot be read: {error.strerror}") from error
