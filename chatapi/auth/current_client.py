"""The client for whom the present task works, for what depends on its key deep inside a turn."""

from __future__ import annotations

from contextvars import ContextVar

from chatapi.auth.scopes import OPERATE, KeyHolder

_current: ContextVar[KeyHolder | None] = ContextVar("current_client", default=None)


def enter(holder: KeyHolder) -> None:
    """From now on this task, and those that it starts, work for this client."""
    _current.set(holder)


def holder() -> KeyHolder | None:
    """The client; None: the box itself."""
    return _current.get()


def owner() -> str | None:
    """The owner of what the client may see; None: all, for operators and for work of the box itself."""
    client = _current.get()
    return None if client is None or client.may((OPERATE,)) else client.owner_id
