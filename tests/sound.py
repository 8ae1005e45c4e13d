"""A room without hardware: a private PulseAudio with a virtual speaker and microphone, and ways to disturb it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.bench.live.pulse import PACKAGES, Daemon, missing

SPEAKER_RATE = 48_000
SPEAKER = f"module-null-sink sink_name=spk rate={SPEAKER_RATE} channels=2 norewinds=1"
FEED = f"module-null-sink sink_name=micfeed rate={RATE} channels=1 channel_map=mono norewinds=1"
MICROPHONE = "module-remap-source master=micfeed.monitor source_name=mic"


class Room(Daemon):
    """The daemon, its microphone and its speaker."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._recorder: subprocess.Popen[bytes] | None = None
        self._recording = folder / "speaker.raw"

    def start(self, microphone: bool = True) -> None:
        """Start the daemon; returns when it answers."""
        self.run([SPEAKER, FEED, *([MICROPHONE] if microphone else [])])

    def kill(self) -> None:
        """The daemon dies without a word."""
        self.stop_recording()
        super().kill()

    def unload(self, module: str) -> None:
        """Take away what was loaded by such a line; the daemon's next best device stands in for it."""
        for line in self.pactl("list", "short", "modules").splitlines():
            number, name, *arguments = line.split("\t")
            if module == " ".join([name, *arguments]).strip():
                self.pactl("unload-module", number)

    def load(self, module: str) -> None:
        self.pactl("load-module", *module.split(" "))

    def say_into_mic(self, samples: Samples) -> subprocess.Popen[bytes]:
        """Sound at 16 kHz in front of the microphone, from now on; `wait()` until it is over."""
        said = self.folder / "said.raw"
        said.write_bytes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        form = ["--raw", f"--rate={RATE}", "--channels=1", "--format=s16le", "--latency-msec=20"]
        return subprocess.Popen(["pacat", "--playback", "--device=micfeed", *form, said], env=self.environment)

    def record(self) -> None:
        """Record the speaker from now on."""
        with self._recording.open("wb") as file:
            form = ["--raw", f"--rate={SPEAKER_RATE}", "--channels=1", "--format=float32le", "--latency-msec=20"]
            command = ["parec", "--device=spk.monitor", *form]
            self._recorder = subprocess.Popen(command, env=self.environment, stdout=file)
        for _ in range(250):
            if self._recording.stat().st_size:
                return
            time.sleep(0.02)
        raise AssertionError("the speaker cannot be recorded")

    def stop_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.terminate()
            self._recorder.wait(5)
            self._recorder = None

    def recorded(self) -> Samples:
        """What the speaker gave so far, at its 48 kHz."""
        data = self._recording.read_bytes()
        return np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)


@contextmanager
def room_in(folder: Path) -> Iterator[Room]:
    """A room whose daemon is gone when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    room = Room(folder)
    try:
        yield room
    finally:
        room.kill()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A room with microphone and speaker; skipped where no PulseAudio is installed."""
    if missing():
        pytest.skip(f"apt-get install {PACKAGES}")
    with room_in(tmp_path / "room") as made:
        made.start()
        yield made
