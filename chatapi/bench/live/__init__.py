"""Measures live conversation: latency, turns cut off, barge-in, false interruptions, and word errors."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.bench import Row, Stopwatch, corpus, sound_card
from chatapi.bench.bare import Bare
from chatapi.bench.corpus import Clip
from chatapi.bench.live import budget, endings, pauses, scenarios
from chatapi.bench.live.budget import Budget
from chatapi.bench.live.endings import Ending
from chatapi.bench.live.harness import MAX_TOKENS, Harness
from chatapi.bench.live.scenarios import STORY
from chatapi.bench.live.timeline import Timeline, drawn, timeline
from chatapi.bench.live.transcripts import TranscriptComparison
from chatapi.bench.live.transport import Transport, open_transport
from chatapi.bench.recognition import CORPUS, spoken
from chatapi.events import TurnEnded
from chatapi.storage.layout import DataDirectory

SILENCE = 0.5
"""Silence after which the simplest system ends a turn, in seconds."""
ECHOES = (-20, -12, -6)
"""Levels of the loudspeaker's echo at the microphone, relative to the played audio, in dB."""
SCENARIOS = ("questions", "hesitations", "interruptions", "noises", "echo", "quiet", "endings")
HESITATIONS = 6
"""Number of hesitations per round."""
LONGEST = 6.0
"""Duration of the longest clip used, in seconds."""


class LiveBench:
    """Opens harnesses one after another, each with a conversation of its own, and collects their timelines."""

    def __init__(
        self, transport: Transport, request: Samples, words: TranscriptComparison, hurry: bool = False
    ) -> None:
        self.request = request
        """Speech that asks for a long story."""
        self.timelines: list[Timeline] = []
        self.budgets: list[Budget] = []
        """The budgets of the questions that were answered."""
        self.hurry = hurry
        """Whether time is skipped: then the timings of an answer, which are real, are no part of its latency."""
        self.words = words
        """Comparison of the questions' transcripts."""
        self._transport = transport

    @asynccontextmanager
    async def open_harness(
        self, name: str, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AsyncIterator[Harness]:
        """A harness that records a timeline; `echo`: level of the loudspeaker's echo at the microphone, relative to the
        played audio, in dB; None: no echo."""
        async with self._transport.open_harness(echo, seed, most) as made:
            try:
                yield made
            finally:
                self.timelines.append(timeline(name, made))


async def measure(
    appliance: Appliance,
    bare: Bare,
    rounds: int,
    transport: str = "realtime",
    chosen: Sequence[str] = (),
    hurry: bool = False,
) -> AsyncIterator[Row]:
    """Measure the chosen scenarios of `SCENARIOS`, or all, over a transport of `transport.NAMES`; yields one row when
    it is not available. `hurry`: see `open_transport`."""
    part = f"live, {transport}"
    if transport == "devices" and not sound_card.installed():
        yield Row(part, f"not measured: {sound_card.INSTALL}", float("nan"), "")
        return
    async with open_transport(transport, appliance, hurry) as found:
        bench = LiveBench(found, await spoken(appliance, STORY), TranscriptComparison(appliance.transcriber), hurry)
        async for row in _played(bench, appliance, bare, rounds, chosen or SCENARIOS):
            yield replace(row, part=part)
        for row in await found.rows():
            yield replace(row, part=part)


async def _played(
    bench: LiveBench, appliance: Appliance, bare: Bare, rounds: int, chosen: Sequence[str]
) -> AsyncIterator[Row]:
    """A round has four questions, six hesitations, two interruptions, four noises, 100 s of noise and music, and ten
    questions of each kind at the end of an answer."""
    clips = [clip for clip in corpus.read(CORPUS, "held-out", ["en"]) if not clip.noise and clip.seconds < LONGEST]
    clips = clips[:: max(1, len(clips) // (9 * rounds))]
    mhm = await spoken(appliance, "Mhm.")
    played: dict[str, AsyncIterator[Row]] = {
        "questions": _answers(bench, bare, clips[: 4 * rounds]),
        "hesitations": _hesitations(bench, appliance, rounds),
        "interruptions": _interruptions(bench, clips[-2 * rounds :]),
        "noises": _disturbances(bench, mhm, rounds),
        "echo": _open_room(bench, rounds),
        "quiet": _quiet(bench, rounds),
        "endings": _endings(bench, appliance, rounds),
    }
    for name in chosen:
        async for row in played[name]:
            yield row
    data = DataDirectory(appliance.settings.data)
    await anyio.to_thread.run_sync(_keep, data.bench_picture, drawn(bench.timelines))
    if bench.budgets:
        await anyio.to_thread.run_sync(_keep, data.bench_budget, budget.drawn(bench.budgets))


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


async def _answers(bench: LiveBench, bare: Bare, clips: Sequence[Clip]) -> AsyncIterator[Row]:
    latencies, ratios, budgets, unanswered = [], [], [], 0
    async with bench.open_harness("questions") as harness:
        for clip in clips:
            begun = harness.now
            answered = await scenarios.question(harness, clip)
            chain = SILENCE + await _chain(bare, clip.samples)
            await bench.words.add(clip, answered.asked)
            if answered.latency is None:
                unanswered += 1
                continue
            latencies.append(answered.latency)
            ratios.append(answered.latency / chain)
            ended = [event.timings for at, event in harness.events if at >= begun and isinstance(event, TurnEnded)]
            if ended and not bench.hurry and (found := Budget.of(answered.latency, ended[-1])):
                budgets.append(found)
    yield Row("live", f"end of speech to first sound, median of {len(latencies)}", _of(latencies, 50), "s", 0.32)
    yield Row("live", "end of speech to first sound, 95th percentile", _of(latencies, 95), "s", 0.55)
    yield Row("live", "times half a second of silence and the bare chain", _of(ratios, 50), "", 0.7)
    yield Row("live", "questions that were not answered", unanswered, "", 0)
    bench.budgets += budgets
    for row in (*budget.rows(budgets), *bench.words.rows()):
        yield row


async def _chain(bare: Bare, samples: Samples) -> float:
    """Time the bare engines take for ASR, LLM and TTS of the same question, in seconds."""
    watch = Stopwatch()
    text = await anyio.to_thread.run_sync(bare.transcribe, samples)
    reply, _ = await anyio.to_thread.run_sync(bare.generate, text, 60)
    await anyio.to_thread.run_sync(bare.synthesize, reply)
    return watch.seconds


async def _hesitations(bench: LiveBench, appliance: Appliance, rounds: int) -> AsyncIterator[Row]:
    every = corpus.hesitations(CORPUS)
    clips = [every[number % len(every)] for number in range(HESITATIONS * rounds)]
    async with bench.open_harness("hesitations") as harness:
        lengths = pauses.lengths(len(clips))
        fates = [await scenarios.hesitation(harness, clip, pause) for clip, pause in zip(clips, lengths, strict=True)]
    turn = appliance.engines.turn_detection
    await turn.open()
    async for row in pauses.rows(fates, clips, turn):
        yield row


async def _interruptions(bench: LiveBench, clips: Sequence[Clip]) -> AsyncIterator[Row]:
    found: list[scenarios.InterruptionResult] = []
    for clip in clips:
        with suppress(scenarios.ScenarioSkipped):
            async with bench.open_harness("interruption") as harness:
                found.append(await scenarios.interruption(harness, bench.request, clip))
    times = [each.seconds for each in found if each.seconds is not None]
    cut_off = sum(each.cut_off for each in found)
    note = f"median {_of(times, 50):.2f} s; {cut_off} of them were answered before the end of the speech"
    yield Row("live", f"interruption to silence, 95th percentile of {len(times)}", _of(times, 95), "s", 0.25, note=note)
    missed = [each.seconds is None for each in found]
    yield Row("live", f"interruptions missed, of {len(missed)}", scenarios.share(missed), "%", 5)


async def _disturbances(bench: LiveBench, mhm: Samples, rounds: int) -> AsyncIterator[Row]:
    random = np.random.default_rng(1)
    lost: dict[str, list[bool]] = {}
    for _ in range(rounds):
        for name, sound in {**scenarios.noises(random), "mhm": mhm}.items():
            with suppress(scenarios.ScenarioSkipped):
                async with bench.open_harness(name) as harness:
                    lost.setdefault(name, []).append(await scenarios.disturbance(harness, bench.request, sound))
    counts = ", ".join(f"{name} {sum(found)} of {len(found)}" for name, found in lost.items())
    yield Row("live", f"answers lost to a noise: {counts}", _sum(sum(found) for found in lost.values()), "", 0)


async def _open_room(bench: LiveBench, rounds: int) -> AsyncIterator[Row]:
    found = []
    for number in range(rounds):
        for decibels in ECHOES:
            with suppress(scenarios.ScenarioSkipped):
                async with bench.open_harness(f"echo {decibels} dB", decibels, number) as harness:
                    found.append(await scenarios.monologue(harness, bench.request))
    what = f"answers to itself, echo of {ECHOES[0]} to {ECHOES[-1]} dB, of {len(found)}"
    yield Row("live", what, _sum(found), "", 0)


async def _quiet(bench: LiveBench, rounds: int) -> AsyncIterator[Row]:
    random = np.random.default_rng(2)
    seconds = 50
    turns = 0
    for _ in range(rounds):
        hiss = 0.05 * corpus.coloured(seconds * RATE, random, falling=True)
        async with bench.open_harness("quiet") as harness:
            turns += await scenarios.quiet(harness, hiss)
            turns += await scenarios.quiet(harness, scenarios.music(seconds, random))
    yield Row("live", f"turns made of {2 * rounds * seconds} s of noise and music", turns, "", 0)


async def _endings(bench: LiveBench, appliance: Appliance, rounds: int) -> AsyncIterator[Row]:
    """Both kinds in turn, so that a busy machine affects both."""
    clips = [clip for clip in corpus.read(CORPUS, "held-out", ["en"]) if not clip.noise and clip.seconds < LONGEST]
    others: Iterator[Clip] = itertools.cycle(clips)
    found: tuple[list[Ending], list[Ending]] = ([], [])
    random = np.random.default_rng(3)

    async def other(_: str) -> Samples:
        return next(others).samples

    async def same(answer: str) -> Samples:
        return endings.another_voice(await spoken(appliance, endings.repeated(answer)))

    for _ in range(rounds):
        for question, kind in zip((other, same), found, strict=True):
            with suppress(scenarios.ScenarioSkipped):
                async with bench.open_harness("endings", most=endings.MAX_TOKENS) as harness:
                    kind += await endings.series(harness, next(others).samples, question, endings.IN_A_ROW, random)
    yield endings.row("questions begun in the last second of an answer", found[0])
    yield endings.row("the same, with the answer's words", found[1])


def _sum(found: Iterable[int]) -> float:
    """The sum; NaN, which meets no target, when there is nothing to add up."""
    counted = list(found)
    return sum(counted) if counted else float("nan")


def _of(found: Sequence[float], percent: float) -> float:
    return float(np.percentile(found, percent)) if found else float("nan")
