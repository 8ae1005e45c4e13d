"""Transcripts in OpenAI's JSON formats."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from chatapi.engines import Segment
from chatapi.services.transcription.transcriber import TranscribedChunk
from chatapi.services.transcription.transcript_files import joined
from chatapi.text.language_codes import NAMES

AUDIO_TOKENS = 10
"""Tokens of one second of audio, as OpenAI counts them."""


def logprobs(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    return [
        {"token": token.utf8.decode("utf-8", "replace"), "bytes": list(token.utf8), "logprob": token.logprob}
        for segment in segments
        for token in segment.tokens
    ]


def tokens(segments: Sequence[Segment], seconds: float) -> dict[str, Any]:
    """The usage of a stream: tokens of the audio and of the transcript."""
    audio_tokens, text_tokens = math.ceil(seconds * AUDIO_TOKENS), sum(len(segment.tokens) for segment in segments)
    return {
        "type": "tokens",
        "input_tokens": audio_tokens,
        "input_token_details": {"audio_tokens": audio_tokens, "text_tokens": 0},
        "output_tokens": text_tokens,
        "total_tokens": audio_tokens + text_tokens,
    }


def duration(seconds: float) -> dict[str, Any]:
    """The usage of a transcript that is not streamed."""
    return {"type": "duration", "seconds": math.ceil(seconds)}


def verbose(
    chunks: Sequence[TranscribedChunk], granularities: Sequence[str], translated: bool, temperature: float
) -> dict[str, Any]:
    """The verbose JSON document. `temperature`: the one in the request."""
    segments = [segment for chunk in chunks for segment in chunk.segments]
    seconds = chunks[-1].processed if chunks else 0.0
    spoken = segments[0].language if segments else ""
    document: dict[str, Any] = {
        "task": "translate" if translated else "transcribe",
        "language": NAMES["en"] if translated else NAMES.get(spoken, spoken),
        "duration": round(seconds, 3),
        "text": joined(segments),
    }
    if "segment" in granularities:
        document["segments"] = [
            _segment(number, segment, chunk, temperature)
            for number, (segment, chunk) in enumerate(
                (segment, chunk) for chunk in chunks for segment in chunk.segments
            )
        ]
    if "word" in granularities:
        document["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in segments
            for word in segment.words
        ]
    return {**document, "usage": duration(seconds)}


def _segment(number: int, segment: Segment, chunk: TranscribedChunk, temperature: float) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": number,
        # In hundredths of a second, as Whisper counts its frames.
        "seek": round(chunk.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": [token.id for token in segment.tokens],
        "temperature": temperature,
        "avg_logprob": segment.logprob,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 1 - chunk.speech_probability,
        **({"speaker": segment.speaker} if segment.speaker else {}),
    }
