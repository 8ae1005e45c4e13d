"""WAV files that say where their sound comes from, in a comment that players and `ffprobe` show."""

from __future__ import annotations

import struct

from chatapi.audio import Audio, wav, wav_header
from chatapi.system.version import version

MOST_BYTES = 500
"""Longest comment, in bytes of UTF-8."""
HEADER = 36
"""Bytes of a WAV file before its chunk `data`."""


def converted_comment(voice: str) -> str:
    """The comment of speech that is converted to a voice."""
    return f"converted speech, voice {voice}, chatapi {version()}"


def marked_wav_header(rate: int, comment: str, frames: int | None = None) -> bytes:
    """The header of 16-bit mono samples, with a chunk LIST/INFO/ICMT (Microsoft, Multimedia Programming Interface 1.0)
    before the samples, so that a streamed file has it too; `frames` None: for a stream of unknown length."""
    text = comment.encode("utf-8")[:MOST_BYTES].decode("utf-8", "ignore").encode("utf-8") + b"\0"
    padded = text + b"\0" * (len(text) % 2)
    chunk = struct.pack("<4sI4s4sI", b"LIST", 12 + len(padded), b"INFO", b"ICMT", len(text)) + padded
    plain = wav_header(rate, frames)
    if frames is not None:
        plain = plain[:4] + struct.pack("<I", frames * 2 + HEADER + len(chunk)) + plain[8:]
    return plain[:HEADER] + chunk + plain[HEADER:]


def marked_wav(audio: Audio, comment: str) -> bytes:
    """A complete 16-bit mono WAV file with a comment; without one, if it is empty."""
    if not comment:
        return wav(audio)
    return marked_wav_header(audio.rate, comment, len(audio.samples)) + audio.pcm16()
