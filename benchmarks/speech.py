"""Compares first audio and throughput with Piper's own HTTP server and wyoming-piper, with the same voice.

python benchmarks/speech.py --peers-python P [--rounds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
from running import Ask, Peer, alternate, free_port, started, table
from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

VOICE = "en_US-joe-medium"
TEXT = (
    "The museum opens at nine and closes at six in the evening. Tickets are sold at the desk beside the entrance. "
    "Children under twelve years may come in for free."
)
"""Three sentences."""


def http_ask(client: httpx.AsyncClient, url: str, body: dict[str, object], whole: bool) -> Ask:
    """A request, timed until the first audio or the end; the header of a WAV, about 44 bytes, is not audio."""

    async def ask() -> float:
        begun, arrived, first = time.perf_counter(), 0, 0.0
        async with client.stream("POST", url, json=body, timeout=120) as answer:
            answer.raise_for_status()
            async for chunk in answer.aiter_raw():
                arrived += len(chunk)
                if arrived > 200 and not first:
                    first = time.perf_counter() - begun
        assert arrived > 100_000
        return time.perf_counter() - begun if whole else first

    return ask


def wyoming_ask(port: int, whole: bool) -> Ask:
    async def ask() -> float:
        begun, arrived, first = time.perf_counter(), 0, 0.0
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize(text=TEXT).event())
            while (event := await client.read_event()) is not None and not AudioStop.is_type(event.type):
                if AudioChunk.is_type(event.type):
                    arrived += len(AudioChunk.from_event(event).audio)
                    first = first or time.perf_counter() - begun
        assert arrived > 100_000
        return time.perf_counter() - begun if whole else first

    return ask


async def listening(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"nothing listens on port {port}")


Asking = Callable[[bool], Ask]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", required=True, help="a Python with piper-tts[http] and wyoming-piper")
    parser.add_argument("--voices", type=Path, default=Path.home() / f".local/share/chatapi/models/{VOICE}")
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    ours, ours_wyoming, piper, wyoming = (free_port() for _ in range(4))
    base, http = f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{piper}"
    settings = [
        f"server.port={ours}",
        "wyoming.enabled=true",
        f"wyoming.port={ours_wyoming}",
        "llm.engine=fake",
        "asr.engine=fake",
    ]
    command = [sys.executable, "-m", "chatapi", *(part for each in settings for part in ("--set", each))]
    model = str(chosen.voices / f"{VOICE}.onnx")
    with ExitStack() as servers:
        servers.enter_context(started(command, f"{base}/ready"))
        servers.enter_context(
            started(
                (chosen.peers_python, "-m", "piper.http_server", "-m", model, "--port", str(piper)), http + "/voices"
            )
        )
        process = await asyncio.create_subprocess_exec(
            chosen.peers_python, "-m", "wyoming_piper", "--voice", VOICE, "--data-dir", str(chosen.voices),
            "--uri", f"tcp://127.0.0.1:{wyoming}", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await listening(wyoming)
            await measured(chosen.rounds, base, ours_wyoming, http, wyoming)
        finally:
            process.terminate()
            await process.wait()


async def measured(rounds: int, base: str, ours_wyoming: int, http: str, wyoming: int) -> None:
    body: dict[str, object] = {"model": "default", "voice": VOICE, "input": TEXT, "response_format": "wav"}
    async with httpx.AsyncClient() as client:
        ways: dict[str, Asking] = {
            "chatapi, /v1/audio/speech": lambda whole: http_ask(client, f"{base}/v1/audio/speech", body, whole),
            "chatapi, Wyoming": lambda whole: wyoming_ask(ours_wyoming, whole),
            "piper.http_server": lambda whole: http_ask(client, f"{http}/synthesize", {"text": TEXT}, whole),
            "wyoming-piper": lambda whole: wyoming_ask(wyoming, whole),
        }
        for title, whole, clients in (
            ("first audio", False, 1),
            ("complete audio", True, 1),
            ("complete audio, 4 clients", True, 4),
        ):
            peers = [Peer(name, way(whole)) for name, way in ways.items()]
            await alternate(peers, rounds if clients == 1 else 3, clients)
            print(table(f"**{title} of three sentences**", peers), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
