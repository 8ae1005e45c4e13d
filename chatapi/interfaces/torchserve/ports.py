"""The listening sockets of TorchServe's ports."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Mapping

from chatapi.auth.policy import Interface
from chatapi.errors import SettingsError
from chatapi.interfaces.http.listening import listening_socket
from chatapi.interfaces.torchserve import properties
from chatapi.interfaces.torchserve.served_model import ALL
from chatapi.settings import Settings, TorchServeSettings

PORTS: dict[Interface, str] = {
    "torchserve_inference": "inference_port",
    "torchserve_management": "management_port",
    "torchserve_metrics": "metrics_port",
}
"""Interface -> the setting of its port."""


def open_ports(settings: Settings) -> tuple[TorchServeSettings, dict[Interface, socket.socket]]:
    """The effective settings and the listening HTTP sockets; none when it is off. Raises SettingsError."""
    if not settings.torchserve.enabled:
        return settings.torchserve, {}
    table = properties.effective(settings.torchserve)
    if table.grpc and not has_grpc():
        raise SettingsError("torchserve.grpc needs the extra torchserve: pip install 'chatapi-appliance[torchserve]'")
    for entry in table.models:
        if entry != ALL and not all(entry.partition("=")[::2]):
            raise SettingsError(f"torchserve.models has {entry!r}, which is neither all nor of the form NAME=MODEL")
    found: dict[Interface, socket.socket] = {}
    try:
        for interface, port in PORTS.items():
            found[interface] = listening_socket(table.host, getattr(table, port), "torchserve")
    except SettingsError as error:
        close_ports(found)
        raise SettingsError(f"{error.message.partition(';')[0]}; set torchserve.{port}") from None
    return table, found


def close_ports(listening: Mapping[Interface, socket.socket]) -> None:
    """Close the sockets."""
    for each in listening.values():
        each.close()


def has_grpc() -> bool:
    """Whether the extra torchserve is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("grpc", "grpc_health", "grpc_reflection"))
