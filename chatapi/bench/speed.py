"""Each engine through its worker against the bare library, with the other engines loaded."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator

import anyio.to_thread

from chatapi.appliance import Appliance
from chatapi.bench import Row, Stopwatch, in_turns, ratio
from chatapi.bench.bare import Bare
from chatapi.bench.recognition import SENTENCES, spoken
from chatapi.engines import LanguageModel, PromptMessage, Sampling, Transcriber
from chatapi.engines.call import EngineCall

PROMPT = "Write a story about a lighthouse keeper."
TOKENS = 120


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    """Tokens per second, then seconds of audio transcribed per second."""

    async def tokens_ours() -> float:
        return await _tokens_per_second(appliance)

    async def tokens_bare() -> float:
        return (await anyio.to_thread.run_sync(bare.generate, PROMPT, TOKENS))[1]

    ours, floor = await in_turns(rounds, tokens_ours, tokens_bare)
    yield Row("speed", "tokens a second, bare xllamacpp", statistics.median(floor), "/s")
    yield Row("speed", "tokens a second, times bare xllamacpp", ratio(ours, floor), "", 0.97, True)

    clips = [await spoken(appliance, sentence) for sentence in SENTENCES[:4]]

    async def heard_ours() -> float:
        watch = Stopwatch()
        for clip in clips:
            async with appliance.engines.asr.stream(EngineCall.of(Transcriber.transcribe, clip, "en")) as segments:
                async for _ in segments:
                    pass
        return sum(map(len, clips)) / watch.seconds

    async def heard_bare() -> float:
        watch = Stopwatch()
        for clip in clips:
            await anyio.to_thread.run_sync(bare.transcribe, clip)
        return sum(map(len, clips)) / watch.seconds

    ours, floor = await in_turns(rounds, heard_ours, heard_bare)
    yield Row("speed", "transcription speed, times bare pywhispercpp, same window", ratio(ours, floor), "", 0.97, True)


async def _tokens_per_second(appliance: Appliance) -> float:
    """Speed from the first token to the last."""
    messages = [PromptMessage("system", appliance.settings.llm.system_prompt), PromptMessage("user", PROMPT)]
    sampling = Sampling(max_tokens=TOKENS, temperature=0)
    count, watch, last = 0, Stopwatch(), 0.0
    async with appliance.engines.llm.stream(EngineCall.of(LanguageModel.generate, messages, sampling)) as pieces:
        async for piece in pieces:
            if piece.text:
                count += 1
                if count == 1:
                    watch = Stopwatch()
                last = watch.seconds
    return (count - 1) / last
