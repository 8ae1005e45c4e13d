"""The transports over which scenarios run, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from chatapi.appliance import Appliance
from chatapi.bench import Row
from chatapi.bench.live import devices
from chatapi.bench.live.harness import MAX_TOKENS, Harness
from chatapi.bench.live.in_process import InProcessTransport
from chatapi.bench.live.realtime import RealtimeTransport
from chatapi.bench.process import served
from chatapi.errors import BadInput
from chatapi.interfaces.audio_device.realtime_link import parse_address
from chatapi.settings import Settings

NAMES = ("in_process", "realtime", "devices")


class Transport(Protocol):
    """A way to converse with the box; it opens one harness at a time."""

    def open_harness(
        self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AbstractAsyncContextManager[Harness]:
        """A harness with a conversation of its own. `echo`: level of the loudspeaker at the microphone, relative to the
        played audio, in dB; None: no echo. `seed`: seed of the noises; `most`: longest answer, in tokens."""
        ...

    async def rows(self) -> list[Row]:
        """Measurements of the transport itself, after all scenarios."""
        ...


@asynccontextmanager
async def open_transport(name: str, appliance: Appliance, hurry: bool = False) -> AsyncIterator[Transport]:
    """Open a transport by its name. Raises BadInput.

    `hurry`: as if computing took no time, and without waiting for the clock; only in_process supports it.
    """
    if name not in NAMES:
        raise BadInput(f"transport {name!r} is not supported ({', '.join(NAMES)})")
    if hurry and name != "in_process":
        raise BadInput(f"--hurry is not supported with --transport {name}; use --transport in_process")
    if name == "in_process":
        yield InProcessTransport(appliance.live, hurry)
    elif name == "realtime":
        with served(
            appliance.settings, "llm.temperature=0", f"llm.max_tokens={MAX_TOKENS}", "audio_device.enabled=false"
        ) as at:
            yield RealtimeTransport(parse_address(at[0], _key(appliance.settings), None, appliance.settings.data))
    else:
        async with devices.open_devices(appliance.settings) as found:
            yield found


def _key(settings: Settings) -> str | None:
    return settings.server.api_key.get_secret_value() if settings.server.api_key is not None else None
