"""The shipped sound detector on made minutes with known calls, by both rules, and through `chatapi monitor`.

The sounds are those of `training/sounds/ocean.py`, with seeds that the training does not use.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr

from chatapi.audio import Audio, wav
from chatapi.engines import SOUND_RATE, SoundOptions, never
from chatapi.engines.sound_detector import orcahello
from chatapi.engines.sound_detector.orcahello_onnx import OrcaHelloDetector
from chatapi.errors import ModelError, Unprocessable
from chatapi.services.stream_monitoring.decision import OldRule, Rule, V1Rule
from chatapi.settings import Settings
from paths import ROOT

MODEL = ROOT / "models" / "made-calls.onnx"


def load_ocean() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ocean", ROOT / "training" / "sounds" / "ocean.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OCEAN = load_ocean()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> OrcaHelloDetector:
    found = SimpleNamespace(files={MODEL.name: MODEL})
    return OrcaHelloDetector(Settings(data=tmp_path_factory.mktemp("data")), [found])  # type: ignore[list-item]


def minute(seed: int, calls: int, seconds: float = 60) -> np.ndarray:
    """Made sound at SOUND_RATE with so many calls, 10 to 20 dB above the noise."""
    wave, _ = OCEAN.clip(np.random.default_rng(seed), seconds, calls, (10, 20))
    wave *= 0.03 / np.sqrt(np.mean(wave**2))
    return np.asarray(soxr.resample(np.clip(wave, -1, 1).astype(np.float32), OCEAN.RATE, SOUND_RATE))


@pytest.mark.parametrize(("front_end", "rule"), [(orcahello.OLD, OldRule()), (orcahello.V1, V1Rule())])
def test_minutes_with_calls_are_told_from_minutes_without(
    detector: OrcaHelloDetector, front_end: str, rule: Rule
) -> None:
    said: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(9000, 9012):
        real = seed % 2 == 1
        windows = list(detector.detect(minute(seed, 4 if real else 0), never, SoundOptions(front_end)))
        scores = [each.scores[detector.target] for each in windows]
        decision = rule.decide(scores, [each.start for each in windows], windows[0].duration, 60)
        said[real].append(decision.positive)
    assert sum(said[True]) >= 5
    assert sum(said[False]) <= 1


def test_the_model_is_small_and_says_what_it_is(detector: OrcaHelloDetector) -> None:
    assert MODEL.stat().st_size < 1_000_000
    assert detector.labels == ("other", "call") and detector.target == 1
    with pytest.raises(Unprocessable, match="no front end 'x'"):
        list(detector.detect(minute(1, 0, 5), never, SoundOptions("x")))


def test_batches_do_not_change_scores(detector: OrcaHelloDetector) -> None:
    sound = minute(9001, 2, 12)
    one = [each.scores for each in detector.detect(sound, never, SoundOptions(batch=1))]
    many = [each.scores for each in detector.detect(sound, never, SoundOptions(batch=16))]
    assert np.allclose(one, many, atol=1e-5) and len(one) == 5


def test_a_broken_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        OrcaHelloDetector(Settings(data=tmp_path), [SimpleNamespace(files={"x": tmp_path / "x.onnx"})])  # type: ignore[list-item]


def test_a_recording_is_monitored_from_a_fresh_installation(tmp_path: Path) -> None:
    data = ("--set", f"data={tmp_path / 'data'}")
    sound = np.concatenate([minute(9000, 0), minute(9001, 5)])
    (tmp_path / "made_2026_11_30_06_00_00_PST.wav").write_bytes(wav(Audio(sound, SOUND_RATE)))
    config = tmp_path / "config.yml"
    config.write_text("hls_hydrophone_id: made\nsource_files: made_2026_11_30_06_00_00_PST.wav\n")

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "chatapi", *words, *data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("models", "fetch", "made-calls")
    run("monitor", str(config))
    span = ("--from", "2026-11-30T14:00Z", "--to", "2026-11-30T14:02Z")
    found: list[dict[str, Any]] = json.loads(run("monitor", "report", "--json", *span))
    # V1's windows leave the last second of a minute.
    assert found[0]["scored_seconds"] == {"made-calls": pytest.approx(118, abs=0.01)}
    assert [each["name"] for each in found[0]["detections"]] == ["made_2026_11_30_06_01_00_PST"]
