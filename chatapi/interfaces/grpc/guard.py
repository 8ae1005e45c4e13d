"""The guard of every call: its API key, the policy, limits, errors, and the audit log."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder, audit, client_address
from chatapi.auth.audit import ANONYMOUS
from chatapi.auth.policy import operation
from chatapi.interfaces.grpc import guarding
from chatapi.observability.logs import request_id

CODE = "chatapi-code"
"""The trailing metadata with the stable code of an error."""
HOLDER: ContextVar[KeyHolder] = ContextVar("grpc_holder")
"""The client of the call that runs."""


class CommandGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Stands before every method, those of health and reflection too."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of a call, which reads the first message only of a client that may make it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        run = self._guarded(handler, handler_call_details.method, handler_call_details.invocation_metadata)
        # The messages come as bytes, so that they are counted before they are parsed.
        return grpc.stream_stream_rpc_method_handler(run, None, handler.response_serializer)

    def _guarded(self, handler: Any, method: str, metadata: Any) -> Any:
        appliance, wanted = self._appliance, operation("grpc", method.rpartition("/")[2])
        seconds = appliance.settings.grpc.idle_seconds

        async def run(requests: AsyncIterable[bytes], context: Any) -> None:
            begun, peer = time.monotonic(), guarding.peer_address(context.peer())
            token = request_id.set(secrets.token_hex(8))
            held, holder, status = appliance.byte_budget.open(client_address.counted(peer)), ANONYMOUS, "OK"
            try:
                holder = appliance.keyring.authenticate(guarding.offered_keys(metadata), peer)
                appliance.keyring.authorize(holder, wanted)
                HOLDER.set(holder)
                messages = guarding.messages(requests, handler.request_deserializer, held, seconds)
                await guarding.respond(handler, messages, context)
            except Exception as raised:
                error = guarding.told(raised)
                code = guarding.status_code(error)
                status = code.name
                appliance.metrics.errors.labels(error.code).inc()
                await context.abort(code, error.message, trailing_metadata=((CODE, error.code),))
            finally:
                held.release()
                passed = time.monotonic() - begun
                audit.record("request", holder, wanted, peer, passed, method="gRPC", status=status)
                request_id.reset(token)

        return run
