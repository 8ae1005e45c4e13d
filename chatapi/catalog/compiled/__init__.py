"""Models compiled by MLC: the contents of their folder, read without loading them, and whether this machine can load
them."""

from chatapi.catalog.compiled.artifact import CompiledModel, compiled
from chatapi.catalog.compiled.context_fit import HEADROOM, fitting
from chatapi.catalog.compiled.toolchain import Toolchain, find
from chatapi.catalog.compiled.verify import Target, Verdict, VerifyFault, verify

__all__ = [
    "HEADROOM",
    "CompiledModel",
    "Target",
    "Toolchain",
    "Verdict",
    "VerifyFault",
    "compiled",
    "find",
    "fitting",
    "verify",
]
