"""The commands `say`, `ask` and `transcribe` in pipes, with texts that begin with a dash, and files by suffix."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatapi.audio import RATE, Audio, decode, wav
from chatapi.cli import main
from conftest import FAKE_ENGINES, tone
from media_files import recorded

SPOKEN = wav(Audio(tone(1.0), RATE))
Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Run]:
    """Runs a command with fake engines and this standard input: its status, standard output and standard error."""

    def command(*words: str, stdin: bytes = b"", status: int = 0) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        settings = [part for each in [*FAKE_ENGINES, f"data={data}"] for part in ("--set", each)]
        with pytest.raises(SystemExit) as exited:
            main([*settings, *words])
        sys.stdout.flush()
        output = capfdbinary.readouterr()
        assert exited.value.code == status, output.err.decode()
        return status, output.out, output.err.decode()

    loggers = logging.getLogger(), logging.getLogger("chatapi")
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    yield command
    # A command logs to the standard error that this test captured.
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_text_only_prints_what_the_voice_would_get(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("say", "--text-only", "Timer set for 5m 30s. Dr. Lee pays $5.")
    assert out.decode().splitlines() == ["Timer set for 5 minutes 30 seconds.", "Doctor Lee pays 5 dollars."]
    assert list(tmp_path.glob("*.wav")) == []


@pytest.mark.parametrize("text", ["-5°C", "-40°F", "-$5", "-½", "-5 °C is cold", "--5°"])
def test_text_may_begin_with_a_dash(run: Run, text: str) -> None:
    assert run("say", "--text-only", text)[1] == run("say", "--text-only", "--", text)[1] != b""


def test_option_that_does_not_exist_is_still_an_error(run: Run) -> None:
    assert "unrecognized arguments: --nothing" in run("say", "hello", "--nothing", status=2)[2]


def test_text_comes_from_standard_input_and_speech_goes_to_standard_output(run: Run) -> None:
    _, out, _ = run("say", "-", "-o", "-", stdin=b"Hello there.")
    assert out.startswith(b"RIFF")
    assert decode.decode(out).seconds > 0


@pytest.mark.parametrize(
    ("suffix", "magic"),
    [
        ("wav", b"RIFF"),
        ("flac", b"fLaC"),
        ("opus", b"OggS"),
        ("ogg", b"OggS"),
        ("mp3", b"\xff"),
        ("aac", b"\xff"),
        ("MP3", b"\xff"),
    ],
)
def test_suffix_of_the_output_names_its_format(run: Run, tmp_path: Path, suffix: str, magic: bytes) -> None:
    spoken, answer = tmp_path / f"spoken.{suffix}", tmp_path / f"answer.{suffix}"
    run("say", "Hello there.", "-o", str(spoken))
    run("ask", "hello", "--reply", "voice", "-o", str(answer))
    for file in (spoken, answer):
        assert file.read_bytes().startswith(magic)
        assert decode.decode(file).seconds > 0


@pytest.mark.parametrize("words", [("say", "Hello."), ("ask", "hello", "--reply", "voice")])
def test_unknown_suffix_is_rejected_before_any_work(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "speech.docx"
    assert "cannot write" in run(*words, "-o", str(file), status=2)[2]
    assert not file.exists()


def test_recording_comes_from_standard_input(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(SPOKEN)
    assert run("transcribe", "-", "--json", stdin=SPOKEN)[1] == run("transcribe", str(file), "--json")[1] != b""
    asked = json.loads(run("ask", "-", "--json", stdin=SPOKEN)[1])
    assert asked["transcript"] == json.loads(run("ask", str(file), "--json")[1])["transcript"] != ""


@pytest.mark.parametrize("name", ["aiff", "au", "caf", "w64", "wma", "avi", "flv", "ac3", "ts", "latm", "adts"])
def test_recording_of_any_container_comes_from_standard_input(run: Run, name: str) -> None:
    file = recorded(name)
    assert run("transcribe", "-", "--json", stdin=file)[1] != b""
    assert json.loads(run("ask", "-", "--json", stdin=file)[1])["transcript"] != ""


@pytest.mark.parametrize("suffix", ["aiff", "CAF", "wma", "mkv"])
def test_file_with_the_suffix_of_a_recording_is_a_question(run: Run, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"question.{suffix}"
    file.write_bytes(SPOKEN)
    assert json.loads(run("ask", str(file), "--json")[1])["transcript"] != ""


@pytest.mark.parametrize("command", ["transcribe", "ask"])
def test_recording_comes_from_a_named_pipe(run: Run, tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(pipe.write_bytes, SPOKEN)
        assert run(command, str(pipe), "--json")[1] != b""
        assert written.result() == len(SPOKEN)


def test_text_longer_than_a_file_name_is_a_question(run: Run) -> None:
    assert json.loads(run("ask", "hello " * 1000, "--json")[1])["transcript"] is None


def test_question_comes_from_standard_input(run: Run) -> None:
    answered = json.loads(run("ask", "-", "--json", stdin="Wie geht es Käthe?".encode())[1])
    assert answered["transcript"] is None
    assert "Käthe" in answered["reply"]


def test_neither_text_nor_a_recording_is_rejected(run: Run) -> None:
    assert "neither text in UTF-8 nor a recording" in run("ask", "-", stdin=b"caf\xe9", status=2)[2]
