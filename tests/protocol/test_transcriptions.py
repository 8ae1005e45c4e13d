"""Transcription jobs over HTTP: recordings as forms, raw bodies and URLs, results in all formats, keys, and limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi import auth, settings
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.services.transcription import parts
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, serving, tone
from file_server import serve_files
from running_interface import running_jobs
from secured_server import SecuredServer, secured

__all__ = ["secured"]

PAUSE = np.zeros(2 * RATE, np.float32)
LENGTHS = (9, 8, 12, 10, 7)
"""Seconds of speech between two pauses."""
AUDIO: Samples = np.concatenate([part for each in LENGTHS for part in (tone(each), PAUSE)])
FILE = wav(Audio(AUDIO, RATE))
SECONDS = len(AUDIO) / RATE
FORM = {"file": ("two/meeting.wav", FILE, "audio/wav")}


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_SECONDS", 20.0)
    monkeypatch.setattr(parts, "SEARCH_SECONDS", 12.0)


@pytest.fixture
def server(fake_server: RunningServer) -> Iterator[RunningServer]:
    with running_jobs(fake_server):
        yield fake_server


@contextmanager
def with_settings(tmp_path: Path, *more: str) -> Iterator[RunningServer]:
    given = settings.load([*FAKE_ENGINES, f"data={tmp_path}", *more], environ={}).settings
    with serving(given) as running, running_jobs(running):
        yield running


def ended(server: RunningServer, job: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The document of a job once it has ended."""
    end = time.monotonic() + TIMEOUT
    while True:
        found: dict[str, Any] = server.client.get(f"/jobs/{job}", headers=headers).json()
        if found["state"] in ("done", "failed", "cancelled"):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def wait_until_deleted(path: Path) -> None:
    """A job is done before its work folder is deleted."""
    end = time.monotonic() + TIMEOUT
    while path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def submitted(server: RunningServer, **request: Any) -> str:
    response = server.client.post("/transcriptions", **request)
    assert response.status_code == 202, response.text
    document = response.json()
    assert response.headers["Location"] == f"/jobs/{document['id']}"
    return str(document["id"])


def problem_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def folders(server: RunningServer) -> list[Path]:
    place = server.appliance.settings.data / "jobs"
    return sorted(place.iterdir()) if place.exists() else []


def test_a_form_is_transcribed_part_by_part_in_every_format(server: RunningServer) -> None:
    options = {"words": "true", "hotwords": "Beckett, Austen", "formats": "srt,json", "language": "en"}
    job = submitted(server, files=FORM, data=options)
    done = ended(server, job)
    assert done["state"] == "done" and done["progress"] == 1 and done["kind"] == "transcription"
    steps = [each["name"] for each in done["steps"]]
    assert steps == [
        "measure",
        *(f"part-{number}" for number in range(len(steps) - 4)),
        "result",
        "audio",
        "delete-upload",
    ]
    assert len(steps) > 5
    document = server.client.get(f"/jobs/{job}/result", params={"format": "json"}).json()
    assert document["duration"] == pytest.approx(SECONDS, abs=0.01) and document["gaps"] == []
    assert done["text"] == document["text"] and document["language"] == "en"
    starts = [each["start"] for each in document["segments"]]
    expected = np.cumsum([0, *(length + 2 for length in LENGTHS[:-1])])
    assert starts == pytest.approx(expected, abs=0.3)
    ends = [each["end"] for each in document["segments"]]
    assert ends == pytest.approx(expected + LENGTHS, abs=0.3)
    assert all(each["words"] for each in document["segments"])
    captions = server.client.get(f"/jobs/{job}/result")
    assert captions.text.startswith("1\n00:00:00,") and captions.headers["Content-Type"].startswith("application/x-sub")
    assert server.client.get(f"/jobs/{job}/result?format=vtt").text.startswith("WEBVTT\n\n00:00:00.")
    lines = server.client.get(f"/jobs/{job}/result?format=tsv").text.splitlines()
    assert lines[0] == "start\tend\ttext" and len(lines) == 1 + len(LENGTHS)
    assert len(server.client.get(f"/jobs/{job}/result?format=txt").text.splitlines()) == len(LENGTHS)
    assert problem_of(server.client.get(f"/jobs/{job}/result?format=doc")) == (422, "invalid_value")
    [folder] = folders(server)
    assert not (folder / "source").exists()
    wait_until_deleted(folder / "work")
    assert server.client.delete(f"/jobs/{job}").status_code == 204 and folders(server) == []


def test_a_raw_body_has_its_options_in_the_query(server: RunningServer) -> None:
    headers = {"Content-Type": "audio/wav"}
    job = submitted(server, content=FILE, headers=headers, params={"formats": "txt", "translate": "true"})
    assert ended(server, job)["state"] == "done"
    assert server.client.get(f"/jobs/{job}/result").headers["Content-Type"].startswith("text/plain")
    assert server.client.get(f"/jobs/{job}/result?format=json").json()["task"] == "translate"
    empty = server.client.post("/transcriptions", content=b"", headers=headers)
    assert problem_of(empty) == (400, "bad_audio")


def test_what_cannot_be_done_is_rejected_by_name_and_leaves_nothing(server: RunningServer) -> None:
    def rejected(expected: tuple[int, str], **data: str) -> str:
        response = server.client.post("/transcriptions", files=FORM, data=data)
        assert problem_of(response) == expected, response.text
        return str(response.json()["detail"])

    assert "speaker_count" in rejected((422, "invalid_value"), speaker_count="2")
    assert "known_speaker_names" in rejected((422, "invalid_value"), known_speaker_names="Ann")
    assert "has 1 names" in rejected((422, "invalid_value"), known_speaker_names="Ann", speakers="true")
    assert "klingon" in rejected((422, "unknown_language"), language="klingon")
    assert "there is no option 'diarise'" in rejected((422, "invalid_value"), diarise="1")
    assert "formats" in rejected((422, "invalid_value"), formats="docx")
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    cut = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + FILE[:1000]
    assert problem_of(server.client.post("/transcriptions", content=cut, headers=boundary)) == (400, "invalid_form")
    assert problem_of(server.client.post("/transcriptions", content=b"x", headers={"Content-Type": "text/plain"})) == (
        415,
        "unsupported_media_type",
    )
    assert folders(server) == []
    assert submitted(server, files=FORM, data={"speakers": "false"})


def test_a_file_without_audio_fails_with_the_reason(server: RunningServer) -> None:
    job = submitted(server, files={"file": ("notes.wav", b"these are only words " * 100)})
    failed = ended(server, job)
    assert failed["state"] == "failed" and failed["failure"]["code"] == "bad_audio"
    assert problem_of(server.client.get(f"/jobs/{job}/result")) == (409, "job_not_done")
    assert server.client.post(f"/jobs/{job}/retry").status_code == 200
    assert ended(server, job)["failure"]["code"] == "bad_audio"


DAMAGED = {
    "empty": b"",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "header alone": FILE[:44],
    "random": np.random.default_rng(3).bytes(5000),
    "page": b"<!doctype html><html><body>not found</body></html>",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_recording_fails_with_a_named_error(server: RunningServer, kind: str) -> None:
    failed = ended(server, submitted(server, files={"file": ("talk.mp3", DAMAGED[kind])}))
    assert (failed["state"], failed["failure"]["code"]) == ("failed", "bad_audio"), failed
    assert failed["attempts"] == 1 and failed["failure"]["message"]


def test_damaged_recordings_are_transcribed_as_far_as_they_go(server: RunningServer) -> None:
    cut = ended(server, submitted(server, files={"file": ("talk.wav", FILE[: len(FILE) // 2])}))
    assert cut["state"] == "done"
    document = server.client.get(f"/jobs/{cut['id']}/result").json()
    assert document["duration"] == pytest.approx(SECONDS / 2, abs=0.1) and len(document["segments"]) > 1
    # A second that states twenty hours.
    lying = bytearray(wav(Audio(tone(1), RATE)))
    lying[40:44] = (20 * 3600 * RATE * 2).to_bytes(4, "little")
    short = ended(server, submitted(server, files={"file": ("talk.wav", bytes(lying))}))
    assert short["state"] == "done" and short["progress"] == 1
    assert server.client.get(f"/jobs/{short['id']}/result").json()["duration"] == pytest.approx(1, abs=0.01)


def test_a_url_is_fetched_by_the_job(tmp_path: Path) -> None:
    with serve_files() as files, with_settings(tmp_path, "transcription.private_urls=true") as server:
        url = files.put("talks/one.wav", FILE)
        files.put("moved?token=secret", b"", location=url)
        files.put("gone", b"", statuses=[404] * 9)
        job = submitted(server, json={"url": f"{files.address}/moved?token=secret", "formats": ["txt"]})
        done = ended(server, job)
        assert done["state"] == "done", done
        assert server.client.get(f"/jobs/{job}/result?format=json").json()["duration"] == pytest.approx(
            SECONDS, abs=0.1
        )
        assert "secret" not in json.dumps(done)
        failed = ended(server, submitted(server, json={"url": f"{files.address}/gone"}))
        assert failed["failure"]["code"] == "source_rejected"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1/a.wav", "url_not_public"),
        ("http://localhost/a.wav", "url_not_public"),
        ("http://[::1]/a.wav", "url_not_public"),
        ("http://[::ffff:127.0.0.1]/a.wav", "url_not_public"),
        ("http://169.254.169.254/latest", "url_not_public"),
        ("http://10.1.2.3/a.wav", "url_not_public"),
        ("http://0x7f000001/a.wav", "url_not_public"),
        ("http://0/a.wav", "url_not_public"),
        ("http://no-such-host.invalid/a.wav", "source_unreachable"),
        ("file:///etc/passwd", "invalid_url"),
        ("http://user:word@example.com/a.wav", "invalid_url"),
    ],
)
def test_urls_that_lead_inside_are_rejected(shared_server: RunningServer, url: str, expected: str) -> None:
    response = shared_server.client.post("/transcriptions", json={"url": url})
    assert problem_of(response) == (422, expected), response.text


def test_limits_of_size_length_and_number(tmp_path: Path) -> None:
    more = ("transcription.upload_bytes=200000", "transcription.max_seconds=5", "jobs.max_unfinished=1")
    with with_settings(tmp_path, *more) as server:
        assert problem_of(server.client.post("/transcriptions", files={"file": ("a.wav", bytes(2_000_000))})) == (
            413,
            "body_too_large",
        )
        long = submitted(server, files={"file": ("a.wav", wav(Audio(tone(6), RATE)))})
        assert ended(server, long)["failure"]["code"] == "audio_too_long"
        server.client.post(f"/jobs/{long}/retry")
        assert ended(server, long)["state"] == "failed"
    queued = settings.load([*FAKE_ENGINES, f"data={tmp_path}", *more], environ={}).settings
    with serving(queued) as server:
        short = {"file": ("a.wav", wav(Audio(tone(1), RATE)))}
        submitted(server, files=short)
        full = server.client.post("/transcriptions", files=short)
        assert problem_of(full) == (503, "too_many_jobs") and float(full.headers["Retry-After"]) > 0


def test_uploads_do_not_count_against_the_bytes_held_in_memory(tmp_path: Path) -> None:
    with with_settings(tmp_path, "limits.inflight_bytes=1048576", "limits.body_bytes=100000") as server:
        assert len(FILE) > 1_048_576
        assert ended(server, submitted(server, files=FORM))["state"] == "done"


def keyed(server: RunningServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT)


def test_a_later_key_of_the_same_name_sees_no_earlier_jobs(tmp_path: Path) -> None:
    first = auth.add(tmp_path, "archive", ["transcribe"])
    with with_settings(tmp_path) as server:
        with keyed(server, first) as own:
            job = own.post("/transcriptions", files=FORM).json()["id"]
            upload = own.post("/uploads", headers={"Upload-Length": "5"}).headers["Location"]
            assert own.get(f"/jobs/{job}").status_code == own.get(upload).status_code == 200
        auth.revoke(tmp_path, "archive")
        with keyed(server, auth.add(tmp_path, "archive", ["transcribe"])) as later:
            assert later.get("/jobs").json()["jobs"] == []
            assert problem_of(later.get(f"/jobs/{job}")) == (404, "unknown_job")
            assert problem_of(later.get(upload)) == (404, "unknown_upload")


def test_one_key_leaves_room_for_the_others(tmp_path: Path) -> None:
    one, two = (auth.add(tmp_path, name, ["transcribe"]) for name in ("one", "two"))
    given = [*FAKE_ENGINES, f"data={tmp_path}", "jobs.max_per_key=2", "jobs.max_unfinished=5"]
    # No job runs here, so each stays unfinished.
    with serving(settings.load(given, environ={}).settings) as server:
        with keyed(server, one) as client:
            found = [client.post("/transcriptions", files=FORM) for _ in range(3)]
            assert [each.status_code for each in found] == [202, 202, 503]
            assert problem_of(found[2]) == (503, "too_many_jobs") and "of this key" in found[2].json()["detail"]
            assert client.post(f"/jobs/{found[0].json()['id']}/cancel").status_code == 200
            begun = [client.post("/uploads", headers={"Upload-Length": "5"}) for _ in range(3)]
            assert [each.status_code for each in begun] == [201, 201, 503]
            assert problem_of(begun[2]) == (503, "too_many_uploads")
        with keyed(server, two) as client:
            assert client.post("/transcriptions", files=FORM).status_code == 202
            assert client.post("/uploads", headers={"Upload-Length": "5"}).status_code == 201


def test_keys_for_transcription_see_their_own_jobs(secured: SecuredServer) -> None:
    def client(scope: str) -> httpx.Client:
        return httpx.Client(
            base_url=secured.server.url, headers={"Authorization": f"Bearer {secured.keys[scope]}"}, timeout=TIMEOUT
        )

    with client("transcribe") as own, client("talk") as other, client("operate") as operator:
        job = own.post("/transcriptions", files=FORM).json()["id"]
        assert [each["id"] for each in own.get("/jobs").json()["jobs"]] == [job]
        assert [each["id"] for each in operator.get("/jobs").json()["jobs"]] == [job]
        assert other.get("/jobs").json()["jobs"] == []
        for request in ("GET", "GET /events", "GET /result", "POST /pause", "POST /cancel", "DELETE"):
            method, _, path = request.partition(" ")
            assert problem_of(other.request(method, f"/jobs/{job}{path}")) == (404, "unknown_job"), request
        assert own.post(f"/jobs/{job}/pause").json()["state"] == "paused"
        assert own.get(f"/jobs/{job}/log").status_code == 403
        assert operator.post("/transcriptions", files=FORM).status_code == 403
        assert own.post(f"/jobs/{job}/cancel").json()["state"] == "cancelled"
        assert own.delete(f"/jobs/{job}").status_code == 204
