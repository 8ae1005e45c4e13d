#!/usr/bin/env python3
"""Fails where whisper.cpp is not there, has no CUDA in it, or has none for this GPU."""

import re
import subprocess
import sys
from pathlib import Path

import _pywhispercpp


def compute_capability() -> str:
    """What the driver says of this GPU, as CUDA names architectures: 87."""
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout
    match = re.search(r"(\d+)\.(\d)", found)
    # nvidia-smi of JetPack 6 does not know the question, and all that JetPack 6 runs on here is Orin.
    return "".join(match.groups()) if match else "87"


def main() -> None:
    told = _pywhispercpp.whisper_print_system_info()
    print(told)
    # ggml's CUDA backend lists what it was compiled for as ARCHS = 870,1100 (ggml-cuda.cu, ggml_backend_cuda_get_features).
    architectures = re.search(r"CUDA : ARCHS = ([\d,]+)", told)
    if architectures is None:
        sys.exit("pywhispercpp was built without CUDA: its build found no nvcc, or a wheel from elsewhere replaced it")
    wanted = compute_capability() + "0"
    if wanted not in architectures[1].split(","):
        sys.exit(f"whisper.cpp has no code for this GPU ({wanted}), only for {architectures[1]}")
    mapped = Path("/proc/self/maps").read_text()
    if "libggml-cuda" not in mapped:
        sys.exit("whisper.cpp names CUDA, but libggml-cuda.so is not loaded")
    print(f"whisper.cpp computes on this GPU ({wanted})")


if __name__ == "__main__":
    main()
