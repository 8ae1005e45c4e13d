"""A file of any length that is decoded once, as it is read."""

from __future__ import annotations

from collections.abc import Iterator

import anyio.from_thread
import numpy as np

from chatapi.audio import RATE, Audio, Samples, skipped
from chatapi.audio.decode import Source, blocks
from chatapi.errors import TooLarge

SINGLE_PASS_SECONDS = 30.0
"""Longest file that is transcribed as one utterance, in seconds: the window of Whisper."""


class DecodedFile:
    """A file that is decoded once, as it is read. Blocking; raises TooLarge (audio_too_long) past `max_seconds`."""

    def __init__(self, source: Source, max_seconds: float | None) -> None:
        self._decoded = blocks(source, report=skipped.report)
        self._max_seconds = max_seconds
        self._samples = 0
        self._start: list[Samples] = []
        """Blocks that `short` has read, and `blocks` has not."""

    @property
    def seconds(self) -> float:
        """Length of what is decoded so far, in seconds."""
        return self._samples / RATE

    def short(self) -> Audio | None:
        """All of the file where it is short enough for a single pass, else None. Call it first, and once."""
        for block in self._next_blocks():
            self._start.append(block)
            if self.seconds > SINGLE_PASS_SECONDS:
                return None
        return Audio(np.concatenate(self._start), RATE)

    def blocks(self) -> Iterator[Samples]:
        """The whole file."""
        start, self._start = self._start, []
        yield from start
        yield from self._next_blocks()

    def close(self) -> None:
        """End decoding."""
        self._decoded.close()

    def _next_blocks(self) -> Iterator[Samples]:
        for block in self._decoded:
            # On cancellation this raises in the thread that runs the generator, and so closes it there.
            anyio.from_thread.check_cancelled()
            self._samples += len(block)
            if self._max_seconds is not None and self.seconds > self._max_seconds:
                raise too_long(self._max_seconds)
            yield block


def too_long(max_seconds: float) -> TooLarge:
    """The error for a file that is longer than so many seconds."""
    return TooLarge(
        f"the audio is longer than {max_seconds:g} seconds; `chatapi transcribe` takes files of any length",
        code="audio_too_long",
        details={"limit_seconds": max_seconds, "param": "file"},
    )
