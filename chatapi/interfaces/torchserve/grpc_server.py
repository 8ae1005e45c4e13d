"""TorchServe's gRPC services, with the standard services for health and reflection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from chatapi.auth.policy import Interface
from chatapi.errors import NotReady, SettingsError
from chatapi.interfaces.torchserve.encryption import PortEncryption
from chatapi.interfaces.torchserve.grpc_calls import Call, inference_calls, management_calls
from chatapi.interfaces.torchserve.grpc_guard import Guard
from chatapi.interfaces.torchserve.grpc_messages import INFERENCE, MANAGEMENT, METHODS, POOL, SERVICES, message
from chatapi.interfaces.torchserve.service import TorchServe

MOST_BYTES = 64 << 20
"""Largest message, in bytes, which is held in memory; larger recordings are sent over HTTP."""
OVERHEAD = 1 << 20
"""Bytes of a message beside the recording."""
MOST_CALLS = 32
"""Most calls at once of one port; one more is rejected."""
IDLE_SECONDS = 300
"""Time without a call after which a connection is closed, in seconds."""
STOP_SECONDS = 4.0
"""Time for calls in progress to finish at the end, in seconds."""


async def serve_grpc(torchserve: TorchServe) -> None:
    """Serve both services until the box shuts down. Raises SettingsError when a port is in use."""
    table = torchserve.table
    parts: tuple[tuple[Interface, str, int, Mapping[str, Call]], ...] = (
        ("torchserve_inference", INFERENCE, table.grpc_inference_port, inference_calls(torchserve)),
        ("torchserve_management", MANAGEMENT, table.grpc_management_port, management_calls(torchserve)),
    )
    servers, ports = list[grpc.aio.Server](), list[int]()
    try:
        for interface, package, port, calls in parts:
            server = _server(torchserve, interface, package, calls)
            ports.append(_listen(server, torchserve, port, interface))
            servers.append(server)
            await server.start()
        torchserve.grpc_ports = tuple(ports)
        with torchserve.appliance.drain.counted():
            await _until_shutdown(torchserve)
            await _stop(servers)
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(servers)


async def _until_shutdown(torchserve: TorchServe) -> None:
    try:
        with torchserve.appliance.drain.lasting():
            await anyio.sleep_forever()
    except NotReady:
        return


async def _stop(servers: list[grpc.aio.Server]) -> None:
    async with anyio.create_task_group() as group:
        for server in servers:
            group.start_soon(server.stop, STOP_SECONDS)


def _listen(server: grpc.aio.Server, torchserve: TorchServe, port: int, interface: Interface) -> int:
    host, encryption = torchserve.table.host, torchserve.encryption
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    setting = f"torchserve.grpc_{interface.removeprefix('torchserve_')}_port"
    try:
        if encryption is not None and torchserve.encrypts("grpc"):
            return int(server.add_secure_port(address, _credentials(encryption)))
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {host}:{port} for gRPC; set {setting}") from error


def _credentials(encryption: PortEncryption) -> Any:
    """gRPC's credentials; each connection gets the certificate as it is now."""

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration([encryption.pair])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)


def _server(torchserve: TorchServe, interface: Interface, package: str, calls: Mapping[str, Call]) -> grpc.aio.Server:
    table, limits = torchserve.table, torchserve.appliance.settings.server
    options = [
        ("grpc.max_receive_message_length", min(table.request_bytes, MOST_BYTES) + OVERHEAD),
        ("grpc.max_send_message_length", min(table.response_bytes, MOST_BYTES) + OVERHEAD),
        # Another process may not share the port.
        ("grpc.so_reuseport", 0),
        # Without these, clients without a key could use up the descriptors of the process.
        ("grpc.max_allowed_incoming_connections", limits.connections_per_address),
        ("grpc.server_handshake_timeout_ms", round(limits.head_seconds * 1000)),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ]
    server = grpc.aio.server(
        options=options, maximum_concurrent_rpcs=MOST_CALLS, interceptors=[Guard(torchserve, interface)]
    )
    name = f"{package}.{SERVICES[package]}"
    handlers = {method: _handler(package, method, call) for method, call in calls.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool=POOL)
    return server


def _handler(package: str, method: str, call: Call) -> Any:
    """gRPC's handler of a method."""
    request, response, streams = METHODS[package][method]
    parse, written = message(package, request).FromString, message(package, response).SerializeToString
    if streams == "both":
        return grpc.stream_stream_rpc_method_handler(call, parse, written)
    if streams == "out":
        return grpc.unary_stream_rpc_method_handler(call, parse, written)
    return grpc.unary_unary_rpc_method_handler(call, parse, written)


for _known in (health_pb2, reflection_pb2):
    POOL.AddSerializedFile(_known.DESCRIPTOR.serialized_pb)
