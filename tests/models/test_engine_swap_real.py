"""Real models swapped while recordings are transcribed and answers are synthesized."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi import settings
from chatapi.bench.wer import words
from chatapi.settings import Settings
from conftest import DEFAULTS, RunningServer, installed_model, serving
from engine_processes import engine_processes
from test_completion_real import QUESTION, WAV, recorded_question

pytestmark = pytest.mark.real
MODELS = ("whisper-base-ct2", "whisper-tiny.en")
"""Of another size, and for another engine, than the model at the start."""


@pytest.fixture
def real_settings(data: Path) -> Callable[..., Settings]:
    """Returns settings with real engines; the models of `MODELS` are installed."""
    for name in (*MODELS, "whisper-tiny.en-ct2", "smollm2-135m-instruct", "en_US-joe-medium"):
        installed_model(name)
    return lambda *more: settings.load([*DEFAULTS, f"data={data}", *more], environ={}).settings


def swapped(server: RunningServer, change: dict[str, Any]) -> None:
    reply = server.client.patch("/settings", json=change, timeout=300)
    assert reply.status_code == 200, reply.text


def active(server: RunningServer, role: str) -> str:
    name: str = server.client.get("/health").json()["engines"][role]["model"]
    return name


@pytest.mark.parametrize("free", [1 << 40, 150_000_000])
def test_recordings_are_transcribed_while_the_model_is_swapped(
    real_settings: Callable[..., Settings], free: int
) -> None:
    question, replies, ended = recorded_question(), [], threading.Event()
    with serving(real_settings()) as server:
        # Of the smaller value, each model fits only in the place of the one before.
        server.appliance.swaps.available = lambda: free

        def transcribe() -> None:
            with httpx.Client(base_url=server.url, timeout=300) as client:
                while not ended.is_set():
                    files = {"file": ("question.wav", question, "audio/wav")}
                    replies.append(client.post("/v1/audio/transcriptions", files=files, data={"model": "whisper-1"}))

        thread = threading.Thread(target=transcribe)
        thread.start()
        for model in MODELS:
            swapped(server, {"asr": {"model": model, "engine": "auto"}})
            assert active(server, "asr") == model
            before = len(replies)
            while len(replies) < before + 1 and thread.is_alive():
                ended.wait(0.05)
        ended.set()
        thread.join(300)
        assert server.client.get("/ready").status_code == 200
    assert {reply.status_code for reply in replies} == {200}
    assert {tuple(words(reply.json()["text"])) for reply in replies} == {tuple(words(QUESTION))}


def test_engines_move_into_processes_and_answer(real_settings: Callable[..., Settings]) -> None:
    with serving(real_settings()) as server:
        swapped(server, {role: {"worker": "process"} for role in ("asr", "llm", "tts")})
        voice = server.client.post("/completion?reply=voice", content=recorded_question(), headers=WAV, timeout=300)
        assert voice.status_code == 200 and len(voice.content) > 10_000
        assert set(engine_processes()) == {"asr", "llm", "tts"}
