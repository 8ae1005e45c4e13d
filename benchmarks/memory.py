"""Memory of `chatapi serve` at its defaults: after spoken questions, during and after bulk work, and while it idles.

python benchmarks/memory.py [--turns 20] [--files 8] [--minutes 5] [--idle 600]

Memory is the proportional set size of all processes without mapped model files. The files are transcribed at once, and
each is as long as `--minutes`. A line is printed whenever the memory is looked at, so that the table is a curve.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import held_memory
import httpx
import numpy as np
from start import CORPUS, LONGEST_SECONDS, Measurements, data_directory, server

from chatapi.audio import RATE, Audio, wav
from chatapi.bench import corpus

LOOK_SECONDS = 5.0
"""Time between two looks at the memory, in seconds."""
BULK_SECONDS = 7200.0
"""Longest time for the transcription of the files, in seconds."""
TOKENS = 64


class Curve:
    """Prints the memory of a server with the time and what it does."""

    def __init__(self, pid: int, models: Path) -> None:
        self._pid, self._models, self._begun = pid, models, time.monotonic()
        self.most: dict[str, float] = {}
        """What the server did -> its largest memory in MB."""
        print(
            "| seconds | work | held, MB | heap | anonymous | libraries |\n| ---: | --- | ---: | ---: | ---: | ---: |"
        )

    def look(self, work: str) -> None:
        kinds = held_memory.by_kind(self._pid, self._models)
        held = (sum(kinds.values()) - kinds[held_memory.MODEL_KIND]) / 1e6
        self.most[work] = max(held, self.most.get(work, 0.0))
        parts = " | ".join(f"{kinds[name] / 1e6:.0f}" for name in ("heap", "anonymous", "libraries"))
        print(f"| {time.monotonic() - self._begun:.0f} | {work} | {held:.0f} | {parts} |", flush=True)


def spoken_turns(client: httpx.Client, turns: int, look: Callable[[], None]) -> None:
    """Ask spoken questions, answered with a voice."""
    clips = [each for each in corpus.read(CORPUS, "tune", ("en",)) if 1.5 < each.seconds < 6]
    for number in range(turns):
        clip = clips[number % len(clips)]
        query = {"reply": "voice", "max_tokens": str(TOKENS)}
        headers = {"content-type": "audio/wav"}
        client.post("/completion", params=query, content=wav(Audio(clip.samples, RATE)), headers=headers)
        look()


def recording(minutes: float) -> bytes:
    """Speech of the corpus, as a WAV file of this length."""
    gap = np.zeros(RATE // 2, np.float32)
    parts = [part for each in corpus.read(CORPUS, "tune", ("en",)) for part in (each.samples, gap)]
    return wav(Audio(np.resize(np.concatenate(parts), round(minutes * 60 * RATE)), RATE))


def transcribed(client: httpx.Client, files: int, minutes: float, look: Callable[[], None]) -> None:
    """Transcribe several files at once."""
    audio = recording(minutes)

    def send() -> None:
        while True:
            given = {"file": ("long.wav", audio, "audio/wav")}
            body = {"model": "default"}
            answer = client.post("/v1/audio/transcriptions", files=given, data=body, timeout=BULK_SECONDS)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            # As clients do where the queue is full.
            time.sleep(float(answer.headers.get("retry-after", LOOK_SECONDS)))
        answer.raise_for_status()

    with ThreadPoolExecutor(max(1, files)) as threads:
        sent: list[Future[None]] = [threads.submit(send) for _ in range(files)]
        while not all(each.done() for each in sent):
            time.sleep(LOOK_SECONDS)
            look()
        for each in sent:
            each.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--idle", type=float, default=600.0, help="seconds to look at the idle server at the end")
    parser.add_argument("--models", type=Path, default=held_memory.MODELS)
    chosen = parser.parse_args()
    with data_directory(chosen.models) as data:
        # The first start prepares graphs, which takes memory of its own.
        with server(data, False, Measurements()):
            pass
        with server(data, False, Measurements()) as (pid, base):
            curve = Curve(pid, chosen.models)
            curve.look("ready")
            with httpx.Client(base_url=base, timeout=LONGEST_SECONDS, trust_env=False) as client:
                spoken_turns(client, chosen.turns, lambda: curve.look("spoken turns"))
                time.sleep(LOOK_SECONDS)
                curve.look("after the turns")
                transcribed(client, chosen.files, chosen.minutes, lambda: curve.look("bulk work"))
            until = time.monotonic() + chosen.idle
            while time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
                curve.look("after bulk work")
    most = ", ".join(f"{work} {held:.0f} MB" for work, held in curve.most.items())
    print(f"\nload {os.getloadavg()[0]:.1f}; most: {most}")


if __name__ == "__main__":
    main()
