"""`/v1/models`: the models that a client can request."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from chatapi.appliance import Appliance
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
    name: str
    role: str
    """llm, asr or tts."""
    task: str
    """The role in Hugging Face's words: text-generation, automatic-speech-recognition or text-to-speech."""
    languages: list[str]
    """ISO 639-1 codes."""


class ModelList(Parameters):
    """All models that a client can request."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class AudioModelList(ModelList):
    """Models of speech recognition and synthesis, under both names that clients look for."""

    models: list[OpenAIModel]


TASKS = {"llm": "text-generation", "asr": "automatic-speech-recognition", "tts": "text-to-speech"}


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models", summary="Available models, in OpenAI's format")
    async def list_models() -> ModelList:
        return ModelList(data=[_entry(appliance, role, name) for role, name in openai_aliases.models(appliance)])

    @routes.get("/models/{model}", summary="One model", responses=error_responses(404, 503))
    async def get_model(model: str) -> OpenAIModel:
        return _entry(appliance, openai_aliases.role(appliance, model), model)

    @routes.get("/audio/models", summary="Models of speech recognition and synthesis", responses=error_responses(503))
    async def list_audio_models() -> AudioModelList:
        openai_aliases.require_models(appliance)
        found = [(role, name) for role, name in openai_aliases.models(appliance) if role != "llm"]
        stock = [("asr", "whisper-1"), ("tts", "tts-1")]
        entries = [_entry(appliance, role, name) for role, name in (*stock, *found)]
        return AudioModelList(data=entries, models=entries)

    return routes


def _entry(appliance: Appliance, role: str, name: str) -> OpenAIModel:
    """The model of that name; a stock name has the languages of the model it stands for."""
    known = [each for kind, each in openai_aliases.models(appliance) if kind == role]
    manifest = appliance.catalog.manifests.get(name if name in known else next(iter(known), name))
    languages = list(manifest.languages) if manifest is not None else []
    return OpenAIModel(
        id=name, name=name, created=appliance.started_at, role=role, task=TASKS[role], languages=languages
    )
