"""Authentication: named API keys, stored hashed in the data directory, and the running server's checks."""

from __future__ import annotations

from chatapi.auth.key_store import (
    ALL,
    MOST,
    OPERATE,
    PREFIX,
    SCOPES,
    TALK,
    StoredKey,
    add,
    file_of,
    read,
    revoke,
    times_used,
)
from chatapi.auth.keyring import ANYBODY, KeyHolder, Keyring, local_key
from chatapi.auth.rate_limit import TokenBuckets

__all__ = [
    "ALL",
    "ANYBODY",
    "MOST",
    "OPERATE",
    "PREFIX",
    "SCOPES",
    "TALK",
    "KeyHolder",
    "Keyring",
    "StoredKey",
    "TokenBuckets",
    "add",
    "file_of",
    "local_key",
    "read",
    "revoke",
    "times_used",
]
