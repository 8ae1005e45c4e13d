"""The command classifiers with their real networks: their replay sets, and a word that is taught by some voices."""

from __future__ import annotations

import csv
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import Samples
from chatapi.audio.decode import decode
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.errors import NotFound
from chatapi.services.command_recognition import head as heads
from chatapi.services.command_recognition.judging import judge
from chatapi.services.command_recognition.sample_store import Submitter
from chatapi.services.command_recognition.training import calibrated, judged_clips, training_rows
from chatapi.settings import Settings
from conftest import DEFAULTS, MODELS, RunningServer, installed_model, serving
from paths import CORPUS
from running_interface import running_jobs

pytestmark = [pytest.mark.real, pytest.mark.anyio]
BY = Submitter("key", "test")
POISONER = Submitter("poisoner", "test")


@pytest.fixture
async def appliance(tmp_path: Path) -> AsyncIterator[Appliance]:
    (tmp_path / "models").symlink_to(MODELS / "models")
    found = settings.load([*DEFAULTS, f"data={tmp_path}"], environ={}).settings
    async with Appliance(found).running() as running:
        await running.load({"command", "vad"})
        yield running


def clips(word: str) -> list[tuple[str, Path]]:
    """Voice and file of each clip of a word."""
    with (CORPUS / "commands.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["text"] == word]
    return sorted((row["voice"], CORPUS / row["file"]) for row in rows)


def test_the_replay_set_is_that_of_the_network_and_its_voices_are_recognized() -> None:
    engine = TcResNet(Settings(), [installed_model("command-words")])
    [replay] = engine.replay()
    assert replay.embeddings.shape[1] == len(next(engine.classify(np.zeros(16_000, np.float32))).embedding)
    rows = training_rows(replay, engine.labels, [], {})
    head = calibrated(heads.train(rows, engine.labels, engine.features, lambda *_: None), replay, engine.labels, 0.6)
    figures = judge(head, judged_clips(replay, engine.labels, [], {}, engine.labels))
    print(figures.accuracy, figures.false_accepts)
    assert figures.accuracy > 0.6 and figures.false_accepts < 0.2


async def test_a_word_is_taught_by_some_voices_and_recognized_from_others(appliance: Appliance) -> None:
    """Runs the steps of a training without its job."""
    teaching = appliance.command_teaching
    files = [file for _, file in clips("Hello.")]
    taught = [file for number, file in enumerate(files) if number % 3]
    for file in taught:
        await teaching.submission.submit(decode(file).samples, "hello", BY)
    samples = teaching.samples.find(None, state="accepted")
    assert len(samples) == len(taught)
    engine = await appliance.engines.command.open()
    embeddings = {}
    for sample in samples:
        found = [next(engine.classify(teaching.samples.samples_of(sample)))]
        embeddings[sample.id] = np.stack([each.embedding for each in found])
    [replay] = engine.replay()
    labels = (*engine.labels[:-1], "hello", engine.labels[-1])
    head = heads.train(training_rows(replay, labels, samples, embeddings), labels, engine.features, lambda *_: None)
    taken = []
    for file in files[::3]:
        row = next(engine.classify(decode(file).samples[:16_000])).embedding
        taken.append(labels[int(head.probabilities(row[None]).argmax())])
    print(taken)
    assert taken.count("hello") >= 2
    with pytest.raises(NotFound):
        await teaching.switch(1, "activated")


def altered(samples: Samples, number: int) -> Samples:
    """The clip at another speed and level, so that it is another sound."""
    speed = 0.9 + number % 41 / 200
    places = np.arange(0, len(samples) - 1, speed)
    return (np.interp(places, np.arange(len(samples)), samples) * (0.6 + number % 7 / 20)).astype(np.float32)[:16_000]


def test_two_hundred_poisoned_samples_do_not_change_what_is_recognized(tmp_path: Path) -> None:
    """One key says `stop` is `hello`; another one has taught `hello`."""
    installed_model("whisper-base-words")
    (tmp_path / "models").symlink_to(MODELS / "models")
    chosen = settings.load([*DEFAULTS, f"data={tmp_path}"], environ={}).settings
    with serving(chosen, load=False) as server, running_jobs(server):
        teaching, call = server.appliance.command_teaching, server.portal.call
        call(server.appliance.load, {"command", "vad"})
        hello = [decode(file).samples for _, file in clips("Hello.")]
        stop = [decode(file).samples for _, file in clips("Stop.")]
        for number, samples in enumerate(hello):
            call(teaching.submission.submit, altered(samples, number), "hello", BY)
        version = trained(server)

        def answers() -> list[str]:
            classify = server.appliance.command_recognition.classify_samples
            return [call(classify, each[:16_000], False).label for each in (*hello, *stop)]

        before = answers()
        assert version == 1 and before.count("hello") > len(hello) / 2 and before.count("stop") > len(stop) / 2
        states = [
            call(teaching.submission.submit, altered(stop[number % len(stop)], number + 50), "hello", POISONER)
            for number in range(200)
        ]
        quarantined = sum(each.sample.state == "quarantined" for each in states)
        print(f"{quarantined} of 200 quarantined; before: {before}")
        trained(server)
        after = answers()
        changed = sum(one != other for one, other in zip(before, after, strict=True))
        print(f"{changed} of {len(before)} answers changed")
        assert quarantined > 150 and changed <= 1


def trained(server: RunningServer) -> int:
    """Trains where there is something to train; returns the active version."""
    teaching = server.appliance.command_teaching
    job = server.portal.call(teaching.train, "key", False)
    while not (found := server.portal.call(teaching.training, job.id)).finished:
        time.sleep(0.2)
    assert found.state == "done", found.failure
    return server.portal.call(teaching.listed)[0]
