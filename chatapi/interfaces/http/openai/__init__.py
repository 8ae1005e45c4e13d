"""OpenAI's HTTP API under `/v1`; the Realtime API is in the package `realtime`."""

from __future__ import annotations

from fastapi import APIRouter

from chatapi.appliance import Appliance
from chatapi.interfaces.http.openai import chat, models, speech, transcriptions
from chatapi.interfaces.http.openai.errors import EVERY_ROUTE

__all__ = ["router"]


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(responses=EVERY_ROUTE)
    routes.include_router(models.router(appliance))
    routes.include_router(transcriptions.router(appliance))
    routes.include_router(speech.router(appliance))
    routes.include_router(chat.router(appliance))
    return routes
