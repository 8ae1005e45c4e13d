"""Compiling a model: the real command lines, with a stand-in for mlc_llm."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import chatapi_compile
from chatapi import settings
from chatapi.catalog import Catalog
from chatapi.catalog import compiled as compiled_models
from chatapi.cli import compile as command
from chatapi.errors import BadInput, ChatapiError, ModelError, NotFound, StorageError, WrongMode
from chatapi.system import jetson
from chatapi_compile.run import DONE, LOG
from fake_jetson import ORIN_NX, write_files
from model_library import METADATA, fat_binary, library
from paths import SUPPORT

pytestmark = pytest.mark.slow
STAND_IN = SUPPORT / "mlc_llm_standin"
MACHINE = platform.machine()
NAME = "tiny-mlc"
MANIFEST = """
name = "tiny-mlc"
role = "llm"
engine = "mlc"
title = "Tiny"
licence = "MIT"
homepage = "https://example.org"
languages = ["en"]
memory = 700_000_000
quality = 1

[compile]
conv_template = "mistral_default"
quantizations = ["q4f16_1", "q4f16_ft"]
context_window_size = 4096
prefill_chunk_size = 1024
max_batch_size = 4
weights = 1_000_000
temporary = 1_000_000
kv_per_token = 131_072

[[compile.boards]]
memory_below = 10_000_000_000
context_window_size = 2048
prefill_chunk_size = 512
max_batch_size = 1

[files."config.json"]
at_most = 1000
[files."tokenizer.json"]
at_most = 1000
[files."model.safetensors"]
at_most = 100_000

[[sources]]
kind = "path"
path = "../source"
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the manifest and its source; installs the stand-in for mlc_llm."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / f"{NAME}.toml").write_text(MANIFEST)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "mistral", "vocab_size": 32000}))
    (source / "tokenizer.json").write_text("{}")
    (source / "model.safetensors").write_bytes(os.urandom(8192))
    (tmp_path / "stand_in.so").write_bytes(library(MACHINE))
    monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("STAND_IN_RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("STAND_IN_LIBRARY", str(tmp_path / "stand_in.so"))
    write_files(tmp_path / "root", ORIN_NX)
    compiled_models.find.cache_clear()
    return tmp_path


def update_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the stand-in report another TVM version."""
    monkeypatch.setenv("STAND_IN_TVM", "0.28.0")
    compiled_models.find.cache_clear()


def compile_plan(data: Path, quantization: str | None = None) -> chatapi_compile.CompilePlan:
    found, known = jetson.find(data / "root"), Catalog(data)
    assert found
    manifest, here = known.get(NAME), known.installed(NAME)
    return chatapi_compile.plan(
        chatapi_compile.CompileRequest(manifest, found, MACHINE, compiled_models.find(), data, here, quantization)
    )


def compile_model(data: Path) -> compiled_models.CompiledModel:
    return chatapi_compile.carry_out(compile_plan(data), lambda: Catalog(data).fetch(NAME), lambda _: None)


def commands_run(data: Path) -> list[list[str]]:
    """The command lines that were run."""
    record = data / "record"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def options(name: str, *flags: str) -> argparse.Namespace:
    """The options as the command line parses them."""
    given: dict[str, object] = {"name": name, "quantization": flags[1] if "--quantization" in flags else None}
    given |= {each: f"--{each}" in flags for each in ("plan", "verify", "force")}
    return argparse.Namespace(**given, if_wanted="--if-wanted" in flags)


def run(data: Path, *arguments: str, values: Sequence[str] = ()) -> int:
    loaded = settings.load([*values, f"data={data}"], environ={}).settings
    return command.compile_model(loaded, options(*arguments), data / "root")


def test_model_is_compiled_by_three_commands_with_a_record_of_the_versions(data: Path) -> None:
    model = compile_model(data)
    config, weights, build = commands_run(data)
    source, work = str(data / "models" / NAME), str(data / "compiled" / ".partial" / NAME)
    sizes = ["--context-window-size", "4096", "--prefill-chunk-size", "1024", "--max-batch-size", "4"]
    assert config == [
        "gen_config", source, "--quantization", "q4f16_1", "--conv-template", "mistral_default", *sizes,
        "--output", f"{work}/weights",
    ]  # fmt: skip
    assert weights == [
        "convert_weight", source, "--quantization", "q4f16_1", "--device", "cuda", "--output", f"{work}/weights",
    ]  # fmt: skip
    assert json.loads(build.pop(build.index("--device") + 1))["arch"] == "sm_87"
    assert build == [
        "compile", f"{work}/weights", "--quantization", "q4f16_1", "--device", "--host", f"{MACHINE}-linux-gnu",
        "--opt", "O2", "--overrides", "context_window_size=4096;prefill_chunk_size=1024;max_batch_size=4",
        "--output", f"{work}/lib.so",
    ]  # fmt: skip
    record = model.made()
    assert record["versions"]["tvm"] == "0.27.0+0123456789ab"
    assert (record["versions"]["tvm_ffi"], record["versions"]["mlc_llm"]) == ("0.1.15", "0.20.0")
    assert (record["manifest"], record["host"], record["cuda"]) == (NAME, f"{MACHINE}-linux-gnu", [12, 6, 68])
    assert record["metadata"]["quantization"] == "q4f16_1"
    assert not Path(work).exists()


@pytest.mark.parametrize("step", ["gen_config", "convert_weight", "compile"])
@pytest.mark.parametrize("how", ["loud", "kill", "silent"])
def test_failed_step_is_reported_and_resumed(data: Path, monkeypatch: pytest.MonkeyPatch, step: str, how: str) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", f"{step}:{how}")
    with pytest.raises(ModelError) as raised:
        compile_model(data)
    expected = {"loud": "ValueError: the reason of the failure", "kill": "memory runs out"}
    output = {"gen_config": "mlc-chat-config.json", "convert_weight": "list of weights", "compile": "model library"}
    assert raised.value.code == ("library_damaged" if (step, how) == ("gen_config", "silent") else "compile_failed")
    assert expected.get(how, output[step]) in raised.value.message
    assert not compiled_models.compiled(data, NAME).folder.exists()
    before = [line[0] for line in commands_run(data)]
    monkeypatch.delenv("STAND_IN_FAIL")
    assert compile_model(data).made()
    commands = ["gen_config", "convert_weight", "compile"]
    assert [line[0] for line in commands_run(data)] == [*before, *commands[commands.index(step) :]]


def test_error_names_the_log_and_the_command_that_resumes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", "compile:loud")
    with pytest.raises(ModelError, match=f"resume with: chatapi compile {NAME}") as raised:
        compile_model(data)
    log = data / "compiled" / ".partial" / NAME / LOG
    assert str(log) in raised.value.message
    assert "gen_config begins" in log.read_text()
    # Progress bars are shown, not logged.
    assert "50%|" not in log.read_text()


def test_changed_intermediate_result_is_rebuilt(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", "compile:loud")
    with pytest.raises(ModelError):
        compile_model(data)
    shard = data / "compiled" / ".partial" / NAME / "weights" / "params_shard_0.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    monkeypatch.delenv("STAND_IN_FAIL")
    model = compile_model(data)
    assert [line[0] for line in commands_run(data)][-2:] == ["convert_weight", "compile"]
    assert (model.weights / shard.name).read_bytes() == (data / "source" / "model.safetensors").read_bytes()


def test_another_compiler_version_starts_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", "compile:loud")
    with pytest.raises(ModelError):
        compile_model(data)
    monkeypatch.delenv("STAND_IN_FAIL")
    update_tvm(monkeypatch)
    compile_model(data)
    assert [line[0] for line in commands_run(data)][3:] == ["gen_config", "convert_weight", "compile"]


def test_library_with_source_only_is_rejected(data: Path) -> None:
    (data / "stand_in.so").write_bytes(library(MACHINE, b'extern "C" __global__ void k() {}'))
    with pytest.raises(ModelError, match="source only") as raised:
        compile_model(data)
    assert raised.value.code == "library_source_only"
    assert not compiled_models.compiled(data, NAME).folder.exists()
    (data / "stand_in.so").write_bytes(library(MACHINE))
    compile_model(data)
    assert [line[0] for line in commands_run(data)] == ["gen_config", "convert_weight", "compile", "compile"]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_command_and_keeps_finished_steps(data: Path, sent: signal.Signals) -> None:
    script = (
        "from argparse import Namespace; from pathlib import Path; from chatapi.settings import Settings\n"
        "from chatapi.cli.compile import compile_model\n"
        f"chosen = Namespace(name={NAME!r}, quantization=None)\n"
        "chosen.plan = chosen.verify = chosen.force = chosen.if_wanted = False\n"
        f"data = Path({str(data)!r}); compile_model(Settings(data=data), chosen, data / 'root')"
    )
    # A program started in the background ignores SIGINT.
    command = ["env", "--ignore-signal=INT", sys.executable, "-c", script]
    environment = {**os.environ, "STAND_IN_HANG": "convert_weight"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        until(lambda: (data / "record.hangs").exists())
        with pytest.raises(WrongMode, match="is compiling already"):
            compile_model(data)
        assert int((data / "compiled" / ".lock").read_text()) == process.pid
        child = int((data / "record.hangs").read_text())
        process.send_signal(sent)
        try:
            output = process.communicate(timeout=60)[1].decode()
        finally:
            process.kill()
    assert f"stopped; resume with: chatapi compile {NAME}" in output
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert compile_model(data).made()
    assert [line[0] for line in commands_run(data)] == ["gen_config", "convert_weight", "convert_weight", "compile"]


def test_lock_of_an_orphaned_command_blocks_other_compilations(data: Path) -> None:
    folder = data / "compiled"
    folder.mkdir()
    with (folder / ".lock").open("w") as held:
        held.write("4711\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WrongMode, match="process 4711 is compiling already"):
            compile_model(data)


def test_the_command_prints_the_plan_compiles_once_and_verifies(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "tiny", "--plan") == 0
    output = capsys.readouterr().out
    assert "sm_87" in output and "GB while quantizing" in output and "convert_weight" in output
    assert commands_run(data) == []
    assert run(data, NAME) == 0
    assert run(data, "tiny") == 0
    assert "is compiled; --force" in capsys.readouterr().out
    assert len(commands_run(data)) == 3
    assert run(data, NAME, "--force") == 0
    assert len(commands_run(data)) == 6
    assert run(data, NAME, "--verify") == 0
    output = capsys.readouterr().out
    assert f"host: {MACHINE}" in output and "mistral, q4f16_1" in output and "can run on this machine" in output


def test_model_of_another_tvm_version_is_compiled_again(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(data, NAME) == 0
    update_tvm(monkeypatch)
    assert run(data, NAME, "--verify") == 1
    assert "made by tvm 0.27.0+0123456789ab and this machine has 0.28.0" in capsys.readouterr().out
    assert run(data, NAME) == 0
    assert "compiled before, but" in capsys.readouterr().out
    assert len(commands_run(data)) == 6


@pytest.mark.parametrize("value", ["llm.engine=openai_upstream", "llm.model=mine"])
def test_nothing_is_compiled_when_the_settings_select_another_model(data: Path, value: str) -> None:
    assert run(data, NAME, "--if-wanted", values=[value]) == 0
    assert not commands_run(data)
    assert run(data, NAME, "--if-wanted") == 0
    assert commands_run(data)


def small_board(data: Path, **changed: str) -> None:
    memory = {"MemTotal": "7800000", "MemAvailable": "6800000", "SwapFree": "0", **changed}
    (data / "root/proc/meminfo").write_text("".join(f"{key}: {value} kB\n" for key, value in memory.items()))


def test_a_board_with_less_memory_gets_less_context(data: Path) -> None:
    small_board(data)
    assert compile_plan(data).limits.context_window_size == 2048


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MemAvailable": "1000000"}, "quantizing tiny-mlc takes 1.5 GB of memory, and 1.0 GB are free"),
        ({"MemTotal": "600000"}, "takes 0.3 GB when it runs, .* has 0.6 GB; compile a smaller model"),
    ],
)
def test_a_model_too_large_for_the_memory_is_rejected(data: Path, changed: dict[str, str], message: str) -> None:
    small_board(data, **changed)
    with pytest.raises(ModelError, match=message):
        run(data, NAME)
    assert run(data, NAME, "--plan") == 1
    assert commands_run(data) == []


def test_swap_is_enough_for_quantizing(data: Path) -> None:
    small_board(data, MemAvailable="1000000", SwapFree="1000000")
    assert run(data, NAME, "--plan") == 0


def test_a_model_too_large_for_the_disk_is_rejected(data: Path) -> None:
    obstacles = list(chatapi_compile.obstacles(compile_plan(data), chatapi_compile.MemoryFit(50_000_000, 8 << 30, 0)))
    assert [type(each) for each in obstacles] == [StorageError]
    assert "free space there" in obstacles[0].message


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nothing"], NotFound, "there is no model 'nothing' to compile; there are .*tiny-mlc"),
        (["qwen3-8b"], BadInput, "qwen3-8b runs on llama_cpp without compiling"),
        ([NAME, "--quantization", "q3f16_1"], BadInput, "has no quantization 'q3f16_1'; it has q4f16_1, q4f16_ft"),
        ([NAME, "--quantization", "q4f16_ft"], ModelError, "lacks the kernels of q4f16_ft"),
    ],
)
def test_an_invalid_request_is_rejected_in_one_sentence(
    data: Path, arguments: list[str], error: type[ChatapiError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(data, *arguments)


def test_prefix_of_a_name_selects_the_best_match(data: Path) -> None:
    known = Catalog(data)
    assert command.named(known, "mistral-7b-instruct").name == "mistral-7b-instruct-v0.3-mlc"
    assert command.named(known, "mistral-7b-instruct-v0.2").name == "mistral-7b-instruct-v0.2-mlc"


def test_other_machines_and_chips_are_rejected(data: Path) -> None:
    (data / "root/proc/device-tree/compatible").write_text("nvidia,tegra210\0")
    with pytest.raises(ModelError, match="chip tegra210, which has no compile target"):
        run(data, NAME)
    for file in ("proc/device-tree/compatible", "etc/nv_tegra_release"):
        (data / "root" / file).unlink()
    with pytest.raises(ModelError, match="this machine is not a Jetson"):
        run(data, NAME)


def test_image_without_mlc_is_reported(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken" / "tvm").mkdir(parents=True)
    (tmp_path / "broken/tvm/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'tvm'\")")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}:{os.environ['PYTHONPATH']}")
    with pytest.raises(ModelError, match="has no tvm: the image was built without mlc"):
        run(data, NAME)
    (tmp_path / "broken/tvm/__init__.py").write_text("raise OSError('libcudart.so.12: cannot open')")
    with pytest.raises(ModelError, match=r"mlc_llm cannot be loaded by .*libcudart\.so\.12"):
        run(data, NAME)


def test_finished_compilation_leaves_no_work_files(data: Path) -> None:
    model = compile_model(data)
    assert not (model.folder / DONE).exists()
    assert sorted(path.name for path in model.folder.iterdir()) == [LOG, "lib.so", "made.json", "weights"]


def test_stand_in_library_matches_its_metadata() -> None:
    assert METADATA["params"][0]["shape"] == [64, 64] and fat_binary()[:4] == bytes.fromhex("50ed55ba")


def test_compiled_model_is_used_without_its_source(data: Path) -> None:
    known = Catalog(data)
    for ask in (known.open, lambda name: known.choose("llm", "mlc", name)):
        with pytest.raises(ModelError, match=f"chatapi compile {NAME}") as raised:
            ask(NAME)
        assert raised.value.code == "model_missing"
    compile_model(data)
    assert known.remove(NAME)
    assert known.open(NAME).name == known.choose("llm", "mlc").name == NAME
