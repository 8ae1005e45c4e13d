"""AudioDevices in a process of its own, told what to do line by line: PortAudio reads its environment only once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from chatapi.audio import Audio, Samples
from chatapi.interfaces.audio_device.devices import AudioDevices


def do(devices: AudioDevices, heard: list[Samples], command: str, *words: Any) -> None:
    if command == "play":
        devices.play(Audio(np.load(words[0]), words[1]))
    elif command == "save":
        np.save(words[0], np.concatenate([np.zeros(0, np.float32), *heard]))
    elif command != "look":
        getattr(devices, command)()


def told(devices: AudioDevices, heard: list[Samples]) -> str:
    return json.dumps(
        {
            **devices.state,
            "played": devices.played,
            "playing": devices.playing,
            "blocks": len(heard),
            "sizes": sorted({len(block) for block in heard}),
            "threads": len(list(Path("/proc/self/task").iterdir())),
        }
    )


async def main(names: list[str], cancel_echo: bool) -> None:
    devices = AudioDevices(*names, cancel_echo=cancel_echo)
    heard: list[Samples] = []

    async def listen() -> None:
        async for block in devices.heard():
            heard.append(block)  # noqa: PERF401 - others read it meanwhile

    async with devices.running(), anyio.create_task_group() as group:
        group.start_soon(listen)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            do(devices, heard, *json.loads(line))
            print(told(devices, heard), flush=True)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:3], sys.argv[3] == "echo")
