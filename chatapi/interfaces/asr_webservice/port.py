"""The listening socket of whisper-asr-webservice's API."""

from __future__ import annotations

import socket

from chatapi.auth.keyless_interface import KeylessInterface
from chatapi.errors import SettingsError
from chatapi.interfaces.http.listening import listening_socket
from chatapi.settings import Settings


def keyless(settings: Settings) -> KeylessInterface:
    """The interface, whose protocol has no API keys."""
    return KeylessInterface("whisper-asr-webservice's API", "asr_webservice", settings.asr_webservice, settings)


def open_port(settings: Settings) -> socket.socket | None:
    """The listening socket; None when it is off. Raises SettingsError, also when API keys forbid it."""
    table, interface = settings.asr_webservice, keyless(settings)
    if not table.enabled:
        return None
    if not interface.is_enabled:
        raise SettingsError(f"asr_webservice cannot be offered: {interface.disabled_by_keys}")
    return listening_socket(table.host, table.port, "asr_webservice")
