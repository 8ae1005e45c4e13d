"""TorchServe's inference API: predictions, KServe's two shapes, SageMaker's invocations, health and description."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Send

from chatapi.errors import BadInput, NotFound, Unsupported
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.streaming import CancellableResponse, body, start
from chatapi.interfaces.torchserve import description
from chatapi.interfaces.torchserve.errors import json_response
from chatapi.interfaces.torchserve.model_role import Prediction
from chatapi.interfaces.torchserve.served_model import ServedModel
from chatapi.interfaces.torchserve.service import TorchServe


class PredictionResponse(CancellableResponse):
    """Predicts while the client waits, and stops when it disconnects."""

    def __init__(self, torchserve: TorchServe, served: ServedModel, prediction: Prediction, version: str) -> None:
        """`version`: the one that the request names; empty: none."""
        super().__init__()
        self._torchserve = torchserve
        self._served = served
        self._prediction = prediction
        self._version = version

    async def reply(self, send: Send) -> None:
        answer = await self._torchserve.predictor.predict(self._served, self._prediction, self._version)
        await send(start(answer.media_type, {"Content-Length": str(len(answer.content))}))
        await send(body(answer.content, more=False))


class InferenceRoutes:
    """The routes of the inference API."""

    def __init__(self, torchserve: TorchServe) -> None:
        self._torchserve = torchserve

    def routes(self) -> list[Route]:
        predict = ["POST", "PUT"]
        return [
            Route("/", self.describe, methods=["OPTIONS"]),
            Route("/api-description", self.describe, methods=["GET"]),
            Route("/ping", self.ping, methods=["GET"]),
            Route("/predictions/{model}", self.describe, methods=["OPTIONS"]),
            Route("/predictions/{model}", self.predict, methods=predict),
            Route("/predictions/{model}/{version}", self.predict, methods=predict),
            Route("/explanations/{model}", self.explain, methods=["POST"]),
            Route("/invocations", self.predict, methods=["POST"]),
            Route("/models/{model}/invoke", self.predict, methods=["POST"]),
            Route("/v1/models/{model}", self.is_ready, methods=["GET"]),
            Route("/v1/models/{call}", self.call, methods=["POST"]),
            Route("/v2", self.server_metadata, methods=["GET"]),
            Route("/v2/health/live", self.is_live, methods=["GET"]),
            Route("/v2/health/ready", self.ping, methods=["GET"]),
            Route("/v2/models/{model}", self.metadata, methods=["GET"]),
            Route("/v2/models/{model}/ready", self.is_ready, methods=["GET"]),
            Route("/v2/models/{model}/infer", self.predict, methods=["POST"]),
            Route("/{model}/predict", self.predict, methods=["POST"]),
            Route("/{model}/{version}/predict", self.predict, methods=["POST"]),
        ]

    async def describe(self, request: Request) -> Response:
        if name := request.path_params.get("model"):
            self._torchserve.models.get(name)
        return json_response(description.document("torchserve_inference"))

    async def ping(self, request: Request) -> Response:
        del request
        healthy = self._torchserve.healthy
        return json_response({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)

    async def predict(self, request: Request) -> Response:
        name = (
            request.path_params.get("model") or request.query_params.get("model_name") or self._torchserve.models.only
        )
        if not name:
            raise BadInput("Parameter model_name is required.", code="missing_model")
        version = request.path_params.get("version", "")
        served = self._torchserve.models.get(name, version)
        # Before the body is received, so that a client without a chance need not send it.
        holder = request.scope[KEY_HOLDER]
        role = self._torchserve.role_for(holder, served)
        served.require_worker()
        prediction = await role.receive(request, served, holder)
        return PredictionResponse(self._torchserve, served, prediction, version)

    async def call(self, request: Request) -> Response:
        """KServe's `{model}:predict`."""
        name, colon, verb = request.path_params["call"].partition(":")
        if colon and verb == "explain":
            return await self.explain(request)
        if verb != "predict":
            raise NotFound(f"{request.url.path} does not exist; POST /v1/models/{name}:predict does")
        request.scope["path_params"]["model"] = name
        return await self.predict(request)

    async def explain(self, request: Request) -> Response:
        del request
        raise Unsupported("explanations are not supported", code="no_explanations")

    async def is_ready(self, request: Request) -> Response:
        served = self._torchserve.models.get(request.path_params["model"])
        return json_response({"name": served.name, "ready": self._torchserve.is_ready(served)})

    async def is_live(self, request: Request) -> Response:
        del request
        return json_response({"live": True})

    async def server_metadata(self, request: Request) -> Response:
        del request
        return json_response({"name": "chatapi", "version": description.version(), "extensions": []})

    async def metadata(self, request: Request) -> Response:
        name = request.path_params["model"]
        served = self._torchserve.models.versions(name)
        inputs, outputs = (
            [{"name": each, "datatype": "BYTES", "shape": [1]} for each in names]
            for names in (self._torchserve.roles[served[0].role].inputs, ("data",))
        )
        versions = [each.version for each in served]
        return json_response(
            {"name": name, "versions": versions, "platform": "chatapi", "inputs": inputs, "outputs": outputs}
        )
