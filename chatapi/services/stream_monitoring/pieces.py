"""What a source of sound gives: pieces of audio and gaps, each with its time; and the clips that are cut from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import SOUND_RATE

Reason = Literal["not_found", "corrupt", "short", "silent", "restart", "unreachable", "absent"]
"""Why a stretch is missing: its segment answered 404, could not be decoded, had less audio than stated, was digital
silence; the stream began anew; the source could not be reached; there is no recording of that time."""
SILENCE = 2 / 32768
"""Amplitude up to which a piece is digital silence: a hydrophone that works is never so quiet."""
TOLERANCE = 0.25
"""Seconds by which a piece may begin off the end of the one before and still continue it."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Audio that was heard."""

    start: float
    """Seconds since 1970."""
    seconds: float
    """As the source states it; the samples may differ by a few milliseconds."""
    samples: Samples
    """Mono at SOUND_RATE."""
    folder: str = ""
    """Folder of an HLS tree, with which the source can be resumed."""

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Missing:
    """A stretch without audio."""

    start: float
    """Seconds since 1970."""
    seconds: float
    reason: Reason
    folder: str = ""

    @property
    def end(self) -> float:
        return self.start + self.seconds


Found = Piece | Missing
Take = Callable[[Found], Awaitable[None]]


class SoundSource(Protocol):
    """A place's audio."""

    @property
    def address(self) -> str:
        """Where it comes from, for people."""

    async def read(self, take: Take) -> None:
        """Give pieces and gaps in the order of time to `take`, and wait for it. A recording ends; a live source goes
        on, whatever happens.

        Raises NotFound, BadInput or WaitAndRetry where a recording cannot be had at all, and what `take` raises.
        """


def checked(start: float, seconds: float, samples: Samples, folder: str = "") -> list[Found]:
    """A decoded segment as a piece, with what is missing of the stated seconds."""
    if len(samples) and float(np.abs(samples).max()) <= SILENCE:
        return [Missing(start, seconds, "silent", folder)]
    decoded = len(samples) / SOUND_RATE
    if decoded >= seconds - TOLERANCE:
        # More than what is stated would be heard twice.
        return [Piece(start, seconds, samples[: round(seconds * SOUND_RATE)], folder)]
    missing = Missing(start + decoded, seconds - decoded, "short", folder)
    return [Piece(start, decoded, samples, folder), missing] if len(samples) else [Missing(start, seconds, "short")]


@dataclass(frozen=True, eq=False)
class SoundClip:
    """Audio without a gap, which is judged as a whole."""

    start: float
    """Seconds since 1970."""
    samples: Samples
    folder: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / SOUND_RATE


class ClipCutter:
    """Cuts pieces into clips of equal length; a gap ends a clip early, and nothing is joined across it."""

    def __init__(self, seconds: float) -> None:
        self._length = self._next = round(seconds * SOUND_RATE)
        self._parts: list[Samples] = []
        self._start = self._end = 0.0
        self._folder = ""

    def change(self, seconds: float) -> None:
        """Cut clips of another length, after the one in progress."""
        self._next = round(seconds * SOUND_RATE)
        if not self._parts:
            self._length = self._next

    def add(self, piece: Piece) -> list[SoundClip]:
        """The clips that are complete with this piece."""
        found = []
        if self._parts and (abs(piece.start - self._end) > TOLERANCE or piece.folder != self._folder):
            found += self.gap()
        if not self._parts:
            self._start = piece.start
        self._parts.append(piece.samples)
        self._end, self._folder = piece.end, piece.folder
        while sum(map(len, self._parts)) >= self._length:
            joined = np.concatenate(self._parts)
            found.append(SoundClip(self._start, joined[: self._length], self._folder))
            rest, self._length = joined[self._length :], self._next
            self._parts = [rest] if len(rest) else []
            # What is left ends where the piece does, so that small errors of lengths do not add up.
            self._start = self._end - len(rest) / SOUND_RATE
        return found

    def gap(self) -> list[SoundClip]:
        """What was collected so far as a shorter clip, if anything was."""
        parts, self._parts, self._length = self._parts, [], self._next
        return [SoundClip(self._start, np.concatenate(parts), self._folder)] if parts else []
