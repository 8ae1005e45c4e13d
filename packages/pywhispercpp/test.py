#!/usr/bin/env python3
"""Fails where whisper.cpp is not there, has no CUDA in it, or has none for this GPU."""

import ctypes
import re
import sys
from pathlib import Path

import _pywhispercpp

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


def architecture() -> str:
    """This GPU as ggml names it: 870 on Orin. The driver is asked, for nvidia-smi is not in every JetPack."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, value, found = ctypes.c_int(), ctypes.c_int(), []
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        sys.exit("the CUDA driver finds no GPU: was the container started with --runtime nvidia?")
    for attribute in (MAJOR, MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found.append(str(value.value))
    return "".join(found) + "0"


def main() -> None:
    told = _pywhispercpp.whisper_print_system_info()
    print(told)
    # ggml's CUDA backend tells what it was compiled for: ggml_backend_cuda_get_features in ggml-cuda.cu.
    compiled = re.search(r"CUDA : ARCHS = ([\d,]+)", told)
    if compiled is None:
        sys.exit("pywhispercpp was built without CUDA: its build found no nvcc, or a wheel from elsewhere replaced it")
    wanted = architecture()
    if wanted not in compiled[1].split(","):
        sys.exit(f"whisper.cpp has no code for this GPU ({wanted}), only for {compiled[1]}")
    if "libggml-cuda" not in Path("/proc/self/maps").read_text():
        sys.exit("whisper.cpp names CUDA, but libggml-cuda.so is not loaded")
    print(f"whisper.cpp computes on this GPU ({wanted})")


if __name__ == "__main__":
    main()
