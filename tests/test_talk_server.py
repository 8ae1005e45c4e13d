"""`chatapi talk --server`: this machine's ears and mouth for a box elsewhere, which comes and goes and may refuse."""

from __future__ import annotations

import json
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest
from conftest import DEFAULTS, ECHO, Served, serving, tone
from sound import Room, room
from test_talk import said, spoken, talking
from websockets.asyncio.server import serve as websocket_server

from chatapi.audio import RATE, Samples
from chatapi.certificates import Identity, Keeper, fingerprint, shown
from chatapi.errors import (
    BadInput,
    Busy,
    ChatapiError,
    Forbidden,
    NotReady,
    Unauthorized,
    Unknown,
    Unprocessable,
    WaitAndRetry,
)
from chatapi.faces.mic import trust
from chatapi.faces.mic.link import Place, opened, place
from chatapi.settings import Settings

__all__ = ["room"]


# In a room


class Box:
    """`chatapi serve` in a process of its own, always at the same port."""

    def __init__(self, data: Path, *words: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        settings = (f"data={data}", f"server.port={self.port}", *(word for word in words if "=" in word))
        self._words = [word for word in words if "=" not in word]
        self._settings = [word for each in settings for word in ("--set", each)]
        self.process: subprocess.Popen[str] | None = None
        self.told = ""

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatapi", "serve", *self._words, *self._settings],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        while "ready after" not in self.told:
            line = self.process.stdout.readline()
            assert line, "the box did not start"
            self.told += line

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process, self.told = None, ""


@contextmanager
def box_at_work(data: Path, *words: str) -> Iterator[Box]:
    box = Box(data, *words)
    try:
        box.start()
        yield box
    finally:
        box.kill()


def beep(seconds: float) -> Samples:
    return np.concatenate([tone(seconds), np.zeros(RATE // 2, np.float32)])


@pytest.mark.real
def test_a_question_here_is_answered_by_the_box_there(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, "--tls", *DEFAULTS, "llm.temperature=0") as box:
        printed = box.told.split("fingerprint ")[1].split()[0]
        words = ("--server", f"https://localhost:{box.port}", "--fingerprint", printed)
        with talking(room, tmp_path / "laptop", words=words) as talk:
            room.record()
            room.say_into_mic(spoken("What is the capital of France?")).wait()
            assert talk.wait("you:") == "you: What is the capital of France?"
            assert "Paris" in talk.wait("box:")
            end = time.monotonic() + 15
            while "paris" not in said(room.recorded()):
                assert time.monotonic() < end
                time.sleep(1)
        assert not (tmp_path / "laptop" / "models").exists()


def test_the_conversation_goes_on_after_the_box_died(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, *ECHO) as box:
        with talking(room, tmp_path / "laptop", words=("--server", f"http://127.0.0.1:{box.port}")) as talk:
            room.say_into_mic(beep(0.6)).wait()
            talk.wait("box: You said")
            box.kill()
            talk.wait("waiting: the box at")
            box.start()
            talk.wait("connected again", seconds=15)
            time.sleep(0.5)
            room.say_into_mic(beep(1.1)).wait()
            talk.wait("box: You said", 2)
            assert sum(line.startswith("waiting") for line in talk.lines) == 1
    with closing(sqlite3.connect(data / "history.sqlite3")) as history:
        kept = history.execute("SELECT conversation, count(*) FROM exchanges GROUP BY conversation").fetchall()
    assert [count for _, count in kept] == [2]


def test_enter_begins_and_ends_what_is_said(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, *ECHO) as box:
        words = ("--server", f"http://127.0.0.1:{box.port}")
        with talking(
            room, tmp_path / "laptop", "mic.mode=push_to_talk", words=words, stdin=subprocess.PIPE
        ) as talk:  # fmt: skip
            keyboard = talk.process.stdin
            assert keyboard is not None
            room.say_into_mic(beep(0.4)).wait()
            assert not any(line.startswith("you:") for line in talk.lines), "nobody pressed a key"
            for _ in ("begin", "end"):
                keyboard.write("\n")
                keyboard.flush()
                room.say_into_mic(beep(0.5)).wait()
            talk.wait("you: heard")
            talk.wait("box: You said")


def test_a_box_that_does_not_let_in_ends_the_command_with_a_sentence(
    room: Room, echo_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(echo_settings("server.api_key=sesame")) as running:
        command = [sys.executable, "-m", "chatapi", "talk", "--server", running.url, "--set", f"data={tmp_path}"]
        refused = subprocess.run(command, env=room.environment, capture_output=True, text=True, timeout=30)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1] == (
            f"chatapi: {running.url} wants its API key: give it as --key or CHATAPI_SERVER_API_KEY"
        )
        with talking(room, tmp_path, words=("--server", running.url, "--key", "sesame")):
            pass


def test_devices_are_listed_by_name(room: Room, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatapi", "talk", "--list-devices", "--set", f"data={tmp_path}"]
    listed = subprocess.run(command, env=room.environment, capture_output=True, text=True, timeout=30)
    assert (listed.returncode, listed.stderr) == (0, "")
    inputs, outputs = listed.stdout.split("mic.output:\n")
    assert "  testmic\n" in inputs and "  testspk\n" in outputs
    assert "(default)" in inputs and "(default)" in outputs


def test_it_starts_without_what_models_want() -> None:
    looked = "import sys, chatapi.commands.talk, chatapi.faces.mic.remote; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chatapi.appliance", "fastapi", "onnxruntime", "xllamacpp", "cryptography"} & set(loaded)


# At the door


def at(url: str, data: Path, key: str | None = None, accept: str | None = None) -> Place:
    return place(url, key, accept, data)


async def refusal(kind: type[ChatapiError], where: Place, conversation: str | None = None) -> str:
    with pytest.raises(kind) as raised:
        async with opened(where, conversation):
            pass
    assert type(raised.value) is kind and "\n" not in raised.value.message
    return raised.value.message


@pytest.mark.parametrize(
    ("url", "name", "path"),
    [
        ("http://box", "http://box:80", "/v1/realtime"),
        ("https://Box.local:8000/", "https://box.local:8000", "/v1/realtime"),
        ("wss://[::1]:9/v1/realtime", "https://[::1]:9", "/v1/realtime"),
        ("ws://host/kitchen/", "http://host:80", "/kitchen/v1/realtime"),
    ],
)
def test_addresses_may_be_written_in_several_ways(tmp_path: Path, url: str, name: str, path: str) -> None:
    found = at(url, tmp_path)
    assert (found.name, found.path) == (name, path)


@pytest.mark.parametrize("url", ["box:8000", "box", "ftp://box", "http://", "http://box:99999", "http://[::1"])
def test_what_is_no_address_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unprocessable, match="it looks like https://"):
        at(url, tmp_path)


def test_a_fingerprint_is_for_https_and_has_its_form(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="needs an https"):
        at("http://box", tmp_path, accept="AB:CD")
    with pytest.raises(Unprocessable, match="64 hexadecimal digits"):
        trust.secured("localhost", 1, tmp_path, "AB:CD")


@pytest.mark.anyio
async def test_keys_names_and_ports_that_are_wrong_are_told(
    echo_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(echo_settings("server.api_key=sesame", "server.hosts=127.0.0.1")) as box:
        assert "--key or CHATAPI_SERVER_API_KEY" in await refusal(Unauthorized, at(box.url, tmp_path))
        assert "does not take this API key" in await refusal(Unauthorized, at(box.url, tmp_path, "wrong"))
        named = f"http://localhost:{box.port}"
        assert "not in server.hosts" in await refusal(Forbidden, at(named, tmp_path, "sesame"))
        async with opened(at(box.url, tmp_path, "sesame"), None) as link:
            assert link.conversation
    assert "connection refused; does the box run?" in await refusal(WaitAndRetry, at(box.url, tmp_path))
    assert "there is no host 'box.invalid'" in await refusal(WaitAndRetry, at("http://box.invalid", tmp_path))


@pytest.mark.anyio
async def test_a_full_box_and_one_that_still_loads_say_so(
    echo_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(echo_settings("live.sessions=1")) as box:
        async with opened(at(box.url, tmp_path), None):
            assert "try again when one is over" in await refusal(Busy, at(box.url, tmp_path))
        assert "no conversation" in await refusal(Unknown, at(box.url, tmp_path), "conv_of_nobody")
    monkeypatch.setattr("chatapi.faces.web.realtime.READY_SECONDS", 0.1)
    with serving(echo_settings(), load=False) as box:
        assert "is not ready yet" in await refusal(NotReady, at(box.url, tmp_path))


@pytest.mark.anyio
async def test_what_is_not_chatapi_is_told(served: Served, tmp_path: Path) -> None:
    stranger = "is not chatapi; is the port right?"
    assert stranger in await refusal(BadInput, at(f"{served.url}/elsewhere", tmp_path))

    async def openai(connection: Any) -> None:
        await connection.send(json.dumps({"type": "session.created", "session": {"id": "sess_1"}}))
        await connection.wait_closed()

    async def noise(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"220 mail ready\r\n")

    async with websocket_server(openai, "127.0.0.1", 0) as other:
        port = next(iter(other.sockets)).getsockname()[1]
        assert stranger in await refusal(BadInput, at(f"http://127.0.0.1:{port}", tmp_path))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as mail, anyio.create_task_group() as group:
        group.start_soon(mail.serve, noise)
        port = mail.extra(anyio.abc.SocketAttribute.local_port)
        assert stranger in await refusal(BadInput, at(f"http://127.0.0.1:{port}", tmp_path))
        assert "does not speak TLS" in await refusal(WaitAndRetry, at(f"https://127.0.0.1:{port}", tmp_path))
        group.cancel_scope.cancel()


# Whom to trust


@pytest.fixture
def secure(echo_settings: Callable[..., Settings]) -> Iterator[Served]:
    with serving(echo_settings("server.tls=true")) as running:
        yield running


@pytest.mark.anyio
async def test_a_certificate_is_accepted_once_by_its_fingerprint(secure: Served, tmp_path: Path) -> None:
    printed = fingerprint(shown(Keeper(secure.appliance.settings.data).file))
    told = await refusal(Forbidden, at(secure.url, tmp_path))
    assert f"--fingerprint {printed}" in told
    wrong = await refusal(Forbidden, at(secure.url, tmp_path, accept="0" * 64))
    assert "another certificate than that" in wrong and not trust.file_of(tmp_path).exists()
    async with opened(at(secure.url, tmp_path, accept=printed.replace(":", "").lower()), None):
        pass
    async with opened(at(secure.url, tmp_path), None) as link:
        await link.send("session.update", session={"type": "realtime"})
        assert (await anext(link.events()))["type"] == "session.updated"
    plain = f"http://127.0.0.1:{secure.port}"
    assert f"sends on to {secure.url};" in await refusal(BadInput, at(plain, tmp_path, "secret"))


class Showing:
    """A server that shakes hands and says nothing; `context` may be changed."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listening, suppress(OSError):
            while True:
                plain = self._listening.accept()[0]
                with suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


def test_a_renewed_certificate_is_known_by_its_key_and_another_key_is_refused(tmp_path: Path) -> None:
    box, laptop = Identity(tmp_path / "box", None, None), tmp_path / "laptop"
    with closing(Showing(box.context)) as server:
        printed = box.fingerprint
        first = trust.secured("127.0.0.1", server.port, laptop, printed)
        Keeper(tmp_path / "box", ["10.9.8.7"]).refresh()
        renewed = Identity(tmp_path / "box", None, None)
        server.context = renewed.context
        assert renewed.fingerprint != printed
        trust.secured("127.0.0.1", server.port, laptop)
        foreign = Identity(tmp_path / "foreign", None, None)
        server.context = foreign.context
        with pytest.raises(Forbidden, match="shows another key than before"):
            trust.secured("127.0.0.1", server.port, laptop)
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            with pytest.raises(ssl.SSLCertVerificationError):
                first.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_clock_of_an_accepted_box_does_not_matter(tmp_path: Path) -> None:
    Keeper(tmp_path / "box").refresh(datetime(2027, 6, 1, tzinfo=timezone.utc))
    box = Identity(tmp_path / "box", None, None)
    with closing(Showing(box.context)) as server:
        accepted = trust.secured("127.0.0.1", server.port, tmp_path, box.fingerprint)
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            with accepted.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                assert secure.version()
