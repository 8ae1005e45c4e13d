"""Reads the part of Protocol Buffers' language that `commands.proto` uses, so that no code has to be generated.

proto3 with one package, one service and flat messages, whose fields are scalars or messages of the same file, and may
be repeated. The classes of the messages come from protobuf itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
SCALARS: Mapping[str, Any] = {
    "string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES, "bool": _Field.TYPE_BOOL, "int32": _Field.TYPE_INT32,
    "double": _Field.TYPE_DOUBLE,
}  # fmt: skip
_COMMENT = re.compile(r"//[^\n]*")
_BLOCK = re.compile(r"(message|service)\s+(\w+)\s*\{([^{}]*)\}")
_FIELD = re.compile(r"(repeated\s+)?(\w+)\s+(\w+)\s*=\s*(\d+)")
_METHOD = re.compile(r"rpc\s+(\w+)\((stream\s+)?(\w+)\)\s+returns\s+\((stream\s+)?(\w+)\)")


@dataclass(frozen=True)
class Method:
    """A method of the service."""

    name: str
    request: Any
    """Class of the request, as that of the response."""
    response: Any
    streams_in: bool
    streams_out: bool


class ProtoFile:
    """A parsed file and the classes of its messages."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for what it does not understand."""
        text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        [package] = re.findall(r"package\s+([\w.]+)\s*;", text)
        file = descriptor_pb2.FileDescriptorProto(name=path.name, package=package, syntax="proto3")
        for kind, name, body in _BLOCK.findall(text):
            if kind == "message":
                _add_message(file, name, body)
            else:
                _add_service(file, name, body)
        self.pool = descriptor_pool.DescriptorPool()
        """For server reflection."""
        self.pool.AddSerializedFile(file.SerializeToString())
        self.service = f"{package}.{file.service[0].name}"
        """Its full name."""
        self.package = package
        self.methods = {each.name: self._method(each) for each in file.service[0].method}

    def message(self, name: str) -> Any:
        """The class of a message of the file."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{self.package}.{name}"))

    def _method(self, described: descriptor_pb2.MethodDescriptorProto) -> Method:
        request, response = (name.rpartition(".")[2] for name in (described.input_type, described.output_type))
        return Method(
            described.name, self.message(request), self.message(response), described.client_streaming,
            described.server_streaming,
        )  # fmt: skip


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str, body: str) -> None:
    described = file.message_type.add(name=name)
    for statement in filter(None, map(str.strip, body.split(";"))):
        if (found := _FIELD.fullmatch(statement)) is None:
            raise ValueError(f"{file.name}: {statement!r} in {name} is not understood")
        repeated, kind, field_name, number = found.groups()
        label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        field = described.field.add(name=field_name, number=int(number), label=label)
        if kind in SCALARS:
            field.type = SCALARS[kind]
        else:
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{file.package}.{kind}"


def _add_service(file: descriptor_pb2.FileDescriptorProto, name: str, body: str) -> None:
    service = file.service.add(name=name)
    for statement in filter(None, map(str.strip, body.split(";"))):
        if (found := _METHOD.fullmatch(statement)) is None:
            raise ValueError(f"{file.name}: {statement!r} in {name} is not understood")
        method, streams_in, request, streams_out, response = found.groups()
        service.method.add(
            name=method, input_type=f".{file.package}.{request}", output_type=f".{file.package}.{response}",
            client_streaming=bool(streams_in), server_streaming=bool(streams_out),
        )  # fmt: skip


COMMANDS = Path(__file__).with_name("commands.proto")
"""The file of command recognition."""
