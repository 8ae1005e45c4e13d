"""How both clients reach a box: its address, the key, whom TLS trusts, and what the ways of failing are called."""

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

from chatapi.client.wire import ClientError, HttpRequest, broken_off, stranger

URL, KEY = "CHATAPI_URL", "CHATAPI_API_KEY"
"""Environment names for what is not given."""
USUAL = "http://localhost:8000"
PATIENCE = 130.0
"""Seconds without news; the box gives up on a turn after 120."""
CONNECT = 10.0

Verify = bool | str | PathLike[str] | ssl.SSLContext
"""Whom TLS trusts: who the system does (True), anybody (False), or the authority in this PEM file, which the box gives
at /certificate."""


class ConnectionOptions(TypedDict):
    """What both kinds of httpx's clients are made of."""

    base_url: str
    headers: dict[bytes, bytes]
    verify: ssl.SSLContext | bool
    timeout: httpx.Timeout
    trust_env: bool
    follow_redirects: bool


@dataclass(frozen=True)
class ServerAddress:
    """A box, and how to be let in."""

    url: str = field(repr=False)
    """It may hold a name and a key as a browser takes them."""
    key: str | None = field(repr=False)
    verify: Verify
    timeout: float

    @classmethod
    def of(
        cls, url: str | None, key: str | None, verify: Verify, timeout: float, environ: Mapping[str, str] = os.environ
    ) -> ServerAddress:
        """What is given, else what the environment says, else this machine."""
        return cls(url or environ.get(URL) or USUAL, key or environ.get(KEY) or None, verify, timeout)

    @property
    def shown(self) -> str:
        """The address without what lets one in."""
        return re.sub(r"//.*@", "//", self.url, flags=re.DOTALL)

    def given(self) -> ConnectionOptions:
        """Raises ClientError (bad_request)."""
        wanted = f"{self.shown!r} is no address of a box; it looks like https://box.local:8000"
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            # What httpx says of it quotes parts that may be secret.
            raise ClientError("bad_request", wanted) from None
        if address.scheme not in ("http", "https") or not address.host or (address.port or 80) > 65535:
            raise ClientError("bad_request", wanted)
        if self.key is not None and not (self.key.isprintable() and self.key == self.key.strip()):
            told = "the key has a line end, a blank around it or another sign that cannot be seen; copy it anew"
            raise ClientError("bad_request", told)
        # What comes is taken as it is: nothing that unpacks to something larger than it seems.
        headers = {b"Accept-Encoding": b"identity"}
        if self.key is not None:
            headers[b"Authorization"] = b"Bearer " + self.key.encode()
        return {
            "base_url": self.url,
            "headers": headers,
            "verify": self._trusted(),
            "timeout": httpx.Timeout(self.timeout, connect=CONNECT),
            # A box at home is not behind the proxy through which one sees the world, and the key is for it alone.
            "trust_env": False,
            "follow_redirects": False,
        }

    def _trusted(self) -> ssl.SSLContext | bool:
        if isinstance(self.verify, ssl.SSLContext) or self.verify is False:
            return self.verify
        if self.verify is True:
            # Left to itself httpx trusts what certifi brings, and not whom this machine's owner does.
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=self.verify)
        except (OSError, ValueError) as error:
            raise ClientError("bad_request", f"the certificate {self.verify} cannot be read: {error}") from error


def arguments(request: HttpRequest) -> dict[str, Any]:
    """What httpx's `stream` takes."""
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "headers": {"Accept": request.accept, **request.headers},
        "content": request.content,
    }


@contextmanager
def translated(url: str, begun: bool = False) -> Iterator[None]:
    """What httpx raises, as ours. `begun`: the head of an answer has come already."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ClientError("unreachable", f"nobody answers at {url}; is the box on?") from error
    except httpx.TimeoutException as error:
        raise ClientError("timed_out", f"{url} said nothing for too long; is the box well?") from error
    except httpx.ConnectError as error:
        raise ClientError("unreachable", f"{url} cannot be reached: {error}") from error
    except httpx.LocalProtocolError as error:
        # What h11 says of a header quotes it, and it may be the key.
        raise ClientError("bad_request", f"this cannot be sent to {url}: it is no HTTP") from error
    except httpx.RemoteProtocolError as error:
        # Of all that is not HTTP only this is a server that went away.
        if begun or "disconnected" in str(error):
            raise broken_off("the answer ended before it was whole") from error
        raise stranger(f"it does not speak HTTP ({error})") from error
    except httpx.TransportError as error:
        raise broken_off(f"the connection to {url} broke off") from error
    except httpx.HTTPError as error:
        raise stranger(str(error)) from error


def limit(so_far: int, piece: bytes, most: int) -> int:
    """Bytes that have come in all. Raises ClientError (not_chatapi) when these are more than any box sends."""
    if so_far + len(piece) > most:
        raise stranger(f"an answer of more than {most} bytes")
    return so_far + len(piece)


def kind_of(headers: Mapping[str, str]) -> str:
    """The media type of an answer."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
