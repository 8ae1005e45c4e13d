"""Access control: named API keys, scopes, the policy, rate limits, and networks for protocols without keys."""

from __future__ import annotations

from chatapi.auth.client_secrets import SECRET_PREFIX
from chatapi.auth.key_store import MOST, PREFIX, StoredKey, add, file_of, read, revoke, times_used
from chatapi.auth.keyring import Keyring, local_key
from chatapi.auth.policy import Operation, allowed, has_http_route, http_methods, http_operation, is_needed, operation
from chatapi.auth.rate_limit import TokenBuckets
from chatapi.auth.scopes import ALL, ANYBODY, OPERATE, SCOPES, TALK, TRANSCRIBE, KeyHolder

__all__ = [
    "ALL",
    "ANYBODY",
    "MOST",
    "OPERATE",
    "PREFIX",
    "SCOPES",
    "SECRET_PREFIX",
    "TALK",
    "TRANSCRIBE",
    "KeyHolder",
    "Keyring",
    "Operation",
    "StoredKey",
    "TokenBuckets",
    "add",
    "allowed",
    "file_of",
    "has_http_route",
    "http_methods",
    "http_operation",
    "is_needed",
    "local_key",
    "operation",
    "read",
    "revoke",
    "times_used",
]
