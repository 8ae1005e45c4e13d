"""`dlserver server.ini`: what the file may have, and a server that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatapi.cli import dlserver
from chatapi.errors import SettingsError
from conftest import FAKE_ENGINES, TIMEOUT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[server]\nendpoint = 0.0.0.0:55221\n[paths]\ndata = /var/lib/dlserver\n",
         ["grpc.host=0.0.0.0", "grpc.port=55221", "data=/var/lib/dlserver"]),
        ("# comment\n[a]\naddress=[::1]:7\n", ["grpc.host=::1", "grpc.port=7"]),
        ("host = 127.0.0.1\nport = 55222\n", ["grpc.host=127.0.0.1", "grpc.port=55222"]),
        ("listen=grpc://:55221/\n", ["grpc.host=0.0.0.0", "grpc.port=55221"]),
        ("", []),
    ],
)  # fmt: skip
def test_addresses_and_paths_become_settings(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "server.ini").write_text(text)
    assert dlserver.settings_of(tmp_path / "server.ini") == ["grpc.enabled=true", *found]


@pytest.mark.parametrize("text", ["[a]\nworkers = 4\n", "[a]\nendpoint = here\n", "[a\n", "[a]\nport=1\nport=2\n"])
def test_what_cannot_be_honoured_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.ini").write_text(text)
    with pytest.raises(SettingsError) as raised:
        dlserver.settings_of(tmp_path / "server.ini")
    assert "server.ini" in raised.value.message


@pytest.mark.slow
def test_a_server_starts_with_its_file(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    file = tmp_path / "server.ini"
    file.write_text(f"[server]\nendpoint = 127.0.0.1:0\n[paths]\ndata = {tmp_path}\n")
    (tmp_path / "chatapi.toml").write_text(
        "".join(f'{name}.engine = "fake"\n' for name in (each.partition(".")[0] for each in FAKE_ENGINES))
        + "server.port = 0\nwyoming.enabled = false\n"
    )
    command = [sys.executable, "-c", "from chatapi.cli.dlserver import main; main()", str(file)]
    environment = {"CHATAPI_CONFIG": str(tmp_path / "chatapi.toml"), **_environment()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        assert run.stdout is not None
        lines, begun = [], time.monotonic()
        while time.monotonic() - begun < TIMEOUT and "ready after" not in (line := run.stdout.readline()):
            lines.append(line)
            assert line, "".join(lines)
        run.terminate()
        run.communicate(timeout=TIMEOUT)
    assert (tmp_path / "server.ini").exists() and any("grpc" in each.lower() for each in [*lines, line]), lines


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATAPI_")}
