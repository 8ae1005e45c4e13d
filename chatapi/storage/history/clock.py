"""Time as a store observes it: it passes with the kernel's uptime, and a jump of the wall clock hardly moves it.

A Jetson has no battery behind its clock: it starts in 1970 or 1976, and jumps when the network tells the time. A wall
clock may also be wrong by weeks. So conversations grow old by seconds that were seen to pass: within one boot by
CLOCK_BOOTTIME, which cannot be set and runs on in suspend; while the machine was off by what the wall clock claims,
but by no more than a small share of the time that conversations are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

OFF_SHARE = 1 / 30
"""Share of the time kept that one boot may add for the time the machine was off: a day of thirty."""


@dataclass(frozen=True)
class Moment:
    """What the machine's clocks show."""

    boot: str
    """Names the boot; another one after each start of the machine."""
    up: float
    """Seconds since the boot, suspend included."""
    wall: float
    """Seconds since 1970, if the clock is right."""


Clock = Callable[[], Moment]


def now() -> Moment:
    """The machine's clocks now."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


@dataclass(frozen=True)
class ObservedClock:
    """How much time was seen to pass, up to a moment."""

    seconds: float
    """Since the store was made."""
    boot: str
    up: float
    wall: float
    """What a right wall clock would show now, as far as is known; it never goes back."""
    off: float
    """Seconds that this boot has added already for the time before it."""

    @classmethod
    def since(cls, moment: Moment) -> ObservedClock:
        """Nothing has passed yet."""
        return cls(0.0, moment.boot, moment.up, moment.wall, 0.0)

    def at(self, moment: Moment, kept: float) -> ObservedClock:
        """The same later on; `kept`: seconds for which conversations are kept."""
        same = moment.boot == self.boot and moment.up >= self.up
        passed = moment.up - self.up if same else moment.up
        off = self.off if same else 0.0
        expected = self.wall + passed
        claimed = max(0.0, moment.wall - expected)
        added = min(claimed, max(0.0, kept * OFF_SHARE - off))
        return replace(
            self,
            seconds=self.seconds + passed + added,
            boot=moment.boot,
            up=moment.up,
            wall=expected + claimed,
            off=off + added,
        )
