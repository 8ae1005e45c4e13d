"""`chatapi caption`: a file, standard input, a stream that breaks off, a server, a microphone and a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest

from broadcaster import broadcasting
from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.cli import caption, caption_screen
from chatapi.cli.caption_sources import CaptionInput
from chatapi.events import Transcript
from chatapi.services.captions.captioner import CaptionOptions, captioning
from chatapi.settings import Settings
from conftest import FAKE_ENGINES, TIMEOUT, RunAppliance, encode_audio, serving, tone
from virtual_sound_card import SoundCard, sound_card

__all__ = ["sound_card"]

LINE = np.concatenate([np.zeros(int(0.4 * RATE)), tone(1.2), np.zeros(RATE)]).astype(np.float32)
TALK = np.concatenate([LINE, LINE, tone(1.0)])
"""Three lines, the last of which is cut off."""


def command(data: Path, *arguments: str) -> list[str]:
    words = [word for each in (*FAKE_ENGINES, f"data={data}") for word in ("--set", each)]
    return [sys.executable, "-m", "chatapi", "caption", *arguments, *words]


def run(data: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(data, *arguments), input=given, capture_output=True, timeout=TIMEOUT)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(Audio(TALK, RATE)))
    return path


def test_a_file_is_printed_line_by_line_and_written(data: Path, talk: Path) -> None:
    done = run(data, str(talk), "--speakers", "-o", str(talk.with_suffix(".srt")))
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 3 and all("] A: heard " in line for line in lines) and b"\x1b" not in done.stdout
    subtitles = talk.with_suffix(".srt").read_text()
    assert [block.partition("\n")[0] for block in subtitles.strip().split("\n\n")] == ["1", "2", "3"]
    assert "00:00:02,7" in subtitles and "A: heard" in subtitles


@pytest.mark.parametrize(
    ("suffix", "begins", "count"), [(".vtt", "WEBVTT\n\n00:00:00.", 3), (".txt", "heard", 3), (".jsonl", '{"text"', 3)]
)
def test_each_format_has_every_line(data: Path, talk: Path, suffix: str, begins: str, count: int) -> None:
    output = talk.with_suffix(suffix)
    assert run(data, str(talk), "--output", str(output)).returncode == 0
    assert output.read_text().startswith(begins) and output.read_text().count("heard") == count


def test_standard_input_is_a_recording_or_raw_samples(data: Path) -> None:
    whole = run(data, "-", "--json", given=encode_audio(TALK, RATE, "flac", "flac"))
    found = [json.loads(line) for line in whole.stdout.splitlines()]
    assert [round(each["start"], 1) for each in found] == [0.1, 2.7, 5.2] or len(found) == 3, whole
    raw = run(data, "-", "--raw", "16000", given=Audio(TALK, RATE).pcm16())
    assert raw.stdout.count(b"heard") == 3
    wrong = run(data, "-", given=Audio(TALK, RATE).pcm16())
    assert wrong.returncode == 2 and b"not audio" in wrong.stderr


def test_silence_and_faults_have_a_status_and_a_reason(data: Path, tmp_path: Path) -> None:
    silence = run(data, "-", given=wav(Audio(np.zeros(RATE, np.float32), RATE)))
    assert (silence.returncode, silence.stdout) == (1, b"") and b"no speech" in silence.stderr
    for arguments, reason in (
        (("none.wav",), b"none.wav"),
        (("-", "-o", "a.doc"), b".doc is not supported"),
        (("--key", "x"), b"only used with --server"),
        (("-", "--known-speaker", "Ann"), b"NAME=FILE"),
        (("http://127.0.0.1:9/radio",), b"cannot be reached"),
    ):
        done = run(data, *arguments)
        assert done.returncode == 2 and reason in done.stderr, (arguments, done)


def test_a_known_speaker_is_called_by_name(data: Path, talk: Path, tmp_path: Path) -> None:
    sample = tmp_path / "ann.wav"
    sample.write_bytes(wav(Audio(tone(2.0), RATE)))
    done = run(data, str(talk), "--known-speaker", f"Ann={sample}")
    assert done.stdout.count(b"] Ann: heard") == 3


def test_a_stream_that_breaks_off_is_connected_to_again_until_ctrl_c(data: Path) -> None:
    part = encode_audio(np.concatenate([LINE, LINE]), RATE, "libmp3lame", "mp3")
    with broadcasting() as radio:
        radio.broadcasts["/radio"] = [part, part + part]
        radio.hold = threading.Event()
        with started(data, radio.url("/radio")) as process:
            lines = [next_line(process) for _ in range(6)]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert all(line.startswith("[") for line in lines)
    assert "broke off" in errors and "the stream is back" in errors


@pytest.mark.anyio
async def test_ctrl_c_keeps_the_last_words(fake_appliance: RunAppliance) -> None:
    shown: list[Transcript] = []

    async def speech() -> AsyncIterator[Samples]:
        # No pause ends its line.
        yield np.concatenate([LINE, tone(3.0)])
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

    async def show(transcript: Transcript) -> None:
        shown.append(transcript)

    async with fake_appliance() as appliance, anyio.create_task_group() as group:
        services = (appliance.engines, appliance.transcriber, appliance.settings)
        async with captioning(services, CaptionOptions(), show) as captioner:
            with anyio.fail_after(TIMEOUT):
                await caption.run(group, CaptionInput(speech(), waits=True), captioner)
        group.cancel_scope.cancel()
    lines = [each for each in shown if each.final]
    assert len(lines) == 2 and lines[1].end > 5.4


def test_a_server_captions_what_is_sent_to_it(
    data: Path, talk: Path, fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    sample = tmp_path / "ann.wav"
    sample.write_bytes(wav(Audio(tone(2.0), RATE)))
    with serving(fake_settings()) as server:
        done = run(data, str(talk), "--server", server.url, "--known-speaker", f"Ann={sample}", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [each["speaker"] for each in found] == ["Ann"] * 3, done
    assert found[0]["start"] < found[1]["start"] < found[2]["start"] < found[2]["end"] < 7


def test_a_terminal_shows_partial_text_in_grey_and_replaces_it(data: Path, talk: Path) -> None:
    master, terminal = pty.openpty()
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command(data, str(talk)), stdout=terminal, stderr=silent, stdin=silent)
    os.close(terminal)
    shown = b""
    try:
        while data_ := os.read(master, 4096):
            shown += data_
    except OSError:
        # The terminal is closed.
        pass
    assert process.wait(TIMEOUT) == 0
    os.close(master)
    assert b"\r\x1b[2K\x1b[90m[00:0" in shown and shown.count(b"heard") > 3
    assert shown.rstrip().split(b"\x1b[2K")[-1].startswith(b"[00:0")


@pytest.mark.slow
def test_the_microphone_is_captioned_until_ctrl_c(data: Path, sound_card: SoundCard) -> None:
    with started(data, environment={**os.environ, **sound_card.environment}) as process:
        assert process.stderr is not None
        while "listening" not in (line := process.stderr.readline()):
            assert line, "the command ended"
        for _ in range(20):
            sound_card.play_into_microphone(LINE).wait(TIMEOUT)
            if has_data(process):
                break
        assert "heard" in next_line(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0


def has_data(process: subprocess.Popen[str]) -> bool:
    return bool(select.select([process.stdout], [], [], 3.0)[0])


@contextmanager
def started(data: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(data, *arguments), stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    timer = threading.Timer(TIMEOUT, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def test_long_partial_text_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    shown = caption_screen._fitted("one two three four five six seven eight nine ten")
    assert shown.startswith("…") and shown.endswith("nine ten") and len(shown) <= 29
