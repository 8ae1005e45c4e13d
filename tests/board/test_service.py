"""Notifications to the service manager, the health command, the support archive, and the systemd units."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatapi import settings
from chatapi.cli.health import health
from chatapi.cli.watchdog import Watchdog
from chatapi.engines.fake import FakeTranscriber
from chatapi.errors import EngineFailed, NotReady
from chatapi.services.turns.completion import Turn
from chatapi.settings import Settings
from chatapi.system.systemd_notify import ServiceManager
from conftest import FAKE_ENGINES, TIMEOUT, RunAppliance, answer, serving
from paths import ROOT

UNITS = ROOT / "systemd"


class Listener:
    """The service manager's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(TIMEOUT)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def until(self, name: str) -> list[dict[str, str]]:
        """All messages up to the first with this name."""
        found = [self.next()]
        while name not in found[-1]:
            found.append(self.next())
        return found

    def no_watchdog_for(self, seconds: float) -> bool:
        """Whether no watchdog message arrives in this time, except those sent before."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(4096):
                pass
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            self.socket.settimeout(remaining)
            with contextlib.suppress(TimeoutError):
                if b"WATCHDOG=1" in self.socket.recv(4096):
                    return False
        return True

    def silent_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serve_as_a_service(tmp_path: Path, watchdog: float, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    options = [f"--set={pair}" for pair in (*FAKE_ENGINES, f"data={tmp_path}", f"server.port={port}", *more)]
    environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(watchdog * 1e6))}
    command = [sys.executable, "-m", "chatapi", "serve", *options]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process, port
        finally:
            process.kill()


def test_serve_notifies_loading_ready_watchdog_and_stopping(tmp_path: Path, listener: Listener) -> None:
    with serve_as_a_service(tmp_path, 1, "fake.delay=0.02") as (process, port):
        before = listener.until("READY")
        assert any("loading" in message["STATUS"] and "llm" in message["STATUS"] for message in before[:-1])
        assert all("WATCHDOG" not in message for message in before)
        with socket.create_connection(("127.0.0.1", port)):
            pass
        listener.until("WATCHDOG")
        process.send_signal(signal.SIGTERM)
        listener.until("STOPPING")
        assert process.wait(TIMEOUT) == 0


def test_blocked_event_loop_is_silent_and_its_abort_prints_the_stack(tmp_path: Path, listener: Listener) -> None:
    with serve_as_a_service(tmp_path, 1) as (process, _):
        listener.until("WATCHDOG")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        assert listener.no_watchdog_for(2)
        process.send_signal(signal.SIGABRT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(TIMEOUT) == -signal.SIGABRT
        assert process.stderr is not None
        assert "Fatal Python error: Aborted" in (stderr := process.stderr.read()) and "in _work" in stderr


@pytest.mark.parametrize("name", ["@chatapi-test-%d", "{}/socket"])
def test_notification_arrives_by_path_and_by_abstract_name(name: str, tmp_path: Path) -> None:
    address = name % os.getpid() if "%" in name else name.format(tmp_path)
    made = Listener("\0" + address[1:] if address.startswith("@") else address)
    ServiceManager(address).more_time(90, "fetching\nmodels")
    assert made.next() == {"EXTEND_TIMEOUT_USEC": "90000000", "STATUS": "fetching models"}
    ServiceManager(address).status("two\nlines")
    assert made.next() == {"STATUS": "two lines"}
    made.socket.close()


def test_missing_or_stalled_service_manager_blocks_nothing(
    tmp_path: Path, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager(str(tmp_path / "missing")).alive()
    assert "cannot be notified" in caplog.text
    manager = ServiceManager(str(tmp_path / "notify"))
    since = time.monotonic()
    for _ in range(1000):
        manager.alive()
    assert time.monotonic() - since < 30


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_watchdog_interval_applies_only_to_the_named_process(environ: dict[str, str], seconds: float) -> None:
    assert ServiceManager.of(environ).watchdog == seconds


@pytest.mark.anyio
async def test_idle_engines_are_probed_and_busy_engines_are_not(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[int] = []
    original = FakeTranscriber.transcribe
    monkeypatch.setattr(
        FakeTranscriber,
        "transcribe",
        lambda self, samples, *rest, **more: probes.append(len(samples)) or original(self, samples, *rest, **more),
    )
    async with fake_appliance() as appliance:
        watchdog = Watchdog(appliance, ServiceManager())
        loaded = len(probes)
        assert await watchdog.problems() == []
        assert await watchdog.problems() == [] and len(probes) == loaded + 1
        given = appliance.engines.llm.items_produced
        await answer(appliance, Turn(prompt="good morning"))
        used = appliance.engines.llm.items_produced
        assert used > given
        assert await watchdog.problems() == [] and appliance.engines.llm.items_produced == used


@pytest.mark.anyio
async def test_stuck_engine_is_reported_and_fails_after_too_many_rebuilds(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    hanging = threading.Event()
    original = FakeTranscriber.transcribe

    def transcribe(self: FakeTranscriber, *rest: Any, **more: Any) -> Any:
        if hanging.is_set():
            stuck.wait(TIMEOUT)
        return original(self, *rest, **more)

    monkeypatch.setattr(FakeTranscriber, "transcribe", transcribe)
    async with fake_appliance("limits.step_seconds=0.5") as appliance:
        watchdog = Watchdog(appliance, ServiceManager())
        assert await watchdog.problems() == []
        hanging.set()
        assert ["made no progress for 0.5 seconds" in fault for fault in await watchdog.problems()] == [True]
        hanging.clear()
        await anyio.sleep(0.05)
        assert await watchdog.problems() == [], "a rebuilt engine works again"
        hanging.set()
        with anyio.fail_after(TIMEOUT):
            while appliance.engines.asr.state != "failed":
                await watchdog.problems()
        hanging.clear()
        assert await watchdog.problems() == ["the asr engine is failed"]
        stuck.set()


@pytest.mark.anyio
async def test_failed_engine_stops_the_watchdog_notifications(
    fake_appliance: RunAppliance, tmp_path: Path, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        fake_appliance("limits.step_seconds=0.5", "fake.fault=hang") as appliance,
        anyio.create_task_group() as group,
    ):
        group.start_soon(Watchdog(appliance, ServiceManager(str(tmp_path / "notify"), watchdog=0.4)).run)
        await anyio.to_thread.run_sync(listener.until, "WATCHDOG")
        while appliance.engines.llm.state != "failed":
            with pytest.raises((EngineFailed, NotReady)):
                await answer(appliance, Turn(prompt="good morning"))
        await anyio.sleep(0.3)
        silent = await anyio.to_thread.run_sync(listener.no_watchdog_for, 1.0)
        group.cancel_scope.cancel()
    assert silent and "watchdog not fed: the llm engine is failed" in caplog.text


def test_download_extends_the_start_timeout(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatapi import catalog
    from chatapi.cli.models import _StartReporter

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    starting = _StartReporter()
    for done in (10, 11, 12):
        starting.report(catalog.FetchProgress("smollm2", "fetching", done=done, total=20))
    assert listener.next() == {"EXTEND_TIMEOUT_USEC": "120000000", "STATUS": "smollm2: fetching 50%"}
    assert listener.silent_for(0.1), "once a second is enough"


def at_port(made: Settings, port: int) -> Settings:
    return made.model_copy(update={"server": made.server.model_copy(update={"port": port})})


@pytest.mark.parametrize("more", [(), ("server.api_key=secret",), ("server.tls=true", "server.api_key=secret")])
def test_health_command_follows_readiness(
    more: tuple[str, ...], fake_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    made = fake_settings(*more)
    with serving(made, load=False) as server:
        client_settings = at_port(made, server.port)
        assert health(client_settings) == 1
        assert "still loading" in capsys.readouterr().err
        threading.Timer(0.7, lambda: server.run(server.appliance.load)).start()
        assert health(client_settings, wait=TIMEOUT) == 0
        if made.server.api_key is not None:
            keyless = client_settings.model_copy(
                update={"server": client_settings.server.model_copy(update={"api_key": None})}
            )
            assert health(keyless) == 1
            assert "rejects the key" in capsys.readouterr().err


def test_health_of_a_missing_server_is_one_sentence(
    fake_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    since = time.monotonic()
    assert health(at_port(fake_settings(), free_port()), wait=0.6) == 1
    assert 0.3 < time.monotonic() - since < 30
    stderr = capsys.readouterr().err
    assert "nothing answers at http://127.0.0.1:" in stderr and stderr.count("\n") == 1


def support_archive(*arguments: str, tmp_path: Path) -> dict[str, str]:
    target = tmp_path / "fault.tar.gz"
    command = [sys.executable, "-m", "chatapi", "support", "-o", str(target), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert target.stat().st_mode & 0o77 == 0
    with tarfile.open(target) as archive:
        return {member.name: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]


def test_support_archive_has_diagnostics_but_no_content_or_secrets(
    tmp_path: Path, fake_settings: Callable[..., Settings]
) -> None:
    logs = tmp_path / "host"
    logs.mkdir()
    (logs / "log.txt").write_text(
        "started with key hunter22\nHF_TOKEN=abcdef\nchatapi_0badf00d_pqrstu\nready\n"
        "GET /?token=ghijkl proxied by http://ada:mno/pqr@proxy\n-----BEGIN PRIVATE KEY-----\nc3R1dnd4\n"
    )
    (logs / "gone.txt").symlink_to(logs / "nowhere")
    (logs / "long.txt").write_text("sk-" + "lonely1" * (700 << 10) + "\nlast line\n")
    made = fake_settings("server.api_key=hunter22")
    with serving(made) as server:
        server.client.post(
            "/completion", json={"prompt": "my heart aches"}, headers={"Authorization": "Bearer hunter22"}
        ).raise_for_status()
        options = [
            *(f"--set={pair}" for pair in FAKE_ENGINES),
            f"--set=data={made.data}",
            f"--set=server.port={server.port}",
        ]
        files = support_archive(*options, "--set=server.api_key=hunter22", f"--include={logs}", tmp_path=tmp_path)
    texts = {name.removeprefix("fault/"): text for name, text in files.items()}
    assert json.loads(texts["health.json"])["status"] == "ok"
    assert json.loads(texts["versions.json"])["packages"]["anyio"]
    assert json.loads(texts["settings.json"])["server.api_key"]["value"] == "(set)"
    assert json.loads(texts["check.json"])["findings"]
    assert "chatapi_turns_total" in texts["metrics.txt"] and "ready" in texts["log.txt"]
    everything = "".join(files.values())
    assert not any(word in everything for word in ("hunter22", "abcdef", "pqrstu", "my heart aches", "lonely1"))
    assert not any(word in everything for word in ("ghijkl", "mno/pqr", "c3R1dnd4"))
    assert "last line" in texts["long.txt"] and "PATH" in json.loads(texts["environment.json"])


def test_support_archive_without_a_server_omits_logs_with_content(tmp_path: Path) -> None:
    logs = tmp_path / "host"
    logs.mkdir()
    (logs / "log.txt").write_text("heard: good morning\n")
    options = ["--set=log.content=true", f"--set=server.port={free_port()}", f"--set=data={tmp_path / 'data'}"]
    files = support_archive(*options, f"--include={logs}", tmp_path=tmp_path)
    assert "not available" in files["fault/health.json"]
    assert "good morning" not in files["fault/log.txt"] and "left out" in files["fault/log.txt"]


def test_relay_forwards_allowed_notifications_and_the_exit_status(tmp_path: Path, listener: Listener) -> None:
    messages = "MAINPID=1\nREADY=1\nSTATUS=ready"
    inside = (
        "import os, signal, socket, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:\n"
        f"    out.sendto({messages!r}.encode(), os.environ['NOTIFY_SOCKET'])\n"
        "signal.pause()\n"
    )
    (tmp_path / "run").mkdir()
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    command = [sys.executable, str(UNITS / "notify_relay.py"), sys.executable, "-c", inside]
    with subprocess.Popen(command, env=environ) as process:
        assert listener.next() == {"READY": "1", "STATUS": "ready"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 7


def install_unit(tmp_path: Path, *dropins: str) -> Path:
    """Installs the unit with programs that exist, so that only faults of the unit itself are reported."""
    for name in ("chatapi.service", *dropins):
        text = re.sub(r"=(-?)/(?:opt|usr/bin)/\S+", rf"=\1{shutil.which('true')}", (UNITS / name).read_text())
        target = tmp_path / name if name.endswith(".service") else tmp_path / "chatapi.service.d" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    return tmp_path / "chatapi.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize("dropins", [(), ("container.conf",)])
def test_unit_passes_systemd_analyze(dropins: tuple[str, ...], tmp_path: Path) -> None:
    environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    unit = install_unit(tmp_path, *dropins)
    done = subprocess.run(["systemd-analyze", "verify", unit], env=environ, capture_output=True, text=True, check=False)
    # It exits with 0 whatever it finds in a value.
    assert (done.returncode, done.stderr) == (0, "")
    # The unit of the threshold is a tenth.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_unit_has_the_required_settings() -> None:
    text = (UNITS / "chatapi.service").read_text()
    for line in ("Type=notify", "Restart=always", "StartLimitIntervalSec=0", "LimitNICE=-10", "User=chatapi"):
        assert line in text.splitlines()
    assert "Requires=" not in text and "network-online" not in text


def test_settings_of_the_unit_environment_are_known() -> None:
    text = (UNITS / "environment").read_text()
    lines = [line.lstrip("# ") for line in text.splitlines() if re.match(r"#?\s*CHATAPI_", line)]
    assert lines
    settings.load([], environ=dict(line.split("=", 1) for line in lines))
