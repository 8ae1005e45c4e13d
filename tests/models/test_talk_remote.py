"""`chatapi talk --server`: this machine's audio devices, and a server elsewhere that restarts or rejects clients."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest
from anyio.abc import TaskGroup

from chatapi.audio import RATE, Audio, Samples
from chatapi.bench.wer import words as in_words
from chatapi.interfaces.audio_device.realtime_link import RealtimeAddress, parse_address
from chatapi.interfaces.audio_device.remote_session import RemoteConversation
from chatapi.settings import AudioDeviceSettings, Settings
from conftest import DEFAULTS, FAKE_ENGINES, TIMEOUT, RunningServer, serving, tone, until
from test_talk_local import run_talk, synthesize, transcribe
from virtual_sound_card import SoundCard, sound_card

__all__ = ["sound_card"]


# With a virtual sound card


class ServerProcess:
    """`chatapi serve` in a child process, always on the same port."""

    def __init__(self, data: Path, *words: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        settings = (f"data={data}", f"server.port={self.port}", *(word for word in words if "=" in word))
        self._arguments = [word for word in words if "=" not in word]
        self._settings = [word for each in settings for word in ("--set", each)]
        self.process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatapi", "serve", *self._arguments, *self._settings],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        while "ready after" not in self.output:
            line = self.process.stdout.readline()
            assert line, "the server did not start"
            self.output += line

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process, self.output = None, ""


@contextmanager
def running_server(data: Path, *arguments: str) -> Iterator[ServerProcess]:
    server = ServerProcess(data, *arguments)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def beep(seconds: float) -> Samples:
    return np.concatenate([tone(seconds), np.zeros(RATE // 2, np.float32)])


@pytest.mark.real
@pytest.mark.alone
def test_question_at_the_microphone_is_answered_by_a_remote_server(
    sound_card: SoundCard, data: Path, tmp_path: Path
) -> None:
    with running_server(data, "--tls", *DEFAULTS, "llm.temperature=0") as server:
        printed = server.output.split("fingerprint ")[1].split()[0]
        arguments = ("--server", f"https://localhost:{server.port}", "--fingerprint", printed)
        with run_talk(sound_card, tmp_path / "laptop", arguments=arguments) as talk:
            sound_card.record()
            sound_card.play_into_microphone(synthesize("What is the capital of France?")).wait()
            # Word error rates are measured elsewhere; the virtual sound card of a busy machine may lose a syllable.
            assert in_words(talk.wait("you:"))[:6] == in_words("you: What is the capital of")
            answer = set(in_words(talk.wait("box:"))[1:])
            end = time.monotonic() + 60
            while len(answer & set(transcribe(sound_card.recorded()))) < min(3, len(answer)):
                assert time.monotonic() < end
                time.sleep(1)
        assert not (tmp_path / "laptop" / "models").exists()


def test_conversation_continues_after_the_server_restarts(sound_card: SoundCard, data: Path, tmp_path: Path) -> None:
    with running_server(data, *FAKE_ENGINES) as server:
        with run_talk(
            sound_card, tmp_path / "laptop", arguments=("--server", f"http://127.0.0.1:{server.port}")
        ) as talk:
            sound_card.play_into_microphone(beep(0.6)).wait()
            talk.wait("box: You said")
            server.kill()
            talk.wait("waiting: ")
            server.start()
            talk.wait("connected again")
            time.sleep(0.5)
            sound_card.play_into_microphone(beep(1.1)).wait()
            talk.wait("box: You said", 2)
            assert sum(line.startswith("waiting") for line in talk.lines) == 1
    with closing(sqlite3.connect(data / "history.sqlite3")) as history:
        stored = history.execute("SELECT conversation, count(*) FROM exchanges GROUP BY conversation").fetchall()
    assert [count for _, count in stored] == [2]


def test_enter_starts_and_ends_a_push_to_talk_turn(sound_card: SoundCard, data: Path, tmp_path: Path) -> None:
    with running_server(data, *FAKE_ENGINES) as server:
        arguments = ("--server", f"http://127.0.0.1:{server.port}")
        with run_talk(
            sound_card,
            tmp_path / "laptop",
            "audio_device.mode=push_to_talk",
            arguments=arguments,
            stdin=subprocess.PIPE,
        ) as talk:
            keyboard = talk.process.stdin
            assert keyboard is not None
            sound_card.play_into_microphone(beep(0.4)).wait()
            assert not any(line.startswith("you:") for line in talk.lines), "no key was pressed"
            for _ in ("begin", "end"):
                keyboard.write("\n")
                keyboard.flush()
                sound_card.play_into_microphone(beep(0.5)).wait()
            talk.wait("you: heard")
            talk.wait("box: You said")


def test_rejected_api_key_ends_the_command_with_a_message(
    sound_card: SoundCard, fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(fake_settings("server.api_key=sesame")) as running:
        command = [sys.executable, "-m", "chatapi", "talk", "--server", running.url, "--set", f"data={tmp_path}"]
        rejected = subprocess.run(command, env=sound_card.environment, capture_output=True, text=True, timeout=120)
        assert rejected.returncode == 2
        assert rejected.stderr.splitlines()[-1] == (
            f"chatapi: {running.url} requires its API key: set it with --key or CHATAPI_SERVER_API_KEY"
        )
        with run_talk(sound_card, tmp_path, arguments=("--server", running.url, "--key", "sesame")):
            pass


def test_devices_are_listed_by_name(sound_card: SoundCard, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatapi", "talk", "--list-devices", "--set", f"data={tmp_path}"]
    listed = subprocess.run(command, env=sound_card.environment, capture_output=True, text=True, timeout=120)
    assert (listed.returncode, listed.stderr) == (0, "")
    inputs, outputs = listed.stdout.split("audio_device.output:\n")
    assert "  testmic\n" in inputs and "  testspk\n" in outputs
    assert "(default)" in inputs and "(default)" in outputs


def test_remote_talk_does_not_import_the_engines() -> None:
    script = "import sys, chatapi.cli.talk, chatapi.interfaces.audio_device.remote_session; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chatapi.appliance", "fastapi", "onnxruntime", "xllamacpp", "cryptography"} & set(loaded)


# With fake devices


class FakeDevices:
    """Fake devices: the test sends captured audio, and limits how much of the queued audio was played."""

    rate = 48_000
    playing = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.queued_seconds = 0.0
        self.playback_limit = 0.0
        self.microphone, self._microphone_output = anyio.create_memory_object_stream[Samples](10_000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeDevices]:
        with self.microphone, self._microphone_output:
            yield self

    async def captured(self) -> AsyncIterator[Samples]:
        async for block in self._microphone_output:
            yield block

    def play(self, audio: Audio) -> None:
        self.queued_seconds += audio.seconds

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def clear(self) -> None:
        self.calls.append("clear")
        self.queued_seconds = 0.0

    @property
    def played(self) -> int:
        return int(min(self.queued_seconds, self.playback_limit) * RATE)

    def capture(self, *sounds: Samples) -> None:
        for block in np.array_split(np.concatenate(sounds), sum(map(len, sounds)) // 320):
            self.microphone.send_nowait(block)


class ConversationRun:
    """A remote conversation on fake devices, and its events."""

    def __init__(self, group: TaskGroup, where: RealtimeAddress, mode: str = "hands_free") -> None:
        self.events: list[tuple[str, str]] = []
        self.conversation = RemoteConversation(
            AudioDeviceSettings(mode=mode, chimes=False),
            where,
            lambda kind, words: self.events.append((kind, words)),  # type: ignore[arg-type]
        )
        self.devices = FakeDevices()
        self.conversation.devices = self.devices  # type: ignore[assignment]
        group.start_soon(self.conversation.run)

    async def until(self, kind: str, count: int = 1) -> str:
        with anyio.fail_after(TIMEOUT):
            while len(found := [words for each, words in self.events if each == kind]) < count:
                await anyio.sleep(0.01)
        return found[-1]


@pytest.mark.anyio
async def test_barge_in_pauses_the_answer_and_then_ends_it(fake_server: RunningServer, tmp_path: Path) -> None:
    pause = np.zeros(RATE // 2, np.float32)
    async with anyio.create_task_group() as group:
        run = ConversationRun(group, parse_address(fake_server.url, None, None, tmp_path))
        devices = run.devices
        await run.until("listening")
        link = run.conversation._link
        assert link is not None
        # As text: the fake transcript of speech would be so similar to the answer that it would count as its echo.
        content = [{"type": "input_text", "text": "one two three four five six seven eight nine ten"}]
        await link.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await link.send("response.create")
        answer = await run.until("answer")
        await until(lambda: devices.queued_seconds > 0.5)
        assert "pause" not in devices.calls
        devices.playback_limit = 0.3
        devices.capture(pause, tone(0.3))
        await until(lambda: "pause" in devices.calls)
        devices.capture(tone(1.0), pause)
        played = await run.until("interrupted")
        assert answer.startswith(played) and 0 < len(played) < len(answer)
        assert "clear" in devices.calls[devices.calls.index("pause") :] and "resume" not in devices.calls
        await run.until("answer", 2)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_captured_audio_is_sent_and_received_audio_is_played(fake_server: RunningServer, tmp_path: Path) -> None:
    async with anyio.create_task_group() as group:
        run = ConversationRun(group, parse_address(fake_server.url, None, None, tmp_path), "push_to_talk")
        await run.until("listening")
        await run.conversation.press()
        run.devices.capture(tone(1.0))
        await until(lambda: run.devices.microphone.statistics().current_buffer_used == 0)
        await run.conversation.release()
        assert 0.95 < float((await run.until("transcript")).split()[1]) < 1.05
        words = len((await run.until("answer")).split())
        await until(lambda: abs(run.devices.queued_seconds - words * 0.06) < 0.1)
        run.devices.playback_limit = 60.0
        run.devices.capture(np.zeros(640, np.float32))
        await until(lambda: run.devices.microphone.statistics().current_buffer_used == 0)
        await run.conversation.press()
        await run.conversation.release()
        await anyio.sleep(0.2)
        kinds = [kind for kind, _ in run.events if kind != "partial"]
        assert kinds == ["listening", "transcript", "answer"], "no speech, no event"
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_deleted_conversation_is_replaced_after_a_reconnect(
    fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    sound = (tone(0.8), np.zeros(RATE // 2, np.float32))
    with serving(fake_settings()) as server:
        async with anyio.create_task_group() as group:
            run = ConversationRun(group, parse_address(server.url, None, None, tmp_path))
            await run.until("listening")
            run.devices.capture(*sound)
            await run.until("answer")
            conversation = run.conversation._conversation
            async with httpx.AsyncClient(base_url=server.url) as operator:
                assert (await operator.get(f"/conversations/{conversation}")).json()["messages"]
                assert (await operator.delete(f"/conversations/{conversation}")).status_code == 204
            link = run.conversation._link
            assert link is not None
            link._connection.transport.abort()
            await run.until("reconnected")
            assert "no such conversation" in await run.until("error")
            assert [words for kind, words in run.events if kind == "disconnected"] == [
                f"the connection to {server.url} was lost: no close frame received or sent"
            ]
            run.devices.capture(*sound)
            await run.until("answer", 2)
            group.cancel_scope.cancel()
