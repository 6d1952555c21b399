"""The TLS that reviews come in over, and the change of its certificate while connections are open.

A connection is served to its end by the context that it began with; the next one takes the context that is there then.
So nothing is ever changed in place: a context that is in use would keep the certificate of another type of key beside
the new one, and between its certificate and its key there would be a moment without either.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from webhook import pki
from webhook.errors import CertificateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a server needs for TLS, all PEM: a chain, its key, and the CA of its clients, if they must have one."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


def context(material: Material) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1, and clients' certificates where a CA is given.

    Raises:
        CertificateError: OpenSSL does not take it. What :func:`webhook.pki.check` objects to is not looked for.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION  # it would cost us more than the client who asks
    made.set_alpn_protocols(["http/1.1"])
    try:
        with _file(material.certificate) as certificate, _file(material.key) as key:
            made.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"the certificate cannot be served: {error}") from None
    if material.client_ca is not None:
        try:
            pki.check_ca(material.client_ca)
            made.load_verify_locations(cadata=material.client_ca.decode("ascii"))
        except (CertificateError, ssl.SSLError, UnicodeDecodeError) as error:
            raise CertificateError(f"the CA of the clients cannot be used: {error}") from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class Swappable(ssl.SSLContext):
    """A context that hands each new connection to the one swapped in last.

    asyncio and uvloop both ask a context for the TLS of a connection by :meth:`wrap_bio` alone.
    """

    _current: ssl.SSLContext | None = None

    def __new__(cls) -> Swappable:
        """One that has nothing to serve yet."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def swap(self, current: ssl.SSLContext) -> None:
        """Serve new connections by ``current``; may be called from any thread."""
        self._current = current

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """The TLS of a new connection.

        Raises:
            ssl.SSLError: there is no certificate yet.
        """
        if self._current is None:
            raise ssl.SSLError("there is no certificate yet")
        return self._current.wrap_bio(*args, **kwargs)


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path to ``content``, since OpenSSL reads certificates of files alone here.

    The user's own files may have changed since they were checked. On Linux it is in memory: a key is never written to a
    disk, and a read-only file system is none in the way.
    """
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("tls"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
