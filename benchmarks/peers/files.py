"""A long file of known speech: faster-whisper, batched and sequential, and whisper.cpp, with the same weights.

Each program is a command of its own, so that loading is included: take at least half an hour of speech.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from long_recording import HeardWord, Score, command, heard, stitched
from measured_process import Measured, run
from options import Options
from whisper_tokenizer import folder

from chatapi.audio import RATE, Audio, wav
from chatapi.storage.layout import DataDirectory

PROGRAMS = Path(__file__).with_name("file_programs.py")
BEAMS = (5, 1)
GGML = {
    "whisper-tiny.en-ct2": "whisper-tiny.en/ggml-tiny.en.bin",
    "whisper-base-ct2": "whisper-base/ggml-base.bin",
}
"""The file of whisper.cpp with the same weights."""
SEED = 7


@dataclass
class FileProgram:
    """A program and what it took."""

    name: str
    beam: int
    command: Callable[[Path], Sequence[str]]
    """The command that transcribes a file."""
    read: Callable[[Path], list[HeardWord]]
    """The words, from the file that got what the command printed."""
    runs: list[Measured] = field(default_factory=list)
    words: list[HeardWord] = field(default_factory=list)
    """Those of the last run."""


def _ours(options: Options, beam: int, place: Path) -> FileProgram:
    def asked(file: Path) -> Sequence[str]:
        # A command skips a file whose transcript is there, and a job that is done.
        file.with_suffix(".json").unlink(missing_ok=True)
        data = Path(tempfile.mkdtemp(dir=place))
        DataDirectory(data).models.symlink_to(options.models)
        return command(file, data, options.model, f"ctranslate2.beams={beam}")

    def read(_: Path) -> list[HeardWord]:
        document = json.loads((place / "recording.json").read_text())
        return heard([word for each in document["segments"] for word in each["words"]])

    return FileProgram("chatapi", beam, asked, read)


def _theirs(options: Options, program: str, name: str, beam: int, model: Path) -> FileProgram:
    def asked(file: Path) -> Sequence[str]:
        return (options.peers_python, str(PROGRAMS), program, str(model), str(file), str(beam))

    return FileProgram(name, beam, asked, lambda output: heard(json.loads(output.read_text())))


def programs(options: Options, place: Path) -> list[FileProgram]:
    """All programs with each beam; the first are ours."""
    weights = folder(options.models / options.model, place)
    ggml = options.models / GGML[options.model]
    found = [_ours(options, beam, place) for beam in BEAMS]
    found += [_theirs(options, "batched", "faster-whisper, batched", beam, weights) for beam in BEAMS]
    found += [_theirs(options, "sequential", "faster-whisper, sequential", beam, weights) for beam in BEAMS]
    return [*found, *(_theirs(options, "whisper.cpp", "whisper.cpp", beam, ggml) for beam in BEAMS)]


async def measured(options: Options) -> None:
    """Prints one table."""
    with tempfile.TemporaryDirectory(prefix="peers-files-") as name:
        place = Path(name)
        samples, sentences = stitched(options.hours * 3600, SEED)
        file, output = place / "recording.wav", place / "output"
        file.write_bytes(wav(Audio(samples, RATE)))
        found = programs(options, place)
        for number in range(options.rounds):
            for each in found if number % 2 == 0 else reversed(found):
                each.runs.append(run(each.command(file), output))
                each.words = each.read(output)
                print(f"  {each.name}, beam {each.beam}: {each.runs[-1].seconds:.1f} s", flush=True)
        seconds = len(samples) / RATE
        scores = [Score.of(sentences, each.words, seconds) for each in found]
        print(table(f"**a file of {seconds / 60:.0f} minutes, {options.model}**", found, scores, seconds), flush=True)


def table(title: str, found: Sequence[FileProgram], scores: Sequence[Score], seconds: float) -> str:
    """The results as Markdown. Ratios to chatapi with the same beam are those of each round, and their median."""
    lines = [
        title,
        "",
        "| | beam | RTF | RTF, computing | theirs / ours | theirs / ours, computing | WER | skipped an hour "
        "| invented words an hour | memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = {each.beam: each.runs for each in found[: len(BEAMS)]}
    for each, score in zip(found, scores, strict=True):
        pairs = list(zip(each.runs, ours[each.beam], strict=True))
        wall = statistics.median(a.seconds / b.seconds for a, b in pairs)
        computing = statistics.median(a.computing / b.computing for a, b in pairs)
        lines.append(
            f"| {each.name} | {each.beam} | {statistics.median(a.seconds for a in each.runs) / seconds:.4f} "
            f"| {statistics.median(a.computing for a in each.runs) / seconds:.4f} | {wall:.2f} | {computing:.2f} "
            f"| {score.word_error_rate:.2%} | {score.skipped / score.hours:.1f} "
            f"| {score.aligned.invented / score.hours:.1f} | {max(a.pss for a in each.runs) / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"
