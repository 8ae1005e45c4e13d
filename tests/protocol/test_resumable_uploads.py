"""Resumable uploads (tus 1.0.0): chunks, broken connections, restarts and kills of the server, what is rejected."""

from __future__ import annotations

import base64
import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import job_server
from chatapi.audio import RATE, Audio, wav
from chatapi.storage import atomic_files
from conftest import TIMEOUT, RunningServer, tone, until
from running_interface import running_jobs
from secured_server import SecuredServer, secured
from test_jobs_server import serving
from test_transcriptions import ended, folders, problem_of, with_settings

__all__ = ["secured"]

FILE = wav(Audio(np.concatenate([tone(3), np.zeros(RATE, np.float32), tone(2)]), RATE))
HALF = len(FILE) // 2
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def server(fake_server: RunningServer) -> Iterator[RunningServer]:
    with running_jobs(fake_server):
        yield fake_server


def metadata(**values: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())


def created(client: httpx.Client, length: int = len(FILE), **values: str) -> str:
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(filename="talk.wav", **values)}
    response = client.post("/uploads", headers=headers)
    assert response.status_code == 201 and response.headers["Tus-Resumable"] == "1.0.0", response.text
    return response.headers["Location"]


def send(client: httpx.Client, upload: str, offset: int, data: bytes) -> httpx.Response:
    headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    return client.patch(upload, content=data, headers=headers)


def offset(client: httpx.Client, upload: str) -> int:
    response = client.head(upload, headers=TUS)
    assert response.status_code == 200 and response.headers["Cache-Control"] == "no-store"
    assert response.headers["Upload-Length"] == str(len(FILE))
    return int(response.headers["Upload-Offset"])


def test_an_upload_in_chunks_becomes_a_job(server: RunningServer) -> None:
    client = server.client
    supported = client.options("/uploads")
    assert supported.status_code == 204 and supported.headers["Tus-Version"] == "1.0.0"
    assert int(supported.headers["Tus-Max-Size"]) == server.appliance.settings.transcription.upload_bytes
    upload = created(client, language="en", formats="txt,srt", relativePath="a/b")
    assert offset(client, upload) == 0
    first = send(client, upload, 0, FILE[:HALF])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, str(HALF)) and "Location" not in first.headers
    wrong = send(client, upload, 5, FILE[5:])
    assert problem_of(wrong) == (409, "wrong_offset") and offset(client, upload) == HALF
    last = send(client, upload, HALF, FILE[HALF:])
    assert last.status_code == 204 and last.headers["Location"] == f"/jobs/{upload.rpartition('/')[2]}"
    done = ended(server, upload.rpartition("/")[2])
    assert (done["state"], done["name"]) == ("done", "talk.wav")
    assert client.get(f"/jobs/{done['id']}/result").headers["Content-Type"].startswith("text/plain")
    assert offset(client, upload) == len(FILE)
    assert problem_of(client.delete(upload, headers=TUS)) == (409, "upload_complete")


def test_the_creation_may_have_the_whole_recording(server: RunningServer) -> None:
    headers = {**TUS, "Upload-Length": str(len(FILE)), "Content-Type": "application/offset+octet-stream"}
    response = server.client.post("/uploads", headers=headers, content=FILE)
    assert response.status_code == 201 and response.headers["Upload-Offset"] == str(len(FILE))
    assert ended(server, response.headers["Location"].rpartition("/")[2])["state"] == "done"


@pytest.mark.anyio
async def test_what_arrived_before_the_connection_broke_is_kept(server: RunningServer) -> None:
    upload = created(server.client)
    head = (
        f"PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(FILE)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as connection:
        connection.sendall(head.encode() + FILE[:HALF])
        await until(lambda: offset(server.client, upload) == HALF)
    await until(lambda: send(server.client, upload, HALF, FILE[HALF:]).status_code == 204)
    assert ended(server, upload.rpartition("/")[2])["state"] == "done"


@pytest.mark.slow
def test_an_upload_goes_on_after_a_kill_of_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, script=job_server.__file__) as server:
        upload = created(server.client)
        assert send(server.client, upload, 0, FILE[:HALF]).status_code == 204
        server.process.kill()
        server.process.wait()
    with serving(tmp_path, script=job_server.__file__) as server:
        assert offset(server.client, upload) == HALF
        assert send(server.client, upload, HALF, FILE[HALF:]).status_code == 204
        job = upload.rpartition("/")[2]
        events = server.client.get(f"/jobs/{job}/events").text
        assert json.loads(events.strip().rpartition("data: ")[2])["state"] == "done"


def test_a_complete_upload_whose_job_was_not_added_is_finished_by_the_next_look(server: RunningServer) -> None:
    upload = created(server.client)
    job = upload.rpartition("/")[2]
    # As after a kill between the last byte and the job.
    (server.appliance.settings.data / "jobs" / job / "source").write_bytes(FILE)
    assert server.client.get(f"/jobs/{job}").status_code == 404
    assert offset(server.client, upload) == len(FILE)
    assert ended(server, job)["state"] == "done"


@pytest.mark.anyio
async def test_a_look_while_the_last_request_still_sends_adds_the_job_once(server: RunningServer) -> None:
    upload = created(server.client)
    job = upload.rpartition("/")[2]
    head = (
        f"PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n{len(FILE):x}\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as connection:
        # All bytes of the recording, and not the end of the body.
        connection.sendall(head.encode() + FILE + b"\r\n")
        await until(lambda: offset(server.client, upload) == len(FILE))
        assert ended(server, job)["state"] == "done"
        connection.sendall(b"0\r\n\r\n")
        assert b" 204 " in connection.recv(65536).partition(b"\r\n")[0]


def test_many_looks_at_once_add_the_job_once(server: RunningServer) -> None:
    for _ in range(4):
        upload = created(server.client)
        (server.appliance.settings.data / "jobs" / upload.rpartition("/")[2] / "source").write_bytes(FILE)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _, upload=upload: offset(server.client, upload), range(8))) == [len(FILE)] * 8
        assert ended(server, upload.rpartition("/")[2])["state"] == "done"


def test_uploads_that_cannot_be_accepted_are_rejected(server: RunningServer) -> None:
    client = server.client

    def refused(length: str, **values: str) -> tuple[int, str]:
        headers = {**TUS, "Upload-Length": length, "Upload-Metadata": metadata(**values)}
        return problem_of(client.post("/uploads", headers=headers))

    assert refused("x") == (400, "bad_request")
    assert refused("0") == (400, "bad_audio")
    assert refused(str(1 << 40)) == (413, "too_large")
    assert refused("10", speakers="true", known_speaker_names="Ann") == (422, "invalid_value")
    assert refused("10", speaker_count="2") == (422, "invalid_value")
    assert refused("10", language="klingon") == (422, "unknown_language")
    broken = {**TUS, "Upload-Length": "10", "Upload-Metadata": "filename ???"}
    assert problem_of(client.post("/uploads", headers=broken)) == (400, "bad_request")
    assert folders(server) == []
    upload = created(client, 100)
    assert problem_of(send(client, upload, 0, bytes(101))) == (413, "too_large")
    typed = client.patch(upload, content=b"x", headers={**TUS, "Upload-Offset": "0"})
    assert problem_of(typed) == (415, "unsupported_media_type")
    for path in ("/uploads/j0", "/uploads/..%2f..", f"/uploads/j{'0' * 24}"):
        assert client.get(path).status_code == 404, path
    assert client.delete(upload, headers=TUS).status_code == 204


def test_an_upload_that_does_not_fit_on_the_disk_leaves_nothing_behind(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "RESERVE", 1 << 62)
    response = server.client.post("/uploads", headers={**TUS, "Upload-Length": "100"})
    assert problem_of(response) == (507, "storage_fault") and folders(server) == []


def test_uploads_that_begin_at_once_are_no_more_than_the_limit(tmp_path: Path) -> None:
    headers = {**TUS, "Upload-Length": "100"}
    with with_settings(tmp_path, "jobs.max_unfinished=2") as server, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: server.client.post("/uploads", headers=headers), range(32)))
    assert Counter(each.status_code for each in found) == {201: 2, 503: 30}
    assert all(problem_of(each) == (503, "too_many_uploads") for each in found if each.status_code == 503)


def test_uploads_belong_to_their_key(secured: SecuredServer) -> None:
    def client(scope: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {secured.keys[scope]}"}
        return httpx.Client(base_url=secured.server.url, headers=headers, timeout=TIMEOUT)

    with client("transcribe") as own, client("talk") as other, client("operate") as operator:
        upload = created(own)
        assert other.get(upload).status_code == 404 and send(other, upload, 0, FILE).status_code == 404
        assert other.delete(upload).status_code == 404
        assert operator.post("/uploads").status_code == 403
        assert own.delete(upload).status_code == 204 and own.get(upload).status_code == 404
