"""Selection of engines and models that the settings leave open, and of the model that `compile auto` compiles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from chatapi import catalog, settings
from chatapi.catalog.download import login
from chatapi.cli.check.finding import CheckContext
from chatapi.cli.check.models import compiled
from chatapi.errors import ModelError
from chatapi.runtime import engine_selection
from chatapi.system import jetson as board
from fake_jetson import ORIN_NX, write_files
from test_compiling import MANIFEST, STAND_IN, data, run

FREE = "MemTotal: 15000000 kB\nMemAvailable: 12000000 kB\nSwapFree: 0 kB\n"
__all__ = ["data"]
"""The fixture of test_compiling."""


@pytest.fixture
def make_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Returns a data directory with mlc models of these names and qualities, on a board with this memory."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(catalog, "SHIPPED", (data / "nothing",))

    def make(free: str = FREE, **qualities: int) -> Path:
        write_files(data / "root", {**ORIN_NX, "proc/meminfo": free})
        (data / "manifests/tiny-mlc.toml").unlink()
        for name, quality in qualities.items():
            manifest = MANIFEST.replace("tiny-mlc", f"{name}-mlc").replace("quality = 1", f"quality = {quality}")
            (data / "manifests" / f"{name}-mlc.toml").write_text(manifest)
        return data

    return make


def compile_model(data: Path, name: str, **versions: str) -> None:
    """Compiles a model and records other tool versions."""
    assert run(data, f"{name}-mlc") == 0
    file = data / "compiled" / f"{name}-mlc" / "made.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "versions": {**record["versions"], **versions}}))


def selected(data: Path, *values: str) -> tuple[str, str]:
    loaded = settings.load([*values, f"data={data}"], environ={}).settings
    llm = engine_selection.resolve_engines(loaded, data / "root").llm
    return llm.engine, llm.model


def check_messages(data: Path, *values: str) -> list[str]:
    context = CheckContext(settings.load([*values, f"data={data}"], environ={}).settings, data / "root")
    resolved = CheckContext(engine_selection.resolve_engines(context.settings, context.root), context.root)
    return [finding.message for finding in compiled(resolved)]


def test_configured_engine_and_model_are_used(make_data: Callable[..., Path]) -> None:
    folder = make_data(tiny=1)
    assert selected(folder, "llm.engine=fake") == ("fake", "auto")
    assert selected(folder, "llm.model=tiny-mlc") == ("mlc", "tiny-mlc")
    assert selected(folder, "llm.model=unknown") == ("llama_cpp", "unknown")


def test_without_a_compiled_model_llama_cpp_is_used_and_check_names_the_command(make_data: Callable[..., Path]) -> None:
    folder = make_data(tiny=1)
    assert selected(folder) == ("llama_cpp", "auto")
    (message,) = check_messages(folder)
    assert "chatapi compile auto" in message


@pytest.mark.slow
def test_best_loadable_compiled_model_is_selected(make_data: Callable[..., Path]) -> None:
    folder = make_data(small=1, large=5)
    compile_model(folder, "small")
    compile_model(folder, "large", mlc_llm="another version")
    assert selected(folder) == ("mlc", "small-mlc")


@pytest.mark.slow
def test_compiled_model_larger_than_the_memory_is_skipped_and_check_says_why(make_data: Callable[..., Path]) -> None:
    folder = make_data(tiny=1)
    compile_model(folder, "tiny")
    (folder / "root/proc/meminfo").write_text(FREE.replace("MemAvailable: 12000000", "MemAvailable: 500000"))
    assert selected(folder) == ("llama_cpp", "auto")
    (message,) = check_messages(folder)
    assert message.startswith("llama_cpp is used instead: tiny-mlc needs 0.7 GB and")


ASR_MANIFEST = """
name = "asr-model"
role = "asr"
engine = "whisper_cpp"
title = "ASR"
licence = "MIT"
homepage = "https://example.org"
languages = ["en"]
memory = 1_000_000_000
quality = 1
[files."w.bin"]
size = 1
[[sources]]
kind = "url"
files = { "w.bin" = "https://x.example/w" }
"""


@pytest.mark.slow
def test_compiled_model_that_does_not_fit_beside_the_others_is_skipped_for_a_smaller_one(
    make_data: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_data(small=1, large=5)
    large = folder / "manifests/large-mlc.toml"
    large.write_text(large.read_text().replace("700_000_000", "2_000_000_000"))
    compile_model(folder, "small")
    compile_model(folder, "large")
    (folder / "manifests/asr-model.toml").write_text(ASR_MANIFEST)
    (folder / "models/asr-model").mkdir(parents=True)
    (folder / "models/asr-model/w.bin").write_bytes(b"x")
    (folder / "models/asr-model/record.json").write_text('{"files": {"w.bin": {"size": 1, "sha256": "0"}}}')
    (folder / "root/proc/meminfo").write_text("MemTotal: 3600000 kB\nMemAvailable: 2600000 kB\nSwapFree: 0 kB\n")
    silent = ("tts.engine=fake", "vad.engine=fake", "asr.engine=whisper_cpp", "mlc.context=1024")
    with caplog.at_level("INFO", "chatapi.runtime.engine_selection"):
        assert selected(folder, *silent) == ("mlc", "small-mlc")
    (message,) = caplog.messages
    assert message.startswith("compiled model skipped: the models need 3.0 GB and 2.7 GB are free (llm large-mlc")
    # Beside a server that has its models in memory, all memory of the machine counts.
    loaded = settings.load([*silent, f"data={folder}"], environ={}).settings
    assert engine_selection.resolve_engines(loaded, folder / "root", free=12_000_000_000).llm.model == "large-mlc"


@pytest.mark.slow
def test_compiled_model_without_memory_for_one_context_is_skipped(make_data: Callable[..., Path]) -> None:
    folder = make_data(tiny=1)
    compile_model(folder, "tiny")
    assert selected(folder, "mlc.context=4096") == ("mlc", "tiny-mlc")
    assert selected(folder, "mlc.context=131072") == ("llama_cpp", "auto")


@pytest.mark.slow
def test_compiler_version_is_read_once_for_all_models(
    make_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_data(small=1, large=5)
    compile_model(folder, "small")
    compile_model(folder, "large")
    monkeypatch.setenv("STAND_IN_TVM", "0.28.0")
    assert selected(folder) == ("mlc", "large-mlc")


def test_compile_auto_selects_the_best_model_that_can_be_fetched_and_fits(
    make_data: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data(small=1, large=5, hidden=9)
    hidden = folder / "manifests/hidden-mlc.toml"
    hidden.write_text(hidden.read_text().replace("quality = 9", "quality = 9\nlogin = true"))
    large = folder / "manifests/large-mlc.toml"
    large.write_text(large.read_text().replace("kv_per_token = 131_072", "kv_per_token = 13_107_200"))
    assert board.find(folder / "root") is not None
    run(folder, "auto", "--plan")
    assert capsys.readouterr().out.startswith("small-mlc for NVIDIA")


@pytest.mark.slow
def test_compile_auto_skips_a_model_whose_login_is_rejected(
    make_data: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_data(small=1, hidden=9)
    hidden = folder / "manifests/hidden-mlc.toml"
    rejected = hidden.read_text().replace("../source", "../nothing")
    hidden.write_text(rejected.replace("quality = 9", "quality = 9\nlogin = true"))
    monkeypatch.setenv("HF_TOKEN", " ")
    run(folder, "auto", "--plan")
    assert capsys.readouterr().out.startswith("small-mlc for NVIDIA")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert run(folder, "auto") == 0
    assert "hidden-mlc is skipped: " in capsys.readouterr().err
    assert selected(folder) == ("mlc", "small-mlc")
    hidden.write_text(rejected)
    with pytest.raises(ModelError, match="nothing"):
        run(folder, "auto", "--force")


def test_hugging_face_token_is_sent_only_to_its_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert login("https://huggingface.co/a/b") == {"Authorization": "Bearer hf_x"}
    for other in ("http://huggingface.co/a", "https://huggingface.co.example.org/a", "https://cdn.example.org/a"):
        assert login(other) == {}
    monkeypatch.setenv("HF_TOKEN", "with\nlines")
    assert login("https://huggingface.co/a/b") == {}


def asr_engine(data: Path, *values: str, board: bool = False) -> str:
    loaded = settings.load([*values, "vad.engine=fake", "llm.engine=fake", f"data={data}"], environ={}).settings
    root = data / ("board" if board else "laptop")
    return engine_selection.resolve_engines(
        loaded, write_files(root, {**(ORIN_NX if board else {}), "proc/meminfo": FREE})
    ).asr.engine


def test_fastest_asr_engine_of_the_machine_is_selected(tmp_path: Path) -> None:
    assert asr_engine(tmp_path) == "ctranslate2"
    assert asr_engine(tmp_path, board=True) == "whisper_cpp"


def test_configured_asr_model_selects_its_engine(tmp_path: Path) -> None:
    assert asr_engine(tmp_path, "asr.model=whisper-small") == "whisper_cpp"
    assert asr_engine(tmp_path, "asr.model=whisper-base-ct2", board=True) == "ctranslate2"
    assert asr_engine(tmp_path, "asr.engine=fake") == "fake"


def test_installed_asr_model_is_used_whatever_engine_it_needs(tmp_path: Path) -> None:
    for name in ("whisper-tiny.en", "whisper-tiny.en-ct2", "whisper-small"):
        files = catalog.Catalog(tmp_path).get(name).files
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        recorded = {file: {"size": 1, "sha256": "0" * 64} for file in files}
        (folder / "record.json").write_text(json.dumps({"files": recorded}))
        for file in files:
            (folder / file).write_bytes(b"x")
        best = "ctranslate2" if name.endswith("ct2") else "whisper_cpp"
        assert asr_engine(tmp_path) == best
    assert asr_engine(tmp_path, board=True) == "whisper_cpp"


@pytest.mark.anyio
async def test_slow_selection_can_be_cancelled(tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / "slow.toml"
    manifest.parent.mkdir()
    os.mkfifo(manifest)
    configured = settings.load([f"data={tmp_path}"], environ={}).settings
    with anyio.move_on_after(0.1) as waiting:
        await engine_selection.resolve_engines_async(configured)
    assert waiting.cancelled_caught
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(manifest.write_text, "", abandon_on_cancel=True)
