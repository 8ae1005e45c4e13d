"""Predictions by registered models, one worker each, counted and timed as TorchServe does."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

import anyio

from chatapi.appliance import Appliance
from chatapi.errors import DeadlineExceeded, TooLarge
from chatapi.interfaces.torchserve.metrics import TorchServeMetrics
from chatapi.interfaces.torchserve.model_role import Prediction, PredictionAnswer
from chatapi.interfaces.torchserve.served_model import ServedModel

log = logging.getLogger("chatapi.torchserve.model")


@dataclass(frozen=True)
class EncodedAnswer:
    """An answer as it is sent."""

    content: bytes
    media_type: str


class Predictor:
    """Predicts with registered models of every role."""

    def __init__(self, appliance: Appliance, metrics: TorchServeMetrics, response_bytes: int) -> None:
        """`response_bytes`: largest answer."""
        self._appliance = appliance
        self._metrics = metrics
        self._response_bytes = response_bytes

    async def predict(self, served: ServedModel, prediction: Prediction, version: str) -> EncodedAnswer:
        """The answer of a prediction.

        `version`: the one that the request names, for the metrics.

        Raises Busy (no_worker, queue_full), DeadlineExceeded, TooLarge, and the errors of the prediction.
        """
        version = version or "default"
        self._metrics.count_request(served.name, version)
        self._appliance.require_ready()
        begun = time.monotonic()
        async with served.worker():
            started = time.monotonic()
            with anyio.move_on_after(served.options.response_timeout or None) as limit:
                answer = await prediction()
        if limit.cancelled_caught:
            seconds = served.options.response_timeout
            raise DeadlineExceeded(f"the prediction took longer than the response timeout of {seconds} seconds")
        ended = time.monotonic()
        self._metrics.count_prediction(served.name, version, started - begun, ended - started)
        log.info("model %s version %s predicted in %.0f ms", served.name, served.version, (ended - started) * 1000)
        return self._encoded(answer)

    def _encoded(self, answer: PredictionAnswer) -> EncodedAnswer:
        """An answer as TorchServe encodes what a handler returns. Raises TooLarge."""
        if isinstance(answer.value, bytes):
            content, media_type = answer.value, "application/octet-stream"
        elif isinstance(answer.value, str):
            content, media_type = answer.value.encode("utf-8", "replace"), "text/plain"
        else:
            text = json.dumps(answer.value, indent=2, ensure_ascii=False)
            content, media_type = text.encode("utf-8", "replace"), "application/json"
        if len(content) > self._response_bytes:
            raise TooLarge(f"the prediction has {len(content)} bytes; at most {self._response_bytes} are allowed")
        return EncodedAnswer(content, answer.media_type or media_type)
