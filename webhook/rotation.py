"""What the Secret of a self-managed certificate is to hold next. Pure: no clock, no network.

The Secret alone tells how far a rotation has come, so whoever holds the Lease goes on where another one stopped:

====================  =====================  ===============================================================
``previous-ca.crt``   ``tls.crt`` is of      next
====================  =====================  ===============================================================
absent                ``ca.crt``             a new serving certificate, or a new CA, when a third is left
present               ``previous-ca.crt``    once every API server trusts both: a serving certificate of the new CA
present               ``ca.crt``             once every replica serves it: without the previous CA
====================  =====================  ===============================================================

The bundle in the webhook configurations follows from the Secret too: both CAs, as long as both are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from webhook import pki
from webhook.errors import CertificateError, NotYetValid
from webhook.pki import KeyPair

# A third of the lifetime is left for whatever keeps a certificate from being renewed to be noticed.
RENEW_AT: Final = 3

CA_CERT, CA_KEY, CERT, KEY, PREVIOUS = "ca.crt", "ca.key", "tls.crt", "tls.key", "previous-ca.crt"
KEYS: Final = (CA_CERT, CA_KEY, CERT, KEY, PREVIOUS)

Asked = Literal["", "serving", "ca"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the Secret holds. Nothing of it is checked yet."""

    ca: KeyPair | None = None
    serving: KeyPair | None = None
    previous: bytes = b""

    @classmethod
    def parse(cls, data: Mapping[str, bytes]) -> Held:
        """Read the Secret's data; a pair without one of its halves is none.

        A CA without its key signs nothing any more; what it has signed is still good.
        """
        ca, previous = _pair(data.get(CA_CERT), data.get(CA_KEY)), data.get(PREVIOUS, b"")
        return cls(
            ca=ca,
            serving=_pair(data.get(CERT), data.get(KEY)),
            previous=previous if ca else previous + data.get(CA_CERT, b""),
        )

    def data(self) -> dict[str, bytes | None]:
        """The Secret's data; None for what it is not to hold."""
        ca, serving = self.ca, self.serving
        return {
            CA_CERT: ca.certificate if ca else None,
            CA_KEY: ca.key if ca else None,
            CERT: serving.certificate if serving else None,
            KEY: serving.key if serving else None,
            PREVIOUS: self.previous or None,
        }

    def bundle(self, now: datetime) -> bytes:
        """The CAs that the API server is to trust, PEM; empty if there is none."""
        return pki.bundle([self.ca.certificate if self.ca else b"", self.previous], now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What certificates are made for, and for how long."""

    hosts: tuple[str, ...]
    lifetime: timedelta
    ca_lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the Secret does not tell.

    ``settled``: every API server has had the time to take up the bundle that the Secret makes. ``everywhere``: every
    replica serves the Secret's certificate, and no other. ``last_good`` is what the Secret held when it last was right.
    """

    settled: bool = False
    everywhere: bool = False
    last_good: Held | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the Secret is to hold instead, and why, for the log."""

    held: Held
    reason: str


def check(held: Held, terms: Terms, *, now: datetime) -> KeyPair:
    """The pair to serve, once it is known that the API server will take it.

    Raises:
        CertificateError: there is none, it cannot be served at ``now``, no CA beside it signed it, or it is for others.
    """
    if held.serving is None:
        raise CertificateError("there is no certificate yet")
    pki.check(held.serving.certificate, held.serving.key, now=now)
    if not pki.issued_by(held.serving.certificate, held.bundle(now)):
        raise CertificateError("the certificate is signed by none of the CAs beside it")
    if missing := set(terms.hosts) - pki.names(held.serving.certificate):
        raise CertificateError(f"the certificate is not for {', '.join(sorted(missing))}")
    return held.serving


def next_step(held: Held, terms: Terms, seen: Seen, *, now: datetime, asked: Asked = "") -> Step | None:
    """What to write into the Secret now; None: nothing. ``asked`` is what a person wants renewed before its time.

    Raises:
        CertificateError: a host of ``terms`` is none, or what the Secret holds will be valid later. To replace that
            would be the wrong answer to a clock that is wrong.
    """
    if held.ca is None or (why := _ca_is_due(held.ca, terms, now)):
        return _new_ca(held, terms, seen, now, "there is no CA yet" if held.ca is None else why)
    rotating = bool(pki.bundle([held.previous], now=now))
    if asked == "ca" and not rotating:
        return _new_ca(held, terms, seen, now, "a new CA is asked for")
    if rotating and not seen.settled:
        # A certificate of the new CA would not be taken yet; that of the old one is still good.
        return None
    if why := _serving_is_due(held, held.ca, terms, now, asked):
        return _issue(held, held.ca, terms, now, why)
    if held.previous and (not rotating or seen.everywhere):
        return Step(held=replace(held, previous=b""), reason="the previous CA is not needed any more")
    return None


def _ca_is_due(ca: KeyPair, terms: Terms, now: datetime) -> str:
    """Why there has to be a new CA, if there has."""
    try:
        validity = pki.check_authority(ca, now=now)
    except NotYetValid:
        raise
    except CertificateError as error:
        return str(error)
    if validity.not_after - now <= terms.ca_lifetime / RENEW_AT:
        return f"a third of the CA's lifetime is left, until {validity.not_after:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def _serving_is_due(held: Held, ca: KeyPair, terms: Terms, now: datetime, asked: Asked) -> str:
    """Why there has to be a new serving certificate, if there has."""
    try:
        serving = check(held, terms, now=now)
    except NotYetValid:
        raise
    except CertificateError as error:
        return str(error)
    if not pki.issued_by(serving.certificate, ca.certificate):
        return "it is of the previous CA"
    if asked == "serving":
        return "a new one is asked for"
    not_after = pki.check(serving.certificate, serving.key, now=now).not_after
    if not_after - now <= terms.lifetime / RENEW_AT:
        return f"a third of its lifetime is left, until {not_after:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def _new_ca(held: Held, terms: Terms, seen: Seen, now: datetime, why: str) -> Step:
    """A new CA beside the old one, whose serving certificate stays; at once in its place, if nothing good is there."""
    ca = pki.create_ca(now=now, lifetime=terms.ca_lifetime)
    reason = f"new CA: {why}"
    # The Secret may have been emptied or damaged, while what it held is still served.
    for good in (held, seen.last_good):
        if good is None:
            continue
        try:
            serving = check(good, terms, now=now)
        except NotYetValid:
            raise
        except CertificateError:
            continue
        return Step(held=Held(ca=ca, serving=serving, previous=good.bundle(now)), reason=reason)
    return _issue(Held(ca=ca), ca, terms, now, reason)


def _issue(held: Held, ca: KeyPair, terms: Terms, now: datetime, why: str) -> Step:
    serving = pki.create_serving(ca, terms.hosts, now=now, lifetime=terms.lifetime)
    return Step(held=replace(held, serving=serving), reason=f"new serving certificate: {why}")


def _pair(certificate: bytes | None, key: bytes | None) -> KeyPair | None:
    return KeyPair(certificate=certificate, key=key) if certificate and key else None
