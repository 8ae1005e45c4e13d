"""Models compiled for a board by MLC: the plan, carrying it out, and judging what came of it or from elsewhere."""

from chatapi.catalog.compiled.artifact import Place, compiled, home
from chatapi.catalog.compiled.toolchain import Tools, find
from chatapi.catalog.compiled.verify import Fault, Here, Verdict, verify
from chatapi.compiling.plan import Plan, Request, plan
from chatapi.compiling.preflight import HEADROOM, Room, fitting, obstacles, room
from chatapi.compiling.run import Progress, carry_out

__all__ = [
    "HEADROOM",
    "Fault",
    "Here",
    "Place",
    "Plan",
    "Progress",
    "Request",
    "Room",
    "Tools",
    "Verdict",
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
