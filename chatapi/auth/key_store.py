"""The file of keys: made, hashed, listed and revoked. What is not exactly as it was written lets nobody in.

A key is `chatapi_ID_SECRET`: the prefix, so that a scanner for leaked secrets and people know what it is; a public id,
by which it is looked up; 256 random bits.
"""

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

from chatapi.errors import BadInput, NotFound, SettingsError, StorageError, WrongMode
from chatapi.storage.atomic_files import sync, writing
from chatapi.system import private_files

TALK, OPERATE, ALL = "talk", "operate", "all"
SCOPES = (TALK, OPERATE, ALL)
"""What a key may be for: conversation in every form; the box's state and its microphone's buttons; everything."""
PREFIX = "chatapi_"
RESERVED = ("settings", "local")
"""Names of the keys that are not in the file: `server.api_key`, and the one for commands on this machine."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST = 256
"""Keys kept, revoked ones too."""
FASTEST = 100_000
"""Most requests a minute that a limit can say."""
LARGEST = 1 << 20
"""Bytes of the file that are read; 256 keys take a tenth."""

CLOCK_SET = 1_767_225_600.0
"""2026-01-01 in seconds since 1970: a clock that shows an earlier time was never set."""

Scope = Literal["talk", "operate", "all"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StoredKey(BaseModel):
    """A key as it is kept: enough to know it again, not to make it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole key, in hex. A slow, salted hash makes guessing a password dear; 256 random bits are not guessed at
    any speed, so a plain one is enough, and costs a request nothing."""
    scopes: Annotated[list[Scope], Field(min_length=1)]
    rate: Annotated[int, Field(ge=1, le=FASTEST)] | None
    """Requests a minute; None: as many as there are."""
    created: Seconds
    """This time and those below are in seconds since 1970."""
    expires: Seconds | None
    revoked: Seconds | None

    def fault(self, now: float) -> str:
        """Why it opens nothing any more; empty while it does."""
        if self.revoked is not None:
            return "was revoked"
        if self.expires is None:
            return ""
        if now >= self.expires:
            return "has expired"
        # A board without a battery wakes up in 1970, when nothing had expired yet.
        return "" if now > self.created - 86_400 else "expires, and the box does not know the time yet"

    def gone(self, now: float) -> bool:
        """Whether it will never open anything again, so that its place may be given away."""
        return self.revoked is not None or (self.expires is not None and now >= self.expires)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    keys: Annotated[list[StoredKey], Field(max_length=MOST)]

    @model_validator(mode="after")
    def _once(self) -> _Document:
        if any(len({getattr(key, what) for key in self.keys}) < len(self.keys) for what in ("id", "name")):
            raise ValueError("two keys have the same id or name")
        return self


_TIMES = TypeAdapter(dict[str, float])


def file_of(data: Path) -> Path:
    """Where the keys are kept."""
    return data / "keys.json"


def read(data: Path) -> tuple[StoredKey, ...] | None:
    """The keys, oldest first; None where no key was ever made. Raises SettingsError (keys_damaged) naming the file."""
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
        raise damaged(file, f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()) from None


def damaged(file: Path, why: str) -> SettingsError:
    """What is said to everybody as long as the file is like that."""
    told = f"the keys in {file} cannot be used ({why}), so nobody is let in"
    return SettingsError(f"{told}: restore the file, or remove it and make new keys", code="keys_damaged")


def add(data: Path, name: str, scopes: Sequence[str], rate: int | None = None, days: float | None = None) -> str:
    """Make a key and return it; it is kept nowhere. A name is free again once its key is revoked or has expired.

    `rate` in requests a minute, `days` until it expires. Raises BadInput, WrongMode, StorageError, SettingsError.
    """
    identity, now = secrets.token_hex(4), time.time()
    _judge(name, scopes, rate, days)
    if days is not None and now < CLOCK_SET:
        told = f"the clock shows {time.strftime('%Y-%m-%d', time.gmtime(now))} and was never set"
        raise WrongMode(f"{told}, so that a key that expires would be of no use: set it first, or leave out the days")
    text = f"{PREFIX}{identity}_{secrets.token_urlsafe(32)}"
    made = StoredKey(
        id=identity,
        name=name,
        sha256=digest(text.encode()),
        scopes=[scope for scope in SCOPES if scope in scopes],  # type: ignore[misc]
        rate=rate,
        created=now,
        expires=None if days is None else now + days * 86_400,
        revoked=None,
    )
    with _changing(data) as keys:
        for old in [key for key in keys if key.name == name]:
            if not old.gone(now):
                raise WrongMode(f"there is a key {name!r} already: revoke it first, or take another name")
            keys.remove(old)
        _make_room(keys, now)
        keys.append(made)
    return text


def revoke(data: Path, name: str) -> None:
    """From now on it opens nothing. Raises NotFound, StorageError, SettingsError."""
    with _changing(data) as keys:
        for place, key in enumerate(keys):
            if key.name == name:
                keys[place] = key.model_copy(update={"revoked": key.revoked or time.time()})
                return
        raise NotFound(f"there is no key {name!r}; `chatapi keys list` names them")


def times_used(data: Path) -> dict[str, float]:
    """Id -> when it was last used, to the minute, in seconds since 1970. What cannot be read was not."""
    try:
        return _TIMES.validate_json((data / "keys-used.json").read_bytes())
    except (OSError, ValidationError):
        return {}


def keep_times_used(data: Path, times: dict[str, float]) -> None:
    """Add to what is kept, without waiting for the disk: nothing but a list depends on it. Raises OSError."""
    kept = times_used(data) | times
    latest = sorted(kept, key=kept.__getitem__)[-MOST:]
    write(data / "keys-used.json", _TIMES.dump_json({name: kept[name] for name in latest}))


def digest(text: bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(text).hexdigest()


def write(path: Path, text: bytes) -> None:
    """The old file or the new one, whatever happens, and nobody else's to read. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        private_files.give(file.fileno(), path.parent)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def _judge(name: str, scopes: Sequence[str], rate: int | None, days: float | None) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a key: take up to 64 letters, digits, dots, dashes and underscores")
    if name in RESERVED:
        raise BadInput(f"{name!r} is the name of a key that is always there; take another one")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise BadInput(f"a key's scopes are some of {', '.join(SCOPES)}; {', '.join(scopes) or 'none'} was given")
    if rate is not None and not 1 <= rate <= FASTEST:
        raise BadInput(f"a rate is 1 to {FASTEST} requests a minute; {rate} was given")
    if days is not None and not 0 < days <= 36_500:
        raise BadInput(f"a key expires after up to 36500 days; {days:g} was given")


def _make_room(keys: list[StoredKey], now: float) -> None:
    """The oldest that opens nothing goes. Raises WrongMode where all of them do."""
    if len(keys) < MOST:
        return
    gone = next((key for key in keys if key.gone(now)), None)
    if gone is None:
        raise WrongMode(f"there are {MOST} keys, which is the most; revoke one that nobody needs")
    keys.remove(gone)


@contextmanager
def _changing(data: Path) -> Iterator[list[StoredKey]]:
    """The keys, to be changed by nobody else meanwhile; they are kept when nothing is raised."""
    try:
        with writing(data):
            private_files.folder(data)
            lock = os.open(data / ".keys.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(read(data) or ())
            yield keys
            with writing(data):
                write(file_of(data), _Document(version=1, keys=keys).model_dump_json(indent=1).encode())
        finally:
            os.close(lock)
    except StorageError as fault:
        raise StorageError(f"the keys cannot be kept: {fault.message}") from fault
