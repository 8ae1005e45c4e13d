"""`/v1/chat/completions` with OpenAI's client for Node; `npm ci --prefix tests/node` installs it."""

from __future__ import annotations

import json
import shutil

import anyio
import pytest

from chatapi.settings.roles import TEXT_SYSTEM
from conftest import RunningServer, until
from paths import NODE

FOLDER = NODE


@pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").is_dir(),
    reason="needs node and tests/node",
)
@pytest.mark.anyio
async def test_node_client_creates_chat_completions(fake_server: RunningServer) -> None:
    with anyio.fail_after(60):
        ran = await anyio.run_process(["node", str(FOLDER / "chat.mjs"), f"{fake_server.url}/v1", "none"], check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert found["whole"] == ["You said: from Node.", "stop", 6 + len(TEXT_SYSTEM.split())]
    assert (found["deltas"], found["usage"]) == (["You", " said:", " from", " Node."], 4)
    assert found["transcript"] == found["helped"] == "You said: from Node."
    assert abs(found["bytes"] - 4 * 0.06 * 24_000 * 2) < 100
    assert found["called"] == "from Node"
    assert found["formed"] == {"name": "from Node"}
    assert found["response"] == ["You said: from Node.", "completed"]
    assert found["events"][0] == "response.created" and found["events"][-1] == "response.completed"
    assert (found["streamed"], found["function"]) == ("You said: from Node.", ["name_place", {"name": "from Node"}])
    assert found["refused"] == ["BadRequestError", 400, "unknown_parameter", "max_token"]
    await until(lambda: fake_server.appliance.admission.used == 0)
