"""Speech recognition: word errors on a corpus of many voices, and on the box's own voice."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.bench import Row, corpus, wer
from chatapi.bench.bare import Bare
from chatapi.bench.corpus import Clip
from chatapi.engines import VoiceActivityDetector
from chatapi.engines.registry import load
from chatapi.errors import Unprocessable
from chatapi.services.transcription import segmenter
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import Settings

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"
SHORT = 8.0
"""Duration below which a clip counts as short, in seconds."""

SENTENCES = (
    "The capital of France is Paris.",
    "Water boils at one hundred degrees.",
    "Tomorrow will be sunny with a light breeze from the west.",
    "I have set a timer for ten minutes.",
    "The train to the city leaves at half past seven.",
    "You have three new messages.",
    "The kitchen lights are on.",
    "My favourite season is autumn, because the leaves turn red.",
    "There are seven days in a week.",
    "Please close the door when you leave.",
    "The moon goes around the earth in about one month.",
    "A group of lions is called a pride.",
    "It is time to water the plants in the garden.",
    "She bought two apples, a loaf of bread and some cheese.",
    "The library opens at nine in the morning.",
    "Elephants are the largest animals that live on land.",
    "Could you say that again, more slowly?",
    "The shortest way to the station is over the bridge.",
    "He plays the piano every evening after dinner.",
    "The answer to your question is forty two.",
    "Honey never spoils if it is kept dry.",
    "We will meet at the old market on Saturday.",
    "The heating is set to twenty degrees.",
    "Good night, and sleep well.",
)
"""Synthesized and transcribed by the box."""


@dataclass
class _Tally:
    """The results of one engine: reference and transcript, and the computing time in seconds."""

    pairs: list[tuple[str, str]]
    seconds: float = 0.0
    short_seconds: float = 0.0


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    if (CORPUS / corpus.TABLE).exists():
        clips = list(corpus.read(CORPUS, "held-out", ["en"]))
        for row in await anyio.to_thread.run_sync(_compared, appliance, clips):
            yield row
    rate = await _own_voice(appliance)
    yield Row("hearing", f"word errors, the box's own voice, {len(SENTENCES)} sentences", 100 * rate, "%")


def _compared(appliance: Appliance, clips: Sequence[Clip]) -> list[Row]:
    """The trimmed encoder against the full window, clip by clip, on the speech that the VAD finds."""
    models = [appliance.catalog.open(appliance.active["asr"])]
    engine = appliance.settings.asr.engine
    ways = [load("asr", engine)(_trimming(appliance.settings, engine, trim), models) for trim in (True, False)]
    detector: VoiceActivityDetector = appliance.engines.vad.engine
    tallies = [_Tally([]), _Tally([])]
    for clip in clips:
        samples = segmenter.trim(clip.samples, detector.probabilities(clip.samples)).samples
        for way, tally in zip(ways, tallies, strict=True):
            since = time.perf_counter()
            text = " ".join(segment.text for segment in way.transcribe(samples, "en")) if len(samples) else ""
            taken = time.perf_counter() - since
            tally.pairs.append((clip.text, text))
            tally.seconds += taken
            tally.short_seconds += taken if len(samples) < SHORT * RATE else 0
    ours, full = tallies
    points = [100 * wer.word_error_rate(tally.pairs) for tally in tallies]
    return [
        Row("hearing", f"word errors, {len(clips)} clips", points[0], "%"),
        Row("hearing", "word errors above the full window's", points[0] - points[1], "points", 0.5),
        Row(
            "hearing", "time of short clips, times the full window's", ours.short_seconds / full.short_seconds, "", 0.5
        ),
    ]


def _trimming(settings: Settings, engine: str, trim: bool) -> Settings:
    return settings.model_copy(update={engine: getattr(settings, engine).model_copy(update={"trim": trim})})


async def _own_voice(appliance: Appliance) -> float:
    """Word error rate of the box's transcripts of its own voice."""
    pairs = [
        (sentence, await _heard(appliance.transcriber, Audio(await spoken(appliance, sentence), RATE)))
        for sentence in SENTENCES
    ]
    return wer.word_error_rate(pairs)


async def spoken(appliance: Appliance, text: str) -> Samples:
    """A text in the box's own voice, with half a second of silence around it."""
    silence = np.zeros(RATE // 2, np.float32)
    parts = [part.at(RATE).samples async for part in appliance.synthesis.synthesize_text(text)]
    return np.concatenate([silence, *parts, silence])


async def _heard(hearing: FileTranscriber, audio: Audio) -> str:
    try:
        return (await hearing.transcribe_utterance(audio, "en")).text
    except Unprocessable:
        return ""
