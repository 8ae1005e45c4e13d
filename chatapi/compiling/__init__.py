"""Models compiled for a board by MLC: the plan, carrying it out, and judging what came of it or from elsewhere."""

from chatapi.compiling.fit import HEADROOM, Room, fitting, obstacles, room
from chatapi.compiling.place import Place, compiled, home
from chatapi.compiling.plan import Plan, Request, plan
from chatapi.compiling.running import Progress, carry_out
from chatapi.compiling.tools import Tools, find
from chatapi.compiling.verdict import Fault, Here, Verdict, verify

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
