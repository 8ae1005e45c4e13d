"""`POST /completion` with real models."""

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
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from conftest import DEFAULTS, TIMEOUT, RunningServer, encode_audio, serving, tone
from paths import CORPUS

pytestmark = pytest.mark.real
WAV = {"content-type": "audio/wav"}
QUESTION = "What is the capital of France?"


def synthesized(server: RunningServer, text: str) -> bytes:
    """Speech of the server's own voice, as a WAV file."""

    async def spoken() -> list[Audio]:
        return [part async for part in server.appliance.synthesis.synthesize_text(text)]

    parts = server.run(spoken)
    silence = np.zeros(RATE // 3, np.float32)
    return wav(Audio(np.concatenate([silence, *(part.at(RATE).samples for part in parts), silence]), RATE))


def recorded_question() -> bytes:
    """The question, recorded in the corpus: the server's own synthesis varies, and its transcripts with it."""
    speech = decode(CORPUS / "wake" / "pause.flac").samples[RATE:]
    silence = np.zeros(RATE // 3, np.float32)
    return wav(Audio(np.concatenate([silence, speech, silence]), RATE))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_spoken_question_gets_a_spoken_answer(real_server: RunningServer) -> None:
    question = recorded_question()
    reply = real_server.client.post("/completion?reply=voice&temperature=0", content=question, headers=WAV)
    assert words(reply.headers["x-chatapi-transcript"]) == words(QUESTION)
    assert "Paris" in reply.headers["x-chatapi-reply"]
    timings = json.loads(reply.headers["x-chatapi-timings"])
    audio = decode(question).seconds
    assert timings["audio"] == pytest.approx(audio, abs=0.01)
    assert audio - 0.8 < timings["speech_end"] < audio
    transcript = real_server.client.post("/completion", content=reply.content, headers=WAV).json()["transcript"]
    assert len({"capital", "france", "paris"} & set(words(transcript))) >= 2


def test_first_audio_is_sent_before_the_last_delta(real_server: RunningServer) -> None:
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
def test_noise_is_rejected_as_no_speech(real_server: RunningServer, kind: str) -> None:
    reply = real_server.client.post("/completion", content=wav(Audio(noise(kind), RATE)), headers=WAV)
    assert (reply.status_code, reply.json()["code"]) == (422, "no_speech"), reply.text


@pytest.mark.parametrize("level", [0.01, 1.0])
def test_quiet_and_loud_speech_is_transcribed(real_server: RunningServer, level: float) -> None:
    sound = decode(recorded_question())
    reply = real_server.client.post("/completion", content=wav(Audio(sound.samples * level, RATE)), headers=WAV)
    assert words(reply.json()["transcript"]) == words(QUESTION)


def test_hour_of_audio_is_rejected_with_the_limit(real_server: RunningServer) -> None:
    hour = np.zeros(3600 * RATE, np.float32)
    small = real_server.client.post("/completion", content=encode_audio(hour, RATE, "flac", "flac"), headers=WAV)
    assert (small.status_code, small.json()["code"], small.json()["limit_seconds"]) == (413, "audio_too_long", 120)
    large = real_server.client.post("/completion", content=wav(Audio(hour, RATE)), headers=WAV)
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")


def test_conversation_continues_after_a_restart(data: Path) -> None:
    chosen = settings.load([*DEFAULTS, f"data={data}"], environ={}).settings
    with serving(chosen) as server:
        first = server.client.post("/completion", json={"prompt": "My name is Anna.", "temperature": 0}).json()
    with serving(chosen) as server:
        body = {"prompt": "What is my name?", "conversation": first["conversation"], "temperature": 0}
        second = server.client.post("/completion", json=body).json()
    # The answer of so small a model is not reliable, but its prompt is.
    before = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens"] > before
    assert second["conversation"] == first["conversation"]


def test_second_turn_reuses_the_prompt_cache(real_server: RunningServer) -> None:
    first = real_server.client.post("/completion", json={"prompt": "Name a fruit.", "temperature": 0}).json()
    body = {"prompt": "And a vegetable?", "conversation": first["conversation"], "temperature": 0}
    usage = real_server.client.post("/completion", json=body).json()["usage"]
    assert usage["cached_tokens"] > 0.7 * usage["prompt_tokens"]


def test_the_same_seed_gives_the_same_answer(real_server: RunningServer) -> None:
    body = {"prompt": "Tell me a joke.", "temperature": 1.0, "seed": 11, "max_tokens": 30}
    first, second = (real_server.client.post("/completion", json=body).json()["reply"] for _ in range(2))
    other = real_server.client.post("/completion", json={**body, "seed": 12}).json()["reply"]
    assert first == second != other


def test_eight_concurrent_clients_get_the_answers_to_their_own_questions(real_server: RunningServer) -> None:
    capitals = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo", "Greece": "Athens"}

    def named(country: str) -> set[str]:
        """The capitals in the answer."""
        body = {"prompt": f"What is the capital of {country}?", "temperature": 0, "max_tokens": 30}
        reply = httpx.post(real_server.url + "/completion", json=body, timeout=120).json()["reply"]
        return {capital for capital in capitals.values() if capital in reply}

    known = [country for country in capitals if named(country) == {capitals[country]}]
    assert len(known) >= 3
    asked = (known * 3)[:8]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(named, asked))
    # Sums in batches are rounded differently, which may decide between two words that are equally likely.
    assert sum(map(len, found)) >= 6
    assert all(names <= {capitals[country]} for names, country in zip(found, asked, strict=True))


@pytest.mark.parametrize("role", ["asr", "llm", "tts"])
def test_disconnect_at_any_stage_frees_every_engine(real_server: RunningServer, role: str) -> None:
    body = synthesized(real_server, "Tell me a very long story about a lighthouse keeper and the sea.")
    lines = (
        "POST /completion?reply=voice&stream=true HTTP/1.1",
        "Host: localhost",
        "Content-Type: audio/wav",
        f"Content-Length: {len(body)}",
    )
    worker = getattr(real_server.appliance.engines, role)
    with socket.create_connection(("127.0.0.1", real_server.port)) as plain:
        plain.sendall("\r\n".join((*lines, "", "")).encode() + body)
        wait_until(lambda: worker.admission.used == 1)
    wait_until(lambda: real_server.appliance.admission.used == 0)
    wait_until(lambda: all(worker.admission.used == 0 for worker in real_server.appliance.engines.all()))
    assert real_server.client.post("/completion", json={"prompt": "Hello", "max_tokens": 5}).status_code == 200


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.001)
