"""Commands of a word or two, and audio without speech: how many are lost, and how many words are hallucinated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.bench import Row, background, corpus, wer
from chatapi.bench.bare import Bare
from chatapi.bench.corpus import ShortCommand
from chatapi.bench.recognition import CORPUS
from chatapi.errors import Unprocessable
from chatapi.runtime.admission import Priority

SILENCE = 0.6
"""Silence before and after a command, in seconds."""
SECONDS = 60
"""Length of each sound without speech, in seconds."""
PIECE = 6
"""Length of the pieces in which the recognizer gets such a sound, in seconds."""


UNDERSTOOD = 95
"""Target of the share of clear commands that are understood, in percent."""
HOMOPHONES = {"to": "two", "too": "two", "for": "four", "fore": "four", "ate": "eight", "won": "one", "know": "no",
              "whether": "weather", "wether": "weather", "paws": "pause"}  # fmt: skip
"""Words that sound like a command of the corpus: no context tells which of them is said."""


def understood(text: str, transcript: str) -> bool:
    """Whether the transcript is what a command says, up to homophones and spaces within words."""
    said, found = ("".join(HOMOPHONES.get(word, word) for word in wer.words(each)) for each in (text, transcript))
    return said == found


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    """The shares of the commands, and the hallucinated words; `bare` and `rounds` are not used."""
    del bare, rounds
    if (CORPUS / corpus.COMMANDS).exists():
        clips = corpus.commands(CORPUS)
        for name, silence in (("cut tightly", 0.0), (f"with {SILENCE:g} s of silence", SILENCE)):
            padding = np.zeros(round(silence * RATE), np.float32)
            padded = (np.concatenate([padding, clip.samples, padding]) for clip in clips)
            found = [(clip, await _transcript(appliance, each)) for clip, each in zip(clips, padded, strict=True)]
            clear = [(clip, transcript) for clip, transcript in found if clip.clear]
            yield Row("commands", f"{len(clear)} commands of clear voices {name}: lost", _lost(clear), "%", 5)
            yield _right(clear, f"of clear voices {name}")
            fair = [(clip, transcript) for clip, transcript in clear if is_fair(clip)]
            yield _right(fair, f"of them {name} that two of three other recognizers understand", UNDERSTOOD)
            yield _right([each for each in found if not each[0].clear], f"of hard voices {name}")
    async for row in _hallucinated(appliance):
        yield row


def is_fair(clip: ShortCommand) -> bool:
    """Whether two of the three other recognizers understand a command."""
    return sum(understood(clip.text, each) for each in clip.judged) >= 2


def _lost(found: Sequence[tuple[ShortCommand, str]]) -> float:
    return 100 * sum(not transcript for _, transcript in found) / len(found)


def _right(found: Sequence[tuple[ShortCommand, str]], what: str, target: float | None = None) -> Row:
    """The share that is understood; its note lists the others."""
    wrong = [(clip, transcript) for clip, transcript in found if not understood(clip.text, transcript)]
    note = "; ".join(f"{clip.voice} {clip.text} {transcript or '(nothing)'}" for clip, transcript in wrong)
    share = 100 * (1 - len(wrong) / len(found))
    return Row("commands", f"{len(found)} commands {what}: understood", share, "%", target, at_least=True, note=note)


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
