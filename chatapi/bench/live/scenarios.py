"""Scenarios: questions, hesitations, interruptions, and noises that must not interrupt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench.corpus import Clip, Hesitation, coloured
from chatapi.bench.live.harness import Harness
from chatapi.events import Interrupted, ResponseStarted

PAUSES = (0.4, 0.7, 1.0)
"""Durations of pauses in the middle of a sentence, in seconds."""
MEANT = 0.2
"""Time after the end of a pause in which the first audio of an answer still belongs to the pause, in seconds."""
STORY = "Tell me a long story about the sea and a ship."


@dataclass(frozen=True)
class QuestionResult:
    """The result of a question."""

    latency: float | None
    """Time from the end of speech to the first audio of the answer, in seconds; None: no answer."""
    asked: str
    """The transcript that was answered."""


async def question(harness: Harness, clip: Clip) -> QuestionResult:
    """Ask a question and wait for the end of the answer."""
    start, end = await harness.say(clip.samples, clip.text)
    await harness.answered(end)
    first = harness.speaker.first(end)
    await harness.wait(0.5)
    return QuestionResult(None if first is None else first - end, _understood(harness, start))


def _understood(harness: Harness, since: float) -> str:
    """The transcripts answered since: a turn may end before its last faint sound, or be split in two."""
    asked: list[str] = []
    for at, event in harness.events:
        if at >= since and isinstance(event, ResponseStarted):
            asked.append(event.user_text)
        elif at >= since and asked and isinstance(event, Interrupted) and event.retracted:
            asked.pop()
    return " ".join(asked)


class PauseResult(Enum):
    """The effect of a pause in the middle of a sentence."""

    WAITED = "waited"
    TAKEN_BACK = "taken back"
    """The turn ended, and its answer was retracted before it was played."""
    CUT_OFF = "cut off"
    """The answer was played into the pause."""


async def hesitation(harness: Harness, hesitation: Hesitation, pause: float, patience: float = 30) -> PauseResult:
    """Pause in the middle of a sentence and continue; the answer may take `patience` seconds."""
    _, middle = await harness.say(hesitation.before)
    await harness.wait(pause)
    resumed = harness.now
    _, end = await harness.say(hesitation.after, hesitation.text)
    await harness.answered(end, patience)
    spoke = harness.speaker.first(middle)
    taken_back = any(
        isinstance(event, ResponseStarted) and middle <= at < resumed + MEANT for at, event in harness.events
    )
    await harness.wait(0.5)
    if spoke is not None and spoke < resumed + MEANT:
        return PauseResult.CUT_OFF
    return PauseResult.TAKEN_BACK if taken_back else PauseResult.WAITED


class ScenarioSkipped(Exception):
    """The box gave no answer, or too short a one, so the scenario cannot be measured."""


async def begin_story(harness: Harness, request: Samples) -> float:
    """Get a long spoken answer. Returns the end of the request; raises ScenarioSkipped when the answer is too short."""
    _, end = await harness.say(request, STORY)
    if not await harness.until(lambda: harness.speaker.first(end) is not None):
        raise ScenarioSkipped
    await harness.wait(1.0)
    # Not between two sentences, where the answer is silent anyway.
    if not await harness.until(lambda: harness.speaker.sounding, 2):
        raise ScenarioSkipped
    if not harness.speaker.busy:
        raise ScenarioSkipped
    return end


@dataclass(frozen=True)
class InterruptionResult:
    """The result of a barge-in."""

    seconds: float | None
    """Time from the onset of speech until the answer is silent, in seconds; None: it was not interrupted."""
    cut_off: bool = False
    """Whether the next answer was played before the end of the speech."""


async def interruption(harness: Harness, request: Samples, clip: Clip) -> InterruptionResult:
    """Interrupt an answer by speech."""
    await begin_story(harness, request)
    start, end = await harness.say(clip.samples, clip.text)
    interrupted = await harness.until(lambda: harness.came(Interrupted, start) > 0, 3)
    await harness.answered(end)
    await harness.wait(0.5)
    if not interrupted:
        return InterruptionResult(None)
    # The speech may have a pause in which it is answered; that is not the interrupted answer.
    next_one = next((at for at, event in harness.events if at > start and isinstance(event, ResponseStarted)), end)
    stopped = harness.speaker.last(start, min(end, next_one)) or start
    return InterruptionResult(
        max(0.0, stopped - start), next_one < end and harness.speaker.last(next_one, end) is not None
    )


async def disturbance(harness: Harness, request: Samples, sound: Samples) -> bool:
    """Play a noise during an answer. Returns whether the noise interrupted it."""
    asked, before = await begin_story(harness, request), harness.now
    await harness.say(sound)
    await harness.answered(asked, 40)
    lost = harness.came(Interrupted, before) > 0
    await harness.wait(0.5)
    return lost


async def monologue(harness: Harness, request: Samples) -> int:
    """Let the box speak alone. Returns how often it interrupted or answered itself."""
    asked = await begin_story(harness, request)
    await harness.answered(asked, 60)
    await harness.wait(3)
    return harness.came(Interrupted, asked) + max(0, harness.came(ResponseStarted, asked) - 1)


async def quiet(harness: Harness, sound: Samples) -> int:
    """Play noise or music without speech. Returns the number of turns it caused."""
    before = harness.now
    await harness.say(sound)
    await harness.wait(2)
    return harness.came(ResponseStarted, before)


def noises(random: np.random.Generator) -> dict[str, Samples]:
    """A cough, a door and keys, generated from noise."""
    burst = coloured(RATE // 4, random, falling=True) * np.hanning(RATE // 4)
    cough = np.concatenate([burst, np.zeros(RATE // 10), 0.7 * burst])
    decay = np.exp(-np.arange(RATE // 2) / (RATE / 12))
    door = coloured(RATE // 2, random, falling=True) * decay
    keys = np.where(np.arange(RATE) % (RATE // 7) < 60, 1.0, 0.0) * random.normal(0, 1, RATE)
    found = {"cough": cough, "door": door, "keys": keys}
    return {name: (0.3 * sound / np.abs(sound).max()).astype(np.float32) for name, sound in found.items()}


def music(seconds: float, random: np.random.Generator) -> Samples:
    """Chords of struck strings, a beat every half second."""
    out = np.zeros(int(seconds * RATE))
    length = RATE * 3 // 2
    times = np.arange(length) / RATE
    for beat in range(int(seconds * 2) - 3):
        root = 220 * 2 ** (random.choice([0, 3, 5, 7, 10]) / 12)
        at = beat * RATE // 2
        for ratio, harmonic in itertools.product((1, 1.26, 1.5), (1, 2, 3)):
            string = np.sin(2 * np.pi * root * ratio * harmonic * times) / harmonic**2
            out[at : at + length] += string * np.exp(-4 * times)
    sound: Samples = (0.2 * out / max(1e-9, np.abs(out).max())).astype(np.float32)
    return sound


def share(found: Sequence[bool]) -> float:
    """The share of true values, in percent; NaN, which meets no target, when there are none."""
    return 100 * sum(found) / len(found) if found else float("nan")
