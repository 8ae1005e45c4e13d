"""Servers side by side: started, waited for, asked in turns, and what came out as a table."""

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
"""Asks once; gives the seconds until what is timed, by `time.perf_counter`."""


@dataclass
class Peer:
    """A way to be answered, and how long it took each time."""

    name: str
    ask: Ask
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Requests a second with several clients, a number a round."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def started(command: Sequence[str], url: str, seconds: float = 60, **environ: str) -> Iterator[str]:
    """A server that is there once `url` answers anything; ended with the block."""
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
    """Each asked once for warming, then in turns, so that what the machine does meanwhile meets all alike."""
    for peer in peers:
        await peer.ask()
    for number in range(rounds):
        # Whoever is asked first in one round is asked last in the next.
        for peer in peers if number % 2 == 0 else reversed(peers):
            begun = time.perf_counter()
            peer.seconds += await asyncio.gather(*(peer.ask() for _ in range(clients)))
            peer.rates.append(clients / (time.perf_counter() - begun))


def table(title: str, peers: Sequence[Peer]) -> str:
    """Markdown: the first peer is ours, and the others are told as multiples of it."""
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
