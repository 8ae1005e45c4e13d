"""The page with real models: a spoken question gets a spoken answer; a recording is transcribed and played."""

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
from paths import CORPUS

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
    # Nobody speaks at the instant of the press, when the browser is still opening the microphone.
    question = speech_file(data, QUESTION, before=0.4)
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


RECORD_SPOKEN = """
    window.spoken = [];
    const audio = document.querySelector('audio');
    const look = () => {
        const word = [...(CSS.highlights.get('spoken') ?? [])].map((range) => [range.startOffset, String(range)])[0];
        if (word && !audio.paused && String(word) !== window.last) {
            window.last = String(word);
            window.spoken.push([word[1], audio.currentTime]);
        }
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
"""
"""Records each word as it is highlighted, with the position of the playback."""


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


def test_recording_is_transcribed_and_its_words_are_highlighted_in_step(
    data: Path, browse: Callable[..., Any], tmp_path: Path
) -> None:
    recording = tmp_path / "two cities.flac"
    recording.write_bytes((CORPUS / "real" / "two_cities-00.flac").read_bytes())
    with serving(data, *REAL, *SMALL, "llm.engine=fake", "tts.engine=fake") as server:
        page = browse(f"{server.url}/#/transcribe", ready=False)
        page.wait_for("#status[data-state=ready]")
        page.wait_for("#transcribe-files").send_keys(str(recording))
        page.wait_for("#jobs [data-state=done] .open").click()
        text = page.wait_for(".transcript .words").text
        assert words(text)[:6] == ["it", "was", "the", "best", "of", "times"]
        page.wait(lambda: page.run("return document.querySelector('audio').readyState") > 0)
        page.run(RECORD_SPOKEN)
        page.press("#play")
        page.wait(lambda: page.run("return document.querySelector('audio').ended"))
        found = page.run("return window.spoken")
        # A busy machine may skip a word between two frames of the screen.
        shown = [each for word, _ in found for each in words(word)]
        rest = iter(words(text))
        assert all(each in rest for each in shown) and len(shown) > len(words(text)) / 2, (shown, text)
        job = page.driver.current_url.rpartition("/")[2]
        segments = server.get(f"/jobs/{job}/result?format=json")["segments"]
        times = [(each["word"].strip(), each["start"]) for part in segments for each in part["words"]]
        # A frame of the screen, and the load of the machine, come between.
        for word, at in found:
            assert any(word == known and -0.05 < at - start < 1.0 for known, start in times), (word, at, times)
        page.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
        page.press("[data-format=srt]")
        file = tmp_path / "downloads" / "two cities.srt"
        page.wait(file.exists)
        assert file.read_text().startswith("1\n00:00:") and "best of times" in file.read_text().lower()
