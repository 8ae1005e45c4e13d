"""TorchServe's management API: its operations, for HTTP and gRPC, and its routes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import anyio.to_thread
import psutil
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chatapi.auth import ALL
from chatapi.errors import Forbidden, MethodNotAllowed, Unprocessable
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import json_object, media_type
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.torchserve import description, gpus
from chatapi.interfaces.torchserve.errors import json_response
from chatapi.interfaces.torchserve.served_model import FIRST_WORKER, ServedModel
from chatapi.interfaces.torchserve.service import TorchServe
from chatapi.interfaces.torchserve.tokens import RENEWER

PAGE = 100
"""Models of one page of the list."""
OPTIONS = ("batch_size", "max_batch_delay", "response_timeout", "startup_timeout")
REGISTER = ("url", "model_name", "initial_workers", "synchronous", *OPTIONS)
"""Parameters of a registration that have an effect; a handler is never run."""
SCALE = ("min_worker", "max_worker", "synchronous", "model_version")
SINGLE: Mapping[str, Any] = {
    "parallelType": "", "parallelLevel": 1, "continuousBatching": False, "stateful": False, "useJobTicket": False,
    "useVenv": False,
}  # fmt: skip
"""What a description says of batches and workers that no model here has: of one prediction over several requests, of
several processes, and of a worker's own environment."""
UPDATING = "Processing worker updates..."

Parameters = Mapping[str, Any]


class Management:
    """The operations of the management API; values are text, as in a query, or what JSON has."""

    def __init__(self, torchserve: TorchServe) -> None:
        self._torchserve = torchserve
        self._models = torchserve.models

    def listed(self, limit: int, first: int) -> dict[str, Any]:
        """A page of the registered models."""
        if not 1 <= limit <= 1000:
            limit = PAGE
        models, last = self._models.listed(), max(first, 0) + limit
        more = {"nextPageToken": str(last)} if last < len(models) else {}
        return {**more, "models": [{"modelName": m.name, "modelUrl": m.url} for m in models[max(first, 0) : last]]}

    async def described(self, name: str, version: str | None) -> list[dict[str, Any]]:
        """The default version of a model, another one, or `all`."""
        found = self._models.versions(name) if version == "all" else [self._models.get(name, version)]
        has_gpu = any(self._torchserve.is_on_gpu(each) and each.started_at for each in found)
        usage = gpus.usage(await anyio.to_thread.run_sync(gpus.readings)) if has_gpu else gpus.NONE
        return [self._description(each, usage) for each in found]

    async def register(self, values: Parameters) -> tuple[str, int]:
        """Register a model; the status text and the HTTP status. Raises MethodNotAllowed, CallerError."""
        self._require_api()
        options = {name: _integer(values, name, -1) for name in OPTIONS}
        chosen = {name: value for name, value in options.items() if value >= 0}
        workers = _integer(values, "initial_workers", 0)
        served = await self._models.register(str(values.get("url") or ""), str(values.get("model_name") or ""), chosen)
        least = served.min_workers or max(workers, 0)
        most = max(served.max_workers, least)
        head = f'Model "{served.name}" Version: {served.version} registered with '
        if not least:
            served.scale(0, 0)
            await self._torchserve.start.keep()
            return head + "0 initial workers. Use scale workers API to add workers for the model.", 200
        if not _truth(values, "synchronous"):
            self._torchserve.soon(lambda: self._start(served, least, most))
            return UPDATING, 202
        await self._start(served, least, most)
        return f"{head}{least} initial workers", 200

    async def scale(self, name: str, version: str | None, values: Parameters) -> tuple[str, int]:
        """Set the number of workers; the status text and the HTTP status."""
        served = self._models.get(name, version or str(values.get("model_version") or "") or None)
        least = _integer(values, "min_worker", 1)
        most = _integer(values, "max_worker", least)
        if most < least:
            raise Unprocessable("max_worker cannot be less than min_worker.")
        if not _truth(values, "synchronous"):
            self._torchserve.soon(lambda: self._scale(served, least, most))
            return UPDATING, 202
        await self._scale(served, least, most)
        of_version = f", version: {version}" if version else ""
        return f"Workers scaled to {least} for model: {name}{of_version}", 200

    async def set_default(self, name: str, version: str) -> str:
        """Make a version the default one; the status text."""
        self._models.set_default(name, version)
        await self._torchserve.start.keep()
        return f'Default version successfully updated for model "{name}" to "{version}"'

    async def unregister(self, name: str, version: str | None) -> str:
        """Unregister a model; the status text. Raises MethodNotAllowed, NotFound, Forbidden."""
        self._require_api()
        self._models.unregister(name, version)
        if all(each.name != name for each in self._models):
            self._torchserve.metrics.forget(name)
        await self._torchserve.start.keep()
        return f'Model "{name}" unregistered'

    async def _start(self, served: ServedModel, least: int, most: int) -> None:
        """Start the workers of a new registration, which ends when they cannot be started."""
        try:
            await self._scale(served, least, most)
        except BaseException:
            self._models.unregister(served.name, served.version)
            raise

    async def _scale(self, served: ServedModel, least: int, most: int) -> None:
        await self._models.scale(served, least, most)
        await self._torchserve.start.keep()

    def _require_api(self) -> None:
        if not self._torchserve.table.model_api:
            message = "Requested method is not allowed: torchserve.model_api=true lets clients register models"
            raise MethodNotAllowed(message, ("GET", "PUT"))

    def _description(self, served: ServedModel, usage: str) -> dict[str, Any]:
        """`usage`: that of the GPU on which models run that are on one."""
        options, ready, on_gpu = served.options, self._torchserve.is_ready(served), self._torchserve.is_on_gpu(served)
        memory = psutil.Process().memory_info().rss
        workers = [
            {
                "id": str(FIRST_WORKER + number),
                "startTime": _written(started),
                "status": "READY" if ready else "UNLOADING",
                "memoryUsage": memory,
                "pid": os.getpid(),
                "gpu": on_gpu,
                "gpuUsage": usage if on_gpu else gpus.NONE,
            }
            for number, started in enumerate(served.started_at)
        ]
        return {
            "modelName": served.name, "modelVersion": served.version, "modelUrl": served.url,
            "engine": "Torch", "runtime": "python",
            "minWorkers": served.min_workers, "maxWorkers": served.max_workers,
            "batchSize": options.batch_size, "maxBatchDelay": options.max_batch_delay,
            "responseTimeout": options.response_timeout, "startupTimeout": options.startup_timeout,
            "deviceType": "gpu" if on_gpu else "cpu", **SINGLE,
            "loadedAtStartup": served.loaded_at_startup, "workers": workers,
            "jobQueueStatus": {
                "remainingCapacity": served.queue_size - served.waiting, "pendingRequests": served.waiting,
            },
        }  # fmt: skip


class ManagementRoutes:
    """The routes of the management API."""

    def __init__(self, torchserve: TorchServe) -> None:
        self._torchserve = torchserve
        self._management = Management(torchserve)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.describe_api, methods=["OPTIONS"]),
            Route("/api-description", self.describe_api, methods=["GET"]),
            Route("/token", self.token, methods=["GET"]),
            Route("/models", self.listed, methods=["GET"]),
            Route("/models", self.register, methods=["POST"]),
            Route("/models/{model}", self.describe, methods=["GET"]),
            Route("/models/{model}", self.scale, methods=["PUT"]),
            Route("/models/{model}", self.unregister, methods=["DELETE"]),
            Route("/models/{model}/{version}", self.describe, methods=["GET"]),
            Route("/models/{model}/{version}", self.scale, methods=["PUT"]),
            Route("/models/{model}/{version}", self.unregister, methods=["DELETE"]),
            Route("/models/{model}/{version}/set-default", self.set_default, methods=["PUT"]),
            Route("/v1/models/{model}", self.is_ready, methods=["GET"]),
        ]

    async def describe_api(self, request: Request) -> Response:
        del request
        return json_response(description.document("torchserve_management"))

    async def token(self, request: Request) -> Response:
        """Renews a token; neither a management token nor a key with few scopes may, which would then have more."""
        holder = request.scope[KEY_HOLDER]
        if holder is not RENEWER and ALL not in holder.scopes:
            raise Forbidden(f"{holder} may not renew tokens; send the API token of the key file", code="scope_missing")
        if self._torchserve.tokens is None:
            raise Unprocessable("tokens are off; torchserve.tokens=true issues them")
        self._torchserve.tokens.renew(request.query_params.get("type", ""))
        # TorchServe returns nothing: the new token is in the file only.
        return Response(b"", media_type="application/json")

    async def listed(self, request: Request) -> Response:
        query = dict(request.query_params)
        return json_response(
            self._management.listed(_integer(query, "limit", PAGE), _integer(query, "next_page_token", 0))
        )

    async def register(self, request: Request) -> Response:
        values: dict[str, Any] = dict(request.query_params)
        if media_type(request) == "application/json" and (body := await Spool.of(request).body(request)):
            values |= {_snake(name): value for name, value in json_object(body, "the model's url").items()}
        _note_ignored(request, values, REGISTER)
        return _status(*await self._management.register(values))

    async def describe(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version")
        return json_response(await self._management.described(model, version))

    async def scale(self, request: Request) -> Response:
        values = dict(request.query_params)
        _note_ignored(request, values, SCALE)
        model, version = request.path_params["model"], request.path_params.get("version")
        return _status(*await self._management.scale(model, version, values))

    async def set_default(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params["version"]
        return _status(await self._management.set_default(model, version), 200)

    async def unregister(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version")
        return _status(await self._management.unregister(model, version), 200)

    async def is_ready(self, request: Request) -> Response:
        served = self._torchserve.models.get(request.path_params["model"])
        return json_response({"name": served.name, "ready": self._torchserve.is_ready(served)})


def _note_ignored(request: Request, values: Parameters, known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            IgnoredParameters.of(request).add(name)


def _status(text: str, status: int) -> Response:
    return json_response({"status": text}, status)


def _integer(values: Parameters, name: str, default: int) -> int:
    value = values.get(name)
    text = "" if value is None else str(value).strip()
    if not text:
        return default
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10):
        raise Unprocessable(f"{name} is {text[:40]!r}; it must be a whole number", details={"param": name})
    return int(text)


def _truth(values: Parameters, name: str) -> bool:
    return str(values.get(name, "")).strip().lower() in ("true", "1")


def _snake(name: str) -> str:
    """A key of a JSON body, which TorchServe takes in both spellings."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_of(value: object) -> str:
    """A value as the text of a gRPC answer."""
    return value if isinstance(value, str) else json.dumps(value, indent=2)
