"""Requests of whisper-asr-webservice's clients: their query and the recording in a form."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request

from chatapi.audio import RATE
from chatapi.audio.decode import Source
from chatapi.engines import DEFAULT_OPTIONS, TranscriptionOptions
from chatapi.errors import BadInput, Unprocessable
from chatapi.interfaces.http.forms import MEDIA_TYPE, FormLimits, receive_parts
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import media_type
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.text_parameters import parse_bool, parse_task, wrong_value
from chatapi.services.transcription.speakers import SpeakerOptions
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.transcription.transcript_files import FORMATS, TranscriptFormat
from chatapi.storage.atomic_files import writing

PART = "audio_file"
"""The form's part with the recording."""
MOST_CHARS = 8000
"""Longest value of a parameter, in characters."""
FORM = FormLimits(files=1, fields=20, field_bytes=64 << 10)
SPEAKERS = ("diarize", "enable_diarization")
"""Parameters that ask for speakers."""
LIMITS = ("min_speakers", "max_speakers")
MOST_SPEAKERS = 100
WITHOUT_EFFECT = ("vad_filter",)
"""Parameters that are known and change nothing: voice activity detection is always on."""
KNOWN = (
    "encode", "task", "language", "initial_prompt", "word_timestamps", "output", *SPEAKERS, *LIMITS, *WITHOUT_EFFECT
)  # fmt: skip
SAMPLE_BYTES = 2
MOST_WAV = 0xFFFFFFFF
"""Largest size that the header of a WAV can state, in bytes."""


@dataclass(frozen=True)
class AsrQuery:
    """The parameters of a request."""

    encoded: bool = True
    """Whether the recording is a media file; else it is 16-bit PCM, mono at 16 kHz."""
    language: str | None = None
    options: TranscriptionOptions = DEFAULT_OPTIONS
    output: TranscriptFormat = "txt"
    speakers: SpeakerOptions | None = None
    """None: no speaker labels."""

    @property
    def transcription(self) -> TranscriptionRequest:
        return TranscriptionRequest(self.language, self.options, timed=self.output != "txt")


def parse_query(values: Mapping[str, str], ignored: IgnoredParameters) -> AsrQuery:
    """The query of a request. Raises Unprocessable naming a parameter with a wrong value."""
    for name, value in values.items():
        if len(value) > MOST_CHARS:
            raise wrong_value(name, f"has {len(value)} characters; at most {MOST_CHARS} are allowed")
        if name not in KNOWN or name in WITHOUT_EFFECT:
            ignored.add(name)
    output = (values.get("output") or "txt").lower()
    wanted = next((each for each in FORMATS if each == output), None)
    if wanted is None:
        raise wrong_value("output", f"is {output[:40]!r}; it must be {', '.join(FORMATS)}")
    options = TranscriptionOptions(
        values.get("initial_prompt", ""), translate=parse_task(values.get("task", "")),
        words=parse_bool("word_timestamps", values.get("word_timestamps", "")) and output == "json",
        tokens=output == "json",
    )  # fmt: skip
    return AsrQuery(
        parse_bool("encode", values.get("encode", "true")),
        values.get("language") or None,
        options,
        wanted,
        _speakers(values),
    )


def _speakers(values: Mapping[str, str]) -> SpeakerOptions | None:
    """What is known of the speakers; None: no speaker labels. Raises Unprocessable."""
    least, most = (_count(name, values.get(name, "")) for name in LIMITS)
    if least is not None and most is not None and least > most:
        raise wrong_value("min_speakers", f"is {least}, and max_speakers is {most}")
    wanted = {name: parse_bool(name, values.get(name, "")) for name in SPEAKERS}
    return SpeakerOptions(least or 1, most) if any(wanted.values()) else None


def _count(name: str, text: str) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_SPEAKERS:
        return int(text)
    raise wrong_value(name, f"is {text[:40]!r}; it must be a number from 1 to {MOST_SPEAKERS}")


async def receive_recording(request: Request, encoded: bool) -> tuple[Source, str]:
    """The recording of a form, and the name of its file. Raises BadInput, Unprocessable, StorageError."""
    if media_type(request) != MEDIA_TYPE:
        raise Unprocessable(f"send {MEDIA_TYPE} with the recording in a part named {PART}", code="missing_file")
    form = await receive_parts(request, FORM)
    try:
        file = form.get(PART)
        if not isinstance(file, UploadFile):
            raise Unprocessable(f"the part {PART} is missing; send the recording in it as a file", code="missing_file")
        if not file.size:
            raise BadInput(f"the file in {PART} is empty", code="missing_file")
        spool = Spool.of(request)
        source = await spool.part(file)
        if not encoded:
            source = await anyio.to_thread.run_sync(_as_wav, source, file.size, spool)
        return source, file.filename or "audio"
    finally:
        await form.close()


def _as_wav(source: Source, size: int, spool: Spool) -> Source:
    """Raw samples as a WAV file; a file that states its own form stays as it is. Blocking."""
    assert not isinstance(source, Path)  # noqa: S101 - bodies are bytes or open files
    if isinstance(source, bytes):
        return source if _has_header(source) else wav_header(size) + source[: size - size % SAMPLE_BYTES]
    source.seek(0)
    beginning = source.read(12)
    source.seek(0)
    if _has_header(beginning):
        return source
    with writing(spool.folder(size)):
        made = spool.open()
        made.write(wav_header(size))
        shutil.copyfileobj(source, made, 1 << 20)
        made.flush()
    return made


def wav_header(size: int) -> bytes:
    """The header of a WAV file with so many bytes of 16-bit samples, mono at 16 kHz."""
    size = min(size - size % SAMPLE_BYTES, MOST_WAV - 44)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    return struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE") + form + struct.pack("<4sI", b"data", size)


def _has_header(beginning: bytes) -> bool:
    return beginning[:4] in (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04") and len(beginning) >= 12
