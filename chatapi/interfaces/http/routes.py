"""The routes of our own API: `/completion`, operation, and the audio device."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from chatapi.appliance import Appliance
from chatapi.errors import NotFound
from chatapi.interfaces.http import completion_request, openapi
from chatapi.interfaces.http.completion_response import CompletionResponse
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE, Traceparent
from chatapi.interfaces.http.response_models import (
    AudioDeviceModel,
    Capabilities,
    CompletionModel,
    HealthModel,
    Readiness,
)
from chatapi.services.live.audio_device_state import AudioDeviceState

WARNINGS = {
    "history_not_kept": "conversations cannot be written to the disk now and are lost when the box restarts",
    "history_set_aside": "the conversation history was damaged and set aside; earlier conversations are missing",
}
"""Public message of each problem; `/health` has the file names, for operators."""

EVENT = {
    "type": "object",
    "description": "A server-sent event; its data is JSON.",
    "properties": {
        "event": {"enum": ["start", "transcript", "delta", "speech", "progress", "end", "error"]},
        "data": {"type": "string"},
    },
    "required": ["event", "data"],
}


def _completion_request() -> dict[str, Any]:
    """The request of `/completion`: the body, and the options of an audio body."""
    request = openapi.form_body(completion_request.PromptRequest, "audio", required=False)
    content = request["requestBody"]["content"]
    content["application/json"] = {"schema": openapi.model_schema(completion_request.PromptRequest)}
    for name in ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/webm"):
        content[name] = {"schema": openapi.BINARY}
    options = openapi.model_schema(completion_request.CompletionOptions)["properties"]
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": "For audio bodies only."}
        for name, schema in options.items()
    ]
    return {**request, "parameters": parameters}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_completion_route(routes, appliance)
    _add_operation_routes(routes, appliance)
    _add_certificate_route(routes, appliance)
    _add_audio_device_routes(routes, appliance)
    return routes


def _add_completion_route(routes: APIRouter, appliance: Appliance) -> None:
    @routes.post(
        "/completion",
        summary="One turn: text or audio in, text or voice out",
        response_class=Response,
        responses={
            200: {
                "model": CompletionModel,
                "description": "The completion.",
                "content": {
                    "audio/wav": {"schema": openapi.BINARY},
                    "text/event-stream": {"schema": EVENT},
                },
            },
            **problems(400, 404, 406, 408, 413, 415, 422, 503, 507),
        },
        openapi_extra=openapi.Deferred(_completion_request),
    )
    async def completion(request: Request, traceparent: Traceparent = "") -> Response:
        parsed = await completion_request.read(request, traceparent)
        return CompletionResponse(appliance.completions, parsed, appliance.metrics)


def _add_operation_routes(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/health",
        summary="State of the box; 200 while the process runs",
        response_model=HealthModel,
        response_model_exclude_unset=True,
    )
    async def health() -> dict[str, Any]:
        return appliance.health()

    @routes.get(
        "/ready",
        summary="200 while all models loaded at the start are warm, and none of their engines has failed permanently",
        response_model=Readiness,
        response_model_exclude_defaults=True,
        responses=problems(503),
    )
    async def ready() -> dict[str, Any]:
        appliance.require_ready()
        warnings = [{"code": each.code, "message": WARNINGS[each.code]} for each in appliance.problems()]
        return {"ready": True, **({"warnings": warnings} if warnings else {})}

    @routes.get("/metrics", summary="Prometheus text format", response_class=PlainTextResponse, responses=problems(503))
    async def metrics() -> Response:
        return Response(await appliance.metrics.read(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/models", summary="Known models, and available voices and languages", response_model=Capabilities)
    async def models() -> dict[str, Any]:
        return appliance.capabilities()


def _add_certificate_route(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get("/certificate", include_in_schema=False)
    async def certificate() -> Response:
        """The certificate authority of a box with `server.tls`, for devices that should trust it."""
        table = appliance.settings.server
        if not table.tls or table.certificate is not None:
            raise NotFound("the box has no certificate authority of its own; set server.tls to create one")
        # Imported here because a box without TLS does not need it.
        from chatapi.auth.certificate_authority import CertificateKeeper

        authority = CertificateKeeper(appliance.settings.data).authority
        if not authority.is_file():
            raise NotFound("the certificate could not be stored and is valid for this run only; run `chatapi check`")
        # Phones offer to install a file of this type.
        return FileResponse(authority, media_type="application/x-x509-ca-cert")


def _add_audio_device_routes(routes: APIRouter, appliance: Appliance) -> None:
    """Routes of the audio device. Pressing a button twice is harmless. No route returns a transcript."""

    def microphone() -> AudioDeviceState:
        if appliance.microphone is None:
            raise NotFound("the audio device is off; set audio_device.enabled=true", code="no_microphone")
        return appliance.microphone

    @routes.get(
        "/audio-device", summary="State of the audio device", response_model=AudioDeviceModel, responses=problems(404)
    )
    async def audio_device() -> dict[str, Any]:
        return microphone().health

    button: dict[str, Any] = {"response_model": AudioDeviceModel, "responses": problems(404, 409, 503)}

    @routes.post("/audio-device/press", summary="Push-to-talk: starts an utterance", **button)
    async def press() -> dict[str, Any]:
        await microphone().press()
        return microphone().health

    @routes.post("/audio-device/release", summary="Push-to-talk: ends the utterance and starts the response", **button)
    async def release() -> dict[str, Any]:
        await microphone().release()
        return microphone().health

    @routes.post("/audio-device/wake", summary="Wakes the box as the wake word does", **button)
    async def wake() -> dict[str, Any]:
        await microphone().wake()
        return microphone().health
