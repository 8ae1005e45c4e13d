"""SIGKILL of a server that stores samples, trains and switches: no sample is lost, and no half version is there."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress
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

KILLS = int(os.environ.get("CHATAPI_TEST_KILLS", "4"))
"""How often the server is killed."""
TRAINING_SECONDS = 0.3
"""Time without requests after a training is asked for, in seconds."""
WAV = {"Content-Type": "audio/wav"}


def teach_until_killed(server: Served, accepted: set[str], first: int, pause: float) -> None:
    """Submits samples, trains and switches until the connection breaks; the kill comes after `pause` seconds."""
    killer = threading.Timer(pause, server.process.kill)
    killer.start()
    client, number = server.client, first
    with suppress(httpx.TransportError):
        while True:
            content = wav(Audio(tone(0.5, 1500 + number % 40 + number / 1000), RATE))
            reply = client.post("/commands/samples", params={"label": "whistle"}, content=content, headers=WAV)
            assert reply.status_code == 201, reply.text
            accepted.add(reply.json()["sample"]["id"])
            number += 1
            if number % 4 == 0:
                assert client.post("/commands/train").status_code in (202, 409, 422)
                # A training yields to requests.
                time.sleep(TRAINING_SECONDS)
            if number % 6 == 0:
                assert client.post("/commands/versions/0/activate").status_code == 200
    killer.join()
    server.process.wait()


@pytest.mark.slow
def test_kills_lose_no_sample_and_leave_no_half_version(tmp_path: Path) -> None:
    accepted: set[str] = set()
    made = 0
    seed = random.Random(3)
    for number in range(KILLS):
        with serving(tmp_path, "commands.max_per_key_per_day=100000") as server:
            assert server.client.get("/commands").json()["labels"][0] == "beep"
            teach_until_killed(server, accepted, number * 1000, seed.uniform(0.3, 5))
        database = CommandDatabase(tmp_path)
        store = SampleStore(tmp_path, database, settings.Settings().commands)
        versions = VersionStore(tmp_path, database)
        found = {each.id: each for each in store.find(None, most=100_000)}
        assert accepted <= {*found}
        assert all(len(store.samples_of(found[each])) == RATE // 2 for each in accepted)
        assert all(versions.head(each.number) is not None for each in versions.versions())
        versions.head(versions.active())
        made = len(versions.versions())
        database.close()
    with serving(tmp_path) as server:
        content = wav(Audio(tone(0.5, 450), RATE))
        reply = server.client.post("/commands/classify", content=content, headers=WAV)
        assert reply.json()["label"] == "beep"
    print(f"{KILLS} kills: {len(accepted)} samples accepted and kept, {made} versions whole")
    assert accepted
