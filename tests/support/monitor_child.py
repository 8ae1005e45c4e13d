"""Starts children that monitor a configuration with a fake detector, and kills them after the given times.

`python monitor_child.py DATA CONFIG SECONDS...`: one child after another gets SIGKILL after so many seconds; the last
one gets SIGTERM when the place has no detection that waits and nothing new for a while. They are forked, because a new
interpreter would spend most of its time importing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import anyio

from chatapi import settings
from chatapi.appliance import Appliance

IDLE_SECONDS = 12.0
"""Time without anything new after which the last child ends, in seconds."""


async def monitor(data: Path, config: Path, until_idle: bool) -> None:
    given = [f"data={data}", f"monitoring.configs={config}", "monitoring.private_urls=true"]
    loaded = settings.load([*given, "sound_detector.engine=fake"], environ={}).settings
    async with Appliance(loaded).running() as appliance, anyio.create_task_group() as group:
        group.start_soon(appliance.monitoring.run)
        since, before = time.monotonic(), -1.0
        while not until_idle or time.monotonic() - since < IDLE_SECONDS:
            await anyio.sleep(0.1)
            now = sum(each.scored_until for each in appliance.monitoring.all())
            if now != before or not appliance.monitoring.all() or appliance.monitoring.reading().waiting:
                since, before = time.monotonic(), now
        group.cancel_scope.cancel()


def child(data: Path, config: Path, seconds: float | None) -> None:
    """Runs a child; None: until nothing new comes."""
    pid = os.fork()
    if not pid:
        anyio.run(monitor, data, config, seconds is None)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if seconds is None and status:
        raise SystemExit(f"the last child ended with {status}")


if __name__ == "__main__":
    for each in sys.argv[3:]:
        child(Path(sys.argv[1]), Path(sys.argv[2]), float(each))
    child(Path(sys.argv[1]), Path(sys.argv[2]), None)
