"""A room without hardware: a private PulseAudio with a virtual speaker and microphone, and ways to disturb it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Samples

SPEAKER_RATE = 48_000
SPEAKER = f"module-null-sink sink_name=spk rate={SPEAKER_RATE} channels=2 norewinds=1"
FEED = f"module-null-sink sink_name=micfeed rate={RATE} channels=1 channel_map=mono norewinds=1"
MICROPHONE = "module-remap-source master=micfeed.monitor source_name=mic"
PCM = """
pcm.testmic {{ type pulse server "{server}" device mic hint {{ show on description "Test microphone" }} }}
pcm.testspk {{ type pulse server "{server}" device spk hint {{ show on description "Test speaker" }} }}
pcm.!default {{
  type asym
  capture.pcm testmic
  playback.pcm testspk
  hint {{ show on description "Default" }}
}}
"""


class Room:
    """The daemon, its microphone and its speaker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = f"unix:{folder}/native"
        alsa = folder / "asound.conf"
        alsa.write_text("</usr/share/alsa/alsa.conf>\n" + PCM.format(server=self.server))
        self.environment = {
            **os.environ,
            "ALSA_CONFIG_PATH": str(alsa),
            "PULSE_SERVER": self.server,
            "PULSE_LATENCY_MSEC": "20",
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "HOME": str(folder),
        }
        self._daemon: subprocess.Popen[bytes] | None = None
        self._recorder: subprocess.Popen[bytes] | None = None
        self._recording = folder / "speaker.raw"

    def start(self, microphone: bool = True) -> None:
        """Start the daemon; returns when it answers."""
        modules = [SPEAKER, FEED, *([MICROPHONE] if microphone else [])]
        (self.folder / "native").unlink(missing_ok=True)
        loads = "".join(f"load-module {line}\n" for line in modules)
        script = self.folder / "default.pa"
        script.write_text(
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self.folder}/native\n{loads}"
        )
        options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disallow-exit=yes"]
        self._daemon = subprocess.Popen(
            ["pulseaudio", *options, "-F", script], env=self.environment, stderr=subprocess.DEVNULL
        )
        for _ in range(250):
            if subprocess.run(["pactl", "info"], env=self.environment, capture_output=True).returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError("the sound daemon does not answer")

    def kill(self) -> None:
        """The daemon dies without a word."""
        self.stop_recording()
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGKILL)
            self._daemon.wait(5)
            self._daemon = None

    def pactl(self, *words: str) -> str:
        done = subprocess.run(["pactl", *words], env=self.environment, capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, done.stderr
        return done.stdout

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
    if not all(shutil.which(name) for name in ("pulseaudio", "pactl", "pacat", "parec")):
        pytest.skip("apt-get install pulseaudio pulseaudio-utils libasound2-plugins alsa-utils libportaudio2")
    with room_in(tmp_path / "room") as made:
        made.start()
        yield made
