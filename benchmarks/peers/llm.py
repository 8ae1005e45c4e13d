"""First token and tokens per second of chat completions, beside llama.cpp's own server with the same weights.

python benchmarks/peers/llm.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from running import free_port, started

MODEL = "smollm2-135m-instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Tell me in some detail how a lighthouse works and who keeps it running."
TOKENS = 64
PHASES = {"1": 1, "8": 8, "1, after 8": 1}
"""Name of a phase -> number of clients. In the last one the prompts of the eight are still cached: where all slots
share one cache, each token passes over them."""
NUMBERS = itertools.count(100)
"""Each question has another number, so only the system prompt is cached."""


class Options(Protocol):
    """What a part of `run.sh bench peers` gets."""

    @property
    def models(self) -> Path: ...

    @property
    def rounds(self) -> int: ...


@dataclass
class Server:
    """A chat server and its results."""

    name: str
    base: str
    first: dict[str, list[float]] = field(default_factory=dict)
    """Phase -> time to the first token in seconds, for each round: the median of the clients."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Phase -> tokens per second of all clients together, for each round."""


@dataclass(frozen=True)
class Answer:
    """The times of one answer, in seconds of `time.perf_counter`."""

    begun: float
    first: float
    last: float
    tokens: int


async def asked(client: httpx.AsyncClient, base: str) -> Answer:
    """One answer, with the server's own sampling."""
    messages = [
        {"role": "system", "content": "You are a guide."},
        {"role": "user", "content": f"{next(NUMBERS)}. {PROMPT}"},
    ]
    body: dict[str, object] = {"model": "default", "messages": messages, "max_tokens": TOKENS, "stream": True}
    body["stream_options"] = {"include_usage": True}
    begun, marks, tokens = time.perf_counter(), [], 0
    async with client.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=600) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                marks.append(time.perf_counter())
    return Answer(begun, marks[0], marks[-1], tokens)


async def measure(client: httpx.AsyncClient, server: Server, phase: str) -> None:
    """One round of a server. With one client the rate is that after the first token, else that of the whole round."""
    clients = PHASES[phase]
    answers = await asyncio.gather(*(asked(client, server.base) for _ in range(clients)))
    begun = min(each.first if clients == 1 else each.begun for each in answers)
    tokens = sum(each.tokens for each in answers) - (clients == 1)
    server.rates.setdefault(phase, []).append(tokens / (max(each.last for each in answers) - begun))
    first = statistics.median(each.first - each.begun for each in answers)
    server.first.setdefault(phase, []).append(first)


def table(servers: Sequence[Server]) -> str:
    """The results as Markdown; ratios to the first server, chatapi, are those of each round, and their median."""
    lines = [
        "| clients | | first token, s | tokens/s | ours / theirs: first token | tokens/s |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for phase in PHASES:
        for each in servers:
            values = []
            for mine, theirs in ((servers[0].first, each.first), (servers[0].rates, each.rates)):
                values.append(statistics.median(a / b for a, b in zip(mine[phase], theirs[phase], strict=True)))
            first, rate = (statistics.median(found[phase]) for found in (each.first, each.rates))
            lines.append(f"| {phase} | {each.name} | {first:.3f} | {rate:.1f} | {values[0]:.2f} | {values[1]:.2f} |")
    return "\n".join(lines) + "\n"


async def compared(models: Path, rounds: int) -> None:
    """Prints a table for one client, for eight, and for one after them."""
    ours, theirs = free_port(), free_port()
    settings = [f"server.port={ours}", "asr.engine=fake", "tts.engine=fake", "vad.engine=fake"]
    settings += ["llm.engine=llama_cpp", f"llm.model={MODEL}"]
    command = [sys.executable, "-m", "chatapi", *(part for each in settings for part in ("--set", each)), "serve"]
    route = (sys.executable, str(Path(__file__).with_name("llama_server.py")), str(models / MODEL / FILE), str(theirs))
    servers = [Server(name, f"http://127.0.0.1:{port}") for name, port in (("chatapi", ours), ("llama.cpp", theirs))]
    with ExitStack() as running:
        running.enter_context(started(command, f"{servers[0].base}/ready"))
        running.enter_context(started(route, f"{servers[1].base}/health"))
        # Both close idle connections, after different times.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits) as client:
            for server in servers:
                await asked(client, server.base)
            for phase, number in itertools.product(PHASES, range(rounds)):
                # The order alternates between rounds.
                for server in servers if number % 2 == 0 else reversed(servers):
                    await measure(client, server, phase)
    print(f"**LLM, {TOKENS} tokens**\n\n{table(servers)}", flush=True)


async def measured(options: Options) -> None:
    """A part of `run.sh bench peers`."""
    await compared(options.models, options.rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", type=Path, default=Path.home() / ".local/share/chatapi/models")
    chosen = parser.parse_args()
    asyncio.run(compared(chosen.models, chosen.rounds))
