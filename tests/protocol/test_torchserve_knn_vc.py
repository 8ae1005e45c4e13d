"""kNN-VC in TorchServe's shape, on the fake engine: register `knn_vc`, send a source and targets, get a WAV."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chatapi.audio import RATE, Audio, wav
from chatapi.audio.decode import decode
from conftest import RunningServer, tone
from test_voices import clip, files, hertz
from torchserve_ports import TorchServePorts, torchserving

SOURCE = wav(Audio(tone(1.5, 440), RATE))
CONSENT = "recordings of our own staff, who agreed"
URL = "/home/model-server/model-store/model_store/knn_vc.mar"


@pytest.fixture(scope="module")
def ports(shared_server: RunningServer) -> Iterator[TorchServePorts]:
    with torchserving(shared_server, voice_consent=CONSENT) as found:
        query = {"model_name": "knn_vc", "url": URL, "initial_workers": "1", "synchronous": "true"}
        answer = found.management.post("/models", params=query)
        assert (answer.status_code, answer.json()) == (
            200, {"status": 'Model "knn_vc" Version: 1.0 registered with 1 initial workers'},
        )  # fmt: skip
        yield found


def check(reply: httpx.Response) -> None:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "audio/wav" and b"converted speech, voice of" in reply.content[:200]
    assert len(decode(reply.content).samples) == 1.5 * RATE and hertz(reply.content) == pytest.approx(880, abs=5)


@pytest.mark.parametrize("part", ["source", "data"])
@pytest.mark.parametrize("targets", ["targets", "targets[]", "target"])
def test_a_form_gives_the_wav(ports: TorchServePorts, part: str, targets: str) -> None:
    form = [*files(SOURCE, part=part), *files(clip(), clip(2), part=targets)]
    check(ports.inference.post("/predictions/knn_vc", files=form))
    assert not list((ports.torchserve.appliance.settings.data / "voices").glob("*"))


def test_json_gives_the_wav(ports: TorchServePorts) -> None:
    source, target = base64.b64encode(SOURCE).decode(), base64.b64encode(clip()).decode()
    for targets in (target, [target, target], [{"b64": target}]):
        check(ports.inference.post("/predictions/knn_vc", json={"source": source, "targets": targets}))


def test_grpc_gives_the_wav(ports: TorchServePorts) -> None:
    pytest.importorskip("grpc")
    from test_torchserve_grpc import INFERENCE, Service

    service = Service(ports.grpc[0], INFERENCE, "InferenceAPIsService")
    inputs = {"source": SOURCE, "targets": clip(), "targets_2": clip(2)}
    request = service.message("PredictionsRequest", model_name="knn_vc", input=inputs)
    answer = service.method("Predictions")(request, timeout=60)
    service.channel.close()
    assert hertz(answer.prediction) == pytest.approx(880, abs=5)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        (files(SOURCE, part="source"), 400),
        (files(clip(), part="targets"), 400),
        ([*files(SOURCE, part="source"), *files(clip(), part="melody")], 400),
        ([*files(SOURCE, part="source"), *files(SOURCE, part="data"), *files(clip(), part="targets")], 400),
        ([*files(b"no audio", part="source"), *files(clip(), part="targets")], 400),
        ([*files(SOURCE, part="source"), *files(clip(1), part="targets")], 400),
    ],
    ids=["no_targets", "no_source", "unknown_part", "two_sources", "bad_audio", "short"],
)
def test_an_unusable_request_is_rejected(ports: TorchServePorts, form: list[Any], status: int) -> None:
    reply = ports.inference.post("/predictions/knn_vc", files=form)
    assert reply.status_code == status and reply.json()["type"] == "BadRequestException", reply.text
    assert ports.inference.get("/ping").json() == {"status": "Healthy"}


def test_without_the_operators_consent_nothing_is_converted(shared_server: RunningServer) -> None:
    with torchserving(shared_server, models=("knn_vc=knn_vc",), grpc=False) as ports:
        form = [*files(SOURCE, part="source"), *files(clip(), part="targets")]
        reply = ports.inference.post("/predictions/knn_vc", files=form)
        assert reply.status_code == 403 and "torchserve.voice_consent" in reply.json()["message"], reply.text
