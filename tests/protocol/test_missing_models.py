"""Roles whose model is not installed: each of their routes answers 503 with the command that installs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from chatapi import settings
from chatapi.audio import RATE, Audio, wav
from chatapi.engines import registry
from chatapi.errors import ModelMissing
from conftest import FAKE_ENGINES, RunningServer, installed_model, serving, tone
from test_cli import run
from torchserve_ports import torchserving

CLIP = wav(Audio(tone(4), RATE))
WORD = wav(Audio(tone(1), RATE))
ON_DEMAND = tuple(role.name for role in registry.SHIPPED if not role.essential)
"""Roles without whose model the box starts."""

Send = Callable[[httpx.Client], httpx.Response]


def form(*parts: str, **texts: str) -> dict[str, Any]:
    return {"data": texts, "files": [(part, ("clip.wav", CLIP, "audio/wav")) for part in parts]}


def audio(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": "audio/wav"}}


ROUTES: dict[str, tuple[str, Send]] = {
    "a voice": ("voice_converter", lambda box: box.post("/voices", **form("clips", name="a", consent="mine"))),
    "quality": ("voice_converter", lambda box: box.post("/voices/quality", **form("clips"))),
    "a stored voice": ("voice_converter", lambda box: box.post("/conversions", **form("source", voice="a"))),
    "clips": (
        "voice_converter", lambda box: box.post("/conversions", **form("source", "targets", consent="mine")),
    ),
    "a job": (
        "voice_converter",
        lambda box: box.post("/conversions", **form("source", "targets", consent="mine", job="true")),
    ),
    "commands": ("command", lambda box: box.get("/commands")),
    "a command": ("command", lambda box: box.post("/commands/classify", **audio(WORD))),
    "a sample": ("command", lambda box: box.post("/commands/samples", params={"label": "go"}, **audio(WORD))),
}  # fmt: skip


def chosen(data: Path) -> settings.Settings:
    defaults = settings.load([], environ={}).settings
    engines = [f"{role}.engine={getattr(defaults, role).engine}" for role in ON_DEMAND if role != "turn_detection"]
    return settings.load([*FAKE_ENGINES, *engines, f"data={data}"], environ={}).settings


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose essential engines are fake, and the others real, without any model."""
    with serving(chosen(tmp_path_factory.mktemp("data"))) as running:
        yield running


def check(code: str, message: str) -> None:
    assert code == "model_missing" and "chatapi models fetch " in message, message


@pytest.mark.parametrize(("role", "send"), ROUTES.values(), ids=ROUTES)
def test_a_route_names_the_command_that_installs_its_model(bare_server: RunningServer, role: str, send: Send) -> None:
    # More often than an engine that fails is loaded again.
    for _ in range(6):
        reply = send(bare_server.client)
        assert reply.status_code == 503, reply.text
        assert "retry-after" not in reply.headers
        found = reply.json().get("error", reply.json())
        check(found["code"], found.get("message") or found["detail"])
    health = bare_server.client.get("/health").json()
    assert health["engines"][role]["state"] == "idle" and health["status"] == "ok"


def test_a_transcript_without_speakers_names_the_command(bare_server: RunningServer) -> None:
    texts = {"model": "gpt-4o-transcribe-diarize", "response_format": "diarized_json"}
    reply = bare_server.client.post("/v1/audio/transcriptions", **form("file", **texts))
    assert reply.status_code == 200 and reply.json()["text"]
    check(reply.json()["speakers_error"]["code"], reply.json()["speakers_error"]["message"])


@pytest.mark.parametrize("role", [name for name in ON_DEMAND if name != "turn_detection"])
def test_an_engine_without_a_model_names_the_command(bare_server: RunningServer, role: str) -> None:
    with pytest.raises(ModelMissing) as raised:
        bare_server.run(bare_server.appliance.engines[role].open)
    check(raised.value.code, raised.value.message)


def test_live_conversion_names_the_command(bare_server: RunningServer) -> None:
    with connect(f"{bare_server.url.replace('http', 'ws')}/conversions/live") as socket:
        socket.send(json.dumps({"type": "start", "voice": "a"}))
        answer = json.loads(socket.recv())
    check(answer["error"]["code"], answer["error"]["message"])


def test_torchserve_names_the_command(bare_server: RunningServer) -> None:
    with torchserving(bare_server, voice_consent="our staff agreed") as ports:
        query = {"model_name": "knn_vc", "url": "knn_vc.mar", "initial_workers": "1", "synchronous": "true"}
        assert ports.management.post("/models", params=query).status_code == 200
        reply = ports.inference.post("/predictions/knn_vc", **form("source", "targets"))
    assert reply.status_code == 503 and "chatapi models fetch knn-vc" in reply.json()["message"], reply.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("voices", "add", "a", "clip.wav", "--consent", "mine"),
        ("convert", "clip.wav", "--voice", "a", "--output", "out.wav"),
        ("commands", "classify", "clip.wav"),
    ],
    ids=" ".join,
)
def test_a_command_names_the_command_that_installs_its_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    Path("clip.wav").write_bytes(CLIP)
    assert run(*arguments, data=tmp_path / "data") == 2
    assert "chatapi models fetch " in capsys.readouterr().err


def test_a_model_that_is_installed_meanwhile_is_used(tmp_path: Path) -> None:
    place = installed_model("command-words").folder
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True)
    with serving(chosen(data)) as running:
        assert running.client.get("/commands").status_code == 503
        (data / "models" / "command-words").symlink_to(place)
        assert "yes" in running.client.get("/commands").json()["labels"]
