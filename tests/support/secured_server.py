"""A server with API keys of every scope and an audit log, as a fixture."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from chatapi import auth as keys
from chatapi import settings
from chatapi.observability import logs
from chatapi.settings import LogSettings
from chatapi.storage.layout import DataDirectory
from conftest import FAKE_ENGINES, TIMEOUT, RunningServer, serving

__all__ = ["SecuredServer", "key_protocol", "secured"]


@dataclass
class SecuredServer:
    """A server with API keys, and one key per scope."""

    server: RunningServer
    keys: dict[str, str]
    log: Path

    def audited(self, request: str) -> dict[str, Any]:
        """The audit record of a request, which is written after its response is sent."""
        end = time.monotonic() + TIMEOUT
        while True:
            for line in map(json.loads, self.log.read_text().splitlines()):
                if line["request_id"] == request:
                    return dict(line)
            assert time.monotonic() < end, "there is no such record"
            time.sleep(0.01)

    def get(self, path: str, key: str = "", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        return self.server.client.get(self.server.url + path, headers=headers, **options)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    data = tmp_path_factory.mktemp("data")
    loaded = settings.load([*FAKE_ENGINES, f"data={data}"], environ={}).settings
    scope_keys = {scope: keys.add(data, f"for-{scope}", [scope]) for scope in keys.SCOPES}
    with logs.auditing(LogSettings(audit=True), DataDirectory(data).audit_log), serving(loaded) as server:
        yield SecuredServer(server, scope_keys, data / "audit.log")


def key_protocol(key: str) -> websockets.Subprotocol:
    """The subprotocol that carries the API key."""
    return websockets.Subprotocol(f"openai-insecure-api-key.{key or 'x'}")
