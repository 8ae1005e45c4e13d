"""The routes of command recognition."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from chatapi.appliance import Appliance
from chatapi.errors import Unsupported
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.completion_request import AUDIO_TYPES
from chatapi.interfaces.http.json_body import media_type
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.interfaces.http.spooling import Spool


class ClassificationModel(ResponseModel):
    """What a clip is."""

    label: str
    """One of the commands, or unknown."""
    probability: float = Field(ge=0, le=1)
    """Probability of the label."""
    probabilities: dict[str, float]
    """Probability of every label, the likeliest first."""
    model: str
    """The model in use."""


class CommandsModel(ResponseModel):
    """The commands that are recognized."""

    labels: list[str]
    """The words; any other sound is unknown."""
    model: str
    """The model in use."""


def _classify_request() -> dict[str, Any]:
    content = {name: {"schema": openapi.BINARY} for name in ("audio/wav", "audio/flac", "audio/ogg", "audio/webm")}
    return {"requestBody": {"required": True, "content": content}}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    service = appliance.command_recognition

    @routes.get(
        "/commands", summary="The commands that are recognized", response_model=CommandsModel, responses=problems(503)
    )
    async def commands() -> dict[str, Any]:
        labels = await service.labels()
        return {"labels": list(labels), "model": appliance.active.get("command", "")}

    @routes.post(
        "/commands/classify",
        summary="Which command a clip of about a second is",
        response_model=ClassificationModel,
        responses=problems(400, 408, 413, 415, 422, 503, 507),
        openapi_extra=_classify_request(),
    )
    async def classify(request: Request) -> dict[str, Any]:
        if (kind := media_type(request)) not in AUDIO_TYPES:
            message = f"the media type {kind or '(none)'} is not supported; send an audio type such as audio/wav"
            raise Unsupported(message, code="unsupported_media_type")
        found = await service.classify_file(await Spool.of(request).body(request))
        return vars(found)

    return routes
