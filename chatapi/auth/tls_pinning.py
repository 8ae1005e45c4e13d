"""TLS certificate pinning: trusts a server whose certificate is publicly trusted, or was accepted before.

A box signs its own certificate (`chatapi.auth.certificates`), so it is accepted once, by its fingerprint. The public
key is stored, which stays the same when the certificate is renewed. A server with another key is rejected before
anything is sent to it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from pathlib import Path

from chatapi.errors import Forbidden, StorageError, Unprocessable, WaitAndRetry
from chatapi.storage.layout import DataDirectory

SECONDS = 10.0
"""Longest time for a connection and its handshake, in seconds."""
NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not export: a box's clock may never have been set."""
DIGITS = re.compile(r"[0-9a-fA-F]{64}")


def file_of(data: Path) -> Path:
    """Path of the file of accepted servers."""
    return DataDirectory(data).accepted_servers


def secured(host: str, port: int, data: Path, accept: str | None = None) -> ssl.SSLContext:
    """The TLS context to connect to a server with. Blocking; it makes one or two handshakes.

    `accept`: SHA-256 fingerprint of a certificate to accept from now on. Raises Forbidden (unknown_certificate) with
    the fingerprint of the server's certificate, WaitAndRetry (unreachable), Unprocessable, StorageError."""
    # Imported here, because only TLS needs it.
    from chatapi.auth.certificates import fingerprint, public_key_hash

    wanted = None if accept is None else _digits(accept)
    place = f"{host}:{port}"
    der = _server_certificate(host, port)
    found, known = fingerprint(der), _accepted(data)
    if wanted is not None:
        if _digits(found) != wanted:
            raise _unknown(f"{place} presents another certificate: its SHA-256 fingerprint is {found}")
        if known.get(place) != public_key_hash(der):
            _store(data, {**known, place: public_key_hash(der)})
        return _only(der)
    if known.get(place) == public_key_hash(der):
        return _only(der)
    default = ssl.create_default_context()
    try:
        _handshake(default, host, port)
    except ssl.SSLCertVerificationError as error:
        problem = "presents another key than before" if place in known else "presents a certificate that is not trusted"
        raise _unknown(
            f"{place} {problem}; if the server prints its SHA-256 fingerprint {found} when it starts, accept it with "
            f"--fingerprint {found}"
        ) from error
    return default


def _only(der: bytes) -> ssl.SSLContext:
    """A context that trusts only this certificate, with any name and validity period."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=der)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def _server_certificate(host: str, port: int) -> bytes:
    """The server's certificate, as DER; nothing is sent after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return _handshake(context, host, port)
    except ssl.SSLError as error:
        raise WaitAndRetry(f"{host}:{port} does not speak TLS; is its address http://?", code="no_tls") from error


def _handshake(context: ssl.SSLContext, host: str, port: int) -> bytes:
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLError:
        raise
    except OSError as error:
        raise unreachable(host, port, error) from error


def unreachable(host: str, port: int, error: OSError) -> WaitAndRetry:
    """The error for a server that cannot be connected to."""
    if isinstance(error, socket.gaierror):
        message = f"there is no host {host!r}; check its name and the network"
        return WaitAndRetry(message, code="no_host")
    # asyncio's text names the failed call, and it has no error number when it tried several addresses.
    reason = os.strerror(error.errno).lower() if error.errno else "no answer"
    return WaitAndRetry(f"{host}:{port} cannot be reached: {reason}; is the server running?", code="unreachable")


def _digits(text: str) -> str:
    """The hexadecimal digits of a fingerprint. Raises Unprocessable for any other text."""
    plain = text.replace(":", "").replace(" ", "").lower()
    if not DIGITS.fullmatch(plain):
        raise Unprocessable(f"{text!r} is not a SHA-256 fingerprint (64 hexadecimal digits: AB:CD:...)")
    return plain


def _unknown(message: str) -> Forbidden:
    return Forbidden(message, code="unknown_certificate")


def _accepted(data: Path) -> dict[str, str]:
    """HOST:PORT -> SHA-256 of the accepted public key; empty when the file cannot be read."""
    try:
        document = json.loads(file_of(data).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _store(data: Path, known: dict[str, str]) -> None:
    path = file_of(data)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}, the file of accepted servers, cannot be written: {error.strerror}") from error
