"""`/v1/models`: the models that a client can request."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from chatapi.appliance import Appliance
from chatapi.errors import NotFound
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import Parameters


class OpenAIModel(Parameters):
    """A model in OpenAI's format."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Start of the server, in seconds since 1970."""
    owned_by: Literal["chatapi"] = "chatapi"
    role: str
    """llm, asr or tts."""
    languages: list[str]
    """ISO 639-1 codes."""


class ModelList(Parameters):
    """All models that a client can request."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models", summary="Available models, in OpenAI's format")
    async def list_models() -> ModelList:
        return ModelList(data=[_entry(appliance, role, name) for role, name in openai_aliases.models(appliance)])

    @routes.get("/models/{model}", summary="One model", responses=error_responses(404, 503))
    async def get_model(model: str) -> OpenAIModel:
        for role, name in openai_aliases.models(appliance):
            if name == model:
                return _entry(appliance, role, name)
        openai_aliases.require_models(appliance)
        raise NotFound(f"model {model!r} is not in use", code="model_not_found", details={"param": "model"})

    return routes


def _entry(appliance: Appliance, role: str, name: str) -> OpenAIModel:
    manifest = appliance.catalog.manifests.get(name)
    languages = list(manifest.languages) if manifest is not None else []
    return OpenAIModel(id=name, created=appliance.started_at, role=role, languages=languages)
