"""containers/gather.py: what an appliance takes out of the image that its engines were compiled in."""

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


def test_a_real_engine_needs_openmp_and_not_the_c_library(gather: ModuleType) -> None:
    engine = Path(pytest.importorskip("xllamacpp").__file__).parent
    found, missing = gather.needed([engine])
    names = {path.name for path in found}
    assert "libgomp.so.1" in names and not missing
    assert not {"libc.so.6", "libm.so.6", "libstdc++.so.6"} & names


@pytest.mark.parametrize(
    ("place", "left"),
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
def test_what_the_base_or_the_driver_brings_stays_behind(gather: ModuleType, place: str, left: str) -> None:
    assert bool(gather.FROM_THE_BASE.search(place)) == (left == "base")
    assert bool(gather.FROM_THE_BOARD.search(place)) == (left == "board")


def test_libraries_that_others_open_by_name_come_along(gather: ModuleType, tmp_path: Path) -> None:
    for name in (
        "libcudnn.so.9",
        "libcudnn_ops.so.9",
        "libnvinfer_builder_resource.so.10.3",
        "libcudnn.a",
        "libother.so.1",
    ):
        (tmp_path / name).touch()
    came = gather._opened_later({tmp_path / "libcudnn.so.9"})
    assert {path.name for path in came} == {"libcudnn.so.9", "libcudnn_ops.so.9", "libnvinfer_builder_resource.so.10.3"}


def test_a_library_is_kept_with_its_links(gather: ModuleType, tmp_path: Path) -> None:
    lib, root = tmp_path / "lib", tmp_path / "root"
    lib.mkdir()
    (lib / "libx.so.1.2").write_bytes(b"code")
    (lib / "libx.so.1").symlink_to("libx.so.1.2")
    assert gather.keep(lib / "libx.so.1", root) == lib
    kept = root / lib.relative_to("/")
    assert (kept / "libx.so.1").readlink() == Path("libx.so.1.2") and (kept / "libx.so.1").read_bytes() == b"code"


def test_an_image_without_the_product_is_refused(gather: ModuleType, tmp_path: Path) -> None:
    if gather.PRODUCT.is_dir():
        pytest.skip("this machine has what an image has")
    with pytest.raises(SystemExit, match="not one that the package chatapi was built into"):
        gather.main(tmp_path)


def test_a_whole_environment_is_gathered_without_what_builds(
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
    kept = tmp_path / "engines/python" / prefix.relative_to("/")
    assert {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()} == {
        "bin/python3",
        "lib/engine/a.py",
    }
    assert (tmp_path / "engines/system/etc/ld.so.conf.d/chatapi.conf").exists()
