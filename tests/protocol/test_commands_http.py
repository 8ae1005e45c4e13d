"""The routes of the teaching of commands, on the fake engine: samples, trainings, versions, and the rights of keys."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi import auth, settings
from chatapi.audio import RATE, Audio, wav
from conftest import FAKE_ENGINES, RunningServer, serving, tone
from running_interface import running_jobs

WAV = {"Content-Type": "audio/wav"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serving(settings.load([*FAKE_ENGINES, f"data={tmp_path}"], environ={}).settings) as running:
        with running_jobs(running):
            yield running


def submit(server: RunningServer, hertz: float, label: str = "whistle", **headers: str) -> httpx.Response:
    content = wav(Audio(tone(0.5, hertz), RATE))
    return server.client.post("/commands/samples", params={"label": label}, content=content, headers={**WAV, **headers})


def taught(server: RunningServer, **headers: str) -> dict[str, Any]:
    """Submits samples, trains, and returns the job."""
    for number in range(8):
        reply = submit(server, 1500 + number, **headers)
        assert reply.status_code == 201, reply.text
    reply = server.client.post("/commands/train", headers=headers)
    assert reply.status_code == 202, reply.text
    job: dict[str, Any] = reply.json()
    deadline = time.monotonic() + 60
    while job["state"] not in ("done", "failed"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        job = server.client.get(f"/jobs/{job['id']}", headers=headers).json()
    return job


def test_a_word_is_taught_over_http_and_rolled_back(server: RunningServer) -> None:
    assert taught(server)["state"] == "done"
    found = server.client.get("/commands/versions").json()
    assert found["active"] == 1 and found["versions"][0]["active"] and found["activations"][0]["cause"] == "trained"
    assert server.client.get("/commands").json() == {"labels": ["beep", "whistle"], "model": "", "version": 1}
    clip = wav(Audio(tone(0.5, 1510), RATE))
    reply = server.client.post("/commands/classify", content=clip, headers=WAV).json()
    assert (reply["label"], reply["version"]) == ("whistle", 1)
    assert server.client.post("/commands/rollback").json()["active"] == 0
    assert server.client.post("/commands/rollback").status_code == 409
    assert server.client.post("/commands/versions/1/activate").json()["active"] == 1
    assert server.client.post("/commands/versions/7/activate").status_code == 404


def test_samples_are_listed_heard_exported_reviewed_and_deleted(server: RunningServer) -> None:
    ids = [submit(server, 1500 + number).json()["sample"]["id"] for number in range(3)]
    page = server.client.get("/commands/samples", params={"limit": 2}).json()
    rest = server.client.get("/commands/samples", params={"before": page["next"]}).json()
    assert [each["id"] for each in (*page["samples"], *rest["samples"])] == ids[::-1] and rest["next"] is None
    sound = server.client.get(f"/commands/samples/{ids[0]}/audio")
    assert sound.headers["content-type"] == "audio/wav" and sound.content[:4] == b"RIFF"
    exported = server.client.get("/commands/samples/export")
    with tarfile.open(fileobj=io.BytesIO(exported.content)) as archive:
        lines = archive.extractfile("samples.jsonl")
        assert lines is not None and len([json.loads(line) for line in lines]) == 3
    changed = server.client.patch(f"/commands/samples/{ids[0]}", json={"state": "quarantined"}).json()
    assert (changed["state"], changed["reason"]) == ("quarantined", "reviewed")
    assert server.client.delete(f"/commands/samples/{ids[0]}").status_code == 204
    assert server.client.get(f"/commands/samples/{ids[0]}/audio").status_code == 404
    assert submit(server, 1501).json()["duplicate"] is True


def test_a_key_sees_its_own_samples_and_decides_nothing_about_versions(tmp_path: Path) -> None:
    with serving(settings.load([*FAKE_ENGINES, f"data={tmp_path}"], environ={}).settings) as server:
        keys = [{"X-API-Key": auth.add(tmp_path, name, ["train"])} for name in ("one", "two")]
        owner = {"X-API-Key": auth.add(tmp_path, "owner", ["operate"])}
        sample = submit(server, 1500, **keys[0]).json()["sample"]["id"]
        assert server.client.get("/commands/samples", headers=keys[1]).json()["samples"] == []
        assert server.client.delete(f"/commands/samples/{sample}", headers=keys[1]).status_code == 404
        body = {"json": {"state": "quarantined"}}
        assert server.client.patch(f"/commands/samples/{sample}", headers=keys[0], **body).status_code == 403
        assert server.client.patch(f"/commands/samples/{sample}", headers=owner, **body).status_code == 200
        assert server.client.post("/commands/rollback", headers=keys[0]).status_code == 403
        assert server.client.post("/commands/versions/0/activate", headers=keys[0]).status_code == 403
        assert server.client.get("/commands/samples", headers=owner).json()["samples"][0]["id"] == sample
        assert submit(server, 1600, **owner).status_code == 403


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "bad_audio"),
        (b"RIFF", 400, "bad_audio"),
        (wav(Audio(np.zeros(RATE, np.float32), RATE)), 422, "no_speech"),
        (wav(Audio(tone(2.0, 450), RATE)), 422, "sample_too_long"),
        (wav(Audio(tone(20.0, 450), RATE)), 422, "sample_too_long"),
        (wav(Audio(tone(0.1, 450), RATE)), 422, "sample_too_short"),
        (wav(Audio(np.sign(tone(0.5, 450)), RATE)), 422, "sample_clipped"),
    ],
    ids=["empty", "half", "silent", "two seconds", "twenty seconds", "short", "clipped"],
)
def test_a_bad_sample_is_rejected_with_its_reason(
    shared_server: RunningServer, content: bytes, status: int, code: str
) -> None:
    reply = shared_server.client.post("/commands/samples", params={"label": "a"}, content=content, headers=WAV)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert shared_server.client.get("/commands/samples").json()["samples"] == []


def test_another_rate_is_resampled(shared_server: RunningServer) -> None:
    content = wav(Audio(tone(0.5, 450, rate=44_100), 44_100))
    reply = shared_server.client.post("/commands/samples", params={"label": "hum"}, content=content, headers=WAV)
    assert reply.json()["sample"]["seconds"] == pytest.approx(0.5, abs=0.01)


def test_what_is_missing_has_named_errors(shared_server: RunningServer) -> None:
    client = shared_server.client
    assert client.post("/commands/train").json()["code"] == "nothing_to_train"
    assert client.delete("/commands/samples/none").json()["code"] == "unknown_sample"
    assert client.post("/commands/samples", content=b"", headers=WAV).status_code == 422
    assert client.post("/commands/versions/x/activate").status_code == 422
