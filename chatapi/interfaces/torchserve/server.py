"""TorchServe's ports: three HTTP servers and, with the extra torchserve, two of gRPC, on one table of models."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder
from chatapi.auth.policy import Interface
from chatapi.interfaces.http import key_headers
from chatapi.interfaces.http.app import further_server, prepare, run_server
from chatapi.interfaces.http.dialect import HttpDialect, client_of
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.interfaces.torchserve import description
from chatapi.interfaces.torchserve.access_log import AccessLog, writing_logs
from chatapi.interfaces.torchserve.errors import error_response, json_response
from chatapi.interfaces.torchserve.inference import InferenceRoutes
from chatapi.interfaces.torchserve.management import ManagementRoutes
from chatapi.interfaces.torchserve.metrics import WorkerLoad
from chatapi.interfaces.torchserve.ports import has_grpc
from chatapi.interfaces.torchserve.served_model import FIRST_WORKER
from chatapi.interfaces.torchserve.service import TorchServe
from chatapi.settings import TorchServeSettings

log = logging.getLogger("chatapi.torchserve.model")


class TorchServeServer:
    """Serves on all ports of the interface."""

    def __init__(
        self, appliance: Appliance, table: TorchServeSettings, listening: Mapping[Interface, socket.socket]
    ) -> None:
        """`table`: the effective settings. Raises SettingsError when the key file cannot be written, and for
        certificates that cannot be used."""
        self.torchserve = TorchServe(appliance, table)
        self._listening = listening

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the addresses and how many models are registered."""
        host = f"[{self.torchserve.table.host}]" if ":" in self.torchserve.table.host else self.torchserve.table.host
        schemes = {each: "https" if self.torchserve.encrypts(each) else "http" for each in self._listening}
        urls = [f"{schemes[name]}://{host}:{each.getsockname()[1]}" for name, each in self._listening.items()]
        grpc = "grpcs" if self.torchserve.encrypts("grpc") else "grpc"
        return {
            "listening": [*urls, *(f"{grpc}://{host}:{port}" for port in self.torchserve.grpc_ports)],
            "models": len(self.torchserve.models),
        }

    async def run(self) -> None:
        """Serve on all ports until the box shuts down."""
        with ExitStack() as stack:
            stack.enter_context(writing_logs(self.torchserve.table.logs))
            if self.torchserve.tokens is not None:
                stack.callback(self.torchserve.tokens.close)
            async with anyio.create_task_group() as group:
                self.torchserve.group = group
                for interface, listening in self._listening.items():
                    web = further_server(self.application(interface), self._secure(interface))
                    group.start_soon(run_server, web, listening, self.torchserve.appliance.settings)
                if self.torchserve.table.grpc is not False and has_grpc():
                    # Imported here, because only this needs the extra.
                    from chatapi.interfaces.torchserve.grpc_server import serve_grpc

                    group.start_soon(serve_grpc, self.torchserve)
                group.start_soon(self.torchserve.start.register)
                group.start_soon(self.torchserve.keep_certificate)

    def _secure(self, interface: Interface) -> ssl.SSLContext | None:
        """The TLS context of a port; None: it is not encrypted."""
        encryption = self.torchserve.encryption
        return encryption.context if encryption is not None and self.torchserve.encrypts(interface) else None

    def application(self, interface: Interface) -> Starlette:
        """The ASGI application of one port."""
        routes: dict[Interface, Sequence[BaseRoute]] = {
            "torchserve_inference": InferenceRoutes(self.torchserve).routes(),
            "torchserve_management": ManagementRoutes(self.torchserve).routes(),
            "torchserve_metrics": [
                Route("/", self._describe_metrics, methods=["OPTIONS"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ],
        }
        app = Starlette(routes=routes[interface])
        app.router.redirect_slashes = False
        appliance = self.torchserve.appliance
        app.add_middleware(
            RequestMiddleware, appliance.settings, appliance.metrics, appliance.keyring, self.torchserve.budget,
            self._dialect(interface),
        )  # fmt: skip
        app.add_middleware(AccessLog, self.torchserve.metrics)
        prepare(app, appliance, self.torchserve.budget)
        return app

    def _dialect(self, interface: Interface) -> HttpDialect:
        def authenticate(scope: Scope, headers: Headers) -> KeyHolder:
            offered = key_headers.offered_keys(headers)
            return self.torchserve.authenticate(offered, interface, client_of(scope), scope["path"])

        return HttpDialect(
            interface=interface,
            host=self.torchserve.table.host,
            body_bytes=self.torchserve.table.request_bytes,
            body_seconds=self.torchserve.body_seconds,
            authenticate=authenticate,
            error_response=error_response,
            routed=_routed,
            health_paths=("/ping",),
        )

    async def _describe_metrics(self, request: Request) -> Response:
        del request
        return json_response(description.document("torchserve_metrics"))

    async def _metrics(self, request: Request) -> Response:
        names = frozenset(request.query_params.getlist("name[]"))
        loads = [
            WorkerLoad(f"W-{FIRST_WORKER + number}-{each.name}_{each.version}", each.load_seconds * 1000)
            for each in self.torchserve.models
            for number in range(each.min_workers)
        ]
        text = await anyio.to_thread.run_sync(self.torchserve.metrics.text, names, loads)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _routed(path: str) -> str:
    """Slashes at the end make no difference to TorchServe."""
    return path.rstrip("/") or "/"
