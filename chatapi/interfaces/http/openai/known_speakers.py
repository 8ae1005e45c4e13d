"""Known speakers of a request: names, and a sample of each voice as a data URL."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread

from chatapi.audio import Samples
from chatapi.errors import CallerError, Unprocessable
from chatapi.interfaces.http.json_body import decode_base64
from chatapi.services.transcription.speakers import KnownSpeaker, sample

NAMES, REFERENCES = "known_speaker_names", "known_speaker_references"
MOST = 10
"""Most known speakers of a request; OpenAI allows four."""
MOST_URL = 4 << 20
"""Longest data URL, in bytes: 10 s of 48 kHz stereo take 2.6 MB."""


async def known_speakers(names: Sequence[str], references: Sequence[str]) -> tuple[KnownSpeaker, ...]:
    """The known speakers with their decoded samples. Raises Unprocessable that names the parameter."""
    if len(names) != len(references):
        raise _invalid(NAMES, f"has {len(names)} names, and {REFERENCES} has {len(references)} samples")
    if len(set(names)) < len(names):
        raise _invalid(NAMES, "has a name twice")
    return tuple(
        [
            KnownSpeaker(name, await anyio.to_thread.run_sync(_samples, number, url))
            for number, (name, url) in enumerate(zip(names, references, strict=True), 1)
        ]
    )


def _samples(number: int, url: str) -> Samples:
    try:
        return sample(decode_base64(url))
    except CallerError as error:
        raise _invalid(REFERENCES, f"number {number}: {error.message}") from error
    except ValueError as error:
        raise _invalid(REFERENCES, f"number {number} is not audio in a data URL: {error}") from None


def _invalid(param: str, message: str) -> Unprocessable:
    return Unprocessable(f"{param} {message}", details={"param": param})
