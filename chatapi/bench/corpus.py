"""A corpus of clips with their texts, clean and in noise, to measure speech recognition."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.errors import BadInput

TABLE = "clips.tsv"
COLUMNS = ("file", "text", "language", "kind", "voice", "split", "noise", "snr")
HESITATIONS = "pauses.tsv"
HESITATION_COLUMNS = ("before", "after", "text", "voice")
COMMANDS = "commands.tsv"
JUDGED = "commands_judged.tsv"
JUDGED_COLUMNS = ("file", "ctranslate2", "whisper_cpp", "pocketsphinx")
COMMAND_COLUMNS = ("file", "text", "voice", "set", "split")
SPEAKERS = 5
"""Number of speakers in babble."""
REVERBERATION = 0.4
"""Reverberation time of the simulated room (60 dB), in seconds."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A recorded or synthesized sentence."""

    name: str
    samples: Samples
    """16 kHz mono."""
    text: str
    language: str
    """ISO 639-1."""
    kind: str
    """real: a person; made: a synthesizer; unknown: its source does not say."""
    voice: str
    split: str
    """tune: settings may be chosen on it; held-out: they may only be judged on it."""
    noise: str
    """white, pink, babble, room, or empty."""
    snr: float | None
    """Signal-to-noise ratio, in dB; None: no noise of a given level."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def read(folder: Path, split: str | None = None, languages: Sequence[str] = ()) -> Iterator[Clip]:
    """The clips of a folder's clips.tsv, of one split or all, in some languages or all.

    Noise is generated here, the same each time. Raises BadInput naming the invalid line.
    """
    rows = _rows(folder / TABLE)
    for row in rows:
        if (split is None or row["split"] == split) and (not languages or row["language"] in languages):
            samples = decode(folder / row["file"]).samples
            snr = float(row["snr"]) if row["snr"] else None
            yield Clip(
                "+".join(filter(None, (row["file"], row["noise"], row["snr"]))),
                _in_noise(samples, row, [folder / name for name in _others(row, rows)]),
                row["text"], row["language"], row["kind"], row["voice"], row["split"], row["noise"], snr,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Hesitation:
    """A sentence with a pause in the middle."""

    before: Samples
    """16 kHz mono, to the last sound before the pause."""
    after: Samples
    """16 kHz mono, from the first sound after the pause."""
    text: str
    voice: str


def hesitations(folder: Path) -> list[Hesitation]:
    """The hesitations of a folder's pauses.tsv. Raises BadInput naming the invalid line."""
    rows = _table(folder / HESITATIONS, HESITATION_COLUMNS)
    parts = [(decode(folder / row["before"]).samples, decode(folder / row["after"]).samples) for row in rows]
    return [Hesitation(*part, row["text"], row["voice"]) for part, row in zip(parts, rows, strict=True)]


@dataclass(frozen=True, eq=False)
class ShortCommand:
    """A command of a word or two, without silence before or after it."""

    samples: Samples
    """16 kHz mono."""
    text: str
    voice: str
    clear: bool
    """Whether it is in the set of the clear voices rather than the hard ones."""
    split: str
    """Of a clear voice: tune for the words by which the voice was chosen. Otherwise as that of a clip."""
    judged: tuple[str, ...]
    """What three other recognizers make of it; empty for a hard voice."""


def commands(folder: Path) -> list[ShortCommand]:
    """The commands of a folder's commands.tsv. Raises BadInput naming the invalid line."""
    judged = {file: tuple(texts) for file, *texts in map(dict.values, _table(folder / JUDGED, JUDGED_COLUMNS))}
    return [
        ShortCommand(
            decode(folder / row["file"]).samples, row["text"], row["voice"], row["set"] == "clear", row["split"],
            judged.get(row["file"], ()),
        )
        for row in _table(folder / COMMANDS, COMMAND_COLUMNS)
    ]  # fmt: skip


def _table(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise BadInput(f"cannot read {table}: {error.strerror}") from error
    for number, row in enumerate(rows, 2):
        if set(row) != set(columns) or None in row.values():
            raise BadInput(f"{table}, line {number}: it must have the columns {', '.join(columns)}")
    return rows


def _rows(table: Path) -> list[dict[str, str]]:
    rows = _table(table, COLUMNS)
    for number, row in enumerate(rows, 2):
        if row["noise"] not in ("", "white", "pink", "babble", "room"):
            raise BadInput(
                f"{table}, line {number}: noise {row['noise']!r} is not supported (white, pink, babble, room)"
            )
    return rows


def _others(row: dict[str, str], rows: list[dict[str, str]]) -> list[str]:
    """Clips of other voices for babble, the same each time."""
    files = sorted(
        {
            each["file"]
            for each in rows
            if each["voice"] != row["voice"] and each["language"] == "en" and each["split"] == row["split"]
        }
    )
    start = _seed(row)
    return [files[(start + 7 * step) % len(files)] for step in range(SPEAKERS)] if files else []


def _seed(row: dict[str, str]) -> int:
    return zlib.crc32(f"{row['file']} {row['noise']}".encode())


def _in_noise(samples: Samples, row: dict[str, str], others: list[Path]) -> Samples:
    if not row["noise"]:
        return samples
    random = np.random.default_rng(_seed(row))
    if row["noise"] == "room":
        return in_room(samples, random)
    if row["noise"] == "babble":
        noise = babble([decode(path).samples for path in others], len(samples))
    else:
        noise = coloured(len(samples), random, falling=row["noise"] == "pink")
    return at_snr(samples, noise, float(row["snr"]))


def coloured(count: int, random: np.random.Generator, falling: bool) -> Samples:
    """White noise, or pink noise, which falls by 3 dB per octave."""
    white = random.standard_normal(count)
    if not falling:
        return white.astype(np.float32)
    spectrum = np.fft.rfft(white)
    frequencies = np.fft.rfftfreq(count, 1 / RATE)
    pink: Samples = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 20)), count).astype(np.float32)
    return pink


def babble(voices: list[Samples], count: int) -> Samples:
    """Several speakers at once, each repeated to `count` samples."""
    mixed: Samples = np.sum([np.resize(voice, count) for voice in voices], axis=0, dtype=np.float32)
    return mixed


def in_room(samples: Samples, random: np.random.Generator) -> Samples:
    """The samples in a room: with an echo of decaying noise, 3 dB below them."""
    length = int(REVERBERATION * RATE)
    decay = random.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    decay *= 10 ** (-3 / 20) / np.sqrt(np.sum(decay**2))
    decay[0] = 1
    size = len(samples) + length
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(decay, size), size)[: len(samples)]
    echoed: Samples = np.clip(wet, -1, 1).astype(np.float32)
    return echoed


def at_snr(samples: Samples, noise: Samples, snr: float) -> Samples:
    """Speech with noise `snr` decibels below it, by their mean powers; scaled down if it would clip."""
    level = np.sqrt(np.mean(samples**2) / max(1e-12, float(np.mean(noise**2)))) * 10 ** (-snr / 20)
    mixed: Samples = (samples + level * noise).astype(np.float32)
    return mixed / np.float32(max(1.0, float(np.abs(mixed).max())))
