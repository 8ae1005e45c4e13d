"""Live conversation: how soon it answers, whom it cuts off, when it is silent, what it takes for speech."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import numpy as np

from chatapi import corpus, wer
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.bench import Row, Watch
from chatapi.bench.bare import Bare
from chatapi.bench.hearing import CORPUS, spoken
from chatapi.bench.live import scenes
from chatapi.bench.live.picture import drawn
from chatapi.bench.live.room import OpenRoom
from chatapi.bench.live.scenes import STORY
from chatapi.bench.live.stage import Microphone, Stage, headset, stage
from chatapi.corpus import Clip

SILENCE = 0.5
"""Seconds of silence after which the simplest of boxes answers."""
ECHOES = (-20, -12, -6)
"""Decibels of the loudspeaker's echo at the microphone, above what is played."""
PICTURE = "bench/live.svg"
"""Where in the data directory the picture of all timelines is left."""
LONGEST = 6.0
"""Seconds of the longest clip used."""


_stages: list[tuple[str, Stage]] = []
"""Of the run in progress, for its picture."""


@asynccontextmanager
async def _stage(
    name: str, appliance: Appliance, microphone: Microphone = headset, seed: int = 0
) -> AsyncIterator[Stage]:
    async with stage(appliance.live, microphone, seed) as made:
        _stages.append((name, made))
        yield made


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


async def measure(appliance: Appliance, bare: Bare, rounds: int) -> AsyncIterator[Row]:
    """Every round has four questions, three hesitations, two interruptions, four noises and 20 s without a word."""
    clips = [clip for clip in corpus.read(CORPUS, "held-out", ["en"]) if not clip.noise and clip.seconds < LONGEST]
    clips = clips[:: max(1, len(clips) // (9 * rounds))]
    request = await spoken(appliance, STORY)
    async for row in _answers(appliance, bare, clips[: 4 * rounds]):
        yield row
    yield await _hesitations(appliance, clips[: 3 * rounds])
    async for row in _interruptions(appliance, request, clips[-2 * rounds :]):
        yield row
    yield await _disturbances(appliance, request, rounds)
    yield await _open_room(appliance, request, rounds)
    yield await _quiet(appliance, rounds)
    await anyio.to_thread.run_sync(_keep, appliance.settings.data / PICTURE, drawn(_stages))
    _stages.clear()


async def _answers(appliance: Appliance, bare: Bare, clips: Sequence[Clip]) -> AsyncIterator[Row]:
    latencies, ratios, errors, words, unanswered = [], [], 0, 0, 0
    async with _stage("questions", appliance) as room:
        for clip in clips:
            answered = await scenes.question(room, clip)
            chain = SILENCE + await _chain(appliance, bare, clip.samples)
            said = wer.words(clip.text)
            errors, words = errors + wer.edits(said, wer.words(answered.asked)), words + len(said)
            if answered.latency is None:
                unanswered += 1
                continue
            latencies.append(answered.latency)
            ratios.append(answered.latency / chain)
    yield Row("live", f"end of speech to first sound, median of {len(latencies)}", _of(latencies, 50), "s", 0.45)
    yield Row("live", "end of speech to first sound, 95th percentile", _of(latencies, 95), "s", 0.8)
    yield Row("live", "times half a second of silence and the bare chain", statistics.median(ratios), "", 0.7)
    yield Row("live", "questions that were not answered", unanswered, "", 0)
    yield Row("live", "word errors", 100 * errors / max(1, words), "%")


async def _chain(appliance: Appliance, bare: Bare, samples: Samples) -> float:
    """Seconds the bare engines take to hear, think and speak the same."""
    watch = Watch()
    text = await anyio.to_thread.run_sync(bare.hear, samples)
    reply, _ = await anyio.to_thread.run_sync(bare.think, text, 60)
    await anyio.to_thread.run_sync(bare.speak, reply)
    return watch.seconds


async def _hesitations(appliance: Appliance, clips: Sequence[Clip]) -> Row:
    cut = []
    async with _stage("hesitations", appliance) as room:
        for number, clip in enumerate(clips):
            cut.append(await scenes.hesitation(room, clip, scenes.PAUSES[number % len(scenes.PAUSES)]))
    return Row("live", f"cut off in a pause of 0.4 to 1 s, of {len(cut)}", scenes.share(cut), "%", 10)


async def _interruptions(appliance: Appliance, request: Samples, clips: Sequence[Clip]) -> AsyncIterator[Row]:
    found = []
    for clip in clips:
        async with _stage("interruption", appliance) as room:
            found.append(await scenes.interruption(room, request, clip))
    times = [each for each in found if each is not None]
    yield Row("live", f"interruption to silence, 95th percentile of {len(times)}", _of(times, 95), "s", 0.25)
    yield Row("live", "interruptions missed", scenes.share([each is None for each in found]), "%", 5)


async def _disturbances(appliance: Appliance, request: Samples, rounds: int) -> Row:
    random = np.random.default_rng(1)
    lost = []
    for _ in range(rounds):
        sounds = scenes.noises(random)
        sounds["mhm"] = await spoken(appliance, "Mhm.")
        for sound in sounds.values():
            async with _stage("noise", appliance) as room:
                lost.append(await scenes.disturbance(room, request, sound))
    return Row("live", f"answers lost to coughs, doors, keys and mhm, of {len(lost)}", sum(lost), "", 0)


async def _open_room(appliance: Appliance, request: Samples, rounds: int) -> Row:
    found = 0
    for number in range(rounds):
        for decibels in ECHOES:
            room = OpenRoom(decibels, np.random.default_rng(number))
            async with _stage(f"echo {decibels} dB", appliance, room, number) as on_stage:
                found += await scenes.monologue(on_stage, request)
    what = f"answers to itself, echo of {ECHOES[0]} to {ECHOES[-1]} dB, of {rounds * len(ECHOES)}"
    return Row("live", what, found, "", 0)


async def _quiet(appliance: Appliance, rounds: int) -> Row:
    random = np.random.default_rng(2)
    seconds = 10
    turns = 0
    for _ in range(rounds):
        hiss = 0.05 * corpus.coloured(seconds * RATE, random, falling=True)
        async with _stage("quiet", appliance) as room:
            turns += await scenes.quiet(room, hiss)
            turns += await scenes.quiet(room, scenes.music(seconds, random))
    return Row("live", f"turns made of {2 * rounds * seconds} s of noise and music", turns, "", 0)


def _of(found: Sequence[float], percent: float) -> float:
    return float(np.percentile(found, percent)) if found else float("nan")
