"""Pauses in the middle of sentences: how many are taken for the end, by us and by what others go by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench import Row
from chatapi.bench.corpus import Hesitation
from chatapi.bench.live.harness import HISS
from chatapi.bench.live.scenarios import PAUSES, PauseResult, share
from chatapi.engines import EndOfTurnDetector
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker

SILENCE = 0.5
"""Seconds of silence after which a box that knows no more ends a turn."""
JUDGED = 0.2
"""Seconds of silence after which Pipecat asks Smart Turn, which it then obeys from a probability of 0.5 on."""


def lengths(count: int) -> list[float]:
    """Of so many pauses, in seconds."""
    return [PAUSES[number % len(PAUSES)] for number in range(count)]


async def rows(
    fates: Sequence[PauseResult], clips: Sequence[Hesitation], turn: Worker[EndOfTurnDetector]
) -> AsyncIterator[Row]:
    """Ours, and on the same clips and pauses what silence alone and Smart Turn alone make of them."""
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
    heard = (sound + random.normal(0, HISS, len(sound))).astype(np.float32)
    async with turn.stream(lambda engine, stop: engine.end_of_turn_probability(heard, stop), Priority.LIVE) as found:
        return [probability async for probability in found][-1] > 0.5
