"""What `ask`, `transcribe` and `say` share: standard input, files of speech, and loaded engines."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread

from chatapi.errors import BadInput, StorageError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.appliance import Appliance
    from chatapi.audio import Audio

AUDIO_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".asf", ".au", ".avi", ".caf", ".dts", ".eac3", ".flac",
    ".flv", ".gsm", ".m2ts", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg",
    ".oga", ".ogg", ".opus", ".snd", ".spx", ".tta", ".voc", ".w64", ".wav", ".weba", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Suffixes of files that can be decoded, but for .ts, which is that of TypeScript too."""
FORMAT_OF = {"": "wav", ".wav": "wav", ".flac": "flac", ".opus": "opus", ".ogg": "opus", ".mp3": "mp3", ".aac": "aac"}
"""Suffix of an output file -> name of its audio format."""
STANDARD = "-"
"""The file name that means standard input or standard output."""
_LIKE_AN_OPTION = re.compile(r"-{1,2}[A-Za-z].*|-{1,2}|-\d+|-\d*\.\d+", re.DOTALL)


def with_dashed_text(arguments: list[str]) -> list[str]:
    """The arguments of the command line, with texts such as -5°C marked so that argparse takes them for no options.

    It does so for arguments with a space in them, so these get one at their end; `said` removes it.
    """
    if STANDARD * 2 in arguments:
        return arguments
    return [
        f"{argument} " if argument.startswith("-") and not _LIKE_AN_OPTION.fullmatch(argument) else argument
        for argument in arguments
    ]


def said(argument: str) -> str:
    """The text that the user gave as an argument."""
    return argument.removesuffix(" ") if argument.startswith("-") else argument


def is_audio_file(argument: str) -> bool:
    """Whether a command line argument is the name of an audio file, or of a pipe, as the shell's <(command) is."""
    if argument == STANDARD:
        return False
    try:
        return Path(argument).suffix.lower() in AUDIO_SUFFIXES or Path(argument).is_fifo()
    except OSError:
        # A text longer than any file name.
        return False


def text_or_stdin(argument: str) -> str:
    """The text of a command line argument, or of standard input for `-`."""
    return sys.stdin.read() if argument == STANDARD else argument


def question(argument: str) -> str | bytes:
    """The question that an argument of `ask` means: text, or the bytes of a recording; `-` reads either from standard
    input. Raises BadInput.
    """
    if is_audio_file(argument):
        try:
            return Path(argument).read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {argument}: {error.strerror}") from error
    return _from_stdin() if argument == STANDARD else argument


def _from_stdin() -> str | bytes:
    from chatapi.client.wire import MAGIC

    data = sys.stdin.buffer.read()
    try:
        # No recording is valid UTF-8 without NUL: its header has sizes.
        if 0 not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    # Text in any encoding but UTF-16 and UTF-32 has no NUL, and the header of nearly every recording has one.
    if 0 in data or any(data[at : at + len(mark)] == mark for at, mark, _ in MAGIC):
        return data
    raise BadInput("standard input is neither text in UTF-8 nor a recording")


@contextmanager
def recording(file: Path) -> Iterator[Path]:
    """The file, or a temporary file with what a pipe has, or standard input for `-`. Blocking.

    Raises StorageError where that cannot be stored, and BadInput where the pipe cannot be opened.
    """
    if str(file) == STANDARD:
        with _stored(sys.stdin.buffer, "standard input") as copy:
            yield copy
    elif file.is_fifo():
        try:
            pipe = file.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
        with pipe, _stored(pipe, str(file)) as copy:
            yield copy
    else:
        yield file


@contextmanager
def _stored(stream: BinaryIO, name: str) -> Iterator[Path]:
    """A temporary file with what a stream has; decoders seek, which a stream cannot."""
    with tempfile.NamedTemporaryFile(prefix="chatapi-") as copy:
        try:
            shutil.copyfileobj(stream, copy)
            copy.flush()
        except OSError as error:
            raise StorageError(f"cannot store {name} in {copy.name}: {error.strerror}") from error
        yield Path(copy.name)


def output_format(output: Path) -> str:
    """The name of the audio format that a file's suffix stands for; WAV for standard output. Raises BadInput."""
    found = FORMAT_OF.get(output.suffix.lower())
    if found is None:
        known = ", ".join(suffix for suffix in FORMAT_OF if suffix)
        raise BadInput(f"cannot write {output}: {output.suffix} is not supported; supported are: {known}")
    return found


async def write_speech(output: Path, speech: Audio, comment: str = "") -> None:
    """Write speech to a file, in the format of its suffix, or as WAV to standard output for `-`. `comment`: for the
    file's metadata.

    Raises StorageError.
    """
    data = await anyio.to_thread.run_sync(_encoded, speech, output_format(output), comment)
    if str(output) == STANDARD:
        standard: BinaryIO = sys.stdout.buffer
        standard.write(data)
        return
    try:
        await anyio.Path(output).write_bytes(data)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    print(f"{speech.seconds:.1f} s of speech in {output}", file=sys.stderr)


def _encoded(speech: Audio, name: str, comment: str) -> bytes:
    from chatapi.audio.provenance import marked_wav

    # The encoder's WAV is for streams: its header does not state the length.
    if name == "wav":
        return marked_wav(speech, comment)
    from chatapi.audio.encoding import Encoder

    encoder = Encoder(name, speech.rate, comment)
    return encoder.feed(speech) + encoder.finish()


@asynccontextmanager
async def loaded_appliance(settings: Settings, roles: Collection[str]) -> AsyncIterator[Appliance]:
    """An appliance with the engines of these roles loaded."""
    # Imported here, because `ask --server` needs no engines.
    from chatapi.appliance import Appliance
    from chatapi.runtime import engine_selection

    async with Appliance(await engine_selection.resolve_engines_async(settings)).running() as appliance:
        await appliance.load(roles)
        yield appliance
