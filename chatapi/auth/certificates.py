"""The box's own certificate: made and kept in the data directory, and renewed before anybody has to ask for it.

Nobody vouches for a name on a home network, so that the box vouches for itself. It has a small authority of its own,
which signs the certificate that the server shows, instead of one certificate that signs itself, because of phones:

- a device that is told once to trust the authority asks never again, neither at a renewal nor at a new address;
  whoever instead clicks through a browser's warning is asked again by each new certificate;
- iOS and Android let only an authority be trusted, and Safari on iOS opens no WebSocket to a server that it does not
  trust, whatever was clicked;
- the authority is bound (critical name constraints) to the box's names and to private addresses, so that whoever
  stole its key could not pretend to be a bank towards those who trust it.

The server's key stays the same when its certificate is renewed: `talk --server` knows the box by it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
import shutil
import socket
import ssl
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chatapi.errors import SettingsError
from chatapi.storage.atomic_files import sync
from chatapi.system import private_files

log = logging.getLogger(__name__)

DAYS = 397
"""From the start to the end of a certificate, which is as long as browsers take one for."""
BACKDATED = timedelta(days=1)
"""Its start lies so far back that a phone whose clock is behind takes it as well."""
AUTHORITY_BACKDATED = timedelta(days=365)
"""The same of the authority, which devices trust: it is good also where the box's own clock was ahead by months."""
RENEW = timedelta(days=30)
"""It is made anew when less than this is left."""
AUTHORITY_DAYS = 3650
BEFORE_US = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""A clock that shows an earlier time was never set: boards without a battery start in 1970 or so."""
PRIVATE = tuple(
    ipaddress.ip_network(net)
    for net in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7")
)
"""Addresses that mean something else in every network; the authority may vouch for all of them."""
DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
DAMAGED = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound)
"""What reading a file of ours raises that is not what was written."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def fingerprint(der: bytes) -> str:
    """The SHA-256 of a certificate, as browsers show it: `AB:CD:...`."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())


def key_of(der: bytes) -> str:
    """The SHA-256 of a certificate's public key, in hex. Raises ValueError for what is no certificate."""
    public = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """What a server needs of these PEM files. Raises SettingsError naming the file."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load_into(made, certificate, key)
    return made


def load_into(made: ssl.SSLContext, certificate: Path, key: Path | None = None) -> None:
    """Use these files from the next connection on. Raises SettingsError naming the file."""
    try:
        # OpenSSL says of a file that it cannot read only that, and not which one.
        for path in filter(None, (certificate, key)):
            path.read_bytes()
        # With no password a key that is encrypted fails; OpenSSL would ask the terminal for one.
        made.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"{certificate} and {key or certificate} are no certificate and its unencrypted key, both in PEM"
        ) from error
    except OSError as error:
        raise SettingsError(f"{error.filename or certificate} cannot be read: {error.strerror}") from error


def shown(certificate: Path) -> bytes:
    """The first certificate of a PEM file, as DER. Raises SettingsError."""
    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())
        return found[0].public_bytes(serialization.Encoding.DER)
    except (OSError, *DAMAGED) as error:
        raise SettingsError(f"{certificate} holds no certificate in PEM") from error


@dataclass(frozen=True)
class CertificateNames:
    """What a certificate is valid for."""

    dns: frozenset[str]
    addresses: frozenset[Address]

    def __le__(self, other: CertificateNames) -> bool:
        return self.dns <= other.dns and self.addresses <= other.addresses


def names(more: Iterable[str] = ()) -> CertificateNames:
    """This machine's names and addresses, and those in `more` (`[::1]` means ::1; what is no name is left out).

    Global IPv6 addresses are not among them: nobody types one, and many change every day.
    """
    host = socket.gethostname().lower()
    wanted = {"localhost", "127.0.0.1", "::1", host, f"{host.partition('.')[0]}.local", *more}
    for found in psutil.net_if_addrs().values():
        for each in found:
            if each.family == socket.AF_INET or (each.family == socket.AF_INET6 and _is_private(each.address)):
                wanted.add(each.address)
    dns, addresses = set(), set()
    for name in wanted:
        if (address := _address(name)) is not None:
            addresses.add(address)
        elif DNS_NAME.fullmatch(name):
            dns.add(name.lower())
    # What stands for every address is none itself.
    return CertificateNames(frozenset(dns), frozenset(address for address in addresses if not address.is_unspecified))


def reachable() -> str:
    """An address at which others on the network find this machine; localhost where it has none."""
    found = [
        each.address for every in psutil.net_if_addrs().values() for each in every if each.family == socket.AF_INET
    ]
    return next((each for each in found if not each.startswith(("127.", "169.254."))), "localhost")


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_private(text: str) -> bool:
    address = _address(text)
    return address is not None and any(address in net for net in PRIVATE)


class Identity:
    """What a server shows: its owner's files, or those that are kept here. Blocking."""

    def __init__(self, data: Path, own: Path | None, key: Path | None, more: Sequence[str] = ()) -> None:
        """`own`: the owner's certificate, or None. Raises SettingsError."""
        self.keeper = self._kept(data, more) if own is None else None
        self.file, self._key = (self.keeper.file, None) if self.keeper is not None else (own or data, key)
        self.context = context(self.file, self._key)
        self._seen = self._stamps()

    def _kept(self, data: Path, more: Sequence[str]) -> CertificateKeeper:
        """A disk that takes nothing is no reason not to answer. Raises SettingsError where no other one does."""
        keeper = CertificateKeeper(data, more)
        try:
            keeper.refresh()
            return keeper
        except SettingsError as fault:
            told = fault.message
        with suppress(SettingsError):
            context(keeper.file)
            log.warning("%s; the one that was made before is used", told)
            return keeper
        try:
            spare = tempfile.mkdtemp(prefix="chatapi-")
        except OSError:
            raise SettingsError(told) from None
        weakref.finalize(self, shutil.rmtree, spare, ignore_errors=True)
        keeper = CertificateKeeper(Path(spare), more)
        keeper.refresh()
        log.warning("%s; one is used for this run alone, and devices will ask again about it", told)
        return keeper

    @property
    def fingerprint(self) -> str:
        """Raises SettingsError."""
        return fingerprint(shown(self.file))

    def renew(self) -> bool:
        """Renew what is kept here, take what the owner renewed; whether there was anything. Raises SettingsError."""
        if self.keeper is not None:
            self.keeper.refresh()
        if (stamps := self._stamps()) == self._seen:
            return False
        # Not before it is known to fit: a context that has half of a pair shows nothing at all.
        context(self.file, self._key)
        load_into(self.context, self.file, self._key)
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self.file, self._key) if path is not None)
        except OSError as error:
            raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from error


class CertificateKeeper:
    """The certificates in a data directory. Blocking; every call leaves files that are whole."""

    def __init__(self, data: Path, more: Sequence[str] = ()) -> None:
        """`more`: names beside the machine's own."""
        folder = data / "certificates"
        self.authority = folder / "authority.crt"
        """The authority's certificate alone, in PEM, for devices that are to trust it."""
        self.file = folder / "server.pem"
        """The server's certificate, the authority's, and the server's key, in PEM."""
        self._secret = folder / "authority.pem"
        self._more = more

    def refresh(self, now: datetime | None = None) -> bool:
        """Make or renew what has to be; whether anything was. Raises SettingsError when it cannot be kept."""
        now, wanted = now or datetime.now(timezone.utc), names(self._more)
        try:
            private_files.folder(self.file.parent.parent)
            private_files.folder(self.file.parent)
            authority = self._opened(self._secret)
            if authority is None or not _may_vouch(authority[0], wanted, now):
                authority = None
            server = self._opened(self.file)
            if authority is not None and server is not None and _is_good(server[0], authority[0], wanted, now):
                return False
            authority = authority or self._found_authority(wanted, now)
            key = server[1] if server is not None else ec.generate_private_key(ec.SECP256R1())
            self._issue(authority, key, wanted, now)
        except OSError as error:
            raise SettingsError(f"no certificate can be kept in {self.file.parent}: {error.strerror}") from error
        return True

    def _opened(self, path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
        """What was written there; None where there is nothing, or nothing of ours."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            log.warning("%s is a folder: it is now %s, and the file is made anew", path, private_files.aside(path).name)
            return None
        try:
            certificate = x509.load_pem_x509_certificates(text)[0]
            key = serialization.load_pem_private_key(text, None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                return certificate, key
        except DAMAGED:
            pass
        log.warning("%s is damaged and made anew", path)
        return None

    def _found_authority(
        self, wanted: CertificateNames, now: datetime
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        # With something of its key in the name: two boxes of one host name are two authorities.
        mark = hashlib.sha256(_spki(key)).hexdigest()[:8]
        name = _named(f"chatapi on {socket.gethostname()[:32]}, {mark}")
        allowed = [x509.DNSName(each) for each in sorted(wanted.dns)]
        networks = {*PRIVATE, *(ipaddress.ip_network(a) for a in wanted.addresses if not _is_private(str(a)))}
        constraints = x509.NameConstraints(
            [*allowed, *(x509.IPAddress(net) for net in sorted(networks, key=str))], None
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _begun(name, name, key, now, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True).add_extension(constraints, critical=True)
        made = builder.sign(key, hashes.SHA256())
        _write(self._secret, _pem(made) + _pem_key(key))
        return made, key

    def _issue(
        self,
        authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
        key: ec.EllipticCurvePrivateKey,
        wanted: CertificateNames,
        now: datetime,
    ) -> None:
        issuer, signing = authority
        builder = _begun(_named(f"chatapi on {socket.gethostname()[:32]}"), issuer.subject, key, now, DAYS)
        alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in sorted(wanted.dns)]
        alternatives += [x509.IPAddress(each) for each in sorted(wanted.addresses, key=str)]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        made = (
            builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .sign(signing, hashes.SHA256())
        )
        _write(self.authority, _pem(issuer), 0o644)
        _write(self.file, _pem(made) + _pem(issuer) + _pem_key(key))


def _begun(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    # A clock that was never set would make one that is over already for everybody whose clock is right.
    back = AUTHORITY_BACKDATED if days == AUTHORITY_DAYS else BACKDATED
    start = max(now - back, BEFORE_US - BACKDATED)
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


def _is_good(
    certificate: x509.Certificate, authority: x509.Certificate, wanted: CertificateNames, now: datetime
) -> bool:
    """Whether it can be shown."""
    try:
        certificate.verify_directly_issued_by(authority)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except DAMAGED:
        return False
    dns = frozenset(found.get_values_for_type(x509.DNSName))
    addresses: frozenset[Address] = frozenset(
        each for each in found.get_values_for_type(x509.IPAddress) if isinstance(each, Address)
    )
    # Made by a clock that was ahead, or ours is behind: another one from the same key serves in both cases.
    begun = now < BEFORE_US or certificate.not_valid_before_utc <= now
    return begun and wanted <= CertificateNames(dns, addresses) and _in_time(certificate, RENEW, now)


def _may_vouch(authority: x509.Certificate, wanted: CertificateNames, now: datetime) -> bool:
    """Whether it lives long enough and is allowed every name."""
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return False
    allowed = constraints.permitted_subtrees or []
    dns = {each.value for each in allowed if isinstance(each, x509.DNSName)}
    nets = [each.value for each in allowed if isinstance(each, x509.IPAddress)]
    covered = all(any(a in net for net in nets if not isinstance(net, Address)) for a in wanted.addresses)
    return covered and wanted.dns <= dns and _in_time(authority, timedelta(days=DAYS), now)


def _in_time(certificate: x509.Certificate, left: timedelta, now: datetime) -> bool:
    """Whether so much is left of it. One that is yet to begin may stay: our clock may be the one that is behind.

    One that begins further ahead than any lasts was made by a clock that was wrong, unless ours was never set.
    """
    ahead = certificate.not_valid_before_utc - now
    return now + left < certificate.not_valid_after_utc and (now < BEFORE_US or ahead < timedelta(days=DAYS))


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def _write(path: Path, text: bytes, mode: int = 0o600) -> None:
    """The old file or the new one, whatever happens; never readable by others on its way."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)
