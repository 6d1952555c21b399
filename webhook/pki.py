"""Certificates for serving: made and checked, bytes in and bytes out (PEM)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from webhook.errors import CertificateError, NotYetValid

# A clock that is behind ours, by up to this, takes the certificate all the same.
BACKDATED = timedelta(hours=1)
# What is in a certificate is decoded when it is asked for, so only then does it show that it is damaged.
_DAMAGED = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
# Hexadecimal digits, 64 bits: no two certificates of one Secret ever have the same.
_FINGERPRINT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, both PEM; the key is unencrypted PKCS #8."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when to when a certificate is valid (UTC)."""

    not_before: datetime
    not_after: datetime


def create_ca(*, now: datetime, lifetime: timedelta, name: str = "driftwall CA") -> KeyPair:
    """A CA that signs leaf certificates alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), now - BACKDATED, now + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return KeyPair(certificate=_pem(builder.sign(key, hashes.SHA256())), key=_key_pem(key))


def create_serving(ca: KeyPair, hosts: Sequence[str], *, now: datetime, lifetime: timedelta) -> KeyPair:
    """A serving certificate for ``hosts`` (DNS names and IP addresses), signed by ``ca``; it does not outlive ``ca``.

    Raises:
        CertificateError: there is no host, or one is neither a DNS name nor an IP address.
    """
    if not hosts:
        raise CertificateError("a serving certificate needs at least one host")
    authority = x509.load_pem_x509_certificate(ca.certificate)
    authority_key = _load_key(ca.key, "the key of the CA")
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the key of the CA is not an ECDSA key")
    key = ec.generate_private_key(ec.SECP256R1())
    not_before = max(now - BACKDATED, authority.not_valid_before_utc)
    not_after = min(now + lifetime, authority.not_valid_after_utc)
    builder = _builder(_name("driftwall"), authority.subject, key.public_key(), not_before, not_after)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(sign_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        # Clients look here alone for the host; the subject is for people.
        (x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return KeyPair(certificate=_pem(builder.sign(authority_key, hashes.SHA256())), key=_key_pem(key))


def check(certificate: bytes, key: bytes, *, now: datetime) -> Validity:
    """Check that the first certificate of a chain can be served with ``key`` at ``now``.

    Raises:
        CertificateError: it cannot be read, ``key`` belongs to another, it is not valid at ``now``, it names no host in
            its subject alternative name, or it is not for servers.
    """
    leaf = _load_certificates(certificate, "the certificate")[0]
    private = _load_key(key, "the key")
    if _public(private.public_key()) != _public_of(leaf, "the certificate"):
        raise CertificateError("the certificate and the key do not belong together")
    validity = _valid(leaf, "the certificate", now)
    _check_extensions(leaf)
    return validity


def validity(certificate: bytes, *, now: datetime) -> Validity:
    """From when to when the first certificate of a chain is valid; its key is not looked at.

    Raises:
        CertificateError: it cannot be read, or is not valid at ``now``.
    """
    return _valid(_load_certificates(certificate, "the certificate")[0], "the certificate", now)


def check_authority(ca: KeyPair, *, now: datetime) -> Validity:
    """Check that ``ca`` can sign certificates at ``now``.

    Raises:
        CertificateError: it cannot be read, its key belongs to another, it is not valid at ``now``, or it is no CA.
    """
    certificate = _load_certificates(ca.certificate, "the CA")[0]
    if _public(_load_key(ca.key, "the key of the CA").public_key()) != _public_of(certificate, "the CA"):
        raise CertificateError("the CA and its key do not belong together")
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *_DAMAGED):
        authority = False
    if not authority:
        raise CertificateError("the CA is a certificate that may sign no others")
    return _valid(certificate, "the CA", now)


def issued_by(certificate: bytes, authorities: bytes) -> bool:
    """Whether one of ``authorities`` signed the first certificate of a chain. What cannot be read signed nothing."""
    try:
        leaf = _load_certificates(certificate, "the certificate")[0]
        candidates = _load_certificates(authorities, "the CA")
    except CertificateError:
        return False
    for candidate in candidates:
        try:
            leaf.verify_directly_issued_by(candidate)
        except (*_DAMAGED, TypeError, InvalidSignature):
            continue
        return True
    return False


def names(certificate: bytes) -> frozenset[str]:
    """The hosts that the first certificate of a chain is for.

    Raises:
        CertificateError: it cannot be read.
    """
    leaf = _load_certificates(certificate, "the certificate")[0]
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_DAMAGED):
        return frozenset()
    addresses = found.get_values_for_type(x509.IPAddress)
    return frozenset([*found.get_values_for_type(x509.DNSName), *map(str, addresses)])


def bundle(parts: Iterable[bytes], *, now: datetime) -> bytes:
    """The certificates of all ``parts`` that can be read and have not expired, each once, in the order given (PEM)."""
    found: dict[bytes, None] = {}
    for part in parts:
        try:
            certificates = _load_certificates(part, "the CA")
        except CertificateError:
            continue
        found.update(
            (_pem(certificate), None) for certificate in certificates if now <= certificate.not_valid_after_utc
        )
    return b"".join(found)


def fingerprint(certificate: bytes) -> str:
    """What tells one certificate from another, for people too: the start of the SHA-256 of the first one in a chain.

    Raises:
        CertificateError: it cannot be read.
    """
    leaf = _load_certificates(certificate, "the certificate")[0]
    return leaf.fingerprint(hashes.SHA256()).hex()[:_FINGERPRINT]


def check_ca(certificates: bytes) -> int:
    """How many CA certificates are in ``certificates`` (PEM).

    Raises:
        CertificateError: there is none, or one cannot be read.
    """
    return len(_load_certificates(certificates, "the CA file"))


def _valid(certificate: x509.Certificate, what: str, now: datetime) -> Validity:
    validity = Validity(not_before=certificate.not_valid_before_utc, not_after=certificate.not_valid_after_utc)
    if now < validity.not_before:
        raise NotYetValid(f"{what} is not valid before {validity.not_before:%Y-%m-%d %H:%M:%S} UTC")
    if now > validity.not_after:
        raise CertificateError(f"{what} expired at {validity.not_after:%Y-%m-%d %H:%M:%S} UTC")
    return validity


def _check_extensions(leaf: x509.Certificate) -> None:
    try:
        extensions = leaf.extensions
    except _DAMAGED as error:
        raise CertificateError(f"the certificate's extensions cannot be read: {error}") from None
    try:
        extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        # The API server is a Go client, and Go ignores the common name since 1.15.
        raise CertificateError("the certificate has no subject alternative name, which the API server needs") from None
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        raise CertificateError("the certificate's extended key usage does not include serverAuth")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=not_before,
        not_valid_after=not_after,
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # 253: the longest DNS name (RFC 1035). Other than ASCII has to come in its IDNA form.
    labels = host.removeprefix("*.").split(".")
    allowed = all(label and label.replace("-", "").replace("_", "").isalnum() for label in labels)
    if not (host.isascii() and len(host) <= 253 and allowed):
        raise CertificateError(f"{host!r} is neither a DNS name nor an IP address")
    return x509.DNSName(host)


def _load_certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError(f"{what} holds no certificate in PEM form, or a damaged one") from None


def _load_key(pem: bytes, what: str) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError(f"{what} is encrypted; driftwall reads unencrypted keys alone") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{what} is no private key in PEM form, or a damaged one") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public_of(certificate: x509.Certificate, what: str) -> bytes:
    try:
        return _public(certificate.public_key())
    except _DAMAGED as error:
        raise CertificateError(f"the public key of {what} cannot be read: {error}") from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
