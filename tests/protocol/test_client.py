"""The Python client against servers with fake engines."""

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


def client_error(call: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as raised:
        call()
    assert "\n" not in raised.value.message
    return raised.value


def frames(sound: bytes) -> tuple[int, int]:
    """The number of samples of a WAV file and their rate."""
    with wave.open(io.BytesIO(sound)) as file:
        return file.getnframes(), file.getframerate()


def test_client_does_not_import_the_server() -> None:
    for file in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chatapi"):
                assert (node.module or "").startswith("chatapi.client"), file
    script = "import sys, chatapi.client; print(*(name for name in sys.modules if name.startswith('chatapi')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert all(name == "chatapi" or name.startswith("chatapi.client") for name in loaded)


def test_blocking_client_handles_text_and_audio_in_and_out(fake_server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(SPOKEN)
    with Client(fake_server.url) as client, file.open("rb") as opened:
        answer = client.completion("good morning", max_tokens=20, temperature=0, seed=1)
        assert "good morning" in answer.reply and answer.transcript is None and answer.audio is None
        assert answer.usage.completion_tokens > 0 and answer.timings["end"] is not None
        for audio in (SPOKEN, file, str(file), opened):
            assert client.completion(audio=audio, language="en").transcript
        for spoken in (client.completion("hello", reply="voice"), client.completion(audio=SPOKEN, reply="voice")):
            assert spoken.audio is not None and frames(spoken.audio)[0] > 0 and spoken.reply
            assert spoken.finish_reason == "stop"
        next_answer = client.completion("again", conversation=answer.conversation)
        assert next_answer.conversation == answer.conversation


@pytest.mark.anyio
async def test_asynchronous_client_handles_text_and_audio_in_and_out(
    fake_server: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(SPOKEN)
    async with AsyncClient(fake_server.url) as client:
        assert await client.ready()
        assert "good morning" in (await client.completion("good morning")).reply
        answer = await client.completion(audio=file, reply="voice")
        assert answer.audio is not None and frames(answer.audio)[0] > 0
        async with client.stream(audio=SPOKEN, reply="voice") as events:
            received = [event async for event in events]
        assert [type(event) for event in received][:2] == [StartEvent, TranscriptEvent]
        assert isinstance(received[-1], EndEvent) and any(isinstance(event, SpeechEvent) for event in received)
        async with client.wav("one two three") as pieces:
            assert b"".join([piece async for piece in pieces]).startswith(b"RIFF")
        messages = await client.conversation(answer.conversation)
        assert [message.role for message in messages] == ["user", "assistant"]
        await client.delete_conversation(answer.conversation)
        with pytest.raises(ClientError, match="there is no conversation"):
            await client.conversation(answer.conversation)
        assert await client.models() and await client.voices()


def test_events_are_streamed_during_the_answer(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as client, client.stream("one two three four") as events:
        received: list[Event] = []
        for event in events:
            if isinstance(event, DeltaEvent) and not any(isinstance(before, DeltaEvent) for before in received):
                assert slow_server.appliance.admission.used == 1, "the answer is still being written"
            received.append(event)
    ended = received[-1]
    assert isinstance(ended, EndEvent)
    assert "".join(event.text for event in received if isinstance(event, DeltaEvent)).rstrip() == ended.completion.reply


def test_audio_is_streamed_during_the_answer(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as client, client.wav("One two three. Four five six. Seven eight nine.") as pieces:
        first = next(pieces)
        assert first.startswith(b"RIFF") and slow_server.appliance.admission.used == 1
        assert len(b"".join(pieces)) > 1000


@pytest.mark.anyio
async def test_early_exit_stops_the_answer(slow_server: RunningServer) -> None:
    with Client(slow_server.url) as client:
        with client.stream(LONG) as events:
            assert isinstance(next(events), StartEvent)
        await until(lambda: slow_server.appliance.admission.used == 0)
        assert client.ready(), "the next request works"
    async with AsyncClient(slow_server.url) as other:
        async with other.stream(LONG) as events:
            async for event in events:
                assert isinstance(event, StartEvent)
                break
        await until(lambda: slow_server.appliance.admission.used == 0)
        assert await other.ready()


def test_models_voices_and_conversations_are_available(fake_server: RunningServer) -> None:
    with Client(fake_server.url) as client:
        assert {model.role for model in client.models()} >= {"asr", "llm", "tts"}
        assert [voice.default for voice in client.voices()].count(True) == 1
        first = client.completion("remember")
        assert [(m.role, m.text) for m in client.conversation(first.conversation)] == [
            ("user", "remember"),
            ("assistant", first.reply),
        ]
        client.delete_conversation(first.conversation)
        gone = client_error(lambda: client.conversation(first.conversation))
        assert (gone.code, gone.status) == ("unknown_conversation", 404)
        assert client_error(lambda: client.delete_conversation("../completion")).status == 404


def test_invalid_request_is_rejected_before_it_is_sent(fake_server: RunningServer, tmp_path: Path) -> None:
    with Client(fake_server.url) as client:
        for ask in (
            client.completion,
            lambda: client.completion("a", audio=b"b"),
            lambda: client.completion(audio=tmp_path),
        ):
            assert client_error(ask).code == "bad_request"
        error = client_error(lambda: client.completion("  "))
        assert (error.code, error.status) == ("empty_prompt", 422)
        assert client_error(lambda: client.completion(audio=wav(Audio(tone(1.0, level=0), RATE)))).code == "no_speech"
    for url in ("box:8000", "ftp://box", "http://", "http://[::1", "http://box:99999"):
        assert client_error(lambda url=url: Client(url)).code == "bad_request"
    assert client_error(lambda: Client(verify=tmp_path / "none.pem")).code == "bad_request"


@pytest.mark.parametrize("client_class", [Client, AsyncClient])
def test_credentials_are_never_in_errors(client_class: Callable[..., object]) -> None:
    for key in ("hidden\n", "hid\nden", "hidden ", "hidden\x7f", "hidden\udcff"):
        error = client_error(lambda key=key: client_class("http://box:8000", key=key))
        assert error.code == "bad_request" and "hid" not in str(error)
    for url in ("http://me:hidden@box:99999", "http://me:hidden@[::1", "ftp://me:hid/den@box"):
        error = client_error(lambda url=url: client_class(url))
        assert error.code == "bad_request" and "hid" not in str(error)
    assert "hidden" not in repr(ServerAddress("http://me:hidden@box:8000", "hidden", True, 1.0))


def test_address_with_credentials_is_reported_without_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Client(f"http://me:hidden@127.0.0.1:{port}") as client:
        error = client_error(client.ready)
    assert error.code == "unreachable" and "hidden" not in error.message and str(port) in error.message


def test_environment_configures_the_address_and_the_api_key(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("server.api_key=schlüssel")) as server:
        monkeypatch.setenv("CHATAPI_URL", server.url)
        with Client() as client:
            error = client_error(client.ready)
            assert (error.code, error.status) == ("unauthorized", 401)
        with Client(key="wrong") as client:
            assert client_error(client.models).code == "unauthorized"
        monkeypatch.setenv("CHATAPI_API_KEY", "schlüssel")
        with Client() as client:
            assert client.ready()


def test_missing_scope_and_rate_limit_are_reported(fake_settings: Callable[..., Settings], data: Path) -> None:
    operator, limited = auth.add(data, "operator", ["operate"]), auth.add(data, "limited", ["talk"], rate=1)
    with serving(fake_settings()) as server:
        with Client(server.url, operator) as client:
            error = client_error(lambda: client.completion("hello"))
            assert (error.code, error.status) == ("scope_missing", 403)
        with Client(server.url, limited) as client:
            assert client.ready()
            error = client_error(client.ready)
            assert (error.code, error.status) == ("rate_limited", 429)
            assert error.retry_after is not None and 0 < error.retry_after <= 60


def test_loading_server_is_not_ready_and_gives_retry_after(
    fake_settings: Callable[..., Settings],
) -> None:
    with serving(fake_settings(), load=False) as server, Client(server.url) as client:
        assert not client.ready()
        error = client_error(lambda: client.completion("hello"))
        assert (error.code, error.status) == ("not_ready", 503)
        assert error.retry_after is not None


def test_certificate_of_the_server_is_trusted_with_its_authority(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.tls=true")) as server:
        with Client(server.url, verify=CertificateKeeper(server.appliance.settings.data).authority) as client:
            assert client.ready()
        with Client(server.url) as client:
            assert client_error(client.ready).code == "unreachable"


def test_certificate_authorities_of_the_machine_are_trusted(
    fake_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(fake_settings("server.tls=true")) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(CertificateKeeper(server.appliance.settings.data).authority))
        with Client(server.url) as client:
            assert client.ready()


def test_engine_failure_during_an_answer_is_reported(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("fake.fault=raise")) as server, Client(server.url) as client:
        error = client_error(lambda: client.completion("hello"))
        assert (error.code, error.status) == ("engine_failed", 500)
        with client.stream("hello") as events:
            error = client_error(lambda: list(events))
            assert (error.code, error.status) == ("engine_failed", 500)
        with pytest.raises(ClientError) as raised, client.wav("hello") as pieces:
            list(pieces)
        assert raised.value.code in ("engine_failed", "broken_off")


def test_ask_command_uses_the_given_server(
    fake_settings: Callable[..., Settings], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, question, answer = auth.add(data, "laptop", ["talk"]), tmp_path / "question.wav", tmp_path / "answer.wav"
    question.write_bytes(SPOKEN)

    def run(*words: str, status: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as exited:
            main(["ask", *words, "--set", f"data={tmp_path / 'laptop'}"])
        output = capsys.readouterr()
        assert exited.value.code == status, output.err
        return output.out, output.err

    with serving(fake_settings("server.tls=true")) as server:
        options = ("--server", server.url, "--key", key)
        fingerprint = run("hello", *options, status=2)[1].partition("--fingerprint ")[2].split()[0]
        out, err = run("hello", *options, "--fingerprint", fingerprint)
        assert "hello" in out and "conversation: " in err
        out, err = run(str(question), *options, "--reply", "voice", "--json", "-o", str(answer))
        assert Completion(**json.loads(out)).transcript and "transcript: " in err
        assert frames(answer.read_bytes())[0] > 0
        _, err = run("hello", "--server", server.url, "--key", "chatapi_wrong", status=2)
        [error] = [line for line in err.splitlines() if line.startswith("chatapi: ")]
        assert error.startswith(f"chatapi: {server.url}: an API key is required")
    assert "--server" in run("hello", "--key", key, status=2)[1]
    assert "-o names the file" in run("hello", *options, "-o", str(answer), status=2)[1]
