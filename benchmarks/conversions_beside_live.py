"""What voice conversions do to a live conversation.

    .venv/bin/python benchmarks/conversions_beside_live.py --clients 4 --questions 8

Asks the same questions of a server that does nothing else, and while so many clients convert recordings one after
another, in turns, so that other load of the machine affects both. Further settings follow `--set`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import anyio
import httpx
from conversion import CORPUS, joined, source_of, speech_of

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.bench import corpus
from chatapi.bench.live import scenarios
from chatapi.bench.live.harness import MAX_TOKENS
from chatapi.bench.live.realtime import RealtimeTransport
from chatapi.bench.process import served
from chatapi.interfaces.audio_device.realtime_link import parse_address
from chatapi.settings import Settings

TARGET, SOURCE = "two_cities", "austen"
LONGEST = 6.0
"""Duration of the longest question, in seconds."""
MOST = 1.2
"""The goal: first audio at most so many times that of an idle box."""
SECONDS = 600


async def latencies(transport: RealtimeTransport, clips: Sequence[corpus.Clip]) -> list[float]:
    """The time from the end of each question to the first audio, in seconds, of those that were answered."""
    async with transport.open_harness(most=MAX_TOKENS) as harness:
        found = [await scenarios.question(harness, clip) for clip in clips]
    return [each.latency for each in found if each.latency is not None]


class Conversions:
    """Clients that convert one recording after another."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client, self._source = client, wav(Audio(source_of(SOURCE)[0], RATE))
        self.seconds = 0.0
        """Converted audio."""
        self.begun = anyio.Event()

    async def add_voice(self) -> None:
        clip = wav(Audio(joined([each for each, _ in speech_of(TARGET)]), RATE))
        form = {"name": TARGET, "consent": "a public recording"}
        answer = await self._client.post("/voices", data=form, files={"clips": ("clip.wav", clip)})
        answer.raise_for_status()

    async def run(self) -> None:
        """Converts until it is cancelled."""
        while True:
            form = {"voice": TARGET, "stream": "true"}
            files = {"source": ("source.wav", self._source)}
            async with self._client.stream("POST", "/conversions", data=form, files=files) as answer:
                answer.raise_for_status()
                async for part in answer.aiter_bytes():
                    self.seconds += len(part) / 2 / 22_050
                    self.begun.set()


async def measure(given: Settings, chosen: argparse.Namespace) -> None:
    """Print the median first audio of an idle box, and beside conversions."""
    held_out = corpus.read(CORPUS, "held-out", ["en"])
    clips = [clip for clip in held_out if not clip.noise and clip.seconds < LONGEST][: chosen.questions]
    idle, busy, spent, converted = list[float](), list[float](), 0.0, 0.0
    with served(given, "llm.temperature=0", f"llm.max_tokens={MAX_TOKENS}", "audio_device.enabled=false") as at:
        transport = RealtimeTransport(parse_address(at[0], None, None, given.data))
        async with httpx.AsyncClient(base_url=at[0], timeout=SECONDS) as client:
            conversions = Conversions(client)
            await conversions.add_voice()
            await latencies(transport, clips[:1])
            for _ in range(chosen.rounds):
                idle += await latencies(transport, clips)
                async with anyio.create_task_group() as group:
                    for _ in range(chosen.clients):
                        group.start_soon(conversions.run)
                    await conversions.begun.wait()
                    begun, before = time.monotonic(), conversions.seconds
                    busy += await latencies(transport, clips)
                    spent += time.monotonic() - begun
                    converted = conversions.seconds
                    group.cancel_scope.cancel()
                print(f"converted {converted - before:.1f} s of audio in this round", flush=True)
            await client.delete(f"/voices/{TARGET}")
    asked, ratio = chosen.rounds * len(clips), statistics.median(busy) / statistics.median(idle)
    print(f"idle: median first audio {statistics.median(idle):.3f} s, {len(idle)} of {asked} questions answered")
    print(f"beside {chosen.clients} clients: {statistics.median(busy):.3f} s, {len(busy)} of {asked} answered")
    print(f"{ratio:.2f} times idle (goal: at most {MOST}); {spent:.0f} s measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a further setting, KEY=VALUE")
    chosen = parser.parse_args()
    anyio.run(measure, settings.load(chosen.set).settings, chosen)


if __name__ == "__main__":
    main()
