"""Conversations age by elapsed time, whatever the wall clock shows."""

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
from chatapi.storage.clock import Moment, now
from chatapi.storage.history import ConversationHistory, ConversationState

DAY = 86_400.0
KEEP = 30 * DAY
WALL = 1_790_000_000.0
FAKETIME = next(
    (path for place in ("/usr/lib", "/usr/local/lib") for path in Path(place).glob("*/faketime/libfaketime.so.1")), None
)


class FakeClocks:
    """The clocks of a machine without a battery: elapsed time, changes of the wall clock, and boots."""

    def __init__(self) -> None:
        self.moment = Moment("boot-0", 1000.0, WALL)

    def __call__(self) -> Moment:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment = replace(self.moment, up=self.moment.up + seconds, wall=self.moment.wall + seconds)

    def set(self, wall: float) -> None:
        self.moment = replace(self.moment, wall=wall)

    def reboot(self, wall: float) -> None:
        self.moment = Moment(f"{self.moment.boot}+", 20.0, wall)


@pytest.fixture
def clocks() -> FakeClocks:
    return FakeClocks()


@pytest.fixture
def open_history(tmp_path: Path, clocks: FakeClocks) -> Callable[..., ConversationHistory]:
    def make(keep: float = KEEP, most: int = 100) -> ConversationHistory:
        return ConversationHistory(tmp_path / "history.sqlite3", keep, most, clocks)

    return make


def add_turn(history: ConversationHistory, conversation: str, text: str = "one?") -> None:
    before = ConversationState(conversation, None, ())
    with suppress(NotFound):
        before = history.recall(conversation)
    history.add(before, text, "yes")


def recalled(history: ConversationHistory, *conversations: str) -> list[str]:
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
    days: float, clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
        clocks.set(WALL + days * DAY)
        add_turn(history, "b")
        history.expire()
        assert recalled(history, "a", "b") == ["a", "b"]
        clocks.set(WALL)
        add_turn(history, "c")
        history.expire()
        assert recalled(history, "a", "b", "c") == ["a", "b", "c"]


def test_conversation_started_before_the_clock_is_set_continues_afterwards(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    clocks.reboot(wall=200_000_000.0)
    with closing(open_history()) as history:
        add_turn(history, "a")
        clocks.advance(10)
        clocks.set(WALL)
        assert recalled(history, "a") == ["a"]
        add_turn(history, "a", "two?")
        assert [each.asked for each in history.recall("a").exchanges] == ["one?", "two?"]


@pytest.mark.parametrize("wall", [0.0, 200_000_000.0, WALL + 40 * DAY, WALL + 4000 * DAY])
def test_boot_with_a_wrong_clock_deletes_nothing(
    wall: float, clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
    clocks.reboot(wall)
    with closing(open_history()) as history:
        assert recalled(history, "a") == ["a"]
        add_turn(history, "b")
        clocks.set(WALL + 60)
        history.expire()
        assert recalled(history, "a", "b") == ["a", "b"]


def test_many_boots_with_a_clock_that_is_set_late_delete_nothing(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
    for number in range(100):
        clocks.reboot(wall=0.0)
        with closing(open_history()) as history:
            history.expire()
            clocks.advance(60)
            clocks.set(WALL + number * 120)
            history.expire()
            assert recalled(history, "a") == ["a"]


def test_conversation_expires_after_its_lifetime(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
        clocks.advance(29 * DAY)
        add_turn(history, "b")
        assert recalled(history, "a", "b") == ["a", "b"]
        clocks.advance(2 * DAY)
        assert recalled(history, "a", "b") == ["b"]
        history.expire()
        assert recalled(history, "a", "b") == ["b"]


def test_age_counts_across_processes_and_boots(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
    clocks.advance(15 * DAY)
    with closing(open_history()) as history:
        history.expire()
    clocks.reboot(wall=0.0)
    clocks.advance(14 * DAY)
    with closing(open_history()) as history:
        assert recalled(history, "a") == ["a"]
        clocks.advance(2 * DAY)
        assert recalled(history, "a") == []


def test_conversation_expires_on_a_machine_that_runs_an_hour_a_day(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history()) as history:
        add_turn(history, "a")
    for day in range(1, 33):
        clocks.reboot(WALL + day * DAY)
        with closing(open_history()) as history:
            clocks.advance(3600)
            history.expire()
            if day < 28:
                assert recalled(history, "a") == ["a"]
    with closing(open_history()) as history:
        assert recalled(history, "a") == []


def test_conversation_limit_follows_the_order_of_use_and_not_the_clock(
    clocks: FakeClocks, open_history: Callable[..., ConversationHistory]
) -> None:
    with closing(open_history(most=2)) as history:
        clocks.set(WALL + 40 * DAY)
        add_turn(history, "a")
        clocks.set(WALL - 40 * DAY)
        add_turn(history, "b")
        add_turn(history, "c")
        assert recalled(history, "a", "b", "c") == ["b", "c"]
        add_turn(history, "b")
        add_turn(history, "d")
        assert recalled(history, "b", "c", "d") == ["b", "d"]


def test_clocks_of_the_machine_are_read() -> None:
    first, second = now(), now()
    assert first.boot == second.boot and first.boot
    assert second.up >= first.up > 0


@pytest.mark.skipif(FAKETIME is None, reason="there is no libfaketime here")
@pytest.mark.parametrize("jump", ["+40d", "-40y", "+10y"])
def test_a_process_whose_clock_is_wrong_deletes_nothing(jump: str, tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    with closing(ConversationHistory(file, KEEP, 100)) as history:
        add_turn(history, "a")
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
