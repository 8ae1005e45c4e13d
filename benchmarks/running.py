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
import psutil

Ask = Callable[[], Awaitable[float]]
"""Sends one request. Returns the measured time, in seconds of `time.perf_counter`."""


@dataclass
class Peer:
    """A server and its results."""

    name: str
    ask: Ask
    processes: Sequence[int] = ()
    """Process ids of the server, whose computing time is measured with that of their children."""
    rounds: list[list[float]] = field(default_factory=list)
    """Measured time of each request, in seconds, for each round."""
    rates: list[float] = field(default_factory=list)
    """Requests per second, for each round."""
    computing: list[float] = field(default_factory=list)
    """Computing time of a request, in seconds, for each round."""

    @property
    def seconds(self) -> list[float]:
        """The measured time of all requests."""
        return [each for found in self.rounds for each in found]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def started(command: Sequence[str], url: str, seconds: float = 300, **environ: str) -> Iterator[int]:
    """Run a server inside the context, and wait at most `seconds` until `url` answers; `tcp://` accepts connections.
    Yields its process id."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environ}
    )
    try:
        end = time.monotonic() + seconds
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{' '.join(command)} does not serve {url}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        if url.startswith("tcp://"):
            host, _, port = url.removeprefix("tcp://").rpartition(":")
            socket.create_connection((host, int(port)), 2).close()
            return True
        return httpx.get(url, timeout=2).status_code < 500
    except (OSError, httpx.TransportError):
        return False


async def alternate(peers: Sequence[Peer], rounds: int, clients: int = 1) -> None:
    """Send one request to each for warm-up, then requests in turns, so that other load affects all of them."""
    for peer in peers:
        await peer.ask()
    for number in range(rounds):
        # The order alternates between rounds.
        for peer in peers if number % 2 == 0 else reversed(peers):
            computed, begun = _computing_time(peer.processes), time.perf_counter()
            peer.rounds.append(list(await asyncio.gather(*(peer.ask() for _ in range(clients)))))
            peer.rates.append(clients / (time.perf_counter() - begun))
            peer.computing.append((_computing_time(peer.processes) - computed) / clients)


def _computing_time(processes: Sequence[int]) -> float:
    """Seconds that these processes and their children have computed."""
    total = 0.0
    for pid in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(pid)
            for process in (server, *server.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system
    return total


def table(title: str, peers: Sequence[Peer]) -> str:
    """The results as Markdown. Ratios to the first peer, chatapi, are those of each round, and their median."""
    ours = peers[0]
    lines = [
        f"{title}",
        "",
        "| | median, s | 95th, s | requests/s | computing, s | ours / theirs | ours / theirs, computing |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for peer in peers:
        ordered = sorted(peer.seconds)
        late = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(ours.rounds, peer.rounds, strict=True)]
        computing = [a / b for a, b in zip(ours.computing, peer.computing, strict=True) if b]
        lines.append(
            f"| {peer.name} | {statistics.median(ordered):.3f} | {late:.3f} | {statistics.median(peer.rates):.2f} "
            f"| {statistics.median(peer.computing):.3f} | {statistics.median(ratios):.2f} "
            f"| {statistics.median(computing) if computing else float('nan'):.2f} |"
        )
    return "\n".join(lines) + "\n"
