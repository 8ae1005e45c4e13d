"""Models compiled for a board by MLC: the plan, carrying it out, and judging what came of it or from elsewhere."""

from chatapi.catalog.compiled.artifact import CompiledModel, compiled, home
from chatapi.catalog.compiled.toolchain import Toolchain, find
from chatapi.catalog.compiled.verify import Target, Verdict, VerifyFault, verify
from chatapi.compiling.plan import CompilePlan, CompileRequest, plan
from chatapi.compiling.preflight import HEADROOM, MemoryFit, fitting, obstacles, room
from chatapi.compiling.run import CompileProgress, carry_out

__all__ = [
    "HEADROOM",
    "CompilePlan",
    "CompileProgress",
    "CompileRequest",
    "CompiledModel",
    "MemoryFit",
    "Target",
    "Toolchain",
    "Verdict",
    "VerifyFault",
    "carry_out",
    "compiled",
    "find",
    "fitting",
    "home",
    "obstacles",
    "plan",
    "room",
    "verify",
]
