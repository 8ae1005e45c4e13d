"""Speakers in transcription jobs: every format, known voices, failures that cost no text, and kills while labelling."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.services.transcription import parts
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, encode_audio, installed_model, tone
from paths import CORPUS
from test_transcriptions import ended, problem_of, submitted, with_settings

LOW, HIGH = 220.0, 880.0
"""Two voices of the fake speaker encoder, in hertz."""
CLIPS = ("two_cities-00", "two_cities-01", "jfk-16", "jfk-18", "two_cities-07")
"""Two people in turns: the first, the second, the first."""
PAUSE = np.zeros(2 * RATE, np.float32)


def file_of(*spoken: Samples) -> dict[str, Any]:
    joined = np.concatenate([each for part in spoken for each in (part, PAUSE)])
    return {"file": ("meeting.wav", wav(Audio(joined, RATE)))}


def data_url(samples: Samples) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(wav(Audio(samples, RATE))).decode()}"


DIALOGUE = file_of(*(tone(9, hertz) for hertz in (LOW, HIGH, LOW, HIGH)))
SPEAKERS = ["A", "B", "A", "B"]


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_SECONDS", 20.0)
    monkeypatch.setattr(parts, "SEARCH_SECONDS", 12.0)


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with with_settings(tmp_path) as running:
        yield running


def result(server: RunningServer, job: str, form: str) -> Any:
    reply = server.client.get(f"/jobs/{job}/result", params={"format": form})
    assert reply.status_code == 200, reply.text
    return reply.json() if form == "json" else reply.text


def test_every_format_says_who_speaks(server: RunningServer) -> None:
    job = submitted(server, files=DIALOGUE, data={"speakers": "true"})
    done = ended(server, job)
    assert done["state"] == "done" and done["progress"] == 1
    steps = [each["name"] for each in done["steps"]]
    assert steps[-4:] == ["result", "speakers", "audio", "delete-upload"] and steps.count("part-1") == 1
    document = result(server, job, "json")
    assert [each["speaker"] for each in document["segments"]] == SPEAKERS
    assert "speakers_error" not in document and not any("words" in each for each in document["segments"])
    assert document["text"] == " ".join(each["text"] for each in document["segments"]) == done["text"]
    assert [line[:3] for line in result(server, job, "txt").splitlines()] == ["A: ", "B: ", "A: ", "B: "]
    captions = result(server, job, "srt").split("\n\n")[:4]
    assert [each.split("\n")[2][:3] for each in captions] == ["A: ", "B: ", "A: ", "B: "]
    cues = result(server, job, "vtt").split("\n\n")[1:5]
    assert [each.split("\n")[1][:5] for each in cues] == ["<v A>", "<v B>", "<v A>", "<v B>"]
    assert [line.split("\t")[2][:3] for line in result(server, job, "tsv").splitlines()[1:]] == ["A: ", "B: "] * 2


def test_words_are_kept_where_they_are_wanted_and_the_count_is_obeyed(server: RunningServer) -> None:
    options = {"speakers": "true", "speaker_count": "1", "words": "true"}
    job = submitted(server, files=DIALOGUE, data=options)
    assert ended(server, job)["state"] == "done"
    segments = result(server, job, "json")["segments"]
    assert {each["speaker"] for each in segments} == {"A"} and all(each["words"] for each in segments)


def test_known_speakers_have_their_names_and_their_samples_are_deleted(server: RunningServer) -> None:
    voices = {"known_speaker_names[]": ["agent"], "known_speaker_references[]": [data_url(tone(3, HIGH))]}
    job = submitted(server, files=DIALOGUE, data={"speakers": "true", **voices})
    assert ended(server, job)["state"] == "done"
    found = [each["speaker"] for each in result(server, job, "json")["segments"]]
    assert found[1] == found[3] == "agent" and found[0] == found[2] != "agent"
    assert not list((server.appliance.settings.data / "jobs" / job).glob("voice-*"))


def test_the_metadata_of_a_resumable_upload_has_short_samples(server: RunningServer) -> None:
    sample = encode_audio(tone(0.9, HIGH), RATE, "libopus", "ogg")
    url = f"data:audio/ogg;base64,{base64.b64encode(sample).decode()}"
    values = {"speakers": "true", "known_speaker_names": "agent", "known_speaker_references": url}
    metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())
    content = DIALOGUE["file"][1]
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content)), "Upload-Metadata": metadata}
    upload = server.client.post("/uploads", headers=headers)
    assert upload.status_code == 201, upload.text
    place = upload.headers["location"]
    chunk = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert server.client.patch(place, headers=chunk, content=content).status_code == 204
    job = place.rpartition("/")[2]
    assert ended(server, job)["state"] == "done"
    assert "agent" in [each["speaker"] for each in result(server, job, "json")["segments"]]


@pytest.mark.parametrize("remote", [False, True])
def test_the_command_names_known_speakers(server: RunningServer, tmp_path: Path, remote: bool) -> None:
    talk, sample = tmp_path / "talk.wav", tmp_path / "agent.wav"
    talk.write_bytes(DIALOGUE["file"][1])
    sample.write_bytes(wav(Audio(tone(3, HIGH), RATE)))
    chosen = [word for each in (*FAKE_ENGINES, f"data={tmp_path / 'data'}") for word in ("--set", each)]
    more = ["--server", server.url] if remote else []
    command = [sys.executable, "-m", "chatapi", "transcribe", str(talk), "--known-speaker", f"agent={sample}", *more]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and "agent: " in done.stdout, done.stderr


def test_fields_of_a_stored_form_are_limited_together(server: RunningServer) -> None:
    url = "data:," + "a" * (3 << 20)
    form = {"speakers": "true", "known_speaker_names[]": ["a", "b", "c"], "known_speaker_references[]": [url] * 3}
    assert problem_of(server.client.post("/transcriptions", files=DIALOGUE, data=form)) == (400, "invalid_form")


def test_a_failure_costs_the_speakers_and_no_text(tmp_path: Path) -> None:
    with with_settings(tmp_path, "speaker.engine=resemblyzer", "speaker.model=missing") as server:
        job = submitted(server, files=DIALOGUE, data={"speakers": "true"})
        assert ended(server, job)["state"] == "done"
        document = result(server, job, "json")
        assert len(document["segments"]) == 4 and not any("speaker" in each for each in document["segments"])
        error = document["speakers_error"]
        assert error["code"] == "unknown_model" and "missing" in error["message"]
        assert len(result(server, job, "txt").splitlines()) == 4


def test_a_defect_while_labelling_costs_no_text(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def labels(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.appliance.speaker_labeller, "labels", labels)
    job = submitted(server, files=DIALOGUE, data={"speakers": "true"})
    assert ended(server, job)["state"] == "done"
    assert result(server, job, "json")["speakers_error"]["code"] == "internal_error"


@pytest.mark.real
def test_real_people_are_told_apart(data: Path) -> None:
    for name in ("resemblyzer", "whisper-tiny.en-ct2"):
        installed_model(name)
    clips = [decode(CORPUS / "real" / f"{name}.flac").samples for name in CLIPS]
    more = ("asr.engine=ctranslate2", "asr.model=whisper-tiny.en-ct2", "speaker.engine=resemblyzer",
            "vad.engine=silero", "speaker.model=resemblyzer")  # fmt: skip
    with with_settings(data, *more) as server:
        job = submitted(server, files=file_of(*clips), data={"speakers": "true"})
        assert ended(server, job)["state"] == "done"
        document = result(server, job, "json")
        lines = result(server, job, "txt").splitlines()
    assert "speakers_error" not in document
    assert [line[:3] for line in lines] == ["A: ", "B: ", "A: "] and "best of times" in lines[0]
