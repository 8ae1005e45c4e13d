"""Decodes media files of any container and length, in a child process, since they are untrusted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.system import sandbox

Source = bytes | Path | BinaryIO
"""A file: its content, its path, or an open file; an open file must be seekable, is read from its start and stays
open."""

PATIENCE_SECONDS = 30.0
"""Seconds without a sample after which decoding times out; it takes milliseconds, but the machine may be busy."""
PACE = 0.5
"""Additional seconds for each second of audio; decoding takes a hundredth of that."""


LIVE_PATIENCE_SECONDS, LIVE_PACE = 3600.0, 4.0
"""The same for a stream, whose next sample may not exist yet: whoever feeds it ends it after a time without data."""


def _ignore(_: Skipped) -> None:
    """Ignores what was skipped."""


def decode(source: Source, limit: float | None = None, rate: int = RATE) -> Audio:
    """Decodes a whole file to mono at `rate`.

    Raises what `blocks` raises, TooLarge (audio_too_long) past `limit` seconds; never decodes further than the limit.
    """
    parts: list[Samples] = []
    skipped = [Skipped()]
    count = 0
    with closing(blocks(source, rate, skipped.append)) as decoded:
        for block in decoded:
            parts.append(block)
            count += len(block)
            if limit is not None and count > limit * rate:
                raise TooLarge(
                    f"the audio is longer than {limit:g} seconds; `chatapi transcribe` takes files of any length",
                    code="audio_too_long",
                    details={"limit_seconds": limit},
                )
    return Audio(np.concatenate(parts), rate, skipped[-1])


def blocks(
    source: Source, rate: int = RATE, report: Callable[[Skipped], object] = _ignore
) -> Generator[Samples, None, None]:
    """A file of any length as mono blocks at `rate`, decoded in a child process as they are read.

    At the end `report` gets what could not be decoded and was skipped.
    Raises BadInput (bad_audio) with what is wrong with the file, Unprocessable where it crashes the decoder
    (decoder_crashed), takes too long (decoder_timeout) or needs too much memory (decoder_out_of_memory).
    """
    with _opened(source) as (file, name), _sandbox_errors():
        looked_at = [0.0]
        stream = sandbox.shared().stream(
            "chatapi.audio.ffmpeg_decoder:blocks",
            name,
            rate,
            files=[file],
            timeout=lambda seconds: _patience(seconds + looked_at[0]),
        )
        with closing(stream):
            for block in stream:
                if isinstance(block, np.ndarray):
                    yield block
                elif isinstance(block, float):
                    looked_at[0] += block
                elif isinstance(block, list) and len(block) == 2 and all(isinstance(each, int) for each in block):
                    report(Skipped(*block))
                else:
                    raise sandbox.CallFailed("the decoder returned neither samples nor counts")


def live_blocks(descriptor: int, raw_rate: int = 0, rate: int = RATE) -> Generator[Samples, None, None]:
    """A stream that is read from a descriptor, such as a pipe, as mono blocks at `rate`, each as soon as it is decoded,
    in a child process, until its end. `raw_rate`: it has only samples, of 16 bits, mono, at this rate; 0: detected.

    Closing it ends the child. Raises what `blocks` raises.
    """
    form = "raw" if raw_rate else ""
    with _sandbox_errors():
        stream = sandbox.shared().stream(
            "chatapi.audio.ffmpeg_decoder.live:blocks",
            form,
            rate,
            raw_rate or rate,
            files=[descriptor],
            timeout=lambda seconds: LIVE_PATIENCE_SECONDS + LIVE_PACE * seconds,
        )
        with closing(stream):
            for block in stream:
                if not isinstance(block, np.ndarray):
                    raise sandbox.CallFailed("the decoder returned no samples")
                if len(block):
                    yield block


def duration(source: Source) -> float:
    """Seconds that a file's header states, 0 where it states none. Raises what `blocks` raises."""
    with _opened(source) as (file, name), _sandbox_errors():
        return float(
            sandbox.shared().call("chatapi.audio.ffmpeg_decoder:duration", name, files=[file], timeout=PATIENCE_SECONDS)
        )


def _patience(seconds: float) -> float:
    return PATIENCE_SECONDS + PACE * seconds


@contextmanager
def _sandbox_errors() -> Iterator[None]:
    """Turns failures of the decoder's process into errors about the file."""
    try:
        yield
    except (sandbox.ChildCrashed, sandbox.CallFailed) as error:
        raise Unprocessable("the audio crashes the decoder; it is damaged", code="decoder_crashed") from error
    except sandbox.TimedOut as error:
        raise Unprocessable("the audio takes too long to decode; it is damaged", code="decoder_timeout") from error
    except sandbox.OutOfMemory as error:
        raise Unprocessable(
            f"the audio needs more than {sandbox.MEMORY >> 20} MiB of memory to decode; it is damaged",
            code="decoder_out_of_memory",
        ) from error


@contextmanager
def _opened(source: Source) -> Iterator[tuple[int, str]]:
    """The descriptor of an open file, and its name for messages. Raises BadInput (bad_audio) where it cannot be
    read."""
    if isinstance(source, Path):
        try:
            opened: BinaryIO = source.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror}", code="bad_audio") from error
        with opened:
            yield opened.fileno(), str(source)
    elif (descriptor := _descriptor(source)) is not None:
        yield descriptor, ""
    else:
        with sandbox.memory_file(source if isinstance(source, bytes) else _content(source)) as file:
            yield file.fileno(), ""


def _descriptor(source: bytes | BinaryIO) -> int | None:
    """None: the source is only in memory."""
    try:
        return None if isinstance(source, bytes) else source.fileno()
    except OSError:
        return None


def _content(source: BinaryIO) -> bytes:
    source.seek(0)
    return source.read()
