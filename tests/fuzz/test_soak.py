"""A few kills during writes; for 100 kills, or hours of traffic, run `./run.sh soak`."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from soak.curve import Curve, Sample
from soak.kills import kill_test
from soak.live import Question, decisions
from soak.traffic import voices

SEED = 13


@pytest.mark.alone
def test_killed_server_keeps_everything_it_acknowledged(tmp_path: Path) -> None:
    test = kill_test(tmp_path, SEED)
    asyncio.run(test.run(5))
    assert test.faults == [], test.table()
    assert test.counts["kills"] == 5
    assert min(test.counts[name] for name in ("started", "continued", "deleted", "keys added")) > 0


def test_lost_conversation_is_a_fault(tmp_path: Path) -> None:
    """Tests the kill test itself: an acknowledged conversation is deleted from the database."""
    test = kill_test(tmp_path, SEED)
    asyncio.run(test.run(1))
    assert test.faults == []
    _delete_all_rows(tmp_path / "data" / "history.sqlite3")
    asyncio.run(test.run(0))
    assert any("is gone" in fault for fault in test.faults)


def _delete_all_rows(file: Path) -> None:
    with sqlite3.connect(file) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                database.execute(f"DELETE FROM {table}")
    database.close()


def test_memory_growth_is_distinguished_from_warm_up() -> None:
    flat, growing = Curve(), Curve()
    for at in range(100):
        early = min(at, 20)
        flat.samples.append(Sample(at, 100 + early, 120, 10, 5, 1.0))
        growing.samples.append(Sample(at, 100 + early + at * 0.5, 120, 10, 5, 1.0))
    assert flat.growth(25) == 0
    assert growing.growth(25) > 0.2


def test_curve_is_written_as_csv_and_svg(tmp_path: Path) -> None:
    curve = Curve()
    curve.samples = [Sample(at, 100 + at, 120, 10, 5, 1.0) for at in range(10)]
    curve.write(tmp_path)
    assert (
        (tmp_path / "soak.csv").read_text().startswith("seconds,pss_mib,rss_mib,descriptors,threads,latency_ms\n0,100,")
    )
    assert (tmp_path / "soak.svg").read_text().count("<polyline") == 5


def test_audio_that_ended_before_the_question_is_no_answer() -> None:
    question = Question("a", False, started=0.0, ended=5.0, last_sound=2.0)
    assert not question.answered
    question.last_sound = 6.0
    assert question.answered


def test_reason_for_a_missing_answer_is_read_from_the_log(tmp_path: Path) -> None:
    entry = {
        "time": "2026-01-02T03:04:05.678Z", "request_id": "live-1", "message": "utterance not answered",
        "reason": "echo", "likeness": 0.8, "certainty": -0.2, "speech_seconds": 1.4, "against_answer": False,
    }  # fmt: skip
    other = {**entry, "request_id": "live-0"}
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in (json.dumps(other), "no JSON", json.dumps(entry))))
    found = list(decisions(tmp_path / "log", "live-1"))
    assert [text for _, text in found] == ["echo (likeness 0.8 certainty -0.2 speech_seconds 1.4 against_answer False)"]


def test_questions_and_answers_have_different_voices() -> None:
    questions = voices()
    assert len(questions) >= 10 and not any("piper" in name for name in questions)
