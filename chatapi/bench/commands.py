"""Commands of a word or two, and audio without speech: how many are lost, and how many words are hallucinated."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.bench import Row, background, corpus, wer
from chatapi.bench.bare import Bare
from chatapi.bench.recognition import CORPUS
from chatapi.errors import Unprocessable
from chatapi.runtime.admission import Priority

SILENCE = 0.6
"""Silence before and after a command, in seconds."""
SECONDS = 60
"""Length of each sound without speech, in seconds."""
PIECE = 6
"""Length of the pieces in which the recognizer gets such a sound, in seconds."""


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    """The shares of the commands, and the hallucinated words; `bare` and `rounds` are not used."""
    del bare, rounds
    if (CORPUS / corpus.COMMANDS).exists():
        for name, silence in (("cut tightly", 0.0), (f"with {SILENCE:g} s of silence", SILENCE)):
            async for row in _commands(appliance, name, silence):
                yield row
    async for row in _hallucinated(appliance):
        yield row


async def _commands(appliance: Appliance, name: str, silence: float) -> AsyncIterator[Row]:
    padding = np.zeros(round(silence * RATE), np.float32)
    found = [
        (clip.text, await _transcript(appliance, np.concatenate([padding, clip.samples, padding])))
        for clip in corpus.commands(CORPUS)
    ]
    right = sum(wer.words(text) == wer.words(transcript) for text, transcript in found)
    lost = sum(not transcript for _, transcript in found)
    yield Row("commands", f"{len(found)} commands {name}: lost", 100 * lost / len(found), "%", 5)
    yield Row("commands", f"{len(found)} commands {name}: right", 100 * right / len(found), "%")


async def _hallucinated(appliance: Appliance) -> AsyncIterator[Row]:
    voiced = unasked = 0
    for _, sound in background.sounds(SECONDS):
        voiced += len(wer.words(await _transcript(appliance, sound)))
        for start in range(0, len(sound), PIECE * RATE):
            piece = sound[start : start + PIECE * RATE]
            heard = await appliance.transcriber.transcribe_samples(piece, "en", Priority.REQUEST)
            unasked += len(wer.words(heard.text))
    seconds = SECONDS * len(background.SOUNDS)
    yield Row("commands", f"words in {seconds} s of silence, noise, hum and music", voiced, "", 0)
    yield Row("commands", f"words in the same {seconds} s without voice activity detection", unasked, "")


async def _transcript(appliance: Appliance, samples: Samples) -> str:
    try:
        return (await appliance.transcriber.transcribe_utterance(Audio(samples, RATE), "en")).text
    except Unprocessable:
        return ""
