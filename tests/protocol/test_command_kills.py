"""SIGKILL of a server that stores samples, trains and switches: no sample is lost, and no half version is there."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.services.command_recognition.database import CommandDatabase
from chatapi.services.command_recognition.sample_store import SampleStore
from chatapi.services.command_recognition.versions import VersionStore
from conftest import tone
from test_jobs_server import Served, serving

KILLS = int(os.environ.get("CHATAPI_TEST_KILLS", "6"))
"""How often the server is killed."""
PHASES = {"submit": 0.05, "training": 1.5, "switch": 0.05}
"""What the server does when it is killed -> how long after its beginning at most, in seconds."""
WAV = {"Content-Type": "audio/wav"}


@dataclass
class Teacher:
    """A client that submits samples, trains and switches until the connection breaks."""

    server: Served
    target: str
    """The phase in which the server is killed."""
    delay: float
    """Time after the beginning of the phase, in seconds."""
    round: int
    """The phase's how manieth time, from 0."""
    number: int
    """Of the next sample: each sounds different."""
    accepted: set[str]
    killed_in: str = ""
    finished: int = 0
    """Trainings that ended while the server lived."""
    _seen: int = 0

    def run(self) -> None:
        with suppress(httpx.TransportError):
            while True:
                self._submit(8)
                self._train()
                self._switch()
        self.server.process.wait()

    def _begin(self, phase: str) -> None:
        self.killed_in = phase
        if phase == self.target:
            if self._seen == self.round:
                threading.Timer(self.delay, self.server.process.kill).start()
            self._seen += 1

    def _submit(self, count: int) -> None:
        for _ in range(count):
            self._begin("submit")
            content = wav(Audio(tone(0.5, 1500 + self.number % 40 + self.number / 1000), RATE))
            reply = self.server.client.post(
                "/commands/samples", params={"label": "whistle"}, content=content, headers=WAV
            )
            assert reply.status_code == 201, reply.text
            self.accepted.add(reply.json()["sample"]["id"])
            self.number += 1

    def _train(self) -> None:
        self._begin("training")
        reply = self.server.client.post("/commands/train")
        # One of the life before may go on.
        assert reply.status_code in (202, 409), reply.text
        while (job := self.server.client.get("/jobs?kind=command_training&limit=1").json()["jobs"][0])["state"] in (
            "queued",
            "running",
        ):
            time.sleep(0.05)
        assert job["state"] == "done", job
        self.finished += 1

    def _switch(self) -> None:
        found = self.server.client.get("/commands/versions").json()
        for version in (0, found["versions"][0]["number"]):
            self._begin("switch")
            assert self.server.client.post(f"/commands/versions/{version}/activate").status_code == 200


def require_whole(data: Path, accepted: set[str]) -> int:
    """Every accepted sample and every version can be read, and the active one too; returns the number of versions."""
    database = CommandDatabase(data)
    store, versions = SampleStore(data, database, settings.Settings().commands), VersionStore(data, database)
    found = {each.id: each for each in store.find(None, most=100_000)}
    assert accepted <= {*found}
    assert all(len(store.samples_of(found[each])) == RATE // 2 for each in accepted)
    assert all(versions.head(each.number) is not None for each in versions.versions())
    versions.head(versions.active())
    made = len(versions.versions())
    database.close()
    return made


def require_served(server: Served, answers: dict[int, list[tuple[str, float]]]) -> None:
    """The active version knows the model's own word, and answers as it did before a kill; `answers`: by version."""
    found = []
    for hertz in (450, 1520):
        content = wav(Audio(tone(0.5, hertz), RATE))
        reply = server.client.post("/commands/classify", content=content, headers=WAV).json()
        found.append((reply["label"], round(reply["probability"], 6)))
    assert found[0][0] == "beep"
    # A training that a kill interrupted may switch between two requests.
    version = server.client.get("/commands").json()["version"]
    if reply["version"] == version:
        assert answers.setdefault(version, found) == found


@pytest.mark.slow
def test_kills_lose_no_sample_and_leave_no_half_version(tmp_path: Path) -> None:
    accepted: set[str] = set()
    killed_in: Counter[str] = Counter()
    answers: dict[int, list[tuple[str, float]]] = {}
    made = finished = 0
    seed = random.Random(3)
    for number in range(KILLS):
        target = [*PHASES][number % len(PHASES)]
        with serving(tmp_path, "commands.max_per_key_per_day=100000") as server:
            require_served(server, answers)
            teacher = Teacher(
                server, target, seed.uniform(0, PHASES[target]), seed.randrange(2), number * 1000, accepted
            )
            teacher.run()
        killed_in[teacher.killed_in] += 1
        finished += teacher.finished
        made = require_whole(tmp_path, accepted)
    with serving(tmp_path) as server:
        require_served(server, answers)
    print(f"{KILLS} kills in {dict(killed_in)}: {len(accepted)} samples accepted and kept, {finished} trainings "
          f"finished, {made} versions whole, "
          f"{len(answers)} answered alike after restarts")  # fmt: skip
    assert accepted and finished and made
