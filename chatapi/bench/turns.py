"""Whole turns against the bare engines called one after another."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator

import anyio.to_thread

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.bench import Row, Stopwatch, in_turns, ratio
from chatapi.bench.bare import Bare
from chatapi.bench.recognition import spoken
from chatapi.events import TurnEnded, TurnTimings
from chatapi.services.turns.completion import Turn

QUESTION = "What is the capital of France?"
LONG = "Tell me a story about a lighthouse."
LONG_TOKENS = 90
"""Longest answer, in tokens: about three sentences."""
SHORT_TOKENS = 40


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    """Voice in, text and voice out; then a longer answer, streamed against unstreamed."""
    samples = await spoken(appliance, QUESTION)
    question = wav(Audio(samples, RATE))
    for speak in (False, True):

        async def ours(speak: bool = speak) -> float:
            watch = Stopwatch()
            await _turn(appliance, Turn(audio=question, speak=speak, temperature=0, max_tokens=SHORT_TOKENS))
            return watch.seconds

        async def theirs(speak: bool = speak) -> float:
            return await anyio.to_thread.run_sync(_chain, bare, samples, speak)

        mine, floor = await in_turns(rounds, ours, theirs)
        kind = "voice" if speak else "text"
        yield Row("turns", f"voice in, {kind} out, bare engines", statistics.median(floor), "s")
        yield Row("turns", f"voice in, {kind} out, times the bare engines", ratio(mine, floor), "", 1.05)
    async for row in _streamed(appliance, rounds):
        yield row


async def _streamed(appliance: Appliance, rounds: int) -> AsyncIterator[Row]:
    """First audio of a streamed answer against the same answer unstreamed, which is sent when it is complete."""
    turn = Turn(prompt=LONG, speak=True, temperature=0, max_tokens=LONG_TOKENS)

    async def first() -> float:
        return (await _turn(appliance, turn)).first_audio or 0.0

    async def whole() -> float:
        watch = Stopwatch()
        await _turn(appliance, turn)
        return watch.seconds

    begun, all_of_it = await in_turns(rounds, first, whole)
    yield Row("turns", "first sound of a three-sentence answer", statistics.median(begun), "s")
    yield Row("turns", "first sound, times the unstreamed whole", ratio(begun, all_of_it), "", 0.5)


async def _turn(appliance: Appliance, turn: Turn) -> TurnTimings:
    async with appliance.completions.run(turn) as events:
        async for event in events:
            if isinstance(event, TurnEnded):
                return event.timings
    raise RuntimeError("the turn did not end")


def _chain(bare: Bare, samples: Samples, speak: bool) -> float:
    """Time of the same work with the bare engines, one after another, in seconds."""
    watch = Stopwatch()
    bare.detect(samples)
    transcript = bare.transcribe(samples)
    answer, _ = bare.generate(transcript, SHORT_TOKENS)
    if speak:
        bare.synthesize(answer)
    return watch.seconds
