"""What a running server knows of the keys: who holds one, what for, how often, and who tries too many."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatapi.auth import client_address
from chatapi.auth.key_store import (
    ALL,
    MOST,
    OPERATE,
    PREFIX,
    StoredKey,
    damaged,
    digest,
    file_of,
    keep_times_used,
    read,
    write,
)
from chatapi.auth.rate_limit import TokenBuckets
from chatapi.errors import SettingsError, TooMany, Unauthorized
from chatapi.system import private_files

log = logging.getLogger(__name__)

WANTED = (
    "this needs the API key: send it as `Authorization: Bearer KEY`; a browser that asks for a name and a password "
    "takes any name, and the key as the password"
)
TRIES = 10
"""Wrong keys in a row that an address may send, and how many a minute from then on."""
MOST_ADDRESSES = 1024
MOST_OFFERED = 8
"""Keys of one request that are looked at."""


@dataclass(frozen=True)
class KeyHolder:
    """Who was let in."""

    name: str
    scopes: tuple[str, ...]
    id: str = ""
    """Of its key in the file; empty: it is not there."""
    rate: int | None = None
    """Requests a minute; None: as many as there are."""

    def may(self, scope: str | None) -> bool:
        """Whether it may do what needs this scope; None: what every key is for."""
        return scope is None or scope in self.scopes or ALL in self.scopes


ANYBODY = KeyHolder("-", (ALL,))
"""Who comes in as long as there is no key."""
SETTINGS = KeyHolder("settings", (ALL,))
"""Who has `server.api_key`."""


class Keyring:
    """Belongs to one thread. It sees at once what other processes do to the file, which costs a stat for a request."""

    def __init__(
        self,
        data: Path,
        own: str | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`own` is `server.api_key`; `now` gives seconds since 1970."""
        self._data = data
        self._own = own.encode() if own is not None else None
        self._now = now
        self._stamp: tuple[int, ...] = ()
        self._keys: dict[str, StoredKey] | None = None
        self._fault: SettingsError | None = None
        self._local: str | None = None
        self._met = False
        """Whether there ever was a file."""
        self._rates = TokenBuckets(MOST, clock)
        self._tries = TokenBuckets(MOST_ADDRESSES, clock)
        self._used: dict[str, float] = {}

    @property
    def wanted(self) -> bool:
        """Whether a key is wanted. Raises SettingsError (keys_damaged)."""
        return self._fresh() is not None or self._own is not None

    def admit(self, offered: Sequence[bytes], address: str) -> KeyHolder:
        """Who holds one of these. Raises Unauthorized, TooMany (rate_limited), SettingsError (keys_damaged)."""
        kept = self._fresh()
        if kept is None and self._own is None:
            return ANYBODY
        given = [each for each in offered if each][:MOST_OFFERED]
        for text in given:
            if (holder := self._named(text, kept or {})) is not None:
                return holder
        if not given:
            raise Unauthorized(WANTED)
        # Somebody thought of this key, so it may be guessed, and right guesses have to wait as long as wrong ones. No
        # one guesses a named key: those are let in even where something else at the same address keeps trying.
        peer, per_second = client_address.client(address), TRIES / 60
        if wait := self._tries.wait(peer, TRIES, per_second):
            raise TooMany("too many wrong keys came from this address; wait, then send the right one", retry_after=wait)
        if self._own is not None and any(hmac.compare_digest(self._own, each) for each in given):
            return SETTINGS
        self._tries.take(peer, TRIES, per_second)
        raise Unauthorized(WANTED)

    def count(self, holder: KeyHolder) -> None:
        """One more request of theirs. Raises TooMany (rate_limited)."""
        if holder.rate and (wait := self._rates.take(holder.id, holder.rate, holder.rate / 60)):
            told = f"the key {holder.name!r} is for {holder.rate} requests a minute, and these are more"
            raise TooMany(told, retry_after=wait)

    def holds(self, holder: KeyHolder) -> bool:
        """Whether it would still be let in, so that what it began may go on. Raises SettingsError (keys_damaged)."""
        if holder is ANYBODY:
            return not self.wanted
        if not holder.id:
            return True
        key = (self._fresh() or {}).get(holder.id)
        return key is not None and not key.fault(self._now())

    @contextmanager
    def local(self, port: int) -> Iterator[None]:
        """A key for commands of this machine's operator, who can read the data directory, while the block lasts.

        It is another one at every start, and can do no more than look: no key of the file can be read there.
        """
        secret, file = f"{PREFIX}local_{secrets.token_urlsafe(32)}", _local_file(self._data, port)
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

    def keep_uses(self) -> None:
        """Write down when each was last used. For any thread; a full disk costs nothing but the news."""
        used, self._used = self._used, {}
        if used:
            try:
                keep_times_used(self._data, used)
            except OSError as error:
                log.warning("when keys were used cannot be kept in %s: %s", self._data, error.strerror)

    def _named(self, text: bytes, kept: dict[str, StoredKey]) -> KeyHolder | None:
        """Raises Unauthorized for a key that once was right."""
        prefix, _, rest = text.partition(b"_")
        identity = rest.partition(b"_")[0].decode("ascii", "replace")
        if prefix + b"_" != PREFIX.encode():
            return None
        if identity == "local" and self._local is not None and _same(self._local, text):
            return KeyHolder("local", (OPERATE,))
        key = kept.get(identity)
        if key is None or not _same(key.sha256, text):
            return None
        if fault := key.fault(self._now()):
            raise Unauthorized(f"the key {key.name!r} {fault}; `chatapi keys add` on the box makes another")
        self._used[key.id] = self._now()
        return KeyHolder(key.name, tuple(key.scopes), key.id, key.rate)

    def _fresh(self) -> dict[str, StoredKey] | None:
        """Id -> key as the file has them now; None: no key was ever made. Raises SettingsError (keys_damaged)."""
        file = file_of(self._data)
        try:
            found = os.stat(file)  # noqa: PTH116 - as cheap as can be, once for a request
            stamp: tuple[int, ...] = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        except FileNotFoundError:
            stamp = (0,)
        except OSError as error:
            raise damaged(file, error.strerror or "it cannot be read") from error
        if stamp != self._stamp:
            self._load(stamp)
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        return self._keys

    def _load(self, stamp: tuple[int, ...]) -> None:
        """What is read is never newer than the stamp says, so that nothing newer is overlooked."""
        try:
            keys = read(self._data)
            # An open door must not come of a disk that went away or a slip of the hand.
            gone = self._met and keys is None
            self._fault = damaged(file_of(self._data), "it was there and is gone") if gone else None
            self._keys = None if keys is None else {key.id: key for key in keys}
            self._met = self._met or keys is not None
        except SettingsError as fault:
            self._fault, self._met = fault, True
            if isinstance(fault.__cause__, OSError):
                # The file may be whole, and the machine short of something for a moment: it is read again.
                stamp = ()
        self._stamp = stamp


def local_key(data: Path, port: int) -> str | None:
    """The key that the server at this port of this machine made for its operator; None where none can be read."""
    try:
        return _local_file(data, port).read_text(encoding="ascii") or None
    except (OSError, ValueError):
        return None


def _local_file(data: Path, port: int) -> Path:
    return data / f"local-{port}.key"


def _same(kept: str, text: bytes) -> bool:
    return hmac.compare_digest(kept, digest(text))
