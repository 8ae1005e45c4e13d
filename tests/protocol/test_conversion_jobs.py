"""Conversions as jobs, on the fake engine: long recordings, progress, result, owners, an interrupted job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.auth import add as add_key
from chatapi.services.transcription import parts
from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving, tone
from running_interface import running_jobs
from test_voices import CONSENT, add, clip, files, hertz

SOURCE = wav(Audio(tone(1.5, 440), RATE))


@pytest.fixture(scope="module")
def server(shared_server: RunningServer) -> Iterator[RunningServer]:
    assert add(shared_server, "anna", clip()).status_code == 201
    with running_jobs(shared_server):
        yield shared_server
    shared_server.client.delete("/voices/anna")


def ended(client: httpx.Client, job: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(f"/jobs/{job}", headers=headers).json()
        if found["state"] in ("done", "failed", "cancelled"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"job {job} has not ended")


def converted(server: RunningServer, content: bytes, **texts: str) -> httpx.Response:
    form = {"voice": "anna", "job": "true", **texts}
    reply: httpx.Response = server.client.post("/conversions", data=form, files=files(content, part="source"))
    return reply


def test_a_job_has_the_recording_in_the_voice_and_its_mark(server: RunningServer) -> None:
    reply = converted(server, SOURCE)
    assert reply.status_code == 202, reply.text
    job = reply.json()["id"]
    assert reply.headers["location"] == f"/jobs/{job}" and reply.json()["kind"] == "conversion"
    found = ended(server.client, job)
    assert found["state"] == "done" and found["progress"] == 1, found
    result = server.client.get(f"/conversions/{job}")
    assert result.status_code == 200 and result.headers["content-type"] == "audio/wav"
    assert b"converted speech, voice anna, chatapi " in result.content[:200]
    assert len(decode(result.content).samples) == 1.5 * RATE and hertz(result.content) == pytest.approx(880, abs=5)
    folder = server.appliance.settings.data / "jobs" / job
    assert not (folder / "source").exists() and not (folder / "reference.npy").exists()
    assert server.client.delete(f"/jobs/{job}").status_code == 204 and not folder.exists()


def test_a_long_recording_becomes_a_job_of_several_parts(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_SECONDS", 8.0)
    monkeypatch.setattr(parts, "SEARCH_SECONDS", 4.0)
    pause = np.zeros(RATE, np.float32)
    source = np.concatenate([part for _ in range(6) for part in (tone(3, 440), pause)])
    chosen = fake_settings("voice_converter.max_seconds=5", "voice_converter.max_job_seconds=60")
    with serving(chosen) as running, running_jobs(running):
        assert add(running, "anna", clip()).status_code == 201
        form = {"voice": "anna"}
        reply = running.client.post("/conversions", data=form, files=files(wav(Audio(source, RATE)), part="source"))
        assert reply.status_code == 202, reply.text
        # The voice may be deleted while the job waits.
        assert running.client.delete("/voices/anna").status_code == 204
        job = ended(running.client, reply.json()["id"])
        assert job["state"] == "done", job
        assert len([each for each in job["steps"] if each["name"].startswith("part-")]) >= 3
        found = decode(running.client.get(f"/conversions/{job['id']}").content).samples
        assert len(found) == len(source) and hertz(wav(Audio(found, RATE))) == pytest.approx(880, abs=5)
        loud = np.abs(found.reshape(-1, RATE // 10)).max(axis=1) > 0.1
        expected = np.abs(source.reshape(-1, RATE // 10)).max(axis=1) > 0.1
        # The fake engine judges a second at a time.
        assert np.mean(loud == expected) > 0.8
        too_long = wav(Audio(np.zeros(61 * RATE, np.float32), RATE))
        assert add(running, "anna", clip()).status_code == 201
        reply = running.client.post("/conversions", data=form, files=files(too_long, part="source"))
        failed = ended(running.client, reply.json()["id"])
        assert failed["state"] == "failed" and failed["failure"]["code"] == "audio_too_long", failed


def test_clips_of_the_request_make_a_job_too(server: RunningServer) -> None:
    form = [*files(SOURCE, part="source"), *files(clip(), part="targets")]
    texts = {"job": "true", "consent": CONSENT}
    reply = server.client.post("/conversions", data=texts, files=form)
    assert reply.status_code == 202, reply.text
    assert ended(server.client, reply.json()["id"])["state"] == "done"
    content = server.client.get(f"/conversions/{reply.json()['id']}").content
    assert b"voice of the request's clips" in content[:200]
    reply = server.client.post("/conversions", data={"job": "true"}, files=form)
    assert reply.json()["code"] == "consent_required"


def test_an_unreadable_recording_fails_with_its_reason(server: RunningServer) -> None:
    reply = converted(server, b"no audio at all")
    failed = ended(server.client, reply.json()["id"])
    assert failed["state"] == "failed" and failed["failure"]["code"] == "bad_audio", failed
    reply = server.client.get(f"/conversions/{failed['id']}")
    assert (reply.status_code, reply.json()["code"]) == (409, "job_not_done")


def test_a_key_sees_its_own_jobs(fake_settings: Callable[..., Settings]) -> None:
    chosen = fake_settings()
    mine, other = (add_key(chosen.data, name, ["voices"]) for name in ("one", "two"))
    with serving(chosen) as running, running_jobs(running):
        assert add(running, "anna", clip(), key=mine).status_code == 201
        form, headers = files(SOURCE, part="source"), {"X-API-Key": mine}
        reply = running.client.post("/conversions", data={"voice": "anna", "job": "1"}, files=form, headers=headers)
        job = ended(running.client, reply.json()["id"], headers)["id"]
        assert running.client.get(f"/conversions/{job}", headers=headers).status_code == 200
        assert running.client.get(f"/conversions/{job}", headers={"X-API-Key": other}).status_code == 404
