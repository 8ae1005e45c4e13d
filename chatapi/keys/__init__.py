"""Who may come in: named keys, kept hashed in the data directory, and what a running server knows of them."""

from __future__ import annotations

from chatapi.keys.kept import ALL, MOST, OPERATE, PREFIX, SCOPES, TALK, Key, add, file_of, read, revoke, times_used
from chatapi.keys.limits import Buckets
from chatapi.keys.ring import ANYBODY, Holder, Keyring, local_key

__all__ = [
    "ALL",
    "ANYBODY",
    "MOST",
    "OPERATE",
    "PREFIX",
    "SCOPES",
    "TALK",
    "Buckets",
    "Holder",
    "Key",
    "Keyring",
    "add",
    "file_of",
    "local_key",
    "read",
    "revoke",
    "times_used",
]
