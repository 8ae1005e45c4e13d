"""What happens on the stage: questions, pauses in the middle, interruptions, and noises that are none."""

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
"""Seconds somebody hesitates in the middle of a sentence."""
MEANT = 0.2
"""Seconds after somebody goes on in which the box's first sound was meant for the pause."""
STORY = "Tell me a long story about the sea and a ship."


@dataclass(frozen=True)
class QuestionResult:
    """A turn and its answer."""

    latency: float | None
    """Seconds from the last sound of speech to the first of the answer; None: none came."""
    asked: str
    """What was understood, as far as it was answered."""


async def question(stage: Harness, clip: Clip) -> QuestionResult:
    """Ask, and hear the answer begin; the next one is asked when it is over."""
    start, end = await stage.say(clip.samples, clip.text)
    await stage.answered(end)
    first = stage.speaker.first(end)
    await stage.wait(0.5)
    return QuestionResult(None if first is None else first - end, _understood(stage, start))


def _understood(stage: Harness, since: float) -> str:
    """What was answered since: a turn may be over before its last faint sound, or taken for two."""
    asked: list[str] = []
    for at, event in stage.events:
        if at >= since and isinstance(event, ResponseStarted):
            asked.append(event.user_text)
        elif at >= since and asked and isinstance(event, Interrupted) and event.retracted:
            asked.pop()
    return " ".join(asked)


class PauseResult(Enum):
    """What became of a pause in the middle of a sentence."""

    WAITED = "waited"
    TAKEN_BACK = "taken back"
    """The turn was taken for over, and what came of it taken back before anything was heard."""
    CUT_OFF = "cut off"
    """The box spoke into it."""


async def hesitation(stage: Harness, hesitation: Hesitation, pause: float, patience: float = 30) -> PauseResult:
    """Stop in the middle of a sentence and go on; the answer may take `patience` seconds."""
    _, middle = await stage.say(hesitation.before)
    await stage.wait(pause)
    resumed = stage.now
    _, end = await stage.say(hesitation.after, hesitation.text)
    await stage.answered(end, patience)
    spoke = stage.speaker.first(middle)
    taken_back = any(
        isinstance(event, ResponseStarted) and middle <= at < resumed + MEANT for at, event in stage.events
    )
    await stage.wait(0.5)
    if spoke is not None and spoke < resumed + MEANT:
        return PauseResult.CUT_OFF
    return PauseResult.TAKEN_BACK if taken_back else PauseResult.WAITED


class ScenarioSkipped(Exception):
    """The box did not speak, or not for long, so that nothing can be said of how it is interrupted."""


async def begin_story(stage: Harness, request: Samples) -> float:
    """Have the box speak for long; when it was asked to. Raises ScenarioSkipped unless it does, and goes on."""
    _, end = await stage.say(request, STORY)
    if not await stage.until(lambda: stage.speaker.first(end) is not None):
        raise ScenarioSkipped
    await stage.wait(1.0)
    # Not between two sentences: who speaks into such a pause finds it silent at once.
    if not await stage.until(lambda: stage.speaker.sounding, 2):
        raise ScenarioSkipped
    if not stage.speaker.busy:
        raise ScenarioSkipped
    return end


@dataclass(frozen=True)
class InterruptionResult:
    """An answer that was spoken against."""

    seconds: float | None
    """From the onset of speech until nothing more of the answer is heard; None: it went on."""
    cut_off: bool = False
    """Whether the next answer was heard before all was said."""


async def interruption(stage: Harness, request: Samples, clip: Clip) -> InterruptionResult:
    """Speak against an answer."""
    await begin_story(stage, request)
    start, end = await stage.say(clip.samples, clip.text)
    given_up = await stage.until(lambda: stage.came(Interrupted, start) > 0, 3)
    await stage.answered(end)
    await stage.wait(0.5)
    if not given_up:
        return InterruptionResult(None)
    # What is said may have a pause in which it is answered: that is no more of the answer it was said against.
    next_one = next((at for at, event in stage.events if at > start and isinstance(event, ResponseStarted)), end)
    stopped = stage.speaker.last(start, min(end, next_one)) or start
    return InterruptionResult(
        max(0.0, stopped - start), next_one < end and stage.speaker.last(next_one, end) is not None
    )


async def disturbance(stage: Harness, request: Samples, sound: Samples) -> bool:
    """A noise that means nothing against an answer: whether the rest of the answer was lost."""
    asked, before = await begin_story(stage, request), stage.now
    await stage.say(sound)
    await stage.answered(asked, 40)
    lost = stage.came(Interrupted, before) > 0
    await stage.wait(0.5)
    return lost


async def monologue(stage: Harness, request: Samples) -> int:
    """The box speaks and nobody else: how often it interrupted or answered itself."""
    asked = await begin_story(stage, request)
    await stage.answered(asked, 60)
    await stage.wait(3)
    return stage.came(Interrupted, asked) + max(0, stage.came(ResponseStarted, asked) - 1)


async def quiet(stage: Harness, sound: Samples) -> int:
    """Noise and music without a word: how many turns were made of it."""
    before = stage.now
    await stage.say(sound)
    await stage.wait(2)
    return stage.came(ResponseStarted, before)


def noises(random: np.random.Generator) -> dict[str, Samples]:
    """A cough, a door, keys and a hum, made of noise."""
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
    """Of those that are true, in percent; not a number, which meets no target, when there are none."""
    return 100 * sum(found) / len(found) if found else float("nan")
