"""The messages of TorchServe's gRPC services, as tables of fields; protobuf's classes are made from them.

They have the packages, names and field numbers of TorchServe's, so that clients generated from its files understand
them. They stand in a pool of their own, beside whatever such a client in the same process has.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory
from google.rpc import status_pb2

INFERENCE, MANAGEMENT = "org.pytorch.serve.grpc.inference", "org.pytorch.serve.grpc.management"
INFERENCE_SERVICE, MANAGEMENT_SERVICE = f"{INFERENCE}.InferenceAPIsService", f"{MANAGEMENT}.ManagementAPIsService"

_Field = descriptor_pb2.FieldDescriptorProto
TYPES: dict[str, int] = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
}
MESSAGES: dict[str, dict[str, tuple[tuple[str, int, str], ...]]] = {
    INFERENCE: {
        "PredictionsRequest": (
            ("model_name", 1, "string"), ("model_version", 2, "string"), ("input", 3, "map"),
            ("sequence_id", 4, "optional string"),
        ),
        "PredictionResponse": (
            ("prediction", 1, "bytes"), ("sequence_id", 2, "optional string"),
            ("status", 3, "optional google.rpc.Status"),
        ),
        "TorchServeHealthResponse": (("health", 1, "string"),),
    },
    MANAGEMENT: {
        "ManagementResponse": (("msg", 1, "string"),),
        "DescribeModelRequest": (
            ("model_name", 1, "string"), ("model_version", 2, "string"), ("customized", 3, "bool"),
        ),
        "ListModelsRequest": (("limit", 1, "int32"), ("next_page_token", 2, "int32")),
        "RegisterModelRequest": (
            ("batch_size", 1, "int32"), ("handler", 2, "string"), ("initial_workers", 3, "int32"),
            ("max_batch_delay", 4, "int32"), ("model_name", 5, "string"), ("response_timeout", 6, "int32"),
            ("runtime", 7, "string"), ("synchronous", 8, "bool"), ("url", 9, "string"), ("s3_sse_kms", 10, "bool"),
            ("startup_timeout", 11, "int32"),
        ),
        "ScaleWorkerRequest": (
            ("model_name", 1, "string"), ("model_version", 2, "string"), ("max_worker", 3, "int32"),
            ("min_worker", 4, "int32"), ("number_gpu", 5, "int32"), ("synchronous", 6, "bool"), ("timeout", 7, "int32"),
        ),
        "SetDefaultRequest": (("model_name", 1, "string"), ("model_version", 2, "string")),
        "UnregisterModelRequest": (("model_name", 1, "string"), ("model_version", 2, "string")),
    },
}  # fmt: skip
"""Package -> message -> name, number and type of each field; `map` is from text to bytes."""
METHODS: dict[str, dict[str, tuple[str, str, str]]] = {
    INFERENCE: {
        "Ping": ("google.protobuf.Empty", "TorchServeHealthResponse", ""),
        "Predictions": ("PredictionsRequest", "PredictionResponse", ""),
        "StreamPredictions": ("PredictionsRequest", "PredictionResponse", "out"),
        "StreamPredictions2": ("PredictionsRequest", "PredictionResponse", "both"),
    },
    MANAGEMENT: {
        "DescribeModel": ("DescribeModelRequest", "ManagementResponse", ""),
        "ListModels": ("ListModelsRequest", "ManagementResponse", ""),
        "RegisterModel": ("RegisterModelRequest", "ManagementResponse", ""),
        "ScaleWorker": ("ScaleWorkerRequest", "ManagementResponse", ""),
        "SetDefault": ("SetDefaultRequest", "ManagementResponse", ""),
        "UnregisterModel": ("UnregisterModelRequest", "ManagementResponse", ""),
    },
}
"""Package -> method -> request, response, and which of them are streams."""
SERVICES = {INFERENCE: "InferenceAPIsService", MANAGEMENT: "ManagementAPIsService"}
FILES = {INFERENCE: "inference.proto", MANAGEMENT: "management.proto"}

POOL = descriptor_pool.DescriptorPool()
"""The pool of these messages, for server reflection too."""


def message(package: str, name: str) -> Any:
    """The class of a message."""
    full = name if "." in name else f"{package}.{name}"
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full))


def _fill_pool() -> None:
    for known in (empty_pb2, any_pb2, status_pb2):
        POOL.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for package in MESSAGES:
        POOL.AddSerializedFile(_file(package).SerializeToString())


def _file(package: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=FILES[package], package=package, syntax="proto3")
    file.dependency.extend(["google/protobuf/empty.proto", "google/rpc/status.proto"])
    for name, fields in MESSAGES[package].items():
        described = file.message_type.add(name=name)
        for field in fields:
            _add_field(described, f".{package}.{name}", *field)
    service = file.service.add(name=SERVICES[package])
    for name, (request, response, streams) in METHODS[package].items():
        service.method.add(
            name=name,
            input_type=f".{request}" if "." in request else f".{package}.{request}",
            output_type=f".{package}.{response}",
            client_streaming=streams == "both",
            server_streaming=bool(streams),
        )
    return file


def _add_field(described: descriptor_pb2.DescriptorProto, full: str, name: str, number: int, kind: str) -> None:
    optional, kind = kind.startswith("optional "), kind.removeprefix("optional ")
    field = described.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind == "map":
        entry = described.nested_type.add(name="InputEntry")
        entry.options.map_entry = True
        _add_field(entry, full, "key", 1, "string")
        _add_field(entry, full, "value", 2, "bytes")
        field.label, field.type, field.type_name = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE, f"{full}.InputEntry"
    elif "." in kind:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{kind}"
    else:
        field.type = TYPES[kind]  # type: ignore[assignment]
    if optional:
        # Presence of a field in proto3 is a oneof of its own.
        field.proto3_optional = True
        field.oneof_index = len(described.oneof_decl)
        described.oneof_decl.add(name=f"_{name}")


_fill_pool()
