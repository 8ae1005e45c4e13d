"""A spoken question, until the first audio of the answer: chatapi's /completion, and faster-whisper, llama.cpp's server
and Piper's HTTP server behind a client that splits the answer into sentences."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from options import Options, chatapi
from running import Ask, Peer, alternate, free_port, started, table
from stt import PACKAGE, ROUTE, decoded, wav
from tts import HEADER, VOICE

QUESTION = Path(__file__).parents[2] / "tests/corpus/made"
LLM = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = 64
SENTENCE = re.compile(r"(.+?[.!?])\s", re.DOTALL)


def question() -> bytes:
    """A question of about three seconds, as a WAV file."""
    clips = [decoded(path) for path in sorted(QUESTION.glob("*.flac"))]
    return wav(min(clips, key=lambda clip: abs(len(clip) - 3 * 16_000)))


def ours(client: httpx.AsyncClient, base: str, audio: bytes) -> Ask:
    async def ask() -> float:
        begun, arrived = time.perf_counter(), 0
        query = {"reply": "voice", "stream": "true", "max_tokens": str(TOKENS)}
        url, headers = f"{base}/completion", {"content-type": "audio/wav"}
        async with client.stream("POST", url, params=query, content=audio, headers=headers, timeout=120) as answer:
            answer.raise_for_status()
            first = 0.0
            async for chunk in answer.aiter_raw():
                arrived += len(chunk)
                if arrived > HEADER and not first:
                    first = time.perf_counter() - begun
        return first

    return ask


def theirs(client: httpx.AsyncClient, whisper: str, llama: str, piper: str, audio: bytes) -> Ask:
    async def ask() -> float:
        begun = time.perf_counter()
        files = {"file": ("clip.wav", audio, "audio/wav")}
        heard = await client.post(f"{whisper}/v1/audio/transcriptions", files=files, data={"beams": "5"}, timeout=120)
        messages = [{"role": "user", "content": heard.raise_for_status().json()["text"]}]
        body = {"messages": messages, "max_tokens": TOKENS, "stream": True}
        text, first = "", 0.0

        async def spoken(sentence: str) -> None:
            nonlocal first
            answer = await client.post(f"{piper}/synthesize", json={"text": sentence}, timeout=120)
            answer.raise_for_status()
            first = first or time.perf_counter() - begun

        async with client.stream("POST", f"{llama}/v1/chat/completions", json=body, timeout=120) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and (choices := json.loads(line.removeprefix("data: "))["choices"]):
                    text += choices[0]["delta"].get("content") or ""
                while found := SENTENCE.match(text):
                    await spoken(found[1])
                    text = text[found.end() :]
        if text.strip():
            await spoken(text)
        return first

    return ask


async def measured(options: Options) -> None:
    """Prints one table."""
    audio, python = question(), options.peers_python
    here, whisper, llama, piper = (free_port() for _ in range(4))
    base, whisper_url, llama_url, piper_url = (f"http://127.0.0.1:{port}" for port in (here, whisper, llama, piper))
    route = str(Path(__file__).parents[1] / "llama_route.py")
    voice = str(options.models / VOICE / f"{VOICE}.onnx")
    commands = (
        ((python, str(ROUTE), "faster-whisper", PACKAGE, str(whisper)), f"{whisper_url}/health"),
        ((sys.executable, route, str(options.models / LLM), str(llama)), f"{llama_url}/health"),
        ((python, "-m", "piper.http_server", "-m", voice, "--port", str(piper)), f"{piper_url}/voices"),
    )
    with ExitStack() as servers:
        process = servers.enter_context(started(chatapi(here), f"{base}/ready"))
        processes = [servers.enter_context(started(command, url)) for command, url in commands]
        async with httpx.AsyncClient() as client:
            peers = [
                Peer("chatapi, /completion", ours(client, base, audio), (process,)),
                Peer(
                    "faster-whisper, llama.cpp, Piper",
                    theirs(client, whisper_url, llama_url, piper_url, audio),
                    processes,
                ),
            ]
            await alternate(peers, options.rounds)
            print(table("**a spoken question: first audio of the answer**", peers), flush=True)
