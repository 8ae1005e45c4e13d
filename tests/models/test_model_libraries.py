"""Reading real model libraries, which TVM builds for this machine and for a Jetson."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatapi.catalog.compiled import Target, verify
from chatapi.catalog.compiled.model_lib import MARKS, read
from chatapi.system.jetson import JetsonBoard
from model_library import METADATA, fat_binary, library
from paths import SUPPORT

BUILDER_FOLDER = SUPPORT
NEEDED = [
    *(["the package apache-tvm"] if importlib.util.find_spec("tvm") is None else []),
    *(f"the command {name}" for name in ("cc", "nm", "aarch64-linux-gnu-ld") if shutil.which(name) is None),
]
pytestmark = [
    pytest.mark.skipif(bool(NEEDED), reason=f"building real model libraries needs {', '.join(NEEDED)}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the libraries are built on x86_64"),
]
ORIN = JetsonBoard("NVIDIA Jetson AGX Orin", "tegra234", "sm_87", (36, 4, 3), (12, 6, 68), 64 << 30)
JETSON = Target(ORIN, "aarch64", 60 << 30)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MACHINE-KIND.so for x86_64 and aarch64, and cpu, source and fatbin."""
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "code.fatbin").write_bytes(fat_binary((87, 110), (80,)))
    cuda = fake_cuda(folder)
    for extra, libraries in (((), ""), ((str(folder / "code.fatbin"),), str(cuda))):
        subprocess.run(
            [sys.executable, str(BUILDER_FOLDER / "build_libraries.py"), str(folder), *extra],
            env={**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONWARNINGS": "ignore"},
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip
    return folder


def fake_cuda(folder: Path) -> Path:
    """A libcuda and libcudart without a GPU, which is all that TVM needs to compile for one."""
    spec = importlib.util.find_spec("tvm")
    assert spec and spec.origin
    runtime = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
    names = subprocess.run(["nm", "-D", str(runtime)], capture_output=True, text=True, check=True).stdout
    wanted = sorted(set(re.findall(r" U (cu\w+)", names)))
    (folder / "cuda.c").write_text("\n".join(f"int {name}(void) {{ return 100; }}" for name in wanted))
    made = folder / "cuda"
    made.mkdir()
    for found in sorted(set(re.findall(rb"lib(?:cuda|cudart)\.so\.\d+", runtime.read_bytes()))):
        name = found.decode()
        (folder / "versions").write_text(f"{name} {{ global: *; }};")
        script = [f"-Wl,--version-script={folder / 'versions'}"] if "cudart" in name else []
        subprocess.run(
            ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", *script, "-o", made / name, folder / "cuda.c"],
            check=True,
        )
    return made


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("kind", ["cpu", "source", "fatbin"])
def test_libraries_of_tvm_are_read(built: Path, machine: str, kind: str) -> None:
    found = read(built / f"{machine}-{kind}.so")
    assert found.header
    assert (found.header.machine, found.header.shared, found.header.bytes) == (machine, True, found.size)
    assert found.tvm
    assert found.metadata and found.metadata.raw == METADATA
    assert found.code.source is (kind == "source")
    assert found.code.cubins == ({"sm_87", "sm_110"} if kind == "fatbin" else set())
    assert found.code.ptx == ({"sm_80"} if kind == "fatbin" else set())


def faults(path: Path, here: Target = JETSON) -> list[str]:
    return [fault.code for fault in verify(path, here).faults]


def test_library_for_the_board_has_no_faults(built: Path) -> None:
    verdict = verify(built / "aarch64-fatbin.so", JETSON)
    assert verdict.faults == ()
    assert "GPU: sm_87, sm_110 and PTX for sm_80 and later" in verdict.summary


def test_library_for_another_host_or_without_gpu_code_has_faults(built: Path) -> None:
    assert faults(built / "x86_64-fatbin.so") == ["library_other_host"]
    assert faults(built / "aarch64-source.so") == ["library_source_only"]
    assert faults(built / "aarch64-cpu.so") == ["library_other_gpu"]


@pytest.mark.parametrize("size", [0, 3, 30, 64, 200, 5_000, 0.5, 0.9, 0.999])
def test_a_truncated_library_is_detected(built: Path, tmp_path: Path, size: float) -> None:
    whole = (built / "aarch64-fatbin.so").read_bytes()
    (tmp_path / "half.so").write_bytes(whole[: int(size * len(whole)) if isinstance(size, float) else size])
    found = faults(tmp_path / "half.so")
    assert found[0] == "library_damaged"
    assert "library_source_only" not in found


def test_truncated_gpu_code_is_detected(built: Path, tmp_path: Path) -> None:
    whole, code = (built / "aarch64-fatbin.so").read_bytes(), fat_binary((87, 110), (80,))
    at = whole.index(code)
    # The length in the header now reaches beyond the end of the file.
    (tmp_path / "broken.so").write_bytes(whole[: at + 8] + (1 << 40).to_bytes(8, "little") + whole[at + 16 :])
    assert faults(tmp_path / "broken.so") == ["library_damaged"]


def test_library_not_made_by_tvm_is_detected(built: Path, tmp_path: Path) -> None:
    whole = (built / "aarch64-fatbin.so").read_bytes()
    for mark in MARKS:
        whole = whole.replace(mark, b"x" * len(mark))
    (tmp_path / "other.so").write_bytes(whole)
    assert faults(tmp_path / "other.so") == ["library_foreign"]
    (tmp_path / "nothing.so").write_bytes(
        (built / "aarch64-fatbin.so").read_bytes().replace(b"model_type", b"other_type")
    )
    assert faults(tmp_path / "nothing.so") == ["library_foreign"]


@pytest.mark.skipif(shutil.which("fatbinary") is None, reason="needs the command fatbinary of NVIDIA's CUDA")
def test_fat_binary_of_nvidias_tool_is_read(tmp_path: Path) -> None:
    (tmp_path / "k.ptx").write_text(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }\n")
    subprocess.run(["ptxas", "-arch=sm_87", "k.ptx", "-o", "k.cubin"], cwd=tmp_path, check=True)
    images = ["--image3=kind=elf,sm=87,file=k.cubin", "--image3=kind=ptx,sm=80,file=k.ptx"]
    subprocess.run(["fatbinary", "--create=k.fatbin", *images], cwd=tmp_path, check=True)
    (tmp_path / "k.so").write_bytes(library(code=(tmp_path / "k.fatbin").read_bytes()))
    found = read(tmp_path / "k.so").code
    assert (found.cubins, found.ptx, found.damaged) == ({"sm_87"}, {"sm_80"}, False)
