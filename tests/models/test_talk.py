"""`chatapi talk` with real models, through a real sound server's microphone and speaker."""

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
from virtual_sound_card import Room, room

__all__ = ["room"]


class Talking:
    """The command at work, and what it has written."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait(self, start: str, count: int = 1, seconds: float = TIMEOUT) -> str:
        """The line that begins so, once it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [line for line in self.lines if line.startswith(start)]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.05)
        raise AssertionError(f"no line {start!r} number {count} in {self.lines}")


@contextmanager
def talking(
    room: Room, data: Path, *chosen: str, words: Sequence[str] = (), stdin: int = subprocess.DEVNULL
) -> Iterator[Talking]:
    options = [option for each in (f"data={data}", *chosen) for option in ("--set", each)]
    environment = {**room.environment, "COLUMNS": "200", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "chatapi", "talk", *words, *options],
        env={name: value for name, value in environment.items() if not name.startswith("CHATAPI_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=stdin,
        text=True,
        cwd=room.folder,
    )
    running = Talking(process)
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


def spoken(text: str) -> Samples:
    piper = Piper(Settings(), [installed_model("en_US-joe-medium")])
    return np.concatenate([part.at(RATE).samples for part in piper.synthesize(text, piper.voices[0].name)])


def said(samples: Samples) -> list[str]:
    whisper = WhisperCpp(Settings(), [installed_model("whisper-tiny.en")])
    sound = Audio(samples, 48_000).at(RATE).samples
    return words(" ".join(segment.text for segment in whisper.transcribe(sound, "en")))


@pytest.mark.real
@pytest.mark.alone
def test_a_question_in_the_room_is_answered_in_the_room(room: Room, data: Path) -> None:
    with talking(room, data, *DEFAULTS, "llm.temperature=0") as talk:
        room.record()
        room.play_into_microphone(spoken("What is the capital of France?")).wait()
        # How well it hears is measured elsewhere; a busy machine's virtual sound card may lose a syllable.
        assert words(talk.wait("you:"))[:6] == words("you: What is the capital of")
        answer = set(words(talk.wait("box:"))[1:])
        time.sleep(3.5)
        assert len(answer & set(said(room.recorded()))) >= min(3, len(answer))


def test_echo_engines_talk_after_the_sound_server_died(room: Room, data: Path) -> None:
    with talking(room, data, *FAKE_ENGINES) as talk:
        room.play_into_microphone(np.concatenate([tone(0.6), np.zeros(RATE // 2, np.float32)])).wait()
        talk.wait("box: You said")
        room.kill()
        talk.wait("the input device is missing")
        room.start()
        talk.wait("the input device is back")
        talk.wait("the output device is back")
        time.sleep(0.5)
        room.play_into_microphone(np.concatenate([tone(1.1), np.zeros(RATE // 2, np.float32)])).wait()
        talk.wait("box: You said", 2)


def test_without_a_sound_device_it_says_so_and_waits(tmp_path: Path, data: Path) -> None:
    environment = {**os.environ, "PULSE_SERVER": "unix:/nowhere", "HOME": str(tmp_path), "COLUMNS": "200"}
    options = [option for each in (f"data={data}", *FAKE_ENGINES) for option in ("--set", each)]
    process = subprocess.Popen([sys.executable, "-m", "chatapi", "talk", *options], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
    try:
        talk = Talking(process)
        talk.wait("the input device is missing")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)
        assert process.stdout is not None
        process.stdout.close()
