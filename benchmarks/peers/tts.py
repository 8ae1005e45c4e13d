"""First audio, whole audio and throughput of speech synthesis, beside Piper's own HTTP server and wyoming-piper."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
from options import Options, chatapi
from running import Ask, Peer, alternate, free_port, started, table
from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

VOICE = "en_US-joe-medium"
SENTENCE = "The museum opens at nine and closes at six in the evening."
TEXTS = {
    "one sentence": SENTENCE,
    "three sentences": f"{SENTENCE} Tickets are sold at the desk beside the entrance. "
    "Children under twelve years may come in for free.",
}
CLIENTS = 4
HEADER = 200
"""Bytes that may be the header of a file, which is no audio."""


def http_ask(client: httpx.AsyncClient, url: str, body: dict[str, object], whole: bool) -> Ask:
    """A request, timed until the first audio or the end."""

    async def ask() -> float:
        begun, arrived, first = time.perf_counter(), 0, 0.0
        async with client.stream("POST", url, json=body, timeout=300) as answer:
            answer.raise_for_status()
            async for chunk in answer.aiter_raw():
                arrived += len(chunk)
                if arrived > HEADER and not first:
                    first = time.perf_counter() - begun
        assert arrived > 50_000
        return time.perf_counter() - begun if whole else first

    return ask


def wyoming_ask(port: int, text: str, whole: bool) -> Ask:
    async def ask() -> float:
        begun, arrived, first = time.perf_counter(), 0, 0.0
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize(text=text).event())
            while (event := await client.read_event()) is not None and not AudioStop.is_type(event.type):
                if AudioChunk.is_type(event.type):
                    arrived += len(AudioChunk.from_event(event).audio)
                    first = first or time.perf_counter() - begun
        assert arrived > 50_000
        return time.perf_counter() - begun if whole else first

    return ask


async def measured(options: Options) -> None:
    """Prints a table for each text, and for each of first audio, whole audio and four clients."""
    ours, ours_wyoming, piper, wyoming = (free_port() for _ in range(4))
    base, http = f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{piper}"
    folder = options.models / VOICE
    engines = ("llm.engine=fake", "asr.engine=fake", "wyoming.enabled=true", f"wyoming.port={ours_wyoming}")
    python = options.peers_python
    with ExitStack() as servers:
        ours_id = servers.enter_context(started(chatapi(ours, *engines), f"{base}/ready"))
        piper_id = servers.enter_context(
            started(
                (python, "-m", "piper.http_server", "-m", str(folder / f"{VOICE}.onnx"), "--port", str(piper)),
                f"{http}/voices",
            )
        )
        uri = f"tcp://127.0.0.1:{wyoming}"
        command = (python, "-m", "wyoming_piper", "--voice", VOICE, "--data-dir", str(folder), "--uri", uri)
        wyoming_id = servers.enter_context(started(command, uri))
        async with httpx.AsyncClient() as client:

            def peers(text: str, whole: bool) -> list[Peer]:
                theirs: dict[str, object] = {"text": text}
                body: dict[str, object] = {"model": "default", "voice": VOICE, "input": text, "response_format": "pcm"}
                asks: list[tuple[str, Callable[[], Ask], int]] = [
                    ("chatapi, HTTP", lambda: http_ask(client, f"{base}/v1/audio/speech", body, whole), ours_id),
                    ("chatapi, Wyoming", lambda: wyoming_ask(ours_wyoming, text, whole), ours_id),
                    (
                        "piper.http_server",
                        lambda: http_ask(client, f"{http}/synthesize", theirs, whole),
                        piper_id,
                    ),
                    ("wyoming-piper", lambda: wyoming_ask(wyoming, text, whole), wyoming_id),
                ]
                return [Peer(name, ask(), (process,)) for name, ask, process in asks]

            for name, text in TEXTS.items():
                for title, whole, clients in (
                    ("first audio", False, 1),
                    ("complete audio", True, 1),
                    (f"complete audio, {CLIENTS} clients", True, CLIENTS),
                ):
                    compared = peers(text, whole)
                    await alternate(compared, options.rounds if clients == 1 else max(3, options.rounds // 3), clients)
                    print(table(f"**TTS, {name}: {title}**", compared), flush=True)
