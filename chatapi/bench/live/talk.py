"""Runs `chatapi talk` in a process of its own on a sound server's devices, and parses its output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from chatapi.bench.live.harness import MAX_TOKENS
from chatapi.bench.sound_card import Daemon
from chatapi.errors import InternalError
from chatapi.settings import Settings, as_environment

CHOSEN = (
    "audio_device.mode=hands_free",
    # A chime would be measured as the answer.
    "audio_device.chimes=false",
    "audio_device.input=",
    "audio_device.output=",
    "llm.temperature=0",
    f"llm.max_tokens={MAX_TOKENS}",
)
LOADING, OPENING = 120, 10
"""Longest time to load the models, and to open the devices, in seconds."""
LEAVING = 15
"""Longest time to end, in seconds."""
LONGEST = 100_000
"""Width of its terminal, in columns, so that no line is broken."""

OnLine = Callable[[str, str], None]
"""Called with the mark of each line (you, box, box (interrupted), error) and its text."""


@asynccontextmanager
async def talking(settings: Settings, daemon: Daemon, on_line: OnLine) -> AsyncIterator[None]:
    """Run `chatapi talk` inside the context. Raises InternalError when it ends by itself or does not start."""
    before = await anyio.to_thread.run_sync(_streams, daemon)
    options = [option for each in (f"data={settings.data}", *CHOSEN) for option in ("--set", each)]
    screen = {"COLUMNS": str(LONGEST), "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    process = await anyio.open_process(
        [sys.executable, "-m", "chatapi", "talk", *options],
        env={**os.environ, **as_environment(settings), **_sound(daemon), **screen},
        stdin=subprocess.DEVNULL,
        # Its last lines tell why it ended.
        stderr=subprocess.STDOUT,
    )
    try:
        async with anyio.create_task_group() as group:
            listening = anyio.Event()
            group.start_soon(_read, process, on_line, listening)
            with anyio.fail_after(LOADING):
                await listening.wait()
            await anyio.to_thread.run_sync(_until_open, daemon, before)
            yield
            group.cancel_scope.cancel()
    finally:
        await _ended(process)


def _sound(daemon: Daemon) -> dict[str, str]:
    """The daemon's environment variables that differ from this process's."""
    return {name: value for name, value in daemon.environment.items() if os.environ.get(name) != value}


async def _read(process: Process, on_line: OnLine, listening: anyio.Event) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe by default
    lines = BufferedByteReceiveStream(process.stdout)
    shown: list[str] = []
    try:
        while True:
            line = (await lines.receive_until(b"\n", LONGEST)).decode(errors="replace").rstrip()
            shown.append(line)
            if line.startswith("listening"):
                listening.set()
            mark, _, words = line.partition(": ")
            on_line(mark, words)
    except (anyio.EndOfStream, anyio.IncompleteRead):
        raise InternalError(f"chatapi talk ended by itself: {' '.join(shown[-3:])}") from None


def _until_open(daemon: Daemon, before: tuple[int, int]) -> None:
    """Wait until both devices are open. Blocking. Raises InternalError when they are not in time."""
    end = time.monotonic() + OPENING
    while not all(now > then for now, then in zip(_streams(daemon), before, strict=True)):
        if time.monotonic() > end:
            raise InternalError(f"chatapi talk did not open its devices within {OPENING} s")
        time.sleep(0.1)


def _streams(daemon: Daemon) -> tuple[int, int]:
    """The number of recording and of playing streams."""
    found = [daemon.pactl("list", "short", kind).splitlines() for kind in ("source-outputs", "sink-inputs")]
    return len(found[0]), len(found[1])


async def _ended(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            with anyio.move_on_after(LEAVING):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
