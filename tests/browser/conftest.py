"""A real browser on a real server: Debian's chromium with chromedriver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FAKE_ENGINES = tuple(f"{role}.engine=fake" for role in ("vad", "turn_detection", "asr", "llm", "tts"))
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--use-fake-device-for-media-stream",
)
ENTER, ESCAPE, SHIFT, RELEASE = "\ue007", "\ue00c", "\ue008", "\ue000"
"""Key codes of WebDriver (W3C WebDriver, 17.4.2); RELEASE releases all pressed keys."""
GRANTED = "--use-fake-ui-for-media-stream"
"""Grants the microphone without a prompt."""


@pytest.fixture(scope="session", autouse=True)
def _browser_is_here() -> None:
    pytest.importorskip("selenium", reason="needs the Python package selenium")
    if CHROMIUM is None or DRIVER is None:
        missing = [name for name, path in (("chromium", CHROMIUM), ("chromium-driver", DRIVER)) if path is None]
        pytest.skip(f"needs a browser; Debian: apt-get install {' '.join(missing)}")


@dataclass
class RunningServer:
    """A server in a child process."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=30).json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@contextmanager
def serving(folder: Path, *settings: str, until: str = "ready") -> Iterator[RunningServer]:
    """Runs `chatapi serve` until the block ends; yields once the server prints the word `until` and its address."""
    folder.mkdir(exist_ok=True)
    chosen = [
        part for setting in (*FAKE_ENGINES, "server.port=0", f"data={folder}", *settings) for part in ("--set", setting)
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATAPI_")}
    command = [sys.executable, "-m", "chatapi", "serve", *chosen]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        # Kills a server that hangs, so that reading its output ends.
        watch = threading.Timer(300, process.kill)
        watch.start()
        try:
            url = _address(process, until, folder / "log")
            watch.cancel()
            yield RunningServer(url, process)
        finally:
            watch.cancel()
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _address(process: subprocess.Popen[str], until: str, log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"https?://\S+:\d+", line)
        if until in line and found:
            return found[0]
    raise AssertionError(f"the server did not become {until}: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a shared server with fake engines."""
    with serving(tmp_path_factory.mktemp("server") / "data") as running:
        yield running.url


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts servers with other settings."""
    number = iter(range(100))
    yield lambda *settings, **more: serving(tmp_path / f"data{next(number)}", *settings, **more)


def voice_like(seconds: float, rate: int = 48_000) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Syllables of a buzz at 120 Hz: a browser's noise suppression removes a steady tone, but not this."""
    times = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * times) / harmonic for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 4 * times), 0, 1)
    return np.asarray(0.35 * buzz * syllables)


def write_wav(path: Path, samples: np.ndarray[Any, Any], rate: int = 48_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio of the fake microphone, which repeats it."""
    silence = np.zeros(24_000)
    return write_wav(tmp_path_factory.mktemp("sounds") / "spoken.wav", np.concatenate([voice_like(2.0), silence]))


@pytest.fixture
def browse(tmp_path: Path, spoken: Path) -> Iterator[Callable[..., Any]]:
    """Opens browsers; checks their console messages after the test and closes them."""
    from browser.pages import Page

    opened: list[Page] = []

    def browse(url: str, *switches: str, microphone: Path = spoken, ready: bool = True) -> Page:
        profile = tmp_path / f"profile{len(opened)}"
        chosen = (*SWITCHES, f"--user-data-dir={profile}", f"--use-file-for-fake-audio-capture={microphone}", *switches)
        page = Page(str(CHROMIUM), str(DRIVER), chosen)
        opened.append(page)
        page.open(url, ready)
        return page

    try:
        yield browse
        unexpected = [message for page in opened for message in page.unexpected_messages()]
        assert not unexpected
    finally:
        for page in opened:
            page.quit()


@pytest.fixture
def page(browse: Callable[..., Any], server: str) -> Any:
    """The page, with permission for the microphone."""
    return browse(server, GRANTED)
