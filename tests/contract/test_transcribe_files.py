"""`chatapi transcribe` writing files: folders, formats, what is skipped, kills, Ctrl-C, a watched folder, a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

import transcription_server
from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.cli import transcribe_backends
from chatapi.cli.server_jobs import ServerJobs
from chatapi.cli.transcribe_backends import ServerBackend
from chatapi.cli.transcribe_batch import Stopped
from chatapi.cli.transcribe_sources import TranscriptionSource
from chatapi.jobs import JobStore
from chatapi.services.transcription.jobs import TranscriptionParameters
from conftest import FAKE_ENGINES, TIMEOUT, encode_audio, installed_model, tone
from paths import CORPUS
from test_jobs_server import serving

PAUSE = np.zeros(RATE, np.float32)
BEEPS = np.concatenate([part for _ in range(3) for part in (tone(2), PAUSE)])
LONG = wav(Audio(np.concatenate([part for _ in range(10) for part in (tone(3), PAUSE)]), RATE))
SLOW = "fake.delay=0.003"
STATUS_OF_KILL = -signal.SIGKILL


def command(data: Path, *arguments: str, more: tuple[str, ...] = FAKE_ENGINES) -> list[str]:
    words = [word for each in (*more, f"data={data}") for word in ("--set", each)]
    return [sys.executable, transcription_server.__file__, "transcribe", *arguments, *words]


def run(data: Path, *arguments: str, more: tuple[str, ...] = FAKE_ENGINES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, *arguments, more=more), capture_output=True, text=True, timeout=TIMEOUT)


@contextmanager
def started(data: Path, *arguments: str, more: tuple[str, ...] = FAKE_ENGINES) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(data, *arguments, more=more), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def finished_parts(data: Path) -> list[str]:
    """The parts of all jobs, as often as each was transcribed."""
    if not JobStore.exists(data):
        return []
    with closing(JobStore(data)) as store:
        events = [event.data for job in store.find() for event in store.events(job.id) if event.type == "step"]
    return [each["step"] for each in events if each["state"] == "finished" and each["step"].startswith("part-")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with recordings, other files, and a folder in it."""
    found = tmp_path / "in"
    (found / "deep [1]").mkdir(parents=True)
    (found / "one.wav").write_bytes(wav(Audio(BEEPS, RATE)))
    (found / "same.flac").write_bytes(encode_audio(BEEPS, RATE, "flac", "flac"))
    (found / "same.wav").write_bytes(wav(Audio(BEEPS, RATE)))
    (found / "deep [1]" / "two.flac").write_bytes(encode_audio(BEEPS, RATE, "flac", "flac"))
    (found / "deep [1]" / "broken.mp3").write_text("no audio")
    (found / ".hidden.wav").write_bytes(b"no audio")
    (found / "notes.txt").write_text("notes")
    return found


def test_a_folder_is_transcribed_and_only_what_is_missing_the_next_time(tmp_path: Path, folder: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    first = run(data, str(folder), "--format", "srt,vtt", "--format", "txt,json,tsv", "--output-dir", str(output))
    assert first.returncode == 1, first.stderr
    assert "failed: broken.mp3: " in first.stderr and "4 transcribed, 0 done before, 1 failed" in first.stderr
    made = sorted(str(each.relative_to(output)) for each in output.rglob("*") if each.is_file())
    names = ("deep [1]/two", "one", "same.flac", "same.wav")
    assert made == sorted(f"{name}.{form}" for name in names for form in ("json", "srt", "tsv", "txt", "vtt"))
    document = json.loads((output / "one.json").read_text())
    times = [time for each in document["segments"] for time in (each["start"], each["end"])]
    assert times == pytest.approx([0, 2, 3, 5, 6, 8], abs=0.05) and document["duration"] == 9
    assert (output / "one.srt").read_text().count("-->") == 3
    (folder / "deep [1]" / "broken.mp3").unlink()
    os.utime(folder / "one.wav")
    (output / "same.wav.vtt").unlink()
    second = run(data, str(folder), "--format", "srt,vtt", "--output-dir", str(output))
    assert second.returncode == 0 and "2 transcribed, 2 done before, 0 failed" in second.stderr
    third = run(data, str(folder), "--format", "srt,vtt", "--output-dir", str(output))
    assert third.returncode == 0 and "0 transcribed, 4 done before" in third.stderr
    again = run(data, str(folder / "one.wav"), "--format", "vtt", "--output-dir", str(output), "--overwrite")
    assert "1 transcribed" in again.stderr


def test_a_killed_run_goes_on_behind_its_last_part(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "long.wav"
    file.write_bytes(LONG)
    with started(data, str(file), "--format", "json", more=(*FAKE_ENGINES, SLOW)) as process:
        wait_until(lambda: len(finished_parts(data)) >= 2)
        process.kill()
        assert process.wait(TIMEOUT) == STATUS_OF_KILL
    with started(data, str(file), "--format", "json", more=(*FAKE_ENGINES, SLOW)) as process:
        wait_until(lambda: len(finished_parts(data)) >= 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    assert not file.with_suffix(".json").exists()
    assert run(data, str(file), "--format", "json").returncode == 0
    parts = finished_parts(data)
    assert len(parts) == len(set(parts)) > 3
    with closing(JobStore(data)) as store:
        assert [job.state for job in store.find()] == ["done"]
    segments = json.loads(file.with_suffix(".json").read_text())["segments"]
    assert [each["start"] for each in segments] == pytest.approx(range(0, 40, 4), abs=0.05)
    assert [each["end"] for each in segments] == pytest.approx(range(3, 43, 4), abs=0.05)


def test_a_changed_recording_is_transcribed_anew(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "long.wav"
    file.write_bytes(LONG)
    with started(data, str(file), "--format", "json", more=(*FAKE_ENGINES, SLOW)) as process:
        wait_until(lambda: len(finished_parts(data)) >= 1)
        process.kill()
        process.wait(TIMEOUT)
    file.write_bytes(wav(Audio(BEEPS, RATE)))
    assert run(data, str(file), "--format", "json").returncode == 0
    assert len(json.loads(file.with_suffix(".json").read_text())["segments"]) == 3


def test_recordings_that_come_into_a_watched_folder_are_transcribed(tmp_path: Path, folder: Path) -> None:
    with started(tmp_path / "data", "--watch", str(folder)) as process:
        wait_until((folder / "one.txt").exists)
        (folder / "three.wav").write_bytes(wav(Audio(BEEPS, RATE)))
        wait_until((folder / "three.txt").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 1
    assert not (folder / "deep [1]" / "broken.txt").exists()


def test_a_server_transcribes_the_same(tmp_path: Path, folder: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "remote"
    data.mkdir()
    arguments = (str(folder / "one.wav"), str(folder / "deep [1]"), "--format", "json")
    assert run(tmp_path / "local", *arguments, "--output-dir", str(tmp_path / "here")).returncode == 1
    with serving(data, script=transcription_server.__file__) as server:
        url = str(server.client.base_url)
        remote = run(tmp_path / "none", *arguments, "--output-dir", str(output), "--server", url)
        assert remote.returncode == 1 and "2 transcribed, 0 done before, 1 failed" in remote.stderr, remote.stderr
        printed = run(tmp_path / "none", str(folder / "one.wav"), "--server", url, "--json")
        assert printed.returncode == 0 and len(printed.stdout.splitlines()) == 3
    for name in ("one.json", "two.json"):
        assert json.loads((output / name).read_text()) == json.loads((tmp_path / "here" / name).read_text())


def test_speakers_are_named_in_files_and_in_print_here_and_on_a_server(tmp_path: Path) -> None:
    data, file, more = tmp_path / "data", tmp_path / "talk.wav", ("--format", "txt,json")
    file.write_bytes(
        wav(Audio(np.concatenate([part for hertz in (220, 880, 220) for part in (tone(6, hertz), PAUSE)]), RATE))
    )
    data.mkdir()
    assert (
        run(tmp_path / "local", str(file), *more, "--output-dir", str(tmp_path / "here"), "--speakers").returncode == 0
    )
    texts = (tmp_path / "here" / "talk.txt").read_text().splitlines()
    assert [each[:3] for each in texts] == ["A: ", "B: ", "A: "]
    printed = run(tmp_path / "local", str(file), "--speakers", "--json")
    assert [json.loads(each)["speaker"] for each in printed.stdout.splitlines()] == ["A", "B", "A"]
    with serving(data, script=transcription_server.__file__) as server:
        url = str(server.client.base_url)
        there = run(
            tmp_path / "none", str(file), *more, "--output-dir", str(tmp_path / "there"), "--server", url, "--speakers"
        )
        assert there.returncode == 0, there.stderr
        one = run(tmp_path / "none", str(file), "--server", url, "--speakers", "1")
        assert [each.split("] ")[1][:3] for each in one.stdout.splitlines()] == ["A: "] * 3
    for name in ("talk.txt", "talk.json"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()


def test_speakers_that_cannot_be_told_apart_cost_no_text(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "one.wav"
    file.write_bytes(wav(Audio(BEEPS, RATE)))
    data.mkdir()
    broken = ("speaker.engine=resemblyzer", "speaker.model=missing")
    with serving(data, *broken, script=transcription_server.__file__) as server:
        url = str(server.client.base_url)
        found = run(tmp_path / "none", str(file), "--format", "txt", "--server", url, "--speakers")
        assert found.returncode == 1 and "without speakers: one.wav: " in found.stderr, found.stderr
        assert len(file.with_suffix(".txt").read_text().splitlines()) == 3
        printed = run(tmp_path / "none", str(file), "--server", url, "--speakers")
        assert printed.returncode == 1 and len(printed.stdout.splitlines()) == 3
        assert "no speaker labels: " in printed.stderr


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_new_run_finds_its_job_on_the_server(tmp_path: Path, cancelled: bool) -> None:
    data, file = tmp_path / "data", tmp_path / "long.wav"
    data.mkdir()
    file.write_bytes(LONG)
    with serving(data, SLOW, script=transcription_server.__file__) as server:
        arguments = (str(file), "--format", "json", "--server", str(server.client.base_url))
        with started(tmp_path / "own", *arguments) as process:
            wait_until(lambda: len(finished_parts(data)) >= 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
        [job] = server.client.get("/jobs").json()["jobs"]
        if cancelled:
            server.client.post(f"/jobs/{job['id']}/cancel")
            wait_until(lambda: bool(server.client.get(f"/jobs/{job['id']}").json()["state"] == "cancelled"))
        second = run(tmp_path / "own", *arguments)
        assert second.returncode == 0, second.stderr
        [same] = server.client.get("/jobs").json()["jobs"]
        assert (same["id"], same["state"]) == (job["id"], "done")
        parts = finished_parts(data)
        assert len(parts) == len(set(parts)) > 3
        # What is done is forgotten: the user can have it done anew.
        assert run(tmp_path / "own", *arguments, "--overwrite").returncode == 0
        assert len(server.client.get("/jobs").json()["jobs"]) == 2


def test_a_new_run_sends_the_rest_of_an_interrupted_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe_backends, "UPLOAD_BYTES", 1 << 18)
    data, file, phrases, stop = tmp_path / "data", tmp_path / "long.wav", list[str](), threading.Event()
    data.mkdir()
    file.write_bytes(LONG)

    def show(done: float, phrase: str, left: float | None) -> None:
        phrases.append(phrase)
        if phrase.startswith("uploading: 4"):
            stop.set()

    with serving(data, script=transcription_server.__file__) as server:
        source = TranscriptionSource(file, "", tmp_path / "long")
        jobs = ServerJobs(tmp_path / "own")
        backend = ServerBackend(server.client, TranscriptionParameters(""), stop, jobs)
        with pytest.raises(Stopped):
            backend.transcribe(source, show)
        phrases.clear()
        stop.clear()
        document = ServerBackend(server.client, TranscriptionParameters(""), threading.Event(), jobs).transcribe(
            source, lambda done, phrase, left: phrases.append(phrase)
        )
        assert len(document["segments"]) == 10
        assert next(each for each in phrases if each.startswith("uploading: ")) == "uploading: 41%"
        assert len(server.client.get("/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name files, folders or URLs"),
        (("a.wav", "--watch", "."), "name files, folders or URLs"),
        (("missing.wav", "--format", "srt"), "there is no file or folder missing.wav"),
        (("missing.wav", "--format", "docx"), "--format docx is not supported"),
        (("-", "--format", "srt"), "standard input is transcribed alone"),
        (("a.wav", "--key", "k"), "only used with --server"),
    ],
)
def test_arguments_that_contradict_are_named(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    found = run(tmp_path, *arguments)
    assert found.returncode == 2 and message in found.stderr


@pytest.mark.real
def test_real_speech_beside_its_recording(tmp_path: Path) -> None:
    model = installed_model("whisper-tiny.en-ct2")
    data = model.folder.parent.parent
    (tmp_path / "models").symlink_to(data / "models")
    for number in range(2):
        name = f"two_cities-0{number}.flac"
        (tmp_path / name).write_bytes((CORPUS / "real" / name).read_bytes())
    found = run(tmp_path, str(tmp_path), "--format", "txt", more=("asr.model=whisper-tiny.en-ct2",))
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "two_cities-00.txt").read_text() == "It was the best of times, it was the worst of times.\n"
    assert "age of wisdom" in (tmp_path / "two_cities-01.txt").read_text()


@pytest.mark.real
def test_real_people_are_told_apart(tmp_path: Path) -> None:
    installed_model("resemblyzer")
    (tmp_path / "models").symlink_to(installed_model("whisper-tiny.en-ct2").folder.parent.parent / "models")
    names = ("two_cities-00", "two_cities-01", "jfk-16", "jfk-18", "two_cities-07")
    clips = [decode(CORPUS / "real" / f"{name}.flac").samples for name in names]
    file = tmp_path / "talk.wav"
    file.write_bytes(wav(Audio(np.concatenate([part for clip in clips for part in (clip, PAUSE)]), RATE)))
    found = run(tmp_path, str(file), "--format", "txt", "--speakers", more=("asr.model=whisper-tiny.en-ct2",))
    assert found.returncode == 0, found.stderr
    lines = file.with_suffix(".txt").read_text().splitlines()
    assert [each[:3] for each in lines] == ["A: ", "B: ", "A: "] and "best of times" in lines[0]
