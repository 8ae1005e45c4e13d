"""whisper-asr-webservice's port of a test's server, on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from chatapi.interfaces.asr_webservice.port import open_port
from chatapi.interfaces.asr_webservice.server import AsrWebservice
from chatapi.settings import AsrWebserviceSettings
from conftest import RunningServer
from running_interface import running_interface


@contextmanager
def asr_serving(running: RunningServer, **values: object) -> Iterator[httpx.Client]:
    """A client of the port, until the block ends; `values`: of the settings table."""
    appliance = running.appliance
    before = appliance.settings
    chosen = AsrWebserviceSettings.model_validate({"enabled": True, "port": 0, **values})
    appliance.settings = before.model_copy(update={"asr_webservice": chosen})
    try:
        listening = open_port(appliance.settings)
        assert listening is not None
        interface = AsrWebservice(appliance, listening)
    finally:
        appliance.settings = before
    with listening, running_interface(running, interface.run):
        with httpx.Client(base_url=interface.health["listening"], timeout=60) as client:
            yield client
