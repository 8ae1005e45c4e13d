"""The coverage ledger: exact partitions of time, whatever was stored in whatever order, and what survives a crash."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from chatapi.errors import StorageError
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection, Position, Stretch

T = 1_700_000_000.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[CoverageLedger]:
    with closing(CoverageLedger(tmp_path / "ledger.sqlite3")) as opened:
        yield opened


def test_every_moment_is_in_one_stretch(ledger: CoverageLedger) -> None:
    ledger.add("a", [Stretch(T, T + 10, "heard"), Stretch(T + 10, T + 20, "missing", "corrupt")])
    ledger.add("a", [Stretch(T + 20, T + 30, "heard")])
    ledger.judged("a", [Stretch(T + 2, T + 9, "scored", "m")], Position(T + 10, "7"))
    assert ledger.coverage("a", T - 5, T + 40) == [
        Stretch(T - 5, T, "unmonitored"), Stretch(T, T + 2, "heard"), Stretch(T + 2, T + 9, "scored", "m"),
        Stretch(T + 9, T + 10, "heard"), Stretch(T + 10, T + 20, "missing", "corrupt"),
        Stretch(T + 20, T + 30, "heard"),
        Stretch(T + 30, T + 40, "unmonitored"),
    ]  # fmt: skip
    assert ledger.coverage("b", T, T + 1) == [Stretch(T, T + 1, "unmonitored")]
    assert ledger.places() == ["a"]
    assert ledger.position("a") == Position(T + 10, "7")
    assert ledger.position("b") is None


def test_what_continues_is_one_row(ledger: CoverageLedger) -> None:
    for second in range(0, 1000, 10):
        ledger.add("a", [Stretch(T + second, T + second + 10.0004, "heard")])
    with closing(sqlite3.connect(ledger.file)) as db:
        assert db.execute("SELECT count(*) FROM stretches").fetchone() == (1,)
    assert ledger.coverage("a", T, T + 1000) == [Stretch(T, T + 1000, "heard")]


def test_coverage_equals_a_second_by_second_account(ledger: CoverageLedger) -> None:
    rank = {"unmonitored": 0, "missing": 1, "heard": 2, "scored": 3}
    for seed in range(30):
        chance, place = random.Random(seed), f"place{seed}"
        seconds = [("unmonitored", "")] * 200
        for _ in range(40):
            start = chance.randrange(190)
            end = start + chance.randrange(1, 30)
            state = chance.choice(["heard", "missing", "scored"])
            detail = chance.choice(["x", "y"]) if state != "heard" else ""
            ledger.add(place, [Stretch(T + start, T + end, state, detail)])
            for each in range(start, min(end, 200)):
                seconds[each] = max(seconds[each], (state, detail), key=lambda it: (rank[it[0]], it[1]))
        found = ledger.coverage(place, T, T + 200)
        assert found[0].start == T and found[-1].end == T + 200
        assert all(before.end == after.start for before, after in pairwise(found))
        told = [(each.state, each.detail) for each in found for _ in range(round(each.end - each.start))]
        assert told == seconds


def test_a_detection_is_kept_once_and_a_position_never_goes_back(ledger: CoverageLedger) -> None:
    detection = Detection("a", T, "m", "a_clip", 75.5)
    for _ in range(2):
        ledger.judged("a", [Stretch(T, T + 60, "scored", "m")], Position(T + 60, "7"), detection)
    ledger.judged("a", [], Position(T + 30, "7"))
    assert ledger.to_store() == [detection]
    assert ledger.position("a") == Position(T + 60, "7")
    ledger.mark_stored(detection)
    assert ledger.to_store() == []
    assert [each.stored for each in ledger.detections("a", T, T + 1)] == [True]
    assert ledger.detections("a", T + 1, T + 100) == []


WRITER = """
import sys
from pathlib import Path
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection, Position, Stretch
ledger = CoverageLedger(Path(sys.argv[1]))
while True:
    at = ledger.position("a").at if ledger.position("a") else 0
    ledger.judged("a", [Stretch(at, at + 60, "scored", "m")], Position(at + 60, "7"), Detection("a", at, "m", "n", 1))
    print(at + 60, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    file, reported = tmp_path / "ledger.sqlite3", 0.0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(5):
            reported = float(process.stdout.readline())
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *(float(line) for line in process.stdout.read().split())])
        process.wait()
        process.stdout.close()
    with closing(CoverageLedger(file)) as ledger:
        at = ledger.position("a").at  # type: ignore[union-attr]
        assert reported <= at <= reported + 60
        assert ledger.coverage("a", 0, at) == [Stretch(0, at, "scored", "m")]
        assert [each.start for each in ledger.detections("a", 0, at)] == [60.0 * each for each in range(int(at) // 60)]


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database, only text that is long enough" * 50)
    with pytest.raises(StorageError, match=r"ledger\.sqlite3"):
        CoverageLedger(tmp_path / "ledger.sqlite3")
