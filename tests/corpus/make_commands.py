"""Makes `commands/` and `commands.tsv`: the commands of `commands.txt`, each from its first sound to its last.

    python tests/corpus/make_commands.py --piper VOICE.onnx --kokoro FOLDER --recordings FOLDER

`--kokoro`: as for `make.py`. `--recordings`: the folder en_US_f_Allison of Debian's asterisk-core-sounds-en-g722. Needs
espeak-ng 1.51, flite 2.2, festival 2.5 with the voices of festvox-kallpc16k, festvox-kdlpc16k and festvox-us-slt-hts,
and from PyPI onnxruntime, piper-tts and py-nanotts. Clips already there are kept.

README.md says how the voices of the two sets were chosen.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
from make import HERE, Say, espeak, kokoro, piper, store

from chatapi.audio import RATE, Audio
from chatapi.audio.decode import decode

HARD_WORDS = 16
"""The hard voices say the first of the commands only."""
RECORDED = (
    ("digits/2", "Two."), ("digits/7", "Seven."), ("hello", "Hello."), ("vm-goodbye", "Goodbye."), ("vm-no", "No."),
    ("digits/9", "Nine."), ("dictate/pause", "Pause."), ("digits/today", "Today."), ("time", "Time."),
    ("digits/tomorrow", "Tomorrow."), ("digits/yesterday", "Yesterday."), ("digits/3", "Three."),
    ("digits/5", "Five."), ("digits/6", "Six."), ("digits/8", "Eight."),
)  # fmt: skip
"""Prompts of a telephone exchange that are single words, and their texts."""
SPLITS = ("tune", "held-out")
"""Of the clear voices, which are chosen by every second word."""


def clear_speakers(piper_model: Path) -> list[tuple[str, Say]]:
    """Voice and speaker, of the synthesizers."""
    return [
        ("piper-joe-1", piper(piper_model)(1.0, 0.667)),
        ("flite-rms", flite("rms")),
        ("flite-kal16", flite("kal16")),
        ("festival-ked_diphone", festival("ked_diphone")),
        ("festival-kal_diphone", festival("kal_diphone")),
        ("festival-cmu_us_slt_arctic_hts", festival("cmu_us_slt_arctic_hts")),
        ("pico-en-GB", pico("en-GB")),
        ("pico-en-US", pico("en-US")),
    ]


def hard_speakers(piper_model: Path, kokoro_folder: Path) -> list[tuple[str, str, Say]]:
    """Voice, split and speaker."""
    joe, voices = piper(piper_model), kokoro(kokoro_folder)
    return [
        ("kokoro-jf_alpha", "tune", voices("jf_alpha", "en-us", 1.0)),
        ("kokoro-nezumi_kumo", "tune", voices("nezumi_kumo", "en-gb", 0.95)),
        ("espeak-en-us", "tune", espeak("en-us", 155, 45)),
        ("piper-joe-0.9", "held-out", joe(0.9, 0.5)),
        ("piper-joe-1.15", "held-out", joe(1.15, 0.8)),
        ("kokoro-jf_tebukuro", "held-out", voices("jf_tebukuro", "en-us", 1.0)),
        ("kokoro-jf_gongitsune", "held-out", voices("jf_gongitsune", "en-us", 1.0)),
        ("kokoro-gongitsune_nezumi", "held-out", voices("gongitsune_nezumi", "en-gb", 1.1)),
        ("kokoro-alpha_nezumi", "held-out", voices("alpha_nezumi", "en-us", 1.05)),
        ("espeak-en-gb", "held-out", espeak("en-gb", 150, 40)),
        ("espeak-en-gb+f3", "held-out", espeak("en-gb+f3", 150, 55)),
    ]


def flite(voice: str) -> Say:
    def say(text: str) -> Audio:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True)
            return decode(Path(file.name))

    return say


def festival(voice: str) -> Say:
    def say(text: str) -> Audio:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            command = ["text2wave", "-eval", f"(voice_{voice})", "-o", file.name]
            subprocess.run(command, input=text, text=True, check=True)
            return decode(Path(file.name))

    return say


def pico(voice: str) -> Say:
    from py_nanotts import NanoTTS

    def say(text: str) -> Audio:
        spoken = np.frombuffer(NanoTTS().speak(text, voice=voice), np.int16)
        return Audio(spoken.astype(np.float32) / 32768, RATE)

    return say


def recorded(file: Path) -> Audio:
    """A prompt: G.722 without a container, 16 kHz."""
    with av.open(str(file), format="g722") as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return Audio(np.concatenate(frames).astype(np.float32) / 32768, RATE)


def tight(audio: Audio, clicks: bool) -> Audio:
    """From the first 10 ms with sound to the last: 40 dB below the loudest.

    `clicks`: whether it is by Kokoro, whose int8 network overflows in short words: in the silence of the first and the
    last 50 ms, which are left out, and elsewhere in clicks of a millisecond, which medians do not show. The other
    voices begin to speak at once, and the burst of their `t` or `k` is as short as such a click.
    """
    step = audio.rate // 100
    samples = audio.samples[5 * step : -5 * step] if clicks else audio.samples
    samples = samples[: len(samples) // step * step]
    frames = samples.reshape(-1, step)
    levels = np.median(np.abs(frames), axis=1) if clicks else np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(levels > 0.01 * levels.max())
    return Audio(samples[loud[0] * step : (loud[-1] + 1) * step], audio.rate)


def clip(number: int, voice: str, audio: Callable[[], Audio], clicks: bool = False) -> str:
    """The name of a clip, which is made unless it exists."""
    name = f"commands/{number:02d}-{voice}.flac"
    if not (HERE / name).exists():
        store(tight(audio(), clicks), HERE / name)
    return name


def rows(options: argparse.Namespace) -> Iterator[tuple[str, str, str, str, str]]:
    """File, text, voice, set and split."""
    texts = list(enumerate((HERE / "commands.txt").read_text(encoding="utf-8").splitlines()))
    for voice, say in clear_speakers(options.piper):
        for number, text in texts:
            yield clip(number, voice, partial(say, text)), text, voice, "clear", SPLITS[number % 2]
    for number, (name, text) in enumerate(RECORDED):
        audio = partial(recorded, options.recordings / f"{name}.g722")
        yield clip(number, "asterisk-en_US", audio), text, "asterisk-en_US", "clear", SPLITS[number % 2]
    for voice, split, say in hard_speakers(options.piper, options.kokoro):
        for number, text in texts[:HARD_WORDS]:
            yield clip(number, voice, partial(say, text), voice.startswith("kokoro")), text, voice, "hard", split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--piper", "--kokoro", "--recordings"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    (HERE / "commands").mkdir(exist_ok=True)
    with (HERE / "commands.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("file", "text", "voice", "set", "split"))
        table.writerows(rows(options))


if __name__ == "__main__":
    main()
