"""`chatapi health`: whether the server of these settings is ready."""

from __future__ import annotations

import ssl
import sys
import time

import httpx

from chatapi.auth import local_key
from chatapi.errors import SettingsError
from chatapi.settings import ServerSettings, Settings

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
"""What a server may listen on -> where it then answers."""
BETWEEN = 0.5
"""Seconds between two questions."""
PATIENCE = 5.0
"""Seconds that an answer may take; a server that takes longer is not well."""


def health(settings: Settings, wait: float = 0) -> int:
    """Status 0 when it is ready, at the latest `wait` seconds from now; else 1, and one sentence."""
    until = time.monotonic() + wait
    while fault := _fault(settings):
        if time.monotonic() + BETWEEN > until:
            print(f"chatapi: {fault}", file=sys.stderr)
            return 1
        time.sleep(BETWEEN)
    return 0


def asked(settings: Settings, path: str) -> httpx.Response:
    """What the server answers there. Raises httpx.TransportError where none does, SettingsError.

    The API key is sent to nobody but this machine's server: over TLS it must show the certificate of these settings.
    """
    table = settings.server
    trusted = _trusted(settings) if table.tls else False
    # A proxy that is set for the way out has no business on the way in.
    with httpx.Client(verify=trusted, timeout=PATIENCE, trust_env=False, headers=_key(settings)) as client:
        return client.get(_address(table) + path)


def _key(settings: Settings) -> dict[bytes, bytes]:
    """The settings' key, else the one that the server leaves for this machine's operator."""
    table = settings.server
    key = table.api_key.get_secret_value() if table.api_key is not None else local_key(settings.data, table.port)
    # As bytes, because a key may hold more than ASCII.
    return {b"Authorization": f"Bearer {key}".encode()} if key is not None else {}


def _address(table: ServerSettings) -> str:
    host = ANYWHERE.get(table.host, table.host)
    return f"{'https' if table.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{table.port}"


def _fault(settings: Settings) -> str:
    """Why it is not ready; empty when it is."""
    where = _address(settings.server)
    try:
        answer = asked(settings, "/ready")
    except httpx.TransportError as error:
        return f"nothing answers at {where}: {str(error) or type(error).__name__}; is chatapi serving there?"
    if answer.status_code == httpx.codes.OK:
        return ""
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"{where} refuses the key; set server.api_key, or data, to the server's"
    return f"{where} is not ready: {_detail(answer)}"


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {answer.status_code}"


def _trusted(settings: Settings) -> ssl.SSLContext:
    """Trusts the server's certificate itself, whatever names it holds: the address is this machine's."""
    from chatapi.auth.certificate_authority import CertificateKeeper

    table = settings.server
    file = table.certificate or CertificateKeeper(settings.data).authority
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:
        raise SettingsError(f"the certificate {file} cannot be read: {error}; does the server run yet?") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
