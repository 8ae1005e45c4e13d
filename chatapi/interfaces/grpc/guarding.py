"""What stands around every gRPC call, whatever the service: its messages, its response, its errors, its peer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from chatapi.errors import (
    BadInput,
    CallerError,
    ChatapiError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    ModelMissing,
    NotFound,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthorized,
    WaitAndRetry,
    WrongMode,
    collapse_exception_group,
)
from chatapi.runtime.byte_budget import Reservation

log = logging.getLogger(__name__)

Codes = tuple[tuple[type[ChatapiError], grpc.StatusCode], ...]

CODES: Codes = (
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (MethodNotAllowed, grpc.StatusCode.PERMISSION_DENIED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (WrongMode, grpc.StatusCode.FAILED_PRECONDITION),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooMany, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooSlow, grpc.StatusCode.DEADLINE_EXCEEDED),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (WaitAndRetry, grpc.StatusCode.UNAVAILABLE),
    # No client helps itself by trying again.
    (ModelMissing, grpc.StatusCode.FAILED_PRECONDITION),
    (ChatapiError, grpc.StatusCode.INTERNAL),
)
"""Error class and status; the first class that matches decides."""


def status_code(error: ChatapiError, codes: Codes = CODES) -> grpc.StatusCode:
    """gRPC's status of an error."""
    return next(code for kind, code in codes if isinstance(error, kind))


async def respond(handler: Any, messages: AsyncIterator[Any], context: Any) -> None:
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


async def messages(
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


def offered_keys(metadata: Any) -> Sequence[bytes]:
    """The tokens or API keys of a call."""
    offered = []
    for name, value in metadata or ():
        kind, _, key = str(value).partition(" ")
        if name == "authorization" and kind.lower() == "bearer":
            offered.append(key.strip().encode())
    return offered


def told(raised: Exception) -> ChatapiError:
    """The error that the client gets."""
    error = collapse_exception_group(raised)
    if isinstance(error, ChatapiError):
        return error
    log.exception("unexpected error", exc_info=error)
    return InternalError("internal error; the log of chatapi has the details")


def peer_address(peer: str) -> str:
    """The client's address in gRPC's name of a peer, such as ipv4:127.0.0.1:4000."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]") or "-"


def _behaviour(handler: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return found
