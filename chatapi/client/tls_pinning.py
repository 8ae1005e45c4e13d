"""Whether the box at the other end is the one it should be: publicly vouched for, or accepted here before.

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

SECONDS = 10.0
"""For a connection and its handshake."""
NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name: a box's clock may never have been set."""
DIGITS = re.compile(r"[0-9a-fA-F]{64}")


def file_of(data: Path) -> Path:
    """Where accepted boxes are kept."""
    return data / "boxes.json"


def secured(host: str, port: int, data: Path, accept: str | None = None) -> ssl.SSLContext:
    """What to connect to this place with. Blocking; shakes hands there once or twice.

    `accept`: the SHA-256 fingerprint to accept from now on. Raises Forbidden (unknown_certificate) with the
    fingerprint that is shown, WaitAndRetry (unreachable), Unprocessable, StorageError.
    """
    # Imported here, because only TLS needs it.
    from chatapi.auth.certificates import fingerprint, public_key_hash

    wanted = None if accept is None else _digits(accept)
    place = f"{host}:{port}"
    der = _shown(host, port)
    found, known = fingerprint(der), _accepted(data)
    if wanted is not None:
        if _digits(found) != wanted:
            raise _unknown(f"{place} shows another certificate than that: its SHA-256 fingerprint is {found}")
        if known.get(place) != public_key_hash(der):
            _keep(data, {**known, place: public_key_hash(der)})
        return _only(der)
    if known.get(place) == public_key_hash(der):
        return _only(der)
    usual = ssl.create_default_context()
    try:
        _shake(usual, host, port)
    except ssl.SSLCertVerificationError as error:
        was = "shows another key than before" if place in known else "shows a certificate that nobody vouches for"
        raise _unknown(
            f"{place} {was}; if its SHA-256 fingerprint {found} is what the box itself prints at its start, accept it "
            f"with --fingerprint {found}"
        ) from error
    return usual


def _only(der: bytes) -> ssl.SSLContext:
    """Takes this one certificate, whatever it says about names and times."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=der)
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(NO_CHECK_TIME)
    return made


def _shown(host: str, port: int) -> bytes:
    """The certificate that is shown there, as DER; nothing is said there."""
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    try:
        return _shake(asking, host, port)
    except ssl.SSLError as error:
        raise WaitAndRetry(f"{host}:{port} does not speak TLS; is it http:// there?", code="no_tls") from error


def _shake(context: ssl.SSLContext, host: str, port: int) -> bytes:
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
    """What to say of a place to which there is no connection."""
    if isinstance(error, socket.gaierror):
        return WaitAndRetry(f"there is no host {host!r}; is its name right, and the network there?", code="no_host")
    # asyncio words it as a call that failed, and has no number where several addresses were tried.
    reason = os.strerror(error.errno).lower() if error.errno else "no answer"
    return WaitAndRetry(f"nobody can be reached at {host}:{port}: {reason}; does the box run?", code="unreachable")


def _digits(text: str) -> str:
    """Raises Unprocessable for what is no fingerprint."""
    plain = text.replace(":", "").replace(" ", "").lower()
    if not DIGITS.fullmatch(plain):
        raise Unprocessable(f"{text!r} is no SHA-256 fingerprint, which has 64 hexadecimal digits: AB:CD:...")
    return plain


def _unknown(message: str) -> Forbidden:
    return Forbidden(message, code="unknown_certificate")


def _accepted(data: Path) -> dict[str, str]:
    """Place -> the SHA-256 of its public key. What cannot be read was never accepted."""
    try:
        document = json.loads(file_of(data).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _keep(data: Path, known: dict[str, str]) -> None:
    path = file_of(data)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}, which keeps what is accepted, cannot be written: {error.strerror}") from error
