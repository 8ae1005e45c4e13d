"""`chatapi talk` in a process of its own, at the devices of a sound server, and what it shows."""

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
    # A chime would be taken for the answer.
    "audio_device.chimes=false",
    "audio_device.input=",
    "audio_device.output=",
    "llm.temperature=0",
    f"llm.max_tokens={MAX_TOKENS}",
)
LOADING, OPENING = 120, 10
"""Seconds it may take to load its models, and to open its devices."""
LEAVING = 15
"""Seconds it may take to end."""
LONGEST = 100_000
"""Columns of its screen, so that no line is broken."""

Told = Callable[[str, str], None]
"""Given the mark of each line (you, box, box (interrupted), error) and its words."""


@asynccontextmanager
async def talking(settings: Settings, daemon: Daemon, told: Told) -> AsyncIterator[None]:
    """It listens, and ends with the block. Raises InternalError when it ends by itself, or never begins."""
    before = await anyio.to_thread.run_sync(_streams, daemon)
    options = [option for each in (f"data={settings.data}", *CHOSEN) for option in ("--set", each)]
    screen = {"COLUMNS": str(LONGEST), "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    process = await anyio.open_process(
        [sys.executable, "-m", "chatapi", "talk", *options],
        env={**os.environ, **as_environment(settings), **_sound(daemon), **screen},
        stdin=subprocess.DEVNULL,
        # Why it ends, when it does.
        stderr=subprocess.STDOUT,
    )
    try:
        async with anyio.create_task_group() as group:
            listening = anyio.Event()
            group.start_soon(_read, process, told, listening)
            with anyio.fail_after(LOADING):
                await listening.wait()
            await anyio.to_thread.run_sync(_until_open, daemon, before)
            yield
            group.cancel_scope.cancel()
    finally:
        await _ended(process)


def _sound(daemon: Daemon) -> dict[str, str]:
    """What of its environment is not everybody's."""
    return {name: value for name, value in daemon.environment.items() if os.environ.get(name) != value}


async def _read(process: Process, told: Told, listening: anyio.Event) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe unless told otherwise
    lines = BufferedByteReceiveStream(process.stdout)
    shown: list[str] = []
    try:
        while True:
            line = (await lines.receive_until(b"\n", LONGEST)).decode(errors="replace").rstrip()
            shown.append(line)
            if line.startswith("listening"):
                listening.set()
            mark, _, words = line.partition(": ")
            told(mark, words)
    except (anyio.EndOfStream, anyio.IncompleteRead):
        raise InternalError(f"chatapi talk ended by itself: {' '.join(shown[-3:])}") from None


def _until_open(daemon: Daemon, before: tuple[int, int]) -> None:
    """Blocks until it has both its devices. Raises InternalError when it does not get them."""
    end = time.monotonic() + OPENING
    while not all(now > then for now, then in zip(_streams(daemon), before, strict=True)):
        if time.monotonic() > end:
            raise InternalError(f"chatapi talk did not open its devices within {OPENING} s")
        time.sleep(0.1)


def _streams(daemon: Daemon) -> tuple[int, int]:
    """How many listen, and how many speak."""
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
