"""Conversations grow old by time that passed, whatever the wall clock says meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from chatapi.errors import NotFound
from chatapi.storage.history import ConversationHistory, ConversationState
from chatapi.storage.history.clock import Moment, now

DAY = 86_400.0
KEEP = 30 * DAY
WALL = 1_790_000_000.0
FAKETIME = next(
    (path for place in ("/usr/lib", "/usr/local/lib") for path in Path(place).glob("*/faketime/libfaketime.so.1")), None
)


class Machine:
    """Its clocks: what passes, what somebody sets, and what a start without a battery makes of them."""

    def __init__(self) -> None:
        self.moment = Moment("boot-0", 1000.0, WALL)

    def __call__(self) -> Moment:
        return self.moment

    def passes(self, seconds: float) -> None:
        self.moment = replace(self.moment, up=self.moment.up + seconds, wall=self.moment.wall + seconds)

    def set(self, wall: float) -> None:
        self.moment = replace(self.moment, wall=wall)

    def boots(self, wall: float) -> None:
        self.moment = Moment(f"{self.moment.boot}+", 20.0, wall)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def opened(tmp_path: Path, machine: Machine) -> Callable[..., ConversationHistory]:
    def make(keep: float = KEEP, most: int = 100) -> ConversationHistory:
        return ConversationHistory(tmp_path / "history.sqlite3", keep, most, machine)

    return make


def said(history: ConversationHistory, conversation: str, words: str = "one?") -> None:
    before = ConversationState(conversation, None, ())
    with suppress(NotFound):
        before = history.recall(conversation)
    history.add(before, words, "yes")


def known(history: ConversationHistory, *conversations: str) -> list[str]:
    found = []
    for conversation in conversations:
        try:
            history.recall(conversation)
        except NotFound:
            continue
        found.append(conversation)
    return found


@pytest.mark.parametrize("days", [40, 4000, -40, -20_000])
def test_a_jump_of_the_clock_while_running_deletes_nothing(
    days: float, machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        said(history, "a")
        machine.set(WALL + days * DAY)
        said(history, "b")
        history.expire()
        assert known(history, "a", "b") == ["a", "b"]
        machine.set(WALL)
        said(history, "c")
        history.expire()
        assert known(history, "a", "b", "c") == ["a", "b", "c"]


def test_a_conversation_begun_before_the_time_is_known_goes_on_after(
    machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    machine.boots(wall=200_000_000.0)
    with closing(opened()) as history:
        said(history, "a")
        machine.passes(10)
        machine.set(WALL)
        assert known(history, "a") == ["a"]
        said(history, "a", "two?")
        assert [each.asked for each in history.recall("a").exchanges] == ["one?", "two?"]


@pytest.mark.parametrize("wall", [0.0, 200_000_000.0, WALL + 40 * DAY, WALL + 4000 * DAY])
def test_a_start_with_a_wrong_clock_deletes_nothing(
    wall: float, machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        said(history, "a")
    machine.boots(wall)
    with closing(opened()) as history:
        assert known(history, "a") == ["a"]
        said(history, "b")
        machine.set(WALL + 60)
        history.expire()
        assert known(history, "a", "b") == ["a", "b"]


def test_many_starts_with_a_clock_that_is_set_late_delete_nothing(
    machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        said(history, "a")
    for number in range(100):
        machine.boots(wall=0.0)
        with closing(opened()) as history:
            history.expire()
            machine.passes(60)
            machine.set(WALL + number * 120)
            history.expire()
            assert known(history, "a") == ["a"]


def test_time_that_passes_makes_old(machine: Machine, opened: Callable[..., ConversationHistory]) -> None:
    with closing(opened()) as history:
        said(history, "a")
        machine.passes(29 * DAY)
        said(history, "b")
        assert known(history, "a", "b") == ["a", "b"]
        machine.passes(2 * DAY)
        assert known(history, "a", "b") == ["b"]
        history.expire()
        assert known(history, "a", "b") == ["b"]


def test_time_makes_old_across_processes_and_starts_of_the_machine(
    machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        said(history, "a")
    machine.passes(15 * DAY)
    with closing(opened()) as history:
        history.expire()
    machine.boots(wall=0.0)
    machine.passes(14 * DAY)
    with closing(opened()) as history:
        assert known(history, "a") == ["a"]
        machine.passes(2 * DAY)
        assert known(history, "a") == []


def test_a_machine_that_is_used_an_hour_a_day_forgets_too(
    machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened()) as history:
        said(history, "a")
    for day in range(1, 33):
        machine.boots(WALL + day * DAY)
        with closing(opened()) as history:
            machine.passes(3600)
            history.expire()
            if day < 28:
                assert known(history, "a") == ["a"]
    with closing(opened()) as history:
        assert known(history, "a") == []


def test_the_number_kept_goes_by_order_and_not_by_time(
    machine: Machine, opened: Callable[..., ConversationHistory]
) -> None:
    with closing(opened(most=2)) as history:
        machine.set(WALL + 40 * DAY)
        said(history, "a")
        machine.set(WALL - 40 * DAY)
        said(history, "b")
        said(history, "c")
        assert known(history, "a", "b", "c") == ["b", "c"]
        said(history, "b")
        said(history, "d")
        assert known(history, "b", "c", "d") == ["b", "d"]


def test_the_machines_clocks_are_those_that_are_read() -> None:
    first, second = now(), now()
    assert first.boot == second.boot and first.boot
    assert second.up >= first.up > 0


@pytest.mark.skipif(FAKETIME is None, reason="there is no libfaketime here")
@pytest.mark.parametrize("jump", ["+40d", "-40y", "+10y"])
def test_a_process_whose_clock_is_wrong_deletes_nothing(jump: str, tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    with closing(ConversationHistory(file, KEEP, 100)) as history:
        said(history, "a")
    script = (
        "import sys, time; from pathlib import Path; from chatapi.storage.history import *;"
        "h = ConversationHistory(Path(sys.argv[1]), 2592000, 100); h.expire();"
        "h.add(h.recall('a'), 'two?', '2'); h.close(); print(time.time())"
    )
    environ = {**os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": jump, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    done = subprocess.run([sys.executable, "-c", script, file], env=environ, capture_output=True, text=True, check=True)
    assert abs(float(done.stdout) - now().wall) > 30 * DAY
    with closing(ConversationHistory(file, KEEP, 100)) as history:
        history.expire()
        assert [each.asked for each in history.recall("a").exchanges] == ["one?", "two?"]
