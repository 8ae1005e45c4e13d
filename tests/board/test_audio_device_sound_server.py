"""The device of this process's stream on the sound server, and servers that do not answer."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from chatapi.interfaces.audio_device.sound_server import SoundServer
from paths import SUPPORT
from virtual_sound_card import SoundCard, sound_card  # noqa: F401 - the fixture

SCRIPT = """
import ctypes, sys
from chatapi.interfaces.audio_device.sound_server import SoundServer
output, input = SoundServer("output"), SoundServer("input")
simple = ctypes.CDLL("libpulse-simple.so.0")
simple.pa_simple_new.restype = ctypes.c_void_p
form = (ctypes.c_uint32 * 3)(3, 16000, 1)
for device in sys.argv[1:]:
    assert simple.pa_simple_new(None, b"test", 1, device.encode(), b"test", form, None, None, None)
    print(repr(output.device_name()), repr(input.device_name()))
output.close()
print(repr(output.device_name()))
"""


def test_device_of_a_single_stream_is_known_and_of_several_is_not(sound_card: SoundCard) -> None:  # noqa: F811
    # The stream of another process must not matter.
    other = subprocess.Popen(["pacat", "--playback", "--device=spk", "/dev/zero"], env=sound_card.environment)
    try:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, "micfeed", "spk"],
            env={**sound_card.environment, "PYTHONPATH": str(SUPPORT.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        other.kill()
        other.wait()
    assert done.stdout.split() == ["'micfeed'", "''", "''", "''", "''"]
    assert not done.stderr


@contextmanager
def silent_server(path: Path) -> Iterator[None]:
    """A server that accepts connections and sends nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


def test_missing_or_silent_server_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/native")
    held = psutil.Process().num_fds()
    assert SoundServer("input").device_name() == ""
    with silent_server(tmp_path / "native"):
        assert SoundServer("output").device_name() == ""
    assert psutil.Process().num_fds() == held


def test_without_the_client_library_the_device_is_unknown() -> None:
    assert SoundServer("input", library="libnosuch.so.0").device_name() == ""
