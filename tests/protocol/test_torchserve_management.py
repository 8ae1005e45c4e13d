"""TorchServe's management API, and its tokens, on fake engines."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from chatapi import auth
from chatapi.engines.fake import FakeTranscriber
from chatapi.settings import Settings
from conftest import FAKE_ENGINES, RunningServer, encode_audio, serving, tone, until
from gpu_driver import nvidia_smi
from paths import ROOT
from torchserve_ports import TorchServePorts, torchserving


@pytest.fixture(scope="module")
def ports(shared_server: RunningServer) -> Iterator[TorchServePorts]:
    with torchserving(shared_server, models=("asr=default",), workers=2, grpc=False) as found:
        yield found


@pytest.fixture(scope="module")
def audio() -> bytes:
    return encode_audio(tone(1.0), 16_000, "pcm_s16le")


def status(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("status", "")


def error(response: httpx.Response) -> tuple[int, str]:
    document = response.json()
    assert document["code"] == response.status_code and document["message"]
    return response.status_code, document["type"]


def description(ports: TorchServePorts, path: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = ports.management.get(f"/models/{path}").json()
    return found[0]


def test_model_is_registered_described_scaled_and_unregistered(ports: TorchServePorts, audio: bytes) -> None:
    query = {"url": "https://torchserve.pytorch.org/mar_files/whisper_tiny.en_ct2.mar?x=1", "model_name": "speech"}
    code, text = status(ports.management.post("/models", params=query))
    assert (code, text.partition(". ")[0]) == (200, 'Model "speech" Version: 1.0 registered with 0 initial workers')
    assert error(ports.inference.post("/predictions/speech", content=audio)) == (503, "ServiceUnavailableException")
    assert ports.inference.get("/ping").json() == {"status": "Healthy"}
    found = description(ports, "speech")
    assert (found["minWorkers"], found["workers"], found["loadedAtStartup"]) == (0, [], False)
    assert found["jobQueueStatus"] == {"remainingCapacity": 100, "pendingRequests": 0}
    assert status(ports.management.delete("/models/speech")) == (200, 'Model "speech" unregistered')
    assert error(ports.management.get("/models/speech")) == (404, "ModelNotFoundException")


def test_registration_with_workers_answers_as_torchserve_does(ports: TorchServePorts, audio: bytes) -> None:
    query = {"url": "default.mar", "initial_workers": "1", "batch_size": "4", "handler": "handler.py"}
    synchronous = ports.management.post("/models", params={**query, "model_name": "a", "synchronous": "true"})
    assert status(synchronous) == (200, 'Model "a" Version: 1.0 registered with 1 initial workers')
    assert synchronous.headers["x-chatapi-ignored"] == "handler"
    asynchronous = ports.management.post("/models", params={**query, "model_name": "b"})
    assert status(asynchronous) == (202, "Processing worker updates...")
    again = ports.management.post("/models", params={**query, "model_name": "a"})
    assert error(again) == (409, "ConflictStatusException")
    found = description(ports, "a")
    assert (found["batchSize"], len(found["workers"])) == (4, 1)
    worker = found["workers"][0]
    assert (worker["id"], worker["status"], worker["gpu"]) == ("9000", "READY", False)
    assert ports.inference.post("/predictions/a", content=audio).status_code == 200
    for name in ("a", "b"):
        assert ports.management.delete(f"/models/{name}").status_code == 200


def test_worker_on_a_gpu_has_its_usage_and_metrics_have_all_gpus(
    ports: TorchServePorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = description(ports, "asr")
    worker = found["workers"][0]
    assert (found["deviceType"], worker["gpu"], worker["gpuUsage"]) == ("cpu", False, "N/A")
    assert "GPUUtilization{" not in ports.metrics.get("/metrics").text
    nvidia_smi(tmp_path, monkeypatch, "0, 37, 12, 1024, 4096", "1, [N/A], [N/A], 512, 4096")
    monkeypatch.setattr(FakeTranscriber, "on_gpu", True)
    found = description(ports, "asr")
    worker = found["workers"][0]
    assert (found["deviceType"], worker["gpu"]) == ("gpu", True)
    usage = "gpuId::0 utilization.gpu [%]::37 % utilization.memory [%]::12 % memory.used [MiB]::1024 MiB"
    assert worker["gpuUsage"] == usage
    text = ports.metrics.get("/metrics").text
    values = re.findall(r'^(GPU\w+){Level="Host",DeviceId="(\d)",Hostname="[^"]+"} (.+)$', text, re.MULTILINE)
    assert values == [
        ("GPUUtilization", "0", "37.0"),
        ("GPUMemoryUsed", "0", "1024.0"),
        ("GPUMemoryUsed", "1", "512.0"),
        ("GPUMemoryUtilization", "0", "25.0"),
        ("GPUMemoryUtilization", "1", "12.5"),
    ]


def test_registration_by_json_body(ports: TorchServePorts) -> None:
    body = {"url": "default.mar", "model_name": "c", "initialWorkers": 1, "synchronous": True}
    assert ports.management.post("/models", json=body).status_code == 200
    assert ports.management.delete("/models/c/1.0").status_code == 200


def test_workers_are_scaled(ports: TorchServePorts) -> None:
    assert status(ports.management.put("/models/asr?min_worker=3")) == (202, "Processing worker updates...")
    scaled = ports.management.put("/models/asr/1.0?min_worker=3&max_worker=4&synchronous=true&number_gpu=1")
    assert status(scaled) == (200, "Workers scaled to 3 for model: asr, version: 1.0")
    found = description(ports, "asr")
    assert (found["minWorkers"], found["maxWorkers"]) == (3, 4)
    assert [each["id"] for each in found["workers"]] == ["9000", "9001", "9002"]
    for query in ("min_worker=3&max_worker=2", "min_worker=65", "min_worker=-1", "min_worker=x"):
        assert error(ports.management.put(f"/models/asr?synchronous=true&{query}")) == (400, "BadRequestException")
    assert error(ports.management.put("/models/none?min_worker=1")) == (404, "ModelNotFoundException")


def test_list_has_pages(ports: TorchServePorts) -> None:
    for name in ("x", "y"):
        assert ports.management.post(f"/models?url=default.mar&model_name={name}").status_code == 200
    first = ports.management.get("/models?limit=2").json()
    assert ([each["modelName"] for each in first["models"]], first["nextPageToken"]) == (["asr", "x"], "2")
    second = ports.management.get("/models?limit=2&next_page_token=2").json()
    assert second == {"models": [{"modelName": "y", "modelUrl": "default.mar"}]}
    assert ports.management.get("/models?limit=x").status_code == 400
    for name in ("x", "y"):
        assert ports.management.delete(f"/models/{name}").status_code == 200


def test_unknown_names_versions_and_methods(ports: TorchServePorts, audio: bytes) -> None:
    assert error(ports.inference.post("/predictions/none", content=audio)) == (404, "ModelNotFoundException")
    assert error(ports.inference.post("/predictions/asr/9", content=audio)) == (404, "ModelVersionNotFoundException")
    assert error(ports.management.put("/models/asr/9/set-default")) == (404, "ModelVersionNotFoundException")
    assert status(ports.management.put("/models/asr/1.0/set-default"))[0] == 200
    assert error(ports.inference.post("/nothing")) == (404, "ResourceNotFoundException")
    assert error(ports.inference.delete("/ping")) == (405, "MethodNotAllowedException")
    assert error(ports.inference.post("/explanations/asr", content=audio))[0] == 400
    assert error(ports.management.post("/models")) == (400, "BadRequestException")
    for url in ("bert.mar", "../../etc/passwd", "https://x/"):
        assert error(ports.management.post("/models", params={"url": url}))[0] in (400, 404)


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"", "audio/wav", 400), (b"no audio", "audio/wav", 400), (b"{", "application/json", 400),
        (b"[]", "application/json", 400), (b'{"data": "\xff"}', "application/json", 400),
        (b'{"data": "!!"}', "application/json", 400), (b'{"instances": []}', "application/json", 413),
        (b'{"instances": [{}]}', "application/json", 400), (b'{"inputs": [3]}', "application/json", 400),
        (b"--x", "multipart/form-data; boundary=x", 400), (b"--x--", "multipart/form-data; boundary=x", 400),
    ],
)  # fmt: skip
def test_bad_input_gets_an_error_in_its_form(ports: TorchServePorts, content: bytes, kind: str, code: int) -> None:
    response = ports.inference.post("/predictions/asr", content=content, headers={"Content-Type": kind})
    assert error(response)[0] == code


def test_too_large_request_is_rejected(shared_server: RunningServer, audio: bytes) -> None:
    with torchserving(shared_server, models=("asr=default",), grpc=False, request_bytes=2048) as ports:
        assert error(ports.inference.post("/predictions/asr", content=audio)) == (413, "BadRequestException")
    with torchserving(shared_server, models=("asr=default",), grpc=False, response_bytes=1024) as ports:
        assert ports.inference.post("/predictions/asr", content=audio).status_code == 200


def test_models_are_not_registered_by_clients_by_default(shared_server: RunningServer) -> None:
    with torchserving(shared_server, models=("asr=default",), grpc=False, model_api=False) as ports:
        assert error(ports.management.post("/models?url=default.mar")) == (405, "MethodNotAllowedException")
        assert error(ports.management.delete("/models/asr")) == (405, "MethodNotAllowedException")
        assert ports.management.put("/models/asr?min_worker=2&synchronous=true").status_code == 200


def test_registrations_of_clients_outlast_a_restart(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    config = tmp_path / "config.properties"
    config.write_text('models={"stated": {"2.0": {"minWorkers": 3, "batchSize": 4, "responseTimeout": 90}}}\n')
    with serving(fake_settings()) as running:
        chosen: dict[str, Any] = {"models": ("asr=default",), "grpc": False, "config": config, "keep_models": True}
        with torchserving(running, **chosen) as ports:
            found = description(ports, "stated")
            assert (found["modelVersion"], found["minWorkers"], found["batchSize"]) == ("2.0", 3, 4)
            assert found["responseTimeout"] == 90
            register = "url=x/whisper_tiny.en_ct2.mar&model_name=kept&batch_size=8&response_timeout=7"
            assert ports.management.post(f"/models?{register}").status_code == 200
            scaled = ports.management.put("/models/asr?min_worker=2&max_worker=5&synchronous=true")
            assert scaled.status_code == 200
            assert ports.management.delete("/models/stated").status_code == 200
        with torchserving(running, **chosen) as ports:
            names = [each["modelName"] for each in ports.management.get("/models").json()["models"]]
            assert names == ["asr", "kept"]
            found = description(ports, "kept")
            assert (found["batchSize"], found["responseTimeout"], found["minWorkers"]) == (8, 7, 0)
            assert found["modelUrl"] == "x/whisper_tiny.en_ct2.mar"
            found = description(ports, "asr")
            assert (found["minWorkers"], found["maxWorkers"], len(found["workers"])) == (2, 5, 2)
        for changed in ({"keep_models": False}, {"models": ("other=default",)}):
            with torchserving(running, **{**chosen, **changed}) as ports:
                names = [each["modelName"] for each in ports.management.get("/models").json()["models"]]
                assert "kept" not in names and "stated" in names


def test_one_worker_works_on_one_prediction_and_the_queue_is_bounded(shared_server: RunningServer) -> None:
    with torchserving(shared_server, models=("asr=default",), workers=1, queue=1, grpc=False) as ports:
        served = ports.torchserve.models.get("asr")

        async def scenario() -> None:
            async with anyio.create_task_group() as group:
                released = anyio.Event()

                async def hold() -> None:
                    async with served.worker():
                        await released.wait()

                group.start_soon(hold)
                await until(lambda: served.running == 1)
                group.start_soon(hold)
                await until(lambda: served.waiting == 1)
                assert served.running == 1
                with pytest.raises(Exception, match="the queue of model"):
                    served.require_worker()
                released.set()
            assert served.running == served.waiting == 0

        shared_server.run(scenario)


def test_tokens_guard_every_route_and_are_renewed(shared_server: RunningServer, tmp_path: Path, audio: bytes) -> None:
    file = tmp_path / "key_file.json"
    with torchserving(shared_server, models=("asr=default",), grpc=False, tokens=True, key_file=file) as ports:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        keys = json.loads(file.read_text())
        assert set(keys) == {"management", "inference", "API"} and "expiration time" in keys["inference"]
        bearer = {kind: {"Authorization": f"Bearer {keys[kind]['key']}"} for kind in keys}
        for kind, client, path in (
            ("management", ports.inference, "/ping"), ("inference", ports.management, "/models"),
            ("API", ports.inference, "/ping"), ("API", ports.management, "/models"),
            ("inference", ports.metrics, "/metrics"),
        ):  # fmt: skip
            assert error(client.get(path)) == (400, "InvalidKeyException")
            assert error(client.get(path, headers=bearer[kind])) == (400, "InvalidKeyException")
        assert ports.inference.post("/predictions/asr", content=audio, headers=bearer["inference"]).status_code == 200
        assert ports.management.get("/models", headers=bearer["management"]).status_code == 200
        assert error(ports.management.get("/token?type=inference", headers=bearer["management"]))[0] == 403
        assert ports.management.get("/token?type=inference", headers=bearer["API"]).status_code == 200
        assert ports.management.get("/token?type=other", headers=bearer["API"]).status_code == 400
        assert ports.inference.get("/ping", headers=bearer["inference"]).status_code == 400
        renewed = json.loads(file.read_text())["inference"]["key"]
        assert ports.inference.get("/ping", headers={"Authorization": f"Bearer {renewed}"}).status_code == 200
    assert not file.exists()


def test_expired_token_is_rejected(tmp_path: Path) -> None:
    from chatapi.interfaces.torchserve.tokens import Tokens

    now = [time.time()]
    tokens = Tokens(tmp_path / "key_file.json", 60, lambda: now[0])
    key = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"].encode()
    assert tokens.holder(key, "inference") is not None and tokens.holder(key, "management") is None
    now[0] += 61
    assert tokens.holder(key, "inference") is None


def test_keys_of_the_box_open_the_ports_by_their_scopes(fake_settings: Callable[..., Settings], audio: bytes) -> None:
    settings = fake_settings()
    transcriber = auth.add(settings.data, "speech", ("transcribe",))
    operator = auth.add(settings.data, "owner", ("operate",))
    converter = auth.add(settings.data, "voices", ("voices",))
    with serving(settings) as running, torchserving(running, models=("asr=default",), grpc=False) as ports:
        speech, owner = ({"Authorization": f"Bearer {each}"} for each in (transcriber, operator))
        assert error(ports.inference.post("/predictions/asr", content=audio)) == (400, "InvalidKeyException")
        assert ports.inference.post("/predictions/asr", content=audio, headers=speech).status_code == 200
        assert error(ports.inference.post("/predictions/asr", content=audio, headers=owner))[0] == 403
        # It may predict, though not with a model of this role.
        other = {"Authorization": f"Bearer {converter}"}
        assert error(ports.inference.post("/predictions/asr", content=audio, headers=other))[0] == 403
        assert ports.management.get("/models", headers=owner).status_code == 200
        assert error(ports.management.get("/models", headers=speech))[0] == 403
        assert error(ports.management.get("/token?type=inference", headers=owner))[0] == 403


def test_serve_opens_the_ports_and_removes_the_tokens_at_its_end(tmp_path: Path) -> None:
    ports = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")
    chosen = [*FAKE_ENGINES, f"data={tmp_path}", "server.port=0", "wyoming.enabled=false", "torchserve.tokens=true"]
    chosen += [f"torchserve.{port}=0" for port in ports]
    options = [part for each in chosen for part in ("--set", each)]
    command = [sys.executable, "-m", "chatapi", "serve", "--torchserve", *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            while not lines or "ready after" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], "the server ended"
            url = re.search(r"TorchServe's clients on (http://127\.0\.0\.1:\d+)", "".join(lines))
            assert url is not None
            key = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"]
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(f"{url[1]}/ping", headers=headers, timeout=60).status_code in (200, 500)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert not (tmp_path / "key_file.json").exists()
