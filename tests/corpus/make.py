"""Makes the clips of this folder and `clips.tsv`: speaks `sentences.txt` and cuts recordings into sentences.

    python tests/corpus/make.py --piper VOICE.onnx --kokoro FOLDER --recordings FOLDER

`--kokoro`: a folder with Kokoro-82M as kokoro.onnx, voices.npz and vocab.json. `--recordings`: the files README.md
names. Needs espeak-ng 1.51, onnxruntime and piper-tts. Clips already there are kept. Noise is not stored: it is mixed
in when the corpus is read, by `chatapi.corpus`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import av
import numpy as np
import onnxruntime

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A line of clips.tsv."""

    file: str
    text: str
    language: str
    kind: str
    voice: str
    split: str
    noise: str = ""
    snr: str = ""


Say = Callable[[str], Audio]

CUTS = [
    ("two_cities.wav", 1.02, 4.84, "It was the best of times, it was the worst of times", "tune"),
    ("two_cities.wav", 4.86, 6.48, "it was the age of wisdom", "tune"),
    ("two_cities.wav", 6.50, 8.50, "it was the age of foolishness", "tune"),
    ("two_cities.wav", 8.60, 10.56, "it was the epoch of belief", "tune"),
    ("two_cities.wav", 10.58, 13.10, "it was the epoch of incredulity", "tune"),
    ("two_cities.wav", 13.22, 17.00, "it was the season of light, it was the season of darkness", "tune"),
    ("two_cities.wav", 17.30, 20.80, "it was the spring of hope, it was the winter of despair", "held-out"),
    ("two_cities.wav", 21.00, 24.34, "we had everything before us, we had nothing before us", "held-out"),
    ("two_cities.wav", 24.36, 26.33, "we were all going direct to heaven", "held-out"),
    ("two_cities.wav", 26.35, 28.70, "we were all going direct the other way", "held-out"),
    ("two_cities.wav", 28.90, 32.54, "in short, the period was so far like the present period", "held-out"),
    (
        "two_cities.wav",
        32.55,
        42.20,
        "that some of its noisiest authorities insisted on its being received, for good or for evil, in the "
        "superlative degree of comparison only",
        "held-out",
    ),
    ("beckett.wav", 0.10, 3.00, "Ever tried. Ever failed.", "tune"),
    ("beckett.wav", 3.30, 4.50, "No matter.", "tune"),
    ("beckett.wav", 4.60, 6.00, "Try again.", "held-out"),
    ("beckett.wav", 6.40, 9.20, "Fail again. Fail better.", "held-out"),
    ("jfk.flac", 0.10, 2.60, "And so, my fellow Americans", "tune"),
    ("jfk.flac", 5.10, 7.90, "what your country can do for you", "tune"),
    ("jfk.flac", 7.90, 10.95, "ask what you can do for your country", "held-out"),
    (
        "austen-0870.wav",
        0,
        99,
        "And Mister John Dashwood had then leisure to consider how much there might be prudently in his power to do "
        "for them",
        "tune",
    ),
    ("austen-0880.wav", 0, 99, "He was not an ill disposed young man", "held-out"),
    (
        "austen-0890.wav",
        0,
        99,
        "unless to be rather cold hearted and rather selfish is to be ill disposed",
        "tune",
    ),
    (
        "austen-0920.wav",
        0,
        99,
        "Had he married a more amiable woman he might have been made still more respectable than he was",
        "held-out",
    ),
    ("austen-0930.wav", 0, 99, "He might even have been made amiable himself", "held-out"),
]
"""Recording, from and to in seconds, what is said, split."""

COUNTING = ("counting", "conteo", "comptage", "ginti", "conteggio", "kazoeru", "liczenie", "contagem", "jishu")
"""Left out: whether 1-2-345 is an error depends on how digits are grouped, not on what was heard."""

MIXES = {
    "alpha_kumo": ("jf_alpha", "jm_kumo"),
    "alpha_nezumi": ("jf_alpha", "jf_nezumi"),
    "nezumi_kumo": ("jf_nezumi", "jm_kumo"),
    "gongitsune_kumo": ("jf_gongitsune", "jm_kumo"),
    "gongitsune_nezumi": ("jf_gongitsune", "jf_nezumi"),
    "tebukuro_kumo": ("jf_tebukuro", "jm_kumo"),
}
"""Further speakers: the mean of two voices' style vectors."""

KOKORO = {
    "tune": [
        ("jf_alpha", "en-us", 1.0),
        ("jm_kumo", "en-us", 1.05),
        ("jf_nezumi", "en-gb", 1.1),
        ("alpha_kumo", "en-us", 1.15),
        ("nezumi_kumo", "en-gb", 0.95),
        ("alpha_nezumi", "en-us", 1.2),
    ],
    "held-out": [
        ("jf_tebukuro", "en-us", 1.05),
        ("jf_gongitsune", "en-us", 1.1),
        ("tebukuro_kumo", "en-gb", 1.0),
        ("gongitsune_nezumi", "en-us", 1.0),
        ("jm_kumo", "en-gb", 1.2),
        ("gongitsune_kumo", "en-us", 0.9),
    ],
}
"""Voice, accent, speed."""

PIPER = {
    "tune": [(1.0, 0.667), (0.85, 0.8), (1.2, 0.5)],
    "held-out": [(0.92, 0.667), (1.1, 0.9), (1.0, 0.4)],
}
"""length_scale (above 1 is slower) and noise_scale (how much it varies)."""

ESPEAK = {
    "tune": [("en-us", 155, 45), ("en-gb+f3", 150, 55)],
    "held-out": [("en-gb", 160, 40), ("en-us", 140, 60)],
}
"""Voice, words a minute, pitch."""


def kokoro(folder: Path) -> Callable[[str, str, float], Say]:
    """Kokoro-82M, with espeak-ng's phonemes in the spelling it was trained on."""
    session = onnxruntime.InferenceSession(str(folder / "kokoro.onnx"), providers=["CPUExecutionProvider"])
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    styles = dict(np.load(folder / "voices.npz"))
    styles |= {name: (styles[one] + styles[other]) / 2 for name, (one, other) in MIXES.items()}

    def speaker(voice: str, accent: str, speed: float) -> Say:
        def say(text: str) -> Audio:
            phonemes = _phonemes(text, accent) + ("?" if text.endswith("?") else ".")
            tokens = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary]
            feed = {"tokens": np.array([[0, *tokens, 0]], np.int64), "speed": np.array([speed], np.float32),
                    "style": styles[voice][len(tokens) - 1].reshape(1, 256).astype(np.float32)}  # fmt: skip
            return Audio(session.run(None, feed)[0].ravel().astype(np.float32), 24_000)

        return say

    return speaker


def _phonemes(text: str, accent: str) -> str:
    """IPA as Kokoro spells it: one letter for a diphthong or an affricate."""
    command = ["espeak-ng", "-q", "--ipa=3", "--sep=", "-v", accent, text]
    ipa = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    long_er = "ɜɹ" if accent == "en-us" else "ɜː"
    spelling = {"_": "", "\u200d": "", "͡": "", "dʒ": "ʤ", "tʃ": "ʧ", "eɪ": "A", "aɪ": "I",
                "aʊ": "W", "ɔɪ": "Y", "oʊ": "O",
                "əʊ": "Q", "r": "ɹ", "ɐ": "ə", "ɚ": "əɹ", "ɜːɹ": "ɜɹ", "ɜː": long_er, "g": "ɡ"}  # fmt: skip
    for theirs, ours in spelling.items():
        ipa = ipa.replace(theirs, ours)
    return ipa


def piper(model: Path) -> Callable[[float, float], Say]:
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(model)

    def speaker(length_scale: float, noise_scale: float) -> Say:
        config = SynthesisConfig(length_scale=length_scale, noise_scale=noise_scale)

        def say(text: str) -> Audio:
            chunks = list(voice.synthesize(text, config))
            return Audio(np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate)

        return say

    return speaker


def espeak(voice: str, speed: int, pitch: int) -> Say:
    def say(text: str) -> Audio:
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
        return decode(subprocess.run(command, capture_output=True, check=True).stdout)

    return say


def store(audio: Audio, file: Path) -> None:
    """16-bit FLAC at 16 kHz, at the level of a near microphone."""
    samples = audio.at(RATE).samples
    samples = samples * np.float32(0.5 / max(0.01, float(np.abs(samples).max())))
    with av.open(str(file), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono", options={"compression_level": "12"})
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(Audio(samples, RATE).pcm16(), np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def framed(audio: Audio, seed: int) -> Audio:
    """The speech with some near-silence before and after it, as a microphone hears a sentence."""
    random = np.random.default_rng(seed)
    samples = audio.at(RATE).samples
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    speech = samples[loud[0] : loud[-1] + 1]
    before, after = random.uniform(0.15, 0.6, 2)
    framed = np.concatenate([np.zeros(int(before * RATE), np.float32), speech, np.zeros(int(after * RATE), np.float32)])
    floor: Samples = (random.standard_normal(len(framed)) * np.abs(speech).max() * 10 ** (-60 / 20)).astype(np.float32)
    return Audio(framed + floor, RATE)


def recordings(folder: Path) -> Iterator[Row]:
    for number, (name, start, end, text, split) in enumerate(CUTS):
        audio = decode(folder / name)
        file = f"real/{Path(name).stem}-{number:02d}.flac"
        if not (HERE / file).exists():
            store(Audio(audio.samples[int(start * RATE) : int(end * RATE)], RATE), HERE / file)
        yield Row(file, text, "en", "real", Path(name).stem.split("-")[0], split)
    spoken = [each for each in sorted(folder.glob("audioeval/*/*.wav")) if each.stem not in COUNTING]
    for number, source in enumerate(spoken):
        language = source.parent.name
        file = f"real/{language}-{source.stem}.flac"
        if not (HERE / file).exists():
            store(decode(source), HERE / file)
        text = source.with_suffix(".txt").read_text(encoding="utf-8").strip()
        yield Row(file, text, language, "unknown", f"audioeval-{language}", ("tune", "held-out")[number % 2])


def speakers(piper_model: Path, kokoro_folder: Path) -> dict[str, list[tuple[str, Say]]]:
    """Per split, who speaks in turn: of sixteen sentences Kokoro eleven, Piper three, espeak-ng two."""
    joe, voices = piper(piper_model), kokoro(kokoro_folder)
    found = {}
    for split in ("tune", "held-out"):
        neural = [(f"kokoro-{name}-{accent}", voices(name, accent, speed)) for name, accent, speed in KOKORO[split]]
        joes = [(f"piper-joe-{scale:g}", joe(scale, noise)) for scale, noise in PIPER[split]]
        formant = [(f"espeak-{name}", espeak(name, speed, pitch)) for name, speed, pitch in ESPEAK[split]]
        turns = [neural[0], neural[1], joes[0], neural[2], formant[0], neural[3], neural[4], joes[1]]
        turns += [neural[0], formant[1], neural[1], neural[2], joes[2], neural[3], neural[5], neural[4]]
        found[split] = turns
    return found


def made(turns: dict[str, list[tuple[str, Say]]]) -> Iterator[Row]:
    for number, text in enumerate((HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()):
        split = ("tune", "held-out")[number % 2]
        voice, say = turns[split][(number // 2) % len(turns[split])]
        file = f"made/{number:03d}-{voice}.flac"
        if not (HERE / file).exists():
            store(framed(say(text), number), HERE / file)
        yield Row(file, text, "en", "made", voice, split)


NOISES = [
    ("white", "20"),
    ("babble", "10"),
    ("pink", "10"),
    ("room", ""),
    ("babble", "20"),
    ("pink", "5"),
    ("room", ""),
]


def noisy(rows: list[Row]) -> Iterator[Row]:
    """Every second English clip of neural or real voices again, in noise; each split in all kinds of noise."""
    for split in ("tune", "held-out"):
        chosen = [row for row in rows if row.split == split and row.language == "en" and "espeak" not in row.voice]
        for number, row in enumerate(chosen[::2]):
            noise, snr = NOISES[number % len(NOISES)]
            yield replace(row, noise=noise, snr=snr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--piper", "--kokoro", "--recordings"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    for folder in ("real", "made"):
        (HERE / folder).mkdir(exist_ok=True)
    rows = [*recordings(options.recordings), *made(speakers(options.piper, options.kokoro))]
    rows += noisy(rows)
    with (HERE / "clips.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow([field.name for field in fields(Row)])
        table.writerows(astuple(row) for row in rows)


if __name__ == "__main__":
    main()
