"""Webhooks: sends the state changes of jobs to another server, in order, until it accepts them.

The requests are those of Standard Webhooks 1.0 (github.com/standard-webhooks): the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature` (v1: HMAC-SHA256), so that receivers can use that project's libraries. Its
own library is not used: it signs, which is a line, and brings four packages.

A repetition has the same id (`outbox_sender`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial

import anyio
import anyio.to_thread
import httpx

from chatapi.errors import SettingsError
from chatapi.jobs.outbox import StateChange
from chatapi.jobs.outbox_sender import NotDelivered, OutboxSender
from chatapi.settings.tables import WebhookSettings
from chatapi.system.public_address import is_public
from chatapi.system.version import version

PREFIX = "whsec_"
"""Begins a secret."""
SECRET_BYTES = (24, 64)
"""Shortest and longest secret, in bytes."""
SEND_SECONDS = 15.0
"""Longest duration of one attempt, in seconds: name, connection, request and the head of the response."""


class WebhookSender(OutboxSender):
    """Sends state changes to one URL. `run` belongs to one event loop."""

    def __init__(self, settings: WebhookSettings, trust: ssl.SSLContext | None = None) -> None:
        """`trust`: whose certificates are valid; None: those of the usual authorities. Raises SettingsError."""
        if settings.url is None:
            raise SettingsError("webhook.url is not set")
        self._settings, self._trust = settings, trust
        self._url = _url(settings.url.get_secret_value())
        self._key = _key(settings)
        super().__init__("webhook", str(self._url), self._url.host, settings.events)

    @staticmethod
    def of(settings: WebhookSettings) -> WebhookSender | None:
        """The sender that the settings ask for; None: they name no URL. Raises SettingsError."""
        return WebhookSender(settings) if settings.url is not None else None

    async def prepare(self) -> None:
        """Reading the authorities takes a while."""
        self._trust = self._trust or await anyio.to_thread.run_sync(partial(httpx.create_ssl_context, trust_env=False))

    async def send(self, change: StateChange) -> None:
        """One attempt. Raises NotDelivered."""
        try:
            body = payload(change)
        except (ValueError, OverflowError) as error:
            # Those of a damaged change.
            raise NotDelivered(f"{type(error).__name__} in the change") from None
        await self.post(f"{change.job}.{change.number}", body)

    async def post(self, message: str, body: bytes) -> None:
        """One attempt to deliver a body with this id. Raises NotDelivered."""
        headers = {
            "content-type": "application/json",
            "user-agent": f"chatapi/{version()}",
            **signed(self._key, message, int(time.time()), body),
        }
        try:
            with anyio.fail_after(SEND_SECONDS):
                address = await self._address()
                await self._post(address, headers, body)
        except TimeoutError:
            raise NotDelivered(f"no answer within {SEND_SECONDS:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotDelivered(f"{type(error).__name__} while connecting or sending") from None

    async def _address(self) -> str:
        """The address to connect to. Raises NotDelivered where it is not allowed, OSError."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        found = await anyio.getaddrinfo(self._url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        public = all(map(is_public, addresses))
        if not public and not self._settings.private:
            raise NotDelivered("the host has an address that is not public; webhook.private allows it")
        if public and self._url.scheme == "http":
            raise NotDelivered("a public host is only sent to over https")
        return addresses[0]

    async def _post(self, address: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send to the very address that was checked: its name may resolve to another one meanwhile."""
        url = self._url.copy_with(host=address)
        named = {"host": self._url.netloc.decode("ascii"), **headers}
        # Proxies and passwords of the environment are not for this; a redirect is no acceptance.
        async with (
            httpx.AsyncClient(
                verify=self._trust or True, trust_env=False, follow_redirects=False, timeout=SEND_SECONDS
            ) as client,
            client.stream(
                "POST", url, headers=named, content=body, extensions={"sni_hostname": self._url.host}
            ) as response,
        ):
            if not response.is_success:
                raise NotDelivered(f"status {response.status_code}", _retry_after(response))


def payload(change: StateChange) -> bytes:
    """The body of the request for a change: type, timestamp and data, as JSON."""
    at = datetime.fromtimestamp(change.at, timezone.utc).isoformat(timespec="milliseconds")
    data = {"job": change.job, "kind": change.kind, "subject": change.subject, "event": change.number, **change.data}
    return json.dumps({"type": change.name, "timestamp": at, "data": data}).encode()


def signed(key: bytes, message: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of a message; `at`: when it is sent, in seconds since 1970."""
    digest = hmac.new(key, f"{message}.{at}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": message, "webhook-timestamp": str(at), "webhook-signature": signature}


def _url(text: str) -> httpx.URL:
    """Raises SettingsError, which does not repeat the URL."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise SettingsError("webhook.url is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise SettingsError(
            "webhook.url must be https://HOST/PATH, or http:// in a private network, without a password"
        )
    return url


def _key(settings: WebhookSettings) -> bytes:
    """Raises SettingsError."""
    low, high = SECRET_BYTES
    wanted = f"webhook.secret must be {PREFIX} and {low} to {high} random bytes in base64: openssl rand -base64 32"
    if settings.secret is None:
        raise SettingsError(f"webhook.url needs a secret for its signatures; {wanted}")
    try:
        key = base64.b64decode(settings.secret.get_secret_value().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(wanted) from None
    if not low <= len(key) <= high:
        raise SettingsError(f"{wanted}; it has {len(key)} bytes")
    return key


def _retry_after(response: httpx.Response) -> float:
    """The pause that the receiver asks for, in seconds; 0: none."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
