"""whisper.cpp, beyond the engine contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.wer import words
from chatapi.engines.asr.whisper_cpp import WhisperCpp
from chatapi.errors import ModelError
from chatapi.settings import Settings
from conftest import installed_model
from paths import CORPUS

pytestmark = pytest.mark.real
REAL = CORPUS / "real"


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


def transcript(engine: WhisperCpp, samples: Samples, language: str | None = "en") -> str:
    return " ".join(segment.text for segment in engine.transcribe(samples, language))


@pytest.fixture(scope="module")
def english() -> WhisperCpp:
    return WhisperCpp(Settings(), [installed_model("whisper-tiny.en")])


def test_stop_during_encoding_leaves_the_engine_usable(english: WhisperCpp) -> None:
    speech = np.concatenate([clip(f"two_cities-{number:02}") for number in range(8)])[: 29 * RATE]
    calls = 0

    def stop_after(count: int) -> Callable[[], bool]:
        def stop() -> bool:
            nonlocal calls
            calls += 1
            return calls > count

        return stop

    assert list(english.transcribe(speech, "en", stop_after(10**9)))
    total_calls, calls = calls, 0
    assert list(english.transcribe(speech, "en", stop_after(total_calls // 20))) == []
    assert calls < total_calls // 20 + 10
    assert words(transcript(english, clip("en-hello_world"))) == ["hello", "world"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"lmgg" + bytes(1000)])
def test_invalid_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ggml.bin"
    file.write_bytes(content)

    broken = SimpleNamespace(name="broken", languages=("en",), files={"ggml.bin": file})
    with pytest.raises(ModelError) as caught:
        WhisperCpp(Settings(), [broken])
    assert str(file) in caught.value.message
