"""Client secrets: short-lived keys that a program makes for a browser, which can then open a live session itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from chatapi.auth.key_store import digest
from chatapi.auth.scopes import REALTIME, KeyHolder
from chatapi.errors import Busy, TooLarge, Unauthorized

SECRET_PREFIX = "ek_"  # noqa: S105 - it marks a secret
"""How every client secret begins, as OpenAI's do: its clients in a browser accept no other key."""
MOST = 1000
"""Most secrets at once; one more is rejected until one has expired."""
MOST_CHARS = 128 << 10
"""Longest session of a secret, in characters."""
MOST_CHARS_TOGETHER = 8 << 20
"""Most characters of the sessions of all secrets."""


@dataclass(frozen=True)
class ClientSecret:
    """What a secret is for."""

    maker: KeyHolder
    """The client that made it."""
    session: str
    """The session that it opens, in the form of the interface that made it."""
    expires_at: float
    """When no session can be opened with it any more, in seconds since 1970."""

    @property
    def holder(self) -> KeyHolder:
        """The client that has the secret. It may open live sessions, as long as the maker's key is valid."""
        return KeyHolder(
            self.maker.name, (REALTIME,), self.maker.id, self.maker.rate, f"a client secret of {self.maker}",
            "send a key with it instead",
        )  # fmt: skip


class ClientSecrets:
    """The client secrets of a running server; they end with it."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` returns seconds since 1970."""
        self._now = now
        self._secrets: dict[str, ClientSecret] = {}

    def create(self, maker: KeyHolder, session: str, seconds: float) -> tuple[str, ClientSecret]:
        """A new secret that expires after this time. Raises TooLarge (session_too_large), Busy (too_many_secrets)."""
        if len(session) > MOST_CHARS:
            raise TooLarge(
                f"the session has {len(session)} characters; at most {MOST_CHARS} are allowed",
                code="session_too_large",
                details={"param": "session", "limit_chars": MOST_CHARS},
            )
        self._forget_expired()
        together = len(session) + sum(len(each.session) for each in self._secrets.values())
        if len(self._secrets) >= MOST or together > MOST_CHARS_TOGETHER:
            raise Busy(
                f"{len(self._secrets)} client secrets have not expired, which is the limit; make them expire earlier",
                code="too_many_secrets",
                retry_after=10,
            )
        value = SECRET_PREFIX + secrets.token_hex(16)
        found = self._secrets[digest(value.encode())] = ClientSecret(maker, session, self._now() + seconds)
        return value, found

    def find(self, offered: bytes) -> ClientSecret | None:
        """The secret that a client offers; None: it is none of this server. Raises Unauthorized when it has expired."""
        if not offered.startswith(SECRET_PREFIX.encode()):
            return None
        found = self._secrets.get(digest(offered))
        if found is not None and found.expires_at <= self._now():
            raise Unauthorized("the client secret has expired; POST /v1/realtime/client_secrets makes another")
        return found

    def _forget_expired(self) -> None:
        now = self._now()
        self._secrets = {key: each for key, each in self._secrets.items() if each.expires_at > now}
