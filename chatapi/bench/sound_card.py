"""A virtual sound card: a private PulseAudio with a virtual speaker and microphone, and methods to disturb it.

    with sound_card(folder) as card:
        subprocess.Popen([...], env=card.environment)  # its microphone is "testmic", its speaker "testspk"
        card.play_into_microphone(samples)

It needs Debian's pulseaudio, pulseaudio-utils, libasound2-plugins and libportaudio2; see `installed`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from chatapi.audio import RATE, Samples

PROGRAMS = ("pulseaudio", "pactl", "pacat", "parec")
INSTALL = "apt-get install pulseaudio pulseaudio-utils libasound2-plugins alsa-utils libportaudio2"
"""The remedy when `installed` is false."""
PATIENCE = 30.0
"""Longest wait for the daemon and its programs, in seconds; a busy machine is slow."""
LATENCY = 20
"""Requested latency of players and recorders, in milliseconds; by default audio comes in bursts of seconds."""
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


class CardFault(Exception):
    """The sound daemon does not start, or rejects a command; the message is one sentence."""


def installed() -> bool:
    """Whether the daemon and its tools are installed."""
    return all(shutil.which(name) for name in PROGRAMS)


class Daemon:
    """A private PulseAudio without devices. All methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = f"unix:{folder}/native"
        alsa = folder / "asound.conf"
        alsa.write_text("</usr/share/alsa/alsa.conf>\n" + PCM.format(server=self.server))
        self.environment = {
            **os.environ,
            "ALSA_CONFIG_PATH": str(alsa),
            "PULSE_SERVER": self.server,
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "HOME": str(folder),
        }
        """Environment of a process that uses its source `mic` and its sink `spk`."""
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, modules: Sequence[str]) -> None:
        """Start the daemon with these modules, and wait until it answers. Raises CardFault."""
        (self.folder / "native").unlink(missing_ok=True)
        loads = "".join(f"load-module {line}\n" for line in modules)
        script = self.folder / "default.pa"
        script.write_text(
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self.folder}/native\n{loads}"
        )
        options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disallow-exit=yes"]
        # The kernel kills it when a realtime thread computes for 0.2 s (rlimit-rttime), as after a suspend.
        options.append("--realtime=no")
        self._process = subprocess.Popen(
            ["pulseaudio", *options, "-F", script], env=self.environment, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + PATIENCE
        while self._run_pactl("info").returncode:
            if time.monotonic() > end:
                raise CardFault("the sound daemon does not answer")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the daemon."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def pactl(self, *words: str) -> str:
        """The output of pactl. Raises CardFault."""
        done = self._run_pactl(*words)
        if done.returncode:
            raise CardFault(f"pactl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _run_pactl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["pactl", *words]
        try:
            return subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", "the sound daemon does not answer")


class SoundCard(Daemon):
    """The daemon with a microphone and a speaker."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._recorder: subprocess.Popen[bytes] | None = None
        self._recording = folder / "speaker.raw"

    def start(self, microphone: bool = True) -> None:
        """Start the daemon, and wait until it answers. Raises CardFault."""
        self.run([SPEAKER, FEED, *([MICROPHONE] if microphone else [])])

    def kill(self) -> None:
        self.stop_recording()
        super().kill()

    def unload(self, module: str) -> None:
        """Unplug the device of a module line; the daemon moves its streams to another device."""
        for line in self.pactl("list", "short", "modules").splitlines():
            number, name, *arguments = line.split("\t")
            if module == " ".join([name, *arguments]).strip():
                self.pactl("unload-module", number)

    def load(self, module: str) -> None:
        """Plug in the device of a module line."""
        self.pactl("load-module", *module.split(" "))

    def suspend(self, kind: Literal["sink", "source"], name: str, suspended: bool = True) -> None:
        """Suspend or resume a device."""
        self.pactl(f"suspend-{kind}", name, str(int(suspended)))

    def play_into_microphone(self, samples: Samples) -> subprocess.Popen[bytes]:
        """Play audio at 16 kHz into the microphone from now on; `wait()` for its end."""
        recording = self.folder / "microphone.raw"
        recording.write_bytes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        form = ["--raw", f"--rate={RATE}", "--channels=1", "--format=s16le", f"--latency-msec={LATENCY}"]
        return subprocess.Popen(["pacat", "--playback", "--device=micfeed", *form, recording], env=self.environment)

    def record(self) -> None:
        """Record the speaker from now on; returns when audio arrives. Raises CardFault."""
        with self._recording.open("wb") as file:
            form = [
                "--raw",
                f"--rate={SPEAKER_RATE}",
                "--channels=1",
                "--format=float32le",
                f"--latency-msec={LATENCY}",
            ]
            command = ["parec", "--device=spk.monitor", *form]
            self._recorder = subprocess.Popen(command, env=self.environment, stdout=file)
        end = time.monotonic() + PATIENCE
        while not self._recording.stat().st_size:
            if self._recorder.poll() is not None or time.monotonic() > end:
                raise CardFault("the speaker cannot be recorded")
            time.sleep(0.02)

    def stop_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.terminate()
            self._recorder.wait(PATIENCE)
            self._recorder = None

    def recorded(self) -> Samples:
        """The recorded audio of the speaker so far, mono at its 48 kHz."""
        data = self._recording.read_bytes()
        return np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)


@contextmanager
def sound_card(folder: Path) -> Iterator[SoundCard]:
    """A card whose daemon runs inside the context. Raises CardFault when it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    card = SoundCard(folder)
    try:
        card.start()
        yield card
    finally:
        card.kill()
