"""Commands beside a live conversation: detects them in its audio, and runs what the settings have for them.

The audio waits in a bounded queue, so that a slow classifier never delays the conversation: what does not fit is left
out, and the detector begins again behind the gap.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.events import CommandDetection
from chatapi.services.command_recognition.actions import CommandActions
from chatapi.services.command_recognition.service import CommandRecognition
from chatapi.services.command_recognition.spotting import CommandSpotter

if TYPE_CHECKING:
    from chatapi.services.live.session import LiveSession

log = logging.getLogger(__name__)

MOST_BLOCKS = 200
"""Blocks of audio that wait at most: some seconds."""


@dataclass(frozen=True)
class LiveCommands:
    """What sessions need for commands."""

    recognition: CommandRecognition
    actions: CommandActions


class CommandListener:
    """Listens to the audio of one session."""

    def __init__(
        self,
        session: LiveSession,
        group: TaskGroup,
        commands: LiveCommands,
        send: Callable[[CommandDetection], Awaitable[None]],
    ) -> None:
        """`group`: of the session; the actions run in it."""
        self._session, self._group, self._commands, self._send = session, group, commands, send
        self._put, self._get = anyio.create_memory_object_stream[tuple[int, Samples]](MOST_BLOCKS)
        self._received = round(session.seconds * RATE)
        """Samples of the session so far."""
        self._gap = False

    def feed(self, samples: Samples) -> None:
        """The next samples, 16 kHz mono, of any number."""
        try:
            self._put.send_nowait((self._received, samples))
        except anyio.WouldBlock:
            self._gap = True
        self._received += len(samples)

    async def run(self) -> None:
        """Detect commands until cancelled; an error of the engine ends a stretch, and not the session."""
        with self._put, self._get:
            while True:
                spotter, self._gap = CommandSpotter(self._commands.recognition), False
                try:
                    await self._follow(spotter)
                except ChatapiError as error:
                    log.warning("commands are not detected: %s", error.message)
                    await anyio.sleep(error.retry_after or 5)

    async def _follow(self, spotter: CommandSpotter) -> None:
        begun: float | None = None
        async for position, samples in self._get:
            begun = position / RATE if begun is None else begun
            async for detected in spotter.feed(samples):
                found = replace(detected, start=round(begun + detected.start, 3), end=round(begun + detected.end, 3))
                await self._send(found)
                # A webhook may take long, and the next command is detected meanwhile.
                self._group.start_soon(self._commands.actions.run, found, self._session)
            if self._gap:
                return
