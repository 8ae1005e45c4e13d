"""Device names: which of PortAudio's devices a name selects."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from chatapi.errors import SettingsError
from chatapi.interfaces.audio_device import portaudio
from chatapi.interfaces.audio_device.portaudio import DeviceFault


class Listed:
    """A fake sounddevice module with three devices, one of them listed twice."""

    def __init__(self, default: int) -> None:
        self.default = type("Default", (), {"device": {"input": default, "output": default}})

    def query_devices(self) -> list[dict[str, Any]]:
        names = ["USB Microphone", "USB Microphone", "Speaker", "USB Camera"]
        inputs = [1, 1, 0, 2]
        return [
            {
                "index": index,
                "name": name,
                "max_input_channels": inputs[index],
                "max_output_channels": 2 - inputs[index],
            }
            for index, name in enumerate(names)
        ]


def test_find_prefers_the_exact_name_over_a_part() -> None:
    listed = Listed(default=3)
    assert portaudio.find(listed, "USB Microphone", "input") == (0, "USB Microphone")
    assert portaudio.find(listed, "micro", "input") == (0, "USB Microphone")
    assert portaudio.find(listed, "", "input") == (3, "USB Camera")
    with pytest.raises(DeviceFault, match="'usb' matches several"):
        portaudio.find(listed, "usb", "input")
    with pytest.raises(DeviceFault, match="no output device named 'camera'; there are: 'USB M"):
        portaudio.find(listed, "camera", "output")
    with pytest.raises(DeviceFault, match="no default input device"):
        portaudio.find(Listed(default=-1), "", "input")


def test_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SettingsError, match=r"pip install 'chatapi-appliance\[audio_device\]'"):
        portaudio.load()
