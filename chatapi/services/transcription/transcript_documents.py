"""The documents of transcription jobs: of each part, and of the whole recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from chatapi.audio import RATE
from chatapi.audio.skipped import Skipped
from chatapi.engines import Segment
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.parts import RecordingPart
from chatapi.services.transcription.speaker_turns import SpeakerLabels
from chatapi.services.transcription.transcriber import TranscribedChunk
from chatapi.services.transcription.transcript_files import Gap


def part_document(chunks: Sequence[TranscribedChunk], part: RecordingPart) -> dict[str, Any]:
    """The segments and gaps of a part, with the times of the recording."""
    offset = part.start / RATE
    segments: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    for chunk in chunks:
        moved = [_moved(each, offset) for each in chunk.segments]
        segments += [transcript_files.segment_document(each) for each in moved]
        gaps += [asdict(Gap(round(a + offset, 3), round(b + offset, 3), "no_words")) for a, b in chunk.gaps]
        if not chunk.segments and chunk.speech_probability > 0:
            gap = Gap(round(chunk.start + offset, 3), round(chunk.processed + offset, 3), "no_words")
            gaps.append(asdict(gap))
    return {"segments": segments, "gaps": gaps}


def _moved(segment: Segment, offset: float) -> Segment:
    return replace(segment.retimed(lambda seconds, _: seconds + offset), tokens=())


def whole_document(
    parts: Iterable[Mapping[str, Any]], last: Mapping[str, Any], translate: bool, words: bool, labels: SpeakerLabels
) -> dict[str, Any]:
    """The transcript of a recording. `last`: the result of the step of its last part; `words`: whether segments keep
    their words."""
    found = list(parts)
    segments = labels.apply(transcript_files.segment_of(each) for part in found for each in part["segments"])
    skipped, fault = Skipped(**last["skipped"]), labels.fault
    return {
        "task": "translate" if translate else "transcribe",
        "language": segments[0].language if segments else "",
        "duration": round(last["end"] / RATE, 3),
        "text": transcript_files.joined(segments),
        "segments": [
            transcript_files.segment_document(each if words else replace(each, words=())) for each in segments
        ],
        "gaps": [gap for part in found for gap in part["gaps"]],
        **({"audio_skipped": str(skipped)} if skipped else {}),
        **({"speakers_error": {"code": fault.code, "message": fault.message}} if fault is not None else {}),
    }
