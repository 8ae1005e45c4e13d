"""The Coqui engine: with coqui-tts and a tiny model when it is installed, otherwise with a stand-in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatapi.audio.loudness import LEVEL
from chatapi.catalog import InstalledModel
from chatapi.engines.registry import load
from chatapi.errors import EngineFailed, ModelError, SettingsError
from chatapi.settings import CoquiSettings, Settings
from coqui_model import RATE, STANDIN, coqui_installed, coqui_tts, make_model

CONSTRUCTOR_PARAMETERS = (
    "tts_checkpoint tts_config_path tts_speakers_file vocoder_checkpoint vocoder_config encoder_checkpoint "
    "encoder_config vc_checkpoint vc_config voice_dir use_cuda"
)
TTS_PARAMETERS = (
    "text speaker_name language_name speaker_wav style_wav style_text source_wav source_speaker_name split_sentences "
    "return_dict kwargs"
)
"""Parameters in coqui-tts 0.28.0, TTS/utils/synthesizer.py."""
TEXT = "One is here. Two is there."


@pytest.fixture(autouse=True)
def _coqui() -> Iterator[None]:
    with coqui_tts():
        yield


def engine(data: Path, *models: InstalledModel, **table: Any) -> Any:
    return load("tts", "coqui")(Settings(data=data, coqui=CoquiSettings(**table)), models)


def seconds(chunks: list[Any]) -> float:
    return float(sum(chunk.seconds for chunk in chunks))


def test_library_has_the_expected_parameters() -> None:
    from TTS.utils.synthesizer import Synthesizer

    assert " ".join(list(inspect.signature(Synthesizer.__init__).parameters)[1:]) == CONSTRUCTOR_PARAMETERS
    assert " ".join(list(inspect.signature(Synthesizer.tts).parameters)[1:]) == TTS_PARAMETERS


def test_sentences_are_chunks_of_equal_loudness_without_trailing_silence(tmp_path: Path) -> None:
    chunks = list(engine(tmp_path, make_model(tmp_path / "m")).synthesize(TEXT, "made"))
    assert [chunk.rate for chunk in chunks] == [RATE, RATE]
    for chunk in chunks:
        assert chunk.samples.dtype == np.float32
        assert chunk.samples[-1] != 0
        assert np.abs(chunk.samples).max() <= 1
    if not coqui_installed():
        assert all(abs(np.sqrt(np.mean(chunk.samples**2)) / LEVEL - 1) < 0.1 for chunk in chunks)


def test_multi_speaker_model_has_a_voice_for_each_speaker(tmp_path: Path) -> None:
    tts = engine(tmp_path, make_model(tmp_path / "m", speakers=("ann", "bob")))
    assert [voice.name for voice in tts.voices] == ["made/ann", "made/bob"]
    assert all(list(tts.synthesize(TEXT, voice.name)) for voice in tts.voices)


def test_an_archive_is_unpacked_once_into_the_data_directory(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", speakers=("ann",), archived=True)
    assert list(engine(tmp_path, model).synthesize(TEXT, "made/ann"))
    unpacked = tmp_path / "coqui" / "made" / "unpacked"
    assert sorted(path.name for path in unpacked.iterdir()) == ["config.json", "model_file.pth", "speaker_ids.json"]
    before = (unpacked / "model_file.pth").stat().st_mtime_ns
    engine(tmp_path, model)
    assert (unpacked / "model_file.pth").stat().st_mtime_ns == before


def test_several_models_are_several_voices(tmp_path: Path) -> None:
    models = [make_model(tmp_path / name, name=name) for name in ("a", "b", "c")]
    tts = engine(tmp_path, *models)
    assert all(list(tts.synthesize("Hello.", name)) for name in ("a", "b", "c", "a"))
    assert len(tts._loaded) == 2
    tts.close()
    assert not tts._loaded


def test_the_speed_of_the_settings_is_used(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    slow, fast = (seconds(list(engine(tmp_path, model, speed=speed).synthesize(TEXT, "made"))) for speed in (0.5, 2.0))
    assert slow > 2 * fast


def test_gpu_is_used_when_available_and_otherwise_reported(tmp_path: Path) -> None:
    import torch

    model = make_model(tmp_path / "m")
    if torch.cuda.is_available():
        assert engine(tmp_path, model)._cuda and not engine(tmp_path, model, device="cpu")._cuda
        return
    assert not engine(tmp_path, model)._cuda
    with pytest.raises(SettingsError, match=r"coqui\.device is cuda, but this torch has no working CUDA"):
        engine(tmp_path, model, device="cuda")


@pytest.mark.skipif(coqui_installed(), reason="the real torch reports whether there is CUDA")
def test_cuda_is_used_when_torch_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "available", True)
    [synthesizer] = engine(tmp_path, make_model(tmp_path / "m"))._loaded.values()
    assert synthesizer.use_cuda


def test_a_text_that_fails_is_reported(tmp_path: Path) -> None:
    tts = engine(tmp_path, make_model(tmp_path / "m"))
    with pytest.raises(EngineFailed, match="failed on 2 characters"):
        list(tts.synthesize("好。", "made"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model_file.pth", "broken", "cannot be loaded by Coqui TTS"),
        ("config.json", "{", "does not describe a Coqui model"),
        ("config.json", "{}", "does not describe a Coqui model: KeyError"),
    ],
)
def test_a_damaged_model_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    model = make_model(tmp_path / "m")
    model.files[file].write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        engine(tmp_path, model)


def test_damaged_archive_leaves_nothing_unpacked(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", archived=True)
    archive = model.files["model.zip"]
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ModelError, match="is not a whole archive of a Coqui model"):
        engine(tmp_path, model)
    assert not (tmp_path / "coqui" / "made" / "unpacked").exists()


def test_missing_model_or_files_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chatapi models"):
        engine(tmp_path)
    with pytest.raises(ModelError, match=r"needs a \.pth and a config\.json file; it has: x"):
        engine(tmp_path, InstalledModel("m", "tts", "coqui", tmp_path, {"x": tmp_path / "x"}, ("en",), 1, 1, {}))


@pytest.mark.skipif(coqui_installed(), reason="coqui-tts is installed")
def test_missing_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(STANDIN)])
    monkeypatch.delitem(sys.modules, "TTS", raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'chatapi-appliance\[coqui\]'"):
        load("tts", "coqui")
