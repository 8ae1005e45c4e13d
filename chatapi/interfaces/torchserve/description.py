"""The description of TorchServe's APIs in OpenAPI 3.0.1, made from the policy."""

from __future__ import annotations

import re
from typing import Any

from chatapi.auth.policy import POLICY, Interface
from chatapi.system.version import version

__all__ = ["document", "version"]

SUMMARIES = {
    "OPTIONS /": ("apiDescription", "Describes the API."),
    "GET /api-description": ("apiDescription", "Describes the API."),
    "GET /ping": ("ping", "Tells whether all workers run."),
    "POST /predictions/{model}": ("predictions", "Predicts with the default version of a model."),
    "POST /predictions/{model}/{version}": ("version_predictions", "Predicts with a version of a model."),
    "POST /invocations": ("invocations", "Predicts, as SageMaker requests it."),
    "POST /v1/models/{call}": ("v1_predict", "Predicts, as KServe's first protocol requests it."),
    "POST /v2/models/{model}/infer": ("v2_infer", "Predicts, as KServe's second protocol requests it."),
    "GET /token": ("token", "Renews a token."),
    "GET /models": ("listModels", "Lists the registered models."),
    "POST /models": ("registerModel", "Registers a model."),
    "GET /models/{model}": ("describeModel", "Describes the default version of a model."),
    "PUT /models/{model}": ("setAutoScale", "Sets the number of workers."),
    "DELETE /models/{model}": ("unregisterModel", "Unregisters the default version of a model."),
    "GET /models/{model}/{version}": ("version_describeModel", "Describes a version of a model, or all."),
    "PUT /models/{model}/{version}": ("version_setAutoScale", "Sets the number of workers of a version."),
    "DELETE /models/{model}/{version}": ("version_unregisterModel", "Unregisters a version of a model."),
    "PUT /models/{model}/{version}/set-default": ("setDefault", "Makes a version the default one."),
    "GET /metrics": ("metrics", "Metrics in Prometheus' text form."),
}
"""Operation -> TorchServe's id of it, or one of the same kind, and what it does."""
NAMES = {"model": "model_name", "version": "model_version", "call": "model_name"}
"""Our name of a part of a path -> TorchServe's."""


def document(interface: Interface) -> dict[str, Any]:
    """The OpenAPI document of one interface."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in POLICY[interface]:
        if operation in SUMMARIES:
            method, route = operation.split(" ")
            path = route.replace("{call}", "{call}:predict")
            for ours, theirs in NAMES.items():
                path = path.replace(f"{{{ours}}}", f"{{{theirs}}}")
            paths.setdefault(path, {})[method.lower()] = _operation(path, method, *SUMMARIES[operation])
    return {"openapi": "3.0.1", "info": {"title": "TorchServe APIs", "version": version()}, "paths": paths}


def _operation(path: str, method: str, identity: str, summary: str) -> dict[str, Any]:
    parameters = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    error = {
        "type": "object",
        "required": ["code", "type", "message"],
        "properties": {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
    }
    found: dict[str, Any] = {
        "description": summary,
        "operationId": identity,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Success."},
            "default": {"description": "An error.", "content": {"application/json": {"schema": error}}},
        },
    }
    if method == "POST" and identity != "registerModel":
        schema = {"type": "string", "format": "binary"}
        found["requestBody"] = {"content": {"*/*": {"schema": schema}}, "required": True}
    return found
