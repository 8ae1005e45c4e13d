"""Where the sound server has a stream of this process: what can be told of it, and of servers that do not answer."""

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
from sound import Room, room  # noqa: F401 - the fixture

HERE = Path(__file__).parent
PLACES = """
import ctypes, sys
from chatapi.interfaces.audio_device.sound_server import SoundServer
output, input = SoundServer("output"), SoundServer("input")
simple = ctypes.CDLL("libpulse-simple.so.0")
simple.pa_simple_new.restype = ctypes.c_void_p
form = (ctypes.c_uint32 * 3)(3, 16000, 1)
for device in sys.argv[1:]:
    assert simple.pa_simple_new(None, b"test", 1, device.encode(), b"test", form, None, None, None)
    print(repr(output.place()), repr(input.place()))
output.close()
print(repr(output.place()))
"""


def test_the_device_of_our_only_stream_is_told_and_of_several_none(room: Room) -> None:  # noqa: F811
    # Another process's stream is no concern of ours.
    other = subprocess.Popen(["pacat", "--playback", "--device=spk", "/dev/zero"], env=room.environment)
    try:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PLACES, "micfeed", "spk"],
            env={**room.environment, "PYTHONPATH": str(HERE.parent)},
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
def mute(path: Path) -> Iterator[None]:
    """A server that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield


def test_a_server_that_is_not_there_or_says_nothing_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/native")
    held = psutil.Process().num_fds()
    assert SoundServer("input").place() == ""
    with mute(tmp_path / "native"):
        assert SoundServer("output").place() == ""
    assert psutil.Process().num_fds() == held


def test_without_the_servers_library_nothing_can_be_told() -> None:
    assert SoundServer("input", library="libnosuch.so.0").place() == ""
