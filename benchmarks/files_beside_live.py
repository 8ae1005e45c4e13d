"""What transcription jobs do to a live conversation, and short clips at once beside one by one.

    .venv/bin/python benchmarks/files_beside_live.py live --files 8 --questions 8
    .venv/bin/python benchmarks/files_beside_live.py clips --clips 200

`live` asks the same questions of a server that does nothing else, and while it transcribes that many long recordings;
both parts measure in turns, so that other load of the machine affects both. The server has the settings of this
machine; further ones follow `--set`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import anyio
import httpx
from long_recording import ROOT, stitched

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.bench import corpus
from chatapi.bench.live import scenarios
from chatapi.bench.live.harness import MAX_TOKENS
from chatapi.bench.live.realtime import RealtimeTransport
from chatapi.bench.process import served
from chatapi.interfaces.audio_device.realtime_link import parse_address
from chatapi.settings import Settings

LONGEST = 6.0
"""Duration of the longest question, in seconds."""
FILE_SECONDS = 1800.0
"""Length of each recording, in seconds: longer than all questions."""
SECONDS = 600
MOST = 1.2
LEAST = 2.0
"""The goals: first audio at most so many times that of an idle box; clips at once at least so many times as fast."""


class Jobs:
    """The transcription jobs of a server."""

    def __init__(self, client: httpx.AsyncClient, count: int) -> None:
        self._client, self._count = client, count
        self._ids: list[str] = []

    async def start(self, content: bytes) -> None:
        """Add them, and wait until one of them is transcribed."""
        for number in range(self._count):
            files = {"file": (f"{number}.wav", content)}
            answer = await self._client.post("/transcriptions", files=files)
            self._ids.append(answer.raise_for_status().json()["id"])
        while True:
            if await self.seconds():
                return
            await anyio.sleep(0.5)

    async def seconds(self) -> float:
        """Seconds of the recordings that are transcribed."""
        found = [(await self._client.get(f"/jobs/{each}")).json() for each in self._ids]
        # Before its first part a job has read its recording, which is the first hundredth.
        return sum(FILE_SECONDS * max(0.0, each["progress"] - 0.025) for each in found)

    async def end(self) -> None:
        """Delete them."""
        for each in self._ids:
            await self._client.post(f"/jobs/{each}/cancel")
            await self._client.delete(f"/jobs/{each}")
        self._ids.clear()


async def _latencies(transport: RealtimeTransport, clips: Sequence[corpus.Clip]) -> list[float]:
    """The time from the end of each question to the first audio, in seconds, of those that were answered."""
    async with transport.open_harness(most=MAX_TOKENS) as harness:
        found = [await scenarios.question(harness, clip) for clip in clips]
    return [each.latency for each in found if each.latency is not None]


async def live(given: Settings, chosen: argparse.Namespace) -> None:
    """Print the median first audio of an idle box, and beside the recordings."""
    held_out = corpus.read(ROOT / "tests/corpus", "held-out", ["en"])
    clips = [clip for clip in held_out if not clip.noise and clip.seconds < LONGEST][: chosen.questions]
    samples, _ = stitched(FILE_SECONDS, 7)
    content = wav(Audio(samples, RATE))
    idle: list[float] = []
    busy: list[float] = []
    done = spent = 0.0
    with served(given, "llm.temperature=0", f"llm.max_tokens={MAX_TOKENS}", "audio_device.enabled=false") as at:
        transport = RealtimeTransport(parse_address(at[0], None, None, given.data))
        async with httpx.AsyncClient(base_url=at[0], timeout=SECONDS) as client:
            await _latencies(transport, clips[:1])
            for _ in range(chosen.rounds):
                idle += await _latencies(transport, clips)
                jobs = Jobs(client, chosen.files)
                await jobs.start(content)
                before, begun = await jobs.seconds(), time.monotonic()
                busy += await _latencies(transport, clips)
                done += await jobs.seconds() - before
                spent += time.monotonic() - begun
                await jobs.end()
    ratio = statistics.median(busy) / statistics.median(idle)
    asked = chosen.rounds * len(clips)
    print(f"idle: median first audio {statistics.median(idle):.3f} s, {len(idle)} of {asked} questions answered")
    print(f"beside {chosen.files} files: {statistics.median(busy):.3f} s, {len(busy)} of {asked} answered")
    print(f"{ratio:.2f} times idle (goal: at most {MOST}); {done / spent:.1f} s of recordings a second meanwhile")


async def clips(given: Settings, chosen: argparse.Namespace) -> None:
    """Print how long short clips take one by one, and at once."""
    found = [each for each in corpus.read(ROOT / "tests/corpus", languages=["en"]) if not each.noise]
    chosen_clips = [wav(Audio(found[number % len(found)].samples, RATE)) for number in range(chosen.clips)]
    with served(given, f"limits.queue={chosen.clips}", f"server.connections_per_address={chosen.clips}") as at:
        limits = httpx.Limits(max_connections=chosen.clips)
        async with httpx.AsyncClient(base_url=at[0], timeout=SECONDS, limits=limits) as client:

            async def ask(content: bytes) -> None:
                form = {"model": "whisper-1", "response_format": "text"}
                answer = await client.post("/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data=form)
                if not answer.is_success:
                    raise SystemExit(f"{answer.status_code}: {answer.text}")

            await ask(chosen_clips[0])
            one_by_one = at_once = 0.0
            # In turns, so that other load of the machine affects both.
            for number in range(chosen.rounds):
                share = chosen_clips[number :: chosen.rounds]
                begun = time.monotonic()
                for each in share:
                    await ask(each)
                one_by_one, begun = one_by_one + time.monotonic() - begun, time.monotonic()
                async with anyio.create_task_group() as group:
                    for each in share:
                        group.start_soon(ask, each)
                at_once += time.monotonic() - begun
    print(f"{chosen.clips} clips in {chosen.rounds} rounds: one by one {one_by_one:.1f} s, at once {at_once:.1f} s")
    print(f"{one_by_one / at_once:.2f} times as fast (goal: at least {LEAST})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("live", "clips"))
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="times that both are measured, in turns")
    parser.add_argument("--set", action="append", default=[], help="a further setting, KEY=VALUE")
    chosen = parser.parse_args()
    given = settings.load(chosen.set).settings
    anyio.run(live if chosen.part == "live" else clips, given, chosen)


if __name__ == "__main__":
    main()
