"""The box's own certificate authority: it issues the server's certificate and renews both before they expire.

No public authority signs names of a home network, so the box has a small authority of its own, which signs the server's
certificate. A self-signed server certificate would be simpler, but phones need an authority:

- a device that trusts the authority once never asks again, neither after a renewal nor at a new address; a user who
  clicks through a browser's warning is asked again for every new certificate;
- iOS and Android let users trust only an authority, and Safari on iOS opens no WebSocket to an untrusted server, even
  after the user accepted the warning;
- the authority's critical name constraints limit it to the box's names and to private addresses, so a thief of its key
  cannot impersonate a bank to the devices that trust it.

The server's key stays the same when its certificate is renewed: `talk --server` identifies the box by it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chatapi.auth.certificate_names import PRIVATE, Address, CertificateNames, is_private, names
from chatapi.errors import SettingsError
from chatapi.storage.atomic_files import sync
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

log = logging.getLogger(__name__)

DAYS = 397
"""Lifetime of a server certificate, in days: the longest that browsers accept."""
BACKDATED = timedelta(days=1)
"""A server certificate starts this long ago, so that a phone whose clock is behind accepts it."""
AUTHORITY_BACKDATED = timedelta(days=365)
"""The authority's certificate starts this long ago, so that it is valid even if the box's clock was months ahead."""
RENEW = timedelta(days=30)
"""A server certificate is renewed when less time than this remains."""
AUTHORITY_DAYS = 3650
"""Lifetime of the authority's certificate, in days."""
EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""A clock that shows an earlier time was never set: boards without a battery start in 1970 or so."""
DAMAGED = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound)
"""Errors that reading a damaged certificate or key raises."""


class CertificateKeeper:
    """The certificates in a data directory. Blocking; every call leaves complete files."""

    def __init__(self, data: Path, more: Sequence[str] = ()) -> None:
        """`more`: names beside the machine's own."""
        layout = DataDirectory(data)
        self.authority = layout.authority_certificate
        """The authority's certificate, in PEM, for devices that shall trust it."""
        self.file = layout.server_certificate
        """The server's certificate, the authority's, and the server's key, in PEM."""
        self._secret = layout.authority
        self._more = more

    def refresh(self, now: datetime | None = None) -> bool:
        """Create or renew the certificates as needed. Returns whether anything changed. Raises SettingsError when they
        cannot be stored."""
        now, wanted = now or datetime.now(timezone.utc), names(self._more)
        try:
            private_files.folder(self.file.parent.parent)
            private_files.folder(self.file.parent)
            authority = self._read(self._secret)
            if authority is None or not _can_sign(authority[0], wanted, now):
                authority = None
            server = self._read(self.file)
            if authority is not None and server is not None and _is_valid(server[0], authority[0], wanted, now):
                return False
            authority = authority or self._create_authority(wanted, now)
            key = server[1] if server is not None else ec.generate_private_key(ec.SECP256R1())
            self._issue(authority, key, wanted, now)
        except OSError as error:
            raise SettingsError(f"no certificate can be stored in {self.file.parent}: {error.strerror}") from error
        return True

    def _read(self, path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
        """The certificate and key of a file; None if it is missing or damaged."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            log.warning(
                "%s is a folder: renamed to %s, a new file is created", path, private_files.move_aside(path).name
            )
            return None
        try:
            certificate = x509.load_pem_x509_certificates(text)[0]
            key = serialization.load_pem_private_key(text, None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                return certificate, key
        except DAMAGED:
            pass
        log.warning("%s is damaged, a new file is created", path)
        return None

    def _create_authority(
        self, wanted: CertificateNames, now: datetime
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        # The name includes part of the key's hash: two boxes with one host name are two authorities.
        mark = hashlib.sha256(_spki(key)).hexdigest()[:8]
        name = _common_name(f"chatapi on {socket.gethostname()[:32]}, {mark}")
        allowed = [x509.DNSName(each) for each in sorted(wanted.dns)]
        networks = {*PRIVATE, *(ipaddress.ip_network(a) for a in wanted.addresses if not is_private(str(a)))}
        constraints = x509.NameConstraints(
            [*allowed, *(x509.IPAddress(net) for net in sorted(networks, key=str))], None
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(name, name, key, now, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True).add_extension(constraints, critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        _write(self._secret, _pem(certificate) + _pem_key(key))
        return certificate, key

    def _issue(
        self,
        authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
        key: ec.EllipticCurvePrivateKey,
        wanted: CertificateNames,
        now: datetime,
    ) -> None:
        issuer, signing = authority
        builder = _builder(_common_name(f"chatapi on {socket.gethostname()[:32]}"), issuer.subject, key, now, DAYS)
        alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in sorted(wanted.dns)]
        alternatives += [x509.IPAddress(each) for each in sorted(wanted.addresses, key=str)]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        certificate = (
            builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .sign(signing, hashes.SHA256())
        )
        _write(self.authority, _pem(issuer), 0o644)
        _write(self.file, _pem(certificate) + _pem(issuer) + _pem_key(key))


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    # With a clock that was never set the certificate would have expired for everybody whose clock is right.
    back = AUTHORITY_BACKDATED if days == AUTHORITY_DAYS else BACKDATED
    start = max(now - back, EARLIEST - BACKDATED)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _is_valid(
    certificate: x509.Certificate, authority: x509.Certificate, wanted: CertificateNames, now: datetime
) -> bool:
    """Whether the server can present the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except DAMAGED:
        return False
    dns = frozenset(alternatives.get_values_for_type(x509.DNSName))
    addresses: frozenset[Address] = frozenset(
        each for each in alternatives.get_values_for_type(x509.IPAddress) if isinstance(each, Address)
    )
    # A start in the future means that the clock was ahead, or is behind now: a new certificate works in both cases.
    started = now < EARLIEST or certificate.not_valid_before_utc <= now
    return started and wanted <= CertificateNames(dns, addresses) and _has_time_left(certificate, RENEW, now)


def _can_sign(authority: x509.Certificate, wanted: CertificateNames, now: datetime) -> bool:
    """Whether the authority is valid long enough and may sign every name."""
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return False
    allowed = constraints.permitted_subtrees or []
    dns = {each.value for each in allowed if isinstance(each, x509.DNSName)}
    nets = [each.value for each in allowed if isinstance(each, x509.IPAddress)]
    covered = all(any(a in net for net in nets if not isinstance(net, Address)) for a in wanted.addresses)
    return covered and wanted.dns <= dns and _has_time_left(authority, timedelta(days=DAYS), now)


def _has_time_left(certificate: x509.Certificate, left: timedelta, now: datetime) -> bool:
    """Whether at least `left` remains. A start in the future is accepted: the box's clock may be behind.

    A start further ahead than the lifetime of a certificate means that it was made with a wrong clock, unless the clock
    was never set now.
    """
    ahead = certificate.not_valid_before_utc - now
    return now + left < certificate.not_valid_after_utc and (now < EARLIEST or ahead < timedelta(days=DAYS))


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def _write(path: Path, text: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically; the draft is never readable by others."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)
