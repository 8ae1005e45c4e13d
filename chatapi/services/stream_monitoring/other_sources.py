"""Places whose audio is a broadcast at a URL, such as Icecast's, or files on this machine."""

from __future__ import annotations

import logging
import math
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
import numpy as np

from chatapi.audio import Samples
from chatapi.audio.decode import blocks
from chatapi.engines import SOUND_RATE
from chatapi.engines.sound_detector.orcahello import TIME_ZONE
from chatapi.errors import BadInput, ChatapiError
from chatapi.services.captions.stream_url import StreamUrl
from chatapi.services.stream_monitoring.pieces import Missing, Take, checked

log = logging.getLogger(__name__)

PIECE_SECONDS = 5.0
"""Length of the pieces of a broadcast and of a file, in seconds."""
LONGEST_PAUSE = 30.0
"""Longest time between two attempts to connect to a broadcast that never answered, in seconds."""
NAMED_TIME = re.compile(r"(\d{4})[_-](\d\d)[_-](\d\d)[_T-](\d\d)[_-](\d\d)[_-](\d\d)(?:_(PST|PDT|UTC|GMT|Z))?")
"""A time in a file's name."""
OFFSETS = {"PST": -8, "PDT": -7}
"""Hours from UTC of the names of zones."""
SUFFIXES = (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".ts", ".wav", ".webm")


class Broadcast:
    """A broadcast. Its time is this machine's when a connection begins, and counts samples from there."""

    def __init__(
        self, url: str, private: bool, trust: ssl.SSLContext | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.address, self._clock = url, clock
        self.state = "connecting"
        """live, or why there is no audio."""
        self._begun = False
        """Whether the connection has audio already."""
        self._end = 0.0
        """Of the last piece, in seconds since 1970; 0: there was none."""
        self._stream = StreamUrl(url, private, math.inf, self._on_state, trust, SOUND_RATE)

    async def _on_state(self, state: str, reason: str) -> None:
        if state == "reconnecting":
            log.warning("stream broke off", extra={"address": self.address, "reason": reason})
            self._begun = False
        self.state = reason or state

    async def read(self, take: Take) -> None:
        pause = 1.0
        while True:
            try:
                async with self._stream.opened() as blocks:
                    await self._pieces(blocks, take)
                return
            except ChatapiError as error:  # noqa: PERF203 - each attempt by itself
                log.warning("stream cannot be read", extra={"address": self.address, "reason": error.message})
                self._begun, self.state = False, error.message
                await anyio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    async def _pieces(self, given: AsyncIterator[Samples], take: Take) -> None:
        held: list[Samples] = []
        async for block in given:
            if not self._begun:
                # What came before the connection broke off ends here.
                await self._give(held, take)
                begun = self._clock() - len(block) / SOUND_RATE
                if self._end and begun > self._end:
                    await take(Missing(self._end, begun - self._end, "unreachable"))
                self._end, self._begun = max(self._end, begun), True
            held.append(block)
            if sum(map(len, held)) >= PIECE_SECONDS * SOUND_RATE:
                await self._give(held, take)
        await self._give(held, take)

    async def _give(self, held: list[Samples], take: Take) -> None:
        """Pass on what was collected as a piece."""
        if held:
            samples = np.concatenate(held)
            held.clear()
            start, self._end = self._end, self._end + len(samples) / SOUND_RATE
            await take(checked(start, len(samples) / SOUND_RATE, samples)[0])


class Recordings:
    """Files, and the files of folders, in the order of their times."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises BadInput where there is no such file."""
        self._files = sorted(_files(paths), key=started)
        self.address = ", ".join(map(str, paths))

    async def read(self, take: Take) -> None:
        """A file that cannot be decoded is a gap of no length; the log names it."""
        for file in self._files:
            at, decoding = started(file), _pieces(file)
            while True:
                try:
                    samples = await anyio.to_thread.run_sync(next, decoding, None)
                except ChatapiError as error:
                    log.warning("file cannot be decoded", extra={"file": str(file), "reason": error.message})
                    break
                if samples is None:
                    break
                await take(checked(at, len(samples) / SOUND_RATE, samples, str(file))[0])
                at += len(samples) / SOUND_RATE


def started(file: Path) -> float:
    """The time at which a recording began, in seconds since 1970: the one in its name, or that of its last change.

    A time without a zone is one of OrcaHello's: US/Pacific.
    """
    if (named := NAMED_TIME.search(file.name)) is not None:
        try:
            local = datetime(*(int(each) for each in named.groups()[:6]))  # type: ignore[arg-type]
        except ValueError:
            return file.stat().st_mtime
        zone = named[7]
        if zone is None:
            return local.replace(tzinfo=ZoneInfo(TIME_ZONE)).timestamp()
        return local.replace(tzinfo=timezone(timedelta(hours=OFFSETS.get(zone, 0)))).timestamp()
    return file.stat().st_mtime


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (each for each in sorted(path.rglob("*")) if each.suffix.lower() in SUFFIXES)
        elif path.is_file():
            yield path
        else:
            raise BadInput(f"there is no file {path}", code="bad_audio")


def _pieces(file: Path) -> Iterator[Samples]:
    """Raises what `blocks` raises."""
    held: list[Samples] = []
    for block in blocks(file, SOUND_RATE):
        held.append(block)
        if sum(map(len, held)) >= PIECE_SECONDS * SOUND_RATE:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)
