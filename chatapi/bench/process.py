"""The whole process: memory, and time until it is ready."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import anyio
import anyio.to_thread
import httpx
import psutil

from chatapi.bench import Row, Stopwatch
from chatapi.runtime.engine_threads import PAUSE_SECONDS
from chatapi.settings import Settings, as_environment


async def measure(settings: Settings, rounds: int) -> AsyncIterator[Row]:
    """Start the server as a user does, run one spoken turn, and measure time and memory."""
    found = await anyio.to_thread.run_sync(_several, settings, min(rounds, 3))
    ready, memory = zip(*found, strict=True)
    yield Row("process", "ready after start", statistics.median(ready), "s", 4)
    resting = max(memory) / 1e6
    yield Row("process", "memory after a spoken turn", resting, "MB", 600, note="resident in a pause, the largest seen")


def _several(settings: Settings, rounds: int) -> list[tuple[float, int]]:
    return [_once(settings) for _ in range(rounds)]


def _once(settings: Settings) -> tuple[float, int]:
    """Time until ready in seconds, and resident bytes after a spoken turn, when the engines have returned memory."""
    watch = Stopwatch()
    with served(settings) as (url, pid):
        ready = watch.seconds
        with httpx.Client(base_url=url, timeout=60) as client:
            sound = client.post("/completion", json={"prompt": "Hello.", "reply": "voice"}).content
            client.post("/completion?reply=voice", content=sound, headers={"content-type": "audio/wav"})
        time.sleep(2 * PAUSE_SECONDS)
        return ready, psutil.Process(pid).memory_info().rss


@contextmanager
def served(settings: Settings, *more: str, environment: Mapping[str, str] = os.environ) -> Iterator[tuple[str, int]]:
    """`chatapi serve` in a process of its own, ready, on a free port: its address and process number.

    `more` are settings as key=value; all are added to the `environment`. Raises RuntimeError when it ends before it is
    ready.
    """
    chosen = [option for each in ("server.port=0", *more) for option in ("--set", each)]
    command = [sys.executable, "-m", "chatapi", "serve", *chosen]
    environ = {**environment, **as_environment(settings)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield _ready(server), server.pid
        finally:
            server.terminate()


def _ready(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None  # noqa: S101 - piped above
    for line in server.stdout:
        if "ready after" in line:
            return line.split()[-1]
    raise RuntimeError("the server ended before it was ready")
