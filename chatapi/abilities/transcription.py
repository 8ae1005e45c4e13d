"""Understanding speech: a short utterance at once, or a file of any length as it is worked through."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np

from chatapi import segmenter
from chatapi.audio import RATE, Audio, Samples, blocks, decode
from chatapi.engines import Segment
from chatapi.errors import Unprocessable
from chatapi.events import Event, JobProgress, Transcript
from chatapi.gate import Priority
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.workers import Engines


@dataclass(frozen=True)
class Heard:
    """What was understood of an utterance."""

    text: str
    language: str
    start: float
    """Seconds from the start of the audio to the first speech."""
    end: float
    """Seconds from the start of the audio to the end of speech."""
    seconds: float
    """Length of the audio."""


class Transcription:
    """The box's ears."""

    def __init__(self, engines: Engines, settings: Settings, metrics: Metrics) -> None:
        self._vad = engines.vad
        self._asr = engines.asr
        self._settings = settings
        self._metrics = metrics

    def language(self, asked: str | None) -> str | None:
        """The language to listen for; None: to be detected. Raises Unprocessable (unknown_language)."""
        chosen = asked or self._settings.asr.language
        known = self._asr.engine.languages
        if chosen == "auto":
            return known[0] if len(known) == 1 else None
        if chosen not in known:
            names = ", ".join(known)
            raise Unprocessable(
                f"the language {chosen!r} is not understood; these are: {names}", code="unknown_language"
            )
        return chosen

    async def decoded(self, file: bytes | Path) -> Audio:
        """A file as 16 kHz mono, within the limits. Raises what `audio.decode` raises."""
        return await anyio.to_thread.run_sync(decode, file, self._settings.limits.audio_seconds)

    async def hear(self, audio, language, priority):
        seg = None
        async with self._asr.stream(lambda e, stop: e.transcribe(audio.samples, self.language(language), stop), priority) as found:
            segs = [s async for s in found]
        return Heard(" ".join(s.text for s in segs), segs[0].language, 0, audio.seconds, audio.seconds)
