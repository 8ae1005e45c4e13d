"""The product on its real models, through its real door."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from chatapi import settings
from chatapi.audio import RATE, Audio, Samples, decode, wav
from conftest import DEFAULTS, TIMEOUT, RunningServer, encode_audio, serving, tone
from paths import CORPUS

pytestmark = pytest.mark.real
WAV = {"content-type": "audio/wav"}
QUESTION = "What is the capital of France?"


def say(real_server: RunningServer, text: str) -> bytes:
    """The box's own voice as a WAV file: it is asked to repeat by its own synthesizer, without the model."""

    async def spoken() -> list[Audio]:
        return [part async for part in real_server.appliance.synthesis.synthesize_text(text)]

    parts = real_server.run(spoken)
    silence = np.zeros(RATE // 3, np.float32)
    return wav(Audio(np.concatenate([silence, *(part.at(RATE).samples for part in parts), silence]), RATE))


def recorded() -> bytes:
    """The question in a file of the corpus: the box's own voice is another each time, and may be misheard."""
    said = decode(CORPUS / "wake" / "pause.flac").samples[RATE:]
    silence = np.zeros(RATE // 3, np.float32)
    return wav(Audio(np.concatenate([silence, said, silence]), RATE))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_a_spoken_question_is_heard_thought_about_and_answered_aloud(real_server: RunningServer) -> None:
    asked = recorded()
    reply = real_server.client.post("/completion?reply=voice&temperature=0", content=asked, headers=WAV)
    assert words(reply.headers["x-chatapi-transcript"]) == words(QUESTION)
    assert "Paris" in reply.headers["x-chatapi-reply"]
    timings = json.loads(reply.headers["x-chatapi-timings"])
    audio = decode(asked).seconds
    assert timings["audio"] == pytest.approx(audio, abs=0.01)
    assert audio - 0.8 < timings["speech_end"] < audio
    heard_back = real_server.client.post("/completion", content=reply.content, headers=WAV).json()["transcript"]
    assert len({"capital", "france", "paris"} & set(words(heard_back))) >= 2


def test_sound_begins_before_the_last_word_is_written(real_server: RunningServer) -> None:
    body = {"prompt": "Tell me a story about a lighthouse.", "reply": "voice", "stream": True, "temperature": 0}
    with real_server.client.stream("POST", "/completion", json=body, headers={"accept": "text/event-stream"}) as reply:
        names = [line.removeprefix("event: ") for line in reply.iter_lines() if line.startswith("event: ")]
    assert names.index("speech") < len(names) - 1 - names[::-1].index("delta")


def noise(kind: str) -> Samples:
    rng = np.random.default_rng(3)
    if kind == "silence":
        return np.zeros(4 * RATE, np.float32)
    if kind == "sine":
        return tone(4.0, 440)
    if kind == "hum":
        return tone(4.0, 50, level=0.2) + tone(4.0, 150, level=0.05)
    white = rng.normal(0, 0.1, 4 * RATE).astype(np.float32)
    if kind == "brown":
        walk = np.cumsum(white)
        return (0.3 * walk / np.abs(walk).max()).astype(np.float32)
    return white


@pytest.mark.parametrize("kind", ["silence", "white", "brown", "sine", "hum"])
def test_where_nobody_speaks_nothing_is_guessed(real_server: RunningServer, kind: str) -> None:
    reply = real_server.client.post("/completion", content=wav(Audio(noise(kind), RATE)), headers=WAV)
    assert (reply.status_code, reply.json()["code"]) == (422, "no_speech"), reply.text


@pytest.mark.parametrize("level", [0.01, 1.0])
def test_quiet_and_loud_speech_is_understood(real_server: RunningServer, level: float) -> None:
    sound = decode(recorded())
    reply = real_server.client.post("/completion", content=wav(Audio(sound.samples * level, RATE)), headers=WAV)
    assert words(reply.json()["transcript"]) == words(QUESTION)


def test_an_hour_of_sound_is_refused_with_the_limit(real_server: RunningServer) -> None:
    hour = np.zeros(3600 * RATE, np.float32)
    small = real_server.client.post("/completion", content=encode_audio(hour, RATE, "flac", "flac"), headers=WAV)
    assert (small.status_code, small.json()["code"], small.json()["limit_seconds"]) == (413, "audio_too_long", 120)
    large = real_server.client.post("/completion", content=wav(Audio(hour, RATE)), headers=WAV)
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")


def test_a_conversation_remembers_also_after_a_restart(data: Path) -> None:
    chosen = settings.load([*DEFAULTS, f"data={data}"], environ={}).settings
    with serving(chosen) as box:
        first = box.client.post("/completion", json={"prompt": "My name is Anna.", "temperature": 0}).json()
    with serving(chosen) as box:
        body = {"prompt": "What is my name?", "conversation": first["conversation"], "temperature": 0}
        second = box.client.post("/completion", json=body).json()
    # What so small a model makes of it is chance; that it was given all of it is not.
    before = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens"] > before
    assert second["conversation"] == first["conversation"]


def test_the_second_turn_computes_only_what_is_new(real_server: RunningServer) -> None:
    first = real_server.client.post("/completion", json={"prompt": "Name a fruit.", "temperature": 0}).json()
    body = {"prompt": "And a vegetable?", "conversation": first["conversation"], "temperature": 0}
    usage = real_server.client.post("/completion", json=body).json()["usage"]
    assert usage["cached_tokens"] > 0.7 * usage["prompt_tokens"]


def test_the_same_seed_gives_the_same_answer(real_server: RunningServer) -> None:
    body = {"prompt": "Tell me a joke.", "temperature": 1.0, "seed": 11, "max_tokens": 30}
    first, second = (real_server.client.post("/completion", json=body).json()["reply"] for _ in range(2))
    other = real_server.client.post("/completion", json={**body, "seed": 12}).json()["reply"]
    assert first == second != other


def test_eight_clients_at_once_are_all_answered_right(real_server: RunningServer) -> None:
    capitals = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo", "Greece": "Athens"}

    def right(country: str) -> bool:
        body = {"prompt": f"What is the capital of {country}?", "temperature": 0, "max_tokens": 30}
        reply = httpx.post(real_server.url + "/completion", json=body, timeout=120)
        return capitals[country] in reply.json()["reply"]

    known = [country for country in capitals if right(country)]
    assert len(known) >= 3
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, (known * 3)[:8]))


@pytest.mark.parametrize("stage", ["hearing", "thinking", "speaking"])
def test_a_client_that_leaves_at_any_stage_frees_every_engine(real_server: RunningServer, stage: str) -> None:
    body = say(real_server, "Tell me a very long story about a lighthouse keeper and the sea.")
    lines = (
        "POST /completion?reply=voice&stream=true HTTP/1.1",
        "Host: localhost",
        "Content-Type: audio/wav",
        f"Content-Length: {len(body)}",
    )
    engine = {"hearing": "asr", "thinking": "llm", "speaking": "tts"}[stage]
    worker = getattr(real_server.appliance.engines, engine)
    with socket.create_connection(("127.0.0.1", real_server.port)) as plain:
        plain.sendall("\r\n".join((*lines, "", "")).encode() + body)
        wait_until(lambda: worker.admission.used == 1)
    wait_until(lambda: real_server.appliance.admission.used == 0)
    wait_until(lambda: all(worker.admission.used == 0 for worker in real_server.appliance.engines.all()))
    assert real_server.client.post("/completion", json={"prompt": "Hello", "max_tokens": 5}).status_code == 200


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)
