"""Requests that the end of the server interrupts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from chatapi.settings import Settings
from conftest import TIMEOUT, serving


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/completion", "/v1/chat/completions"])
def test_interrupted_request_gets_an_error_that_says_so(fake_settings: Callable[..., Settings], route: str) -> None:
    body = {"prompt": "hello"} if route == "/completion" else {"messages": [{"role": "user", "content": "hello"}]}
    found: list[httpx.Response] = []

    def ask(url: str) -> None:
        found.append(httpx.post(url + route, json=body, timeout=TIMEOUT))

    with serving(fake_settings("fake.fault=hang")) as server:
        thread = threading.Thread(target=ask, args=(server.url,))
        thread.start()
        deadline = time.monotonic() + TIMEOUT
        while not server.client.get("/health").json()["turns"]["active"]:
            assert time.monotonic() < deadline
    thread.join(TIMEOUT)
    [reply] = found
    error = reply.json().get("error", reply.json())
    assert (reply.status_code, error["code"], reply.headers["retry-after"]) == (503, "shutting_down", "1")
