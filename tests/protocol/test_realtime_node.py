"""`/v1/realtime` with OpenAI's agents SDK for Node; `npm ci --prefix tests/node` installs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chatapi.audio import Audio
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.settings import Settings
from conftest import RunningServer, serving, tone
from paths import NODE

FOLDER = NODE
RATE = 24_000

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(), reason="needs node and tests/node"
)


def run_script(script: str, server: RunningServer, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    """Runs a Node script with the address of the WebSocket and returns its output."""
    return run(script, f"ws://127.0.0.1:{server.port}/v1/realtime?model=gpt-realtime", *arguments, stdin=stdin)


def run(script: str, url: str, *arguments: str, stdin: bytes = b"", **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", FOLDER / script, url, "none", *arguments],
        input=stdin, capture_output=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    assert found["errors"] == []
    return found


def test_agents_sdk_holds_a_conversation(fake_server: RunningServer) -> None:
    silence = np.zeros(int(0.5 * RATE), np.float32)
    microphone = Audio(np.concatenate([silence, tone(0.8, rate=RATE), silence]), RATE).pcm16()
    found = run_script("talk.mjs", fake_server, stdin=microphone)
    assert found["turns"] == 2 and found["bytes"] > 0.3 * RATE * 2
    history = [(role, "".join(filter(None, parts))) for role, parts in found["history"]]
    assert [role for role, _ in history] == ["user", "assistant", "user", "assistant"]
    assert history[0][1].startswith("heard ") and history[3][1].endswith("and now in writing.")


def test_agents_sdk_calls_tools(fake_server: RunningServer) -> None:
    question = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    found = run_script("tools.mjs", fake_server, question)
    assert found["called"] == [{"city": "Rome"}] and found["ended"] == [["weather", "sunny in Rome"]]
    assert ["function_call", "sunny in Rome"] in found["history"]
    assert found["history"][-1] == ["assistant", "You said: <tool_response>\nsunny in Rome\n</tool_response>."]


def test_client_that_insists_on_tls_trusts_the_boxs_own_certificate(fake_settings: Callable[..., Settings]) -> None:
    with serving(fake_settings("server.tls=true")) as server:
        trusted = {"NODE_EXTRA_CA_CERTS": str(CertificateKeeper(server.appliance.settings.data).authority)}
        found = run("secure.mjs", f"https://localhost:{server.port}/v1", **trusted)
        assert (found["answer"], found["type"]) == ("You said: hello.", "transcription")
