"""`POST /conversions`: a recording, said in another voice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.audio import Audio, joined
from chatapi.audio.decode import Source
from chatapi.audio.provenance import marked_wav, marked_wav_header
from chatapi.errors import Unprocessable
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_routes import holder_of, owner_of
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.streaming import CancellableResponse, body, start
from chatapi.interfaces.http.text_parameters import parse_bool
from chatapi.interfaces.http.voice_forms import receive_voice_form
from chatapi.services.voice_conversion.references import ReferenceClip
from chatapi.services.voice_conversion.service import TargetVoice, VoiceConversion, mark
from chatapi.services.voice_conversion.store import MOST_CONSENT, MOST_NAME, checked_consent


class ConversionResponse(CancellableResponse):
    """The converted recording as WAV."""

    def __init__(
        self,
        service: VoiceConversion,
        source: Source,
        target: TargetVoice | Sequence[ReferenceClip],
        streamed: bool = False,
    ) -> None:
        """`streamed`: each part as soon as it is converted; otherwise the file is sent when it is complete."""
        super().__init__()
        self._service, self._source, self._target, self._streamed = service, source, target, streamed

    async def reply(self, send: Send) -> None:
        async with self._service.convert(self._source, self._target) as conversion:
            if self._streamed:
                # An error of the first part gets a status of its own.
                first = await anext(conversion.chunks, Audio(np.zeros(0, np.float32), conversion.rate))
                await send(start("audio/wav"))
                await send(body(marked_wav_header(conversion.rate, mark(self._target)) + first.pcm16()))
                async for chunk in conversion.chunks:
                    await send(body(chunk.pcm16()))
                await send(body(b"", more=False))
                return
            parts = [Audio(np.zeros(0, np.float32), conversion.rate)]
            parts += [each async for each in conversion.chunks]
        content = marked_wav(joined(parts), mark(self._target))
        await send(start("audio/wav", {"Content-Length": str(len(content))}))
        await send(body(content, more=False))


def _request() -> dict[str, Any]:
    clips = {"type": "array", "items": openapi.BINARY}
    properties = {
        "source": {**openapi.BINARY, "description": "The recording."},
        "voice": {"type": "string", "minLength": 1, "maxLength": MOST_NAME, "description": "A voice's id or name."},
        "targets": {**clips, "description": "Clips of the voice, where it is not stored; they need consent."},
        "consent": {"type": "string", "maxLength": MOST_CONSENT},
        "stream": {"type": "boolean", "default": False, "description": "Whether the WAV is sent as it is converted."},
    }
    schema = {"type": "object", "properties": properties, "required": ["source"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    service = appliance.voice_conversion

    @routes.post(
        "/conversions",
        summary="A recording in another voice: a stored one, or that of clips in the request",
        response_class=Response,
        responses={
            200: {"description": "The WAV file.", "content": {"audio/wav": {"schema": openapi.BINARY}}},
            **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
        },
        openapi_extra=_request(),
    )
    async def convert(request: Request) -> Response:
        appliance.require_ready()
        service.check_admission()
        form = await receive_voice_form(request, ("voice", "consent", "stream"), sourced=True)
        source, streamed = form.required_source(), parse_bool("stream", form.texts.get("stream", ""))
        voice = form.texts.get("voice", "")
        if bool(voice) == bool(form.clips):
            raise Unprocessable("give either voice or targets", code="missing_voice", details={"param": "voice"})
        if form.clips:
            checked_consent(form.texts.get("consent", ""))
            return ConversionResponse(service, source, form.clips, streamed)
        target = await service.target(voice, owner_of(holder_of(request)))
        return ConversionResponse(service, source, target, streamed)

    return routes
