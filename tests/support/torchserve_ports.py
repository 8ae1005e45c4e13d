"""TorchServe's ports of a test's server, each on a free port."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from chatapi.errors import SettingsError
from chatapi.interfaces.torchserve.ports import close_ports, has_grpc, open_ports
from chatapi.interfaces.torchserve.server import TorchServeServer
from chatapi.interfaces.torchserve.service import TorchServe
from chatapi.settings import TorchServeSettings
from conftest import RunningServer, until
from running_interface import running_interface


@dataclass
class TorchServePorts:
    """The running interface and a client for each of its HTTP ports."""

    torchserve: TorchServe
    urls: dict[str, str]
    inference: httpx.Client
    management: httpx.Client
    metrics: httpx.Client
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def grpc(self) -> tuple[str, str]:
        """Addresses of inference and management over gRPC."""
        first, second = (f"127.0.0.1:{port}" for port in self.torchserve.grpc_ports)
        return first, second


@contextmanager
def torchserving(running: RunningServer, trusted: Path | None = None, **values: object) -> Iterator[TorchServePorts]:
    """TorchServe's ports of a running server, until the block ends; `values`: of the settings table; `trusted`: the
    authority of the encrypted ones, in PEM."""
    free = dict.fromkeys(
        ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port"), 0
    )
    chosen = TorchServeSettings.model_validate(
        {"enabled": True, "model_api": True, "keep_models": False, **free, **values}
    )
    appliance = running.appliance
    table, listening = open_ports(appliance.settings.model_copy(update={"torchserve": chosen}))
    try:
        server = TorchServeServer(appliance, table, listening)
    except SettingsError:
        close_ports(listening)
        raise
    interface = server.torchserve
    urls = {
        name.removeprefix(
            "torchserve_"
        ): f"{'https' if interface.encrypts(name) else 'http'}://127.0.0.1:{each.getsockname()[1]}"
        for name, each in listening.items()
    }
    trust = ssl.create_default_context(cafile=trusted) if trusted is not None else True
    clients = {name: httpx.Client(base_url=url, timeout=60, verify=trust) for name, url in urls.items()}
    try:
        with running_interface(running, server.run) as task:

            async def started() -> None:
                wants_grpc = has_grpc() and table.grpc is not False
                await until(
                    lambda: task.done() or bool(len(interface.models) and (interface.grpc_ports or not wants_grpc))
                )

            running.run(started)
            if task.done():
                task.result()
            try:
                yield TorchServePorts(interface, urls, **clients)
            finally:
                for client in clients.values():
                    client.close()
    finally:
        close_ports(listening)
