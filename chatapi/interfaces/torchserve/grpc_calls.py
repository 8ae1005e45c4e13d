"""The methods of TorchServe's gRPC services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio.to_thread

from chatapi.auth import current_client
from chatapi.auth.audit import ANONYMOUS
from chatapi.errors import ChatapiError, collapse_exception_group
from chatapi.interfaces.torchserve.grpc_guard import status_code
from chatapi.interfaces.torchserve.grpc_messages import INFERENCE, MANAGEMENT, message
from chatapi.interfaces.torchserve.management import Management, text_of
from chatapi.interfaces.torchserve.service import TorchServe

Call = Callable[..., Any]

REGISTER = (
    "batch_size", "initial_workers", "max_batch_delay", "model_name", "response_timeout", "startup_timeout",
    "synchronous", "url",
)  # fmt: skip
"""Fields of a registration that have an effect."""


def inference_calls(torchserve: TorchServe) -> Mapping[str, Call]:
    """Method -> its behaviour, of the inference service."""
    response = message(INFERENCE, "PredictionResponse")

    async def ping(request: Any, context: Any) -> Any:
        del request, context
        health = "Healthy" if torchserve.healthy else "Unhealthy"
        return message(INFERENCE, "TorchServeHealthResponse")(health=health)

    async def predicted(request: Any) -> bytes:
        served = torchserve.models.get(request.model_name, request.model_version or None)
        holder = current_client.holder() or ANONYMOUS
        role = torchserve.role_for(holder, served)
        fields = {str(name): bytes(value) for name, value in request.input.items()}
        prediction = await anyio.to_thread.run_sync(role.prediction, fields, served, holder)
        return (await torchserve.predictor.predict(served, prediction, request.model_version)).content

    async def predictions(request: Any, context: Any) -> Any:
        del context
        return response(prediction=await predicted(request))

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        del context
        yield response(prediction=await predicted(request))

    async def sequence(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers each request of a stream in order; an error of one is its answer, and the stream goes on."""
        del context
        async for request in requests:
            try:
                yield response(prediction=await predicted(request), sequence_id=request.sequence_id)
            except Exception as raised:
                error = collapse_exception_group(raised)
                if not isinstance(error, ChatapiError):
                    raise
                code = int(status_code(error).value[0])
                failed = message(INFERENCE, "google.rpc.Status")(code=code, message=error.message)
                yield response(sequence_id=request.sequence_id, status=failed)

    return {"Ping": ping, "Predictions": predictions, "StreamPredictions": stream, "StreamPredictions2": sequence}


def management_calls(torchserve: TorchServe) -> Mapping[str, Call]:
    """Method -> its behaviour, of the management service."""
    management = Management(torchserve)
    response = message(MANAGEMENT, "ManagementResponse")

    async def describe(request: Any, context: Any) -> Any:
        del context
        return response(msg=text_of(await management.described(request.model_name, request.model_version or None)))

    async def listed(request: Any, context: Any) -> Any:
        del context
        return response(msg=text_of(management.listed(request.limit, request.next_page_token)))

    async def register(request: Any, context: Any) -> Any:
        del context
        # A field of 0 was not sent: the protocol cannot tell.
        values = {name: getattr(request, name) or None for name in REGISTER}
        return response(msg=(await management.register(values))[0])

    async def scale(request: Any, context: Any) -> Any:
        del context
        values = {"min_worker": request.min_worker, "synchronous": request.synchronous}
        most = max(request.max_worker, request.min_worker)
        text, _ = await management.scale(
            request.model_name, request.model_version or None, {**values, "max_worker": most}
        )
        return response(msg=text)

    async def set_default(request: Any, context: Any) -> Any:
        del context
        return response(msg=await management.set_default(request.model_name, request.model_version))

    async def unregister(request: Any, context: Any) -> Any:
        del context
        return response(msg=await management.unregister(request.model_name, request.model_version or None))

    return {
        "DescribeModel": describe, "ListModels": listed, "RegisterModel": register, "ScaleWorker": scale,
        "SetDefault": set_default, "UnregisterModel": unregister,
    }  # fmt: skip
