"""The compiler on this machine and its exact versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from chatapi.errors import ModelError

SECONDS = 120.0
"""Most seconds that Python may take to import TVM; from a cold SD card it has taken most of a minute."""
PROBE = """
import importlib, importlib.metadata, json, sys
def version(module, *distributions):
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return str(getattr(importlib.import_module(module), "__version__", "unknown"))
import tvm, tvm_ffi
libinfo = tvm.support.libinfo() if hasattr(tvm.support, "libinfo") else {}
commit = str(libinfo.get("GIT_COMMIT_HASH", ""))[:12]
print(json.dumps({
    "python": sys.version.split()[0],
    "tvm": tvm.__version__ + (f"+{commit}" if commit not in ("", "NOT-FOUND") else ""),
    "tvm_ffi": version("tvm_ffi", "apache-tvm-ffi", "tvm-ffi"),
    "mlc_llm": version("mlc_llm", "mlc-llm", "mlc_llm"),
    "q4f16_ft": tvm_ffi.get_global_func("cutlass.ft_preprocess_weight", allow_missing=True) is not None,
}))
"""
"""Reports TVM's commit too: builds of one branch on different days have the same version."""
COMPARED = ("tvm", "tvm_ffi", "mlc_llm")
"""A library works only with the versions that made it."""


@dataclass(frozen=True)
class Toolchain:
    """A Python that has mlc_llm, and its versions."""

    python: str
    versions: Mapping[str, str]
    """Versions of python, tvm, tvm_ffi and mlc_llm."""
    faster_transformer: bool
    """Whether its TVM has the kernels that q4f16_ft needs (mlc-llm 79d603f, quantization/ft_quantization.py)."""

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line of one of mlc_llm's commands."""
        return (self.python, "-m", "mlc_llm", *arguments)


@cache
def find(python: str = sys.executable) -> Toolchain:
    """Finds the compiler of a Python, once per process.

    Raises ModelError (no_compiler) with what is missing and where to get it.
    """
    try:
        ended = subprocess.run(
            [python, "-c", PROBE],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"importing TVM took longer than {SECONDS:g} seconds", code="no_compiler") from error
    if ended.returncode:
        raise ModelError(_missing(python, ended.stderr), code="no_compiler")
    report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return Toolchain(python, {key: str(report[key]) for key in ("python", *COMPARED)}, bool(report["q4f16_ft"]))


def _missing(python: str, stderr: str) -> str:
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "no error output")
    module = last.partition("named ")[2].strip("'\"").partition(".")[0]
    if last.startswith("ModuleNotFoundError") and module in ("tvm", "tvm_ffi", "mlc_llm"):
        return (
            f"{python} has no {module}: the image was built without mlc, or its build failed silently; "
            "use chatapi's image for this board, or build it again with `./run.sh build`"
        )
    return f"mlc_llm cannot be loaded by {python}: {last}; `./run.sh build` makes an image whose parts fit this board"
