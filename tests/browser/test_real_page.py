"""The page on the real models: a question said into the microphone, heard, answered and spoken."""

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
from conftest import MODELS

from browser.conftest import GRANTED, serving, write_wav

pytestmark = pytest.mark.real
REAL = ("vad.engine=silero", "asr.engine=whisper_cpp", "llm.engine=llama_cpp", "tts.engine=piper")
SMALL = ("asr.model=whisper-tiny.en", "llm.model=smollm2-135m-instruct", "tts.model=en_US-joe-medium")
QUESTION = "What is the capital of France?"
SECONDS = 4
"""Longer than the question takes."""


def said(folder: Path, text: str) -> Path:
    """What a microphone gives when someone says this: the box's own voice, then a while of silence."""
    chosen = [part for setting in (f"data={folder}", *SMALL) for part in ("--set", setting)]
    raw = folder / "raw.wav"
    subprocess.run([sys.executable, "-m", "chatapi", "say", text, "-o", str(raw), *chosen], check=True, cwd=folder)
    with wave.open(str(raw)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    assert len(samples) < (SECONDS - 1) * rate
    return write_wav(folder / "said.wav", np.concatenate([samples, np.zeros(3 * rate)]), rate)


def test_a_spoken_question_is_understood_and_answered_aloud(tmp_path: Path, browse: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "models").symlink_to(MODELS / "models")
    question = said(data, QUESTION)
    with serving(data, *REAL, *SMALL) as served:
        page = browse(served.url, GRANTED, hears=question)
        page.press("#mic")
        page.recorded(SECONDS)
        page.press("#mic")
        answer = page.answered()
        assert re.findall(r"\w+", page.text(".question .text").lower()) == re.findall(r"\w+", QUESTION.lower())
        assert answer.find_element("css selector", ".text").text
        page.wait(lambda: page.loudest() > 0.1, "the answer is not heard")
