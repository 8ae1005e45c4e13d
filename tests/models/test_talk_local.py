"""`chatapi talk` on this machine, with the microphone and speaker of a real sound server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.bench.wer import words
from chatapi.engines.asr.whisper_cpp import WhisperCpp
from chatapi.engines.tts.piper import Piper
from chatapi.settings import Settings
from conftest import DEFAULTS, FAKE_ENGINES, TIMEOUT, installed_model, tone
from virtual_sound_card import SoundCard, sound_card

__all__ = ["sound_card"]


class TalkProcess:
    """A running command and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait(self, start: str, count: int = 1, seconds: float = TIMEOUT) -> str:
        """Waits for the line number `count` that starts with `start`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [line for line in self.lines if line.startswith(start)]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.05)
        raise AssertionError(f"no line {start!r} number {count} in {self.lines}")


@contextmanager
def run_talk(
    sound_card: SoundCard, data: Path, *chosen: str, arguments: Sequence[str] = (), stdin: int = subprocess.DEVNULL
) -> Iterator[TalkProcess]:
    options = [option for each in (f"data={data}", *chosen) for option in ("--set", each)]
    environment = {**sound_card.environment, "COLUMNS": "200", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "talk", *arguments, *options],
        env={name: value for name, value in environment.items() if not name.startswith("CHATAPI_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=stdin,
        text=True,
        cwd=sound_card.folder,
    )
    running = TalkProcess(process)
    try:
        running.wait("listening")
        yield running
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0, running.lines
    finally:
        process.kill()
        process.wait()
        for end in (process.stdout, process.stdin):
            if end is not None:
                end.close()


def synthesize(text: str) -> Samples:
    piper = Piper(Settings(), [installed_model("en_US-joe-medium")])
    return np.concatenate([part.at(RATE).samples for part in piper.synthesize(text, piper.voices[0].name)])


def transcribe(samples: Samples) -> list[str]:
    whisper = WhisperCpp(Settings(), [installed_model("whisper-tiny.en")])
    sound = Audio(samples, 48_000).at(RATE).samples
    return words(" ".join(segment.text for segment in whisper.transcribe(sound, "en")))


@pytest.mark.real
@pytest.mark.alone
def test_question_at_the_microphone_is_answered_at_the_speaker(sound_card: SoundCard, data: Path) -> None:
    with run_talk(sound_card, data, *DEFAULTS, "llm.temperature=0") as talk:
        sound_card.record()
        sound_card.play_into_microphone(synthesize("What is the capital of France?")).wait()
        # Word error rates are measured elsewhere; the virtual sound card of a busy machine may lose a syllable.
        assert words(talk.wait("you:"))[:6] == words("you: What is the capital of")
        answer = set(words(talk.wait("box:"))[1:])
        end = time.monotonic() + TIMEOUT
        while len(answer & set(transcribe(sound_card.recorded()))) < min(3, len(answer)):
            assert time.monotonic() < end
            time.sleep(1)


def test_conversation_continues_after_the_sound_server_restarts(sound_card: SoundCard, data: Path) -> None:
    with run_talk(sound_card, data, *FAKE_ENGINES) as talk:
        sound_card.play_into_microphone(np.concatenate([tone(0.6), np.zeros(RATE // 2, np.float32)])).wait()
        talk.wait("box: You said")
        sound_card.kill()
        talk.wait("the input device is missing")
        sound_card.start()
        talk.wait("the input device is back")
        talk.wait("the output device is back")
        time.sleep(0.5)
        sound_card.play_into_microphone(np.concatenate([tone(1.1), np.zeros(RATE // 2, np.float32)])).wait()
        talk.wait("box: You said", 2)


def test_missing_sound_device_is_reported_and_awaited(tmp_path: Path, data: Path) -> None:
    environment = {**os.environ, "PULSE_SERVER": "unix:/nowhere", "HOME": str(tmp_path), "COLUMNS": "200"}
    options = [option for each in (f"data={data}", *FAKE_ENGINES) for option in ("--set", each)]
    process = subprocess.Popen([sys.executable, "-m", "chatapi", "talk", *options], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
    try:
        talk = TalkProcess(process)
        talk.wait("the input device is missing")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)
        assert process.stdout is not None
        process.stdout.close()
