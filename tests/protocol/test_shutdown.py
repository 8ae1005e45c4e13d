"""Requests, streams and sessions that a shutdown interrupts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
import websockets.exceptions
import websockets.sync.client
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe
from wyoming.tts import Synthesize

from chatapi.settings import Settings
from conftest import TIMEOUT, RunAppliance, RunningServer, serving
from wyoming_peer import open_to_wyoming, until

MakeSettings = Callable[..., Settings]
MESSAGES = [{"role": "user", "content": "hello"}]


def until_active(server: RunningServer, turns: int = 1) -> None:
    deadline = time.monotonic() + TIMEOUT
    while server.client.get("/health").json()["turns"]["active"] < turns:
        assert time.monotonic() < deadline


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/completion", "/v1/chat/completions"])
def test_interrupted_request_gets_an_error_that_says_so(fake_settings: MakeSettings, route: str) -> None:
    body = {"prompt": "hello"} if route == "/completion" else {"messages": MESSAGES}
    found: list[httpx.Response] = []

    def ask(url: str) -> None:
        found.append(httpx.post(url + route, json=body, timeout=TIMEOUT))

    with serving(fake_settings("fake.fault=hang")) as server:
        thread = threading.Thread(target=ask, args=(server.url,))
        thread.start()
        until_active(server)
    thread.join(TIMEOUT)
    [reply] = found
    error = reply.json().get("error", reply.json())
    assert (reply.status_code, error["code"], reply.headers["retry-after"]) == (503, "shutting_down", "1")


STREAMS: dict[str, tuple[dict[str, Any], Callable[[list[str]], Any]]] = {
    "/completion": ({"prompt": "hello"}, lambda data: json.loads(data[-1])["code"]),
    "/v1/chat/completions": ({"messages": MESSAGES}, lambda data: json.loads(data[-1])["error"]["code"]),
    "/v1/completions": ({"prompt": "hello"}, lambda data: json.loads(data[-1])["error"]["code"]),
    # The codes of this route are OpenAI's.
    "/v1/responses": ({"input": "hello"}, lambda data: json.loads(data[-1])["response"]["error"]["message"]),
}
"""Route of a stream -> its body, and the error of its last event."""


@pytest.mark.slow
def test_streams_end_with_an_event_that_says_so(fake_settings: MakeSettings) -> None:
    found: dict[str, Any] = {}

    def ask(url: str, route: str) -> None:
        with httpx.stream("POST", url + route, json={**STREAMS[route][0], "stream": True}, timeout=TIMEOUT) as reply:
            lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
        found[route] = STREAMS[route][1](lines)

    with serving(fake_settings("fake.fault=hang", "llama_cpp.slots=4")) as server:
        threads = [threading.Thread(target=ask, args=(server.url, route)) for route in STREAMS]
        for thread in threads:
            thread.start()
        until_active(server, len(STREAMS))
        server.client.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert "chatapi is shutting down" in found.pop("/v1/responses")
    assert found == {route: "shutting_down" for route in STREAMS if route != "/v1/responses"}


@pytest.mark.slow
def test_stream_that_ends_in_time_is_whole(fake_settings: MakeSettings) -> None:
    found = []

    def ask(url: str) -> None:
        body = {"messages": [{"role": "user", "content": "one two three four five"}], "stream": True}
        with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=TIMEOUT) as reply:
            found.extend(reply.iter_lines())

    with serving(fake_settings("fake.delay=0.2")) as server:
        thread = threading.Thread(target=ask, args=(server.url,))
        thread.start()
        until_active(server)
    thread.join(TIMEOUT)
    assert [line for line in found if line][-1] == "data: [DONE]"


@pytest.mark.slow
def test_realtime_session_gets_an_error_before_it_is_closed(fake_settings: MakeSettings) -> None:
    with serving(fake_settings()) as server:
        client = websockets.sync.client.connect(server.url.replace("http", "ws") + "/v1/realtime")
        assert json.loads(client.recv())["type"] == "session.created"
    events = []
    with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
        while True:
            events.append(json.loads(client.recv(timeout=TIMEOUT)))
    assert (events[-1]["type"], events[-1]["error"]["code"]) == ("error", "shutting_down")
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012


@pytest.mark.slow
@pytest.mark.anyio
async def test_wyoming_clients_that_wait_for_an_answer_get_an_error(fake_appliance: RunAppliance) -> None:
    async with (
        fake_appliance() as appliance,
        open_to_wyoming(appliance) as (server, port),
        AsyncTcpClient("127.0.0.1", port) as idle,
        AsyncTcpClient("127.0.0.1", port) as waiting,
    ):
        appliance.engines.tts.engine.delay = TIMEOUT  # type: ignore[attr-defined]
        await idle.write_event(Describe().event())
        assert [event.type for event in await until(idle, "info")] == ["info"]
        await waiting.write_event(Synthesize("hello").event())
        while not appliance.engines.tts.admission.used:
            await anyio.sleep(0.01)
        with appliance.drain.running():
            assert await until(idle, "error") == []
        [*_, last] = await until(waiting, "error")
        assert (last.type, last.data["code"]) == ("error", "shutting_down")
        await waiting.disconnect()
        with anyio.fail_after(TIMEOUT):
            await appliance.drain.until_closed()
        assert server.health["connections"] == 0
