"""A clock for expiry: it follows the kernel's uptime, and jumps of the wall clock hardly change it.

A Jetson's clock has no battery: it starts in 1970 or 1976, and jumps when the network sets the time. A wall clock may
also be wrong by weeks. So the age of a conversation is observed time: within one boot the seconds of CLOCK_BOOTTIME,
which cannot be set and continues in suspend; for the time the machine was off what the wall clock shows, but at most a
small share of the time that conversations are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

OFF_SHARE = 1 / 30
"""Largest time off that one boot may add, as a share of the time conversations are kept: a day of thirty."""


@dataclass(frozen=True)
class Moment:
    """A reading of the machine's clocks."""

    boot: str
    """Id of the boot, a new one after each start of the machine."""
    up: float
    """Time since the boot, including suspend, in seconds."""
    wall: float
    """Wall clock, in seconds since 1970; it may be wrong."""


Clock = Callable[[], Moment]


def now() -> Moment:
    """Read the machine's clocks."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


@dataclass(frozen=True)
class ObservedClock:
    """The time observed up to a moment."""

    seconds: float
    """Observed time since the store was created, in seconds."""
    boot: str
    """Id of the boot of the last reading."""
    up: float
    """Time since that boot at the last reading, in seconds."""
    wall: float
    """Best estimate of the correct wall clock, in seconds since 1970; it never goes back."""
    off: float
    """Time that this boot has added for the time before it, in seconds."""

    @classmethod
    def since(cls, moment: Moment) -> ObservedClock:
        """A clock that starts now."""
        return cls(0.0, moment.boot, moment.up, moment.wall, 0.0)

    def at(self, moment: Moment, kept: float) -> ObservedClock:
        """The clock at a later moment; `kept`: time that conversations are kept, in seconds."""
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
