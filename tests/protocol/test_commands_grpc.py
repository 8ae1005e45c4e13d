"""Command recognition over gRPC: every method with two clients, health, reflection, TLS, keys, bad messages."""

from __future__ import annotations

import io
import json
import shutil
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from chatapi import auth, settings
from chatapi.audio import RATE, Audio, wav
from chatapi.auth.certificates import Identity
from chatapi.cli import dlserver_testclient
from chatapi.client.commands import CommandClient, proto
from chatapi.client.proto_file import COMMANDS
from chatapi.interfaces.grpc.server import CommandServer
from conftest import FAKE_ENGINES, RunningServer, serving, tone
from paths import NODE
from running_interface import running_interface, running_jobs

BEEP = wav(Audio(tone(0.5, 450), RATE))


@contextmanager
def grpc_server(data: Path, *more: str, tls: bool = False) -> Iterator[tuple[RunningServer, str]]:
    """A server with its jobs, and its gRPC address."""
    found = settings.load([*FAKE_ENGINES, f"data={data}", "grpc.port=0", *more], environ={}).settings
    with serving(found) as running, running_jobs(running):
        identity = Identity(data, None, None) if tls else None
        server = CommandServer(running.appliance, identity.file if identity else None)
        with running_interface(running, server.run):
            running.portal.call(server.started.wait)
            yield running, f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with grpc_server(tmp_path_factory.mktemp("data"), "grpc.message_bytes=65536") as (_, found):
        yield found


def status(call: Callable[[], Any]) -> tuple[str, str]:
    """The status of a failing call, and chatapi's code."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    trailing = dict(raised.value.trailing_metadata() or ())
    return raised.value.code().name, str(trailing.get("chatapi-code", ""))


def teach(client: CommandClient) -> None:
    for number in range(8):
        assert client.submit(wav(Audio(tone(0.5, 1500 + number), RATE)), "whistle").sample.state == "accepted"


def test_a_clip_is_classified(address: str) -> None:
    with CommandClient(address) as client:
        found = client.classify(BEEP)
        assert (found.label, round(found.probability, 3), found.version) == ("beep", 0.9, 0)
        assert [each.label for each in found.probabilities] == ["beep", "unknown"]


def test_a_word_is_taught_watched_switched_and_rolled_back(tmp_path: Path) -> None:
    with grpc_server(tmp_path) as (_, address), CommandClient(address) as client:
        teach(client)
        assert client.submit(wav(Audio(tone(0.5, 1500), RATE)), "whistle").duplicate
        states = [each.state for each in client.watch(client.train().id)]
        assert states[-1] == "done"
        models = client.models()
        assert models.active == 1 and list(models.models[0].labels) == ["beep", "whistle", "unknown"]
        assert json.loads(models.models[0].figures_json)["new"]["accuracy"] == models.models[0].accuracy
        assert client.classify(wav(Audio(tone(0.5, 1510), RATE))).label == "whistle"
        assert client.roll_back().active == 0
        assert status(client.roll_back) == ("FAILED_PRECONDITION", "nothing_to_roll_back")
        assert client.activate(1).active == 1
        assert status(lambda: client.activate(9)) == ("NOT_FOUND", "unknown_version")
        samples = list(client.samples())
        assert len(samples) == 8 and samples[0].interface == "grpc"
        with tarfile.open(fileobj=io.BytesIO(b"".join(client.export()))) as archive:
            assert len(archive.getnames()) == 9
        client.delete(samples[0].id)
        assert status(lambda: client.delete(samples[0].id)) == ("NOT_FOUND", "unknown_sample")
        assert status(lambda: client.cancel("none")) == ("NOT_FOUND", "unknown_job")


def test_commands_in_a_stream_are_detected_once(tmp_path: Path) -> None:
    with grpc_server(tmp_path) as (_, address), CommandClient(address) as client:
        quiet = np.zeros(RATE, np.float32)
        samples = np.concatenate([quiet, tone(0.5, 450), quiet, quiet, tone(0.5, 450), quiet])
        content = Audio(samples, RATE).pcm16()
        # An odd size: the parts of a stream end anywhere.
        found = list(client.detections(content[first : first + 3333] for first in range(0, len(content), 3333)))
        assert [each.label for each in found] == ["beep", "beep"]
        assert 0.9 < found[0].end < 2.2 and 3.4 < found[1].end < 4.8


@pytest.mark.parametrize(
    ("audio", "code"),
    [
        (b"", "missing_file"),
        (BEEP[:20], "bad_audio"),
        (wav(Audio(np.zeros(RATE, np.float32), RATE)), "no_speech"),
        (wav(Audio(tone(1.6, 450), RATE)), "sample_too_long"),
        (wav(Audio(np.sign(tone(0.5, 450)), RATE)), "sample_clipped"),
    ],
    ids=["empty", "half", "silence", "long", "clipped"],
)
def test_a_bad_sample_has_a_named_status(address: str, audio: bytes, code: str) -> None:
    with CommandClient(address) as client:
        assert status(lambda: client.submit(audio, "a")) == ("INVALID_ARGUMENT", code)
        assert status(lambda: client.submit(BEEP, "a/b")) == ("INVALID_ARGUMENT", "invalid_label")
        assert not list(client.samples())


def test_a_large_message_and_one_of_another_type_are_rejected(address: str) -> None:
    with CommandClient(address) as client:
        assert status(lambda: client.classify(b"x" * 100_000))[0] == "RESOURCE_EXHAUSTED"
        raw = client._channel.unary_unary(f"/{proto().service}/Classify")
        assert status(lambda: raw(b"\xff\xff\xff", timeout=10))[0] == "INVALID_ARGUMENT"
        assert status(lambda: list(client.detections([b"\0"]))) == ("INVALID_ARGUMENT", "half_sample")
        assert status(client.train) == ("INVALID_ARGUMENT", "nothing_to_train")
        unknown = client._channel.unary_unary(f"/{proto().service}/Nothing")
        assert status(lambda: unknown(b"", timeout=10))[0] == "UNIMPLEMENTED"
        assert client.classify(BEEP).label == "beep"


def test_a_cancelled_stream_leaves_the_server_as_it_was(address: str) -> None:
    with CommandClient(address) as client:
        method = proto().methods["ClassifyStream"]
        stop = threading.Event()

        def chunks() -> Iterator[Any]:
            while not stop.wait(0.01):
                yield method.request(pcm=bytes(3200))

        call = client._stub(method)(chunks())
        time.sleep(0.2)
        call.cancel()
        stop.set()
        assert client.classify(BEEP).label == "beep"


def test_health_and_reflection(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflected = ProtoReflectionDescriptorDatabase(channel)
        assert proto().service in reflected.get_services()
        described = reflected.FindFileContainingSymbol(proto().service)
        assert [each.name for each in described.service[0].method] == list(proto().methods)


def test_keys_and_their_scopes(tmp_path: Path) -> None:
    keys = {scope: auth.add(tmp_path, scope, [scope]) for scope in ("talk", "train", "operate")}
    with grpc_server(tmp_path) as (_, address):
        for key, expected in (("", "UNAUTHENTICATED"), ("wrong", "UNAUTHENTICATED")):
            with CommandClient(address, key) as client:
                assert status(lambda client=client: client.classify(BEEP))[0] == expected
        with CommandClient(address, keys["talk"]) as client:
            assert client.classify(BEEP).label == "beep"
            assert status(lambda: client.submit(BEEP, "a")) == ("PERMISSION_DENIED", "scope_missing")
        with CommandClient(address, keys["train"]) as client:
            assert client.submit(BEEP, "beep").sample.state == "accepted"
            assert status(client.roll_back) == ("PERMISSION_DENIED", "scope_missing")
            assert status(lambda: client.activate(0)) == ("PERMISSION_DENIED", "scope_missing")
        with CommandClient(address, keys["operate"]) as client:
            assert [each.label for each in client.samples()] == ["beep"]


def test_tls(tmp_path: Path) -> None:
    with grpc_server(tmp_path, tls=True) as (_, address):
        # The TLS library of gRPC does not know the constraints of the box's authority, so the server's own is trusted.
        trusted = tmp_path / "box.pem"
        trusted.write_text(ssl.get_server_certificate(("127.0.0.1", int(address.rpartition(":")[2]))))
        with CommandClient(address, authority=trusted) as client:
            assert client.classify(BEEP).label == "beep"
        with CommandClient(address) as client:
            assert status(lambda: client.classify(BEEP))[0] == "UNAVAILABLE"


def test_a_shutdown_ends_streams_with_unavailable(tmp_path: Path) -> None:
    with grpc_server(tmp_path) as (running, address), CommandClient(address) as client:
        method = proto().methods["ClassifyStream"]
        stop = threading.Event()

        def chunks() -> Iterator[Any]:
            while not stop.wait(0.05):
                yield method.request(pcm=bytes(3200))

        call = client._stub(method)(chunks())
        time.sleep(0.3)
        begun = time.monotonic()

        async def shut_down() -> None:
            with running.appliance.drain.running():
                await running.appliance.drain.until_closed()

        running.portal.start_task_soon(shut_down)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        stop.set()
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert time.monotonic() - begun < 8


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "@grpc" / "grpc-js").is_dir(),
    reason="needs node and tests/node",
)
def test_a_client_of_node_made_from_the_proto(tmp_path: Path) -> None:
    with grpc_server(tmp_path) as (_, address):
        command = ["node", str(NODE / "commands.mjs"), str(COMMANDS), address]
        ran = subprocess.run(command, input=BEEP, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert (found["label"], found["probabilities"], found["state"]) == ("beep", 2, "accepted")
    assert (found["duplicate"], found["samples"]) == ([False, True], 1) and found["exported"] > len(BEEP)
    assert found["failed"] == [grpc.StatusCode.FAILED_PRECONDITION.value[0], "nothing_to_roll_back"]
    assert found["detections"] == ["beep"] and found["methods"] == sorted(proto().methods)


def test_the_testclient_prints_the_inference_and_submits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str, content: bytes = BEEP) -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return dlserver_testclient.run(arguments)

    key = auth.add(tmp_path, "app", ["train", "operate"])
    with grpc_server(tmp_path) as (running, address):
        monkeypatch.setenv("CHATAPI_DATA", str(tmp_path / "other"))
        assert run(address) == 1
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        monkeypatch.setenv("CHATAPI_API_KEY", key)
        assert run(address) == 0
        assert capsys.readouterr().out == "beep 0.90\n"
        assert run(address, "beep") == 0
        assert capsys.readouterr().out == "accepted\n"
        assert [each.label for each in running.appliance.command_teaching.samples.find(None)] == ["beep"]
        assert run(address, content=b"") == 1
        assert "missing_file" in capsys.readouterr().err
    assert run("127.0.0.1:1") == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
