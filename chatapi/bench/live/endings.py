"""Scenario: questions that begin in the last second of an answer; none of them may be lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.bench import Row
from chatapi.bench.live.harness import Harness
from chatapi.bench.live.scenarios import ScenarioSkipped
from chatapi.events import (
    Failed,
    Interrupted,
    ResponseStarted,
    Resumed,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TurnEnded,
)

MAX_TOKENS = 16
"""Longest answer, in tokens."""
LAST = 1.0
"""Time before the end of an answer in which questions begin, in seconds."""
PATIENCE = 10.0
"""Time after the end of a question after which it counts as lost, in seconds."""
IN_A_ROW = 10
"""Number of questions in one conversation."""
REPEATED = 6
"""Largest number of words of an answer that a question repeats."""
PITCH = 1.15
"""Factor by which the box's own voice is raised to become another speaker's."""

Question = Callable[[str], Awaitable[Samples]]
"""Returns the next question's speech, given the text of the answer before."""


@dataclass(frozen=True)
class Ending:
    """A question that began shortly before the end of an answer."""

    left: float
    """Rest of the answer when the question began, in seconds."""
    fate: str
    """answered, failed (an error was reported), or what happened instead."""

    @property
    def lost(self) -> bool:
        return self.fate not in ("answered", "failed")


async def answered_aloud(harness: Harness, opening: Samples) -> float:
    """Get a spoken answer. Returns when the question began; raises ScenarioSkipped after three failures."""
    for _ in range(3):
        start, _ = await harness.say(opening)
        if await harness.until(partial(harness.came, TurnEnded, start)) and harness.speaker.remaining:
            return start
        await harness.wait(4)
    raise ScenarioSkipped


async def series(
    harness: Harness, opening: Samples, question: Question, count: int, random: np.random.Generator
) -> list[Ending]:
    """Ask `count` questions, each in the last second of the answer to the one before. Raises ScenarioSkipped."""
    found: list[Ending] = []
    asked: float | None = None
    while len(found) < count:
        if asked is None:
            asked = await answered_aloud(harness, opening)
        sound, left = await question(_answer(harness, asked)), LAST * random.random()
        await harness.until(partial(_left, harness, left), 60)
        if not (left := harness.speaker.remaining or 0):
            # The synthesis of the question took longer than the answer lasted.
            await harness.wait(4)
            asked = None
            continue
        start, _ = await harness.say(sound)
        found.append(Ending(left, await _fate(harness, start)))
        asked = start
        if found[-1].fate != "answered" or not await harness.until(partial(_ended, harness, start), 30):
            await harness.wait(4)
            asked = None
    return found


def _left(harness: Harness, most: float) -> bool:
    return (harness.speaker.remaining or 0) <= most


def _ended(harness: Harness, since: float) -> bool:
    """Whether the newest answer is generated completely and is about to be played to its end."""
    started = max(at for at, event in harness.events if isinstance(event, ResponseStarted))
    return harness.came(TurnEnded, max(since, started)) > 0


def _answer(harness: Harness, since: float) -> str:
    """The text of the newest answer."""
    words: list[str] = []
    for at, event in harness.events:
        if isinstance(event, ResponseStarted):
            words.clear()
        elif isinstance(event, TextDelta) and at >= since:
            words.append(event.text)
    return "".join(words)


async def _fate(harness: Harness, since: float) -> str:
    """The fate of a question that has just been asked."""

    def happened(kind: type) -> int:
        return harness.came(kind, since)

    def answers() -> int:
        taken_back = sum(
            isinstance(event, Interrupted) and event.retracted and at >= since for at, event in harness.events
        )
        return happened(ResponseStarted) - taken_back

    if await harness.until(lambda: answers() > 0 or happened(Failed) > 0, PATIENCE):
        return "answered" if answers() > 0 else "failed"
    if not happened(SpeechStarted):
        return "not noticed"
    if happened(Resumed):
        return "the answer resumed"
    no_speech = any(
        isinstance(event, SpeechStopped) and not event.answered and at >= since for at, event in harness.events
    )
    return "taken for no speech" if no_speech else "without an answer"


def repeated(answer: str) -> str:
    """The last words of an answer, as a question."""
    words = answer.split()[-REPEATED:]
    return f"{' '.join(words).rstrip('.,;:!?')}?" if words else "What did you say?"


def another_voice(own: Samples) -> Samples:
    """The box's own voice, raised, so that repeated words are not its own echo."""
    return Audio(own, round(RATE * PITCH)).at(RATE).samples


def row(what: str, found: Sequence[Ending]) -> Row:
    """The number of lost questions, and the reasons."""
    fates = Counter(each.fate for each in found)
    early = [f"{each.left:.1f} s: {each.fate}" for each in found if each.lost]
    note = "; ".join([", ".join(f"{fate} {count}" for fate, count in fates.most_common()), *early])
    lost = sum(each.lost for each in found) if found else float("nan")
    return Row("live", f"{what}, lost of {len(found)}", lost, "", 0, note=note)
