"""The scheduler: which class of work uses the machine's cores, over all engines, jobs and their commands.

The classes are live, request, bulk and training (`admission.Priority`). What runs is counted by class. Work asks
`must_yield` before its next step: an engine's thread between two items, a job at its checkpoint; the process group of a
job's command is stopped while the answer is yes. `Admission` decides who gets the slots of one engine; a job that holds
a slot for which more urgent work waits does not yield, because it would keep that work waiting.

**Work yields** while work of a more urgent class runs, and for LINGER_SECONDS after it, because a live turn pauses
between its stages. Engine work that waits for its reader does not count as running.

**No class starves.** A class that was kept waiting for `wait_seconds` runs for `run_seconds`, whatever else runs; see
SHARES. Time in which it runs because nothing more urgent does counts too: it pays waiting off at the same rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from chatapi.runtime.admission import Priority

CLASSES = (Priority.LIVE, Priority.REQUEST, Priority.BULK, Priority.TRAINING)
"""The classes of work, the most urgent first. Health probes are none: they are short, and only take free slots."""
LINGER_SECONDS = 0.5
"""Time after the last work of a class during which less urgent work still yields, in seconds."""
EXPECTED_SECONDS = 2.0
"""Time during which less urgent work yields to work that is expected, in seconds; speech that goes on is transcribed
before it has passed."""
ASKED_SECONDS = 1.0
"""Time after its last question for which work still counts as waiting, in seconds: it may have been cancelled."""


@dataclass(frozen=True)
class MinimumShare:
    """What a class gets while more urgent work runs all the time."""

    wait_seconds: float
    """Time that it waits, in seconds."""
    run_seconds: float
    """Time that it then runs, in seconds."""


SHARES: Mapping[Priority, MinimumShare] = {
    Priority.REQUEST: MinimumShare(1.0, 1.0),
    Priority.BULK: MinimumShare(20.0, 2.0),
    Priority.TRAINING: MinimumShare(30.0, 2.0),
}
"""Class -> its minimum share; live work never waits. People wait for requests too, so these get half the time."""


@dataclass(frozen=True)
class WorkReading:
    """What the scheduler decided for one class of work."""

    yielded_seconds: float
    """Time that work of this class has waited for more urgent work, in seconds."""
    waits_for: Priority | None
    """The class that it waits for now; None: it does not wait."""


class _ClassTurn:
    """Whether one class waits or runs: its waiting is a debt that its running pays off."""

    def __init__(self, share: MinimumShare, now: float) -> None:
        self.waits_for: Priority | None = None
        self.yielded = 0.0
        self.asked_at = now
        self._share, self._debt, self._granted = share, 0.0, False

    def decide(self, now: float, blocker: Priority | None) -> bool:
        """Whether the class waits; `blocker`: the more urgent class that runs."""
        passed, share = max(0.0, now - self.asked_at), self._share
        self.asked_at = max(now, self.asked_at)
        if self.waits_for is not None:
            waited = min(passed, ASKED_SECONDS)
            self._debt += waited
            self.yielded += waited
        else:
            self._debt = max(0.0, self._debt - passed * share.wait_seconds / share.run_seconds)
        if self._debt >= share.wait_seconds:
            self._granted = True
        elif self._debt == 0.0:
            self._granted = False
        self.waits_for = None if self._granted else blocker
        return self.waits_for is not None


class Scheduler:
    """One machine's scheduler. For any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, shares: Mapping[Priority, MinimumShare] = SHARES
    ) -> None:
        """`clock`: seconds that never go back."""
        self._clock, self._lock = clock, threading.Lock()
        self._running = dict.fromkeys(CLASSES, 0)
        self._until = dict.fromkeys(CLASSES, float("-inf"))
        """Class -> when less urgent work need not yield to it any longer, while none of it runs."""
        self._turns = {priority: _ClassTurn(share, clock()) for priority, share in shares.items()}

    @contextmanager
    def working(self, priority: Priority) -> Iterator[None]:
        """Inside the context work of a class runs."""
        self.begin(priority)
        try:
            yield
        finally:
            self.end(priority)

    def begin(self, priority: Priority) -> None:
        """Work of a class starts to run; `end` ends it."""
        if priority in self._running:
            with self._lock:
                self._running[priority] += 1

    def end(self, priority: Priority) -> None:
        """Work of a class has ended, or waits for something else than a processor."""
        if priority in self._running:
            with self._lock:
                self._running[priority] -= 1
                self._extend(priority, LINGER_SECONDS)

    def expect(self, priority: Priority) -> None:
        """Have less urgent work yield now, because work of this class is about to come."""
        with self._lock:
            self._extend(priority, EXPECTED_SECONDS)

    def must_yield(self, priority: Priority) -> bool:
        """Whether work of a class has to wait now. To be asked again often, as long as it waits."""
        if priority not in self._turns:
            return False
        with self._lock:
            now = self._clock()
            return self._turns[priority].decide(now, self._blocker(priority, now))

    def readings(self) -> Mapping[Priority, WorkReading]:
        """What was decided for each class that can be kept waiting."""
        with self._lock:
            now = self._clock()
            return {
                priority: WorkReading(turn.yielded, turn.waits_for if now - turn.asked_at < ASKED_SECONDS else None)
                for priority, turn in self._turns.items()
            }

    def decisions(self) -> Mapping[str, tuple[float, Mapping[str, bool]]]:
        """The same, by the names of the classes, as metrics show it: for each class the seconds that it has waited, and
        for each more urgent class whether it waits for that now."""
        return {
            priority.name.lower(): (
                reading.yielded_seconds,
                {each.name.lower(): each is reading.waits_for for each in CLASSES if each < priority},
            )
            for priority, reading in self.readings().items()
        }

    def _extend(self, priority: Priority, seconds: float) -> None:
        self._until[priority] = max(self._until[priority], self._clock() + seconds)

    def _blocker(self, priority: Priority, now: float) -> Priority | None:
        """The most urgent class that runs, if it is more urgent than this one."""
        urgent = (each for each in CLASSES if each < priority)
        return next((each for each in urgent if self._running[each] or now < self._until[each]), None)
