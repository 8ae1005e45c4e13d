"""Mixed traffic: requests of clients of every interface, some of which disconnect."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from fuzz.client import Client, Outcome
from fuzz.inputs import FORM, JSON, Input, as_json, form, request, wyoming
from fuzz.interfaces import conversation_of
from fuzz.judge import fault_of
from fuzz.server_process import ServerProcess
from soak.curve import median

CORPUS = Path(__file__).parents[1] / "corpus"
STALL = 120.0
"""Seconds without a byte after which a client counts as hung: a long recording waits for turns and live sessions."""
LONG = 60
"""Seconds of the long recording."""


CLIPS = (
    "made/000-kokoro-jf_alpha-en-us", "made/003-kokoro-jf_gongitsune-en-us", "made/006-kokoro-jf_nezumi-en-gb",
    "made/010-kokoro-alpha_kumo-en-us", "made/018-espeak-en-gb+f3", "made/021-kokoro-jf_gongitsune-en-us",
    "made/026-kokoro-alpha_kumo-en-us", "made/031-kokoro-jm_kumo-en-gb", "made/034-kokoro-jm_kumo-en-us",
    "made/039-kokoro-tebukuro_kumo-en-gb", "made/041-espeak-en-gb", "made/044-kokoro-nezumi_kumo-en-gb",
    "made/048-kokoro-jf_alpha-en-us", "made/051-espeak-en-us", "real/jfk-18",
)  # fmt: skip
"""Clips of the corpus that Whisper tiny transcribes without errors; none has the voice of the answers."""


def voices() -> dict[str, Audio]:
    """The audio of the clips by name."""
    return {name: decode(CORPUS / f"{name}.flac") for name in CLIPS}


class Traffic:
    """Clients that send one request after another."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self._server, self._rng = server, random.Random(seed)
        self._sounds = list(voices().values())
        self._short = [wav(each) for each in self._sounds]
        repeats = [self._sounds[at % len(self._sounds)].samples for at in range(LONG)]
        self._long = wav(Audio(np.concatenate(repeats)[: LONG * RATE], RATE))
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._latency = 0.0
        self._kinds: tuple[tuple[int, Callable[[], Input]], ...] = (
            (10, self._text), (4, self._voice), (4, self._chat), (4, self._transcription),
            (1, self._long_transcription),
            (4, self._speech), (3, self._wyoming), (3, self._disconnecting), (1, self._audio_chat), (2, self._page),
        )  # fmt: skip
        self._ids: list[str] = []

    def latency(self) -> float:
        """Median of the text turns since the last call, in milliseconds; the last value if there were none."""
        found, self._latencies = self._latencies, []
        self._latency = 1000 * median(found) if found else self._latency
        return self._latency

    async def run(self, end: float, clients: int) -> None:
        """Runs until `end`."""
        await asyncio.gather(*(self._client(end) for _ in range(clients)))

    async def _client(self, end: float) -> None:
        pool = [make for weight, make in self._kinds for _ in range(weight)]
        client = Client(self._server.port, self._server.wyoming, STALL)
        watcher = asyncio.create_task(self._watch(client))
        while time.monotonic() < end and self._server.alive:
            given = self._rng.choice(pool)()
            outcome = await client.send(given)
            self._count(given, outcome)
            # People pause; and the server must have idle moments to release memory.
            await asyncio.sleep(self._rng.random() * 0.3)
        watcher.cancel()
        client.close()

    async def _watch(self, client: Client) -> None:
        while True:
            await asyncio.sleep(1)
            client.check()

    def _count(self, given: Input, outcome: Outcome) -> None:
        self.counts[f"{given.interface}: {outcome.status or outcome.end}"] += 1
        fault = fault_of(given, outcome)
        # All requests are valid, so only a lack of capacity may reject them.
        if not fault and given.kind == "http" and outcome.status not in (200, 204, 404, 503) and outcome.end == "whole":
            fault = f"status {outcome.status} {outcome.code}"
        if fault:
            self.faults[f"{given.interface}: {fault}"] += 1
        if given.name == "text turn" and outcome.status == 200:
            self._latencies.append(outcome.seconds)
        if found := conversation_of(outcome.body):
            self._ids = [*self._ids[-20:], found]

    def _text(self) -> Input:
        document: dict[str, object] = {"prompt": "What is the capital of France?", "max_tokens": 12}
        if self._ids and self._rng.random() < 0.3:
            document["conversation"] = self._rng.choice(self._ids)
            return _post("completion", "next turn", "/completion", as_json(document))
        return _post("completion", "text turn", "/completion", as_json(document))

    def _voice(self) -> Input:
        query = self._rng.choice(("", "?reply=voice", "?reply=voice&stream=true"))
        sent = request("POST", f"/completion{query}", self._rng.choice(self._short), {"Content-Type": "audio/wav"})
        return Input("http", "completion", "voice turn", (sent,))

    def _chat(self) -> Input:
        messages = [{"role": "user", "content": "Say hello."}]
        document = {"messages": messages, "max_tokens": 12, "stream": self._rng.random() < 0.5}
        return _post("chat", "text", "/v1/chat/completions", as_json(document))

    def _audio_chat(self) -> Input:
        sound = {"data": base64.b64encode(self._rng.choice(self._short)).decode(), "format": "wav"}
        messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]
        return _post("chat", "audio", "/v1/chat/completions", as_json({"messages": messages, "max_tokens": 12}))

    def _transcription(self) -> Input:
        body = form([("response_format", "verbose_json")], [("file", "a.wav", self._rng.choice(self._short))])
        return Input("http", "transcriptions", "short", (request("POST", "/v1/audio/transcriptions", body, FORM),))

    def _long_transcription(self) -> Input:
        body = form([], [("file", "a.wav", self._long)])
        return Input("http", "transcriptions", "long", (request("POST", "/v1/audio/transcriptions", body, FORM),))

    def _speech(self) -> Input:
        document = {
            "input": "Good morning. It is five p.m. in the U.S.A.",
            "voice": "default",
            "model": "tts-1",
            "response_format": self._rng.choice(("mp3", "wav", "opus", "flac")),
        }
        return _post("speech", "speech", "/v1/audio/speech", as_json(document))

    def _wyoming(self) -> Input:
        samples = self._rng.choice(self._sounds).pcm16()
        spoken = {"rate": RATE, "width": 2, "channels": 1}
        chunks = [wyoming("audio-chunk", spoken, samples[at : at + 4096]) for at in range(0, len(samples), 4096)]
        scripts = (
            (wyoming("transcribe", {}), wyoming("audio-start", spoken), *chunks, wyoming("audio-stop", {})),
            (wyoming("synthesize", {"text": "Good morning."}),),
            (wyoming("transcript", {"text": "What is the capital of France?"}),),
        )
        return Input("wyoming", "Wyoming", "session", self._rng.choice(scripts))

    def _disconnecting(self) -> Input:
        given = self._rng.choice((self._voice, self._speech, self._transcription, self._text))()
        data = given.frames[0]
        cut = self._rng.choice((len(data), len(data) // 2))
        return Input("bytes", "disconnects", given.name, (data[:cut],), whole=False, take=0)

    def _page(self) -> Input:
        path = self._rng.choice(("/", "/page/app.js", "/models", "/v1/models", "/health", "/metrics"))
        return Input("http", "page", path, (request("GET", path),))


def _post(interface: str, name: str, path: str, body: bytes) -> Input:
    return Input("http", interface, name, (request("POST", path, body, JSON),))
