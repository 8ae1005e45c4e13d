"""Rows of the hesitations: how many pauses end the turn, in chatapi, by silence alone and by Smart Turn alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench import Row
from chatapi.bench.corpus import Hesitation
from chatapi.bench.live.harness import HISS
from chatapi.bench.live.scenarios import PAUSES, PauseResult, share
from chatapi.engines import EndOfTurnDetector
from chatapi.engines.call import EngineCall
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker

SILENCE = 0.5
"""Silence after which a system without end-of-turn detection ends a turn, in seconds."""
JUDGED = 0.2
"""Silence after which Pipecat calls Smart Turn, in seconds; a probability above 0.5 ends the turn."""


def lengths(count: int) -> list[float]:
    """Durations of `count` pauses, in seconds."""
    return [PAUSES[number % len(PAUSES)] for number in range(count)]


async def rows(
    fates: Sequence[PauseResult], clips: Sequence[Hesitation], turn: Worker[EndOfTurnDetector]
) -> AsyncIterator[Row]:
    """The share of pauses that end the turn: in chatapi, and for the same clips by silence alone and Smart Turn
    alone."""
    of = f"of {len(fates)} pauses of {PAUSES[0]} to {PAUSES[-1]} s"
    yield Row("live", f"cut off, {of}", share([fate is PauseResult.CUT_OFF for fate in fates]), "%", 10)
    yield Row("live", f"taken back unheard, {of}", share([fate is PauseResult.TAKEN_BACK for fate in fates]), "%")
    plain = [pause > SILENCE for pause in lengths(len(clips))]
    yield Row("live", f"the same, turns ended by {SILENCE} s of silence alone", share(plain), "%")
    alone = [await _sounds_finished(turn, clip.before) for clip in clips]
    yield Row("live", "the same, turns ended by Smart Turn alone", share(alone), "%")


async def _sounds_finished(turn: Worker[EndOfTurnDetector], before: Samples) -> bool:
    random = np.random.default_rng(0)
    sound = np.concatenate([np.zeros(RATE // 3, np.float32), before, np.zeros(int(JUDGED * RATE), np.float32)])
    noisy = (sound + random.normal(0, HISS, len(sound))).astype(np.float32)
    async with turn.stream(EngineCall.of(EndOfTurnDetector.end_of_turn_probability, noisy), Priority.LIVE) as found:
        return [probability async for probability in found][-1] > 0.5
