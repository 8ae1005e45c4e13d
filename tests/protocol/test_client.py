"""The client against real boxes, dying ones, and what is no box at all."""

from __future__ import annotations

import ast
import io
import json
import socket
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from chatapi import auth
from chatapi import client as package
from chatapi.audio import RATE, Audio, wav
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.cli import main
from chatapi.client import (
    AsyncClient,
    Client,
    ClientError,
    Completion,
    DeltaEvent,
    EndEvent,
    Event,
    SpeechEvent,
    StartEvent,
    TranscriptEvent,
)
from chatapi.client.connecting import ServerAddress
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone, until

SPOKEN = wav(Audio(tone(1.0), RATE))
LONG = "word. " * 1000


def refusal(ask: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as raised:
        ask()
    assert "\n" not in raised.value.message
    return raised.value


def frames(sound: bytes) -> tuple[int, int]:
    """How many samples a WAV has, and their rate."""
    with wave.open(io.BytesIO(sound)) as file:
        return file.getnframes(), file.getframerate()


def test_importing_the_client_imports_nothing_of_the_server() -> None:
    for file in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chatapi"):
                assert (node.module or "").startswith("chatapi.client"), file
    looked = "import sys, chatapi.client; print(*(name for name in sys.modules if name.startswith('chatapi')))"
    loaded = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True).stdout.split()
    assert all(name == "chatapi" or name.startswith("chatapi.client") for name in loaded)


def test_the_four_cases(fake_server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(SPOKEN)
    with Client(fake_server.url) as box, file.open("rb") as opened:
        written = box.completion("good morning", max_tokens=20, temperature=0, seed=1)
        assert "good morning" in written.reply and written.transcript is None and written.audio is None
        assert written.usage.completion_tokens > 0 and written.timings["end"] is not None
        for audio in (SPOKEN, file, str(file), opened):
            assert box.completion(audio=audio, language="en").transcript
        for asked in (box.completion("hello", reply="voice"), box.completion(audio=SPOKEN, reply="voice")):
            assert asked.audio is not None and frames(asked.audio)[0] > 0 and asked.reply
            assert asked.finish_reason == "stop"
        gone_on = box.completion("again", conversation=written.conversation)
        assert gone_on.conversation == written.conversation


@pytest.mark.anyio
async def test_the_same_without_blocking(fake_server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(SPOKEN)
    async with AsyncClient(fake_server.url) as box:
        assert await box.ready()
        assert "good morning" in (await box.completion("good morning")).reply
        answer = await box.completion(audio=file, reply="voice")
        assert answer.audio is not None and frames(answer.audio)[0] > 0
        async with box.stream(audio=SPOKEN, reply="voice") as events:
            came = [event async for event in events]
        assert [type(event) for event in came][:2] == [StartEvent, TranscriptEvent]
        assert isinstance(came[-1], EndEvent) and any(isinstance(event, SpeechEvent) for event in came)
        async with box.wav("one two three") as pieces:
            assert b"".join([piece async for piece in pieces]).startswith(b"RIFF")
        said = await box.conversation(answer.conversation)
        assert [message.role for message in said] == ["user", "assistant"]
        await box.delete_conversation(answer.conversation)
        with pytest.raises(ClientError, match="there is no conversation"):
            await box.conversation(answer.conversation)
        assert await box.models() and await box.voices()


def test_events_come_as_they_happen(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as box, box.stream("one two three four") as events:
        came: list[Event] = []
        for event in events:
            if isinstance(event, DeltaEvent) and not any(isinstance(before, DeltaEvent) for before in came):
                assert slow_server.appliance.admission.used == 1, "the answer is still being written"
            came.append(event)
    ended = came[-1]
    assert isinstance(ended, EndEvent)
    assert "".join(event.text for event in came if isinstance(event, DeltaEvent)).rstrip() == ended.completion.reply


def test_a_spoken_answer_comes_as_it_is_spoken(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as box, box.wav("One two three. Four five six. Seven eight nine.") as pieces:
        first = next(pieces)
        assert first.startswith(b"RIFF") and slow_server.appliance.admission.used == 1
        assert len(b"".join(pieces)) > 1000


@pytest.mark.anyio
async def test_leaving_in_the_middle_stops_the_answer(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as box:
        with box.stream(LONG) as events:
            assert isinstance(next(events), StartEvent)
        await until(lambda: slow_server.appliance.admission.used == 0)
        assert box.ready(), "the next request works"
    async with AsyncClient(slow_server.url) as other:
        async with other.stream(LONG) as coming:
            async for event in coming:
                assert isinstance(event, StartEvent)
                break
        await until(lambda: slow_server.appliance.admission.used == 0)
        assert await other.ready()


def test_what_the_box_knows_and_keeps(fake_server: RunningServer) -> None:
    with Client(fake_server.url) as box:
        assert {model.role for model in box.models()} >= {"asr", "llm", "tts"}
        assert [voice.default for voice in box.voices()].count(True) == 1
        first = box.completion("remember")
        assert [(m.role, m.text) for m in box.conversation(first.conversation)] == [
            ("user", "remember"),
            ("assistant", first.reply),
        ]
        box.delete_conversation(first.conversation)
        gone = refusal(lambda: box.conversation(first.conversation))
        assert (gone.code, gone.status) == ("unknown_conversation", 404)
        assert refusal(lambda: box.delete_conversation("../completion")).status == 404


def test_what_cannot_be_asked_is_told_before_it_is_sent(fake_server: RunningServer, tmp_path: Path) -> None:
    with Client(fake_server.url) as box:
        for ask in (box.completion, lambda: box.completion("a", audio=b"b"), lambda: box.completion(audio=tmp_path)):
            assert refusal(ask).code == "bad_request"
        told = refusal(lambda: box.completion("  "))
        assert (told.code, told.status) == ("empty_prompt", 422)
        assert refusal(lambda: box.completion(audio=wav(Audio(tone(1.0, level=0), RATE)))).code == "no_speech"
    for url in ("box:8000", "ftp://box", "http://", "http://[::1", "http://box:99999"):
        assert refusal(lambda url=url: Client(url)).code == "bad_request"
    assert refusal(lambda: Client(verify=tmp_path / "none.pem")).code == "bad_request"


@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_what_lets_one_in_is_never_shown(made: Callable[..., object]) -> None:
    for key in ("hidden\n", "hid\nden", "hidden ", "hidden\x7f", "hidden\udcff"):
        told = refusal(lambda key=key: made("http://box:8000", key=key))
        assert told.code == "bad_request" and "hid" not in str(told)
    for url in ("http://me:hidden@box:99999", "http://me:hidden@[::1", "ftp://me:hid/den@box"):
        told = refusal(lambda url=url: made(url))
        assert told.code == "bad_request" and "hid" not in str(told)
    assert "hidden" not in repr(ServerAddress("http://me:hidden@box:8000", "hidden", True, 1.0))


def test_an_address_that_holds_a_key_is_told_without_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://me:hidden@127.0.0.1:{port}") as box:
        told = refusal(box.ready)
    assert told.code == "unreachable" and "hidden" not in told.message and str(port) in told.message


def test_the_environment_says_where_and_with_what_key(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("server.api_key=schlüssel")) as server:
        monkeypatch.setenv("CHATAPI_URL", server.url)
        with Client() as box:
            told = refusal(box.ready)
            assert (told.code, told.status) == ("unauthorized", 401)
        with Client(key="wrong") as box:
            assert refusal(box.models).code == "unauthorized"
        monkeypatch.setenv("CHATAPI_API_KEY", "schlüssel")
        with Client() as box:
            assert box.ready()


def test_a_key_without_the_scope_and_one_used_too_often_are_told(
    fake_settings: Callable[..., Settings], data: Path
) -> None:
    looks, few = auth.add(data, "looks", ["operate"]), auth.add(data, "few", ["talk"], rate=1)
    with serving(fake_settings()) as server:
        with Client(server.url, looks) as box:
            told = refusal(lambda: box.completion("hello"))
            assert (told.code, told.status) == ("scope_missing", 403)
        with Client(server.url, few) as box:
            assert box.ready()
            told = refusal(box.ready)
            assert (told.code, told.status) == ("rate_limited", 429)
            assert told.retry_after is not None and 0 < told.retry_after <= 60


def test_a_box_that_still_loads_is_not_ready_and_says_when_to_come_back(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings(), load=False) as server, Client(server.url) as box:
        assert not box.ready()
        told = refusal(lambda: box.completion("hello"))
        assert (told.code, told.status) == ("not_ready", 503)
        assert told.retry_after is not None


def test_its_own_certificate_is_trusted_where_its_authority_is_given(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.tls=true")) as server:
        with Client(server.url, verify=CertificateKeeper(server.appliance.settings.data).authority) as box:
            assert box.ready()
        with Client(server.url) as box:
            assert refusal(box.ready).code == "unreachable"


def test_whom_this_machine_trusts_is_trusted(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("server.tls=true")) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(CertificateKeeper(server.appliance.settings.data).authority))
        with Client(server.url) as box:
            assert box.ready()


def test_an_engine_that_fails_in_mid_answer_is_told(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server, Client(server.url) as box:
        told = refusal(lambda: box.completion("hello"))
        assert (told.code, told.status) == ("engine_failed", 500)
        with box.stream("hello") as events:
            told = refusal(lambda: list(events))
            assert (told.code, told.status) == ("engine_failed", 500)
        with pytest.raises(ClientError) as raised, box.wav("hello") as pieces:
            list(pieces)
        assert raised.value.code in ("engine_failed", "broken_off")


def test_the_command_asks_the_box_of_its_server(
    fake_settings: Callable[..., Settings], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, question, answer = auth.add(data, "laptop", ["talk"]), tmp_path / "question.wav", tmp_path / "answer.wav"
    question.write_bytes(SPOKEN)

    def asked(*words: str, status: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(["ask", *words, "--set", f"data={tmp_path / 'laptop'}"])
        told = capsys.readouterr()
        assert left.value.code == status, told.err
        return told.out, told.err

    with serving(fake_settings("server.tls=true")) as server:
        there = ("--server", server.url, "--key", key)
        fingerprint = asked("hello", *there, status=2)[1].partition("--fingerprint ")[2].split()[0]
        out, err = asked("hello", *there, "--fingerprint", fingerprint)
        assert "hello" in out and "conversation: " in err
        out, err = asked(str(question), *there, "--reply", "voice", "--json", "-o", str(answer))
        assert Completion(**json.loads(out)).transcript and "transcript: " in err
        assert frames(answer.read_bytes())[0] > 0
        _, err = asked("hello", "--server", server.url, "--key", "chatapi_wrong", status=2)
        [told] = [line for line in err.splitlines() if line.startswith("chatapi: ")]
        assert told.startswith(f"chatapi: {server.url}: an API key is required")
    assert "--server" in asked("hello", "--key", key, status=2)[1]
    assert "-o names the file" in asked("hello", *there, "-o", str(answer), status=2)[1]
