"""Compile targets of the boards, from boards.toml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chatapi.errors import ModelError
from chatapi.system.jetson import JetsonBoard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("boards.toml")


@dataclass(frozen=True)
class CompileTarget:
    """What MLC compiles for."""

    target: Mapping[str, object]
    """TVM's target of the GPU."""
    host: str
    """LLVM triple of the CPU; {machine} stands for the machine as uname names it."""


@cache
def compile_targets() -> Mapping[str, CompileTarget]:
    """GPU, such as sm_87 -> its compile target."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {gpu: CompileTarget(table["target"], table["host"]) for gpu, table in tables.items()}


def compile_target(board: JetsonBoard) -> CompileTarget:
    """The board's compile target. Raises ModelError (no_board) where it has none."""
    found = compile_targets().get(board.gpu)
    if found is None:
        known = ", ".join(compile_targets())
        raise ModelError(
            f"{board.model} has the chip {board.chip or '(unknown)'}, which has no compile target; "
            f"supported GPUs: {known}",
            code="no_board",
        )
    return found
