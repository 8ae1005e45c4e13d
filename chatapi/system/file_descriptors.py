"""File descriptors of the process: how many there may be, and what is kept free of connections."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

MOST = 65_536
"""Descriptors that are asked for: more are never needed, and some libraries loop over all that there may be."""
RESERVE = 192
"""Descriptors that connections leave free: listening sockets, models, history, logs, child processes, uploads."""


def raise_limit(most: int = MOST) -> int:
    """Raises the soft limit towards the hard one, at most to `most`; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limit()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of %d open files cannot be raised to %d: %s", soft, wanted, error)
    return limit()


def limit() -> int:
    """Descriptors that this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else soft


def for_connections(wanted: int, reserve: int = RESERVE) -> int:
    """As many connections as are wanted, or fewer where the limit leaves no descriptors for them beside `reserve`."""
    return max(16, min(wanted, limit() - reserve))
