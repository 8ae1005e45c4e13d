"""Verifying a compiled model: a good one, and one with each possible fault."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from chatapi.catalog.compiled import Target, Verdict, verify
from chatapi.errors import ModelError
from chatapi.system.jetson import JetsonBoard
from model_library import METADATA, fat_binary, library

ORIN = JetsonBoard("NVIDIA Jetson AGX Orin Developer Kit", "tegra234", "sm_87", (36, 4, 3), (12, 6, 68), 64 << 30)
VERSIONS = {"python": "3.10.12", "tvm": "0.27.0", "tvm_ffi": "0.1.15", "mlc_llm": "0.20.0"}
HERE = Target(ORIN, "aarch64", 40 << 30, VERSIONS)
CONFIG = {
    "model_type": "mistral",
    "quantization": "q4f16_1",
    "context_window_size": 4096,
    "prefill_chunk_size": 1024,
    "model_config": {"vocab_size": 32000},
}
MADE = {"manifest": "m", "versions": VERSIONS, "cuda": [12, 6, 68]}
WEIGHT = {"name": "w", "shape": [64, 64], "dtype": "float16"}


def rewrite(file: Path, **changed: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an intact compiled model."""
    made = tmp_path / "m"
    (made / "weights").mkdir(parents=True)
    (made / "lib.so").write_bytes(library())
    (made / "made.json").write_text(json.dumps(MADE))
    (made / "weights/mlc-chat-config.json").write_text(json.dumps(CONFIG))
    (made / "weights/params_shard_0.bin").write_bytes(bytes(8192))
    shard = {"dataPath": "params_shard_0.bin", "nbytes": 8192, "records": [WEIGHT]}
    (made / "weights/tensor-cache.json").write_text(json.dumps({"records": [shard]}))
    return made


def verdict_of(folder: Path, **here: object) -> Verdict:
    return verify(folder, dataclasses.replace(HERE, **here))  # type: ignore[arg-type]


def test_intact_model_has_a_summary_and_no_faults(folder: Path) -> None:
    verdict = verdict_of(folder)
    assert verdict.faults == () and verdict.loads
    verdict.require()
    # 4096 tokens of 32 layers, 8 heads of 128, keys and values of two bytes; the rest is temporary memory.
    assert 4096 * 131_072 < verdict.memory < 4096 * 131_072 + 250_000_000
    assert verdict.summary == (
        "host: aarch64",
        "GPU: sm_87",
        "model: mistral, q4f16_1",
        "context: 4096 tokens, prompts in chunks of 1024, at most 4 completions at once",
        "memory: 0.7 GB when loaded, of 42.9 GB that are free",
        "made by: python 3.10.12, tvm 0.27.0, tvm_ffi 0.1.15, mlc_llm 0.20.0",
    )


def with_library(**options: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "lib.so").write_bytes(library(**options))


def with_config(**changed: object) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder / "weights/mlc-chat-config.json", **changed)


def with_made(**changed: object) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder / "made.json", **changed)


def with_metadata(**changed: object) -> Callable[[Path], object]:
    return with_library(metadata={**METADATA, **changed})


DAMAGES: Mapping[str, tuple[Callable[[Path], object], str, str]] = {
    "host": (with_library(machine="x86_64"), "library_other_host", "is for x86_64 and this machine is aarch64"),
    "text": (lambda f: (f / "lib.so").write_text("<html>"), "library_damaged", "is not a shared library for Linux"),
    "half": (lambda f: (f / "lib.so").write_bytes(library()[:-9]), "library_damaged", "is truncated: it has"),
    "foreign": (with_library(tvm=False), "library_foreign", "not one that TVM made"),
    "no model": (with_library(metadata=None), "library_foreign", "has no model of MLC"),
    "gpu": (with_library(code=fat_binary((110,))), "library_other_gpu", "code for sm_110 and this board's GPU"),
    "desktop": (with_library(code=fat_binary((80, 86))), "library_other_gpu", "code for sm_80, sm_86"),
    "one of two": (
        with_library(code=fat_binary((87,)) + fat_binary((80,))), "library_other_gpu",
        "code for sm_80, sm_87 in parts of it",
    ),
    "no gpu": (with_library(code=b""), "library_other_gpu", "has no GPU code and this board's GPU is sm_87"),
    "newer ptx": (with_library(code=fat_binary((), (110,))), "library_other_gpu", "code for PTX for sm_110"),
    "source": (
        with_library(code=b'extern "C" __global__ void k();'), "library_source_only",
        "run the container with the nvidia runtime",
    ),
    "gpu code": (
        with_library(code=fat_binary()[:8] + (1 << 20).to_bytes(8, "little") + fat_binary()[16:]), "library_damaged",
        "GPU code of .* is truncated",
    ),
    "tvm": (
        with_made(versions={**VERSIONS, "tvm": "0.26.0"}), "library_other_version",
        "was made by tvm 0.26.0 and this machine has 0.27.0",
    ),
    "tvm_ffi": (with_made(versions={**VERSIONS, "tvm_ffi": "0.1.9"}), "library_other_version", "made by tvm_ffi 0.1.9"),
    "mlc": (with_made(versions={**VERSIONS, "mlc_llm": "0.19.0"}), "library_other_version", "made by mlc_llm 0.19.0"),
    "cuda": (
        with_made(cuda=[13, 2]), "library_other_cuda", r"CUDA 13\.2, and L4T 36\.4\.3 of this board has 12\.6",
    ),
    "model": (with_config(model_type="qwen2"), "library_other_model", "of model qwen2 and the library of"),
    "quantization": (
        with_config(quantization="q4f16_ft"), "library_other_model",
        "quantization q4f16_ft and the library of quantization q4f16_1",
    ),
    "context": (
        with_config(context_window_size=8192), "library_other_context", "context of 8192 tokens .* built for 4096",
    ),
    "shape": (
        with_metadata(params=[{**WEIGHT, "shape": [64, 128]}]), "library_other_model",
        r"expects the weight w as \(64, 128\) float16 and the weights have it as \(64, 64\)",
    ),
    "no weight": (
        with_metadata(params=[WEIGHT, {**WEIGHT, "name": "x"}]), "library_other_model", "the weight x .* lack it",
    ),
    "shard": (
        lambda f: (f / "weights/params_shard_0.bin").unlink(), "weights_damaged", "lacks params_shard_0.bin",
    ),
    "half a shard": (
        lambda f: (f / "weights/params_shard_0.bin").write_bytes(b"x"), "weights_damaged", "or a part of it",
    ),
    "weights": (
        lambda f: (f / "weights/tensor-cache.json").unlink(), "weights_damaged", "lacks the index of weights",
    ),
    "record": (lambda f: (f / "made.json").unlink(), "compile_unfinished", "resume with: chatapi compile m"),
}  # fmt: skip
"""The damage, the code of the fault, and its message."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_fault_has_a_message_and_prevents_loading(folder: Path, damage: str) -> None:
    damage_folder, code, message = DAMAGES[damage]
    damage_folder(folder)
    verdict = verdict_of(folder)
    assert [fault.code for fault in verdict.faults] == [code]
    assert not verdict.loads
    with pytest.raises(ModelError, match=message) as raised:
        verdict.require()
    assert raised.value.code == code
    assert "\n" not in raised.value.message
    assert "chatapi compile m" in raised.value.message or "copy it again" in raised.value.message


def test_too_little_memory_is_reported_with_numbers(folder: Path) -> None:
    (fault,) = verdict_of(folder, available=1_000_000_000).faults
    assert fault.code == "too_little_memory"
    assert "it takes 0.7 GB, 0.5 GB are reserved for the rest, and 1.0 GB are free" in fault.message


def test_model_cannot_be_loaded_without_mlc_llm(folder: Path) -> None:
    versions = {tool: version for tool, version in VERSIONS.items() if tool != "mlc_llm"}
    (fault,) = verdict_of(folder, versions=versions).faults
    assert (fault.code, "there is no mlc_llm here" in fault.message) == ("no_compiler", True)


def test_ptx_for_an_older_gpu_loads_and_is_only_a_note(folder: Path) -> None:
    with_library(code=fat_binary((80,), (80,)))(folder)
    verdict = verdict_of(folder)
    assert [fault.code for fault in verdict.faults] == ["library_ptx_only"]
    assert verdict.loads


def test_replaced_library_is_detected_by_a_deep_check(folder: Path) -> None:
    rewrite(folder / "made.json", sha256="0" * 64)
    assert verdict_of(folder).loads
    assert [fault.code for fault in verify(folder, HERE, deep=True).faults] == ["library_changed"]


def test_replaced_weights_are_detected_by_a_deep_check(folder: Path) -> None:
    shard = folder / "weights/params_shard_0.bin"
    recorded = {"size": 8192, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
    rewrite(folder / "made.json", files={"weights/params_shard_0.bin": recorded})
    assert verify(folder, HERE, deep=True).faults == ()
    shard.write_bytes(b"\1" * 8192)
    assert verdict_of(folder).loads
    assert [fault.code for fault in verify(folder, HERE, deep=True).faults] == ["library_changed"]


def test_smaller_context_than_built_for_loads_and_needs_less_memory(folder: Path) -> None:
    before = verdict_of(folder).memory
    with_config(context_window_size=2048)(folder)
    verdict = verdict_of(folder)
    assert verdict.loads
    assert before - verdict.memory == pytest.approx(2048 * 131_072, rel=0.001)


def test_gpu_code_is_not_checked_on_other_machines(folder: Path) -> None:
    with_library(code=b"")(folder)
    assert verdict_of(folder, board=None).loads


def test_library_alone_is_verified(tmp_path: Path) -> None:
    (tmp_path / "mistral.so").write_bytes(library(machine="x86_64"))
    verdict = verdict_of(tmp_path / "mistral.so")
    assert [fault.code for fault in verdict.faults] == ["library_other_host"]
    assert any("unknown without mlc-chat-config.json" in line for line in verdict.summary)


@pytest.mark.parametrize("name", ["made.json", "weights/mlc-chat-config.json", "weights/tensor-cache.json"])
def test_file_with_invalid_json_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text('{"half":')
    with pytest.raises(ModelError, match=rf"{Path(name).name} cannot be read"):
        verdict_of(folder)


def test_missing_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no lib\.so; make it with: chatapi compile"):
        verdict_of(tmp_path)
    with pytest.raises(ModelError, match=r"cannot read .*none\.so: No such file"):
        verdict_of(tmp_path / "none.so")
