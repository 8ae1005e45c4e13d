"""Voice conversion models: a prediction says a recording in the voice of the request's clips, and keeps neither."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from chatapi.appliance import Appliance
from chatapi.audio import joined
from chatapi.audio.provenance import marked_wav
from chatapi.auth import KeyHolder
from chatapi.errors import Forbidden
from chatapi.interfaces.torchserve import conversion_inputs
from chatapi.interfaces.torchserve.conversion_inputs import ConversionInput
from chatapi.interfaces.torchserve.model_role import Prediction, PredictionAnswer
from chatapi.interfaces.torchserve.served_model import ServedModel
from chatapi.services.voice_conversion.service import mark
from chatapi.settings import TorchServeSettings


class ConversionRole:
    """Converts with the box's voice converter. TorchServe's clients cannot state a consent, so that of the operator in
    the settings stands for all of them."""

    name = "voice_converter"
    aliases = ("knn_vc",)
    inputs = ("source", "targets")

    def __init__(self, appliance: Appliance, table: TorchServeSettings) -> None:
        self._service = appliance.voice_conversion
        self._consent = table.voice_consent.strip()

    def workers(self) -> int:
        return 1

    async def receive(self, request: Request, served: ServedModel, holder: KeyHolder) -> Prediction:
        del served, holder
        self._check_consent()
        self._service.check_admission()
        return self._prediction(await conversion_inputs.receive(request))

    def prediction(self, fields: Mapping[str, bytes], served: ServedModel, holder: KeyHolder) -> Prediction:
        """The input: `source` or `data`, and `targets`, `targets_2` and so on."""
        del served, holder
        self._check_consent()
        return self._prediction(conversion_inputs.received(fields))

    def _check_consent(self) -> None:
        if not self._consent:
            raise Forbidden(
                "conversions without a statement of consent in each request are off; the operator of the box states "
                "in the setting torchserve.voice_consent who allowed the use of the voices that clients send",
                code="consent_required",
            )

    def _prediction(self, received: ConversionInput) -> Prediction:
        source, clips = received.checked()

        async def predict() -> PredictionAnswer:
            # The clients' own stress test sends noise.
            async with self._service.convert(source, clips, speech_only=False) as conversion:
                parts = [each async for each in conversion.chunks]
            return PredictionAnswer(marked_wav(joined(parts), mark(clips)), "audio/wav")

        return predict
