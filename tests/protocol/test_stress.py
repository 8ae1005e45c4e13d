"""`chatapi stress` against the box and against TorchServe's ports, on fake engines: counts, retries, reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from chatapi.bench.stress import report
from chatapi.bench.stress.inputs import MOST_TARGETS, StressInputs, speech_of
from chatapi.bench.stress.load import Sample, StressResult, StressRun
from chatapi.bench.stress.target import StressTarget, memory_of, shape_of
from conftest import RunningServer, tone
from test_cli import run
from torchserve_ports import TorchServePorts, torchserving


@pytest.fixture(scope="module")
def ports(shared_server: RunningServer) -> Iterator[TorchServePorts]:
    consent = "noise of this test"
    with torchserving(shared_server, voice_consent=consent, models=("knn_vc=knn_vc", "asr=asr"), grpc=False) as found:
        yield found


def stressed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The figures of a run, which succeeds."""
    capsys.readouterr()
    assert run("stress", *options, "--json", "-o", str(tmp_path / "report"), data=tmp_path / "data") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_requests_depend_on_the_seed_and_have_the_lengths_of_the_original() -> None:
    first, again, other = StressInputs("knn_vc", 1), StressInputs("knn_vc", 1), StressInputs("knn_vc", 2)
    requests = [first.request(number) for number in range(20)]
    assert requests[7] == again.request(7) and requests[7] != other.request(7)
    lengths = [len(decode(each).samples) / RATE for request in requests for each in (request.source, *request.targets)]
    assert min(lengths) >= 3 and max(lengths) <= 10
    assert {len(each.targets) for each in requests} <= set(range(1, MOST_TARGETS + 1))
    assert len({len(each.targets) for each in requests}) > 4


def test_speech_comes_from_a_folder_and_one_speaker_is_the_target(tmp_path: Path) -> None:
    for speaker, hertz in (("84", 500), ("174", 900)):
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / f"{speaker}-1-0001.wav").write_bytes(wav(Audio(tone(2, hertz), RATE)))
    speech = speech_of(tmp_path)
    assert len(speech) == 2
    for number in range(5):
        request = StressInputs("knn_vc", 0, speech).request(number)
        loudest = {
            round(float(np.argmax(np.abs(np.fft.rfft(decode(each).samples[:RATE]))))) for each in request.targets
        }
        assert loudest in ({500}, {900})


@pytest.mark.parametrize("model", ["knn_vc", "asr", "completion"])
def test_the_box_answers_every_request(
    shared_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    found = stressed(
        tmp_path, capsys, "--model", model, "--requests", "12", "--concurrency", "4", "--input", "noise",
        "--target", shared_server.url,
    )  # fmt: skip
    assert (found["requests"], found["answered"], found["succeeded"], found["errors"]) == (12, 12, 12, {})
    assert found["latency_seconds"]["p50"] <= found["latency_seconds"]["p95"] and found["memory_bytes"]["most"] > 1e6


@pytest.mark.parametrize("model", ["knn_vc", "asr"])
def test_a_server_in_torchserves_shape_is_known_by_its_ping(
    ports: TorchServePorts, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    found = stressed(
        tmp_path, capsys, "--model", model, "--requests", "5", "--concurrency", "2", "--input", "noise", "--save",
        "--target", ports.urls["inference"], "--memory", ports.urls["metrics"] + "/metrics",
    )  # fmt: skip
    assert (found["answered"], found["succeeded"]) == (5, 5) and found["memory_bytes"]
    answers = sorted((tmp_path / "report" / "answers").iterdir())
    assert [each.name for each in answers] == [f"0000{n}.{'wav' if model == 'knn_vc' else 'txt'}" for n in range(5)]


def test_the_report_has_the_figures_and_pictures(tmp_path: Path) -> None:
    samples = [Sample(n, n / 2, 0.1 * n, 500 if n == 5 else 200, "broken" if n == 5 else "", 0, 10) for n in range(10)]
    result = StressResult(10, samples, [(float(at), 100 << 20) for at in range(40)], busy=3, seconds=20)
    page = report.write(result, "a <test>", tmp_path)
    assert "a &lt;test&gt;" in page.read_text() and "memory growth after warm up" in page.read_text()
    latency = ElementTree.parse(tmp_path / "latency.svg").getroot()
    dots = latency.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 10 and [each.get("fill") for each in dots].count(report.BAD) == 1
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["errors"] == {"500 broken": 1} and document["memory_growth_after_warm_up"] == 1.0
    assert ElementTree.parse(tmp_path / "memory.svg").getroot().find("{http://www.w3.org/2000/svg}polyline") is not None


@pytest.mark.anyio
async def test_a_busy_server_is_asked_again_after_the_time_that_it_states() -> None:
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        if len(asked) <= 2:
            return httpx.Response(503, headers={"Retry-After": "0.1"} if len(asked) == 1 else {})
        return httpx.Response(200, json={})

    from chatapi.bench.stress.load import StressPlan

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        target = StressTarget("http://box", "chatapi", "completion", "completion")
        plan = StressPlan(target, StressInputs("completion", 0), 2, 1)
        result = await StressRun(client, plan, lambda _: None).run()
    assert (result.busy, result.busy_without_wait, len(result.succeeded)) == (2, 1, 2)
    assert sorted(each.retries for each in result.samples) == [0, 2] and result.seconds >= 1.1


@pytest.mark.anyio
async def test_memory_is_read_from_processes_and_both_kinds_of_metrics(shared_server: RunningServer) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        text = "process_resident_memory_bytes 5e+06" if "prom" in str(request.url) else 'MemoryUsed{Level="Host"} 7.5'
        return httpx.Response(200, text=text)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert await memory_of(client, "http://x/prom") == 5_000_000
        assert await memory_of(client, "http://x/ts") == 7_500_000
        assert (await memory_of(client, "1") or 0) > 0 and await memory_of(client, "99999999") is None
    async with httpx.AsyncClient() as client:
        assert await shape_of(client, shared_server.url) == "chatapi"
        assert (await memory_of(client, f"{shared_server.url}/health") or 0) > 1e6


def test_unusable_options_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, text in (
        (["--input", "audio", "--speech", str(tmp_path)], "has no recordings"),
        (["--requests", "0"], "at least 1"),
        (["--input", "noise", "--target", "http://127.0.0.1:9"], "does not answer"),
    ):
        assert run("stress", "--model", "asr", *options, data=tmp_path / "data") == 2
        assert text in capsys.readouterr().err
