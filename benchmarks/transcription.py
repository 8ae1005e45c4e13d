"""Compares transcription with faster-whisper behind a bare route and whisper.cpp's own server, with the same weights.

python benchmarks/transcription.py --peers-python P --faster-whisper FOLDER --whisper-server FILE [--rounds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import httpx
import jiwer
import numpy as np
from running import Ask, Peer, alternate, free_port, started, table

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests/corpus"
RATE = 16_000
MODEL = "whisper-tiny.en-ct2"
GGML = ".local/share/chatapi/models/whisper-tiny.en/ggml-tiny.en.bin"


def decoded(path: Path) -> np.ndarray:
    """16 kHz mono, int16."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def clips() -> Iterator[tuple[np.ndarray, str]]:
    """English clips without noise, and their texts."""
    with (CORPUS / "clips.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["language"] == "en" and not row["noise"]:
                yield decoded(CORPUS / row["file"]), row["text"]


def wav(samples: np.ndarray) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def short() -> tuple[bytes, str]:
    """A clip of about three seconds."""
    samples, text = min(clips(), key=lambda clip: abs(len(clip[0]) - 3 * RATE))
    return wav(samples), text


def long(seconds: float) -> tuple[bytes, str]:
    """Clips one after another, half a second apart."""
    parts, texts, length = [], [], 0
    while length < seconds * RATE:
        for samples, text in clips():
            parts += [samples, np.zeros(RATE // 2, np.int16)]
            texts.append(text)
            length += len(samples) + RATE // 2
            if length >= seconds * RATE:
                break
    return wav(np.concatenate(parts)), " ".join(texts)


def words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())


class Route:
    """A route that transcribes a file."""

    def __init__(self, client: httpx.AsyncClient, url: str, fields: dict[str, str]) -> None:
        self.client, self.url, self.fields, self.text = client, url, fields, ""

    def asking(self, audio: bytes) -> Ask:
        async def ask() -> float:
            begun = time.perf_counter()
            files = {"file": ("clip.wav", audio, "audio/wav")}
            answer = await self.client.post(self.url, files=files, data=self.fields, timeout=600)
            answer.raise_for_status()
            self.text = answer.json()["text"]
            return time.perf_counter() - begun

        return ask


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", help="a Python with faster-whisper, fastapi and python-multipart")
    parser.add_argument("--faster-whisper", help="the folder of tiny.en in CTranslate2's format")
    parser.add_argument("--whisper-server", help="whisper.cpp's server, built from source")
    parser.add_argument("--ggml", default=str(Path.home() / GGML))
    parser.add_argument("--model", default=MODEL, help="ASR model of chatapi")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300, help="duration of the long file")
    return parser.parse_args()


async def measured(routes: dict[str, Route], chosen: argparse.Namespace) -> None:
    cases = [
        ("a clip of 3 s", *short(), chosen.rounds),
        (f"a file of {chosen.seconds:.0f} s", *long(chosen.seconds), 3),
    ]
    for title, audio, text, rounds in cases:
        for clients in (1, 8):
            if clients > 1 and rounds == 3:
                rounds = 1
            peers = [Peer(name, route.asking(audio)) for name, route in routes.items()]
            await alternate(peers, rounds, clients)
            print(table(f"**{title}, {clients} client{'s' * (clients > 1)}**", peers))
            for name, route in routes.items():
                print(f"word errors, {name}: {jiwer.wer(words(text), words(route.text)):.1%}")
            print(flush=True)


async def main() -> None:
    chosen = arguments()
    with ExitStack() as servers:
        async with httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{free_port()}"
            settings = ("--set", f"server.port={base.rpartition(':')[2]}", "--set", f"asr.model={chosen.model}")
            limits = ("--set", "limits.queue=64", "--set", "llm.engine=fake", "--set", "tts.engine=fake")
            servers.enter_context(started((sys.executable, "-m", "chatapi", *settings, *limits), f"{base}/ready"))
            routes = {
                "chatapi": Route(client, f"{base}/v1/audio/transcriptions", {"model": "default", "language": "en"})
            }
            if chosen.faster_whisper:
                url = f"http://127.0.0.1:{(port := free_port())}"
                script = str(Path(__file__).with_name("whisper_route.py"))
                command = (chosen.peers_python, script, chosen.faster_whisper, str(port))
                servers.enter_context(started(command, f"{url}/health"))
                routes["faster-whisper, FastAPI"] = Route(client, f"{url}/v1/audio/transcriptions", {})
            if chosen.whisper_server:
                url = f"http://127.0.0.1:{(port := free_port())}"
                greedy = ("-bo", "1", "-bs", "1", "-t", "2", "-l", "en")
                command = (chosen.whisper_server, "-m", chosen.ggml, "--port", str(port), *greedy)
                servers.enter_context(started(command, f"{url}/"))
                routes["whisper.cpp server"] = Route(client, f"{url}/inference", {"response_format": "json"})
            await measured(routes, chosen)


if __name__ == "__main__":
    asyncio.run(main())
