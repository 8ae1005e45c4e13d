"""The certificate that a server presents: the box's own, or one from the owner's files."""

from __future__ import annotations

import hashlib
import logging
import shutil
import ssl
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from chatapi.auth.certificate_authority import DAMAGED, CertificateKeeper
from chatapi.errors import SettingsError

log = logging.getLogger(__name__)


def fingerprint(der: bytes) -> str:
    """SHA-256 fingerprint of a certificate, as browsers show it: `AB:CD:...`."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())


def public_key_hash(der: bytes) -> str:
    """SHA-256 of a certificate's public key, in hex. Raises ValueError when `der` is not a certificate."""
    public = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """A server's TLS context from PEM files. Raises SettingsError naming the file."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    server.set_alpn_protocols(["http/1.1"])
    load_into(server, certificate, key)
    return server


def load_into(server: ssl.SSLContext, certificate: Path, key: Path | None = None) -> None:
    """Use these files from the next connection on. Raises SettingsError naming the file."""
    try:
        # OpenSSL does not say which file it cannot read.
        for path in filter(None, (certificate, key)):
            path.read_bytes()
        # An empty password makes an encrypted key fail; without one OpenSSL would ask on the terminal.
        server.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"{certificate} and {key or certificate} are not a certificate and its unencrypted key, both in PEM"
        ) from error
    except OSError as error:
        raise SettingsError(f"{error.filename or certificate} cannot be read: {error.strerror}") from error


def first_certificate(file: Path) -> bytes:
    """The first certificate of a PEM file, as DER. Raises SettingsError."""
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
        return chain[0].public_bytes(serialization.Encoding.DER)
    except (OSError, *DAMAGED) as error:
        raise SettingsError(f"{file} holds no certificate in PEM") from error


class Identity:
    """The certificate and key that a server presents: the owner's files, or the box's own. Blocking."""

    def __init__(self, data: Path, own: Path | None, key: Path | None, more: Sequence[str] = ()) -> None:
        """`own`: the owner's certificate, or None. `more`: names beside the machine's own. Raises SettingsError."""
        self.keeper = self._box_certificate(data, more) if own is None else None
        self.file, self._key = (self.keeper.file, None) if self.keeper is not None else (own or data, key)
        self.context = context(self.file, self._key)
        self._loaded = self._modification_times()

    def _box_certificate(self, data: Path, more: Sequence[str]) -> CertificateKeeper:
        """The box's own certificate. If it cannot be stored in `data`, the old one is used, or one in a temporary
        folder. Raises SettingsError if there is none either."""
        keeper = CertificateKeeper(data, more)
        try:
            keeper.refresh()
            return keeper
        except SettingsError as error:
            message = error.message
        with suppress(SettingsError):
            context(keeper.file)
            log.warning("%s; the previous certificate is used", message)
            return keeper
        try:
            folder = tempfile.mkdtemp(prefix="chatapi-")
        except OSError:
            raise SettingsError(message) from None
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        keeper = CertificateKeeper(Path(folder), more)
        keeper.refresh()
        log.warning("%s; a temporary certificate is used until the restart, and devices will not trust it", message)
        return keeper

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the certificate. Raises SettingsError."""
        return fingerprint(first_certificate(self.file))

    def renew(self) -> bool:
        """Renew the box's certificate, or load the owner's changed files. Returns whether anything changed. Raises
        SettingsError."""
        if self.keeper is not None:
            self.keeper.refresh()
        if (times := self._modification_times()) == self._loaded:
            return False
        # Check the pair first: a context with a certificate and the key of another one cannot complete a handshake.
        context(self.file, self._key)
        load_into(self.context, self.file, self._key)
        self._loaded = times
        return True

    def _modification_times(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self.file, self._key) if path is not None)
        except OSError as error:
            raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from error
