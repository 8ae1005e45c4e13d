"""A call over WebRTC by OpenAI's agents SDK in a real browser, with its default transport and a client secret."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from browser.conftest import GRANTED
from paths import NODE

BUNDLE = NODE / "node_modules/@openai/agents-realtime/dist/bundle/openai-realtime-agents.umd.js"
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>call</title>
<script src="sdk.js"></script>
<script>
  const { RealtimeAgent, RealtimeSession } = OpenAIAgentsRealtime;
  window.found = { events: [], errors: [], loudest: 0 };
  window.call = async (url, key) => {
    const agent = new RealtimeAgent({ name: 'box', instructions: 'Be brief.' });
    const session = new RealtimeSession(agent, { model: 'gpt-realtime' });
    session.on('error', (error) => found.errors.push(String(error.error?.message ?? JSON.stringify(error))));
    session.transport.on('*', (event) => found.events.push(event.type));
    session.on('history_updated', (history) => {
      found.history = history.map((item) => [item.role, item.content?.[0]?.transcript ?? item.content?.[0]?.text]);
    });
    await session.connect({ apiKey: key, url });
    window.session = session;
    const peer = session.transport.connectionState.peerConnection;
    window.heard = async () => {
      const reports = [...(await peer.getStats()).values()];
      return reports.find((report) => report.type === 'inbound-rtp')?.totalAudioEnergy ?? 0;
    };
  };
</script>"""

pytestmark = pytest.mark.skipif(not BUNDLE.is_file(), reason="needs tests/node: npm ci --prefix tests/node")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web site elsewhere whose page has the SDK."""
    (tmp_path / "sdk.js").write_bytes(BUNDLE.read_bytes())
    (tmp_path / "index.html").write_text(PAGE)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_agents_sdk_calls_from_a_browser(serve: Callable[..., Any], browse: Callable[..., Any], site: str) -> None:
    with serve(f"server.cors_origins={site}", "server.api_key=owner's key") as server:
        made = httpx.post(f"{server.url}/v1/realtime/client_secrets", json={}, headers={"X-Api-Key": "owner's key"})
        page = browse(site, GRANTED, ready=False)
        page.allow_messages("")
        page.devtools("Runtime.enable")
        page.driver.set_script_timeout(60)
        failed = page.driver.execute_async_script(
            "const done = arguments[2]; call(arguments[0], arguments[1]).then(() => done(''), (e) => done(String(e)));",
            f"{server.url}/v1/realtime/calls",
            made.json()["value"],
        )
        assert failed == "", page.driver.get_log("browser")
        # The microphone repeats a recording of speech: the box hears it, answers, and the answer sounds.
        page.wait(lambda: "output_audio_buffer.started" in page.run("return found.events"), "no spoken answer")
        page.wait(lambda: page.run("return heard()") > 0, "no sound")
        found = page.run("return found")
        assert found["errors"] == [] and "response.output_audio.delta" not in found["events"]
        assert {"session.updated", "input_audio_buffer.speech_started", "response.done"} <= set(found["events"])
        page.run("session.sendMessage('and now in writing')")
        page.wait(
            lambda: any("in writing." in (text or "") for role, text in page.run("return found.history ?? []")
                        if role == "assistant"),
            "no answer to a written message",
        )  # fmt: skip
        health = httpx.get(f"{server.url}/health", headers={"X-Api-Key": "owner's key"}).json()
        assert health["status"] == "ok"
        page.run("session.close()")
