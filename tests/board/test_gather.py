"""containers/gather.py, which copies engines and their libraries out of the image that compiled them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from paths import ROOT

SCRIPT = ROOT / "containers/gather.py"


@pytest.fixture
def gather() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gather", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_real_engine_needs_openmp_but_not_the_c_library(gather: ModuleType) -> None:
    engine = Path(pytest.importorskip("xllamacpp").__file__).parent
    found, missing = gather.needed([engine])
    names = {path.name for path in found}
    assert "libgomp.so.1" in names and not missing
    assert not {"libc.so.6", "libm.so.6", "libstdc++.so.6"} & names


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/lib/aarch64-linux-gnu/libc.so.6", "base"),
        ("/lib/ld-linux-aarch64.so.1", "base"),
        ("/usr/lib/aarch64-linux-gnu/libstdc++.so.6", "base"),
        ("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", "board"),
        ("libnvrm_gpu.so", "board"),
        ("/usr/local/cuda/lib64/stubs/libcuda.so", "board"),
        ("/usr/local/cuda/lib64/libcublas.so.12", ""),
        ("/usr/local/cuda/lib64/libnvrtc.so.12", ""),
        ("/usr/lib/aarch64-linux-gnu/libcudnn.so.9", ""),
        ("/usr/lib/aarch64-linux-gnu/libcurl.so.4", ""),
        ("/usr/lib/aarch64-linux-gnu/libnvinfer.so.10", ""),
        ("/usr/lib/aarch64-linux-gnu/libnvonnxparser.so.10", ""),
        ("/usr/local/cuda/lib64/libnvJitLink.so.12", ""),
    ],
)
def test_libraries_of_base_image_and_driver_are_excluded(gather: ModuleType, path: str, provider: str) -> None:
    assert bool(gather.FROM_THE_BASE.search(path)) == (provider == "base")
    assert bool(gather.FROM_THE_BOARD.search(path)) == (provider == "board")


def test_libraries_opened_by_name_are_included(gather: ModuleType, tmp_path: Path) -> None:
    for name in (
        "libcudnn.so.9",
        "libcudnn_ops.so.9",
        "libnvinfer_builder_resource.so.10.3",
        "libcudnn.a",
        "libother.so.1",
    ):
        (tmp_path / name).touch()
    found = gather._opened_later({tmp_path / "libcudnn.so.9"})
    assert {path.name for path in found} == {
        "libcudnn.so.9",
        "libcudnn_ops.so.9",
        "libnvinfer_builder_resource.so.10.3",
    }


def test_library_is_copied_with_its_links(gather: ModuleType, tmp_path: Path) -> None:
    lib, root = tmp_path / "lib", tmp_path / "root"
    lib.mkdir()
    (lib / "libx.so.1.2").write_bytes(b"code")
    (lib / "libx.so.1").symlink_to("libx.so.1.2")
    assert gather.keep(lib / "libx.so.1", root) == lib
    copied = root / lib.relative_to("/")
    assert (copied / "libx.so.1").readlink() == Path("libx.so.1.2") and (copied / "libx.so.1").read_bytes() == b"code"


def test_image_without_chatapi_is_rejected(gather: ModuleType, tmp_path: Path) -> None:
    if gather.PRODUCT.is_dir():
        pytest.skip("this machine has what an image has")
    with pytest.raises(SystemExit, match="not one that the package chatapi was built into"):
        gather.main(tmp_path)


def test_environment_is_copied_without_build_tools(
    gather: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, product = tmp_path / "venv", tmp_path / "chatapi"
    for name in ("bin/python3", "bin/pip3", "bin/cmake", "lib/pip/__init__.py", "lib/engine/a.py", "lib/engine/lib.a"):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).touch()
    product.mkdir()
    monkeypatch.setattr(gather, "PRODUCT", product)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    gather.main(tmp_path / "engines")
    copied = tmp_path / "engines/python" / prefix.relative_to("/")
    assert {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()} == {
        "bin/python3",
        "lib/engine/a.py",
    }
    assert (tmp_path / "engines/system/etc/ld.so.conf.d/chatapi.conf").exists()
