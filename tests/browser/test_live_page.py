"""A live conversation on the page, in a real browser against a real server with engines that need no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from browser.conftest import ESCAPE, GRANTED, voice_like, write_wav
from browser.test_faults import fault

Browse = Callable[..., Any]
Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone hears, again and again: an utterance, then a silence that ends it."""
    file = tmp_path_factory.mktemp("turns") / "turns.wav"
    return write_wav(file, np.concatenate([np.zeros(24_000), voice_like(1.2), np.zeros(4 * 48_000)]))


@pytest.fixture
def live(browse: Browse, server: str, turns: Path) -> Any:
    """The page, in a live conversation."""
    page = browse(server, GRANTED, hears=turns)
    talk(page)
    return page


def talk(page: Any) -> None:
    page.press("#talk")
    state(page, "listening", "hearing")


def state(page: Any, *names: str) -> None:
    """Wait until one of these is what the dock shows."""
    page.wait(lambda: page.one("#live").get_attribute("data-state") in names, f"never {names}")


def conversation(page: Any) -> str:
    return str(page.run("return localStorage.getItem('chatapi.conversation') || ''"))


def asked(server: str, page: Any) -> list[str]:
    messages = httpx.get(f"{server}/conversations/{conversation(page)}").json()["messages"]
    return [message["text"] for message in messages if message["role"] == "user"]


def test_what_is_said_is_shown_answered_and_heard(live: Any) -> None:
    answer = live.answered()
    assert live.text(".question:not(.partial) .text").startswith("heard ")
    assert answer.find_element("css selector", ".text").text.startswith("You said: heard ")
    assert float(answer.get_attribute("data-seconds")) > 0.2
    gist = answer.find_element("css selector", ".gist").text
    assert "First sound" in gist and "to hear" in gist
    assert "sound after" in live.run("return document.querySelector('.timeline .notes').textContent")
