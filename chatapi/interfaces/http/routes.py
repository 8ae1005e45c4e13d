"""Our own routes: `/completion`, conversations, and what operators ask."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import FileResponse, JSONResponse, Response

from chatapi.appliance import Appliance, AudioDeviceState
from chatapi.errors import NotFound
from chatapi.interfaces.http import completion_request
from chatapi.interfaces.http.completion_response import CompletionResponse
from chatapi.interfaces.http.problems import EVERYWHERE, MEANINGS, MEDIA_TYPE


class UsageModel(BaseModel):
    """Tokens an answer took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class CompletionModel(BaseModel):
    """An answer in text."""

    id: str
    conversation: str
    transcript: str | None
    reply: str
    finish_reason: str
    usage: UsageModel
    timings: dict[str, float | None]
    kept: bool = True
    """False, and there only then: the exchange could not be written to the disk yet."""


class WarningModel(BaseModel):
    """Something that does not keep the box from answering."""

    code: str
    """history_not_kept or history_set_aside."""
    message: str


class Readiness(BaseModel):
    """The box answers."""

    ready: bool
    warnings: list[WarningModel] = []
    """There only where something is not as it should be."""


class Device(BaseModel):
    """A microphone or a speaker."""

    name: str
    state: str
    """opening, ok or lost."""
    reopened: int
    dropped: int
    """Samples at 16 kHz."""
    error: str


class AudioDeviceModel(BaseModel):
    """The box's own microphone and speaker."""

    mode: str
    """hands_free, wake_word or push_to_talk."""
    state: str
    """waiting (for the models), asleep, listening, hearing, thinking, speaking or failing."""
    wake_word: str | None
    """What wakes it, once the models are loaded."""
    input: Device
    output: Device
    echo: str
    """on, off, or why it is not cancelled."""


class ProblemDocument(BaseModel):
    """What is wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


WARNED = {
    "history_not_kept": "conversations cannot be written to the disk now; they are lost when the box restarts",
    "history_set_aside": "the file of conversations was damaged and set aside; earlier conversations are missing",
}
"""What everybody may know of a trouble; file names are for the operator, in `/health`."""

EVENT = {
    "type": "object",
    "description": "Each event; its data is JSON.",
    "properties": {
        "event": {"enum": ["start", "transcript", "delta", "speech", "progress", "end", "error"]},
        "data": {"type": "string"},
    },
    "required": ["event", "data"],
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: schema}}
        for status in sorted({*EVERYWHERE, *statuses})
    }


def _completion_body() -> dict[str, Any]:
    """The request body of `/completion` for the OpenAPI document."""
    form = {
        name: dict(schema)
        for name, schema in completion_request.PromptRequest.model_json_schema()["properties"].items()
    }
    form["audio"] = {"type": "string", "format": "binary"}
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": "#/components/schemas/PromptRequest"}},
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "additionalProperties": False}},
    }
    for name in ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/webm"):
        content[name] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": content}


def _options_in_query() -> list[dict[str, Any]]:
    described = completion_request.CompletionOptions.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": "With an audio body only."}
        for name, schema in described.items()
    ]


def router(appliance: Appliance) -> APIRouter:
    """Every route of this face."""
    routes = APIRouter()
    _conversing(routes, appliance)
    _operating(routes, appliance)
    _talking(routes, appliance)
    return routes


def _conversing(routes: APIRouter, appliance: Appliance) -> None:
    @routes.post(
        "/completion",
        summary="One turn: text or audio in, text or voice out",
        response_class=Response,
        responses={
            200: {
                "description": "The answer.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Completion"}},
                    "audio/wav": {"schema": {"type": "string", "format": "binary"}},
                    "text/event-stream": {"schema": EVENT},
                },
            },
            **_problems(400, 404, 406, 408, 413, 415, 422, 503, 507),
        },
        openapi_extra={"requestBody": _completion_body(), "parameters": _options_in_query()},
    )
    async def completion(request: Request) -> Response:
        return CompletionResponse(appliance.conversation, await completion_request.read(request), appliance.metrics)

    @routes.get("/conversations/{conversation}", summary="What was said", responses=_problems(404, 503, 507))
    async def conversation(conversation: str) -> dict[str, Any]:
        conversation_state = await appliance.history.call(lambda history: history.recall(conversation, everything=True))
        messages = []
        for exchange in conversation_state.exchanges:
            messages += [{"role": "user", "text": exchange.asked}, {"role": "assistant", "text": exchange.answered}]
        # Where a function was called there are no words.
        return {"id": conversation_state.id, "messages": [message for message in messages if message["text"]]}

    @routes.delete(
        "/conversations/{conversation}", summary="Forget it", status_code=204, responses=_problems(404, 503, 507)
    )
    async def forget(conversation: str) -> None:
        await appliance.history.call(lambda history: history.remove(conversation))


def _operating(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get("/health", summary="What runs; 200 as long as the process does", responses=_problems())
    async def health() -> dict[str, Any]:
        return appliance.health()

    @routes.get(
        "/ready",
        summary="200 while every model is loaded and warm, and no engine has failed for good",
        response_model=Readiness,
        response_model_exclude_defaults=True,
        responses=_problems(503),
    )
    async def ready() -> dict[str, Any]:
        appliance.require_ready()
        warnings = [{"code": each.code, "message": WARNED[each.code]} for each in appliance.problems()]
        return {"ready": True, **({"warnings": warnings} if warnings else {})}

    @routes.get("/certificate", include_in_schema=False)
    async def certificate() -> Response:
        """The authority that signed what a box with `server.tls` shows, for devices that are to trust it."""
        table = appliance.settings.server
        if not table.tls or table.certificate is not None:
            raise NotFound("there is no certificate of the box's own making; server.tls makes one")
        # Imported here, because nothing else of a box without TLS needs it.
        from chatapi.auth.certificate_authority import CertificateKeeper

        authority = CertificateKeeper(appliance.settings.data).authority
        if not authority.is_file():
            raise NotFound("the certificate could not be kept, so that this one is for this run alone; `chatapi check`")
        # Phones offer to install what has this type.
        return FileResponse(authority, media_type="application/x-x509-ca-cert")

    @routes.get("/metrics", summary="Prometheus text format", response_class=Response, responses=_problems(503))
    async def metrics() -> Response:
        return Response(await appliance.metrics.read(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/models", summary="Models known, voices and languages to ask for", responses=_problems())
    async def models() -> Response:
        return JSONResponse(appliance.capabilities())


def _talking(routes: APIRouter, appliance: Appliance) -> None:
    """Buttons for the box's own microphone; each may be pressed twice. None of them tells what was said."""

    def microphone() -> AudioDeviceState:
        if appliance.microphone is None:
            raise NotFound(
                "this box does not use its microphone; audio_device.enabled=true lets it", code="no_microphone"
            )
        return appliance.microphone

    @routes.get(
        "/audio-device", summary="What the microphone does", response_model=AudioDeviceModel, responses=_problems(404)
    )
    async def mic() -> dict[str, Any]:
        return microphone().health

    button: dict[str, Any] = {"response_model": AudioDeviceModel, "responses": _problems(404, 409, 503)}

    @routes.post("/audio-device/press", summary="Push-to-talk: the key goes down; what is said now is meant", **button)
    async def press() -> dict[str, Any]:
        await microphone().press()
        return microphone().health

    @routes.post("/audio-device/release", summary="Push-to-talk: the key goes up; what was said is answered", **button)
    async def release() -> dict[str, Any]:
        await microphone().release()
        return microphone().health

    @routes.post("/audio-device/wake", summary="As if the wake word had been said", **button)
    async def wake() -> dict[str, Any]:
        await microphone().wake()
        return microphone().health
