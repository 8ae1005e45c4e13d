"""What TorchServe's published example clients and its stress script do, step by step, against the running ports."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from conftest import TIMEOUT, RunningServer, encode_audio, tone
from torchserve_ports import TorchServePorts, torchserving

CALLS = 100
AT_ONCE = 10
NAMES = {
    "Requests2XX", "Requests4XX", "Requests5XX", "ts_inference_requests_total", "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds", "OpenSessions", "QueueTime", "WorkerThreadTime", "WorkerLoadTime",
    "CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization", "DiskUsage", "DiskUtilization",
    "DiskAvailable", "GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization", "HandlerTime", "PredictionTime",
}  # fmt: skip
"""The metrics of pytorch/serve, ts/configs/metrics.yaml."""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def ports(shared_server: RunningServer, logs: Path) -> Iterator[TorchServePorts]:
    with torchserving(shared_server, models=("rnnt=default", "Wav2Vec2=default"), grpc=False, logs=logs) as found:
        yield found


@pytest.fixture(scope="module")
def audio() -> bytes:
    return encode_audio(tone(1.0), 16_000, "pcm_s16le")


def test_the_speech_examples_post_a_file_with_requests(ports: TorchServePorts, audio: bytes) -> None:
    url = f"{ports.urls['inference']}/predictions"
    first = requests.post(f"{url}/rnnt", data=audio, timeout=TIMEOUT)
    second = requests.post(f"{url}/Wav2Vec2", data=audio, headers={"Content-Type": "audio/basic"}, timeout=TIMEOUT)
    assert first.status_code == second.status_code == 200 and first.text == second.text != ""


def test_the_benchmark_registers_stresses_and_unregisters(ports: TorchServePorts, audio: bytes, logs: Path) -> None:
    inference, management = ports.urls["inference"], ports.urls["management"]
    assert requests.get(f"{inference}/ping", timeout=TIMEOUT).status_code == 200
    query = {
        "model_name": "benchmark", "url": "https://torchserve.pytorch.org/mar_files/default.mar", "batch_delay": 200,
        "batch_size": 4, "initial_workers": 2, "synchronous": "true",
    }  # fmt: skip
    assert requests.post(f"{management}/models", params=query, timeout=TIMEOUT).status_code == 200
    statuses = _stressed(f"{inference}/predictions/benchmark", audio)
    assert statuses == [b"200"] * CALLS
    assert requests.delete(f"{management}/models/benchmark", timeout=TIMEOUT).status_code == 200
    lines = [line for line in (logs / "model_metrics.log").read_text().splitlines() if "benchmark_1.0" in line]
    times = [line.split("|")[0].split(":")[3].strip() for line in lines if "PredictionTime" in line]
    assert len(times) == CALLS and all(float(each) >= 0 for each in times)


def _stressed(url: str, audio: bytes) -> list[bytes]:
    """The status of each of many posts as ab -k makes them: HTTP/1.0, on connections that are kept where possible."""
    place = urlsplit(url)
    head = (
        f"POST {place.path} HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-length: {len(audio)}\r\n"
        f"Content-type: audio/wav\r\nHost: {place.netloc}\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n"
    ).encode()
    statuses: list[bytes] = []

    def work() -> None:
        connection: socket.socket | None = None
        for _ in range(CALLS // AT_ONCE):
            if connection is None:
                connection = socket.create_connection((place.hostname or "", place.port or 0), TIMEOUT)
            connection.sendall(head + audio)
            status, kept = _answer(connection)
            statuses.append(status)
            if not kept:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return statuses


def _answer(connection: socket.socket) -> tuple[bytes, bool]:
    """The status of an answer, which is read to its end, and whether the connection is kept."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
    assert length is not None, head
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    return head.split(b" ")[1], re.search(rb"(?i)^connection: keep-alive", head, re.MULTILINE) is not None


def test_metrics_have_exactly_its_names(ports: TorchServePorts, audio: bytes) -> None:
    assert requests.post(f"{ports.urls['inference']}/predictions/rnnt", data=audio, timeout=TIMEOUT).ok
    text = requests.get(f"{ports.urls['metrics']}/metrics", timeout=TIMEOUT).text
    assert set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)) == NAMES
    sampled = set(re.findall(r"^(\w+)\{", text, re.MULTILINE))
    assert NAMES - sampled <= {"OpenSessions", "Requests4XX", "Requests5XX"} | {n for n in NAMES if "GPU" in n}
