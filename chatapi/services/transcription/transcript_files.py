"""The transcript of a recording as a document, and as text, SubRip, WebVTT, tab-separated values or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, get_args

from chatapi.engines import Segment, Word

TranscriptFormat = Literal["txt", "srt", "vtt", "json", "tsv"]
FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)
MEDIA_TYPES: Mapping[TranscriptFormat, str] = {
    "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "json": "application/json",
    "tsv": "text/tab-separated-values; charset=utf-8",
}
UNSPACED = frozenset(("zh", "ja", "yue", "th", "lo", "my", "km", "bo"))
"""Languages written without spaces between sentences."""


@dataclass(frozen=True)
class Gap:
    """A stretch of a recording in which speech was detected and no words were recognized."""

    start: float
    """Seconds from the start of the recording."""
    end: float
    reason: str
    """no_words: the recognizer found no words in the speech."""


def between(segment: Segment) -> str:
    """The separator before a segment's text, unless it is the first."""
    return "" if segment.language in UNSPACED else " "


def joined(segments: Sequence[Segment]) -> str:
    """The text of all segments."""
    return "".join((between(each) if count else "") + each.text.strip() for count, each in enumerate(segments))


def srt(segments: Iterable[Segment]) -> str:
    """The segments as SubRip subtitles, each with its speaker before the text."""
    return "".join(
        f"{number}\n{clock(each.start, ',')} --> {clock(each.end, ',')}\n{captioned(each)}\n\n"
        for number, each in enumerate(segments, 1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """The segments as WebVTT subtitles (https://www.w3.org/TR/webvtt1/), each in the voice of its speaker."""
    cues = (f"{clock(each.start, '.')} --> {clock(each.end, '.')}\n{_cue(each)}\n\n" for each in segments)
    return "WEBVTT\n\n" + "".join(cues)


def tsv(segments: Iterable[Segment]) -> str:
    """The segments as lines of start and end in milliseconds, and text, as openai-whisper writes them."""
    lines = (
        f"{round(each.start * 1000)}\t{round(each.end * 1000)}\t{' '.join(captioned(each).split())}\n"
        for each in segments
    )
    return "start\tend\ttext\n" + "".join(lines)


def clock(seconds: float, mark: str) -> str:
    """A time as HH:MM:SS, the mark, and milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{mark}{milliseconds:03}"


def captioned(segment: Segment) -> str:
    """The text of a segment, with its speaker before it."""
    speaker = " ".join(segment.speaker.split())
    return f"{speaker}: {segment.text.strip()}" if speaker else segment.text.strip()


def turns(segments: Sequence[Segment]) -> str:
    """A line for each turn, with its speaker before it."""
    found = (list(turn) for _, turn in groupby(segments, lambda each: each.speaker))
    return "".join(f"{captioned(replace(turn[0], text=joined(turn)))}\n" for turn in found)


def _cue(segment: Segment) -> str:
    """The text of a cue."""
    text = _escaped(segment.text.strip())
    # A line break would end the tag.
    return f"<v {_escaped(' '.join(segment.speaker.split()))}>{text}" if segment.speaker else text


def _escaped(text: str) -> str:
    """The text with WebVTT's markup characters escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(segments: Sequence[Segment]) -> str:
    """A line for each segment; with speaker labels, for each turn."""
    if any(each.speaker for each in segments):
        return turns(segments)
    return "".join(f"{each.text.strip()}\n" for each in segments)


def written(segments: Sequence[Segment], form: Literal["txt", "srt", "vtt", "tsv"]) -> str:
    """The segments in one of the formats that are text."""
    renderers: Mapping[str, Callable[[Sequence[Segment]], str]] = {"txt": _text, "srt": srt, "vtt": vtt, "tsv": tsv}
    return renderers[form](segments)


def rendered(document: Mapping[str, Any], form: TranscriptFormat) -> str:
    """A document, as `segment_document` and its caller make it, in one of the formats."""
    if form == "json":
        return json.dumps(document, ensure_ascii=False) + "\n"
    return written([segment_of(each) for each in document["segments"]], form)


def segment_document(segment: Segment) -> dict[str, Any]:
    """A segment as JSON: its times in seconds, its text, and its speaker and its words where there are some."""
    found: dict[str, Any] = {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text.strip(),
        "language": segment.language,
        "avg_logprob": round(segment.logprob, 4),
    }
    if segment.speaker:
        found["speaker"] = segment.speaker
    if segment.words:
        found["words"] = [
            {"word": each.text, "start": round(each.start, 3), "end": round(each.end, 3)} for each in segment.words
        ]
    return found


def segment_of(document: Mapping[str, Any]) -> Segment:
    """The segment of a JSON document."""
    words = tuple(Word(each["word"], each["start"], each["end"]) for each in document.get("words", ()))
    return Segment(
        document["text"], document["start"], document["end"], document.get("avg_logprob", 0.0), document["language"],
        words, speaker=document.get("speaker", ""),
    )  # fmt: skip
