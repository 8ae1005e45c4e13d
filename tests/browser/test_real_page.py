"""The page with real models: a spoken question gets a spoken answer."""

from __future__ import annotations

import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser.conftest import GRANTED, serving, write_wav
from conftest import MODELS

pytestmark = [pytest.mark.real, pytest.mark.alone]
REAL = (
    "vad.engine=silero",
    "turn_detection.engine=smart_turn",
    "asr.engine=whisper_cpp",
    "llm.engine=llama_cpp",
    "tts.engine=piper",
)
SMALL = ("asr.model=whisper-tiny.en", "llm.model=smollm2-135m-instruct", "tts.model=en_US-joe-medium")
QUESTION = "What is the capital of France?"
SECONDS = 4
"""Recording time in seconds, longer than the question."""


def speech_file(folder: Path, text: str, before: float = 0, after: float = 3) -> Path:
    """A recording of this text for the fake microphone: synthesized speech between silences, in seconds."""
    chosen = [part for setting in (f"data={folder}", *SMALL) for part in ("--set", setting)]
    raw = folder / "raw.wav"
    subprocess.run([sys.executable, "-m", "chatapi", "say", text, "-o", str(raw), *chosen], check=True, cwd=folder)
    with wave.open(str(raw)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    assert len(samples) < (SECONDS - 1) * rate
    return write_wav(folder / "speech.wav", np.pad(samples, [(round(before * rate), round(after * rate))]), rate)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the real models."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "models").symlink_to(MODELS / "models")
    return folder


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_recorded_question_gets_a_spoken_answer(data: Path, browse: Callable[..., Any]) -> None:
    question = speech_file(data, QUESTION)
    with serving(data, *REAL, *SMALL) as server:
        page = browse(server.url, GRANTED, microphone=question)
        page.press("#mic")
        page.recorded(SECONDS)
        page.press("#mic")
        answer = page.answered()
        assert words(page.text(".question .text"))[:5] == words(QUESTION)[:5]
        assert answer.find_element("css selector", ".text").text
        page.wait(lambda: page.loudest() > 0.1, "the answer is not played")


RECORD_LOUDEST = """
    const live = document.getElementById('live'), meter = document.getElementById('live-meter');
    window.loudestAnswer = 0;
    new MutationObserver(() => {
        if (live.dataset.state !== 'speaking') return;
        window.loudestAnswer = Math.max(window.loudestAnswer, Number(meter.getAttribute('aria-valuenow')));
    }).observe(meter, {attributes: true});
"""
"""Records the loudest playback of the answer."""


def test_live_question_gets_a_spoken_answer(data: Path, browse: Callable[..., Any]) -> None:
    # The speech starts after the conversation is open; the browser repeats the file after the answer was played.
    question = speech_file(data, QUESTION, before=5, after=20)
    with serving(data, *REAL, *SMALL) as server:
        page = browse(server.url, GRANTED, microphone=question)
        page.run(RECORD_LOUDEST)
        page.press("#talk")
        answer = page.answered()
        assert words(page.text(".question .text"))[:5] == words(QUESTION)[:5]
        assert float(answer.get_attribute("data-seconds")) > 0.5
        assert page.run("return window.loudestAnswer") > 30
        marks = [row.get_attribute("data-mark") for row in answer.find_elements("css selector", ".chart li")]
        assert {"transcript", "endpoint", "first_audio"} & set(marks)
        page.press("#live-end")
        conversation = page.run("return localStorage.getItem('chatapi.conversation')")
        assert words(server.get(f"/conversations/{conversation}")["messages"][0]["text"])[:5] == words(QUESTION)[:5]


def test_barge_in_stops_the_answer_at_the_played_position(data: Path, browse: Callable[..., Any]) -> None:
    # The browser repeats the file while the first answer still plays.
    question = speech_file(data, "Tell me a long story about a lighthouse.", before=5, after=4)
    with serving(data, *REAL, *SMALL) as server:
        page = browse(server.url, GRANTED, microphone=question)
        page.press("#talk")
        answer = page.wait_for(".answer[data-interrupted]")
        shown = answer.find_element("css selector", ".text").text
        assert shown.endswith(" —")
        assert "Interrupted" in answer.find_element("css selector", ".aside").text
        page.wait_for(".answer", 2)
        page.press("#live-end")
        conversation = page.run("return localStorage.getItem('chatapi.conversation')")
        stored = server.get(f"/conversations/{conversation}")["messages"][1]["text"]
        # The last playback report is up to 100 ms old, and text normalization makes numbers longer.
        assert stored.endswith(" —") and abs(len(stored.split()) - len(shown.split())) <= 6
