"""A long recording of known speech through `chatapi transcribe`: what is lost, doubled or misplaced, also under kills.

Clips of the corpus are stitched with pauses, so that the place of every sentence is known to the sample:

    .venv/bin/python benchmarks/long_recording.py --hours 2 --model whisper-base-ct2
    .venv/bin/python benchmarks/long_recording.py --hours 0.2 --kills 50

`./run.sh bench peers files` transcribes such a recording with the other programs too.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatapi import settings
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.bench import corpus
from chatapi.bench.wer import words
from chatapi.storage.layout import DataDirectory

ROOT = Path(__file__).parents[1]
LOUD = 0.05
"""Part of a clip's largest amplitude from which a frame is speech."""
FRAME = RATE // 100
PAUSES = (0.3, 0.6, 1.0, 2.5, 6.0)
"""Lengths of the pauses between clips, in seconds."""
CLOSE_SECONDS = 0.2


@dataclass(frozen=True)
class Sentence:
    """A sentence of the recording."""

    words: tuple[str, ...]
    start: float
    """First sound, in seconds."""
    end: float
    """Last sound, in seconds."""


@dataclass(frozen=True)
class HeardWord:
    """A word of a transcript."""

    text: str
    start: float
    end: float


def stitched(seconds: float, seed: int) -> tuple[Samples, list[Sentence]]:
    """A recording of about this length, and its sentences."""
    source = random.Random(seed)
    clips = [each for each in corpus.read(ROOT / "tests/corpus", languages=("en",)) if not each.noise]
    parts: list[Samples] = []
    sentences: list[Sentence] = []
    count = 0
    while count < seconds * RATE:
        for clip in source.sample(clips, len(clips)):
            first, last = _sounds(clip.samples)
            sentences.append(Sentence(tuple(words(clip.text)), (count + first) / RATE, (count + last) / RATE))
            pause = np.zeros(int(source.choice(PAUSES) * RATE), np.float32)
            parts += [clip.samples, pause]
            count += len(clip.samples) + len(pause)
            if count >= seconds * RATE:
                break
    return np.concatenate(parts), sentences


def _sounds(samples: Samples) -> tuple[int, int]:
    """The first and the last sample of the speech."""
    frames = np.abs(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)).max(axis=1)
    loud = np.flatnonzero(frames > LOUD * frames.max())
    return int(loud[0]) * FRAME, int(loud[-1] + 1) * FRAME


def command(file: Path, data: Path, model: str, *more: str) -> list[str]:
    """The command that transcribes the file; `more`: further settings."""
    given = [f"data={data}", f"asr.model={model}", "asr.language=en", *more]
    return [
        sys.executable, "-m", "chatapi", "transcribe", str(file), "--format", "json", "--words",
        *(word for each in given for word in ("--set", each)),
    ]  # fmt: skip


def transcribed(file: Path, data: Path, model: str) -> tuple[dict[str, Any], float]:
    """The document of a transcript, and the seconds that it took."""
    file.with_suffix(".json").unlink(missing_ok=True)
    begun = time.monotonic()
    subprocess.run(command(file, data, model), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
    return document, time.monotonic() - begun


def killed(file: Path, data: Path, model: str, kills: int, seed: int) -> dict[str, Any]:
    """The document of a transcript whose process was killed so often, at random moments of its work."""
    source, longest = random.Random(seed), 20.0
    for number in range(kills):
        process = subprocess.Popen(command(file, data, model), cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            process.wait(source.uniform(0.5, longest))
            print(f"finished before kill {number + 1}")
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return transcribed(file, data, model)[0]


def heard(said: Sequence[dict[str, Any]]) -> list[HeardWord]:
    """The words of a transcript, written as those of the corpus."""
    return [HeardWord(text, each["start"], each["end"]) for each in said for text in words(each["word"])]


@dataclass
class Alignment:
    """The words of a transcript beside those that were said, by the fewest edits."""

    place: dict[int, int]
    """The number of the found word for each said word that was found."""
    replaced: int = 0
    lost: int = 0
    doubled: int = 0
    """Words that were added and repeat those beside them."""
    invented: int = 0
    """Words that were added and repeat nothing."""

    @classmethod
    def of(cls, said: Sequence[str], found: Sequence[str]) -> Alignment:
        import jiwer

        made = cls({})
        for each in jiwer.process_words(" ".join(said), " ".join(found)).alignments[0]:
            length = each.hyp_end_idx - each.hyp_start_idx
            if each.type == "equal":
                made.place |= {each.ref_start_idx + step: each.hyp_start_idx + step for step in range(length)}
            elif each.type == "substitute":
                made.replaced += length
            elif each.type == "delete":
                made.lost += each.ref_end_idx - each.ref_start_idx
            else:
                added = found[each.hyp_start_idx : each.hyp_end_idx]
                before = found[max(0, each.hyp_start_idx - length) : each.hyp_start_idx]
                behind = found[each.hyp_end_idx : each.hyp_end_idx + length]
                is_doubled = added in (before, behind)
                made.doubled += length * is_doubled
                made.invented += length * (not is_doubled)
        return made


@dataclass(frozen=True)
class Score:
    """What was lost, doubled, invented and misplaced in a recording of known sentences."""

    sentences: int
    skipped: int
    """Sentences of which no word is right."""
    misplaced: int
    """Sentences with a word further than a second from them."""
    said: int
    """Words of all sentences."""
    aligned: Alignment
    in_silence: int
    """Words further than a second from any sentence."""
    errors: Sequence[float]
    """Seconds by which the starts of first words and the ends of last words differ."""
    hours: float
    """Length of the recording."""

    @classmethod
    def of(cls, sentences: Sequence[Sentence], found: Sequence[HeardWord], seconds: float) -> Score:
        expected = [word for sentence in sentences for word in sentence.words]
        aligned = Alignment.of(expected, [each.text for each in found])
        place = aligned.place
        skipped, misplaced, errors, first = 0, 0, [], 0
        for sentence in sentences:
            matched = [found[place[each]] for each in range(first, first + len(sentence.words)) if each in place]
            skipped += not matched
            misplaced += any(each.end < sentence.start - 1 or each.start > sentence.end + 1 for each in matched)
            if first in place:
                errors.append(abs(found[place[first]].start - sentence.start))
            if (last := first + len(sentence.words) - 1) in place:
                errors.append(abs(found[place[last]].end - sentence.end))
            first += len(sentence.words)
        silent = sum(not any(s.start - 1 < each.end and each.start < s.end + 1 for s in sentences) for each in found)
        return cls(len(sentences), skipped, misplaced, len(expected), aligned, silent, errors, seconds / 3600)

    @property
    def word_error_rate(self) -> float:
        found = self.aligned
        return (found.replaced + found.lost + found.doubled + found.invented) / self.said


def report(name: str, score: Score) -> None:
    """Print what was lost, doubled, invented and misplaced."""
    found, times = score.aligned, np.array(score.errors or [np.nan])
    print(
        f"{name}: {score.sentences} sentences, {score.skipped} skipped, {score.misplaced} misplaced; "
        f"WER {score.word_error_rate:.2%}\n"
        f"  {score.said} words said: {len(found.place)} right, {found.replaced} replaced, {found.lost} lost; "
        f"{found.doubled} doubled, {found.invented} invented ({found.invented / score.hours:.0f} an hour), "
        f"{score.in_silence} in silence\n"
        f"  first and last words: {np.mean(times <= CLOSE_SECONDS):.1%} within {CLOSE_SECONDS} s, "
        f"median {np.median(times):.3f} s, 95 % {np.quantile(times, 0.95):.3f} s, most {times.max():.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--model", default="whisper-tiny.en-ct2")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    installed = DataDirectory(settings.load([]).settings.data).models
    with tempfile.TemporaryDirectory(prefix="long-recording-") as folder:
        place = Path(folder)
        for each in ("data", "again"):
            (place / each).mkdir()
            DataDirectory(place / each).models.symlink_to(installed)
        samples, sentences = stitched(chosen.hours * 3600, chosen.seed)
        file = place / "recording.wav"
        file.write_bytes(wav(Audio(samples, RATE)))
        length = len(samples) / RATE
        document, seconds = transcribed(file, place / "data", chosen.model)
        found = heard([word for each in document["segments"] for word in each["words"]])
        report("chatapi", Score.of(sentences, found, length))
        print(f"  {len(document['gaps'])} gaps")
        print(f"{length / 3600:.2f} hours, {length / seconds:.1f} times real time, loading included")
        if chosen.kills:
            file.with_suffix(".json").unlink()
            same = killed(file, place / "again", chosen.model, chosen.kills, chosen.seed) == document
            print(f"after {chosen.kills} kills the transcript is {'the same' if same else 'another'}")


if __name__ == "__main__":
    main()
