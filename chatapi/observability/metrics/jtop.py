"""Readings from the service of jetson-stats that sysfs does not have: the GPU of a Thor, rails of older kernels.

jetson-stats is AGPL-3.0: chatapi does not include it, and uses it only if the board's owner has installed it. The names
are those of its versions 4.3 to 7.2 (jtop/jtop.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatapi.observability.metrics.sensors import SensorReadings

log = logging.getLogger(__name__)

SOCKET = "run/jtop.sock"
INTERVAL = 5.0
"""Time between two readings of the service, in seconds."""
RETRY_SECONDS = 60.0
"""Time until a service that failed is tried again, in seconds."""


def client(root: Path = Path("/")) -> Callable[[], Any] | None:
    """A function that connects to the service; None: it does not run, or its library is not installed."""
    if not (root / SOCKET).exists() or importlib.util.find_spec("jtop") is None:
        return None
    try:
        jtop = importlib.import_module("jtop").jtop
    except Exception as error:
        # Its own checks of the machine raise many kinds of errors.
        log.warning("jetson-stats cannot be used: %r", error)
        return None
    return lambda: jtop(interval=INTERVAL)


class Jtop:
    """A connection to the service, opened when it is first needed. For one thread at a time."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._service: Any = None
        self._next = 0.0

    def completed(self, known: SensorReadings) -> SensorReadings:
        """`known`, with missing values filled in from the service."""
        if time.monotonic() < self._next:
            return known
        try:
            if self._service is None:
                service = self._connect()
                service.start()
                self._service = service
            return _completed(known, self._service)
        except Exception as error:
            # It raises its own errors, those of the socket, and KeyErrors for missing parts of a board.
            log.warning("jetson-stats cannot be read: %r", error)
            self.close()
            self._next = time.monotonic() + RETRY_SECONDS
            return known

    def close(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            service.close()


def _completed(known: SensorReadings, service: Any) -> SensorReadings:
    """Fill in missing values. The service's units are per cent, milliwatts, °C and kB."""
    if not service.ok(spin=True):
        raise ConnectionError("the connection was closed")
    loads = [gpu["status"]["load"] / 100 for gpu in service.gpu.values()]
    rails = {name: rail["power"] / 1000 for name, rail in service.power["rail"].items()}
    heat = {name: zone["temp"] for name, zone in service.temperature.items() if zone.get("online", True)}
    shared = service.memory["RAM"].get("shared", 0) * 1024
    return replace(
        known,
        gpu_load=max(loads, default=None) if known.gpu_load is None else known.gpu_load,
        power=known.power or rails,
        temperatures=known.temperatures or heat,
        memory_gpu=known.memory_gpu or shared or None,
    )
