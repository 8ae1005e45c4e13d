"""Client secrets: a program makes a key for a browser, with the session that it opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.datastructures import Headers

from chatapi.appliance import Appliance
from chatapi.interfaces.http import key_headers, openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.openai.errors import EVERY_ROUTE, error_responses
from chatapi.interfaces.http.openai.parameter_parsing import RequestObject
from chatapi.interfaces.http.realtime import beta_events, session_documents
from chatapi.interfaces.http.realtime.event_part import parsed
from chatapi.interfaces.http.realtime.session_options import options
from chatapi.interfaces.http.realtime.session_requests import requested_session, until_warm
from chatapi.services.live.conversation_item import new_id
from chatapi.services.live.options import check_system

SECONDS = 600
"""Time after which a secret expires unless the request says otherwise, in seconds."""


class ExpiresAfter(RequestObject):
    """When the secret expires."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(SECONDS, ge=10, le=7200)
    """Time after its creation, in seconds."""


class ClientSecretRequest(RequestObject):
    """What a client secret is for."""

    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = Field(default_factory=dict)
    """The session that it opens, as in `session.update`."""


class SecretRequest(RequestObject):
    """The secret of a session."""

    expires_after: ExpiresAfter = ExpiresAfter()


class SessionRequest(RequestObject):
    """A session, whose fields are those of `session.update`, and its secret."""

    model: Annotated[str, Field(max_length=512)] | None = None
    """Any model that the Realtime API takes."""
    client_secret: SecretRequest = SecretRequest()


class ClientSecretDocument(BaseModel):
    """A client secret, in OpenAI's format."""

    value: str
    """The key for the browser."""
    expires_at: int
    """When it expires, in seconds since 1970; a session that is open then continues."""
    session: dict[str, Any]
    """The session that it opens."""


class SessionSecret(BaseModel):
    """The client secret in a session."""

    value: str
    expires_at: int
    """When it expires, in seconds since 1970."""


class SessionDocument(BaseModel, extra="allow"):
    """A session with its client secret, as OpenAI's beta had it."""

    id: str
    object: str
    client_secret: SessionSecret


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1/realtime", responses=EVERY_ROUTE)
    errors = error_responses(400, 404, 408, 413, 415, 503)
    described = openapi.json_body(ClientSecretRequest)

    @routes.post(
        "/client_secrets", summary="Make a key for a browser, with its session", responses=errors,
        openapi_extra=described,
    )  # fmt: skip
    async def client_secrets(request: Request) -> ClientSecretDocument:
        ignored = IgnoredParameters.of(request)
        parse = partial(_parsed, ignored)
        wanted = await json_body(request, "session", parse)
        return await _secret(appliance, request, wanted.session, wanted.expires_after.seconds)

    @routes.post("/sessions", summary="Make a key for a browser, as in OpenAI's beta", responses=errors,
                 openapi_extra=openapi.json_body(SessionRequest))  # fmt: skip
    async def sessions(request: Request) -> SessionDocument:
        return await _session(appliance, request, {"type": "realtime"})

    @routes.post("/transcription_sessions", summary="Make a key for a transcription session, as in OpenAI's beta",
                 responses=errors, openapi_extra=openapi.json_body(SessionRequest))  # fmt: skip
    async def transcription_sessions(request: Request) -> SessionDocument:
        return await _session(appliance, request, {"type": "transcription"})

    return routes


def session_of_secret(appliance: Appliance, headers: Headers, subprotocols: tuple[str, ...] = ()) -> dict[str, Any]:
    """The session of the client secret in a request; empty without one. Raises Unauthorized when it has expired."""
    for key in key_headers.offered_keys(headers, subprotocols):
        if (secret := appliance.keyring.secrets.find(key)) is not None:
            session: dict[str, Any] = json.loads(secret.session)
            return session
    return {}


def _parsed(ignored: IgnoredParameters, values: dict[str, Any]) -> ClientSecretRequest:
    check_plain(values)
    return parsed(ClientSecretRequest, {name: value for name, value in values.items() if value is not None}, ignored)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    check_plain(values)
    return values


async def _session(appliance: Appliance, request: Request, kind: Mapping[str, str]) -> SessionDocument:
    """The session in the body, which has no object of its own around it."""
    values = await json_body(request, "the fields of a session", _checked)
    secret = parsed(SecretRequest, values.pop("client_secret", None) or {}, IgnoredParameters(), "client_secret")
    made = await _secret(appliance, request, {**values, **kind}, secret.expires_after.seconds)
    found = SessionSecret(value=made.value, expires_at=made.expires_at)
    return SessionDocument(**beta_events.session(made.session), client_secret=found)


async def _secret(
    appliance: Appliance, request: Request, session: dict[str, Any], seconds: int
) -> ClientSecretDocument:
    """Makes a secret. Raises the errors that its session would have."""
    await until_warm(appliance)
    config = requested_session(appliance, {}, session, IgnoredParameters.of(request))
    check_system(options(config, appliance), appliance.settings.limits)
    value, secret = appliance.keyring.secrets.create(request.scope[KEY_HOLDER], json.dumps(session), seconds)
    document = {"id": new_id("sess"), **session_documents.document(config, appliance)}
    return ClientSecretDocument(value=value, expires_at=round(secret.expires_at), session=document)
