"""`chatapi health`: tells whether the server of these settings is ready."""

from __future__ import annotations

import ssl
import sys
import time

import httpx

from chatapi.auth import local_key
from chatapi.errors import SettingsError
from chatapi.settings import ServerSettings, Settings

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
"""Address that a server listens on -> address at which it answers on this machine."""
POLL_SECONDS = 0.5
"""Time between two requests, in seconds."""
WAV = {"Content-Type": "audio/wav"}
TIMEOUT = 5.0
"""Longest time for a response, in seconds; a slower server is not healthy."""


def health(settings: Settings, wait: float = 0) -> int:
    """Status 0 when the server is ready within `wait` seconds; else 1, and one sentence on standard error."""
    until = time.monotonic() + wait
    while reason := _not_ready_reason(settings):
        if time.monotonic() + POLL_SECONDS > until:
            print(f"chatapi: {reason}", file=sys.stderr)
            return 1
        time.sleep(POLL_SECONDS)
    return 0


def request(
    settings: Settings, path: str, method: str = "GET", body: object = None, seconds: float = TIMEOUT
) -> httpx.Response:
    """The server's response. Raises httpx.TransportError when there is no server or no response in time, SettingsError.

    `body`: a WAV file, or a document that is sent as JSON. The API key is sent only to this machine's server: over TLS
    it must present the certificate of these settings.
    """
    table = settings.server
    trusted = _trusted(settings) if table.tls else False
    # A proxy for outgoing requests must not see requests to this machine.
    timeout = httpx.Timeout(TIMEOUT, read=seconds)
    with httpx.Client(verify=trusted, timeout=timeout, trust_env=False, headers=_key(settings)) as client:
        if isinstance(body, bytes):
            return client.request(method, _address(table) + path, content=body, headers=WAV)
        return client.request(method, _address(table) + path, json=body)


def _key(settings: Settings) -> dict[bytes, bytes]:
    """A header with the settings' API key, else with the key that the server provides for local commands."""
    table = settings.server
    key = table.api_key.get_secret_value() if table.api_key is not None else local_key(settings.data, table.port)
    # As bytes, because a key may contain characters outside ASCII.
    return {b"Authorization": f"Bearer {key}".encode()} if key is not None else {}


def _address(table: ServerSettings) -> str:
    host = LOOPBACK.get(table.host, table.host)
    return f"{'https' if table.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{table.port}"


def _not_ready_reason(settings: Settings) -> str:
    """Why the server is not ready; empty: it is ready."""
    address = _address(settings.server)
    try:
        response = request(settings, "/ready")
    except httpx.TransportError as error:
        return f"nothing answers at {address}: {str(error) or type(error).__name__}; is chatapi serving there?"
    if response.status_code == httpx.codes.OK:
        return ""
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"{address} rejects the key; set server.api_key, or data, to the server's"
    return f"{address} is not ready: {detail(response)}"


def detail(response: httpx.Response) -> str:
    """What the server's error says."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {response.status_code}"


def _trusted(settings: Settings) -> ssl.SSLContext:
    """A context that trusts the server's certificate with any name: the address is this machine's."""
    from chatapi.auth.certificate_authority import CertificateKeeper

    table = settings.server
    file = table.certificate or CertificateKeeper(settings.data).authority
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:
        raise SettingsError(f"the certificate {file} cannot be read: {error}; is the server running?") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
