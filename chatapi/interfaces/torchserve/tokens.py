"""TorchServe's tokens: a key file with a token for predictions, one for management, and one that renews them."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from chatapi.auth import OPERATE, TRANSCRIBE, KeyHolder
from chatapi.auth.scopes import VOICES
from chatapi.errors import SettingsError, Unprocessable
from chatapi.system import private_files

TokenKind = Literal["inference", "management"]

KINDS: tuple[TokenKind, ...] = ("inference", "management")
TOKEN_BYTES = 24
"""Random bytes of a token; TorchServe's have 6, which can be guessed."""
RENEWER = KeyHolder("torchserve API token", (OPERATE,), title="the API token")
"""The client with the token that renews the others; it may do nothing else."""
HOLDERS = {
    "inference": KeyHolder("torchserve inference token", (TRANSCRIBE, VOICES), title="the inference token"),
    "management": KeyHolder("torchserve management token", (OPERATE,), title="the management token"),
}
"""Kind of a token -> the client that has it."""


class Tokens:
    """The tokens of a running server and their file, which only its owner may read."""

    def __init__(self, file: Path, seconds: float, now: Callable[[], float] = time.time) -> None:
        """`seconds`: time after which a token expires. Raises SettingsError when the file cannot be written."""
        self._file = file
        self._seconds = seconds
        self._now = now
        self._renewal = secrets.token_urlsafe(TOKEN_BYTES)
        self._tokens: dict[TokenKind, tuple[str, float]] = {}
        """Kind -> the token, and when it expires, in seconds since 1970."""
        for kind in KINDS:
            self._tokens[kind] = (secrets.token_urlsafe(TOKEN_BYTES), now() + seconds)
        self._write()

    def renew(self, kind: str) -> None:
        """Replace a token in the file. Raises Unprocessable for a kind that does not exist, SettingsError."""
        for each in KINDS:
            if each == kind.lower():
                self._tokens[each] = (secrets.token_urlsafe(TOKEN_BYTES), self._now() + self._seconds)
                self._write()
                return
        raise Unprocessable(f"type is {kind!r}; it must be inference or management", details={"param": "type"})

    def holder(self, offered: bytes, kind: TokenKind) -> KeyHolder | None:
        """The client that offers this kind of token; None: it is another token, or it has expired."""
        token, expires_at = self._tokens[kind]
        return HOLDERS[kind] if _same(token, offered) and self._now() < expires_at else None

    def renewer(self, offered: bytes) -> KeyHolder | None:
        """The client that offers the token that renews the others."""
        return RENEWER if _same(self._renewal, offered) else None

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {
            kind: {"key": token, "expiration time": _written(expires_at)}
            for kind, (token, expires_at) in reversed(list(self._tokens.items()))
        }
        text = json.dumps({**content, "API": {"key": self._renewal}}, indent=2)
        draft = self._file.with_name(f".{self._file.name}.draft")
        try:
            private_files.folder(self._file.parent)
            draft.unlink(missing_ok=True)
            private_files.touch(draft)
            draft.write_text(text, encoding="ascii")
            draft.replace(self._file)
        except OSError as error:
            raise SettingsError(
                f"{self._file} cannot be written: {error.strerror}; set torchserve.key_file to another path"
            ) from error


def _written(seconds: float) -> str:
    """A time as TorchServe writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _same(token: str, offered: bytes) -> bool:
    return hmac.compare_digest(token.encode(), offered)
