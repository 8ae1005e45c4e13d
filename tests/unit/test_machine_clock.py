"""The clock that runs slowly while the machine's processors are saturated."""

from __future__ import annotations

import itertools

import pytest

from chatapi.system import machine_clock
from chatapi.system.machine_clock import PACE, MachineClock


class Machine:
    """A machine with two processors whose time a test moves on."""

    def __init__(self) -> None:
        self.time, self.idle, self.total = 100.0, 0.0, 0.0

    def run(self, seconds: float, idle: float) -> None:
        self.time, self.total = self.time + seconds, self.total + 2 * seconds
        self.idle += 2 * seconds * idle


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(machine_clock.time, "monotonic", lambda: made.time)
    monkeypatch.setattr(machine_clock, "_cpu_seconds", lambda: (made.idle, made.total))
    return made


def test_clock_of_an_idle_machine_is_the_monotonic_one(machine: Machine) -> None:
    clock = MachineClock()
    for seconds in (0.1, 0.3, 5.0, 0.2, 60.0):
        before = clock.now()
        machine.run(seconds, idle=0.5)
        assert clock.now() - before == pytest.approx(seconds)


def test_clock_of_a_saturated_machine_runs_slowly(machine: Machine) -> None:
    clock = MachineClock()
    machine.run(30, idle=0.02)
    assert clock.now() - 100 == pytest.approx(30 * PACE)
    machine.run(10, idle=0.6)
    assert clock.now() - 100 == pytest.approx(30 * PACE + 10)


def test_clock_never_goes_back(machine: Machine) -> None:
    clock, told = MachineClock(), list[float]()
    for idle in itertools.islice(itertools.cycle((0.5, 0.5, 0.0, 0.0, 0.9)), 100):
        machine.run(0.4, idle)
        told.append(clock.now())
    assert told == sorted(told)


def test_real_processors_are_read() -> None:
    idle, total = machine_clock._cpu_seconds()
    assert 0 < idle < total
