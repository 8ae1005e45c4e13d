"""`chatapi ask`, `transcribe` and `say`: the abilities without a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import anyio
import anyio.to_thread
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from chatapi.appliance import Appliance
from chatapi.audio import Audio, duration, joined, wav
from chatapi.cli.prompt_input import is_sound, stdin_if_dash, write
from chatapi.errors import BadInput
from chatapi.events import JobProgress, Speech, TextDelta, Transcript, TurnEnded, TurnStarted
from chatapi.runtime import engine_selection
from chatapi.services.turns.completion import Turn
from chatapi.settings import Settings


async def ask(settings: Settings, chosen: argparse.Namespace) -> int:
    """One turn; the text is printed as it comes, a spoken answer written as a WAV file."""
    turn = _turn(chosen)
    roles = _roles(turn)
    # Sound on standard output leaves no place there for words.
    words = sys.stderr if str(chosen.output) == "-" else sys.stdout
    said: list[Audio] = []
    reply, transcript = "", None
    async with _loaded(settings, roles) as appliance, appliance.conversation.take(turn) as events:
        async for event in events:
            if isinstance(event, TurnStarted):
                conversation = event.conversation
            elif isinstance(event, Transcript):
                transcript = event.text
                print(f"transcript: {transcript}", file=sys.stderr)
            elif isinstance(event, TextDelta):
                reply += event.text
                if not chosen.json:
                    print(event.text, end="", flush=True, file=words)
            elif isinstance(event, Speech):
                said.append(event.audio)
            elif isinstance(event, TurnEnded):
                ended = event
    if chosen.json:
        document = {"transcript": transcript, "reply": reply.rstrip(), **asdict(ended)}
        print(json.dumps(document, ensure_ascii=False, indent=2), file=words)
    else:
        print(file=words)
        print(f"conversation: {conversation}", file=sys.stderr)
    if turn.speak:
        sound = joined(said)
        await write(chosen.output or Path("answer.wav"), wav(sound), sound.seconds)
    return 0


async def transcribe(settings: Settings, file: Path, language: str | None, as_json: bool) -> int:
    """Each stretch of speech on a line of its own, as it is understood."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    # A file that cannot be read is said before models are loaded for it.
    await anyio.to_thread.run_sync(duration, file)
    found = False
    async with _loaded(settings, {"vad", "asr"}) as appliance:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(file.name, total=None)
            async with appliance.transcription.follow(file, language) as events:
                async for event in events:
                    if isinstance(event, JobProgress):
                        bars.update(task, completed=event.done, total=event.total or None)
                    elif isinstance(event, Transcript):
                        found = True
                        _print_transcript(event, as_json)
    if not found:
        print("no speech was detected", file=sys.stderr)
    return 0 if found else 1


def _print_transcript(event: Transcript, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
    else:
        minutes, seconds = divmod(event.start, 60)
        print(f"[{int(minutes):02}:{seconds:04.1f}] {event.text}", flush=True)


async def say(settings: Settings, text: str, output: Path, voice: str | None) -> int:
    """A text as a WAV file."""
    async with _loaded(settings, {"tts"}) as appliance:
        parts = [part async for part in appliance.synthesis.say(stdin_if_dash(text), voice)]
    sound = joined(parts)
    await write(output, wav(sound), sound.seconds)
    return 0


@asynccontextmanager
async def _loaded(settings: Settings, roles: Collection[str]) -> AsyncIterator[Appliance]:
    async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
        await appliance.load(roles)
        yield appliance


def _roles(turn: Turn) -> set[str]:
    """What must be loaded for it; also what knows whether a name it gives is right."""
    hears, speaks = turn.audio or turn.language, turn.speak or turn.voice
    return {"llm"} | ({"vad", "asr"} if hears else set()) | ({"tts"} if speaks else set())


def _turn(chosen: argparse.Namespace) -> Turn:
    if chosen.output and chosen.reply != "voice":
        raise BadInput("-o is where a spoken answer goes, and this one is text; add --reply voice or leave -o out")
    file = Path(chosen.question)
    text, audio = None, None
    if is_sound(chosen.question):
        try:
            audio = file.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
    else:
        text = stdin_if_dash(chosen.question)
    return Turn(
        prompt=text,
        audio=audio,
        speak=chosen.reply == "voice",
        conversation=chosen.conversation,
        system=chosen.system,
        voice=chosen.voice,
        language=chosen.language,
        max_tokens=chosen.max_tokens,
        temperature=chosen.temperature,
        seed=chosen.seed,
    )
