"""The server of `--server`: its address, the key for it, and whose certificate is valid."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from chatapi.settings import Settings


@dataclass(frozen=True)
class ChosenServer:
    """A server for HTTP clients."""

    name: str
    """Scheme, host and port."""
    url: str
    """The URL of its routes."""
    key: str | None
    verify: Any
    """Whose certificate is valid, as httpx takes it."""


async def chosen_server(settings: Settings, chosen: argparse.Namespace) -> ChosenServer:
    """The server of `--server`, `--key` and `--fingerprint`. Raises Unprocessable, and the errors of a certificate."""
    from chatapi.auth import tls_pinning
    from chatapi.client.connecting import KEY
    from chatapi.interfaces.audio_device.realtime_link import ENDPOINT, parse_address

    own = settings.server.api_key
    key = chosen.key or os.environ.get(KEY) or (own.get_secret_value() if own is not None else None)
    address = parse_address(chosen.server, key, chosen.fingerprint, settings.data)
    verify: Any = True
    if address.secure:
        verify = await anyio.to_thread.run_sync(
            tls_pinning.secured, address.host, address.port, address.data, address.accept
        )
    return ChosenServer(address.name, address.name + address.path.removesuffix(ENDPOINT), key, verify)
