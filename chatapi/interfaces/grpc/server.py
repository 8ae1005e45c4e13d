"""The gRPC server of command recognition, with the standard services for health and reflection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from chatapi.appliance import Appliance
from chatapi.client.commands import proto
from chatapi.client.proto_file import Method
from chatapi.errors import NotReady, SettingsError
from chatapi.interfaces.grpc.calls import Call, CommandCalls
from chatapi.interfaces.grpc.guard import HOLDER, CommandGuard

IDLE_SECONDS = 300
"""Time without a call after which a connection is closed, in seconds."""
STOP_SECONDS = 4.0
"""Time for calls in progress to finish at the end, in seconds; then they get UNAVAILABLE."""


class CommandServer:
    """Serves on one port."""

    def __init__(self, appliance: Appliance, certificate: Path | None, key: Path | None = None) -> None:
        """`certificate`: the chain in PEM, with the key unless `key` has it; None: without TLS."""
        self._appliance, self._certificate, self._key = appliance, certificate, key
        self.port = 0
        """The port that it listens on; 0: it does not yet."""
        self.started = anyio.Event()
        """Set when it listens."""

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the address and whether it is encrypted."""
        host = self._appliance.settings.grpc.host
        shown = f"[{host}]" if ":" in host else host
        return {"listening": f"{shown}:{self.port}", "tls": self._certificate is not None}

    async def run(self) -> None:
        """Serve until the box shuts down. Raises SettingsError when the port is in use."""
        server, servicer = self._server()
        self.port = self._listen(server)
        await server.start()
        self.started.set()
        try:
            with self._appliance.drain.counted():
                try:
                    with self._appliance.drain.lasting():
                        await anyio.sleep_forever()
                except NotReady:
                    await servicer.enter_graceful_shutdown()
                await server.stop(STOP_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop(STOP_SECONDS)

    def _server(self) -> tuple[grpc.aio.Server, Any]:
        table, limits = self._appliance.settings.grpc, self._appliance.settings.server
        options = [
            ("grpc.max_receive_message_length", table.message_bytes),
            ("grpc.max_send_message_length", table.message_bytes),
            # Another process may not share the port.
            ("grpc.so_reuseport", 0),
            # Without these, clients without a key could use up the descriptors of the process.
            ("grpc.max_allowed_incoming_connections", limits.connections_per_address),
            ("grpc.server_handshake_timeout_ms", round(limits.head_seconds * 1000)),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ]
        guard = CommandGuard(self._appliance)
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=table.calls, interceptors=[guard])
        calls = CommandCalls(self._appliance).table
        handlers = {name: _handler(method, calls[name]) for name, method in proto().methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto().service, handlers),))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names = (proto().service, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=proto().pool)
        return server, servicer

    def _listen(self, server: grpc.aio.Server) -> int:
        table = self._appliance.settings.grpc
        address = f"[{table.host}]:{table.port}" if ":" in table.host else f"{table.host}:{table.port}"
        try:
            if self._certificate is None:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, _credentials(self._certificate, self._key or self._certificate)))
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {address} for gRPC; set grpc.port") from error


def _credentials(certificate: Path, key: Path) -> Any:
    """Credentials that follow the files: the box renews its certificate while it runs."""
    read = [0.0]

    def configuration() -> Any:
        changed = max(each.stat().st_mtime for each in (certificate, key))
        if changed == read[0]:
            return None
        read[0] = changed
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())])

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration)


def _handler(method: Method, call: Call) -> Any:
    """gRPC's handler of a method."""

    def run(request: Any, context: Any) -> Any:
        del context
        return call(request, HOLDER.get())

    kind = f"{'stream' if method.streams_in else 'unary'}_{'stream' if method.streams_out else 'unary'}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(run, method.request.FromString, method.response.SerializeToString)


for _known in (health_pb2, reflection_pb2):
    proto().pool.AddSerializedFile(_known.DESCRIPTOR.serialized_pb)
