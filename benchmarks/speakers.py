"""Diarization error rate of the speaker labels, on dialogues made of recordings of the corpus, and on real ones.

python benchmarks/speakers.py                 # dialogues made of the voices of the corpus
python benchmarks/speakers.py --folder DIR    # recordings with their speakers in RTTM files of the same names
python benchmarks/speakers.py --live          # the labels of captions, each made when its line ends
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import Source, decode
from chatapi.bench import corpus
from chatapi.bench.diarization_error import DiarizationError, TimedSpeaker, diarization_error
from chatapi.events import Transcript
from chatapi.services.captions.captioner import CaptionOptions, captioning
from chatapi.services.transcription.speakers import SpeakerLabeller, SpeakerOptions

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
VOICES = {
    "nine other voices": ("audioeval-es", "audioeval-fr", "audioeval-hi", "audioeval-it", "audioeval-zh",
                          "espeak-en-us", "kokoro-jf_alpha-en-us", "kokoro-jm_kumo-en-us", "piper-joe-1"),
    "four people": ("two_cities", "beckett", "jfk", "austen"),
}  # fmt: skip
"""The voices of the dialogues. Settings are chosen on the first ones."""
TURNS = 24
FRAME = RATE // 100
PAUSE = 0.5
"""Seconds of a pause within a clip that is no speech of the reference."""
QUIET = 10 ** (-35 / 20)
"""Of the loudest frames of a clip: quieter ones are no speech of the reference."""


@dataclass(frozen=True, eq=False)
class Dialogue:
    """A recording and its speaker turns."""

    name: str
    source: Source
    turns: list[TimedSpeaker]


def speech(samples: Samples) -> list[tuple[int, int]]:
    """Where a clip has speech, in samples."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(levels > QUIET * np.percentile(levels, 95))
    cuts = np.flatnonzero(np.diff(loud) > PAUSE * RATE / FRAME)
    starts, ends = [loud[0], *loud[cuts + 1]], [*loud[cuts], loud[-1]]
    return [(int(start) * FRAME, (int(end) + 1) * FRAME) for start, end in zip(starts, ends, strict=True)]


def dialogue(clips: dict[str, list[Samples]], overlapping: bool, seed: int) -> Dialogue:
    """A dialogue of these speakers: their clips in turns, with pauses of 0.1 to 0.7 s, and each speaker as loud as the
    distance may be; where `overlapping`, every third turn begins 0.3 to 1.2 s before the end of the one before it."""
    random = np.random.default_rng(seed)
    names = list(clips)
    gains = {name: 10 ** (random.uniform(-6, 6) / 20) for name in names}
    parts: list[tuple[int, Samples]] = []
    turns: list[TimedSpeaker] = []
    end, last = RATE // 2, ""
    for _ in range(TURNS):
        last = str(random.choice([name for name in names if name != last]))
        samples = clips[last][random.integers(len(clips[last]))]
        spoken = speech(samples)
        gap = -random.uniform(0.3, 1.2) if overlapping and random.random() < 1 / 3 else random.uniform(0.1, 0.7)
        start = max(0, end + int(gap * RATE)) - spoken[0][0]
        parts.append((max(0, start), samples * np.float32(gains[last])))
        turns += [TimedSpeaker((start + first) / RATE, (start + after) / RATE, last) for first, after in spoken]
        end = start + spoken[-1][1]
    mixed = np.zeros(max(start + len(samples) for start, samples in parts), np.float32)
    for start, samples in parts:
        mixed[start : start + len(samples)] += samples
    mixed += random.normal(0, 3e-4, len(mixed)).astype(np.float32)
    return Dialogue("", wav(Audio(mixed / max(1.0, float(np.abs(mixed).max())), RATE)), turns)


def made(voices: Sequence[str], seeds: int) -> Iterator[tuple[int, bool, Dialogue]]:
    """Number of speakers, whether they overlap, and the dialogue."""
    clips: dict[str, list[Samples]] = {}
    for clip in corpus.read(CORPUS):
        if clip.voice in voices and not clip.noise:
            clips.setdefault(clip.voice, []).append(clip.samples)
    for speakers, overlapping, seed in itertools.product((2, 3, 4), (False, True), range(seeds)):
        random = np.random.default_rng(1000 * speakers + seed)
        chosen = {str(name): clips[str(name)] for name in random.choice(voices, speakers, replace=False)}
        yield speakers, overlapping, dialogue(chosen, overlapping, seed)


def recorded(folder: Path) -> Iterator[Dialogue]:
    """The recordings of a folder that have an RTTM file: its lines are SPEAKER file channel start duration . . name."""
    for rttm in sorted(folder.glob("*.rttm")):
        fields = [line.split() for line in rttm.read_text(encoding="utf-8").splitlines() if line.startswith("SPEAKER")]
        turns = [TimedSpeaker(float(each[3]), float(each[3]) + float(each[4]), each[7]) for each in fields]
        source = next(path for path in folder.glob(f"{rttm.stem}.*") if path != rttm)
        yield Dialogue(rttm.stem, source, turns)


async def judge_live(appliance: Appliance, talk: Dialogue) -> tuple[DiarizationError, int]:
    """The error of the lines of captions, and the number of speakers found. The recognizer is a fake: it takes no part
    in where a line ends."""
    found: list[TimedSpeaker] = []

    async def add(line: Transcript) -> None:
        if line.final:
            found.append(TimedSpeaker(line.start, line.end, line.speaker))

    services = (appliance.engines, appliance.transcriber, appliance.settings)
    options = CaptionOptions(partials=False, speakers=True)
    async with captioning(services, options, add) as captioner:
        await captioner.feed(decode(talk.source).samples, settled=True)
        await captioner.finish()
    return diarization_error(talk.turns, found), len({turn.speaker for turn in found})


async def judge(labeller: SpeakerLabeller, talk: Dialogue, known_count: bool) -> tuple[DiarizationError, int]:
    """The error, and the number of speakers found."""
    count = len({turn.speaker for turn in talk.turns}) if known_count else None
    labels = await labeller.labels(talk.source, SpeakerOptions.of(count))
    found = [TimedSpeaker(each.start, each.end, labels.names[each.speaker]) for each in labels.turns]
    return diarization_error(talk.turns, found), len({turn.speaker for turn in found})


def row(name: str, errors: Sequence[DiarizationError], note: str) -> str:
    total = sum(errors[1:], errors[0])
    shares = [100 * part / total.speech for part in (total.missed, total.false_alarm, total.confusion)]
    return f"| {name} | {100 * total.rate:.1f} | " + " | ".join(f"{share:.1f}" for share in shares) + f" | {note} |"


async def measure(chosen: argparse.Namespace) -> None:
    loaded = settings.load([*chosen.set, *(["asr.engine=fake"] if chosen.live else [])]).settings
    async with Appliance(loaded).running() as appliance:
        await appliance.load({"vad", "speaker", *({"asr"} if chosen.live else ())})

        async def judged_dialogue(talk: Dialogue) -> tuple[DiarizationError, int]:
            if chosen.live:
                return await judge_live(appliance, talk)
            return await judge(appliance.speaker_labeller, talk, chosen.count)

        print("| dialogues | DER, % | missed | false alarm | confused | number of speakers |")
        print("| --- | --: | --: | --: | --: | --- |")
        if chosen.folder:
            for talk in recorded(chosen.folder):
                error, count = await judged_dialogue(talk)
                print(row(talk.name, [error], f"{count}, {len({turn.speaker for turn in talk.turns})} are right"))
            return
        for split, voices in VOICES.items():
            began, seconds = time.process_time(), 0.0
            found: dict[tuple[int, bool], list[tuple[DiarizationError, int]]] = {}
            for speakers, overlapping, talk in made(voices, chosen.seeds):
                found.setdefault((speakers, overlapping), []).append(await judged_dialogue(talk))
                seconds += max(turn.end for turn in talk.turns)
            for (speakers, overlapping), judged in found.items():
                name = f"{split}, {speakers} speakers" + (", overlapping" if overlapping else "")
                right = sum(count == speakers for _, count in judged)
                print(row(name, [error for error, _ in judged], f"right in {right} of {len(judged)}"))
            every = [error for judged in found.values() for error, _ in judged]
            print(row(f"{split}, all", every, f"{(time.process_time() - began) / seconds:.3f} CPU s a second"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="recordings with RTTM files")
    parser.add_argument("--seeds", type=int, default=6, help="dialogues of each kind")
    parser.add_argument("--count", action="store_true", help="tell it how many speakers there are")
    parser.add_argument("--live", action="store_true", help="the labels of captions")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    anyio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
