"""Speech recognition models: a prediction is a transcription."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from chatapi.appliance import Appliance
from chatapi.audio.decode import Source
from chatapi.auth import KeyHolder
from chatapi.engines import Segment
from chatapi.errors import BadInput
from chatapi.interfaces.torchserve import inputs
from chatapi.interfaces.torchserve.inputs import DATA, PredictionInput, options_of, prediction_of
from chatapi.interfaces.torchserve.model_role import Prediction, PredictionAnswer
from chatapi.interfaces.torchserve.served_model import DEFAULT, ServedModel
from chatapi.services.transcription.transcriber import TranscriptionRequest
from chatapi.services.transcription.transcript_files import joined, segment_document
from chatapi.settings import TorchServeSettings


@dataclass(frozen=True)
class Transcription:
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


class TranscriptionRole:
    """Transcribes with the box's speech recognition."""

    name = "asr"
    aliases = (DEFAULT,)
    inputs = ("data",)

    def __init__(self, appliance: Appliance, table: TorchServeSettings) -> None:
        self._appliance = appliance
        self._response = table.response

    def workers(self) -> int:
        return max(1, self._appliance.engines.asr.engine.slots)

    async def receive(self, request: Request, served: ServedModel, holder: KeyHolder) -> Prediction:
        del holder
        received = await inputs.receive(request)
        return self._prediction(received, served, self._wants_json(request, received))

    def prediction(self, fields: Mapping[str, bytes], served: ServedModel, holder: KeyHolder) -> Prediction:
        """The input: one recording or several, under any of the usual names or all but those of options."""
        del holder
        options = options_of(fields)
        recordings = [value for name, value in fields.items() if name in DATA] or [
            value for name, value in fields.items() if name not in options
        ]
        if not recordings or not all(recordings):
            raise BadInput("input has no recording; send it under the key data", code="missing_file")
        received = prediction_of(recordings, options)
        return self._prediction(received, served, (options.get("output") or self._response) == "json")

    def _prediction(self, received: PredictionInput, served: ServedModel, as_json: bool) -> Prediction:
        """Raises Unprocessable naming an option with a wrong value."""
        transcription = received.transcription(timed=as_json)

        async def predict() -> PredictionAnswer:
            found = [await self._transcribe(each, transcription) for each in received.sources]
            return PredictionAnswer(_shaped(found, received, served, as_json))

        return predict

    async def _transcribe(self, source: Source, request: TranscriptionRequest) -> Transcription:
        service, seconds, segments = self._appliance.transcription_service, 0.0, list[Segment]()
        async with service.transcribe_file(source, request) as chunks:
            async for chunk in chunks:
                segments += chunk.segments
                seconds = chunk.processed
        return Transcription(tuple(segments), seconds)

    def _wants_json(self, request: Request, received: PredictionInput) -> bool:
        """Whether the request asks for segments and times: by `output`, or by naming JSON alone in Accept."""
        if output := received.options.get("output"):
            if output not in ("text", "txt", "json"):
                raise BadInput(f"output is {output[:40]!r}; it must be text or json", code="invalid_value")
            return output == "json"
        accept = request.headers.get("accept", "")
        if received.shape == "single" and accept.partition(";")[0].strip().lower() == "application/json":
            return True
        return self._response == "json"


def _shaped(found: Sequence[Transcription], received: PredictionInput, served: ServedModel, as_json: bool) -> object:
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
