"""When the thread of a job computes, by the scheduler of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.scheduler import Scheduler


class CpuTurn:
    """When the thread of one job computes: it yields to more urgent work of the machine, and counts as such work."""

    def __init__(self, scheduler: Scheduler | None, admission: Admission, priority: Priority) -> None:
        """`admission`: of the engine's slots; `scheduler` None: the job neither yields nor counts."""
        self._scheduler, self._admission, self._priority = scheduler, admission, priority

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside the context the job counts as work that runs."""
        with nullcontext() if self._scheduler is None else self._scheduler.working(self._priority):
            yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside `working`: a context in which the job waits for its reader."""
        if self._scheduler is not None:
            self._scheduler.end(self._priority)
        try:
            yield
        finally:
            if self._scheduler is not None:
                self._scheduler.begin(self._priority)

    def must_wait(self) -> bool:
        """Whether the next step has to wait. A slot for which more urgent work waits is not kept from it."""
        if self._scheduler is None or self._admission.is_wanted(self._priority):
            return False
        return self._scheduler.must_yield(self._priority)
