"""The choice of ONNX Runtime's execution provider: by what is available, configured and working."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatapi.engines import onnx_providers as providers
from chatapi.settings import OnnxSettings, Settings
from conftest import installed_model

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))
ALL = (TENSORRT, CUDA, CPU)


class FakeSession:
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def get_providers(self) -> list[str]:
        return self._names


class FakeRuntime:
    """A fake ONNX Runtime: providers in `raising` fail, and those in `silent` are missing in a session."""

    def __init__(self, available: Sequence[str], raising: Sequence[str] = (), silent: Sequence[str] = ()) -> None:
        self._here, self._raising, self._silent = available, raising, silent
        self.tried: list[list[tuple[str, dict[str, str]]]] = []

    def get_available_providers(self) -> list[str]:
        return list(self._here)

    def InferenceSession(self, path: str, *, sess_options: Any, providers: Any, enable_fallback: int) -> FakeSession:  # noqa: N802
        assert enable_fallback == 0
        self.tried.append(providers)
        names = [name for name, _ in providers]
        for name in names:
            if name in self._raising:
                raise RuntimeError(f"{name} has no device\nand a stack")
        return FakeSession([name for name in names if name not in self._silent])


def used_provider(
    tmp_path: Path, runtime: FakeRuntime, provider: str = "auto", suited: Sequence[str] = tuple(providers.NAMES)
) -> str:
    settings = Settings(data=tmp_path, onnx=OnnxSettings(provider=provider))  # type: ignore[arg-type]
    made = providers.session(tmp_path / "m.onnx", None, settings, suited, runtime)
    return str(made.get_providers()[0])


@pytest.mark.parametrize(
    ("available", "provider", "best"),
    [
        (ALL, "auto", TENSORRT),
        ((CUDA, CPU), "auto", CUDA),
        (("AzureExecutionProvider", CPU), "auto", CPU),
        (ALL, "cuda", CUDA),
        (ALL, "cpu", CPU),
    ],
)
def test_the_best_available_provider_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, available: Sequence[str], provider: str, best: str
) -> None:
    assert used_provider(tmp_path, FakeRuntime(available), provider) == best
    assert caplog.messages == []


def test_only_suitable_providers_are_used_unless_one_is_configured(tmp_path: Path) -> None:
    assert used_provider(tmp_path, FakeRuntime(ALL), suited=("cuda", "cpu")) == CUDA
    assert used_provider(tmp_path, FakeRuntime(ALL), "tensorrt", suited=("cuda", "cpu")) == TENSORRT


def test_tensorrt_engines_are_cached_in_the_data_directory(tmp_path: Path) -> None:
    runtime = FakeRuntime(ALL)
    used_provider(tmp_path, runtime)
    [[(name, options), *others]] = runtime.tried
    folder = str(tmp_path / "tensorrt" / "m")
    assert name == TENSORRT and Path(folder).is_dir()
    assert options == {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    }
    assert others == [(CUDA, {}), (CPU, {})]


def test_a_failing_provider_is_logged_and_the_next_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert used_provider(tmp_path, FakeRuntime(ALL, raising=(TENSORRT, CUDA))) == CPU
    assert caplog.messages == [
        f"m.onnx runs without tensorrt, which failed: {TENSORRT} has no device",
        f"m.onnx runs without cuda, which failed: {CUDA} has no device",
    ]


def test_a_silently_skipped_provider_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert used_provider(tmp_path, FakeRuntime((CUDA, CPU), silent=(CUDA,))) == CPU
    assert caplog.messages == ["m.onnx runs without cuda, which could not be started"]


def test_a_configured_provider_that_is_missing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert used_provider(tmp_path, FakeRuntime((CPU,)), "cuda") == CPU
    assert caplog.messages == ["onnx.provider is cuda, which this ONNX Runtime does not have"]


def test_model_that_no_provider_loads_raises_the_last_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="CPUExecutionProvider has no device"):
        used_provider(tmp_path, FakeRuntime((CUDA, CPU), raising=(CUDA, CPU)))


@pytest.mark.real
def test_real_runtime_loads_a_model_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import onnxruntime

    [onnx] = [path for path in installed_model("smart-turn-v3.2").files.values() if path.suffix == ".onnx"]
    caplog.set_level(logging.WARNING)
    made = providers.session(
        onnx, onnxruntime.SessionOptions(), Settings(data=tmp_path, onnx=OnnxSettings(provider="cpu"))
    )
    assert made.get_providers() == [CPU]
    assert caplog.messages == []
