"""Builds real model libraries with TVM, for two machines.

Arguments are a folder and, when CUDA's libraries can be loaded, a file with the fat binary to include; without it TVM
includes CUDA source. This is a separate program, because TVM finds its CUDA part only when the process starts, and
because its imports are slow. Each library has one small layer and the function `_metadata`, as of mlc_llm's compiler.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tvm_ffi
from tvm import relax
from tvm.ir import StringImm
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op, spec
from tvm.s_tir import dlight
from tvm.target import Target

from model_library import METADATA

LINKERS = {"x86_64": ("x86_64-linux-gnu-ld", "ld"), "aarch64": ("aarch64-linux-gnu-ld", "ld.lld")}
SM_87 = {
    "kind": "cuda",
    "arch": "sm_87",
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
    "registers_per_block": 65536,
}
"""The target of Orin in compile/chatapi_compile/boards.toml."""


class Layer(nn.Module):
    def __init__(self) -> None:
        self.linear = nn.Linear(64, 64, bias=False, dtype="float16")

    def forward(self, x: Any) -> Any:
        return op.relu(self.linear(x))


def module() -> Any:
    found, _ = Layer().export_tvm(spec={"forward": {"x": spec.Tensor(["n", 64], "float16")}})
    builder = relax.BlockBuilder()
    with builder.function("_metadata", params=[]):
        builder.emit_func_output(StringImm(json.dumps(METADATA)))
    found["_metadata"] = builder.finalize()["_metadata"]
    return found


def build(machine: str, gpu: bool, output: Path) -> None:
    host = Target({"kind": "llvm", "mtriple": f"{machine}-linux-gnu"})
    # The same text as the argument of `mlc_llm compile --device`, which makes a Target of it.
    target = Target(Target(json.dumps(SM_87)), host=host) if gpu else host
    with target:
        built = relax.get_pipeline("zero")(module())
        if gpu:
            built = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(built)
    relax.build(built, target=target).export_library(str(output), fcompile=linker(machine))


def linker(machine: str) -> Any:
    def link(output: str, objects: list[str], options: object = None, **_: object) -> None:
        command = next(found for name in LINKERS[machine] if (found := shutil.which(name)))
        subprocess.run([command, "-shared", "-o", output, *objects], check=True)

    link.output_format = "so"  # type: ignore[attr-defined]
    return link


def main() -> None:
    folder, code = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else None
    if code is not None:
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", lambda *_: code, override=True)
    for machine in LINKERS:
        build(machine, True, folder / f"{machine}-{'source' if code is None else 'fatbin'}.so")
        if code is None:
            build(machine, False, folder / f"{machine}-cpu.so")


main()
