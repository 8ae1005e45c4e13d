"""What `ask`, `transcribe` and `say` share: text from standard input, WAV output, and loaded engines."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio

from chatapi.errors import StorageError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.appliance import Appliance

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")


def is_audio_file(argument: str) -> bool:
    """Whether a command line argument is the name of an audio file."""
    return argument != "-" and Path(argument).suffix.lower() in AUDIO_SUFFIXES


def text_or_stdin(argument: str) -> str:
    """The text of a command line argument, or of standard input for `-`."""
    return sys.stdin.read() if argument == "-" else argument


async def write_wav(output: Path, wav: bytes, seconds: float) -> None:
    """Write a WAV to a file, or to standard output for `-`; `seconds`: its duration. Raises StorageError."""
    if str(output) == "-":
        standard: BinaryIO = sys.stdout.buffer
        standard.write(wav)
        return
    try:
        await anyio.Path(output).write_bytes(wav)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    print(f"{seconds:.1f} s of speech in {output}", file=sys.stderr)


@asynccontextmanager
async def loaded_appliance(settings: Settings, roles: Collection[str]) -> AsyncIterator[Appliance]:
    """An appliance with the engines of these roles loaded."""
    # Imported here, because `ask --server` needs no engines.
    from chatapi.appliance import Appliance
    from chatapi.runtime import engine_selection

    async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
        await appliance.load(roles)
        yield appliance
