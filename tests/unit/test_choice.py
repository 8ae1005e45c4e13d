"""The engine that answers where the settings leave it open, and the model that is compiled where none is named."""

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
from test_board import ORIN_NX, written
from test_compiling import MANIFEST, STAND_IN, data, run

FREE = "MemTotal: 15000000 kB\nMemAvailable: 12000000 kB\nSwapFree: 0 kB\n"


__all__ = ["data"]
"""The fixture: a data directory with the source of models, and a stand-in for mlc_llm."""


@pytest.fixture
def box(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The directory, with models of these names and qualities for the mlc engine, on a board with so much free."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(catalog, "SHIPPED", (data / "nothing",))

    def make(free: str = FREE, **qualities: int) -> Path:
        written(data / "root", {**ORIN_NX, "proc/meminfo": free})
        (data / "manifests/tiny-mlc.toml").unlink()
        for name, quality in qualities.items():
            told = MANIFEST.replace("tiny-mlc", f"{name}-mlc").replace("quality = 1", f"quality = {quality}")
            (data / "manifests" / f"{name}-mlc.toml").write_text(told)
        return data

    return make


def made(data: Path, name: str, **versions: str) -> None:
    """Compiled here; `versions`: as if by other tools."""
    assert run(data, f"{name}-mlc") == 0
    file = data / "compiled" / f"{name}-mlc" / "made.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "versions": {**told["versions"], **versions}}))


def chosen(data: Path, *values: str) -> tuple[str, str]:
    loaded = settings.load([*values, f"data={data}"], environ={}).settings
    llm = engine_selection.resolve_engines(loaded, data / "root").llm
    return llm.engine, llm.model


def told(data: Path, *values: str) -> list[str]:
    scene = CheckContext(settings.load([*values, f"data={data}"], environ={}).settings, data / "root")
    settled = CheckContext(engine_selection.resolve_engines(scene.settings, scene.root), scene.root)
    return [finding.told for finding in compiled(settled)]


def test_what_is_named_stays(box: Callable[..., Path]) -> None:
    folder = box(tiny=1)
    assert chosen(folder, "llm.engine=fake") == ("fake", "auto")
    assert chosen(folder, "llm.model=tiny-mlc") == ("mlc", "tiny-mlc")
    assert chosen(folder, "llm.model=of-nobody") == ("llama_cpp", "of-nobody")


def test_without_a_compiled_model_llama_cpp_answers_and_check_says_what_to_do(box: Callable[..., Path]) -> None:
    folder = box(tiny=1)
    assert chosen(folder) == ("llama_cpp", "auto")
    (one,) = told(folder)
    assert "chatapi compile auto" in one


def test_the_best_compiled_model_that_can_be_loaded_answers(box: Callable[..., Path]) -> None:
    folder = box(small=1, large=5)
    made(folder, "small")
    made(folder, "large", mlc_llm="of another time")
    assert chosen(folder) == ("mlc", "small-mlc")


def test_one_that_does_not_fit_the_memory_is_passed_over_and_check_says_why(box: Callable[..., Path]) -> None:
    folder = box(tiny=1)
    made(folder, "tiny")
    (folder / "root/proc/meminfo").write_text(FREE.replace("MemAvailable: 12000000", "MemAvailable: 500000"))
    assert chosen(folder) == ("llama_cpp", "auto")
    (one,) = told(folder)
    assert one.startswith("llama_cpp is used instead: tiny-mlc needs 0.7 GB and")


EARS = """
name = "ears"
role = "asr"
engine = "whisper_cpp"
title = "Ears"
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


def test_one_that_does_not_fit_beside_the_other_models_is_passed_over_for_one_that_does(
    box: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = box(small=1, large=5)
    large = folder / "manifests/large-mlc.toml"
    large.write_text(large.read_text().replace("700_000_000", "2_000_000_000"))
    made(folder, "small")
    made(folder, "large")
    (folder / "manifests/ears.toml").write_text(EARS)
    (folder / "models/ears").mkdir(parents=True)
    (folder / "models/ears/w.bin").write_bytes(b"x")
    (folder / "models/ears/record.json").write_text('{"files": {"w.bin": {"size": 1, "sha256": "0"}}}')
    (folder / "root/proc/meminfo").write_text("MemTotal: 3600000 kB\nMemAvailable: 2600000 kB\nSwapFree: 0 kB\n")
    silent = ("tts.engine=fake", "vad.engine=fake", "asr.engine=whisper_cpp", "mlc.context=1024")
    with caplog.at_level("INFO", "chatapi.runtime.engine_selection"):
        assert chosen(folder, *silent) == ("mlc", "small-mlc")
    (one,) = caplog.messages
    assert one.startswith("compiled model skipped: the models need 3.0 GB and 2.7 GB are free (llm large-mlc")
    # Beside a server that has its models in memory all of the machine's counts.
    loaded = settings.load([*silent, f"data={folder}"], environ={}).settings
    assert engine_selection.resolve_engines(loaded, folder / "root", free=12_000_000_000).llm.model == "large-mlc"


def test_one_that_could_not_remember_one_context_is_passed_over(box: Callable[..., Path]) -> None:
    folder = box(tiny=1)
    made(folder, "tiny")
    assert chosen(folder, "mlc.context=4096") == ("mlc", "tiny-mlc")
    assert chosen(folder, "mlc.context=131072") == ("llama_cpp", "auto")


def test_the_compiler_is_asked_once_however_many_models_are_looked_at(
    box: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = box(small=1, large=5)
    made(folder, "small")
    made(folder, "large")
    monkeypatch.setenv("STAND_IN_TVM", "0.28.0")
    assert chosen(folder) == ("mlc", "large-mlc")


def test_compile_auto_takes_the_best_that_can_be_fetched_and_fits(
    box: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = box(small=1, large=5, hidden=9)
    hidden = folder / "manifests/hidden-mlc.toml"
    hidden.write_text(hidden.read_text().replace("quality = 9", "quality = 9\nlogin = true"))
    large = folder / "manifests/large-mlc.toml"
    large.write_text(large.read_text().replace("kv_per_token = 131_072", "kv_per_token = 13_107_200"))
    assert board.find(folder / "root") is not None
    run(folder, "auto", "--plan")
    assert capsys.readouterr().out.startswith("small-mlc for NVIDIA")


def test_compile_auto_goes_on_past_a_model_whose_owner_lets_nobody_in(
    box: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = box(small=1, hidden=9)
    hidden = folder / "manifests/hidden-mlc.toml"
    barred = hidden.read_text().replace("../source", "../nothing")
    hidden.write_text(barred.replace("quality = 9", "quality = 9\nlogin = true"))
    monkeypatch.setenv("HF_TOKEN", " ")
    run(folder, "auto", "--plan")
    assert capsys.readouterr().out.startswith("small-mlc for NVIDIA")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert run(folder, "auto") == 0
    assert "hidden-mlc is skipped: " in capsys.readouterr().err
    assert chosen(folder) == ("mlc", "small-mlc")
    hidden.write_text(barred)
    with pytest.raises(ModelError, match="nothing"):
        run(folder, "auto", "--force")


def test_the_token_goes_to_its_own_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert login("https://huggingface.co/a/b") == {"Authorization": "Bearer hf_x"}
    for other in ("http://huggingface.co/a", "https://huggingface.co.example.org/a", "https://cdn.example.org/a"):
        assert login(other) == {}
    monkeypatch.setenv("HF_TOKEN", "with\nlines")
    assert login("https://huggingface.co/a/b") == {}


def recogniser(data: Path, *values: str, board: bool = False) -> str:
    loaded = settings.load([*values, "vad.engine=fake", "llm.engine=fake", f"data={data}"], environ={}).settings
    root = data / ("board" if board else "laptop")
    return engine_selection.resolve_engines(
        loaded, written(root, {**(ORIN_NX if board else {}), "proc/meminfo": FREE})
    ).asr.engine


def test_speech_is_understood_by_what_is_fastest_here(tmp_path: Path) -> None:
    assert recogniser(tmp_path) == "ctranslate2"
    assert recogniser(tmp_path, board=True) == "whisper_cpp"


def test_a_recogniser_that_is_named_brings_its_engine(tmp_path: Path) -> None:
    assert recogniser(tmp_path, "asr.model=whisper-small") == "whisper_cpp"
    assert recogniser(tmp_path, "asr.model=whisper-base-ct2", board=True) == "ctranslate2"
    assert recogniser(tmp_path, "asr.engine=fake") == "fake"


def test_what_is_here_is_used_whichever_engine_it_needs(tmp_path: Path) -> None:
    for name in ("whisper-tiny.en", "whisper-tiny.en-ct2", "whisper-small"):
        files = catalog.Catalog(tmp_path).get(name).files
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        kept = {file: {"size": 1, "sha256": "0" * 64} for file in files}
        (folder / "record.json").write_text(json.dumps({"files": kept}))
        for file in files:
            (folder / file).write_bytes(b"x")
        best = "ctranslate2" if name.endswith("ct2") else "whisper_cpp"
        assert recogniser(tmp_path) == best
    assert recogniser(tmp_path, board=True) == "whisper_cpp"


@pytest.mark.anyio
async def test_whoever_waits_for_a_long_look_can_leave(tmp_path: Path) -> None:
    slow = tmp_path / "manifests" / "slow.toml"
    slow.parent.mkdir()
    os.mkfifo(slow)
    chosen = settings.load([f"data={tmp_path}"], environ={}).settings
    with anyio.move_on_after(0.1) as waiting:
        await engine_selection.resolve_engines_async(chosen)
    assert waiting.cancelled_caught
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(slow.write_text, "", abandon_on_cancel=True)
