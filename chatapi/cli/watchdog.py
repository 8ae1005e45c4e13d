"""Feeds systemd's watchdog only while the event loop runs and every engine works."""

from __future__ import annotations

import logging
from typing import Any

import anyio

from chatapi.appliance import Appliance
from chatapi.engines import registry
from chatapi.errors import Busy, EngineFailed, NotReady
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Call, Preempted, Worker, YieldPolicy
from chatapi.system.systemd_notify import ServiceManager

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Time until a failed engine is probed again, in seconds: it may have been rebuilt meanwhile."""


class Watchdog:
    """Probes the engines of a loaded appliance, and feeds the service manager's watchdog while they work."""

    def __init__(self, appliance: Appliance, manager: ServiceManager) -> None:
        self._appliance = appliance
        self._manager = manager
        self._produced: dict[str, int] = {}
        """Worker -> number of items at the last check."""
        self._reported = ""

    async def run(self) -> None:
        """Check twice within the watchdog time, forever. Returns at once without a watchdog."""
        while self._manager.watchdog:
            interval = self._manager.watchdog / 2
            await anyio.sleep(min(RETRY_SECONDS, interval) if self._reported else interval)
            problems = await self.problems()
            if not problems:
                self._manager.alive()
            self._report("; ".join(problems))

    async def problems(self) -> list[str]:
        """A sentence for every engine that does not work; takes at most `limits.step_seconds`."""
        found: list[str] = []
        async with anyio.create_task_group() as group:
            for worker in (*self._appliance.engines.all(), self._appliance.history):
                group.start_soon(self._check, worker, found)
        return sorted(found)

    async def _check(self, worker: Worker[Any], found: list[str]) -> None:
        before, self._produced[worker.name] = self._produced.get(worker.name, -1), worker.items_produced
        # An unloaded engine is loaded by the next request, which reports a failure.
        if worker.state in ("idle", "reloading") or self._appliance.is_remote(worker.name):
            return
        if worker.state != "ready":
            # An engine that could not be loaded is reported to its callers; a restart would not repair it.
            if worker.load_error is None and (worker.rebuild_delay or self._appliance.requires(worker.name)):
                found.append(f"the {worker.name} engine is {worker.state}")
            return
        # A worker whose slots are all in use detects a stuck engine by itself.
        if worker.items_produced == before and worker.admission.used < worker.admission.slots:
            await self._probe(worker, found)

    async def _probe(self, worker: Worker[Any], found: list[str]) -> None:
        """Run the smallest job on an engine that was idle since the last check; any other work preempts it."""
        try:
            async with worker.stream(_probe(worker), Priority.PROBE, YieldPolicy.RAISE) as items:
                async for _ in items:
                    pass
        except (Busy, Preempted):
            return
        except (EngineFailed, NotReady) as error:
            found.append(error.message)

    def _report(self, line: str) -> None:
        if line != self._reported:
            if line:
                log.error("watchdog not fed: %s", line)
            self._manager.status(line or "ready")
        self._reported = line


def _probe(worker: Worker[Any]) -> Call[Any, object]:
    """The smallest job that shows that a worker works; for the history none."""
    role = registry.roles().get(worker.name)
    return role.probe(worker.engine) if role is not None else lambda engine, stop: iter(())
