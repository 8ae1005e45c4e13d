"""The guard of every gRPC call: its token or API key, the policy, limits, errors, audit log and access log."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from chatapi.auth import Operation, audit, client_address, current_client, http_operation
from chatapi.auth.audit import ANONYMOUS
from chatapi.auth.policy import Interface
from chatapi.errors import ChatapiError, TooMany, Unauthorized
from chatapi.interfaces.grpc import guarding
from chatapi.interfaces.grpc.guarding import Codes
from chatapi.interfaces.torchserve.access_log import record
from chatapi.interfaces.torchserve.errors import status_of
from chatapi.interfaces.torchserve.service import TorchServe
from chatapi.observability.logs import request_id

CODES: Codes = (
    (Unauthorized, grpc.StatusCode.PERMISSION_DENIED),
    (TooMany, grpc.StatusCode.UNAVAILABLE),
    *guarding.CODES,
)
"""Error class and status, as TorchServe's clients expect them."""
ROUTES = {
    "Predictions": ("POST", "/predictions/model"),
    "StreamPredictions": ("POST", "/predictions/model"),
    "StreamPredictions2": ("POST", "/predictions/model"),
    "DescribeModel": ("GET", "/models/model"),
    "ListModels": ("GET", "/models"),
    "RegisterModel": ("POST", "/models"),
    "ScaleWorker": ("PUT", "/models/model"),
    "SetDefault": ("PUT", "/models/model/1/set-default"),
    "UnregisterModel": ("DELETE", "/models/model"),
}
"""Method -> the HTTP route whose scopes it needs; any other method is as open as the description of the API."""


def status_code(error: ChatapiError) -> grpc.StatusCode:
    """gRPC's status of an error."""
    return guarding.status_code(error, CODES)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Stands before every method of a port, those of health and reflection too."""

    def __init__(self, torchserve: TorchServe, interface: Interface) -> None:
        self._torchserve = torchserve
        self._interface = interface

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of a call, which reads the first message only of a client that may make it."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wanted = http_operation(*ROUTES.get(method.rpartition("/")[2], ("OPTIONS", "/")), self._interface)
        offered = guarding.offered_keys(handler_call_details.invocation_metadata)
        # The messages come as bytes, so that they are counted before they are parsed.
        run = self._guarded(handler, method, offered, wanted)
        return grpc.stream_stream_rpc_method_handler(run, None, handler.response_serializer)

    def _guarded(self, handler: Any, method: str, offered: Sequence[bytes], wanted: Operation) -> Any:
        """The behaviour of a handler with everything around it; it writes its responses to the context."""
        torchserve = self._torchserve

        async def run(requests: AsyncIterable[bytes], context: Any) -> None:
            begun, peer = time.monotonic(), guarding.peer_address(context.peer())
            token = request_id.set(secrets.token_hex(8))
            held, holder, code = torchserve.budget.open(client_address.counted(peer)), ANONYMOUS, 200
            try:
                holder = torchserve.authenticate(offered, self._interface, peer)
                torchserve.appliance.keyring.authorize(holder, wanted)
                current_client.enter(holder)
                messages = guarding.messages(requests, handler.request_deserializer, held, torchserve.body_seconds)
                await guarding.respond(handler, messages, context)
            except Exception as raised:
                error = guarding.told(raised)
                code = status_of(error)
                torchserve.appliance.metrics.errors.labels(error.code).inc()
                await context.abort(status_code(error), error.message)
            finally:
                held.release()
                torchserve.metrics.count_status(code)
                record(f"/{peer}", "gRPC", method, "HTTP/2.0", code, begun)
                seconds = time.monotonic() - begun
                audit.record("request", holder, wanted, peer, seconds, method="gRPC", status=code)
                request_id.reset(token)

        return run
