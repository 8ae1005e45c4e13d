"""The real systemd unit on a booted machine: restarts after kills and power cuts, updates and rollbacks."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from board.machine import CommandError, Machine, machine, missing, until
from conftest import MODELS

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SHORT_TIMES = "[Service]\nRestartSec=200ms\nWatchdogSec=3\nTimeoutAbortSec=1\n"
"""A drop-in with short delays and timeouts."""
SIZE = 4 << 20


class InstalledServer:
    """The installed service on its machine, and a client of it."""

    def __init__(self, machine: Machine, port: int) -> None:
        self.machine = machine
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        self.port = port

    def set(self, **more: str) -> None:
        """Writes its settings; they apply at the next start."""
        roles = ("vad", "wake_word", "turn_detection", "asr", "llm", "tts", "speaker", "command")
        given = {**{f"{role}_engine": "fake" for role in roles}, "server_port": str(self.port), **more}
        lines = [f"CHATAPI_{name.upper()}={value}" for name, value in given.items()]
        self.machine.write("/etc/chatapi/environment", "\n".join(lines) + "\n", 0o640)

    def restart(self, **more: str) -> None:
        self.set(**more)
        self.machine.run("systemctl", "restart", "chatapi")

    @property
    def pid(self) -> int:
        return int(self.machine.unit_property("MainPID"))

    def ready(self) -> bool:
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, prompt: str, **more: str) -> dict[str, str]:
        answer: dict[str, str] = (
            self.client.post("/completion", json={"prompt": prompt, **more}).raise_for_status().json()
        )
        return answer

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.machine.run("kill", f"-{number}", str(self.pid))


@pytest.fixture(scope="module")
def server() -> Iterator[InstalledServer]:
    """A server that is installed by `run.sh install`, and ready."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    try:
        with machine(MODELS / "models") as booted:
            server = InstalledServer(booted, port)
            server.set()
            booted.write("/etc/systemd/system/chatapi.service.d/faster.conf", SHORT_TIMES)
            models = booted.root / "var/lib/chatapi/models"
            models.mkdir(parents=True)
            for model in (MODELS / "models").glob("[!.]*"):
                (models / model.name).symlink_to(f"/opt/models/{model.name}")
            booted.boot()
            assert "is ready" in booted.run("/opt/source/run.sh", "install", timeout=180)
            yield server
            server.client.close()
    except OSError as error:
        pytest.skip(f"no machine can be made here: {error}")


def test_service_starts_at_boot_unprivileged_and_may_raise_its_priority(server: InstalledServer) -> None:
    server.machine.cut_power()
    started = time.monotonic()
    server.machine.boot()
    until(server.ready, 60)
    print(f"ready {time.monotonic() - started:.1f} s after power-on")
    until(lambda: server.machine.unit_property("ActiveState") == "active", 60)
    status = server.machine.run("cat", f"/proc/{server.pid}/status")
    assert "root" not in server.machine.run("ps", "-o", "user=", "-p", str(server.pid))
    assert re.search(r"CapEff:\s+0+\n", status) and re.search(r"NoNewPrivs:\s+1", status)
    # Only the requested limit: this machine may not be allowed to raise its own.
    assert server.machine.unit_property("LimitNICE") == "30"
    assert server.machine.unit_property("StatusText").startswith("ready")


@pytest.mark.parametrize("moment", ["idle", "starting", "loading", "answering", "stopping"])
def test_killed_service_restarts(server: InstalledServer, moment: str) -> None:
    until(server.ready, 60)
    request = threading.Thread(target=lambda: _ask_and_lose_connection(server))
    if moment == "answering":
        server.restart(fake_delay="0.03")
        request.start()
        until(lambda: server.client.get("/health").json()["turns"]["active"] == 1, 60)
    elif moment != "idle":
        before = server.pid
        server.set(fake_delay="0.03" if moment == "loading" else "0")
        server.machine.run("systemctl", "restart", "--no-block", "chatapi")
        if moment != "stopping":
            until(lambda: server.pid not in (0, before), 60)
        if moment == "loading":
            until(lambda: server.machine.unit_property("StatusText").startswith("loading"), 60)
    killed = server.pid
    server.set()
    # It may have stopped already; then nothing is killed, and it must still restart.
    if killed:
        server.kill()
    took = until(lambda: server.pid not in (0, killed) and server.ready(), 60)
    print(f"killed while {moment}: back after {took:.1f} s")
    if moment == "answering":
        request.join(60)
    assert server.ask("good morning")["reply"] == "You said: good morning."


def _ask_and_lose_connection(server: InstalledServer) -> None:
    with pytest.raises(httpx.TransportError):
        server.ask("word " * 100)


def test_hung_service_is_restarted_and_stop_takes_seconds(server: InstalledServer) -> None:
    until(server.ready, 60)
    stuck = server.pid
    server.kill(signal.SIGSTOP)
    took = until(lambda: server.pid not in (0, stuck) and server.ready(), 60)
    print(f"standing still: back after {took:.1f} s")
    assert "atchdog" in server.machine.run("journalctl", "-u", "chatapi", "--no-pager")
    started = time.monotonic()
    server.machine.run("systemctl", "stop", "chatapi")
    assert time.monotonic() - started < 5 and server.machine.unit_property("Result") == "success"


def test_stuck_engine_triggers_the_watchdog(server: InstalledServer) -> None:
    server.restart(fake_fault="hang", limits_step_seconds="0.3")
    until(server.ready, 60)
    stuck = server.pid
    server.set()
    deadline = time.monotonic() + 60
    while server.pid in (0, stuck) and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            server.client.post("/completion", json={"prompt": "good morning"})
        time.sleep(0.1)
    until(server.ready, 60)
    log = server.machine.run("journalctl", "-u", "chatapi", "--no-pager")
    assert "watchdog not fed: the llm engine is failed" in log
    # The stack of the stuck thread.
    assert "Fatal Python error: Aborted" in log and "in generate" in log
    assert server.ask("good morning")["reply"] == "You said: good morning."


def test_history_survives_a_power_cut(server: InstalledServer) -> None:
    server.restart(fake_delay="0.002")
    until(server.ready, 60)
    answered: list[str] = []
    conversation = server.ask("number 0")["conversation"]

    def converse() -> None:
        try:
            for number in range(1, 1000):
                server.ask(f"number {number}", conversation=conversation)
                answered.append(f"number {number}")
        except httpx.TransportError:
            return

    client = threading.Thread(target=converse)
    client.start()
    until(lambda: len(answered) >= 5, 60)
    server.machine.cut_power()
    client.join(60)
    database = server.machine.root / "var/lib/chatapi/history.sqlite3"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    server.machine.boot()
    until(server.ready, 60)
    messages = server.client.get(f"/conversations/{conversation}").json()["messages"]
    asked = [message["text"] for message in messages if message["role"] == "user"]
    assert asked[1 : len(answered) + 1] == answered and len(asked) <= len(answered) + 2
    assert server.ask("go on", conversation=conversation)["conversation"] == conversation


class FileServer(http.server.BaseHTTPRequestHandler):
    """Serves one file slowly, and records the requested ranges."""

    content = os.urandom(SIZE)
    ranges: list[str] = []  # noqa: RUF012 - of one test
    pause = 0.05

    def do_GET(self) -> None:
        requested = self.headers.get("Range", "")
        self.ranges.append(requested)
        first = int(requested.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if requested else 200)
        self.send_header("Content-Length", str(SIZE - first))
        self.send_header("ETag", '"one"')
        if requested:
            self.send_header("Content-Range", f"bytes {first}-{SIZE - 1}/{SIZE}")
        self.end_headers()
        try:
            for start in range(first, SIZE, 64 << 10):
                self.wfile.write(self.content[start : start + (64 << 10)])
                time.sleep(self.pause)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_download_resumes_after_a_power_cut(server: InstalledServer) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FileServer) as file_server:
        threading.Thread(target=file_server.serve_forever, daemon=True).start()
        manifest = server.machine.root / "var/lib/chatapi/manifests/slow.toml"
        manifest.parent.mkdir(exist_ok=True)
        text = (Path(__file__).parent / "slow.toml").read_text()
        sha = hashlib.sha256(FileServer.content).hexdigest()
        manifest.write_text(text.format(sha256=sha, size=SIZE, port=file_server.server_address[1]))
        os.chown(manifest.parent, *_owner(server))
        os.chown(manifest, *_owner(server))
        server.machine.run("systemctl", "restart", "--no-block", "chatapi")
        folder = server.machine.root / "var/lib/chatapi"

        def part() -> int:
            return max((file.stat().st_size for file in folder.rglob("*.part")), default=0)

        until(lambda: part() > SIZE // 4, 60)
        assert "slow" in server.machine.unit_property("StatusText")
        server.machine.cut_power()
        size = part()
        FileServer.pause = 0
        server.machine.boot()
        until(server.ready, 60)
        assert not list(folder.rglob("*.part"))
        assert FileServer.ranges[-1] == f"bytes={size}-" and size > SIZE // 4
        whole = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size == SIZE]
        assert [file.read_bytes() for file in whole] == [FileServer.content]
        manifest.unlink()
        file_server.shutdown()


def _owner(server: InstalledServer) -> tuple[int, int]:
    found = (server.machine.root / "var/lib/chatapi").stat()
    return found.st_uid, found.st_gid


IN_ANOTHER_CGROUP = """#!/bin/sh
exec systemd-run --quiet --wait --pipe --collect --setenv=NOTIFY_SOCKET="$NOTIFY_SOCKET" /opt/notify
"""
"""Runs a program in the cgroup of another unit, like a process in a container of a container daemon."""
NOTIFY = """#!/opt/template/make
import os, socket, time
address = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1\\nSTATUS=from elsewhere", address)
time.sleep(60)
"""
UNIT = """[Service]
Type=notify
NotifyAccess={access}
RuntimeDirectory={name}
TimeoutStartSec=3
ExecStart={relay} /opt/elsewhere
"""


def test_notification_from_another_cgroup_arrives_only_through_the_relay(server: InstalledServer) -> None:
    server.machine.write("/opt/elsewhere", IN_ANOTHER_CGROUP, 0o755)
    server.machine.write("/opt/notify", NOTIFY, 0o755)
    relay = "/opt/template/make /opt/chatapi/current/systemd/notify_relay.py"
    for name, access, through in (("direct", "all", ""), ("relayed", "main", relay)):
        text = UNIT.format(access=access, name=name, relay=through)
        server.machine.write(f"/etc/systemd/system/{name}.service", text)
    server.machine.run("systemctl", "daemon-reload")
    with pytest.raises(CommandError):
        server.machine.run("systemctl", "start", "direct")
    server.machine.run("systemctl", "start", "relayed")
    assert server.machine.run("systemctl", "show", "--value", "--property=StatusText", "relayed") == "from elsewhere"
    server.machine.run("systemctl", "stop", "relayed")


def test_concurrent_or_unprivileged_install_is_rejected(server: InstalledServer) -> None:
    server.machine.run("systemd-run", "--quiet", "--unit=first", "flock", "/run/lock/chatapi", "sleep", "60")
    time.sleep(0.5)
    with pytest.raises(CommandError) as second:
        server.machine.run("/opt/source/run.sh", "update")
    assert "another install, update or uninstall is running" in str(second.value)
    server.machine.run("systemctl", "stop", "first")
    with pytest.raises(CommandError) as unprivileged:
        server.machine.run("setpriv", "--reuid=65534", "--clear-groups", "/opt/source/run.sh", "install")
    message = str(unprivileged.value)
    assert "install needs root" in message and "sudo ./run.sh install" in message and message.count("\n") == 0


def test_failed_update_is_rolled_back_and_working_update_stays(server: InstalledServer) -> None:
    until(server.ready, 60)
    before = server.machine.run("readlink", "/opt/chatapi/current")
    serve = server.machine.root / "opt/source/chatapi/cli/serve.py"
    working = serve.read_text()
    serve.write_text(working + "\nraise RuntimeError('broken')\n")
    started = time.monotonic()
    with pytest.raises(CommandError) as failed:
        server.machine.run("/opt/source/run.sh", "update", timeout=180)
    print(f"back after {time.monotonic() - started:.1f} s")
    assert "the previous one runs again" in str(failed.value)
    assert server.machine.run("readlink", "/opt/chatapi/current") == before and server.ready()
    assert server.machine.run("ls", "/opt/chatapi/releases").split() == [Path(before).name]
    serve.write_text(working)
    server.machine.run("/opt/source/run.sh", "update", timeout=180)
    assert server.machine.run("readlink", "/opt/chatapi/current") != before and server.ready()


def test_support_status_and_uninstall_commands_work(server: InstalledServer) -> None:
    archive = server.machine.run("/opt/source/run.sh", "support")
    listed = server.machine.run("tar", "-tzf", archive)
    for name in ("log.txt", "unit.txt", "health.json", "check.json", "machine.txt"):
        assert name in listed
    assert "active (running)" in server.machine.run("/opt/source/run.sh", "status")
    server.machine.run("/opt/source/run.sh", "uninstall")
    assert not server.ready() and (server.machine.root / "var/lib/chatapi/history.sqlite3").exists()
    assert not (server.machine.root / "opt/chatapi").exists()
    server.machine.run("/opt/source/run.sh", "uninstall", "--purge")
    assert not (server.machine.root / "var/lib/chatapi").exists()
