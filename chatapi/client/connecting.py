"""Connecting to a server, for both clients: address, API key, TLS trust, and the errors of a connection."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypedDict

import httpx

from chatapi.client.wire import ClientError, HttpRequest, broken_off, not_chatapi

URL, KEY = "CHATAPI_URL", "CHATAPI_API_KEY"
"""Environment variables with the default URL and API key."""
DEFAULT_URL = "http://localhost:8000"
TIMEOUT = 130.0
"""Longest time without data, in seconds; the server ends a turn after 120."""
CONNECT_TIMEOUT = 10.0
"""Longest time to connect, in seconds."""

Verify = bool | str | PathLike[str] | ssl.SSLContext
"""Which certificates to trust: those that the system trusts (True), all (False), or those of the authority in this PEM
file, which the server provides at /certificate."""


class ConnectionOptions(TypedDict):
    """Arguments of httpx's clients."""

    base_url: str
    headers: dict[bytes, bytes]
    verify: ssl.SSLContext | bool
    timeout: httpx.Timeout
    trust_env: bool
    follow_redirects: bool


@dataclass(frozen=True)
class ServerAddress:
    """The address of a server, and its API key."""

    url: str = field(repr=False)
    """Base URL; it may contain a user name and the key as its password."""
    key: str | None = field(repr=False)
    """API key; None: none."""
    verify: Verify
    timeout: float
    """Longest time without data, in seconds."""

    @classmethod
    def of(
        cls, url: str | None, key: str | None, verify: Verify, timeout: float, environ: Mapping[str, str] = os.environ
    ) -> ServerAddress:
        """The arguments, with defaults from the environment, then this machine."""
        return cls(url or environ.get(URL) or DEFAULT_URL, key or environ.get(KEY) or None, verify, timeout)

    @property
    def shown(self) -> str:
        """The URL without user name and password."""
        return re.sub(r"//.*@", "//", self.url, flags=re.DOTALL)

    def options(self) -> ConnectionOptions:
        """The arguments of an httpx client. Raises ClientError (bad_request)."""
        message = f"{self.shown!r} is not a server address; expected for example https://box.local:8000"
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            # httpx's message quotes parts that may be secret.
            raise ClientError("bad_request", message) from None
        if address.scheme not in ("http", "https") or not address.host or (address.port or 80) > 65535:
            raise ClientError("bad_request", message)
        if self.key is not None and not (self.key.isprintable() and self.key == self.key.strip()):
            message = "the key contains a line end, surrounding spaces or invisible characters; copy it again"
            raise ClientError("bad_request", message)
        # No compression, so that a response cannot expand to more than it seems.
        headers = {b"Accept-Encoding": b"identity"}
        if self.key is not None:
            headers[b"Authorization"] = b"Bearer " + self.key.encode()
        return {
            "base_url": self.url,
            "headers": headers,
            "verify": self._trusted(),
            "timeout": httpx.Timeout(self.timeout, connect=CONNECT_TIMEOUT),
            # A server on the local network is not behind a proxy, and a proxy must not see the key.
            "trust_env": False,
            "follow_redirects": False,
        }

    def _trusted(self) -> ssl.SSLContext | bool:
        if isinstance(self.verify, ssl.SSLContext) or self.verify is False:
            return self.verify
        if self.verify is True:
            # By default httpx trusts certifi's certificates, and not those that this machine's owner added.
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=self.verify)
        except (OSError, ValueError) as error:
            raise ClientError("bad_request", f"the certificate {self.verify} cannot be read: {error}") from error


def arguments(request: HttpRequest) -> dict[str, Any]:
    """The arguments of httpx's `stream`."""
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "headers": {"Accept": request.accept, **request.headers},
        "content": request.content,
    }


@contextmanager
def translated(url: str, started: bool = False) -> Iterator[None]:
    """Translate httpx's errors to ClientError. `started`: the head of the response has arrived."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ClientError("unreachable", f"no answer from {url}; is the server running?") from error
    except httpx.TimeoutException as error:
        raise ClientError("timed_out", f"{url} sent no data for too long; `chatapi health` on it tells more") from error
    except httpx.ConnectError as error:
        raise ClientError("unreachable", f"{url} cannot be reached: {error}") from error
    except httpx.LocalProtocolError as error:
        # h11's message quotes the header, which may be the key.
        raise ClientError("bad_request", f"the request to {url} is not valid HTTP") from error
    except httpx.RemoteProtocolError as error:
        # This text is httpx's only sign of a server that closed the connection.
        if started or "disconnected" in str(error):
            raise broken_off("the answer ended before it was complete") from error
        raise not_chatapi(f"it does not speak HTTP ({error})") from error
    except httpx.TransportError as error:
        raise broken_off(f"the connection to {url} was lost") from error
    except httpx.HTTPError as error:
        raise not_chatapi(str(error)) from error


def limit(received: int, chunk: bytes, most: int) -> int:
    """The number of bytes received with this chunk. Raises ClientError (not_chatapi) when it exceeds `most`."""
    if received + len(chunk) > most:
        raise not_chatapi(f"an answer of more than {most} bytes")
    return received + len(chunk)


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of a response."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
