"""What many tests need: sounds, a data directory with the real models, an appliance without any."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.settings import Settings

MODELS = Path(os.environ.get("CHATAPI_DATA") or settings.Settings().data)
"""Where `run.sh test` put the models."""
ECHO = ("vad.engine=echo", "asr.engine=echo", "llm.engine=echo", "tts.engine=echo")

Running = Callable[..., AbstractAsyncContextManager[Appliance]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def tone(seconds: float, hertz: float = 220.0, rate: int = RATE, level: float = 0.3) -> Samples:
    times = np.arange(int(seconds * rate)) / rate
    wave: Samples = (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
    return wave


@pytest.fixture
def beep() -> Audio:
    """1.5 s that the echo engines take for speech, in half a second of silence on both sides."""
    silence = np.zeros(RATE // 2, np.float32)
    return Audio(np.concatenate([silence, tone(1.5), silence]), RATE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of its own, with the machine's models in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    if (MODELS / "models").is_dir():
        (folder / "models").symlink_to(MODELS / "models")
    return folder


@pytest.fixture
def echo_settings(data: Path) -> Callable[..., Settings]:
    """Settings with engines that need no model; more are given as key=value."""

    def make(*more: str) -> Settings:
        return settings.load([*ECHO, f"data={data}", *more], environ={}).settings

    return make


@pytest.fixture
def echo(echo_settings: Callable[..., Settings]) -> Running:
    """An appliance of echo engines, running and loaded."""

    @asynccontextmanager
    async def run(*more: str) -> AsyncIterator[Appliance]:
        async with Appliance(echo_settings(*more)).running() as appliance:
            await appliance.load()
            yield appliance

    return run


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the environment nor a file nearby may change what a test sees."""
    for name in os.environ:
        if name.startswith(settings.ENVIRONMENT):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something that another thread or task does."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)
