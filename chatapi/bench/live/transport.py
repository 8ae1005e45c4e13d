"""The doors through which scenes can be played, each with the box behind it."""

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
from chatapi.client.realtime import place
from chatapi.errors import BadInput
from chatapi.settings import Settings

NAMES = ("ability", "realtime", "devices")


class Transport(Protocol):
    """Stages behind it, one at a time."""

    def stage(
        self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AbstractAsyncContextManager[Harness]:
        """A stage with a conversation of its own, whose microphone hears the speaker `echo` decibels above what is
        played; None: not at all. `seed` is that of its noises, `most` the tokens of an answer."""
        ...

    async def rows(self) -> list[Row]:
        """What is to be known of the door itself, once all is played."""
        ...


@asynccontextmanager
async def opened(name: str, appliance: Appliance, hurry: bool = False) -> AsyncIterator[Transport]:
    """A door by its name, until the block ends. Raises BadInput.

    `hurry`: as if computing took no time, and without waiting for the clock, as only the door inside this process can.
    """
    if name not in NAMES:
        raise BadInput(f"there is no door {name!r}; there are: {', '.join(NAMES)}")
    if hurry and name != "ability":
        raise BadInput(f"time cannot be skipped at the door {name!r}; --hurry is for --door ability")
    if name == "ability":
        yield InProcessTransport(appliance.live, hurry)
    elif name == "realtime":
        with served(
            appliance.settings, "llm.temperature=0", f"llm.max_tokens={MAX_TOKENS}", "audio_device.enabled=false"
        ) as at:
            yield RealtimeTransport(place(at[0], _key(appliance.settings), None, appliance.settings.data))
    else:
        async with devices.room(appliance.settings) as found:
            yield found


def _key(settings: Settings) -> str | None:
    return settings.server.api_key.get_secret_value() if settings.server.api_key is not None else None
