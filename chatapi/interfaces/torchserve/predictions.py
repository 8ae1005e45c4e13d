"""Predictions: transcriptions by a registered model, one worker each, counted and timed as TorchServe does."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import anyio

from chatapi.appliance import Appliance
from chatapi.audio.decode import Source
from chatapi.engines import Segment
from chatapi.errors import DeadlineExceeded, TooLarge
from chatapi.interfaces.torchserve.inputs import PredictionInput
from chatapi.interfaces.torchserve.metrics import TorchServeMetrics
from chatapi.interfaces.torchserve.served_model import ServedModel
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.transcription.transcript_files import joined, segment_document

log = logging.getLogger("chatapi.torchserve.model")


@dataclass(frozen=True)
class Prediction:
    """The transcript of one recording."""

    segments: tuple[Segment, ...]
    seconds: float
    """Length of the recording, in seconds."""

    @property
    def text(self) -> str:
        return joined(self.segments)

    @property
    def document(self) -> dict[str, Any]:
        """The transcript with times, in plain values."""
        return {
            "text": self.text,
            "language": self.segments[0].language if self.segments else "",
            "duration": round(self.seconds, 3),
            "segments": [segment_document(each) for each in self.segments],
        }


class Predictor:
    """Predicts with registered models."""

    def __init__(self, appliance: Appliance, metrics: TorchServeMetrics, response_bytes: int) -> None:
        """`response_bytes`: largest answer."""
        self._appliance = appliance
        self._metrics = metrics
        self._response_bytes = response_bytes

    async def predict(
        self, served: ServedModel, received: PredictionInput, version: str, timed: bool
    ) -> list[Prediction]:
        """The transcripts of all recordings.

        `version`: the one that the request names, for the metrics; `timed`: whether the answer has times.

        Raises Busy (no_worker, queue_full), DeadlineExceeded, and the errors of a transcription.
        """
        request = received.transcription(timed)
        version = version or "default"
        self._metrics.count_request(served.name, version)
        self._appliance.require_ready()
        begun = time.monotonic()
        async with served.worker():
            started = time.monotonic()
            with anyio.move_on_after(served.options.response_timeout or None) as limit:
                found = [await self._transcribe(each, request) for each in received.sources]
        if limit.cancelled_caught:
            seconds = served.options.response_timeout
            raise DeadlineExceeded(f"the prediction took longer than the response timeout of {seconds} seconds")
        ended = time.monotonic()
        self._metrics.count_prediction(served.name, version, started - begun, ended - started)
        log.info("model %s version %s predicted in %.0f ms", served.name, served.version, (ended - started) * 1000)
        return found

    def encoded(self, value: object) -> bytes:
        """An answer as TorchServe encodes what a handler returns. Raises TooLarge."""
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        content = text.encode("utf-8", "replace")
        if len(content) > self._response_bytes:
            raise TooLarge(f"the prediction has {len(content)} bytes; at most {self._response_bytes} are allowed")
        return content

    async def _transcribe(self, source: Source, request: TranscriptionRequest) -> Prediction:
        service, seconds, segments = self._appliance.transcription_service, 0.0, list[Segment]()
        async with service.transcribe_file(source, request) as chunks:
            async for chunk in chunks:
                segments += chunk.segments
                seconds = chunk.processed
        return Prediction(tuple(segments), seconds)


def answer(found: list[Prediction], received: PredictionInput, served: ServedModel, as_json: bool) -> object:
    """The answer in the shape of the request: text, or plain values."""
    values: list[object] = [each.document if as_json else each.text for each in found]
    if received.shape == "instances":
        return {"predictions": values}
    if received.shape == "tensors":
        outputs = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [each.text]}
            for name, each in zip(received.names, found, strict=True)
        ]
        document = {"model_name": served.name, "model_version": served.version, "outputs": outputs}
        return {**({"id": received.request_id} if received.request_id else {}), **document}
    return values[0] if len(values) == 1 else values
