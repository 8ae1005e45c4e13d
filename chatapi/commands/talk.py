"""`chatapi talk`: a conversation through this machine's microphone and speaker."""

from __future__ import annotations

import signal
import sys

import anyio
import anyio.to_thread
from rich.console import Console

from chatapi.appliance import ESSENTIAL, Appliance
from chatapi.errors import ChatapiError, alone
from chatapi.faces.mic.conversation import MicConversation
from chatapi.settings import Settings

STYLES = {"heard": "bold", "answer": "green", "interrupted": "dim", "error": "red"}
MARKS = {"heard": "you", "answer": "box", "interrupted": "box (interrupted)", "error": "error"}


async def talk(settings: Settings) -> int:
    """Until Ctrl-C. What is understood and answered is shown as it comes."""
    console = Console(highlight=False)

    def tell(kind: str, words: str) -> None:
        if kind == "listening":
            hint = "press Enter, speak, press Enter again" if manual else "speak; interrupt when you like"
            hint = f'say "{words}", then speak' if words else hint
            console.print(f"[dim]listening: {hint}; Ctrl-C ends")
        elif kind == "awake":
            console.print("[dim]awake: speak")
        elif kind == "asleep":
            console.print(f'[dim]asleep: say "{words}" to wake it')
        elif kind in MARKS and words:
            console.print(f"[{STYLES[kind]}]{MARKS[kind]}:[/] {words}")

    manual = settings.mic.mode == "push_to_talk"
    try:
        async with Appliance(settings).running() as appliance, anyio.create_task_group() as group:
            conversation = MicConversation(appliance, tell)
            console.print("[dim]loading models")
            await appliance.load((*ESSENTIAL, *conversation.roles))
            if manual:
                group.start_soon(_keys, conversation, console)
            group.start_soon(_watch, conversation, console)
            group.start_soon(conversation.run)
            # Its own, because a program that is started in the background has SIGINT ignored.
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            group.cancel_scope.cancel()
    except Exception as error:
        raise alone(error) from None
    return 0


async def _keys(conversation: MicConversation, console: Console) -> None:
    """Every Enter changes between speaking and not."""
    while await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        await _turn_key(conversation, console)


async def _turn_key(conversation: MicConversation, console: Console) -> None:
    try:
        await (conversation.release() if conversation.pressed else conversation.press())
    except ChatapiError as error:
        console.print(f"[red]error:[/] {error.message}")


async def _watch(conversation: MicConversation, console: Console) -> None:
    """Say when a device is lost, and when it is back."""
    before: dict[str, str] = {}
    while True:
        state = conversation.devices.state
        for side in ("input", "output"):
            now = state[side]["state"]
            if now == "lost" and before.get(side) != "lost":
                console.print(f"[red]the {side} device is missing:[/] {state[side]['error']}")
            elif now == "ok" and before.get(side) == "lost":
                console.print(f"[green]the {side} device is back:[/] {state[side]['name']}")
            before[side] = now
        await anyio.sleep(0.5)
