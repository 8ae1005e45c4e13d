"""The listening sockets of `chatapi serve`, all opened before any model is loaded."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from chatapi.auth.policy import Interface
from chatapi.interfaces.asr_webservice.port import open_port
from chatapi.interfaces.http.listening import listening_socket
from chatapi.interfaces.torchserve.ports import close_ports, open_ports
from chatapi.interfaces.wyoming import listeners
from chatapi.settings import Settings


@dataclass(frozen=True)
class Listening:
    """The sockets of all interfaces."""

    web: socket.socket
    wyoming: Sequence[socket.socket]
    torchserve: Mapping[Interface, socket.socket]
    asr_webservice: socket.socket | None

    def close(self, settings: Settings) -> None:
        """Close all of them."""
        self.web.close()
        listeners.close(self.wyoming, settings.wyoming.socket)
        close_ports(self.torchserve)
        if self.asr_webservice is not None:
            self.asr_webservice.close()


def open_all(settings: Settings) -> tuple[Settings, Listening]:
    """The sockets, and the settings with what TorchServe's own file says. Raises SettingsError; then none is open."""
    with ExitStack() as opened:
        web = opened.enter_context(listening_socket(settings.server.host, settings.server.port))
        table, torchserve = open_ports(settings)
        opened.callback(close_ports, torchserve)
        asr_webservice = open_port(settings)
        if asr_webservice is not None:
            opened.enter_context(asr_webservice)
        wyoming = listeners.open_listeners(settings)
        opened.pop_all()
    return settings.model_copy(update={"torchserve": table}), Listening(web, wyoming, torchserve, asr_webservice)
