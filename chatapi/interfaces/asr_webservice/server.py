"""The server of whisper-asr-webservice's API, which has no keys: the networks of the settings decide who may use it."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chatapi.appliance import Appliance
from chatapi.audio.decode import Source
from chatapi.auth import KeyHolder
from chatapi.auth.keyless_interface import KeylessClients
from chatapi.engines import Segment
from chatapi.errors import ChatapiError, Unprocessable
from chatapi.interfaces.asr_webservice import formats
from chatapi.interfaces.asr_webservice.port import keyless
from chatapi.interfaces.asr_webservice.requests import AsrQuery, parse_query, receive_recording
from chatapi.interfaces.http.app import further_server, prepare, run_server
from chatapi.interfaces.http.dialect import HttpDialect
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.interfaces.http.problems import status_of
from chatapi.interfaces.http.streaming import CancellableResponse, body, start
from chatapi.runtime.byte_budget import ByteBudget
from chatapi.services.transcription.transcriber import TranscribedChunk, TranscriptionRequest
from chatapi.system.version import version
from chatapi.text.language_codes import NAMES

HELD = 2
"""Requests of the largest size that may be held at once, in files."""


class AsrWebservice:
    """The interface on its own port."""

    def __init__(self, appliance: Appliance, listening: socket.socket) -> None:
        self._appliance = appliance
        self._listening = listening
        self._table = appliance.settings.asr_webservice
        self.clients = KeylessClients(keyless(appliance.settings), appliance.keyring)

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the address and how many requests are in progress."""
        host, port = self._listening.getsockname()[:2]
        return {"listening": f"http://{f'[{host}]' if ':' in host else host}:{port}", "requests": len(self.clients)}

    async def run(self) -> None:
        """Serve until the box shuts down."""
        await run_server(further_server(self.application()), self._listening, self._appliance.settings)

    def application(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/", self._index, methods=["GET"]),
                Route("/status", self._index, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/asr", self._asr, methods=["POST"]),
                Route("/detect-language", self._detect_language, methods=["POST"]),
            ]
        )
        budget = ByteBudget(HELD * self._table.request_bytes)
        appliance = self._appliance
        # The first one added is the innermost: it holds the client's place while its request is answered.
        app.add_middleware(_Admission, self.clients)
        app.add_middleware(
            RequestMiddleware, appliance.settings, appliance.metrics, appliance.keyring, budget, self._dialect()
        )
        prepare(app, appliance, budget)
        return app

    def _dialect(self) -> HttpDialect:
        def authenticate(scope: Scope, headers: Headers) -> KeyHolder:
            del headers
            with self.clients.admitted(scope["client"]) as client:
                return client.holder

        return HttpDialect(
            interface="asr_webservice",
            host=self._table.host,
            body_bytes=self._table.request_bytes,
            body_seconds=self._table.body_seconds,
            authenticate=authenticate,
            error_response=_error_response,
            routed=lambda path: path.rstrip("/") or "/",
        )

    async def _index(self, request: Request) -> Response:
        del request
        return JSONResponse({"version": f"chatapi {version()}", "routes": ["POST /asr", "POST /detect-language"]})

    async def _openapi(self, request: Request) -> Response:
        del request
        operation = {"post": {"responses": {"200": {"description": "Success."}}}}
        paths = dict.fromkeys(("/asr", "/detect-language"), operation)
        info = {"title": "whisper-asr-webservice's API by chatapi", "version": version()}
        return JSONResponse({"openapi": "3.1.0", "info": info, "paths": paths})

    async def _asr(self, request: Request) -> Response:
        self._appliance.require_ready()
        query = parse_query(dict(request.query_params), IgnoredParameters.of(request))
        self._appliance.transcriber.check(query.transcription)
        return _TranscriptResponse(self._appliance, query, *await receive_recording(request, query.encoded))

    async def _detect_language(self, request: Request) -> Response:
        self._appliance.require_ready()
        values = dict(request.query_params)
        query = parse_query(values, IgnoredParameters.of(request))
        return _LanguageResponse(self._appliance, query, *await receive_recording(request, query.encoded))


class _TranscriptResponse(CancellableResponse):
    """Transcribes a recording, and stops when the client disconnects."""

    def __init__(self, appliance: Appliance, query: AsrQuery, source: Source, name: str) -> None:
        """`name`: the name of the recording's file."""
        super().__init__()
        self._appliance = appliance
        self._query = query
        self._source = source
        self._name = name

    async def reply(self, send: Send) -> None:
        service, query = self._appliance.transcription_service, self._query
        async with service.transcribe_file(self._source, query.transcription, speakers=query.speakers) as chunks:
            found = [chunk async for chunk in chunks]
        content = formats.encoded(found, query.output, query.options.translate)
        headers = {
            "Asr-Engine": self._appliance.settings.asr.engine,
            "Content-Disposition": f'attachment; filename="{quote(self._name[:200])}.{query.output}"',
            "Content-Length": str(len(content)),
        }
        # Its answers are plain text in every format.
        await send(start("text/plain", headers))
        await send(body(content, more=False))


class _LanguageResponse(_TranscriptResponse):
    """Detects the language of the first speech; the rest of the recording is not transcribed."""

    async def reply(self, send: Send) -> None:
        service = self._appliance.transcription_service
        async with service.transcribe_file(self._source, TranscriptionRequest("auto")) as chunks:
            found = await _first_segment(chunks)
        if found is None:
            raise Unprocessable("the recording has no speech, so its language is unknown", code="no_speech")
        code = found.language
        document = {
            "detected_language": NAMES.get(code, code),
            "language_code": code,
            # The mean probability of the words in this language.
            "confidence": round(math.exp(min(found.logprob, 0.0)), 4),
        }
        content = json.dumps(document).encode()
        await send(start("application/json", {"Content-Length": str(len(content))}))
        await send(body(content, more=False))


async def _first_segment(chunks: AsyncIterator[TranscribedChunk]) -> Segment | None:
    async for chunk in chunks:
        if chunk.segments:
            return chunk.segments[0]
    return None


class _Admission:
    """The ASGI middleware that counts a client's request while it is answered."""

    def __init__(self, app: ASGIApp, clients: KeylessClients) -> None:
        self._app = app
        self._clients = clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._clients.admitted(scope["client"]):
            await self._app(scope, receive, send)


def _error_response(path: str, error: ChatapiError, headers: dict[str, str] | None = None) -> Response:
    """An error in FastAPI's form, which whisper-asr-webservice has."""
    del path
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return JSONResponse({"detail": error.message, "code": error.code}, status_of(error), headers)
