"""The guard of every gRPC call: its token or API key, the policy, limits, errors, audit log and access log."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import anyio
import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from chatapi.auth import KeyHolder, Operation, audit, client_address, current_client, http_operation
from chatapi.auth.audit import ANONYMOUS
from chatapi.auth.policy import Interface
from chatapi.errors import (
    BadInput,
    CallerError,
    ChatapiError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooSlow,
    Unauthorized,
    WaitAndRetry,
    WrongMode,
    collapse_exception_group,
)
from chatapi.interfaces.torchserve.access_log import record
from chatapi.interfaces.torchserve.errors import status_of
from chatapi.interfaces.torchserve.service import TorchServe
from chatapi.observability.logs import request_id
from chatapi.runtime.byte_budget import Reservation

log = logging.getLogger(__name__)

key_holder: ContextVar[KeyHolder] = ContextVar("key_holder", default=ANONYMOUS)
"""The client of the call in progress."""

CODES: tuple[tuple[type[ChatapiError], grpc.StatusCode], ...] = (
    (Unauthorized, grpc.StatusCode.PERMISSION_DENIED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (MethodNotAllowed, grpc.StatusCode.PERMISSION_DENIED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (WrongMode, grpc.StatusCode.FAILED_PRECONDITION),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooSlow, grpc.StatusCode.DEADLINE_EXCEEDED),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (WaitAndRetry, grpc.StatusCode.UNAVAILABLE),
    (ChatapiError, grpc.StatusCode.INTERNAL),
)
"""Error class and status; the first class that matches decides."""
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
    return next(code for kind, code in CODES if isinstance(error, kind))


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
        offered = _offered(handler_call_details.invocation_metadata)
        # The messages come as bytes, so that they are counted before they are parsed.
        run = self._guarded(handler, method, offered, wanted)
        return grpc.stream_stream_rpc_method_handler(run, None, handler.response_serializer)

    def _guarded(self, handler: Any, method: str, offered: Sequence[bytes], wanted: Operation) -> Any:
        """The behaviour of a handler with everything around it; it writes its responses to the context."""
        torchserve = self._torchserve

        async def run(requests: AsyncIterable[bytes], context: Any) -> None:
            begun, peer = time.monotonic(), _address(context.peer())
            token = request_id.set(secrets.token_hex(8))
            held, holder, code = torchserve.budget.open(client_address.counted(peer)), ANONYMOUS, 200
            try:
                holder = torchserve.authenticate(offered, self._interface, peer)
                torchserve.appliance.keyring.authorize(holder, wanted)
                current_client.enter(holder)
                key_holder.set(holder)
                messages = _messages(requests, handler.request_deserializer, held, torchserve.body_seconds)
                await _respond(handler, messages, context)
            except Exception as raised:
                error = _told(raised)
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


async def _respond(handler: Any, messages: AsyncIterator[Any], context: Any) -> None:
    """Run the behaviour of a handler and write what it returns, or yields, to the context."""
    request = messages if handler.request_streaming else await anext(messages, None)
    if request is None:
        raise BadInput("the call has no message")
    result = _behaviour(handler)(request, context)
    if hasattr(result, "__aiter__"):
        async for each in result:
            await context.write(each)
    elif handler.response_streaming:
        # It writes its responses itself.
        await result
    else:
        await context.write(await result)


async def _messages(
    requests: AsyncIterable[bytes], parse: Callable[[bytes], Any], held: Reservation, seconds: float
) -> AsyncIterator[Any]:
    """The messages of a call; each is held until the next one. `seconds`: the longest time without one.

    Raises TooSlow, Busy, BadInput."""
    arriving = aiter(requests)
    while True:
        try:
            with anyio.fail_after(seconds):
                content = await anext(arriving, None)
        except TimeoutError:
            raise TooSlow(f"no message arrived within {seconds:g} seconds") from None
        if content is None:
            return
        held.hold(len(content))
        try:
            parsed = parse(content)
        except DecodeError:
            raise BadInput("the message is not of the type that the method takes") from None
        del content
        yield parsed


def _offered(metadata: Any) -> list[bytes]:
    """The tokens or API keys of a call."""
    offered = []
    for name, value in metadata or ():
        kind, _, key = str(value).partition(" ")
        if name == "authorization" and kind.lower() == "bearer":
            offered.append(key.strip().encode())
    return offered


def _told(raised: Exception) -> ChatapiError:
    """The error that the client gets."""
    error = collapse_exception_group(raised)
    if isinstance(error, ChatapiError):
        return error
    log.exception("unexpected error", exc_info=error)
    return InternalError("internal error; the log of chatapi has the details")


def _behaviour(handler: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return found


def _address(peer: str) -> str:
    """The client's address in gRPC's name of a peer, such as ipv4:127.0.0.1:4000."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]") or "-"
