"""Webhooks: sends the state changes of jobs to another server, in order, until it accepts them.

The requests are those of Standard Webhooks 1.0 (github.com/standard-webhooks): the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature` (v1: HMAC-SHA256), so that receivers can use that project's libraries. Its
own library is not used: it signs, which is a line, and brings four packages.

Each change is sent at least once; a repetition has the same id. What fails is sent again with growing pauses, and given
up after ATTEMPTS. Changes wait in the outbox of the store, also while the process does not run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial

import anyio
import anyio.to_thread
import httpx

from chatapi.errors import ChatapiError, SettingsError
from chatapi.jobs.database import JobDatabase
from chatapi.jobs.outbox import NextChange, OutboxReader, StateChange
from chatapi.settings.tables import WebhookSettings
from chatapi.system.public_address import is_public
from chatapi.system.version import version

log = logging.getLogger(__name__)

PREFIX = "whsec_"
"""Begins a secret."""
SECRET_BYTES = (24, 64)
"""Shortest and longest secret, in bytes."""
SEND_SECONDS = 15.0
"""Longest duration of one attempt, in seconds: name, connection, request and the head of the response."""
POLL_SECONDS = 1.0
"""Interval between checks for new changes, in seconds: another process may make them."""
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 3600.0
"""Time before the second attempt, doubled for each further one, and its upper bound, in seconds."""
ATTEMPTS = 16
"""Number of attempts after which a change is given up: about seven hours."""
RESULTS = ("delivered", "failed", "dropped")
"""What becomes of an attempt; dropped: the change is given up."""


class _NotDelivered(Exception):
    """Why an attempt failed, without the URL, which may hold a secret."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        """`pause`: time that the receiver asks for, in seconds."""
        super().__init__(reason)
        self.pause = pause


class WebhookSender:
    """Sends state changes to one URL. `run` belongs to one event loop."""

    def __init__(self, settings: WebhookSettings, trust: ssl.SSLContext | None = None) -> None:
        """`trust`: whose certificates are valid; None: those of the usual authorities. Raises SettingsError."""
        if settings.url is None:
            raise SettingsError("webhook.url is not set")
        self._settings, self._trust = settings, trust
        self._url = _url(settings.url.get_secret_value())
        self._key = _key(settings)
        self._reader: OutboxReader | None = None
        self.results = Counter(dict.fromkeys(RESULTS, 0))
        """Result -> number of attempts."""

    @staticmethod
    def of(settings: WebhookSettings) -> WebhookSender | None:
        """The sender that the settings ask for; None: they name no URL. Raises SettingsError."""
        return WebhookSender(settings) if settings.url is not None else None

    async def run(self, database: JobDatabase, new_store: bool = False) -> None:
        """Send changes until cancelled: those that no earlier process has sent, then each new one. `new_store`: the
        store was made while this process ran, so that all its changes are new."""
        name = f"webhook:{hashlib.sha256(str(self._url).encode()).hexdigest()[:16]}"
        reader = OutboxReader(database, name)
        # Reading the authorities takes a while.
        self._trust = self._trust or await anyio.to_thread.run_sync(partial(httpx.create_ssl_context, trust_env=False))
        while True:
            try:
                if self._reader is None:
                    await anyio.to_thread.run_sync(reader.begin, new_store)
                    self._reader = reader
                found = await anyio.to_thread.run_sync(reader.next)
                if found is not None and found.seconds <= 0:
                    await self._handle(reader, found)
                    continue
                await anyio.sleep(POLL_SECONDS if found is None else min(found.seconds, POLL_SECONDS))
            except ChatapiError as error:
                log.warning("webhooks wait for the store: %s", error.message)
                await anyio.sleep(PAUSE_SECONDS)

    def pending(self) -> int:
        """Number of changes that are not sent yet. Blocking; for any thread. Raises StorageError, NotReady."""
        reader = self._reader
        return 0 if reader is None else reader.pending()

    async def _handle(self, reader: OutboxReader, found: NextChange) -> None:
        """Send a change, or pass it by when nobody asked for it."""
        change = found.change
        if change.name not in self._settings.events:
            await anyio.to_thread.run_sync(reader.pass_by, change)
            return
        about = {"job": change.job, "event": change.name, "host": self._url.host, "attempt": found.attempts + 1}
        try:
            await self._send(change)
        except _NotDelivered as error:
            if found.attempts + 1 < ATTEMPTS:
                pause = min(MAX_PAUSE_SECONDS, max(error.pause, PAUSE_SECONDS * 2**found.attempts))
                await anyio.to_thread.run_sync(reader.postpone, pause)
                self.results["failed"] += 1
                log.warning("webhook not delivered: %s", error, extra={**about, "retry_seconds": pause})
                return
            log.error("webhook given up: %s", error, extra=about)  # noqa: TRY400 - the reason is enough
            result = "dropped"
        else:
            result = "delivered"
        # A shutdown now must not send it again.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(reader.pass_by, change)
        self.results[result] += 1

    async def _send(self, change: StateChange) -> None:
        """One attempt. Raises _NotDelivered."""
        try:
            body = payload(change)
            headers = {
                "content-type": "application/json",
                "user-agent": f"chatapi/{version()}",
                **signed(self._key, f"{change.job}.{change.number}", int(time.time()), body),
            }
            with anyio.fail_after(SEND_SECONDS):
                address = await self._address()
                await self._post(address, headers, body)
        except TimeoutError:
            raise _NotDelivered(f"no answer within {SEND_SECONDS:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
            # The last two are those of a damaged change.
            raise _NotDelivered(f"{type(error).__name__} while connecting or sending") from None

    async def _address(self) -> str:
        """The address to connect to. Raises _NotDelivered where it is not allowed, OSError."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        found = await anyio.getaddrinfo(self._url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        public = all(map(is_public, addresses))
        if not public and not self._settings.private:
            raise _NotDelivered("the host has an address that is not public; webhook.private allows it")
        if public and self._url.scheme == "http":
            raise _NotDelivered("a public host is only sent to over https")
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
                raise _NotDelivered(f"status {response.status_code}", _retry_after(response))


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
