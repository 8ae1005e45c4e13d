"""What is asked on the command line and where answers go, with the models of this machine and without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import anyio

from chatapi.errors import StorageError

SOUND = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm")


def is_sound(question: str) -> bool:
    """Whether a question is the name of a recording."""
    return question != "-" and Path(question).suffix.lower() in SOUND


def stdin_if_dash(text: str) -> str:
    """The text, or what comes on standard input."""
    return sys.stdin.read() if text == "-" else text


async def write(output: Path, wav: bytes, seconds: float) -> None:
    """A WAV to its file, or to standard output for `-`. Raises StorageError."""
    if str(output) == "-":
        standard: BinaryIO = sys.stdout.buffer
        standard.write(wav)
        return
    try:
        await anyio.Path(output).write_bytes(wav)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    print(f"{seconds:.1f} s of speech in {output}", file=sys.stderr)
