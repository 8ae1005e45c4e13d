"""`chatapi talk --server`: this machine's ears and mouth for a box elsewhere, which comes and goes and may refuse."""

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
from conftest import DEFAULTS, FAKE_ENGINES, RunningServer, serving, tone, until
from test_talk import said, spoken, talking
from virtual_sound_card import Room, room

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
@pytest.mark.alone
def test_a_question_here_is_answered_by_the_box_there(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, "--tls", *DEFAULTS, "llm.temperature=0") as box:
        printed = box.told.split("fingerprint ")[1].split()[0]
        words = ("--server", f"https://localhost:{box.port}", "--fingerprint", printed)
        with talking(room, tmp_path / "laptop", words=words) as talk:
            room.record()
            room.play_into_microphone(spoken("What is the capital of France?")).wait()
            # How well it hears is measured elsewhere; a busy machine's virtual sound card may lose a syllable.
            assert in_words(talk.wait("you:"))[:6] == in_words("you: What is the capital of")
            answer = set(in_words(talk.wait("box:"))[1:])
            end = time.monotonic() + 60
            while len(answer & set(said(room.recorded()))) < min(3, len(answer)):
                assert time.monotonic() < end
                time.sleep(1)
        assert not (tmp_path / "laptop" / "models").exists()


def test_the_conversation_goes_on_after_the_box_died(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, *FAKE_ENGINES) as box:
        with talking(room, tmp_path / "laptop", words=("--server", f"http://127.0.0.1:{box.port}")) as talk:
            room.play_into_microphone(beep(0.6)).wait()
            talk.wait("box: You said")
            box.kill()
            talk.wait("waiting: ")
            box.start()
            talk.wait("connected again")
            time.sleep(0.5)
            room.play_into_microphone(beep(1.1)).wait()
            talk.wait("box: You said", 2)
            assert sum(line.startswith("waiting") for line in talk.lines) == 1
    with closing(sqlite3.connect(data / "history.sqlite3")) as history:
        kept = history.execute("SELECT conversation, count(*) FROM exchanges GROUP BY conversation").fetchall()
    assert [count for _, count in kept] == [2]


def test_enter_begins_and_ends_what_is_said(room: Room, data: Path, tmp_path: Path) -> None:
    with box_at_work(data, *FAKE_ENGINES) as box:
        words = ("--server", f"http://127.0.0.1:{box.port}")
        with talking(
            room, tmp_path / "laptop", "audio_device.mode=push_to_talk", words=words, stdin=subprocess.PIPE
        ) as talk:  # fmt: skip
            keyboard = talk.process.stdin
            assert keyboard is not None
            room.play_into_microphone(beep(0.4)).wait()
            assert not any(line.startswith("you:") for line in talk.lines), "nobody pressed a key"
            for _ in ("begin", "end"):
                keyboard.write("\n")
                keyboard.flush()
                room.play_into_microphone(beep(0.5)).wait()
            talk.wait("you: heard")
            talk.wait("box: You said")


def test_a_box_that_does_not_let_in_ends_the_command_with_a_sentence(
    room: Room, fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with serving(fake_settings("server.api_key=sesame")) as running:
        command = [sys.executable, "-m", "chatapi", "talk", "--server", running.url, "--set", f"data={tmp_path}"]
        refused = subprocess.run(command, env=room.environment, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1] == (
            f"chatapi: {running.url} requires its API key: set it with --key or CHATAPI_SERVER_API_KEY"
        )
        with talking(room, tmp_path, words=("--server", running.url, "--key", "sesame")):
            pass


def test_devices_are_listed_by_name(room: Room, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatapi", "talk", "--list-devices", "--set", f"data={tmp_path}"]
    listed = subprocess.run(command, env=room.environment, capture_output=True, text=True, timeout=120)
    assert (listed.returncode, listed.stderr) == (0, "")
    inputs, outputs = listed.stdout.split("audio_device.output:\n")
    assert "  testmic\n" in inputs and "  testspk\n" in outputs
    assert "(default)" in inputs and "(default)" in outputs


def test_it_starts_without_what_models_want() -> None:
    looked = "import sys, chatapi.cli.talk, chatapi.interfaces.audio_device.remote_session; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chatapi.appliance", "fastapi", "onnxruntime", "xllamacpp", "cryptography"} & set(loaded)


# What is done with what it says


class Ears:
    """Devices that hear what the test says, and have played as much of what they were given as the test says."""

    rate = 48_000
    playing = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.given = 0.0
        self.heard_of_it = 0.0
        self.say, self._said = anyio.create_memory_object_stream[Samples](10_000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Ears]:
        with self.say, self._said:
            yield self

    async def captured(self) -> AsyncIterator[Samples]:
        async for block in self._said:
            yield block

    def play(self, audio: Audio) -> None:
        self.given += audio.seconds

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def clear(self) -> None:
        self.done.append("clear")
        self.given = 0.0

    @property
    def played(self) -> int:
        return int(min(self.given, self.heard_of_it) * RATE)

    def hear(self, *sounds: Samples) -> None:
        for block in np.array_split(np.concatenate(sounds), sum(map(len, sounds)) // 320):
            self.say.send_nowait(block)


class Talker:
    """A conversation with a box and such devices, and what it told."""

    def __init__(self, group: TaskGroup, where: RealtimeAddress, mode: str = "hands_free") -> None:
        self.told: list[tuple[str, str]] = []
        self.conversation = RemoteConversation(
            AudioDeviceSettings(mode=mode, chimes=False),
            where,
            lambda kind, words: self.told.append((kind, words)),  # type: ignore[arg-type]
        )
        self.ears = Ears()
        self.conversation.devices = self.ears  # type: ignore[assignment]
        group.start_soon(self.conversation.run)

    async def until(self, kind: str, count: int = 1) -> str:
        with anyio.fail_after(10):
            while len(found := [words for each, words in self.told if each == kind]) < count:
                await anyio.sleep(0.01)
        return found[-1]


@pytest.mark.anyio
async def test_speech_against_an_answer_holds_it_and_then_ends_it(fake_server: RunningServer, tmp_path: Path) -> None:
    pause = np.zeros(RATE // 2, np.float32)
    async with anyio.create_task_group() as group:
        talker = Talker(group, parse_address(fake_server.url, None, None, tmp_path))
        ears = talker.ears
        await talker.until("listening")
        link = talker.conversation._link
        assert link is not None
        # In writing: what is spoken comes back as words so much like the answer's that they are taken for its echo.
        content = [{"type": "input_text", "text": "one two three four five six seven eight nine ten"}]
        await link.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await link.send("response.create")
        answer = await talker.until("answer")
        await until(lambda: ears.given > 0.5)
        assert "pause" not in ears.done
        ears.heard_of_it = 0.3
        ears.hear(pause, tone(0.3))
        await until(lambda: "pause" in ears.done)
        ears.hear(tone(1.0), pause)
        cut = await talker.until("interrupted")
        assert answer.startswith(cut) and 0 < len(cut) < len(answer)
        assert "clear" in ears.done[ears.done.index("pause") :] and "resume" not in ears.done
        await talker.until("answer", 2)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_is_sent_and_played_is_what_was_heard_and_said(fake_server: RunningServer, tmp_path: Path) -> None:
    async with anyio.create_task_group() as group:
        talker = Talker(group, parse_address(fake_server.url, None, None, tmp_path), "push_to_talk")
        await talker.until("listening")
        await talker.conversation.press()
        talker.ears.hear(tone(1.0))
        await until(lambda: talker.ears.say.statistics().current_buffer_used == 0)
        await talker.conversation.release()
        assert 0.95 < float((await talker.until("transcript")).split()[1]) < 1.05
        words = len((await talker.until("answer")).split())
        await until(lambda: abs(talker.ears.given - words * 0.06) < 0.1)
        talker.ears.heard_of_it = 60.0
        talker.ears.hear(np.zeros(640, np.float32))
        await until(lambda: talker.ears.say.statistics().current_buffer_used == 0)
        await talker.conversation.press()
        await talker.conversation.release()
        await anyio.sleep(0.2)
        told = [kind for kind, _ in talker.told if kind != "partial"]
        assert told == ["listening", "transcript", "answer"], "nothing said, nothing told"
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_box_that_comes_back_without_memory_is_talked_with_anew(
    fake_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    sound = (tone(0.8), np.zeros(RATE // 2, np.float32))
    with serving(fake_settings()) as box:
        async with anyio.create_task_group() as group:
            talker = Talker(group, parse_address(box.url, None, None, tmp_path))
            await talker.until("listening")
            talker.ears.hear(*sound)
            await talker.until("answer")
            known_as = talker.conversation._conversation
            async with httpx.AsyncClient(base_url=box.url) as operator:
                assert (await operator.get(f"/conversations/{known_as}")).json()["messages"]
                assert (await operator.delete(f"/conversations/{known_as}")).status_code == 204
            link = talker.conversation._link
            assert link is not None
            link._connection.transport.abort()
            await talker.until("reconnected")
            assert "no such conversation" in await talker.until("error")
            assert [words for kind, words in talker.told if kind == "disconnected"] == [
                f"the connection to {box.url} was lost"
            ]
            talker.ears.hear(*sound)
            await talker.until("answer", 2)
            group.cancel_scope.cancel()
