"""A Home Assistant of its own configuration folder, which is set up over its HTTP interface as its frontend does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from features import FAKE, WORK, Failed

CONFIGURATION = """
http:
  server_host: 127.0.0.1
  server_port: {port}
frontend:
config:
conversation:
assist_pipeline:
input_boolean:
  lamp:
    name: Kitchen lamp
{lamps}
logger:
  default: warning
"""
LAMPS = {f"lamp_{number}": f"Lamp {number} of the house" for number in range(1, 41)}
"""Further devices, as a house has them."""
START_SECONDS = 240
PIPELINE_SECONDS = 60
CLIENT = "http://127.0.0.1/"
"""The id of a client of Home Assistant's login."""
STARTER = "import sys, homeassistant.__main__ as main; main.validate_python = lambda: None; sys.exit(main.main())"
"""Starts Home Assistant on an older Python 3.13 than it asks for."""


def _command(folder: Path) -> list[str]:
    from homeassistant.const import REQUIRED_PYTHON_VER

    start = ["-m", "homeassistant"] if sys.version_info[:3] >= REQUIRED_PYTHON_VER else ["-c", STARTER]
    return [sys.executable, *start, "--config", str(folder), "--skip-pip"]


class HomeAssistant:
    """The process; `call` speaks to its HTTP interface."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        folder.mkdir(exist_ok=True)
        lamps = "\n".join(f"  {key}:\n    name: {name}" for key, name in LAMPS.items())
        (folder / "configuration.yaml").write_text(CONFIGURATION.format(port=port, lamps=lamps))
        self.url = f"http://127.0.0.1:{port}"
        self.token = ""
        self.tokens: dict[str, Any] = {}
        environment = {**os.environ, "OPENAI_BASE_URL": f"{FAKE}/v1"}
        with (folder / "hass.log").open("wb") as log:
            self.process = subprocess.Popen(_command(folder), env=environment, stdout=log, stderr=log)
        self._wait(folder)
        self._onboard()

    def _wait(self, folder: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, Failed):
                self.call("GET", "/api/onboarding")
                return
            time.sleep(0.5)
        raise Failed(f"Home Assistant does not start: {(folder / 'hass.log').read_text()[-1500:]}")

    def _onboard(self) -> None:
        """Creates the owner and logs in."""
        user = {"client_id": CLIENT, "name": "Owner", "username": "owner", "password": "owner", "language": "en"}
        code = self.call("POST", "/api/onboarding/users", user)["auth_code"]
        form = f"grant_type=authorization_code&code={code}&client_id={CLIENT}"
        self.tokens = self.call("POST", "/auth/token", form)
        self.token = self.tokens["access_token"]
        for step in ("core_config", "analytics"):
            self.call("POST", f"/api/onboarding/{step}", {})
        self.call("POST", "/api/onboarding/integration", {"client_id": CLIENT, "redirect_uri": CLIENT})

    def call(self, method: str, path: str, body: Any = None, raw: bool = False, **headers: str) -> Any:
        """Sends a request and returns the JSON of its response. Raises Failed for an error."""
        data = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        kind = "application/x-www-form-urlencoded" if isinstance(body, str) else "application/json"
        given = {"Content-Type": kind, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, None if body is None else data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                found = response.read()
        except urllib.error.HTTPError as error:
            raise Failed(f"{path}: {error.code} {error.read()[:300]!r}") from None
        return found if raw else json.loads(found or b"null")

    def configure(self, integration: str, data: dict[str, Any]) -> dict[str, Any]:
        """Goes through the config flow of an integration with one form; its entry."""
        form = self.call("POST", "/api/config/config_entries/flow", {"handler": integration})
        done: dict[str, Any] = self.call("POST", f"/api/config/config_entries/flow/{form['flow_id']}", data)
        if done["type"] != "create_entry":
            raise Failed(str(done))
        return done

    def entities(self) -> list[str]:
        return [state["entity_id"] for state in self.call("GET", "/api/states")]

    def entity(self, domain: str, part: str = "chatapi") -> str:
        """The entity of a domain, once it exists."""
        for _ in range(100):
            for name in self.entities():
                if name.startswith(f"{domain}.") and part in name:
                    return name
            time.sleep(0.2)
        raise Failed(f"no {domain} among {self.entities()}")

    @contextlib.asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        """A connection to its WebSocket, as its frontend has one."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/api/websocket") as connection:
            await connection.receive_json()
            await connection.send_json({"type": "auth", "access_token": self.token})
            await connection.receive_json()
            yield Socket(connection)


class Socket:
    """Commands over Home Assistant's WebSocket."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection
        self._last = 0

    async def command(self, kind: str, **more: Any) -> Any:
        """The result of a command."""
        self._last += 1
        await self._connection.send_json({"id": self._last, "type": kind, **more})
        while True:
            answer = await asyncio.wait_for(self._connection.receive_json(), PIPELINE_SECONDS)
            if answer.get("id") == self._last and answer["type"] == "result":
                if not answer["success"]:
                    raise Failed(str(answer["error"]))
                return answer["result"]

    async def pipeline(self, sound: bytes = b"", **options: Any) -> dict[str, Any]:
        """Runs a pipeline, with audio of 16 kHz at the pace of a microphone; the data of each of its events by type."""
        await self.command("assist_pipeline/run", timeout=PIPELINE_SECONDS, **options)
        found: dict[str, Any] = {}
        sending: asyncio.Task[None] | None = None
        while "run-end" not in found:
            answer = await asyncio.wait_for(self._connection.receive_json(), PIPELINE_SECONDS)
            if answer["type"] != "event":
                continue
            event = answer["event"]
            found[event["type"]] = event["data"]
            if event["type"] == "run-start" and sound:
                handler = event["data"]["runner_data"]["stt_binary_handler_id"]
                sending = asyncio.create_task(self._send(bytes([handler]), sound))
            if event["type"] == "error":
                break
        if sending is not None:
            sending.cancel()
        if "error" in found:
            raise Failed(f"{found['error']}")
        return found

    async def _send(self, handler: bytes, sound: bytes) -> None:
        for first in range(0, len(sound), 2048):
            await self._connection.send_bytes(handler + sound[first : first + 2048])
            await asyncio.sleep(0.05)
        await self._connection.send_bytes(handler)


_running: list[HomeAssistant] = []


def home_assistant() -> HomeAssistant:
    """The one of this script, which starts with the first feature."""
    if not _running:
        _running.append(HomeAssistant(WORK / "home-assistant"))
    return _running[0]


def stop() -> None:
    for each in _running:
        each.process.terminate()
        try:
            each.process.wait(15)
        except subprocess.TimeoutExpired:
            each.process.kill()
