"""Makes `commands/` and `commands.tsv`: the commands of `commands.txt`, each from its first sound to its last.

    python tests/corpus/make_commands.py --piper VOICE.onnx --kokoro FOLDER

`--kokoro`: as for `make.py`. Needs espeak-ng 1.51, onnxruntime and piper-tts. Clips already there are kept.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from make import HERE, Say, espeak, kokoro, piper, store

from chatapi.audio import Audio


def speakers(piper_model: Path, kokoro_folder: Path) -> list[tuple[str, str, Say]]:
    """Voice, split and speaker."""
    joe, voices = piper(piper_model), kokoro(kokoro_folder)
    return [
        ("piper-joe-1", "tune", joe(1.0, 0.667)),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--piper", "--kokoro"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    (HERE / "commands").mkdir(exist_ok=True)
    with (HERE / "commands.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("file", "text", "voice", "split"))
        for voice, split, say in speakers(options.piper, options.kokoro):
            for number, text in enumerate((HERE / "commands.txt").read_text(encoding="utf-8").splitlines()):
                name = f"commands/{number:02d}-{voice}.flac"
                if not (HERE / name).exists():
                    store(tight(say(text), voice.startswith("kokoro")), HERE / name)
                table.writerow((name, text, voice, split))


if __name__ == "__main__":
    main()
