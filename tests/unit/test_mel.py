"""Mel spectrograms: the power against the magnitude's square, and one thread for NumPy's matrix products."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from chatapi.audio.mel import FFT, HOP, log_mel, mel_filters, power

THREADS = "import chatapi, numpy, os; print(len(os.listdir('/proc/self/task')))"
"""Prints the number of threads once NumPy is imported."""


@pytest.mark.parametrize("shape", [(1, FFT), (50, FFT), (3, 7, 512)])
def test_power_is_the_square_of_the_magnitude(shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    wanted = np.abs(np.fft.rfft(frames.astype(np.float64))) ** 2
    found = power(frames)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5 * wanted.max())


def test_spectrogram_is_that_of_the_definition() -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    filters = mel_filters(80)
    mirrored = np.pad(samples.astype(np.float64), FFT // 2, mode="reflect")
    frames = [mirrored[start : start + FFT] * np.hanning(FFT + 1)[:-1] for start in range(0, len(samples), HOP)]
    logs = np.log10(np.maximum(1e-10, filters @ (np.abs(np.fft.rfft(frames)) ** 2).T))
    wanted = (np.maximum(logs, logs.max() - 8) + 4) / 4
    assert np.abs(log_mel(samples, filters) - wanted).max() < 1e-4


@pytest.mark.parametrize(("configured", "threads"), [(None, 1), ("2", 2)])
def test_numpy_computes_on_one_thread_unless_the_user_wants_more(configured: str | None, threads: int) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if configured is not None:
        environ["OPENBLAS_NUM_THREADS"] = configured
    done = subprocess.run([sys.executable, "-c", THREADS], env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(threads, os.cpu_count() or 1)
