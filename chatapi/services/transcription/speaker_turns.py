"""Speaker turns from the embeddings of regions of speech, and transcripts split where the speaker changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Samples
from chatapi.engines import SPEAKER_WINDOW, Segment, Word, speaker_windows
from chatapi.errors import ChatapiError
from chatapi.services.transcription.pauses import divided
from chatapi.services.transcription.speaker_clusters import Groups, Numbers, Vectors, likeliest_path, unit

Halves = npt.NDArray[np.float16]
"""Vectors in half of the memory."""
CELL = RATE // 5
"""Samples for which one speaker is decided: 0.2 s."""
LEVEL = RATE // 50
"""Samples of one loudness: 20 ms."""
SNAP = 20
"""Loudnesses before and after a change of the speaker in which the quietest moment is looked for: 0.4 s."""
CHANGE_COST = 0.4
"""What a change of the speaker costs within speech, in cosine similarity summed over cells: it takes 0.4 s of speech
whose similarity is 0.2 greater."""
PAUSE_COST = 0.15
"""What it costs after a pause."""
PASSES = 2
"""How often the speakers' voices are computed again from what was found to be theirs."""
LEAST_SAMPLES = RATE
"""A speaker with less speech is a remnant of the others."""
SAME_VOICE = 0.82
"""Cosine similarity from which the mean voices of two speakers are one: those of different people reach 0.76, those of
one voice at different speeds 0.96."""
FLICKER_SECONDS = 0.5
"""Words that last less, between words of another speaker, are that speaker's."""


@dataclass(frozen=True, eq=False)
class VoiceRegion:
    """A region of speech."""

    start: int
    """First sample."""
    end: int
    """Sample after the last."""
    embeddings: Halves
    """Of its windows (`speaker_windows`), of shape (windows, dimensions)."""
    levels: Vectors
    """Mean square of every LEVEL samples."""


@dataclass(frozen=True)
class SpeakerTurn:
    """A stretch of speech of one speaker."""

    start: float
    """Seconds from the start of the recording."""
    end: float
    """Seconds from the start of the recording."""
    speaker: int
    """Number of the speaker, from 0."""


def levels(samples: Samples) -> Vectors:
    """The mean square of every LEVEL samples; of the last that are fewer, too."""
    squares = np.square(np.pad(samples, (0, -len(samples) % LEVEL)), dtype=np.float32)
    found: Vectors = squares.reshape(-1, LEVEL).mean(axis=1)
    return found


def turns(regions: Sequence[VoiceRegion], speakers: Groups, at_least: int = 1) -> tuple[list[SpeakerTurn], Vectors]:
    """The turns in order, and the speakers' voices, unit vectors of shape (speakers, dimensions).

    `speakers` are the groups of the regions' embeddings; those that turn out to be one voice are joined, as long as
    `at_least` so many speakers remain.
    """
    if not regions or not len(speakers.sizes):
        return [], np.zeros((0, 0), np.float32)
    cells = [_cells(region) for region in regions]
    costs = [cost for each in cells for cost in (PAUSE_COST, *[CHANGE_COST] * (len(each) - 1))]
    path, voices = _path(cells, costs, speakers.centroids, at_least)
    found: list[SpeakerTurn] = []
    first = 0
    for region, each in zip(regions, cells, strict=True):
        found += _turns(region, path[first : first + len(each)])
        first += len(each)
    return found, voices


def _path(cells: Sequence[Halves], costs: Sequence[float], voices: Vectors, at_least: int) -> tuple[Numbers, Vectors]:
    """The speaker of each cell, and the voices, computed again from what was found to be theirs."""
    while True:
        for _ in range(PASSES):
            voices = _voices(cells, likeliest_path(_likeness(cells, voices), costs), voices)
        path = likeliest_path(_likeness(cells, voices), costs)
        sizes = np.bincount(path, minlength=len(voices))
        if len(voices) <= max(1, at_least):
            return path, voices
        smallest = int(np.argmin(sizes))
        likeness = voices @ voices.T - 2 * np.eye(len(voices), dtype=np.float32)
        first, second = divmod(int(np.argmax(likeness)), len(voices))
        if sizes[smallest] * CELL < LEAST_SAMPLES:
            voices = np.delete(voices, smallest, axis=0)
        elif likeness[first, second] >= SAME_VOICE:
            voices[first] = unit(voices[first] * sizes[first] + voices[second] * sizes[second])
            voices = np.delete(voices, second, axis=0)
        else:
            return path, voices


def _cells(region: VoiceRegion) -> Halves:
    """The voice in each cell: the mean of the windows over it, the nearer the heavier."""
    length = region.end - region.start
    centres = np.array(speaker_windows(length), np.float32) + min(length, SPEAKER_WINDOW) / 2
    middles = np.arange(CELL / 2, max(length, CELL), CELL, dtype=np.float32)
    weights = np.maximum(1e-3, 1 - np.abs(middles[:, None] - centres) / (SPEAKER_WINDOW / 2))
    return unit(weights @ region.embeddings.astype(np.float32)).astype(np.float16)


def _likeness(cells: Sequence[Halves], voices: Vectors) -> Vectors:
    """Of each cell to each voice, of shape (cells, speakers); region by region, so that little is held as float32."""
    return np.concatenate([each.astype(np.float32) @ voices.T for each in cells])


def _voices(cells: Sequence[Halves], path: Numbers, before: Vectors) -> Vectors:
    """The voices of the speakers; one who was left without a cell keeps the voice from `before`."""
    sums = np.zeros_like(before)
    first = 0
    for each in cells:
        np.add.at(sums, path[first : first + len(each)], each.astype(np.float32))
        first += len(each)
    return np.where(np.bincount(path, minlength=len(before))[:, None] > 0, unit(sums), before)


def _turns(region: VoiceRegion, path: Numbers) -> Iterator[SpeakerTurn]:
    """The turns in a region, which change at the quietest moment near the change of the cells' speakers."""
    changes = [place for place in range(1, len(path)) if path[place] != path[place - 1]]
    quiet = sorted(min(region.end, region.start + quietest(region.levels, place)) for place in changes)
    for place, (start, end) in zip([0, *changes], pairwise([region.start, *quiet, region.end]), strict=True):
        yield SpeakerTurn(start / RATE, end / RATE, int(path[place]))


def quietest(found: Vectors, cell: int) -> int:
    """The middle of the quietest 60 ms near the start of a cell, in samples from the start of the region."""
    middle = cell * CELL // LEVEL
    first = max(0, middle - SNAP)
    near = np.convolve(found[first : middle + SNAP], np.ones(3), mode="same")
    return int((first + (np.argmin(near) if len(near) else 0) + 0.5) * LEVEL)


@dataclass(frozen=True)
class SpeakerLabels:
    """The speaker labels of a recording, with their times."""

    turns: tuple[SpeakerTurn, ...] = ()
    names: tuple[str, ...] = ()
    """Of the speakers, by their numbers."""
    fault: ChatapiError | None = None
    """Why there are none."""

    def apply(self, segments: Iterable[Segment]) -> list[Segment]:
        """The segments with the names of their speakers, split between words where the speaker changes.

        A segment without words stays whole and gets the speaker with the most speech in it.
        """
        return list(_with_speakers(segments, self.turns, self.names)) if self.turns else list(segments)


def _with_speakers(
    segments: Iterable[Segment], found: Sequence[SpeakerTurn], names: Sequence[str]
) -> Iterator[Segment]:
    index = _TurnIndex(found)
    for segment in segments:
        if not segment.words:
            yield replace(segment, speaker=names[index.speaker(segment.start, segment.end)])
        else:
            owners = _steady(segment.words, [index.speaker(word.start, word.end) for word in segment.words])
            firsts = [0, *(place for place in range(1, len(owners)) if owners[place] != owners[place - 1])]
            for first, part in zip(firsts, divided(segment, firsts), strict=True):
                yield replace(part, speaker=names[owners[first]])


class _TurnIndex:
    """Finds the speaker at a time."""

    def __init__(self, found: Sequence[SpeakerTurn]) -> None:
        self._turns = found
        self._starts = np.array([turn.start for turn in found])
        self._ends = np.maximum.accumulate([turn.end for turn in found]) if found else np.zeros(0)

    def speaker(self, start: float, end: float) -> int:
        """The speaker of most of the time from `start` to `end`, or the nearest one."""
        first = int(np.searchsorted(self._ends, start, "right"))
        last = int(np.searchsorted(self._starts, end, "left"))
        shares: dict[int, float] = {}
        for turn in self._turns[first:last]:
            shared = min(end, turn.end) - max(start, turn.start)
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
        if shares:
            return max(shares, key=lambda speaker: shares[speaker])
        near = self._turns[max(0, first - 1) : first + 1]
        return min(near, key=lambda turn: max(turn.start - end, start - turn.end)).speaker


def _steady(words: Sequence[Word], owners: Sequence[int]) -> list[int]:
    """The speakers of the words, without those that have the floor for a moment only in what another one says."""
    runs = [list(places) for _, places in groupby(range(len(owners)), key=lambda place: owners[place])]
    steady = list(owners)
    for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
        lasts = words[run[-1]].end - words[run[0]].start
        if lasts < FLICKER_SECONDS and owners[before[0]] == owners[after[0]]:
            for place in run:
                steady[place] = owners[before[0]]
    return steady
