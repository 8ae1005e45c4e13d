"""Start of `chatapi serve` at its defaults: time to ready, imports, the first request beside the tenth, and memory.

python benchmarks/start.py [--starts 5] [--cold]

The starts share a new data directory, which has the installed models. The first start fills it and the file cache, and
is not counted. `--cold`: Python compiles all modules at each start, as at the first one after an installation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import held_memory
import httpx
import psutil
from running import free_port

from chatapi.audio import RATE, Audio, wav
from chatapi.bench import corpus
from chatapi.storage.layout import DataDirectory

CORPUS = Path(__file__).parents[1] / "tests/corpus"
REQUESTS = 10
POLL_SECONDS = 0.01
"""Time between two looks whether the server is ready, in seconds."""
LONGEST_SECONDS = 120.0
"""Longest time until the server is ready, in seconds."""
IMPORTS = """
import json, psutil, time
begun, before = time.process_time(), psutil.Process().memory_full_info().uss
import chatapi.cli.serve
print(json.dumps([time.process_time() - begun, psutil.Process().memory_full_info().uss - before]))
"""
"""Prints the computing time of the server's imports in seconds, and their memory in bytes."""
SENTENCES = ("How does a lighthouse work?", "Where do swallows go in winter?", "What is a good name for a boat?")


@dataclass
class Measurements:
    """The values of all starts, by what was measured."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def lines(self) -> Iterator[str]:
        for name, found in self.values.items():
            yield f"| {name} | {statistics.median(found):.3g} | {min(found):.3g} to {max(found):.3g} |"


@contextmanager
def data_directory(models: Path) -> Iterator[Path]:
    """An empty data directory with these models."""
    with tempfile.TemporaryDirectory(prefix="chatapi-start-") as folder:
        data = DataDirectory(Path(folder))
        data.models.symlink_to(models)
        yield data.root


def environment(data: Path, cold: bool) -> dict[str, str]:
    """The environment of a server; `cold`: Python finds no compiled modules."""
    cache = {"PYTHONPYCACHEPREFIX": tempfile.mkdtemp(dir=data)} if cold else {}
    return {**os.environ, "CHATAPI_DATA": str(data), **cache}


@contextmanager
def server(data: Path, cold: bool, found: Measurements) -> Iterator[tuple[int, str]]:
    """Run a server inside the context, and measure until it is ready. Yields its process id and URL."""
    port = free_port()
    command = [sys.executable, "-m", "chatapi", "--set", f"server.port={port}", "serve"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(data, cold)
    )
    base, listening = f"http://127.0.0.1:{port}", 0.0
    try:
        with httpx.Client(trust_env=False) as client:
            while (status := _status(client, base)) != 200:
                since = time.perf_counter() - begun
                listening = listening or (since if status else 0.0)
                if process.poll() is not None or since > LONGEST_SECONDS:
                    raise SystemExit(f"the server is not ready after {since:.1f} s")
                time.sleep(POLL_SECONDS)
        found.add("answers, s", listening or time.perf_counter() - begun)
        found.add("ready, s", time.perf_counter() - begun)
        times = psutil.Process(process.pid).cpu_times()
        found.add("computing time until ready, s", times.user + times.system)
        yield process.pid, base
    finally:
        process.terminate()
        process.wait(30)


def _status(client: httpx.Client, base: str) -> int:
    """The status of /ready; 0: nothing answers yet."""
    try:
        return client.get(f"{base}/ready", timeout=LONGEST_SECONDS).status_code
    except httpx.TransportError:
        return 0


def requests(client: httpx.Client, base: str) -> dict[str, Callable[[int], httpx.Response]]:
    """What is asked -> the request with a number, so that no answer is cached."""
    clip = next(each for each in corpus.read(CORPUS, "tune", ("en",)) if 2.5 < each.seconds < 3.5)
    spoken = wav(Audio(clip.samples, RATE))

    def chat(number: int) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": f"{number}. {SENTENCES[0]}"}], "max_tokens": 8}
        return client.post(f"{base}/v1/chat/completions", json={"model": "default", **body})

    def speech(number: int) -> httpx.Response:
        body = {"model": "default", "voice": "default", "input": f"{number}. {SENTENCES[number % len(SENTENCES)]}"}
        return client.post(f"{base}/v1/audio/speech", json={**body, "response_format": "wav"})

    def transcription(_: int) -> httpx.Response:
        files = {"file": ("clip.wav", spoken, "audio/wav")}
        return client.post(f"{base}/v1/audio/transcriptions", files=files, data={"model": "default"})

    return {"chat, 8 tokens": chat, "one sentence of speech": speech, "transcription of 3 s": transcription}


def asked(base: str, found: Measurements) -> None:
    """Send every kind of request ten times."""
    with httpx.Client(timeout=LONGEST_SECONDS, trust_env=False) as client:
        for name, send in requests(client, base).items():
            for number in range(REQUESTS):
                begun = time.perf_counter()
                send(100 + number).raise_for_status()
                seconds = time.perf_counter() - begun
                if number in (0, REQUESTS - 1):
                    found.add(f"{name}: {'first' if number == 0 else 'tenth'}, s", seconds)


def imported(data: Path, cold: bool, found: Measurements) -> None:
    """Measure the imports of the server in a process of their own."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment(data, cold))
    seconds, size = json.loads(done.stdout)
    found.add("imports, computing time, s", seconds)
    found.add("imports, memory, MB", size / 1e6)


def measure(data: Path, models: Path, cold: bool, found: Measurements) -> None:
    """One start."""
    imported(data, cold, found)
    with server(data, cold, found) as (pid, base):
        found.add("memory when ready, MB", held_memory.held(pid, models) / 1e6)
        asked(base, found)
        found.add("memory after the requests, MB", held_memory.held(pid, models) / 1e6)
        for kind, size in held_memory.by_kind(pid, models).items():
            found.add(f"of it {kind}, MB" if kind != held_memory.MODEL_KIND else f"{kind} beside it, MB", size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--models", type=Path, default=held_memory.MODELS)
    chosen = parser.parse_args()
    found = Measurements()
    with data_directory(chosen.models) as data:
        measure(data, chosen.models, False, Measurements())
        for _ in range(chosen.starts):
            measure(data, chosen.models, chosen.cold, found)
    load = os.getloadavg()[0]
    print(f"{chosen.starts} starts, {os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}\n")
    print("| | median | range |\n| --- | ---: | ---: |")
    print("\n".join(found.lines()))


if __name__ == "__main__":
    main()
