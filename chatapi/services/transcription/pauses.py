"""Times of transcripts of joined speech: none spans a pause that was removed; each begins and ends with the voice.

Whisper's words come from its attention, which says little where a voice begins: the first word after a pause starts up
to 0.4 s late, and the last one before a pause ends anywhere in it. The voice activity detector knows these edges to a
frame. See docs/measurements/services.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from chatapi.audio import RATE
from chatapi.engines import Segment, TranscriptToken
from chatapi.services.transcription.segmenter import SpeechRegion, TrimmedAudio

LATE_SECONDS = 0.5
"""Longest time by which the first word after a pause is late; one that is later follows sounds without words."""
LAG_SECONDS = 0.05
"""Time by which the detector notices the end of a voice late."""
SENTENCE_SECONDS = 0.3
"""Reach into the voice that the place of a word in its sentence outweighs: its last word is before a pause, and its
first behind it."""
ENDINGS = frozenset(".?!…。？！")
"""Marks of which one ends a sentence."""


def placed(segments: Iterable[Segment], audio: TrimmedAudio) -> Iterator[Segment]:
    """The segments of `audio.samples` with the times of the recording, one or several for each.

    A segment with words is split where they belong to different regions; one without stays whole.
    """
    stretches = tuple(_stretches(audio.regions))
    if not stretches:
        return
    before: _Stretch | None = None
    for segment in segments:
        if not segment.words:
            yield _limited(segment.retimed(audio.original), stretches)
            continue
        for stretch, part in _parts(segment, stretches):
            yield stretch.place(part, first=stretch is not before)
            before = stretch


class _Stretch:
    """A region with its place in the joined audio, in seconds."""

    def __init__(self, region: SpeechRegion, before: int) -> None:
        self.start, self.end = region.speech_start / RATE, region.speech_end / RATE
        self.voice_start = (before + region.speech_start - region.start) / RATE
        """Where the voice starts in the joined audio, in seconds."""
        self.voice_end = self.voice_start + self.end - self.start
        """Where it ends there."""

    def time(self, seconds: float) -> float:
        """The time in the recording, within the voice."""
        return min(max(self.start, seconds - self.voice_start + self.start), max(self.start, self.end))

    def place(self, segment: Segment, first: bool) -> Segment:
        """The segment with the times of the recording. `first`: no word of the region is before it."""
        placed = segment.retimed(lambda seconds, _: self.time(seconds))
        words = placed.words
        if first and words[0].start - self.start <= LATE_SECONDS:
            words = (replace(words[0], start=self.start), *words[1:])
        return replace(placed, start=words[0].start, end=max(placed.end, words[-1].end), words=words)


def _stretches(regions: Sequence[SpeechRegion]) -> Iterator[_Stretch]:
    before = 0
    for region in regions:
        yield _Stretch(region, before)
        before += region.end - region.start


def _limited(segment: Segment, stretches: Sequence[_Stretch]) -> Segment:
    """The segment, which begins with the first voice that ends after its start and ends with the last that starts
    before its end."""
    starts = [stretch.start for stretch in stretches if stretch.end > segment.start]
    ends = [stretch.end for stretch in stretches if stretch.start < segment.end]
    start = min(max(segment.start, starts[0]) if starts else segment.start, segment.end)
    return replace(segment, start=start, end=max(start, min(segment.end, ends[-1] if ends else segment.end)))


def _parts(segment: Segment, stretches: Sequence[_Stretch]) -> Iterator[tuple[_Stretch, Segment]]:
    """The parts of a segment, each with its stretch; their times are those of the joined audio."""
    places = list(_places(segment, _word_starts(segment), stretches))
    firsts = [next(group) for _, group in groupby(range(len(places)), key=lambda number: places[number])]
    for first, part in zip(firsts, divided(segment, firsts), strict=True):
        yield stretches[places[first]], part


def divided(segment: Segment, firsts: Sequence[int]) -> Iterator[Segment]:
    """The parts of a segment with words, which begin with these words, given by their numbers; the first is 0."""
    starts = _word_starts(segment)
    cuts = [0, *(starts[first] for first in firsts[1:]), len(segment.text)]
    for (first, after), (start, end) in zip(pairwise([*firsts, len(segment.words)]), pairwise(cuts), strict=True):
        words = segment.words[first:after]
        tokens = tuple(_tokens_between(segment, start, end)) if len(firsts) > 1 else segment.tokens
        logprob = sum(each.logprob for each in tokens) / len(tokens) if tokens else segment.logprob
        yield replace(
            segment, text=segment.text[start:end].strip(), start=words[0].start, end=words[-1].end,
            logprob=logprob, words=words, tokens=tokens,
        )  # fmt: skip


def _places(segment: Segment, starts: Sequence[int], stretches: Sequence[_Stretch]) -> Iterator[int]:
    """The stretch to which each word belongs, never an earlier one than that of the word before it.

    A word belongs to the voice into which it reaches further: recognizers let the first word after a pause start within
    it, and the last one before it continue to the next. Where it reaches about as far into both, the sentence decides.
    """
    current = 0
    opens = [not number or _ends_sentence(segment.text[:start]) for number, start in enumerate(starts)]
    for word, first, last in zip(segment.words, opens, [*opens[1:], True], strict=True):
        favour = SENTENCE_SECONDS * (last - first)
        while current + 1 < len(stretches):
            back = stretches[current].voice_end - LAG_SECONDS - word.start
            ahead = word.end - stretches[current + 1].voice_start
            if ahead <= back + favour:
                break
            current += 1
        yield current


def _ends_sentence(text: str) -> bool:
    """Whether a sentence ends with the text, perhaps in quotation marks."""
    return text.rstrip().rstrip("\"'”’»)")[-1:] in ENDINGS


def _word_starts(segment: Segment) -> list[int]:
    """Where each word starts in the text, with the punctuation before it."""
    starts, position = [], 0
    for word in segment.words:
        found = segment.text.find(word.text, position)
        if found >= 0:
            space = segment.text.rfind(" ", position, found)
            starts.append(space + 1 if space >= 0 else found)
            position = found + len(word.text)
        else:
            starts.append(position)
    return starts


def _tokens_between(segment: Segment, start: int, end: int) -> Iterator[TranscriptToken]:
    """The tokens of a part of the text, given in characters."""
    text = b"".join(token.utf8 for token in segment.tokens)
    before = len(text) - len(text.lstrip())
    first, last = (before + len(segment.text[:place].encode()) for place in (start, end))
    place = 0
    for token in segment.tokens:
        # A token begins with the space before its word.
        begin = place + len(token.utf8) - len(token.utf8.lstrip())
        place += len(token.utf8)
        if (first <= begin or start == 0) and (begin < last or end == len(segment.text)):
            yield token
