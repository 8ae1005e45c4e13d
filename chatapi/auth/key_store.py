"""The file of API keys: create, list and revoke. A damaged file rejects every client.

A key is `chatapi_ID_SECRET`: a prefix that people and scanners for leaked secrets recognise, a public id to look the
key up by, and 256 random bits."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from chatapi.auth.rate_limit import HIGHEST_RATE
from chatapi.auth.scopes import SCOPES, Scope
from chatapi.errors import BadInput, NotFound, SettingsError, StorageError, WrongMode
from chatapi.storage.atomic_files import sync, writing
from chatapi.storage.layout import DataDirectory
from chatapi.system import private_files

PREFIX = "chatapi_"
RESERVED = ("settings", "local")
"""Names of the keys outside the file: `server.api_key`, and the key for commands on this machine."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST = 256
"""Largest number of stored keys, revoked ones included."""
LARGEST = 1 << 20
"""Largest size of the file, in bytes; 256 keys take a tenth."""

CLOCK_SET = 1_767_225_600.0
"""2026-01-01, in seconds since 1970: a clock that shows an earlier time was never set."""

FIRST_SCOPES = frozenset({"talk", "operate", "all"})
"""The scopes of version 1 of the file."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StoredKey(BaseModel):
    """A stored key: enough to recognise it, not to recreate it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the whole key, in hex. A slow, salted hash protects passwords that can be guessed; 256 random bits cannot
    be guessed, so a plain hash is enough and costs a request almost nothing."""
    scopes: Annotated[list[Scope], Field(min_length=1)]
    rate: Annotated[int, Field(ge=1, le=HIGHEST_RATE)] | None
    """Rate limit, in requests per minute; None: no limit."""
    created: Seconds
    """Time of creation, in seconds since 1970."""
    expires: Seconds | None
    """Time of expiry, in seconds since 1970; None: never."""
    revoked: Seconds | None
    """Time of revocation, in seconds since 1970; None: not revoked."""

    def invalid_reason(self, now: float) -> str:
        """Why the key is not valid; empty: it is valid."""
        if self.revoked is not None:
            return "was revoked"
        if self.expires is None:
            return ""
        if now >= self.expires:
            return "has expired"
        # A board without a battery starts in 1970, when no key had expired yet.
        return "" if now > self.created - 86_400 else "expires, and the box does not know the time yet"

    def is_dead(self, now: float) -> bool:
        """Whether the key was revoked or has expired, so that its place and its name are free."""
        return self.revoked is not None or (self.expires is not None and now >= self.expires)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1, 2]
    """2 has more scopes than 1, and is otherwise the same. A file is written as 1 where that suffices, so that an
    update of chatapi can be rolled back."""
    keys: Annotated[list[StoredKey], Field(max_length=MOST)]

    @model_validator(mode="after")
    def _once(self) -> _Document:
        if any(len({getattr(key, what) for key in self.keys}) < len(self.keys) for what in ("id", "name")):
            raise ValueError("two keys have the same id or name")
        return self

    @classmethod
    def of(cls, keys: list[StoredKey]) -> _Document:
        """The document of these keys, in the oldest format that has their scopes."""
        return cls(version=1 if all(FIRST_SCOPES.issuperset(key.scopes) for key in keys) else 2, keys=keys)


_TIMES = TypeAdapter(dict[str, float])


def file_of(data: Path) -> Path:
    """Path of the key file."""
    return DataDirectory(data).keys


def read(data: Path) -> tuple[StoredKey, ...] | None:
    """The keys, oldest first; None: no key was ever created. Raises SettingsError (keys_damaged) naming the file."""
    file = file_of(data)
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise damaged(file, f"it has more than {LARGEST} bytes")
        return tuple(_Document.model_validate_json(text).keys)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(file, error.strerror or "it cannot be read") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["loc"] == ("version",):
            raise damaged(file, "its format is that of another version of chatapi") from None
        raise damaged(file, f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()) from None


def damaged(file: Path, reason: str) -> SettingsError:
    """The error for every request while the key file is damaged."""
    message = f"the keys in {file} cannot be used ({reason}), so every request is rejected"
    return SettingsError(f"{message}: restore the file, or remove it and create new keys", code="keys_damaged")


def add(data: Path, name: str, scopes: Sequence[str], rate: int | None = None, days: float | None = None) -> str:
    """Create a key and return it; only its hash is stored. A name is free again when its key is revoked or has expired.

    `rate`: requests per minute; `days`: days until it expires. Raises BadInput, WrongMode, StorageError, SettingsError.
    """
    identity, now = secrets.token_hex(4), time.time()
    _validate(name, scopes, rate, days)
    if days is not None and now < CLOCK_SET:
        message = f"the clock shows {time.strftime('%Y-%m-%d', time.gmtime(now))} and was never set"
        raise WrongMode(f"{message}, so a key cannot expire: set the clock first, or leave out the days")
    text = f"{PREFIX}{identity}_{secrets.token_urlsafe(32)}"
    key = StoredKey(
        id=identity,
        name=name,
        sha256=digest(text.encode()),
        scopes=[scope for scope in SCOPES if scope in scopes],
        rate=rate,
        created=now,
        expires=None if days is None else now + days * 86_400,
        revoked=None,
    )
    with _changing(data) as keys:
        for old in [each for each in keys if each.name == name]:
            if not old.is_dead(now):
                raise WrongMode(f"there is a key {name!r} already: revoke it first, or choose another name")
            keys.remove(old)
        _make_room(keys, now)
        keys.append(key)
    return text


def revoke(data: Path, name: str) -> None:
    """Revoke a key from now on. Raises NotFound, StorageError, SettingsError."""
    with _changing(data) as keys:
        for place, key in enumerate(keys):
            if key.name == name:
                keys[place] = key.model_copy(update={"revoked": key.revoked or time.time()})
                return
        raise NotFound(f"there is no key {name!r}; `chatapi keys list` lists the keys")


def times_used(data: Path) -> dict[str, float]:
    """Id -> time of its last use, to the minute, in seconds since 1970; empty when the file cannot be read."""
    try:
        return _TIMES.validate_json(DataDirectory(data).keys_used.read_bytes())
    except (OSError, ValidationError):
        return {}


def store_times_used(data: Path, times: dict[str, float]) -> None:
    """Update the stored times of last use. Raises OSError."""
    stored = times_used(data) | times
    latest = sorted(stored, key=stored.__getitem__)[-MOST:]
    write(DataDirectory(data).keys_used, _TIMES.dump_json({name: stored[name] for name in latest}))


def digest(text: bytes) -> str:
    """The hash of a key that is stored, in hex."""
    return hashlib.sha256(text).hexdigest()


def write(path: Path, text: bytes) -> None:
    """Replace a file atomically; only its owner can read it. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        private_files.give_to_owner(file.fileno(), path.parent)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def _validate(name: str, scopes: Sequence[str], rate: int | None, days: float | None) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is not a key name: use up to 64 letters, digits, dots, dashes and underscores")
    if name in RESERVED:
        raise BadInput(f"the key name {name!r} is reserved; choose another one")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise BadInput(f"scopes {', '.join(scopes) or 'none'} are not supported ({', '.join(SCOPES)})")
    if rate is not None and not 1 <= rate <= HIGHEST_RATE:
        raise BadInput(f"rate {rate} is not supported (1 to {HIGHEST_RATE} requests per minute)")
    if days is not None and not 0 < days <= 36_500:
        raise BadInput(f"expiry after {days:g} days is not supported (more than 0, up to 36500 days)")


def _make_room(keys: list[StoredKey], now: float) -> None:
    """Remove the oldest revoked or expired key when the file is full. Raises WrongMode when all keys are valid."""
    if len(keys) < MOST:
        return
    dead = next((key for key in keys if key.is_dead(now)), None)
    if dead is None:
        raise WrongMode(f"there are {MOST} keys already, the largest number; revoke one that is not needed")
    keys.remove(dead)


@contextmanager
def _changing(data: Path) -> Iterator[list[StoredKey]]:
    """The keys, locked against other processes; changes are stored when the context ends without an error."""
    try:
        with writing(data):
            private_files.folder(data)
            lock = os.open(DataDirectory(data).keys_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(read(data) or ())
            yield keys
            with writing(data):
                write(file_of(data), _Document.of(keys).model_dump_json(indent=1).encode())
        finally:
            os.close(lock)
    except StorageError as error:
        raise StorageError(f"the keys cannot be stored: {error.message}") from error
