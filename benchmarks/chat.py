"""Compares TTFT and tokens per second with llama.cpp's own server, with the same model.

python benchmarks/chat.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from running import Ask, Peer, alternate, free_port, started, table

from chatapi.engines.llm.llama_cpp.request import BREAKERS, SAMPLING

MODEL = "smollm2-135m-instruct"
FILE = Path.home() / f".local/share/chatapi/models/{MODEL}/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Tell me in some detail how a lighthouse works and who keeps it running."
TOKENS = 96
NUMBERS = itertools.count(100)
"""Numbers of the questions, over all servers."""


def content(line: str) -> str | None:
    """The text in a line of the stream."""
    if not line.startswith("data: {"):
        return None
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return choices[0]["delta"].get("content") if choices else None


class Chat:
    """A route that streams an answer."""

    def __init__(self, client: httpx.AsyncClient, base: str, **sampling: object) -> None:
        self.client, self.base, self.sampling = client, base, sampling
        self.speeds: list[float] = []

    def asking(self) -> Ask:
        """A request, timed until the first token; the speed of the other tokens is recorded."""

        async def ask() -> float:
            # Each question is different, so only the system prompt can be cached.
            messages = [
                {"role": "system", "content": "You are a guide."},
                {"role": "user", "content": f"{next(NUMBERS)}. {PROMPT}"},
            ]
            body = {"model": "default", "messages": messages, "max_tokens": TOKENS, "temperature": 0, "stream": True}
            body |= self.sampling
            begun = time.perf_counter()
            url = f"{self.base}/v1/chat/completions"
            async with self.client.stream("POST", url, json=body, timeout=120) as answer:
                answer.raise_for_status()
                marks = [time.perf_counter() async for line in answer.aiter_lines() if content(line)]
            if len(marks) > 10:
                self.speeds.append((len(marks) - 1) / (marks[-1] - marks[0]))
            return marks[0] - begun

        return ask


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    ours, theirs = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    settings = [f"server.port={ours.rpartition(':')[2]}", "asr.engine=fake", "tts.engine=fake", "vad.engine=fake"]
    settings += ["llm.engine=llama_cpp", f"llm.model={MODEL}"]
    command = [sys.executable, "-m", "chatapi", *(part for each in settings for part in ("--set", each))]
    route = str(Path(__file__).with_name("llama_route.py"))
    with ExitStack() as servers:
        servers.enter_context(started(command, f"{ours}/ready"))
        port = theirs.rpartition(":")[2]
        servers.enter_context(
            started((sys.executable, route, str(FILE), port), f"{theirs}/health", OMP_WAIT_POLICY="passive")
        )
        async with httpx.AsyncClient() as client:
            # chatapi's sampling options, for which llama.cpp reads its vocabulary before every answer.
            as_ours = {**SAMPLING, "dry_sequence_breakers": BREAKERS}
            chats = {
                "chatapi": Chat(client, ours),
                "llama.cpp's server": Chat(client, theirs),
                "the same, sampling as ours": Chat(client, theirs, **as_ours),
            }
            peers = [Peer(name, chat.asking()) for name, chat in chats.items()]
            await alternate(peers, chosen.rounds)
            print(table("**first token**", peers))
            for name, chat in chats.items():
                print(f"{name}: {statistics.median(chat.speeds):.1f} tokens/s (median)")


if __name__ == "__main__":
    asyncio.run(main())
