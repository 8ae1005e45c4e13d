"""TLS of TorchServe's ports: a certificate and its key in PEM, a PKCS12 keystore, or the box's own certificate."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from chatapi.auth import certificates
from chatapi.auth.certificates import Identity
from chatapi.errors import SettingsError
from chatapi.settings import Settings, TorchServeSettings


class PortEncryption:
    """What the encrypted ports present. Blocking."""

    def __init__(self, table: TorchServeSettings, settings: Settings) -> None:
        """`table`: the effective settings of the interface. Raises SettingsError."""
        self.context: ssl.SSLContext
        self._identity: Identity | None = None
        self._key = table.key
        if table.keystore is not None:
            if table.certificate is not None:
                raise SettingsError("torchserve.keystore and torchserve.certificate are both set; remove one of them")
            password = table.keystore_password
            pem = _opened(table.keystore, password.get_secret_value() if password is not None else "")
            self._pem = pem
            self.context = _context(table.keystore, pem)
            return
        if table.key is not None and table.certificate is None:
            raise SettingsError("torchserve.key is set without torchserve.certificate")
        if table.certificate is None and "grpc" in table.tls:
            # BoringSSL, which gRPC's clients use, verifies no authority that is limited to addresses.
            raise SettingsError("torchserve.tls has grpc, which needs torchserve.certificate or torchserve.keystore")
        # Those of the box's own server too: both present the same certificate.
        names = (settings.server.host, *settings.server.hosts, table.host)
        self._identity = Identity(settings.data, table.certificate, table.key, names)
        self.context = self._identity.context
        self._pem = self._read(self._identity)

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The key and the certificate with its chain, in PEM, for gRPC."""
        return self._pem

    def renew(self) -> bool:
        """Renew the box's certificate, or load changed files; a keystore is read at the start only. Returns whether
        anything changed. Raises SettingsError."""
        if self._identity is None or not self._identity.renew():
            return False
        self._pem = self._read(self._identity)
        return True

    def _read(self, identity: Identity) -> tuple[bytes, bytes]:
        chain = identity.file.read_bytes()
        return (chain if self._key is None else self._key.read_bytes()), chain


def _opened(keystore: Path, password: str) -> tuple[bytes, bytes]:
    """The key and the chain of a keystore, in PEM. Raises SettingsError."""
    try:
        key, certificate, more = pkcs12.load_key_and_certificates(keystore.read_bytes(), password.encode() or None)
    except OSError as error:
        raise SettingsError(f"torchserve.keystore {keystore} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(
            f"{keystore} is no PKCS12 keystore, or torchserve.keystore_password (keystore_pass) is wrong; `keytool "
            "-importkeystore -deststoretype PKCS12` converts another one"
        ) from error
    if key is None or certificate is None:
        raise SettingsError(f"{keystore} holds no key with its certificate")
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (certificate, *more))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), chain


def _context(keystore: Path, pem: tuple[bytes, bytes]) -> ssl.SSLContext:
    """The TLS context of a key and its chain; OpenSSL loads files only, so they are one in memory for a moment."""
    file = os.memfd_create("certificate")
    try:
        os.write(file, b"".join(pem))
        return certificates.context(Path(f"/proc/self/fd/{file}"))
    except SettingsError as error:
        raise SettingsError(f"{keystore} holds no key that fits its certificate") from error
    finally:
        os.close(file)
