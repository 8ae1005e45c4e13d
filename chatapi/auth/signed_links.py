"""Signed links: addresses that a client makes for a program that cannot send its key, such as an audio player.

A link is for reading one path, and expires after a few minutes. It acts for the key that made it, as long as that key
is valid and with the scopes that it has then. The secret is that of one run of the server, so links end with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from chatapi.auth.scopes import KeyHolder
from chatapi.errors import Unauthorized

LINK_SECONDS = 300
"""Time after which a link expires, in seconds."""
METHODS = ("GET", "HEAD")
"""What a link can be requested with."""
EXPIRES, HOLDER, SIGNATURE = "expires", "holder", "signature"
"""The parameters of a link: seconds since 1970, the key that made it, and the signature of both with the path."""


class SignedLinks:
    """Makes and checks the links of a running server."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` returns seconds since 1970."""
        self._now = now
        self._secret = secrets.token_bytes(32)

    def create(self, maker: KeyHolder, path: str) -> tuple[str, int]:
        """A link to a path, and when it expires, in seconds since 1970."""
        expires = int(self._now()) + LINK_SECONDS
        signature = self._signature(path, str(expires), maker.owner_id)
        return f"{path}?{urlencode({EXPIRES: expires, HOLDER: maker.owner_id, SIGNATURE: signature})}", expires

    def maker(self, method: str, path: str, query: Mapping[str, str]) -> str | None:
        """The owner id of the client that made the link which is requested; None: it is no link of this server.

        `query`: its parameters, decoded. Raises Unauthorized when it has expired.
        """
        expires, holder, signature = (query.get(name, "") for name in (EXPIRES, HOLDER, SIGNATURE))
        if method not in METHODS or not signature:
            return None
        wanted = self._signature(path, expires, holder)
        if not hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace")):
            return None
        if int(expires) <= self._now():
            raise Unauthorized("the link has expired; the request that made it makes another")
        return holder

    def _signature(self, path: str, expires: str, holder: str) -> str:
        # As JSON, so that the end of one part cannot be read as the start of the next.
        text = json.dumps([path, expires, holder])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
