"""The process's limit of file descriptors, and how many of them connections may use."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

MOST = 65_536
"""Largest limit that is set: more descriptors are never needed, and some libraries loop over all possible ones."""
RESERVE = 192
"""Descriptors reserved for listening sockets, models, history, logs, child processes and uploads."""


def raise_limit(most: int = MOST) -> int:
    """Raise the soft limit to the hard one, at most to `most`. Returns the limit."""
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
    """Largest number of open descriptors of this process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else soft


def for_connections(wanted: int, reserve: int = RESERVE) -> int:
    """The wanted number of connections, or fewer if the limit less `reserve` does not allow them; at least 16."""
    return max(16, min(wanted, limit() - reserve))
