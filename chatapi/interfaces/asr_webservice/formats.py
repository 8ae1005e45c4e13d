"""Transcripts in whisper-asr-webservice's formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from chatapi.engines import Segment
from chatapi.errors import ChatapiError
from chatapi.interfaces.http.openai import diarized, transcript_formats
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.transcriber import TranscribedChunk
from chatapi.services.transcription.transcript_files import TranscriptFormat


def encoded(chunks: Sequence[TranscribedChunk], output: TranscriptFormat, translated: bool) -> bytes:
    """The transcript in the format `output`."""
    labelled, problem = diarized.labelled(chunks)
    named = _named(labelled)
    if output == "json":
        text = _json(named, translated, problem)
    else:
        segments = [segment for chunk in named for segment in chunk.segments]
        text = transcript_files.written([_plain(segment, output in ("srt", "vtt")) for segment in segments], output)
    return text.encode("utf-8", "replace")


def _named(chunks: Sequence[TranscribedChunk]) -> list[TranscribedChunk]:
    """The chunks with the names that WhisperX gives: SPEAKER_00 and so on, by their first words."""
    speakers = dict.fromkeys(each.speaker for chunk in chunks for each in chunk.segments if each.speaker)
    names = {"": "", **{speaker: f"SPEAKER_{number:02}" for number, speaker in enumerate(speakers)}}
    return [
        replace(chunk, segments=tuple(replace(each, speaker=names[each.speaker]) for each in chunk.segments))
        for chunk in chunks
    ]


def _plain(segment: Segment, captions: bool) -> Segment:
    """A segment for text: its speaker is before the text of captions, and nowhere else."""
    who = f"[{segment.speaker}]: " if captions and segment.speaker else ""
    return replace(segment, text=who + segment.text.strip(), speaker="")


def _json(chunks: Sequence[TranscribedChunk], translated: bool, error: ChatapiError | None) -> str:
    """The document of its JSON: the segments hold their words, and the language is a code."""
    segments = [segment for chunk in chunks for segment in chunk.segments]
    document = transcript_formats.verbose(chunks, ("segment",), translated, 0)
    for segment, described in zip(segments, document["segments"], strict=True):
        speaker = {"speaker": segment.speaker} if segment.speaker else {}
        described["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3), **speaker}
            for word in segment.words
        ]
    language = segments[0].language if segments else ""
    found = {
        "text": document["text"],
        "segments": document["segments"],
        "language": language,
        **diarized.problem(error),
    }
    return json.dumps(found, ensure_ascii=False)
