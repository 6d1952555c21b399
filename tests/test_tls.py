from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.serving import HOSTS
from webhook import pki, tls
from webhook.errors import CertificateError
from webhook.tls import Material, Swappable

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
CA = pki.create_ca(now=NOW, lifetime=DAY)


def material(**changes: bytes) -> Material:
    pair = pki.create_serving(CA, HOSTS, now=NOW, lifetime=DAY)
    return Material(**{"certificate": pair.certificate, "key": pair.key, **changes})


def with_rsa() -> Material:
    """One that names itself, with a key of another type."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = serialization.Encoding.PEM
    return Material(
        certificate=builder.sign(key, hashes.SHA256()).public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def client(*authorities: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b"".join(authorities or (CA.certificate,)).decode())


def shown(caller: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """The caller's side of a connection, after the handshake and what the server says at once."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    callee = server.wrap_bio(to_server, to_client, server_side=True)
    calling = caller.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    for _ in range(4):
        for side in (calling, callee):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    callee.write(b"x")
    assert calling.read() == b"x"
    return calling


def fingerprint(side: ssl.SSLObject) -> str:
    certificate = side.getpeercert(binary_form=True)
    assert certificate is not None
    return pki.fingerprint(ssl.DER_cert_to_PEM_cert(certificate).encode())


def test_before_the_first_certificate_there_is_no_handshake() -> None:
    with pytest.raises(ssl.SSLError, match="there is no certificate yet"):
        Swappable().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


def test_the_certificate_that_was_swapped_in_last_is_served_whatever_its_key_is() -> None:
    server = Swappable()
    old = with_rsa()
    both = client(CA.certificate, old.certificate)
    for one in (old, material(), old, material()):
        server.swap(tls.context(one))
        assert fingerprint(shown(both, server)) == pki.fingerprint(one.certificate)


def test_a_session_from_before_a_swap_is_no_way_around_the_new_certificate() -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        caller, server = client(), Swappable()
        caller.minimum_version = caller.maximum_version = version
        server.swap(tls.context(material()))
        session = shown(caller, server).session
        assert shown(caller, server, session).session_reused
        new = material()
        server.swap(tls.context(new))
        again = shown(caller, server, session)
        assert not again.session_reused
        assert fingerprint(again) == pki.fingerprint(new.certificate)


def test_a_handshake_that_has_begun_goes_on_with_what_it_began_with() -> None:
    server = Swappable()
    old = material()
    server.swap(tls.context(old))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    callee = server.wrap_bio(to_server, to_client, server_side=True)
    calling = client().wrap_bio(to_client, to_server, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        calling.do_handshake()
    server.swap(tls.context(material()))
    for side in (callee, calling, callee):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert fingerprint(calling) == pki.fingerprint(old.certificate)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key": CA.key}, "the certificate cannot be served: ["),
        ({"certificate": b""}, "the certificate cannot be served: [SSL]"),
        ({"client_ca": b"x"}, "the CA of the clients cannot be used: the CA file holds no certificate in PEM form"),
    ],
)
def test_what_openssl_does_not_take_is_an_error_without_the_key(changes: dict[str, bytes], problem: str) -> None:
    wrong = material(**changes)
    with pytest.raises(CertificateError) as raised:
        tls.context(wrong)
    assert str(raised.value).startswith(problem)
    assert "PRIVATE KEY" not in repr(wrong)
    assert "PRIVATE KEY" not in str(raised.value)
