"""Transcription jobs of a server process that is killed, paused and resumed: no finished part is transcribed again."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import transcription_server
from chatapi.audio import RATE, Audio, wav
from chatapi.jobs import JobStore
from conftest import TIMEOUT, tone
from test_jobs_server import serving

pytestmark = pytest.mark.slow

PAUSE = np.zeros(RATE, np.float32)
FILE = wav(Audio(np.concatenate([part for _ in range(16) for part in (tone(3), PAUSE)]), RATE))
SLOW = "fake.delay=0.002"
"""A step of a fake engine, of which a frame of the detector is one, takes 2 ms."""
SLOWER = "fake.delay=0.02"
SCRIPT = transcription_server.__file__


def submitted(client: httpx.Client, **options: str) -> str:
    response = client.post("/transcriptions", files={"file": ("talk.wav", FILE)}, data=options)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def parts_of(store: JobStore, job: str, state: str) -> Counter[str]:
    """How often each part was in a state."""
    found = (event.data for event in store.events(job) if event.type == "step" and event.data["state"] == state)
    return Counter(each["step"] for each in found if each["step"].startswith("part-"))


def wait_for_parts(store: JobStore, job: str, count: int) -> None:
    end = time.monotonic() + TIMEOUT
    while len(parts_of(store, job, "finished")) < count and not store.get(job).finished:
        assert time.monotonic() < end
        time.sleep(0.01)


def result(client: httpx.Client, job: str) -> dict[str, Any]:
    end = time.monotonic() + TIMEOUT
    while (found := client.get(f"/jobs/{job}").json())["state"] != "done":
        assert found["state"] in ("queued", "running") and time.monotonic() < end, found
        time.sleep(0.05)
    document: dict[str, Any] = client.get(f"/jobs/{job}/result").json()
    return document


def test_kills_and_pauses_cost_at_most_the_part_in_progress(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path)) as store:
        with serving(tmp_path, SLOW, script=SCRIPT) as server:
            job = submitted(server.client)
            wait_for_parts(store, job, 1)
            server.process.kill()
            server.process.wait()
        for count in (2, 3):
            with serving(tmp_path, SLOW, script=SCRIPT) as server:
                wait_for_parts(store, job, count)
                assert server.client.get(f"/jobs/{job}").json()["text"]
                server.process.kill()
                server.process.wait()
        with serving(tmp_path, SLOW, script=SCRIPT) as server:
            wait_for_parts(store, job, 4)
            assert server.client.post(f"/jobs/{job}/pause").status_code == 200
            end = time.monotonic() + TIMEOUT
            while (paused := server.client.get(f"/jobs/{job}").json())["state"] != "paused":
                assert paused["state"] == "running" and time.monotonic() < end
                time.sleep(0.02)
            assert 0.3 < paused["progress"] < 1
        with serving(tmp_path, script=SCRIPT) as server:
            assert server.client.get(f"/jobs/{job}").json()["state"] == "paused"
            assert server.client.post(f"/jobs/{job}/resume").json()["state"] == "queued"
            disturbed = result(server.client, job)
            undisturbed = result(server.client, submitted(server.client))
        assert disturbed == undisturbed and len(disturbed["segments"]) == 16
        finished = parts_of(store, job, "finished")
        assert len(finished) > 6 and set(finished.values()) == {1}


def wait_for_speakers(store: JobStore, job: str, starts: int) -> None:
    """Wait until the step of speaker labels has begun so often."""
    end = time.monotonic() + TIMEOUT
    while True:
        events = [event.data for event in store.events(job) if event.type == "step"]
        if sum(each["step"] == "speakers" and each["state"] == "started" for each in events) >= starts:
            return
        assert time.monotonic() < end and not store.get(job).finished
        time.sleep(0.01)


def test_speakers_that_end_the_process_again_and_again_cost_no_text(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path)) as store:
        with serving(tmp_path, SLOW, script=SCRIPT) as server:
            job = submitted(server.client, speakers="true")
            wait_for_speakers(store, job, 1)
            server.process.kill()
            server.process.wait()
        with serving(tmp_path, SLOWER, script=SCRIPT) as server:
            wait_for_speakers(store, job, 2)
            assert server.client.post(f"/jobs/{job}/pause").status_code == 200
            end = time.monotonic() + TIMEOUT
            while server.client.get(f"/jobs/{job}").json()["state"] != "paused":
                assert time.monotonic() < end
                time.sleep(0.02)
            # This forgets the kill before it.
            assert server.client.post(f"/jobs/{job}/resume").status_code == 200
            wait_for_speakers(store, job, 3)
            server.process.kill()
            server.process.wait()
        with serving(tmp_path, SLOWER, script=SCRIPT) as server:
            wait_for_speakers(store, job, 4)
            server.process.kill()
            server.process.wait()
        with serving(tmp_path, SLOW, script=SCRIPT) as server:
            document = result(server.client, job)
    assert len(document["segments"]) == 16 and document["speakers_error"]["code"] == "engine_failed"
