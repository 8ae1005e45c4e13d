"""Compiles a model for a board with MLC: plans it, checks that it fits, runs it.

`chatapi.catalog.compiled` reads and verifies the result; `chatapi compile` is the command line.
"""

from chatapi_compile.plan import CompilePlan, CompileRequest, plan
from chatapi_compile.preflight import MemoryFit, obstacles, room
from chatapi_compile.run import carry_out, settle

__all__ = [
    "CompilePlan",
    "CompileRequest",
    "MemoryFit",
    "carry_out",
    "obstacles",
    "plan",
    "room",
    "settle",
]
