#!/usr/bin/env python3
"""Fails where llama.cpp is not there, or finds no GPU to compute on."""

import sys

import xllamacpp

GPUS = (
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU,
    xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_IGPU,
)
"""llama.cpp calls a GPU that shares the processor's memory, as every Jetson's does, an integrated one."""


def main() -> None:
    devices = xllamacpp.get_device_info()
    if not any(device["type"] in GPUS for device in devices):
        names = ", ".join(device["name"] for device in devices)
        sys.exit(f"llama.cpp finds no GPU, only {names}: it was built without CUDA, or a wheel has replaced it")
    print(xllamacpp.get_system_info())


if __name__ == "__main__":
    main()
