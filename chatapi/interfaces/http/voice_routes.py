"""The routes of voices for voice conversion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from chatapi.appliance import Appliance
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_routes import holder_of, own_id, owner_of
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.interfaces.http.voice_forms import receive_voice_form
from chatapi.services.voice_conversion.service import VoiceConversion
from chatapi.services.voice_conversion.store import MOST_CONSENT, MOST_NAME, checked_consent, checked_name


class ClipModel(ResponseModel):
    """A reference clip; its sound is not stored."""

    name: str
    seconds: float
    """Length, in seconds."""


class QualityModel(ResponseModel):
    """What the clips are like."""

    seconds: float
    """Length of all clips, in seconds."""
    speech_seconds: float
    """Speech in them, in seconds."""
    level_db: float
    """Level of the speech, in dBFS."""
    noise_db: float
    """Level of what is no speech, in dBFS."""
    clipped: float
    """Share of clipped samples, 0 to 1."""
    speakers: int | None
    """How many people speak; null where the model for that is not installed."""
    warnings: list[str]
    """Of short, quiet, noisy, clipped, several_speakers."""


class VoiceModel(ResponseModel):
    """A voice."""

    id: str
    name: str
    created: int
    """Seconds since 1970."""
    consent: str
    """The statement of consent with which it was added."""
    reference_format: str
    """The model that made its reference; another one cannot use it."""
    clips: list[ClipModel]
    quality: QualityModel


class VoicesModel(ResponseModel):
    """The voices, by name."""

    voices: list[VoiceModel]


VoiceName = Annotated[str, Path(description="The id or the name of a voice.")]


def _request() -> dict[str, Any]:
    clips = {"type": "array", "items": openapi.BINARY, "minItems": 1}
    texts = {
        "name": {"type": "string", "minLength": 1, "maxLength": MOST_NAME},
        "consent": {"type": "string", "minLength": 1, "maxLength": MOST_CONSENT},
    }
    schema = {"type": "object", "properties": {**texts, "clips": clips}, "required": ["name", "consent", "clips"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_list(routes, appliance)
    _add_quality(routes, appliance)
    _add_voice(routes, appliance.voice_conversion)
    return routes


def _add_list(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.voice_conversion

    @routes.get("/voices", summary="The voices for voice conversion", response_model=VoicesModel)
    async def voices(request: Request) -> dict[str, Any]:
        return {"voices": [each.document() for each in await service.voices(owner_of(holder_of(request)))]}

    @routes.post(
        "/voices",
        summary="Adds a voice: clips of one speaker with 3 s to 10 min of speech, and a statement of consent",
        status_code=201,
        response_model=VoiceModel,
        responses=problems(400, 408, 409, 413, 415, 422, 503, 507),
        openapi_extra=_request(),
    )
    async def add(request: Request) -> dict[str, Any]:
        appliance.require_ready()
        service.check_admission()
        form = await receive_voice_form(request, ("name", "consent"), sourced=False)
        name, consent = checked_name(form.texts.get("name", "")), checked_consent(form.texts.get("consent", ""))
        return (await service.add(name, consent, form.clips, own_id(holder_of(request)))).document()


def _add_quality(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.voice_conversion
    clips = {"type": "array", "items": openapi.BINARY, "minItems": 1}
    schema = {"type": "object", "properties": {"clips": clips}, "required": ["clips"]}

    @routes.post(
        "/voices/quality",
        summary="The quality of clips, before a voice is made of them; nothing is stored",
        response_model=QualityModel,
        responses=problems(400, 408, 413, 415, 422, 503, 507),
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}},
    )
    async def quality(request: Request) -> dict[str, Any]:
        appliance.require_ready()
        service.check_admission()
        form = await receive_voice_form(request, (), sourced=False)
        return asdict(await service.quality(form.clips))


def _add_voice(routes: APIRouter, service: VoiceConversion) -> None:
    @routes.get("/voices/{voice}", summary="A voice", response_model=VoiceModel, responses=problems(404, 409))
    async def voice(request: Request, voice: VoiceName) -> dict[str, Any]:
        return (await service.find(voice, owner_of(holder_of(request)))).document()

    @routes.delete("/voices/{voice}", summary="Delete a voice", status_code=204, responses=problems(404, 409, 507))
    async def remove(request: Request, voice: VoiceName) -> None:
        await service.remove(voice, owner_of(holder_of(request)))

    @routes.get(
        "/voices/{voice}/export",
        summary="A voice as a ZIP archive: its description and its reference",
        response_class=Response,
        responses={200: {"content": {"application/zip": {"schema": openapi.BINARY}}}, **problems(404, 409, 507)},
    )
    async def export(request: Request, voice: VoiceName) -> Response:
        content = await service.exported(voice, owner_of(holder_of(request)))
        headers = {"Content-Disposition": 'attachment; filename="voice.zip"'}
        return Response(content, media_type="application/zip", headers=headers)
