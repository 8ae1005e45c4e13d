"""A sign of life that means something: given only while the event loop runs and every engine does its work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import numpy as np

from chatapi.appliance import Appliance
from chatapi.audio import RATE
from chatapi.engines import PromptMessage, Sampling, Stop
from chatapi.errors import EngineFailed, NotReady
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Preempted, Worker, YieldPolicy
from chatapi.system.systemd_notify import ServiceManager

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds until an engine that did not do its work is asked again: it may have been built anew meanwhile."""
HISS = np.random.default_rng(0).normal(0, 1e-3, RATE // 2).astype(np.float32)

STEPS: dict[str, Callable[[Any, Stop], Iterator[Any]]] = {
    "vad": lambda engine, stop: engine.probabilities(HISS[:512], stop),
    "wake_word": lambda engine, stop: engine.probabilities(HISS[:320], stop),
    "turn_detection": lambda engine, stop: engine.finished(HISS, stop),
    "asr": lambda engine, stop: engine.transcribe(HISS, None, stop),
    # Without the system prompt: what is remembered of a conversation's beginning stays remembered.
    "llm": lambda engine, stop: engine.generate([PromptMessage("user", "Hi")], Sampling(max_tokens=1), stop),
    "tts": lambda engine, stop: engine.synthesize("Yes.", engine.voices[0].name, stop),
    "history": lambda _, stop: iter(()),
}
"""Role -> the least that shows that an engine still works."""


class Watchdog:
    """Looks after an appliance that is loaded, and tells the service manager that it lives for as long as it does."""

    def __init__(self, appliance: Appliance, manager: ServiceManager) -> None:
        self._appliance = appliance
        self._manager = manager
        self._given: dict[str, int] = {}
        self._told = ""

    async def run(self) -> None:
        """Twice in the time the manager waits; for ever. Nothing where it does not wait."""
        while self._manager.watchdog:
            await anyio.sleep(min(AGAIN, self._manager.watchdog / 2) if self._told else self._manager.watchdog / 2)
            faults = await self.faults()
            if not faults:
                self._manager.alive()
            self._tell("; ".join(faults))

    async def faults(self) -> list[str]:
        """A sentence for every engine that does not do its work; takes `limits.step_seconds` at most."""
        found: list[str] = []
        async with anyio.create_task_group() as group:
            for worker in (*self._appliance.engines.all(), self._appliance.history):
                group.start_soon(self._look_at, worker, found)
        return sorted(found)

    async def _look_at(self, worker: Worker[Any], found: list[str]) -> None:
        given, self._given[worker.name] = self._given.get(worker.name, -1), worker.items_produced
        # One that comes back on demand is waited for by whoever asked.
        if worker.state in ("idle", "reloading") or (worker.name == "llm" and self._elsewhere):
            return
        if worker.state != "ready":
            found.append(f"the {worker.name} engine is {worker.state}")
            return
        # Whose slots are all taken is judged by the worker itself, which abandons what gives nothing for too long.
        if worker.items_produced == given and worker.admission.used < worker.admission.slots:
            await self._ask(worker, found)

    async def _ask(self, worker: Worker[Any], found: list[str]) -> None:
        """Have an engine that was idle since the last look do the least it can; whoever needs it goes first."""
        try:
            async with worker.stream(STEPS[worker.name], Priority.TRAINING, YieldPolicy.RAISE) as items:
                async for _ in items:
                    pass
        except Preempted:
            return
        except (EngineFailed, NotReady) as error:
            found.append(error.message)

    @property
    def _elsewhere(self) -> bool:
        """Starting this process anew mends no language model on another machine."""
        return self._appliance.settings.llm.engine == "openai_upstream"

    def _tell(self, line: str) -> None:
        if line != self._told:
            if line:
                log.error("no sign of life is given: %s", line)
            self._manager.status(line or "ready")
        self._told = line
