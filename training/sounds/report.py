"""Judges made minutes with the small sound detector and both of OrcaHello's rules, and adds the figures to OUT.

    python training/sounds/report.py OUT [--minutes 60] [--seed 5000]

OUT/made-calls.onnx: by `train.py`. Half of the minutes have 2 to 6 calls at 3 to 20 dB above the noise. Adds to
OUT/figures.json. Needs onnxruntime only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ocean
import soxr

from chatapi.engines import SOUND_RATE, SoundOptions
from chatapi.engines.cancellation import never
from chatapi.engines.sound_detector import orcahello
from chatapi.engines.sound_detector.orcahello_onnx import OrcaHelloDetector
from chatapi.services.stream_monitoring.decision import OldRule, V1Rule
from chatapi.settings import Settings

SECONDS = 60
RULES = {orcahello.OLD: OldRule(), orcahello.V1: V1Rule()}


def judged(detector: OrcaHelloDetector, samples: Any, calls: list[tuple[float, float]]) -> dict[str, Any]:
    """For each generation whether the minute is positive, and of its windows how many are right at 0.5."""
    found: dict[str, Any] = {}
    for name, rule in RULES.items():
        windows = list(detector.detect(samples, never, SoundOptions(name)))
        scores = [each.scores[detector.target] for each in windows]
        decision = rule.decide(scores, [each.start for each in windows], windows[0].duration, SECONDS)
        counts = [0, 0, 0, 0]
        for each, score in zip(windows, scores, strict=True):
            end = each.start + each.duration
            heard = sum(max(0.0, min(end, last) - max(each.start, first)) for first, last in calls)
            if heard == 0 or heard >= 0.4:
                counts[2 * (heard > 0) + (score > 0.5)] += 1
        found[name] = (decision.positive, counts)
    return found


def summary(rows: list[tuple[bool, dict[str, Any]]], name: str) -> dict[str, Any]:
    positive = [(real, found[name][0]) for real, found in rows]
    right = sum(real and said for real, said in positive)
    said, real = sum(said for _, said in positive), sum(real for real, _ in positive)
    counts = np.sum([found[name][1] for _, found in rows], axis=0)
    return {
        "minutes": len(rows),
        "precision": round(right / max(1, said), 3),
        "recall": round(right / max(1, real), 3),
        "false minutes": int(said - right),
        "windows with a call found": round(float(counts[3] / max(1, counts[2] + counts[3])), 3),
        "windows of noise rejected": round(float(counts[0] / max(1, counts[0] + counts[1])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=5000)
    chosen = parser.parse_args()
    model = SimpleNamespace(files={"made-calls.onnx": chosen.out / "made-calls.onnx"})
    detector = OrcaHelloDetector(Settings(data=chosen.out), [model])  # type: ignore[list-item]
    random, rows, spent = np.random.default_rng(chosen.seed), [], 0.0
    for number in range(chosen.minutes):
        wave, calls = ocean.clip(random, SECONDS, int(random.integers(2, 7)) if number % 2 else 0, (3, 20))
        wave *= 10 ** random.uniform(-2.5, -1) / max(1.0, np.abs(wave).max() / 10)
        samples = soxr.resample(np.clip(wave, -1, 1).astype(np.float32), ocean.RATE, SOUND_RATE)
        began = time.process_time()
        rows.append((bool(calls), judged(detector, samples, calls)))
        spent += time.process_time() - began
    about = json.loads((chosen.out / "figures.json").read_text())
    about["made minutes of another seed"] = {name: summary(rows, name) for name in RULES}
    about["cpu seconds for a minute, both generations"] = round(spent / chosen.minutes, 2)
    (chosen.out / "figures.json").write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
