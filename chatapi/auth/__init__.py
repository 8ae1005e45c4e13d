"""Who may come in: named keys, kept hashed in the data directory, and what a running server knows of them."""

from __future__ import annotations

from chatapi.auth.key_store import ALL, MOST, OPERATE, PREFIX, SCOPES, TALK, Key, add, file_of, read, revoke, times_used
from chatapi.auth.keyring import ANYBODY, Holder, Keyring, local_key
from chatapi.auth.rate_limit import Buckets

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
