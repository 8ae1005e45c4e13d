"""Transcribes the audio in items that a client creates: the conversation holds text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import anyio.to_thread
import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Resampled, Samples
from chatapi.engines import TranscriptionOptions
from chatapi.interfaces.http.realtime.audio_format import RATES, decode_audio
from chatapi.interfaces.http.realtime.client_items import MessageItem, ResponseInput

STEP = RATE // 2
"""Samples that are transcribed at a time, so that the event loop is not blocked."""


async def transcribe_parts(
    appliance: Appliance,
    items: Iterable[ResponseInput],
    form: str,
    language: str | None,
    options: TranscriptionOptions,
) -> None:
    """Sets the transcript of every part that has audio in this format and no transcript; drops the audio.

    `language`: ISO 639-1 code; None: detected. Raises BadInput (invalid_audio), TooLarge (audio_too_long), and Busy.
    """
    for item in items:
        for part in item.content if isinstance(item, MessageItem) else ():
            audio, part.audio = part.audio, ""
            if audio and part.type.endswith("audio") and not part.transcript:
                samples = await anyio.to_thread.run_sync(_samples, audio, form)
                part.transcript = await _transcript(appliance, samples, language, options)


async def _transcript(
    appliance: Appliance, samples: Samples, language: str | None, options: TranscriptionOptions
) -> str:
    service = appliance.transcription_service
    async with service.transcribe_stream(_blocks(samples), language, options) as transcripts:
        return " ".join([transcript.text async for transcript in transcripts if transcript.text])


async def _blocks(samples: Samples) -> AsyncIterator[Samples]:
    for start in range(0, len(samples), STEP):
        yield samples[start : start + STEP]


def _samples(audio: str, form: str) -> Samples:
    """The audio at 16 kHz."""
    resampled = Resampled(RATES[form], RATE)
    return np.concatenate([resampled.feed(decode_audio(audio, form)), resampled.finish()])
