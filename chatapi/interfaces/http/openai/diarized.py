"""Transcripts with speakers in OpenAI's diarized JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatapi.engines import Segment
from chatapi.errors import ChatapiError
from chatapi.interfaces.http.openai import transcript_formats
from chatapi.interfaces.http.problems import fault
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.transcriber import TranscribedChunk

UNKNOWN = "unknown"
"""The speaker of a segment whose speaker could not be told."""


def labelled(chunks: Sequence[TranscribedChunk]) -> tuple[list[TranscribedChunk], ChatapiError | None]:
    """The chunks with the speakers that the last one has, and why there are none."""
    labels = chunks[-1].labels if chunks else None
    if labels is None:
        return list(chunks), None
    return [replace(chunk, segments=tuple(labels.apply(chunk.segments))) for chunk in chunks], labels.fault


def document(segments: Sequence[Segment], seconds: float, error: ChatapiError | None) -> dict[str, Any]:
    """The diarized JSON document."""
    found = {
        "task": "transcribe",
        "duration": round(seconds, 3),
        "text": transcript_files.joined(segments),
        "segments": [event(number, segment) for number, segment in enumerate(segments)],
        "usage": transcript_formats.duration(seconds),
    }
    return {**found, **problem(error)}


def event(number: int, segment: Segment) -> dict[str, Any]:
    """A segment in the document, and as an event of a stream."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number:03}",
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text.strip(),
        "speaker": segment.speaker or UNKNOWN,
    }


def problem(error: ChatapiError | None) -> dict[str, Any]:
    """The member that says why there are no speaker labels; none where there are."""
    return {"speakers_error": fault(error)} if error is not None else {}
