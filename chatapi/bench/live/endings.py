"""Questions that begin in the last second of an answer: none of them may be lost."""

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
"""Of an answer whose end is waited for."""
LAST = 1.0
"""Seconds before the end of an answer in which questions begin."""
PATIENCE = 10.0
"""Seconds after its end after which a question counts as lost."""
IN_A_ROW = 10
"""Questions in one conversation."""
REPEATED = 6
"""Words of an answer at most that a question repeats."""
PITCH = 1.15
"""How many times as high the box's own voice is raised to become somebody else's."""

Say = Callable[[str], Awaitable[Samples]]
"""What is said after an answer of these words."""


@dataclass(frozen=True)
class Ending:
    """A question that began shortly before an answer's end."""

    left: float
    """Seconds of the answer that were still to be heard."""
    fate: str
    """answered, failed (an error was reported), or what became of it instead."""

    @property
    def lost(self) -> bool:
        return self.fate not in ("answered", "failed")


async def answered_aloud(stage: Harness, opening: Samples) -> float:
    """Have the box answer; the second at which it was asked. Raises ScenarioSkipped when it does not, three times."""
    for _ in range(3):
        start, _ = await stage.say(opening)
        if await stage.until(partial(stage.came, TurnEnded, start)) and stage.speaker.left:
            return start
        await stage.wait(4)
    raise ScenarioSkipped


async def series(
    stage: Harness, opening: Samples, question: Say, count: int, random: np.random.Generator
) -> list[Ending]:
    """Each of `count` questions begins in the last second of the answer to the one before. Raises ScenarioSkipped."""
    found: list[Ending] = []
    asked: float | None = None
    while len(found) < count:
        if asked is None:
            asked = await answered_aloud(stage, opening)
        sound, left = await question(_answer(stage, asked)), LAST * random.random()
        await stage.until(partial(_left, stage, left), 60)
        if not (left := stage.speaker.left or 0):
            # Its words took longer to be spoken than the answer lasted.
            await stage.wait(4)
            asked = None
            continue
        start, _ = await stage.say(sound)
        found.append(Ending(left, await _fate(stage, start)))
        asked = start
        if found[-1].fate != "answered" or not await stage.until(partial(_ended, stage, start), 30):
            await stage.wait(4)
            asked = None
    return found


def _left(stage: Harness, most: float) -> bool:
    return (stage.speaker.left or 0) <= most


def _ended(stage: Harness, since: float) -> bool:
    """Whether the newest answer is written to its end and is about to be heard to its end."""
    started = max(at for at, event in stage.events if isinstance(event, ResponseStarted))
    return stage.came(TurnEnded, max(since, started)) > 0


def _answer(stage: Harness, since: float) -> str:
    """The words of the newest answer."""
    words: list[str] = []
    for at, event in stage.events:
        if isinstance(event, ResponseStarted):
            words.clear()
        elif isinstance(event, TextDelta) and at >= since:
            words.append(event.text)
    return "".join(words)


async def _fate(stage: Harness, since: float) -> str:
    """What becomes of a question that was just said."""

    def happened(kind: type) -> int:
        return stage.came(kind, since)

    def answers() -> int:
        taken_back = sum(
            isinstance(event, Interrupted) and event.retracted and at >= since for at, event in stage.events
        )
        return happened(ResponseStarted) - taken_back

    if await stage.until(lambda: answers() > 0 or happened(Failed) > 0, PATIENCE):
        return "answered" if answers() > 0 else "failed"
    if not happened(SpeechStarted):
        return "not noticed"
    if happened(Resumed):
        return "the answer resumed"
    unheard = any(isinstance(event, SpeechStopped) and not event.answered and at >= since for at, event in stage.events)
    return "taken for no speech" if unheard else "without an answer"


def repeated(answer: str) -> str:
    """The last words of an answer, as a question."""
    words = answer.split()[-REPEATED:]
    return f"{' '.join(words).rstrip('.,;:!?')}?" if words else "What did you say?"


def another_voice(own: Samples) -> Samples:
    """The box's own voice, raised: who repeats its words is no echo of it."""
    return Audio(own, round(RATE * PITCH)).at(RATE).samples


def row(what: str, found: Sequence[Ending]) -> Row:
    """How many were lost, and to what."""
    fates = Counter(each.fate for each in found)
    early = [f"{each.left:.1f} s: {each.fate}" for each in found if each.lost]
    note = "; ".join([", ".join(f"{fate} {count}" for fate, count in fates.most_common()), *early])
    lost = sum(each.lost for each in found) if found else float("nan")
    return Row("live", f"{what}, lost of {len(found)}", lost, "", 0, note=note)
