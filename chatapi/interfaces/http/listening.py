"""The listening sockets of HTTP servers. Apart from the application, which takes long to import."""

from __future__ import annotations

import os
import socket

from chatapi.errors import SettingsError

BACKLOG = 128
"""Most connections that the system queues until they are accepted."""


def listening_socket(host: str, port: int, table: str = "server") -> socket.socket:
    """A listening socket. `table`: the settings table of the address, for messages.

    Raises SettingsError when the address is in use or not local.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        # Python's arguments message repeats the address.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; set {table}.host or {table}.port") from error
    # Accepted connections inherit it. Without it the second packet of a response waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
