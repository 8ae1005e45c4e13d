"""Fixtures and helpers of many tests: audio, a data directory, appliances and servers."""

from __future__ import annotations

import asyncio.constants
import io
import logging
import os
import re
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import av
import httpx
import hypothesis
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.auth.certificate_authority import CertificateKeeper
from chatapi.auth.certificates import Identity
from chatapi.catalog import Catalog, InstalledModel
from chatapi.engines import registry
from chatapi.events import TurnEnded
from chatapi.interfaces.http.app import create_app, run_server, server
from chatapi.interfaces.http.listening import listening_socket
from chatapi.services.turns.completion import Turn
from chatapi.settings import Settings

# The same examples every time, so that chance does not decide whether a change passes; `--hypothesis-profile=random`
# looks for others.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

# With -X dev asyncio keeps a stack for each callback, a fifth of a server's CPU time; one frame is enough.
asyncio.constants.DEBUG_STACK_DEPTH = 1
# With -X dev asyncio logs every step of more than 0.1 s, on a busy machine any step, where tests read their own log.
logging.getLogger("asyncio").addFilter(lambda record: record.msg != "Executing %s took %.3f seconds")

MODELS = Path(os.environ.get("CHATAPI_DATA") or settings.Settings().data)
"""The data directory whose models `run.sh test` fetched."""
DEFAULTS = ("asr.model=whisper-tiny.en-ct2", "llm.model=smollm2-135m-instruct", "tts.model=en_US-joe-medium")
"""Settings that select the models fetched at set-up, whatever else is installed."""
FAKE_ENGINES = tuple(f"{role.name}.engine=fake" for role in registry.SHIPPED)
"""Settings that select the fake engine of every role."""

EXPECTED_SKIPS = re.compile(
    r"no emulation of aarch64|fatbinary|mlc_llm is not installed|FLAC states its form|header of a WebM"
    r"|TTS is not installed"
    r"|this machine has what an image has|no machine can be made here|mlc_llm.* is not here"
)
"""Reasons for which `./run.sh test --all` lets a test be skipped; any other skip fails."""

T = TypeVar("T")
RunAppliance = Callable[..., AbstractAsyncContextManager[Appliance]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Turns an unexpected skip into a failure when all tests have to run."""
    report = yield
    if os.environ.get("CHATAPI_TESTS") == "all" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not EXPECTED_SKIPS.search(reason):
            report.outcome, report.longrepr = "failed", f"skipped although all tests have to run: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_default_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a new directory, with a link to the machine's models, the default data directory, here and in processes
    that tests start: what tests write never gets into the user's."""
    base = tmp_path_factory.mktemp("default")
    own = base / "chatapi"
    own.mkdir()
    (own / "models").symlink_to(MODELS / "models")
    os.environ["XDG_DATA_HOME"] = str(base)
    Settings.model_fields["data"].default = own
    Settings.model_rebuild(force=True)
    return own


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers for every test, whichever ran before it."""
    return np.random.default_rng(7)


def tone(seconds: float, hertz: float = 220.0, rate: int = RATE, level: float = 0.3) -> Samples:
    times = np.arange(int(seconds * rate)) / rate
    wave: Samples = (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
    return wave


def encode_audio(samples: np.ndarray, rate: int, codec: str, container: str = "wav", channels: int = 1) -> bytes:
    """A file with the samples, the same on every channel, encoded by PyAV."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if codec.startswith("wma"):
            stream.bit_rate = 128_000
        interleaved = np.repeat(samples.astype(np.float32), channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = rate
        to_codec = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or 0)
        for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture
def beep() -> Audio:
    """1.5 s that the fake engines accept as speech, between two half seconds of silence."""
    silence = np.zeros(RATE // 2, np.float32)
    return Audio(np.concatenate([silence, tone(1.5), silence]), RATE)


def installed_model(name: str) -> InstalledModel:
    """Returns an installed model; skips the test when the model is not installed."""
    catalog = Catalog(MODELS)
    if not catalog.installed(name):
        pytest.skip(f"the model {name} is not installed: chatapi models fetch {name}")
    return catalog.open(name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A new data directory with a link to the machine's models."""
    folder = tmp_path / "data"
    folder.mkdir()
    if (MODELS / "models").is_dir():
        (folder / "models").symlink_to(MODELS / "models")
    return folder


@pytest.fixture
def fake_settings(data: Path) -> Callable[..., Settings]:
    """Returns settings with fake engines; further settings are given as key=value."""

    def make(*more: str) -> Settings:
        return settings.load([*FAKE_ENGINES, f"data={data}", *more], environ={}).settings

    return make


@pytest.fixture
def fake_appliance(fake_settings: Callable[..., Settings]) -> RunAppliance:
    """Runs an appliance with fake engines; yields it once it is loaded."""

    @asynccontextmanager
    async def run(*more: str) -> AsyncIterator[Appliance]:
        async with Appliance(fake_settings(*more)).running() as appliance:
            await appliance.load()
            yield appliance

    return run


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hides the settings of the environment and of the working directory from the tests."""
    for name in os.environ:
        if name.startswith(settings.ENVIRONMENT):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield


TIMEOUT = 60
"""Seconds after which a wait fails the test; long, for busy machines."""


async def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Waits until another thread or task has made the condition true."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


async def answer(appliance: Appliance, turn: Turn) -> TurnEnded:
    """Runs a turn and returns its last event."""
    async with appliance.completions.run(turn) as events:
        last = [event async for event in events][-1]
    assert isinstance(last, TurnEnded)
    return last


@dataclass
class RunningServer:
    """An appliance and its HTTP server, which run in a thread of their own."""

    url: str
    port: int
    appliance: Appliance

    client: httpx.Client
    portal: BlockingPortal

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Runs a coroutine function in the server's event loop."""
        return self.portal.call(function)


async def _serve(
    settings: Settings,
    load: bool,
    root: Path,
    found: list[RunningServer],
    started: threading.Event,
    stop: threading.Event,
) -> None:
    """Runs a server until `stop`; appends it to `found` before `started` is set."""
    with listening_socket(settings.server.host, 0) as listening:
        async with Appliance(settings, root).running() as appliance, anyio.create_task_group() as group:
            identity = Identity(settings.data, None, None, settings.server.hosts) if settings.server.tls else None
            web = server(create_app(appliance), identity.context if identity else None)
            group.start_soon(run_server, web, listening, settings)
            if load:
                await appliance.load()
            port = listening.getsockname()[1]
            url = f"{'https' if identity else 'http'}://127.0.0.1:{port}"
            trusted = (
                ssl.create_default_context(cafile=CertificateKeeper(settings.data).authority) if identity else False
            )
            client = httpx.Client(base_url=url, timeout=60, verify=trusted)
            async with BlockingPortal() as portal:
                found.append(RunningServer(url, port, appliance, client, portal))
                started.set()
                await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)
                web.should_exit = True


@contextmanager
def serving(settings: Settings, load: bool = True, root: Path = Path("/")) -> Iterator[RunningServer]:
    """Runs a server on a free port until the block ends; `root` replaces the machine's file system root."""
    started, stop = threading.Event(), threading.Event()
    found: list[RunningServer] = []
    failed: list[BaseException] = []

    def threaded() -> None:
        try:
            anyio.run(_serve, settings, load, root, found, started, stop)
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=threaded)
    thread.start()
    started.wait(TIMEOUT)
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        for running in found:
            running.client.close()
        stop.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the server did not stop"
    if failed:
        raise failed[0]


@pytest.fixture
def fake_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    """A server with fake engines."""
    with serving(fake_settings()) as running:
        yield running


@pytest.fixture
def slow_server(fake_settings: Callable[..., Settings]) -> Iterator[RunningServer]:
    """A server whose fake language model takes 50 ms per word."""
    with serving(fake_settings()) as running:
        running.appliance.engines.llm.engine.delay = 0.05  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with fake engines, shared by all tests of a file."""
    data = tmp_path_factory.mktemp("data")
    with serving(settings.load([*FAKE_ENGINES, f"data={data}"], environ={}).settings) as running:
        yield running


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with real models, shared by all tests of a file."""
    data = tmp_path_factory.mktemp("data")
    (data / "models").symlink_to(MODELS / "models")
    with serving(settings.load([*DEFAULTS, f"data={data}"], environ={}).settings) as running:
        yield running
