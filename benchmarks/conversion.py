"""Voice conversion: word and character errors, likeness to the target, and whether converted speech passes as real.

python benchmarks/conversion.py                    # the held-out pairs: five sources, six targets
python benchmarks/conversion.py --part tune        # the pairs on which settings are chosen
python benchmarks/conversion.py --chunk-ms 80 --lookahead-ms 60    # as a live conversion
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatapi import settings
from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.loudness import loudness_normalized
from chatapi.bench import corpus, wer
from chatapi.catalog import Catalog
from chatapi.engines import ConversionWindow, SpeakerEncoder, Transcriber, VoiceConverter, registry
from chatapi.services.voice_conversion.stream_conversion import FADE, LIVE, Joint

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
MODELS = {"voice_converter": "knn-vc-whisper-base", "speaker": "resemblyzer", "asr": "whisper-base-ct2"}
PARTS = {
    "tune": (
        ("two_cities", "kokoro-jf_nezumi-en-gb"),
        ("kokoro-jm_kumo-en-us", "kokoro-jf_alpha-en-us", "kokoro-nezumi_kumo-en-gb", "flite-kal16"),
    ),
    "report": (
        ("austen", "beckett", "jfk", "kokoro-jm_kumo-en-gb", "kokoro-gongitsune_kumo-en-us"),
        ("piper-joe", "flite-rms", "kokoro-jf_gongitsune-en-us", "kokoro-jf_tebukuro-en-us",
         "kokoro-tebukuro_kumo-en-gb", "asterisk-en_US"),
    ),
}  # fmt: skip
"""Sources and targets; no speaker is in both parts. Men and women, people and synthesizers."""
SOURCE_SECONDS = 9.0
"""Least length of the clips of a source, in seconds, where it has as many."""
PAUSE = RATE // 4
"""Samples between two joined clips."""
REAL_SECONDS = 4.0
"""Length of the target's own speech that is compared with its reference, in seconds."""


@dataclass(frozen=True)
class PairResult:
    """A source said in the voice of a target."""

    source: str
    target: str
    words: int
    word_errors: int
    chars: int
    char_errors: int
    to_target: float
    to_source: float
    cpu_share: float
    """Computing time for a second of speech."""


def speech_of(voice: str) -> list[tuple[Samples, str]]:
    """The clips of a voice and their texts; `piper-joe`: at all speeds."""
    clips = [each for each in corpus.read(CORPUS, languages=["en"]) if not each.noise]
    found = [(each.samples, each.text) for each in clips if each.voice == voice or each.voice.startswith(f"{voice}-")]
    if not found:
        commands = [each for each in corpus.commands(CORPUS) if each.voice == voice]
        found = [(each.samples, each.text) for each in commands]
    return found


def joined(clips: Sequence[Samples]) -> Samples:
    silence = np.zeros(PAUSE, np.float32)
    return np.concatenate([part for each in clips for part in (each, silence)])


def source_of(voice: str) -> tuple[Samples, str]:
    chosen, seconds = list[tuple[Samples, str]](), 0.0
    for clip in speech_of(voice):
        chosen.append(clip)
        seconds += len(clip[0]) / RATE
        if seconds >= SOURCE_SECONDS:
            break
    return joined([each for each, _ in chosen]), " ".join(text for _, text in chosen)


class Judges:
    """The engines, and what they say of speech."""

    def __init__(self) -> None:
        table = settings.load(["asr.engine=ctranslate2", "voice_converter.threads=1"]).settings
        catalog = Catalog(table.data)

        def engine(role: str) -> object:
            name = getattr(table, role).engine
            return registry.load(role, name)(table, [catalog.open(MODELS[role])])

        self.converter: VoiceConverter = engine("voice_converter")  # type: ignore[assignment]
        self._speaker: SpeakerEncoder = engine("speaker")  # type: ignore[assignment]
        self._asr: Transcriber = engine("asr")  # type: ignore[assignment]

    def embedding(self, samples: Samples) -> Samples:
        total = np.sum(list(self._speaker.embeddings(loudness_normalized(samples))), axis=0)
        found: Samples = total / np.linalg.norm(total)
        return found

    def errors(self, samples: Samples, text: str) -> tuple[int, int, int, int]:
        """Words, word errors, characters, and character errors."""
        heard = " ".join(each.text for each in self._asr.transcribe(samples, "en"))
        expected, found = wer.words(text), wer.words(heard)
        chars, found_chars = list(" ".join(expected)), list(" ".join(found))
        return len(expected), wer.edits(expected, found), len(chars), wer.edits(chars, found_chars)


def converted(converter: VoiceConverter, samples: Samples, rows: Samples, chunk: int, lookahead: int) -> Samples:
    """The samples in the voice of the rows, at 16 kHz: at once, or in chunks as live, of so many samples."""
    if not chunk:
        whole = [each.samples for each in converter.convert(samples, rows)]
        return Audio(np.concatenate(whole), converter.rate).at(RATE).samples
    joint, parts, done, context = Joint(), list[Samples](), 0, LIVE.context
    while done < len(samples):
        last = done + chunk + lookahead >= len(samples)
        end = len(samples) if last else done + chunk
        base = max(0, (done - context) // 320 * 320)
        past = 0 if last else FADE
        seen = samples[base : end + max(past, 0 if last else lookahead)]
        window = ConversionWindow(done - base, end + past - base, base)
        joint.begin()
        for each in converter.convert(seen, rows, source="live", window=window):
            parts.append(joint.feed(each.samples, 0 if last else round(FADE * each.rate / RATE)))
        done = end
    return Audio(np.concatenate(parts), converter.rate).at(RATE).samples


def pairs(judges: Judges, part: str, chunk: int = 0, lookahead: int = 0) -> Iterator[PairResult]:
    """The results of all pairs of a part, one after another."""
    sources, targets = PARTS[part]
    for target in targets:
        speech = joined([each for each, _ in speech_of(target)])
        rows = np.concatenate(list(judges.converter.reference(speech)))
        voice = judges.embedding(speech)
        for source in sources:
            samples, text = source_of(source)
            since = time.process_time()
            result = converted(judges.converter, samples, rows, chunk, lookahead)
            share = (time.process_time() - since) / (len(samples) / RATE)
            found = judges.embedding(result)
            counts = judges.errors(result, text)
            own = float(found @ judges.embedding(samples))
            yield PairResult(source, target, *counts, float(found @ voice), own, share)


def real_scores(judges: Judges, part: str) -> list[float]:
    """How alike pieces of the targets' own speech are to the rest of it."""
    scores = []
    for target in PARTS[part][1]:
        speech, size = joined([each for each, _ in speech_of(target)]), int(REAL_SECONDS * RATE)
        for first in range(0, len(speech) - size + 1, size):
            rest = np.concatenate([speech[:first], speech[first + size :]])
            scores.append(float(judges.embedding(speech[first : first + size]) @ judges.embedding(rest)))
    return scores


def equal_error_rate(real: Sequence[float], made: Sequence[float]) -> float:
    """The error rate at the threshold where as many real ones are below it as made ones are above; 0.5: they cannot be
    distinguished."""
    best = min(
        ((float(np.mean(np.array(real) < at)), float(np.mean(np.array(made) >= at))) for at in sorted({*real, *made})),
        key=lambda each: abs(each[0] - each[1]),
    )
    return sum(best) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), default="report")
    parser.add_argument("--chunk-ms", type=int, default=0, help="0: at once")
    parser.add_argument("--lookahead-ms", type=int, default=60)
    chosen = parser.parse_args()
    judges = Judges()
    chunk, lookahead = (each * RATE // 1000 for each in (chosen.chunk_ms, chosen.lookahead_ms))
    results = []
    print("| source | target | WER | CER | to target | to source | CPU s / s |", f"|{' --- |' * 7}", sep="\n")
    for each in pairs(judges, chosen.part, chunk, lookahead):
        results.append(each)
        print(f"| {each.source} | {each.target} | {each.word_errors / each.words:.1%} "
              f"| {each.char_errors / each.chars:.1%} | {each.to_target:.3f} | {each.to_source:.3f} "
              f"| {each.cpu_share:.2f} |", flush=True)  # fmt: skip
    counts = [judges.errors(*source_of(each)) for each in PARTS[chosen.part][0]]
    total = [sum(column) for column in zip(*counts, strict=True)]
    print(f"sources themselves: WER {total[1] / total[0]:.1%}, CER {total[3] / total[2]:.1%}")
    words, chars = sum(each.words for each in results), sum(each.chars for each in results)
    print(f"converted: WER {sum(each.word_errors for each in results) / words:.1%}, "
          f"CER {sum(each.char_errors for each in results) / chars:.1%}, "
          f"SECS {np.mean([each.to_target for each in results]):.3f} to the target, "
          f"{np.mean([each.to_source for each in results]):.3f} to the source, "
          f"EER {equal_error_rate(real_scores(judges, chosen.part), [each.to_target for each in results]):.1%}, "
          f"{np.median([each.cpu_share for each in results]):.2f} CPU s/s")  # fmt: skip


if __name__ == "__main__":
    main()
