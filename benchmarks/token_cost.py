"""Computing time of a token beside the model's own threads, layer by layer.

python benchmarks/token_cost.py [--answers 6] [--clients 1]

Each layer contains the ones before it: llama.cpp's library, the engine, its worker, the service of turns, HTTP. The
layer `server` is llama.cpp's own HTTP server. What a layer costs is the computing time of the process without that of
the model's threads, which are the ones that compute most; it depends little on other load.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import psutil
from running import free_port, started

from chatapi import settings as settings_loader
from chatapi.appliance import Appliance
from chatapi.engines import LanguageModel, PromptMessage, Sampling
from chatapi.engines.call import EngineCall
from chatapi.engines.llm.llama_cpp.server import threads
from chatapi.events import TextDelta
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn

SETTINGS = ["asr.engine=fake", "tts.engine=fake", "vad.engine=fake", "llm.engine=llama_cpp"]
MODEL = "smollm2-135m-instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Tell me in some detail how a lighthouse works and who keeps it running."
TOKENS = 64
NUMBERS = itertools.count(100)
"""Each question has another number, so that only its beginning is cached."""

Ask = Callable[[], Awaitable[int]]
"""One answer. Returns the number of its pieces."""


def computing(pid: int) -> tuple[float, dict[int, float]]:
    """Computing time of a process and of each of its threads, in seconds since it started."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    return times.user + times.system, {each.id: each.user_time + each.system_time for each in process.threads()}


def beside_model(before: tuple[float, dict[int, float]], after: tuple[float, dict[int, float]]) -> float:
    """Seconds computed between two readings by all but the threads that computed most in between."""
    each = sorted(seconds - before[1].get(number, 0.0) for number, seconds in after[1].items())
    return after[0] - before[0] - sum(each[-max(threads(0)) :])


def question() -> str:
    return f"{next(NUMBERS)}. {PROMPT}"


async def library(appliance: Appliance) -> int:
    """The library's callbacks alone."""
    pieces = 0

    def received(_: str) -> bool:
        nonlocal pieces
        pieces += 1
        return False

    body = {"messages": [{"role": "user", "content": question()}], "max_tokens": TOKENS, "stream": True}
    server = vars(appliance.engines.llm.engine)["_server"]
    await asyncio.to_thread(server.handle_chat_completions, json.dumps(body), received)
    return pieces


async def engine(appliance: Appliance) -> int:
    """The engine on a thread."""

    def pieces() -> int:
        sampling = Sampling(max_tokens=TOKENS)
        return sum(1 for _ in appliance.engines.llm.engine.generate([PromptMessage("user", question())], sampling))

    return await asyncio.to_thread(pieces)


async def worker(appliance: Appliance) -> int:
    """The engine, read from the event loop."""
    messages = [PromptMessage("user", question())]
    call = EngineCall.of(LanguageModel.generate, messages, Sampling(max_tokens=TOKENS))
    async with appliance.engines.llm.stream(call) as chunks:
        return len([chunk async for chunk in chunks])


async def service(appliance: Appliance) -> int:
    """A chat turn."""
    async with appliance.chat.run(ChatTurn((ChatMessage("user", (question(),)),), max_tokens=TOKENS)) as events:
        return len([event async for event in events if isinstance(event, TextDelta)])


async def http(client: httpx.AsyncClient, base: str) -> int:
    """Server-sent events; the client is another process."""
    messages = [{"role": "user", "content": question()}]
    body = {"model": "default", "messages": messages, "max_tokens": TOKENS, "stream": True}
    async with client.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=600) as response:
        response.raise_for_status()
        return len([line async for line in response.aiter_lines() if '"content"' in line])


async def cost(pid: int, ask: Ask, clients: int) -> tuple[float, float]:
    """Milliseconds of a token, and the pieces of an answer."""
    before = computing(pid)
    pieces = await asyncio.gather(*(ask() for _ in range(clients)))
    return 1000 * beside_model(before, computing(pid)) / TOKENS / clients, statistics.mean(pieces)


async def compared(models: Path, answers: int, clients: int) -> None:
    """Prints a table; the layers take turns."""
    ports = free_port(), free_port()
    settings = [f"server.port={ports[0]}", f"llm.model={MODEL}", *SETTINGS]
    command = [sys.executable, "-m", "chatapi", *(part for each in settings for part in ("--set", each)), "serve"]
    peer = (sys.executable, str(Path(__file__).parent / "peers" / "llama_server.py"), str(models / MODEL / FILE))
    appliance = Appliance(settings_loader.load(settings).settings)
    with ExitStack() as running:
        ours = running.enter_context(started(command, f"http://127.0.0.1:{ports[0]}/ready"))
        theirs = running.enter_context(started((*peer, str(ports[1])), f"http://127.0.0.1:{ports[1]}/health"))
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits) as client, appliance.running():
            await appliance.load()
            here = psutil.Process().pid
            layers: dict[str, tuple[int, Ask]] = {
                each.__name__: (here, partial(each, appliance)) for each in (library, engine, worker, service)
            }
            layers["http"] = (ours, partial(http, client, f"http://127.0.0.1:{ports[0]}"))
            layers["server"] = (theirs, partial(http, client, f"http://127.0.0.1:{ports[1]}"))
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in layers}
            for name, (pid, ask) in (each for _ in range(answers + 1) for each in layers.items()):
                found[name].append(await cost(pid, ask, clients))
    print("| layer | ms per token | pieces of an answer |\n| --- | ---: | ---: |")
    for name, measured in found.items():
        # The first answer warms up.
        milliseconds, pieces = (statistics.mean(values) for values in zip(*measured[1:], strict=True))
        print(f"| {name} | {milliseconds:.2f} | {pieces:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=6)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path.home() / ".local/share/chatapi/models")
    chosen = parser.parse_args()
    asyncio.run(compared(chosen.models, chosen.answers, chosen.clients))
