from __future__ import annotations

import ipaddress
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from webhook import pki
from webhook.errors import CertificateError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CA = pki.create_ca(now=NOW, lifetime=30 * DAY)
SERVING = pki.create_serving(CA, ["localhost", "127.0.0.1", "::1"], now=NOW, lifetime=10 * DAY)


def problem(certificate: bytes, key: bytes, now: datetime = NOW) -> str:
    with pytest.raises(CertificateError) as raised:
        pki.check(certificate, key, now=now)
    return str(raised.value)


def signed(*extensions: x509.ExtensionType) -> pki.KeyPair:
    """A certificate with these extensions alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + DAY)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return pki.KeyPair(
        certificate=builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_verifier_takes_the_certificate_for_each_of_its_hosts(host: str) -> None:
    store = Store([x509.load_pem_x509_certificate(CA.certificate)])
    subject: x509.GeneralName
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
    chain = verifier.verify(x509.load_pem_x509_certificate(SERVING.certificate), [])
    assert len(chain) == 2


def test_openssl_takes_the_certificate_in_its_strict_mode(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(CA.certificate)
    (tmp_path / "tls.crt").write_bytes(SERVING.certificate)
    openssl = shutil.which("openssl")
    assert openssl, "this test needs Debian's openssl"
    at = str(int(NOW.timestamp()))
    command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-attime", at, "-CAfile", "ca.crt"]
    done = subprocess.run([*command, "tls.crt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "tls.crt: OK\n"


def test_the_ca_may_sign_leaves_and_nothing_else() -> None:
    ca = x509.load_pem_x509_certificate(CA.certificate)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)


def test_the_serving_certificate_may_serve_and_nothing_else() -> None:
    leaf = x509.load_pem_x509_certificate(SERVING.certificate).extensions
    assert leaf.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    assert list(leaf.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_certificate_is_valid_from_an_hour_back_and_does_not_outlive_its_ca() -> None:
    assert pki.check(SERVING.certificate, SERVING.key, now=NOW) == pki.Validity(
        not_before=NOW - timedelta(hours=1), not_after=NOW + 10 * DAY
    )
    long = pki.create_serving(CA, ["localhost"], now=NOW, lifetime=99 * DAY)
    assert pki.check(long.certificate, long.key, now=NOW).not_after == NOW + 30 * DAY


def test_a_chain_is_judged_by_its_first_certificate() -> None:
    assert pki.check(SERVING.certificate + CA.certificate, SERVING.key, now=NOW).not_after == NOW + 10 * DAY
    assert problem(CA.certificate + SERVING.certificate, SERVING.key) == (
        "the certificate and the key do not belong together"
    )


def test_a_certificate_is_refused_before_and_after_its_time() -> None:
    early, late = NOW - DAY, NOW + 11 * DAY
    assert problem(SERVING.certificate, SERVING.key, early) == (
        "the certificate is not valid before 2026-03-01 11:00:00 UTC"
    )
    assert problem(SERVING.certificate, SERVING.key, late) == "the certificate expired at 2026-03-11 12:00:00 UTC"


def test_the_key_of_another_certificate_is_refused() -> None:
    assert problem(SERVING.certificate, CA.key) == "the certificate and the key do not belong together"


# Of themselves, the keys would be in the names, others in every process.
NAMES = ("nothing", "nonsense", "the other one", "cut off")


@pytest.mark.parametrize("pem", [b"", b"nonsense", SERVING.key, SERVING.certificate[:200]], ids=NAMES)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    assert problem(pem, SERVING.key) == "the certificate holds no certificate in PEM form, or a damaged one"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030100")),  # the name of the curve
        (bytes.fromhex("03420004"), bytes.fromhex("03420005")),  # the form of the point on it
    ],
    ids=["a curve that nobody knows", "no point of the curve"],
)
def test_a_certificate_whose_public_key_is_damaged_is_refused(good: bytes, bad: bytes) -> None:
    whole = ssl.PEM_cert_to_DER_cert(SERVING.certificate.decode())
    assert good in whole
    damaged = ssl.DER_cert_to_PEM_cert(whole.replace(good, bad, 1)).encode()
    assert problem(damaged, SERVING.key).startswith("the public key of the certificate cannot be read: ")
    assert pki.names(damaged) == {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize("pem", [b"", b"nonsense", SERVING.certificate, SERVING.key[:100]], ids=NAMES)
def test_what_is_no_key_is_refused(pem: bytes) -> None:
    assert problem(SERVING.certificate, pem) == "the key is no private key in PEM form, or a damaged one"


def test_an_encrypted_key_is_refused() -> None:
    key = serialization.load_pem_private_key(SERVING.key, password=None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    assert problem(SERVING.certificate, encrypted) == ("the key is encrypted; driftwall reads unencrypted keys alone")


def test_a_certificate_that_names_its_host_in_the_common_name_alone_is_refused() -> None:
    pair = signed()
    assert problem(pair.certificate, pair.key) == (
        "the certificate has no subject alternative name, which the API server needs"
    )


def test_a_certificate_for_clients_is_refused() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    pair = signed(names, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
    assert problem(pair.certificate, pair.key) == ("the certificate's extended key usage does not include serverAuth")
    unrestricted = signed(names)
    assert pki.check(unrestricted.certificate, unrestricted.key, now=NOW).not_after == NOW + DAY


@pytest.mark.parametrize("host", ["", "a b", "https://x", "x:8443", "bücher.example", "a..b", "1.2.3.4/24", "x" * 254])
def test_what_is_no_host_gets_no_certificate(host: str) -> None:
    with pytest.raises(CertificateError) as raised:
        pki.create_serving(CA, [host], now=NOW, lifetime=DAY)
    assert str(raised.value) == f"{host!r} is neither a DNS name nor an IP address"


def test_a_certificate_needs_a_host() -> None:
    with pytest.raises(CertificateError, match=r"^a serving certificate needs at least one host$"):
        pki.create_serving(CA, [], now=NOW, lifetime=DAY)


def test_the_certificates_of_a_ca_file_are_counted() -> None:
    assert pki.check_ca(CA.certificate * 2) == 2
    with pytest.raises(CertificateError, match=r"^the CA file holds no certificate in PEM form, or a damaged one$"):
        pki.check_ca(b"")
