"""`chatapi commands`: teaching a running server from the command line, on the fake engine."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from conftest import FAKE_ENGINES, RunningServer, serving, tone
from running_interface import running_jobs
from test_cli import run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    found = settings.load([*FAKE_ENGINES, f"data={tmp_path / 'data'}"], environ={}).settings
    with serving(found) as running, running_jobs(running):
        yield running


def test_a_word_is_taught_listed_and_rolled_back(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def commands(*arguments: str) -> int:
        port = ("--set", f"server.port={server.port}")
        return run(*port, "commands", *arguments, data=tmp_path / "data")

    files = []
    for number in range(8):
        files.append(tmp_path / f"{number}.wav")
        files[-1].write_bytes(wav(Audio(tone(0.5, 1500 + number), RATE)))
    assert commands("submit", "whistle", *map(str, files)) == 0
    assert capsys.readouterr().out.splitlines() == [f"{each}: accepted" for each in files]
    assert commands("submit", "whistle", str(files[0])) == 0
    assert capsys.readouterr().out == f"{files[0]}: known\n"
    assert commands("train") == 0
    out = capsys.readouterr().out
    assert out.startswith("version 1 (active): beep, whistle; accuracy 100.0%"), out
    assert commands("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["number"] == 1
    assert commands("samples") == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert commands("samples", "-o", str(tmp_path / "samples.tar")) == 0
    with tarfile.open(tmp_path / "samples.tar") as archive:
        assert len(archive.getnames()) == 9
    capsys.readouterr()
    assert commands("rollback") == 0
    assert capsys.readouterr().out == "version 0 is active\n"
    assert commands("rollback") == 2
    assert "no version before" in capsys.readouterr().err
    assert commands("rollback", "1") == 0
    assert capsys.readouterr().out == "version 1 is active\n"


def test_what_is_wrong_is_said(server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = tmp_path / "quiet.wav"
    quiet.write_bytes(wav(Audio(np.zeros(RATE, np.float32), RATE)))
    port = ("--set", f"server.port={server.port}")
    for arguments, said in (
        (("submit", "word", str(quiet)), "no speech"),
        (("submit", "word"), "at least one file"),
        (("submit", "word", str(tmp_path / "missing.wav")), "cannot be read"),
        (("classify",), "at least one file"),
        (("rollback", "x"), "number of a version"),
        (("record",), "needs one label"),
        (("train",), "no word can be trained"),
    ):
        assert run(*port, "commands", *arguments, data=tmp_path / "data") == 2
        assert said in capsys.readouterr().err
    assert run("--set", "server.port=1", "commands", "list", data=tmp_path / "data") == 2
    assert "no chatapi answers" in capsys.readouterr().err
