"""OpenMP threads spin while they wait on an idle machine, and sleep on a busy one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.system import openmp, spin_limit
from chatapi.system.spin_limit import CALM_SECONDS, CONTENDED, SpinControl, SpinSwitch

SECONDS = 60.0
"""Longest wait for what another thread does, in seconds."""


class Switch(SpinSwitch):
    """A switch that only records whether it is on."""

    def __init__(self) -> None:
        self.on: bool | None = None

    @property
    def limited(self) -> bool:
        return bool(self.on)

    def limit(self, limited: bool) -> None:
        self.on = limited


class Machine:
    """A machine on which threads have waited for a processor so far, and the control of it."""

    def __init__(self) -> None:
        self.time, self.waited = 100.0, 0.0
        self.known = True
        self.switch = Switch()
        self.control = SpinControl(self.switch, lambda: self.waited if self.known else None)
        self.control.check(self.time)

    def run(self, seconds: float, waited: float) -> None:
        """Time passes; the threads wait this share of it."""
        self.time, self.waited = self.time + seconds, self.waited + seconds * waited
        self.control.check(self.time)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.control.close()


def test_other_work_stops_spinning_at_the_next_check(machine: Machine) -> None:
    machine.run(0.05, CONTENDED + 0.1)
    assert machine.switch.on is True


def test_free_processors_are_no_reason_to_sleep(machine: Machine) -> None:
    for _ in range(10):
        machine.run(0.05, CONTENDED / 2)
    assert not machine.switch.on


def test_threads_spin_again_once_the_processors_stay_free(machine: Machine) -> None:
    machine.run(0.05, 1.0)
    machine.run(0.6 * CALM_SECONDS, 0.0)
    assert machine.switch.on is True
    machine.run(0.6 * CALM_SECONDS, 1.0)
    machine.run(0.6 * CALM_SECONDS, 0.0)
    assert machine.switch.on is True
    machine.run(0.6 * CALM_SECONDS, 0.0)
    assert machine.switch.on is False


def test_threads_sleep_where_the_system_does_not_tell(machine: Machine) -> None:
    machine.known = False
    machine.run(0.05, 0.0)
    assert machine.switch.on is True


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_waiting_for_a_processor_is_read() -> None:
    before = spin_limit.waited(set())
    assert before is not None
    after = spin_limit.waited(set())
    assert after is not None and after >= 0
    assert spin_limit.waited(spin_limit.threads()) in (None, 0)


def test_switch_starts_and_ends_a_second_team() -> None:
    runtime = openmp.load_spinning()
    if runtime is None:
        pytest.skip("the system has no OpenMP runtime")
    switch = SpinSwitch(runtime, 2)
    for _ in range(2):
        before = spin_limit.threads()
        switch.limit(True)
        team = spin_limit.threads() - before
        assert switch.limited and len(team) >= 3
        switch.limit(True)
        assert spin_limit.threads() >= team
        switch.limit(False)
        end = time.monotonic() + SECONDS
        while spin_limit.threads() & team and time.monotonic() < end:
            time.sleep(0.01)
        assert not switch.limited and not spin_limit.threads() & team
