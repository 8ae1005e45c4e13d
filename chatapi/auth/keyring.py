"""API keys in a running server: authentication and authorization of clients."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatapi.auth import policy
from chatapi.auth.client_secrets import ClientSecrets
from chatapi.auth.key_store import (
    MOST,
    PREFIX,
    StoredKey,
    damaged,
    digest,
    file_of,
    read,
    store_times_used,
    write,
)
from chatapi.auth.rate_limit import RequestRates, WrongKeys
from chatapi.auth.scopes import ANYBODY, OPERATE, SETTINGS, KeyHolder
from chatapi.auth.signed_links import SignedLinks
from chatapi.errors import SettingsError, Unauthorized
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

log = logging.getLogger(__name__)

MISSING = (
    "an API key is required: send it as `Authorization: Bearer KEY`; when a browser asks for a user name and a "
    "password, enter any name, and the key as the password"
)
MOST_OFFERED = 8
"""Number of keys of one request that are checked."""


class Keyring:
    """The API keys of a running server; belongs to one thread. A stat call per request notices changes of the file by
    other processes at once."""

    def __init__(
        self,
        data: Path,
        own: str | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`own`: `server.api_key`. `clock` and `now` return seconds, `now` since 1970."""
        self._data = data
        self._own = digest(own.encode()) if own is not None else None
        self._now = now
        self._stamp: tuple[int, ...] = ()
        self._keys: dict[str, StoredKey] | None = None
        self._error: SettingsError | None = None
        self._local: str | None = None
        self._had_file = False
        """Whether the file ever existed."""
        self._rates = RequestRates(MOST, clock)
        self._wrong = WrongKeys(clock)
        self._used: dict[str, float] = {}
        self.secrets = ClientSecrets(now)
        self.links = SignedLinks(now)

    @property
    def required(self) -> bool:
        """Whether requests need a key. Raises SettingsError (keys_damaged)."""
        return self._current() is not None or self._own is not None

    def authenticate(self, offered: Sequence[bytes], address: str) -> KeyHolder:
        """The holder of one of these keys. Raises Unauthorized, TooMany (rate_limited), SettingsError
        (keys_damaged)."""
        stored = self._current()
        if stored is None and self._own is None:
            return ANYBODY
        keys = [each for each in offered if each][:MOST_OFFERED]
        for text in keys:
            if (holder := self._holder(text, stored or {})) is not None:
                return holder
        if not keys:
            raise Unauthorized(MISSING)
        # A person chose `server.api_key`, so it may be guessed, and a right guess must wait as long as a wrong one. A
        # key of the file cannot be guessed: it is accepted even if another client at the same address keeps guessing.
        self._wrong.check(address)
        if self._own is not None and any(_same(self._own, each) for each in keys):
            return SETTINGS
        self._wrong.count(address)
        raise Unauthorized(MISSING)

    def follow_link(self, method: str, path: str, query: Mapping[str, str]) -> KeyHolder | None:
        """The client for which a signed link acts; None: the request is no such link. Raises Unauthorized (it has
        expired), SettingsError (keys_damaged)."""
        maker = self.links.maker(method, path, query)
        if maker == SETTINGS.owner_id and self._own is not None:
            return SETTINGS
        key = (self._current() or {}).get(maker or "")
        if key is None or key.invalid_reason(self._now()):
            return None
        return KeyHolder(key.name, tuple(key.scopes), key.id, key.rate)

    def authorize(self, holder: KeyHolder, wanted: policy.Operation) -> None:
        """Count a request of the client, and check that the policy allows it. Raises TooMany (rate_limited), Forbidden
        (scope_missing), NotFound, MethodNotAllowed."""
        self._rates.count(holder)
        policy.authorize(holder, wanted)

    def is_valid(self, holder: KeyHolder) -> bool:
        """Whether the holder's key is still valid, for work in progress. Raises SettingsError (keys_damaged)."""
        if holder is ANYBODY:
            return not self.required
        if not holder.id:
            return True
        key = (self._current() or {}).get(holder.id)
        return key is not None and not key.invalid_reason(self._now())

    @contextmanager
    def local(self, port: int) -> Iterator[None]:
        """Provide a key for commands on this machine, in a file that readers of the data directory can read.

        The key is valid inside the context, is a new one at every start, and has only the scope operate.
        """
        secret, file = f"{PREFIX}local_{secrets.token_urlsafe(32)}", DataDirectory(self._data).local_key(port)
        try:
            private_files.folder(self._data)
            write(file, secret.encode())
        except OSError as error:
            log.warning("%s cannot be written: %s; health and support need server.api_key", file, error.strerror)
            yield
            return
        self._local = digest(secret.encode())
        try:
            yield
        finally:
            self._local = None
            if local_key(self._data, port) == secret:
                file.unlink(missing_ok=True)

    def store_uses(self) -> None:
        """Store the time of each key's last use. For any thread; a full disk only loses these times."""
        used, self._used = self._used, {}
        if used:
            try:
                store_times_used(self._data, used)
            except OSError as error:
                log.warning("the times of use of keys cannot be stored in %s: %s", self._data, error.strerror)

    def _holder(self, text: bytes, stored: dict[str, StoredKey]) -> KeyHolder | None:
        """The holder of a key other than `server.api_key`. Raises Unauthorized for a revoked or expired key."""
        if (secret := self.secrets.find(text)) is not None:
            # One that was made while no key was needed ends with the first key.
            return secret.holder if secret.maker is not ANYBODY and self.is_valid(secret.maker) else None
        prefix, _, rest = text.partition(b"_")
        identity = rest.partition(b"_")[0].decode("ascii", "replace")
        if prefix + b"_" != PREFIX.encode():
            return None
        if identity == "local" and self._local is not None and _same(self._local, text):
            return KeyHolder("local", (OPERATE,))
        key = stored.get(identity)
        if key is None or not _same(key.sha256, text):
            return None
        if reason := key.invalid_reason(self._now()):
            raise Unauthorized(f"the key {key.name!r} {reason}; `chatapi keys add` on the box creates another")
        self._used[key.id] = self._now()
        return KeyHolder(key.name, tuple(key.scopes), key.id, key.rate)

    def _current(self) -> dict[str, StoredKey] | None:
        """Id -> key, as in the file now; None: no key was ever created. Raises SettingsError (keys_damaged)."""
        file = file_of(self._data)
        try:
            status = os.stat(file)  # noqa: PTH116 - the cheapest way, once per request
            stamp: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        except FileNotFoundError:
            stamp = (0,)
        except OSError as error:
            raise damaged(file, error.strerror or "it cannot be read") from error
        if stamp != self._stamp:
            self._load(stamp)
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._keys

    def _load(self, stamp: tuple[int, ...]) -> None:
        """Read the file. The stamp was taken before, so a change after it is noticed by the next request."""
        try:
            keys = read(self._data)
            # A missing disk or a mistake of the owner must not open the server to everybody.
            gone = self._had_file and keys is None
            self._error = damaged(file_of(self._data), "the file existed and is gone") if gone else None
            self._keys = None if keys is None else {key.id: key for key in keys}
            self._had_file = self._had_file or keys is not None
        except SettingsError as error:
            self._error, self._had_file = error, True
            if isinstance(error.__cause__, OSError):
                # The file may be intact, and the machine out of descriptors or memory for a moment: read it again.
                stamp = ()
        self._stamp = stamp


def local_key(data: Path, port: int) -> str | None:
    """The key that the server at this port of this machine provides for local commands; None if it cannot be read."""
    try:
        return DataDirectory(data).local_key(port).read_text(encoding="ascii") or None
    except (OSError, ValueError):
        return None


def _same(stored: str, text: bytes) -> bool:
    """Whether a key has this hash; takes as long for every key of the same length."""
    return hmac.compare_digest(stored, digest(text))
