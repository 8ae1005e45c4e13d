"""A driver of NVIDIA's GPUs as far as its program nvidia-smi shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatapi.system import nvidia_gpu


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, *rows: str, status: int = 0) -> Path:
    """Puts a program nvidia-smi in front of the PATH that prints these rows, if it is asked for the fields that
    `nvidia_gpu` reads, and ends with this status."""
    program = folder / "nvidia-smi"
    lines = "\n".join(f"echo '{row}'" for row in rows)
    expected = f"--query-gpu={','.join(nvidia_gpu.FIELDS)} --format=csv,noheader,nounits"
    program.write_text(f'#!/bin/sh\n[ "$*" = "{expected}" ] || exit 9\n{lines}\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program
