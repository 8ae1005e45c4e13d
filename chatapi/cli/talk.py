"""`chatapi talk`: a conversation through this machine's microphone and speaker, with local engines or a server."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.markup import escape

from chatapi.errors import BadInput, ChatapiError, SettingsError, collapse_exception_group
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.interfaces.audio_device.conversation import LocalConversation
    from chatapi.interfaces.audio_device.remote_session import RemoteConversation

    Conversation = LocalConversation | RemoteConversation

STYLES = {
    "transcript": "bold",
    "answer": "green",
    "interrupted": "dim",
    "error": "red",
    "disconnected": "red",
    "reconnected": "green",
}
MARKS = {
    "transcript": "you",
    "answer": "box",
    "interrupted": "box (interrupted)",
    "error": "error",
    "disconnected": "waiting",
    "reconnected": "connected again",
}


class Screen:
    """Prints the conversation, line by line."""

    def __init__(self, manual: bool) -> None:
        self.console = Console(highlight=False)
        self._manual = manual

    def show(self, kind: str, words: str) -> None:
        """Print an event of the conversation."""
        if kind == "listening":
            hint = "press Enter, speak, press Enter again" if self._manual else "speak; interrupt when you like"
            hint = f'say "{words}", then speak' if words else hint
            self.console.print(f"[dim]listening: {hint}; Ctrl-C ends")
        elif kind == "awake":
            self.console.print("[dim]awake: speak")
        elif kind == "asleep":
            self.console.print(f'[dim]asleep: say "{words}" to wake it')
        elif kind in MARKS and words:
            self.console.print(f"[{STYLES[kind]}]{MARKS[kind]}:[/] {escape(words)}")


async def talk(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run the conversation until Ctrl-C, printing transcripts and answers as they come. Status 0."""
    if chosen.list_devices:
        return _list_devices()
    if not chosen.server and (chosen.key or chosen.fingerprint):
        raise BadInput("--key and --fingerprint are only used with --server")
    manual = settings.audio_device.mode == "push_to_talk"
    screen = Screen(manual)
    opening = _remote(settings, chosen, screen) if chosen.server else _local(settings, screen)
    try:
        async with opening as conversation, anyio.create_task_group() as group:
            if manual:
                group.start_soon(_keys, conversation, screen.console)
            group.start_soon(_watch, conversation, screen.console)
            group.start_soon(conversation.run)
            # A handler of its own, because SIGINT is ignored in a program that is started in the background.
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            group.cancel_scope.cancel()
    except Exception as error:
        raise collapse_exception_group(error) from None
    return 0


@asynccontextmanager
async def _local(settings: Settings, screen: Screen) -> AsyncIterator[LocalConversation]:
    """A conversation with the engines of this machine."""
    # Imported here, because a conversation with a server needs no engines.
    from chatapi.appliance import Appliance
    from chatapi.engines import registry
    from chatapi.interfaces.audio_device.conversation import LocalConversation
    from chatapi.runtime import engine_selection

    async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
        conversation = LocalConversation(appliance, screen.show)
        screen.console.print("[dim]loading models")
        await appliance.load((*registry.essential(), *conversation.roles))
        yield conversation


@asynccontextmanager
async def _remote(settings: Settings, chosen: argparse.Namespace, screen: Screen) -> AsyncIterator[RemoteConversation]:
    """A conversation with the server of `--server`. Raises Unprocessable when that is not an address."""
    from chatapi.interfaces.audio_device.realtime_link import parse_address
    from chatapi.interfaces.audio_device.remote_session import RemoteConversation

    if settings.audio_device.mode == "wake_word":
        raise SettingsError(
            "audio_device.mode wake_word is not supported with --server: use hands_free or push_to_talk"
        )
    key = chosen.key or (settings.server.api_key.get_secret_value() if settings.server.api_key else None)
    address = parse_address(chosen.server, key, chosen.fingerprint, settings.data)
    screen.console.print(f"[dim]connecting to {escape(address.name)}")
    yield RemoteConversation(settings.audio_device, address, screen.show)


def _list_devices() -> int:
    """Print the names for audio_device.input and audio_device.output. Raises SettingsError without PortAudio."""
    from chatapi.interfaces.audio_device import portaudio

    with portaudio.suppressed_stderr():
        sounddevice = portaudio.load()
    for direction, setting in (("input", "audio_device.input"), ("output", "audio_device.output")):
        print(f"{setting}:")
        found = portaudio.names(sounddevice, direction)  # type: ignore[arg-type]
        print("\n".join(f"  {name}{' (default)' if usual else ''}" for name, usual in found) or "  none")
    return 0


async def _keys(conversation: Conversation, console: Console) -> None:
    """Start or end a turn at every Enter (push to talk)."""
    async for _ in _lines():
        try:
            await (conversation.release() if conversation.pressed else conversation.press())
        except ChatapiError as error:
            console.print(f"[red]error:[/] {error.message}")


async def _lines() -> AsyncIterator[None]:
    """Yield at every Enter. Without a thread, which would keep the program from ending until the next Enter."""
    keyboard = sys.stdin.fileno()
    while True:
        # A regular file cannot be waited for, and is always ready.
        with suppress(PermissionError):
            await anyio.wait_readable(keyboard)
        data = os.read(keyboard, 1024)
        if not data:
            return
        for _ in range(data.count(b"\n")):
            yield


async def _watch(conversation: Conversation, console: Console) -> None:
    """Print when a device is lost, and when it is back."""
    before: dict[str, str] = {}
    while True:
        state = conversation.devices.state
        for side in ("input", "output"):
            now = state[side]["state"]
            if now == "lost" and before.get(side) != "lost":
                console.print(f"[red]the {side} device is missing:[/] {escape(state[side]['error'])}")
            elif now == "ok" and before.get(side) == "lost":
                console.print(f"[green]the {side} device is back:[/] {escape(state[side]['name'])}")
            before[side] = now
        await anyio.sleep(0.5)
