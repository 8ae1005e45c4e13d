"""TorchServe's gRPC services, by classes made from server reflection and by messages written byte by byte."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatapi import auth, settings
from chatapi.interfaces.torchserve.ports import has_grpc
from chatapi.interfaces.torchserve.service import TorchServe
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, encode_audio, serving, tone
from torchserve_ports import TorchServePorts, torchserving

if not has_grpc():
    pytest.skip("the extra torchserve is not installed", allow_module_level=True)

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"
SECONDS = 60


@pytest.fixture(scope="module")
def ports(shared_server: RunningServer) -> Iterator[TorchServePorts]:
    with torchserving(shared_server, models=("asr=default",)) as found:
        yield found


@pytest.fixture(scope="module")
def audio() -> bytes:
    return encode_audio(tone(1.0), 16_000, "pcm_s16le")


@pytest.fixture(scope="module")
def transcript(ports: TorchServePorts, audio: bytes) -> str:
    """What HTTP gives for the recording."""
    return ports.inference.post("/predictions/asr", content=audio).text


class Service:
    """The methods of a service, with classes that its server describes."""

    def __init__(self, address: str, package: str, service: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self._package = package
        self._methods = self._pool.FindServiceByName(f"{package}.{service}").methods_by_name

    def message(self, name: str, **values: Any) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))(**values)

    def method(self, name: str) -> Callable[..., Any]:
        method = self._methods[name]
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
        make = getattr(self.channel, kinds[method.client_streaming, method.server_streaming])
        answer = message_factory.GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{name}"
        found: Callable[..., Any] = make(
            path, request_serializer=lambda each: each.SerializeToString(), response_deserializer=answer.FromString
        )
        return found


@pytest.fixture(scope="module")
def inference(ports: TorchServePorts) -> Iterator[Service]:
    service = Service(ports.grpc[0], INFERENCE, "InferenceAPIsService")
    yield service
    service.channel.close()


@pytest.fixture(scope="module")
def management(ports: TorchServePorts) -> Iterator[Service]:
    service = Service(ports.grpc[1], MANAGEMENT, "ManagementAPIsService")
    yield service
    service.channel.close()


def field(number: int, content: bytes) -> bytes:
    """A field of text, bytes or a message, shorter than 2 MiB, as protobuf writes it."""
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_predictions_understand_the_bytes_of_generated_clients(
    ports: TorchServePorts, audio: bytes, transcript: str
) -> None:
    with grpc.insecure_channel(ports.grpc[0]) as channel:
        call = channel.unary_unary(f"/{INFERENCE}.InferenceAPIsService/Predictions")
        request = field(1, b"asr") + field(2, b"1.0") + field(3, field(1, b"data") + field(2, audio))
        assert call(request, timeout=SECONDS) == field(1, transcript.encode())


def test_every_way_to_predict(inference: Service, audio: bytes, transcript: str) -> None:
    request = inference.message("PredictionsRequest", model_name="asr", input={"data": audio}, sequence_id="7")
    assert inference.method("Predictions")(request, timeout=SECONDS).prediction.decode() == transcript
    streamed = [each.prediction.decode() for each in inference.method("StreamPredictions")(request, timeout=SECONDS)]
    assert streamed == [transcript]
    wrong = inference.message("PredictionsRequest", model_name="none", input={"data": audio}, sequence_id="7")
    answers = list(inference.method("StreamPredictions2")(iter([request, wrong, request]), timeout=SECONDS))
    assert [each.prediction.decode() for each in answers] == [transcript, "", transcript]
    assert [each.sequence_id for each in answers] == ["7"] * 3
    assert answers[1].status.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_health(ports: TorchServePorts, inference: Service) -> None:
    from google.protobuf import empty_pb2

    assert inference.method("Ping")(empty_pb2.Empty(), timeout=SECONDS).health == "Healthy"
    stub = health_pb2_grpc.HealthStub(inference.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == health_pb2.HealthCheckResponse.SERVING


def test_models_are_managed(management: Service) -> None:
    def run(method: str, message: str, **values: Any) -> str:
        answer = management.method(method)(management.message(message, **values), timeout=SECONDS)
        return str(answer.msg)

    values = {"url": "default.mar", "model_name": "speech", "initial_workers": 1, "synchronous": True}
    assert run("RegisterModel", "RegisterModelRequest", **values) == (
        'Model "speech" Version: 1.0 registered with 1 initial workers'
    )
    text = run("ScaleWorker", "ScaleWorkerRequest", model_name="speech", min_worker=2, synchronous=True)
    assert text == "Workers scaled to 2 for model: speech"
    described = json.loads(run("DescribeModel", "DescribeModelRequest", model_name="speech", model_version="all"))
    assert [len(each["workers"]) for each in described] == [2]
    listed = json.loads(run("ListModels", "ListModelsRequest", limit=10))
    assert [each["modelName"] for each in listed["models"]] == ["asr", "speech"]
    assert 'to "1.0"' in run("SetDefault", "SetDefaultRequest", model_name="speech", model_version="1.0")
    assert run("UnregisterModel", "UnregisterModelRequest", model_name="speech") == 'Model "speech" unregistered'


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"model_name": "none", "input": {"data": b"x"}}, grpc.StatusCode.NOT_FOUND),
        ({"model_name": "asr"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model_name": "asr", "input": {"data": b"no audio"}}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model_name": "asr", "input": {"data": b"x", "task": b"sing"}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_wrong_request_gets_a_status_and_a_reason(inference: Service, values: dict[str, Any], code: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        inference.method("Predictions")(inference.message("PredictionsRequest", **values), timeout=SECONDS)
    assert raised.value.code() == code and raised.value.details()


def test_tokens_guard_every_method_reflection_too(shared_server: RunningServer, tmp_path: Path, audio: bytes) -> None:
    file = tmp_path / "key_file.json"
    with torchserving(shared_server, models=("asr=default",), tokens=True, key_file=file) as ports:
        keys = json.loads(file.read_text())
        request = field(1, b"asr") + field(3, field(1, b"data") + field(2, audio))
        reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        with grpc.insecure_channel(ports.grpc[0]) as channel:
            predict = channel.unary_unary(f"/{INFERENCE}.InferenceAPIsService/Predictions")
            for token in ("", "wrong", keys["management"]["key"], keys["API"]["key"]):
                metadata = [("authorization", f"Bearer {token}")] if token else []
                with pytest.raises(grpc.RpcError) as predicted:
                    predict(request, timeout=SECONDS, metadata=metadata)
                with pytest.raises(grpc.RpcError) as described:
                    list(channel.stream_stream(reflection)(iter([b""]), timeout=SECONDS, metadata=metadata))
                assert predicted.value.code() == described.value.code() == grpc.StatusCode.PERMISSION_DENIED
            right = [("protocol", "gRPC"), ("authorization", f"Bearer {keys['inference']['key']}")]
            assert predict(request, timeout=SECONDS, metadata=right)


def test_prediction_needs_the_scope_of_the_models_role(tmp_path: Path, audio: bytes) -> None:
    given = settings.load([*FAKE_ENGINES, f"data={tmp_path}"], environ={})
    keys = {scope: auth.add(tmp_path, scope, (scope,)) for scope in ("transcribe", "voices")}
    request = field(1, b"asr") + field(3, field(1, b"data") + field(2, audio))
    with serving(given.settings) as server, torchserving(server, models=("asr=default",)) as ports:
        with grpc.insecure_channel(ports.grpc[0]) as channel:
            predict = channel.unary_unary(f"/{INFERENCE}.InferenceAPIsService/Predictions")
            assert predict(request, timeout=SECONDS, metadata=[("authorization", f"Bearer {keys['transcribe']}")])
            with pytest.raises(grpc.RpcError) as raised:
                predict(request, timeout=SECONDS, metadata=[("authorization", f"Bearer {keys['voices']}")])
    assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "transcribe" in raised.value.details()


def test_damaged_missing_and_late_messages(
    ports: TorchServePorts, audio: bytes, transcript: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, over = f"/{INFERENCE}.InferenceAPIsService", threading.Event()
    request = field(1, b"asr") + field(3, field(1, b"data") + field(2, audio))

    def one_and_silence() -> Iterator[bytes]:
        yield request
        over.wait(TIMEOUT)

    with grpc.insecure_channel(ports.grpc[0]) as channel:
        sent = channel.stream_stream(f"{path}/Predictions")
        for messages in ([b"\xff" * 9], []):
            with pytest.raises(grpc.RpcError) as raised:
                list(sent(iter(messages), timeout=SECONDS))
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        monkeypatch.setattr(TorchServe, "body_seconds", 0.2)
        answers = channel.stream_stream(f"{path}/StreamPredictions2")(one_and_silence(), timeout=SECONDS)
        assert next(answers).startswith(field(1, transcript.encode()))
        with pytest.raises(grpc.RpcError) as late:
            next(answers)
        over.set()
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "0.2 seconds" in late.value.details()
        assert ports.torchserve.budget.held == 0


def test_connections_without_a_call_are_limited(tmp_path: Path) -> None:
    most = 4
    given = settings.load([*FAKE_ENGINES, f"data={tmp_path}", f"server.connections_per_address={most}"], environ={})
    with serving(given.settings) as server, torchserving(server) as ports:
        host, _, port = ports.grpc[0].partition(":")
        connections = [socket.create_connection((host, int(port)), TIMEOUT) for _ in range(3 * most)]
        # gRPC greets each connection that it keeps, and closes the others.
        greeted = [_received(each) for each in connections]
        for each in connections:
            each.close()
        assert 0 < sum(map(bool, greeted)) <= most


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1024)
    except ConnectionResetError:
        return b""
