"""Command recognition over HTTP and on the command line, on the fake engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.engines import COMMAND_SAMPLES
from chatapi.services.command_recognition.service import MOST_SECONDS, is_silent, loudest_part
from conftest import RunningServer, tone
from test_cli import run

WAV = {"Content-Type": "audio/wav"}
SILENCE = wav(Audio(np.zeros(RATE, np.float32), RATE))


def test_a_clip_is_classified_with_the_probability_of_every_label(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/commands/classify", content=wav(Audio(tone(0.5, 440), RATE)), headers=WAV)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert (found["label"], found["probability"]) == ("beep", 0.9)
    assert list(found["probabilities"].items()) == [("beep", 0.9), ("unknown", 0.1)]
    assert shared_server.client.get("/commands").json()["labels"] == ["beep"]


def test_silence_is_unknown(shared_server: RunningServer) -> None:
    reply = shared_server.client.post("/commands/classify", content=SILENCE, headers=WAV)
    assert reply.json()["label"] == "unknown"


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "audio/wav", 400, "bad_audio"),
        (b"no audio at all", "audio/wav", 400, "bad_audio"),
        (SILENCE, "application/json", 415, "unsupported_media_type"),
        (wav(Audio(np.zeros(int(RATE * MOST_SECONDS) + RATE, np.float32), RATE)), "audio/wav", 413, "audio_too_long"),
    ],
    ids=["empty", "text", "type", "long"],
)
def test_a_bad_clip_is_rejected(
    shared_server: RunningServer, content: bytes, kind: str, status: int, code: str
) -> None:
    reply = shared_server.client.post("/commands/classify", content=content, headers={"Content-Type": kind})
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text


def test_of_a_longer_clip_the_loudest_second_is_classified() -> None:
    samples = np.concatenate([np.zeros(RATE, np.float32), tone(0.6, 440), np.zeros(2 * RATE, np.float32)])
    part = loudest_part(samples)
    assert len(part) == COMMAND_SAMPLES
    assert np.isclose(np.square(part).sum(), np.square(samples).sum())
    assert np.array_equal(loudest_part(samples[:100]), samples[:100])


def test_quiet_noise_has_no_word() -> None:
    noise = np.random.default_rng(1).normal(0, 1, RATE).astype(np.float32)
    assert is_silent(noise * 10 ** (-65 / 20)) and not is_silent(noise * 10 ** (-55 / 20))
    assert is_silent(np.zeros(0, np.float32))


def test_the_command_line_classifies_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, samples in (("beep", tone(0.5, 440)), ("quiet", np.zeros(RATE, np.float32))):
        (tmp_path / f"{name}.wav").write_bytes(wav(Audio(samples, RATE)))
    files = [str(tmp_path / "beep.wav"), str(tmp_path / "quiet.wav")]
    fake = ("--set", "command.engine=fake")
    assert run(*fake, "commands", "classify", *files, data=tmp_path / "data") == 0
    assert capsys.readouterr().out == f"{files[0]}: beep 0.90\n{files[1]}: unknown 0.90\n"
    assert run(*fake, "commands", "classify", files[0], "--json", data=tmp_path / "data") == 0
    assert json.loads(capsys.readouterr().out)["label"] == "beep"
    assert run(*fake, "commands", "classify", "missing.wav", data=tmp_path / "data") == 2
    assert "missing.wav cannot be read" in capsys.readouterr().err
