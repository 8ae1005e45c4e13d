"""`/v1/realtime` with OpenAI's agents SDK for Node, unmodified: `npm ci --prefix tests/node` installs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Served, tone

from chatapi.audio import Audio

FOLDER = Path(__file__).with_name("node")
RATE = 24_000


@pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(), reason="needs node and tests/node"
)
def test_the_agents_sdk_talks_with_the_box(served: Served) -> None:
    silence = np.zeros(int(0.5 * RATE), np.float32)
    microphone = Audio(np.concatenate([silence, tone(0.8, rate=RATE), silence]), RATE).pcm16()
    ran = subprocess.run(
        ["node", FOLDER / "talk.mjs", f"ws://127.0.0.1:{served.port}/v1/realtime?model=gpt-realtime", "none"],
        input=microphone, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout.decode().splitlines()[-1])
    assert found["errors"] == []
    assert found["turns"] == 2 and found["bytes"] > 0.3 * RATE * 2
    said = [(role, "".join(filter(None, parts))) for role, parts in found["history"]]
    assert [role for role, _ in said] == ["user", "assistant", "user", "assistant"]
    assert said[0][1].startswith("heard ") and said[3][1].endswith("and now in writing.")
