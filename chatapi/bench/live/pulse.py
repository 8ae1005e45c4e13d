"""A sound server of its own, with microphones and speakers that nobody can touch: a private PulseAudio."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("pulseaudio", "pactl", "pacat", "parec")
PACKAGES = "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
"""What Debian and Ubuntu call what is needed, with what PortAudio wants to find it."""
LATENCY = 20
"""Milliseconds asked of everything: else a stream without hardware comes in bursts of seconds."""
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


def missing() -> list[str]:
    """Programs that are needed and not installed."""
    return [name for name in PROGRAMS if not shutil.which(name)]


class Daemon:
    """The server. Whoever is started with `environment` has its source `mic` and its sink `spk` as the defaults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = f"unix:{folder}/native"
        alsa = folder / "asound.conf"
        alsa.write_text("</usr/share/alsa/alsa.conf>\n" + PCM.format(server=self.server))
        self.environment = {
            **os.environ,
            "ALSA_CONFIG_PATH": str(alsa),
            "PULSE_SERVER": self.server,
            "PULSE_LATENCY_MSEC": str(LATENCY),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "HOME": str(folder),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, modules: Sequence[str]) -> None:
        """Start it with these modules; returns when it answers. Raises RuntimeError when it does not."""
        (self.folder / "native").unlink(missing_ok=True)
        loads = "".join(f"load-module {line}\n" for line in modules)
        script = self.folder / "default.pa"
        script.write_text(
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self.folder}/native\n{loads}"
        )
        options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disallow-exit=yes"]
        self._process = subprocess.Popen(
            ["pulseaudio", *options, "-F", script], env=self.environment, stderr=subprocess.DEVNULL
        )
        for _ in range(250):
            if self._asked("info").returncode == 0:
                return
            time.sleep(0.02)
        raise RuntimeError("the sound daemon does not answer")

    def kill(self) -> None:
        """It dies without a word."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(5)
            self._process = None

    def pactl(self, *words: str) -> str:
        """What it answers. Raises RuntimeError with why it does not."""
        done = self._asked(*words)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def _asked(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *words], env=self.environment, capture_output=True, text=True, timeout=10, check=False
        )
