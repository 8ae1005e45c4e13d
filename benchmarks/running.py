"""Runs servers side by side: starts them, sends requests in turns, and formats the results as a table."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx

Ask = Callable[[], Awaitable[float]]
"""Sends one request. Returns the measured time, in seconds of `time.perf_counter`."""


@dataclass
class Peer:
    """A server and its results."""

    name: str
    ask: Ask
    seconds: list[float] = field(default_factory=list)
    """Measured time of each request, in seconds."""
    rates: list[float] = field(default_factory=list)
    """Requests per second with several clients, for each round."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def started(command: Sequence[str], url: str, seconds: float = 60, **environ: str) -> Iterator[str]:
    """Run a server inside the context, and wait at most `seconds` until `url` answers."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environ}
    )
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(url, timeout=2).status_code < 500:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} does not serve {url}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def alternate(peers: Sequence[Peer], rounds: int, clients: int = 1) -> None:
    """Send one request to each for warm-up, then requests in turns, so that other load affects all of them."""
    for peer in peers:
        await peer.ask()
    for number in range(rounds):
        # The order alternates between rounds.
        for peer in peers if number % 2 == 0 else reversed(peers):
            begun = time.perf_counter()
            peer.seconds += await asyncio.gather(*(peer.ask() for _ in range(clients)))
            peer.rates.append(clients / (time.perf_counter() - begun))


def table(title: str, peers: Sequence[Peer]) -> str:
    """The results as Markdown; times of the other peers are relative to the first one, chatapi."""
    ours = peers[0]
    lines = [
        f"{title}",
        "",
        "| | median, s | 95th, s | requests/s | times ours |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for peer in peers:
        ordered = sorted(peer.seconds)
        late = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        median, times = statistics.median(ordered), statistics.median(ordered) / statistics.median(ours.seconds)
        rate = statistics.median(peer.rates)
        lines.append(f"| {peer.name} | {median:.3f} | {late:.3f} | {rate:.2f} | {times:.2f} |")
    return "\n".join(lines) + "\n"
