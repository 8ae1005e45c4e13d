"""A server whose prompts have no system prompt, and OpenAI's official client of it: fixtures to import by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from chatapi import settings
from conftest import FAKE_ENGINES, RunningServer, serving

NO_SYSTEM = ("llm.system_prompt=", "llm.text_system_prompt=")
"""Settings without system prompts, so that a prompt has the tokens of the request alone."""


@pytest.fixture(scope="module")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests of a file without side effects."""
    data = tmp_path_factory.mktemp("data")
    with serving(settings.load([*FAKE_ENGINES, *NO_SYSTEM, f"data={data}"], environ={}).settings) as running:
        yield running


@pytest.fixture
def client(chat_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{chat_server.url}/v1", api_key="none", max_retries=0, timeout=20) as found:
        yield found
