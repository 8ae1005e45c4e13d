"""TorchServe's inference API and metrics, on a real model, as its clients and those of KServe and SageMaker use it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conftest import RunningServer
from paths import ROOT
from torchserve_ports import TorchServePorts, torchserving

pytestmark = pytest.mark.real

MODEL = "whisper-tiny.en-ct2"
RECORDING = ROOT / "tests/corpus/real/beckett-12.flac"
TEXT = "Ever tried, ever failed."


@pytest.fixture(scope="module")
def ports(real_server: RunningServer) -> Iterator[TorchServePorts]:
    with torchserving(real_server, models=("rnnt=default",), grpc=False) as found:
        yield found


@pytest.fixture(scope="module")
def audio() -> bytes:
    return RECORDING.read_bytes()


def check_text(response: httpx.Response) -> None:
    assert (response.status_code, response.text) == (200, TEXT)
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/rnnt", "/predictions/rnnt/", "/predictions/rnnt/1.0", "/rnnt/predict"])
def test_raw_body_gives_plain_text(ports: TorchServePorts, audio: bytes, method: str, path: str) -> None:
    if method == "PUT" and path == "/rnnt/predict":
        assert ports.inference.put(path, content=audio).status_code == 405
        return
    check_text(ports.inference.request(method, path, content=audio))


@pytest.mark.parametrize("kind", ["audio/basic", "application/x-www-form-urlencoded", "application/octet-stream", ""])
def test_media_type_of_a_raw_body_makes_no_difference(ports: TorchServePorts, audio: bytes, kind: str) -> None:
    check_text(ports.inference.post("/predictions/rnnt", content=audio, headers={"Content-Type": kind} if kind else {}))


@pytest.mark.parametrize(
    "options",
    [["-T", "{}"], ["-X", "POST", "--data-binary", "@{}", "-H", "Content-Type: audio/basic"], ["-F", "data=@{}"],
     ["--data-binary", "@{}"]],
)  # fmt: skip
def test_curl_as_in_its_examples(ports: TorchServePorts, options: list[str]) -> None:
    url = f"{ports.urls['inference']}/predictions/rnnt"
    command = ["curl", "-sS", *(each.format(RECORDING) for each in options), url]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == TEXT


@pytest.mark.parametrize("part", ["data", "body", "file", "anything"])
def test_form_with_a_file_in_any_part(ports: TorchServePorts, audio: bytes, part: str) -> None:
    check_text(ports.inference.post("/predictions/rnnt", files={part: ("x.flac", audio)}))


def test_form_with_base64_text_and_several_parts_of_one_name(ports: TorchServePorts, audio: bytes) -> None:
    check_text(ports.inference.post("/predictions/rnnt", files={"data": (None, base64.b64encode(audio))}))
    response = ports.inference.post("/predictions/rnnt", files=[("data", audio), ("data", audio)])
    assert response.json() == [TEXT, TEXT]


def test_json_is_given_by_accept_by_output_and_by_the_setting(real_server: RunningServer, audio: bytes) -> None:
    with torchserving(real_server, models=("rnnt=default",), grpc=False, response="json") as ports:
        plain = ports.inference.post("/predictions/rnnt", content=audio)
        check_text(ports.inference.post("/predictions/rnnt?output=text", content=audio))
    with torchserving(real_server, models=("rnnt=default",), grpc=False) as ports:
        accepted = ports.inference.post("/predictions/rnnt", content=audio, headers={"Accept": "application/json"})
        asked = ports.inference.post("/predictions/rnnt?output=json", content=audio)
        check_text(ports.inference.post("/predictions/rnnt", content=audio, headers={"Accept": "*/*"}))
    assert plain.json() == accepted.json() == asked.json()
    document = plain.json()
    assert (document["text"], document["language"]) == (TEXT, "en")
    assert " ".join(each["text"] for each in document["segments"]) == TEXT
    times = [each[edge] for each in document["segments"] for edge in ("start", "end")]
    assert times[0] >= 0 and times == sorted(times) and times[-1] <= document["duration"]
    # As json.dumps(.., indent=2) writes it.
    assert plain.text == json.dumps(document, indent=2)


def test_options_come_from_query_form_and_json(ports: TorchServePorts, audio: bytes) -> None:
    encoded = base64.b64encode(audio).decode()
    query = ports.inference.post("/predictions/rnnt?word_timestamps=true&output=json", content=audio)
    form = ports.inference.post(
        "/predictions/rnnt", files={"data": audio}, data={"word_timestamps": "true", "output": "json"}
    )
    body = ports.inference.post("/predictions/rnnt", json={"data": encoded, "word_timestamps": True, "output": "json"})
    for response in (query, form, body):
        words = [word for each in response.json()["segments"] for word in each["words"]]
        assert [each["word"].strip(" ,.") for each in words] == ["Ever", "tried", "ever", "failed"]
    wrong = ports.inference.post("/predictions/rnnt?language=xx", content=audio)
    assert wrong.status_code == 400 and "'xx' is not supported" in wrong.json()["message"]
    unknown = ports.inference.post("/predictions/rnnt?beam_size=5", content=audio)
    assert (unknown.text, unknown.headers["x-chatapi-ignored"]) == (TEXT, "beam_size")


def test_kserve_version_1(ports: TorchServePorts, audio: bytes) -> None:
    encoded = base64.b64encode(audio).decode()
    for instance in (encoded, {"data": encoded}, {"body": encoded}, {"data": {"b64": encoded}}):
        response = ports.inference.post("/v1/models/rnnt:predict", json={"instances": [instance]})
        assert response.json() == {"predictions": [TEXT]}
    assert ports.inference.post("/predictions/rnnt", json={"instances": [{"data": encoded}] * 2}).json() == {
        "predictions": [TEXT, TEXT]
    }
    assert ports.inference.get("/v1/models/rnnt").json() == {"name": "rnnt", "ready": True}


def test_kserve_version_2(ports: TorchServePorts, audio: bytes) -> None:
    encoded = base64.b64encode(audio).decode()
    tensor = {"name": "speech", "shape": -1, "datatype": "BYTES", "data": [encoded]}
    response = ports.inference.post("/v2/models/rnnt/infer", json={"id": "d3b15cad", "inputs": [tensor]})
    assert response.json() == {
        "id": "d3b15cad", "model_name": "rnnt", "model_version": "1.0",
        "outputs": [{"name": "speech", "shape": [1], "datatype": "BYTES", "data": [TEXT]}],
    }  # fmt: skip
    assert ports.inference.get("/v2/health/live").json() == {"live": True}
    assert ports.inference.get("/v2/health/ready").status_code == 200
    assert ports.inference.get("/v2/models/rnnt").json()["versions"] == ["1.0"]
    wrong = ports.inference.post("/v2/models/rnnt/infer", json={"inputs": [{**tensor, "datatype": "FP32"}]})
    assert wrong.status_code == 400 and "datatype BYTES" in wrong.json()["message"]


def test_sagemaker_invocations(ports: TorchServePorts, audio: bytes) -> None:
    check_text(ports.inference.post("/invocations", content=audio, headers={"Content-Type": "audio/x-wav"}))
    check_text(ports.inference.post("/invocations?model_name=rnnt", content=audio))
    check_text(ports.inference.post("/models/rnnt/invoke", content=audio))


def test_description_and_health(ports: TorchServePorts) -> None:
    assert ports.inference.get("/ping").json() == {"status": "Healthy"}
    for client, path in ((ports.inference, "/predictions/{model_name}"), (ports.management, "/models/{model_name}")):
        described = client.options("/").json()
        assert described["openapi"] == "3.0.1" and path in described["paths"]
        assert client.get("/api-description").json() == described


def test_metrics_have_torchserves_names(ports: TorchServePorts, audio: bytes) -> None:
    check_text(ports.inference.post("/predictions/rnnt/1.0", content=audio))
    text = ports.metrics.get("/metrics").text
    labels = 'model_name="rnnt",model_version="1.0",hostname="[^"]+"'
    assert re.search(rf"^ts_inference_requests_total\{{{labels}\}} \d", text, re.MULTILINE)
    for name in ("ts_inference_latency_microseconds", "ts_queue_latency_microseconds", "PredictionTime", "Requests2XX"):
        assert re.search(rf"^# TYPE {name} (counter|gauge)$", text, re.MULTILINE) and re.search(
            rf"^{name}\{{", text, re.MULTILINE
        )
    assert 'WorkerLoadTime{WorkerName="W-9000-rnnt_1.0"' in text
    chosen = ports.metrics.get("/metrics?name[]=Requests2XX&name[]=MemoryUsed").text
    assert {line.split("{")[0] for line in chosen.splitlines() if line[0] != "#"} == {"Requests2XX", "MemoryUsed"}


def test_logs_are_written_in_its_form_without_queries(real_server: RunningServer, audio: bytes, tmp_path: Path) -> None:
    with torchserving(real_server, models=("rnnt=default",), grpc=False, logs=tmp_path / "logs") as ports:
        check_text(ports.inference.post("/predictions/rnnt?language=en", content=audio))
    line = (tmp_path / "logs/access_log.log").read_text().splitlines()[-1]
    moment, peer = r"[\d-]{10}T[\d:]{8},\d{3}", r"/127\.0\.0\.1:\d+"
    request = r'"POST /predictions/rnnt HTTP/1\.1" 200 \d+'
    assert re.fullmatch(rf"{moment} \[INFO \] ACCESS_LOG - {peer} {request}", line)
    models = (tmp_path / "logs/model_log.log").read_text()
    assert "model rnnt version 1.0 predicted in" in models and "Ever tried" not in models
