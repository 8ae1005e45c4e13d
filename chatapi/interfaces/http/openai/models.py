"""`/v1/models`: the models that a client can request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from chatapi.appliance import Appliance
from chatapi.errors import NotFound
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.openai.errors import error_responses


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models", summary="Available models, in OpenAI's format", responses=error_responses())
    async def list_models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [_entry(appliance, role, name) for role, name in openai_aliases.models(appliance)],
        }

    @routes.get("/models/{model}", summary="One model", responses=error_responses(404, 503))
    async def get_model(model: str) -> dict[str, Any]:
        for role, name in openai_aliases.models(appliance):
            if name == model:
                return _entry(appliance, role, name)
        openai_aliases.require_models(appliance)
        raise NotFound(f"model {model!r} is not in use", code="model_not_found", details={"param": "model"})

    return routes


def _entry(appliance: Appliance, role: str, name: str) -> dict[str, Any]:
    manifest = appliance.catalog.manifests.get(name)
    return {
        "id": name,
        "object": "model",
        "created": appliance.started_at,
        "owned_by": "chatapi",
        "role": role,
        "languages": list(manifest.languages) if manifest is not None else [],
    }
