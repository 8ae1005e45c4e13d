"""The server behind a real nginx: with the recipe of the documentation, and with nginx's defaults."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect

from chatapi.settings import Settings
from conftest import TIMEOUT, RunningServer, serving
from paths import ROOT

NGINX = shutil.which("nginx") or shutil.which(Path(sys.executable).with_name("nginx"))
pytestmark = pytest.mark.skipif(NGINX is None, reason="Debian's nginx is not installed")
NAME = "voice.example.com"
HOSTS = f"server.hosts=localhost,127.0.0.1,{NAME}"
DEFAULTS = "server { listen 443 ssl; location / { proxy_pass http://127.0.0.1:8000; } }"
FRAME = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers}
}}
"""


def recipe() -> str:
    """The configuration for nginx in the documentation."""
    found = re.search(r"```nginx\n(.*?)```", (ROOT / "docs/reverse-proxy.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def proxied(server: RunningServer, servers: str, folder: Path) -> Iterator[httpx.Client]:
    """nginx before the server, without TLS, and a client of it that sends the name as Host."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = re.sub(
        r"^\s*ssl_.*\n", "", servers.replace("listen 443 ssl", f"listen 127.0.0.1:{port}"), flags=re.MULTILINE
    )
    servers = servers.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}")
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, servers=servers))
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-p", folder, "-e", "error.log", "-c", folder / "nginx.conf"]) as nginx:
        try:
            host = f"{NAME}:{port}"
            headers = {"Host": host, "Origin": f"http://{host}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=TIMEOUT) as client:
                _wait(client, nginx)
                yield client
        finally:
            nginx.terminate()
    assert nginx.returncode == 0, (folder / "error.log").read_text()


def _wait(client: httpx.Client, nginx: subprocess.Popen[bytes]) -> None:
    while True:
        assert nginx.poll() is None
        try:
            client.get("/ready")
            return
        except httpx.ConnectError:
            continue


def test_defaults_of_nginx_are_named_as_the_cause(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with serving(fake_settings(HOSTS)) as server, proxied(server, DEFAULTS, tmp_path) as client:
        error = client.post("/completion", json={"prompt": "Hello"}).json()
        assert error["code"] == "foreign_origin"
        for words in ("proxy_set_header Host $http_host", f"add {NAME} to server.hosts", "server.cors_origins"):
            assert words in error["detail"]


def test_missing_name_is_named(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with serving(fake_settings()) as server, proxied(server, recipe(), tmp_path) as client:
        error = client.post("/completion", json={"prompt": "Hello"}).json()
        assert error["code"] == "unknown_host" and f"'{NAME}' is not in server.hosts" in error["detail"]


def test_recipe_passes_everything_on(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with serving(fake_settings(HOSTS)) as server, proxied(server, recipe(), tmp_path) as client:
        assert client.get("/").status_code == 200
        assert client.post("/completion", json={"prompt": "Hello"}).json()["reply"] == "You said: Hello."
        # A recording of 20 MB arrives, and is rejected by the server, not by nginx.
        answer = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", bytes(20_000_000))}, data={"model": "x"}
        )
        assert "error" in answer.json()
        server.appliance.engines.llm.engine.delay = 0.1  # type: ignore[attr-defined]
        request = {"messages": [{"role": "user", "content": "word " * 200}], "stream": True, "model": "default"}
        with client.stream("POST", "/v1/chat/completions", json=request) as response:
            # Text has come while the answer is still being written; the event before it names the role alone.
            assert any('"content": "You' in line for line in response.iter_lines())
            assert server.appliance.metrics.active._value.get() == 1
        assert anyio.run(_first_event, client, backend="asyncio")["type"] == "session.created"


def test_limits_count_the_client_and_not_the_proxy(fake_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with serving(fake_settings(HOSTS, "server.api_key=right")) as server, proxied(server, recipe(), tmp_path) as client:

        def status(key: str, address: str) -> int:
            transport = httpx.HTTPTransport(local_address=address)
            headers = {**client.headers, "X-API-Key": key}
            with httpx.Client(base_url=client.base_url, transport=transport, headers=headers) as other:
                return other.get("/models").status_code

        assert [status("wrong", "127.0.0.5") for _ in range(11)][-1] == 429
        assert (status("wrong", "127.0.0.6"), status("right", "127.0.0.6")) == (401, 200)


async def _first_event(client: httpx.Client) -> dict[str, object]:
    """The first event of a live conversation through nginx."""
    address, host = client.base_url, client.headers["host"]
    uri = f"ws://{host}/v1/realtime?model=default"
    async with connect(uri, host=address.host, port=address.port, origin=f"http://{host}") as plain:  # type: ignore[arg-type]
        with anyio.fail_after(TIMEOUT):
            found: dict[str, object] = json.loads(await plain.recv())
            return found
