"""AudioDevices in a child process, controlled by JSON lines: PortAudio reads its environment only once."""

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


def execute(devices: AudioDevices, captured: list[Samples], command: str, *words: Any) -> None:
    if command == "play":
        devices.play(Audio(np.load(words[0]), words[1]))
    elif command == "save":
        np.save(words[0], np.concatenate([np.zeros(0, np.float32), *captured]))
    elif command != "state":
        getattr(devices, command)()


def state_line(devices: AudioDevices, captured: list[Samples]) -> str:
    return json.dumps(
        {
            **devices.state,
            "played": devices.played,
            "playing": devices.playing,
            "blocks": len(captured),
            "sizes": sorted({len(block) for block in captured}),
            "threads": len(list(Path("/proc/self/task").iterdir())),
        }
    )


async def main(names: list[str], cancel_echo: bool) -> None:
    devices = AudioDevices(*names, cancel_echo=cancel_echo)
    captured: list[Samples] = []

    async def record() -> None:
        async for block in devices.captured():
            captured.append(block)  # noqa: PERF401 - read meanwhile

    async with devices.running(), anyio.create_task_group() as group:
        group.start_soon(record)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            execute(devices, captured, *json.loads(line))
            print(state_line(devices, captured), flush=True)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:3], sys.argv[3] == "echo")
