"""Teaching of commands on the fake engine: trainings, versions, switches, roll back, poisoning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chatapi import settings
from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.services.command_recognition.sample_store import Submitter
from chatapi.services.command_recognition.teaching import CommandTeaching
from conftest import FAKE_ENGINES, RunningServer, serving, tone
from running_interface import running_jobs

BY = Submitter("key-1", "test")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with (
        serving(settings.load([*FAKE_ENGINES, f"data={tmp_path}"], environ={}).settings) as running,
        running_jobs(running),
    ):
        yield running


def teaching(server: RunningServer) -> CommandTeaching:
    return server.appliance.command_teaching


def noisy(hertz: float, seed: int) -> Samples:
    noise = np.random.default_rng(seed).normal(0, 0.01, RATE // 2)
    return (tone(0.5, hertz) + noise).astype(np.float32)


def submit(server: RunningServer, label: str, hertz: float, count: int, by: Submitter = BY) -> list[str]:
    """Submits tones around a frequency; returns the states of the samples."""
    submission, states = teaching(server).submission, []
    for number in range(count):
        clip = noisy(hertz + number % 7, number + round(hertz))
        found = server.portal.call(submission.submit, clip, label, by)
        states.append(found.sample.state)
    return states


def train(server: RunningServer) -> dict[str, object]:
    """Runs a training to its end and returns the newest version's document."""
    job = server.portal.call(teaching(server).train, "key-1", False)
    deadline = time.monotonic() + 60
    while not (found := server.portal.call(teaching(server).training, job.id)).finished:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found.state == "done", found.failure
    active, versions = server.portal.call(teaching(server).listed)
    return {**versions[0].document(), "active": active}


def classify(server: RunningServer, hertz: float, seed: int = 999) -> tuple[str, int]:
    found = server.portal.call(server.appliance.command_recognition.classify_samples, noisy(hertz, seed))
    return found.label, found.version


def test_a_taught_word_is_recognized_and_the_old_one_is_not_forgotten(server: RunningServer) -> None:
    assert submit(server, "whistle", 1500, 8) == ["accepted"] * 8
    assert classify(server, 1500) == ("beep", 0)
    made = train(server)
    assert (made["number"], made["active"], made["parent"], made["verdict"]) == (1, 1, 0, ())
    assert made["labels"] == ("beep", "whistle", "unknown") and made["samples"] == 6
    figures = made["figures"]
    assert isinstance(figures, dict) and figures["new"]["accuracy"] == 1.0 and figures["new"]["held_out"] == 1.0
    assert figures["old"]["words"]["whistle"] == 0.0
    assert figures["curve"][0][1] > figures["curve"][-1][1]
    assert classify(server, 1500) == ("whistle", 1)
    assert classify(server, 450) == ("beep", 1)
    assert server.portal.call(server.appliance.command_recognition.labels) == ("beep", "whistle")


def test_versions_are_rolled_back_and_activated_and_survive_a_restart(server: RunningServer, tmp_path: Path) -> None:
    submit(server, "whistle", 1500, 8)
    train(server)
    submit(server, "hum", 150, 8)
    assert train(server)["parent"] == 1
    assert classify(server, 150) == ("hum", 2)
    assert server.portal.call(teaching(server).roll_back) == 1
    assert classify(server, 1500) == ("whistle", 1)
    assert server.portal.call(teaching(server).roll_back) == 0
    with pytest.raises(ChatapiError) as raised:
        server.portal.call(teaching(server).roll_back)
    assert raised.value.code == "nothing_to_roll_back"
    server.portal.call(teaching(server).switch, 2, "activated")
    with serving(server.appliance.settings) as again:
        assert classify(again, 150) == ("hum", 2)
    causes = [each.cause for each in teaching(server).versions.activations()]
    assert causes == ["activated", "rolled_back", "rolled_back", "trained", "trained"]


def test_a_damaged_version_is_not_activated(server: RunningServer) -> None:
    submit(server, "whistle", 1500, 8)
    train(server)
    server.portal.call(teaching(server).roll_back)
    [file] = teaching(server).versions.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ChatapiError) as raised:
        server.portal.call(teaching(server).switch, 1, "activated")
    assert raised.value.code == "version_damaged"
    assert classify(server, 1500) == ("beep", 0)


def test_a_version_is_rolled_back_when_much_more_is_unknown(server: RunningServer) -> None:
    for number in range(60):
        classify(server, 450, number)
    submit(server, "whistle", 1500, 8)
    train(server)
    silence = np.zeros(RATE, np.float32)
    for number in range(50):
        clip = noisy(450, number) if number % 2 else silence
        server.portal.call(server.appliance.command_recognition.classify_samples, clip)
    deadline = time.monotonic() + 10
    while teaching(server).versions.activations(1)[0].cause != "unknown_share":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert classify(server, 450) == ("beep", 0)


def test_two_hundred_poisoned_samples_of_one_key_do_not_change_the_active_version(server: RunningServer) -> None:
    submit(server, "whistle", 1500, 8)
    train(server)
    states = submit(server, "whistle", 450, 200, Submitter("poisoner", "test"))
    assert states.count("quarantined") >= 190
    before = [classify(server, hertz) for hertz in (450, 1500)]
    try:
        train(server)
    except ChatapiError as error:
        assert error.code == "nothing_to_train"
    assert [label for label, _ in before] == ["beep", "whistle"]
    assert [classify(server, hertz)[0] for hertz in (450, 1500)] == ["beep", "whistle"]


def test_a_new_word_of_noise_is_not_activated(server: RunningServer) -> None:
    submission = teaching(server).submission
    for number in range(200):
        noise = np.random.default_rng(number + 5000).normal(0, 0.1, RATE // 2).astype(np.float32)
        server.portal.call(submission.submit, noise, "static", Submitter("poisoner", "test"))
    made = train(server)
    assert made["active"] == 0 and made["verdict"], made["verdict"]


def test_nothing_to_train_and_one_training_at_a_time(server: RunningServer) -> None:
    submit(server, "whistle", 1500, 3)
    with pytest.raises(ChatapiError) as raised:
        server.portal.call(teaching(server).train, "key-1", False)
    assert raised.value.code == "nothing_to_train"
