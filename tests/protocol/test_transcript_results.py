"""What a transcription job has to show: names of speakers, audio for playback, text while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi.audio import RATE
from chatapi.audio.decode import decode
from chatapi.services.transcription import parts
from conftest import TIMEOUT, RunningServer
from secured_server import SecuredServer, secured
from test_transcription_speakers import DIALOGUE, result
from test_transcriptions import AUDIO, FORM, SECONDS, _short_parts, ended, problem_of, submitted, with_settings

__all__ = ["_short_parts", "secured"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with with_settings(tmp_path) as running:
        yield running


def named(server: RunningServer, job: str, names: Any) -> Any:
    return server.client.patch(f"/jobs/{job}/speakers", json={"names": names})


def onset(samples: np.ndarray[Any, Any]) -> float:
    """Seconds until the first loud sample."""
    return float(np.argmax(np.abs(samples) > 0.05)) / RATE


def test_names_of_speakers_are_kept_and_are_in_every_format(server: RunningServer) -> None:
    job = submitted(server, files=DIALOGUE, data={"speakers": "true"})
    assert ended(server, job)["state"] == "done"
    assert named(server, job, {"A": "Ada  Lovelace"}).json() == {"names": {"A": "Ada Lovelace"}}
    assert named(server, job, {"B": "Grace"}).json() == {"names": {"A": "Ada Lovelace", "B": "Grace"}}
    segments = result(server, job, "json")["segments"]
    assert [each["speaker"] for each in segments] == ["Ada Lovelace", "Grace"] * 2
    assert [each["speaker_label"] for each in segments] == ["A", "B"] * 2
    assert result(server, job, "txt").startswith("Ada Lovelace: ") and "Grace: " in result(server, job, "srt")
    assert "<v Ada Lovelace>" in result(server, job, "vtt") and "\tGrace: " in result(server, job, "tsv")
    assert named(server, job, {"A": ""}).json() == {"names": {"B": "Grace"}}
    assert [each["speaker"] for each in result(server, job, "json")["segments"]] == ["A", "Grace"] * 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"names": {"C": "Carol"}}, "unknown_speaker"),
        ({"names": {"A": "x" * 101}}, "invalid_value"),
        ({"names": {"A": "two\nlines"}}, "invalid_value"),
        ({"names": {}}, "invalid_value"),
        ({"names": {"A": "Ada"}, "more": 1}, "invalid_value"),
        ({}, "invalid_value"),
    ],
)
def test_wrong_names_are_rejected(body: Any, code: str, dialogue: Any) -> None:
    server, job = dialogue
    response = server.client.patch(f"/jobs/{job}/speakers", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["code"] == code
    assert "speaker_label" not in result(server, job, "json")["segments"][0]


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, str]]:
    """A server, and a job on it that is done and has two speakers."""
    with with_settings(tmp_path_factory.mktemp("dialogue")) as running:
        job = submitted(running, files=DIALOGUE, data={"speakers": "true"})
        assert ended(running, job)["state"] == "done"
        yield running, job


def test_audio_for_playback_has_the_times_of_the_transcript(server: RunningServer) -> None:
    job = submitted(server, files=FORM)
    done = ended(server, job)
    assert done["audio"] is True
    whole = server.client.get(f"/jobs/{job}/audio")
    assert whole.headers["Content-Type"] == "audio/mpeg" and whole.headers["Accept-Ranges"] == "bytes"
    played = decode(whole.content).samples
    assert len(played) / RATE == pytest.approx(SECONDS, abs=0.1)
    # The second stretch of speech begins after the first and its pause.
    for second in (0.0, 10.0):
        assert onset(played[round(second * RATE) :]) == pytest.approx(onset(AUDIO[round(second * RATE) :]), abs=0.03)
    part = server.client.get(f"/jobs/{job}/audio", headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206 and part.content == whole.content[1000:2000]
    beyond = server.client.get(f"/jobs/{job}/audio", headers={"Range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416
    folder = server.appliance.settings.data / "jobs" / job
    assert not (folder / "source").exists()
    assert server.client.delete(f"/jobs/{job}").status_code == 204
    assert not folder.exists()
    assert problem_of(server.client.get(f"/jobs/{job}/audio")) == (404, "unknown_job")


def test_link_plays_this_recording_alone_without_a_key(tmp_path: Path) -> None:
    with with_settings(tmp_path, "server.api_key=sesame") as server, httpx.Client(base_url=server.url) as player:
        server.client.headers["Authorization"] = "Bearer sesame"
        job = submitted(server, files=FORM)
        assert ended(server, job)["audio"] is True
        assert player.post(f"/jobs/{job}/audio-link").status_code == 401
        link = server.client.post(f"/jobs/{job}/audio-link").json()
        assert 0 < link["expires_at"] - time.time() <= 300
        whole = player.get(link["url"])
        assert whole.content == server.client.get(f"/jobs/{job}/audio").content
        part = player.get(link["url"], headers={"Range": "bytes=1000-1999"})
        assert part.status_code == 206 and part.content == whole.content[1000:2000]
        assert player.head(link["url"]).headers["Accept-Ranges"] == "bytes"
        query = link["url"].partition("?")[2]
        for method, path in (("GET", "/result"), ("POST", "/audio-link"), ("POST", "/cancel"), ("DELETE", "")):
            assert player.request(method, f"/jobs/{job}{path}?{query}").status_code == 401
        assert player.get(link["url"] + "0").status_code == 401
        assert problem_of(server.client.post("/jobs/j0/audio-link")) == (404, "unknown_job")


def test_audio_is_not_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    with with_settings(tmp_path, "transcription.keep_audio=false") as server:
        job = submitted(server, files=FORM)
        done = ended(server, job)
        assert done["state"] == "done" and done["audio"] is False
        assert problem_of(server.client.get(f"/jobs/{job}/audio")) == (404, "no_audio")
        assert problem_of(server.client.post(f"/jobs/{job}/audio-link")) == (404, "no_audio")
        assert not list((tmp_path / "jobs" / job).rglob("*.mp3"))


def test_text_of_a_part_is_there_before_the_part_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_SECONDS", 300.0)
    with with_settings(tmp_path, "fake.delay=0.02") as server:
        job = submitted(server, files=FORM)
        end = time.monotonic() + TIMEOUT
        while True:
            found = server.client.get(f"/jobs/{job}").json()
            if found["text"] and found["steps"][-1]["name"] == "part-0" and found["steps"][-1]["state"] == "started":
                break
            assert found["state"] in ("queued", "running") and time.monotonic() < end, found
            time.sleep(0.02)
        done = ended(server, job)
        assert done["text"].startswith(found["text"]) and len(done["text"]) > len(found["text"])


def test_audio_and_names_belong_to_the_owner_of_the_job(secured: SecuredServer) -> None:
    other = {"Authorization": f"Bearer {secured.keys['voices']}"}
    assert secured.get("/jobs/j0/audio").status_code == 401
    assert problem_of(secured.get("/jobs/j0/audio", "voices")) == (403, "scope_missing")
    url = f"{secured.server.url}/jobs/j0/speakers"
    assert problem_of(secured.server.client.patch(url, json={}, headers=other)) == (403, "scope_missing")
    assert problem_of(secured.get("/jobs/j0/audio", "transcribe")) == (404, "unknown_job")
