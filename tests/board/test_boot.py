"""The real unit on a machine that boots: up by itself, back after every kill and power cut, and back to what worked."""

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

from board.machine import Machine, RefusedError, machine, missing, until
from conftest import MODELS

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

FASTER = "[Service]\nRestartSec=200ms\nWatchdogSec=3\nTimeoutAbortSec=1\n"
"""What the unit does, in less time."""
SIZE = 4 << 20


class Box:
    """The service on its machine, as seen from outside."""

    def __init__(self, on: Machine, port: int) -> None:
        self.on = on
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        self.port = port

    def set(self, **more: str) -> None:
        """Its settings, and a start with them where it runs."""
        roles = ("vad", "wake_word", "turn_detection", "asr", "llm", "tts")
        given = {**{f"{role}_engine": "fake" for role in roles}, "server_port": str(self.port), **more}
        lines = [f"CHATAPI_{name.upper()}={value}" for name, value in given.items()]
        self.on.write("/etc/chatapi/environment", "\n".join(lines) + "\n", 0o640)

    def restart(self, **more: str) -> None:
        self.set(**more)
        self.on.run("systemctl", "restart", "chatapi")

    @property
    def pid(self) -> int:
        return int(self.on.shown("MainPID"))

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
        self.on.run("kill", f"-{number}", str(self.pid))


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """Installed by `run.sh install`, and up."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    try:
        with machine(MODELS / "models") as made:
            box = Box(made, port)
            box.set()
            made.write("/etc/systemd/system/chatapi.service.d/faster.conf", FASTER)
            models = made.root / "var/lib/chatapi/models"
            models.mkdir(parents=True)
            for model in (MODELS / "models").glob("[!.]*"):
                (models / model.name).symlink_to(f"/opt/models/{model.name}")
            made.boot()
            assert "is ready" in made.run("/opt/source/run.sh", "install", timeout=180)
            yield box
            box.client.close()
    except OSError as error:
        pytest.skip(f"no machine can be made here: {error}")


def test_it_is_up_after_boot_as_its_own_user_and_may_be_urgent(box: Box) -> None:
    box.on.cut_power()
    begun = time.monotonic()
    box.on.boot()
    until(box.ready, 60)
    print(f"ready {time.monotonic() - begun:.1f} s after power-on")
    until(lambda: box.on.shown("ActiveState") == "active", 60)
    status = box.on.run("cat", f"/proc/{box.pid}/status")
    assert "root" not in box.on.run("ps", "-o", "user=", "-p", str(box.pid))
    assert re.search(r"CapEff:\s+0+\n", status) and re.search(r"NoNewPrivs:\s+1", status)
    # What systemd asks for; where this machine may not raise its own limits, neither may that one.
    assert box.on.shown("LimitNICE") == "30"
    assert box.on.shown("StatusText").startswith("ready")


@pytest.mark.parametrize("moment", ["idle", "starting", "loading", "answering", "stopping"])
def test_killed_at_any_moment_it_comes_back(box: Box, moment: str) -> None:
    until(box.ready, 60)
    asking = threading.Thread(target=lambda: _broken_off(box))
    if moment == "answering":
        box.restart(fake_delay="0.03")
        asking.start()
        until(lambda: box.client.get("/health").json()["turns"]["active"] == 1, 60)
    elif moment != "idle":
        before = box.pid
        box.set(fake_delay="0.03" if moment == "loading" else "0")
        box.on.run("systemctl", "restart", "--no-block", "chatapi")
        if moment != "stopping":
            until(lambda: box.pid not in (0, before), 60)
        if moment == "loading":
            until(lambda: box.on.shown("StatusText").startswith("loading"), 60)
    killed = box.pid
    box.set()
    # Where it has stopped already, nobody is killed, and it has to come all the same.
    if killed:
        box.kill()
    took = until(lambda: box.pid not in (0, killed) and box.ready(), 60)
    print(f"killed while {moment}: back after {took:.1f} s")
    if moment == "answering":
        asking.join(60)
    assert box.ask("good morning")["reply"] == "You said: good morning."


def _broken_off(box: Box) -> None:
    with pytest.raises(httpx.TransportError):
        box.ask("word " * 100)


def test_a_stop_takes_seconds_and_a_loop_that_stands_still_is_ended(box: Box) -> None:
    until(box.ready, 60)
    stuck = box.pid
    box.kill(signal.SIGSTOP)
    took = until(lambda: box.pid not in (0, stuck) and box.ready(), 60)
    print(f"standing still: back after {took:.1f} s")
    assert "atchdog" in box.on.run("journalctl", "-u", "chatapi", "--no-pager")
    begun = time.monotonic()
    box.on.run("systemctl", "stop", "chatapi")
    assert time.monotonic() - begun < 5 and box.on.shown("Result") == "success"


def test_an_engine_that_stays_stuck_is_caught_by_the_watchdog(box: Box) -> None:
    box.restart(fake_fault="hang", limits_step_seconds="0.3")
    until(box.ready, 60)
    stuck = box.pid
    box.set()
    deadline = time.monotonic() + 60
    while box.pid in (0, stuck) and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            box.client.post("/completion", json={"prompt": "good morning"})
        time.sleep(0.1)
    until(box.ready, 60)
    told = box.on.run("journalctl", "-u", "chatapi", "--no-pager")
    assert "watchdog not fed: the llm engine is failed" in told
    # Where the stuck thread stood.
    assert "Fatal Python error: Aborted" in told and "in generate" in told
    assert box.ask("good morning")["reply"] == "You said: good morning."


def test_what_was_answered_outlives_a_power_cut(box: Box) -> None:
    box.restart(fake_delay="0.002")
    until(box.ready, 60)
    answered: list[str] = []
    conversation = box.ask("number 0")["conversation"]

    def converse() -> None:
        try:
            for number in range(1, 1000):
                box.ask(f"number {number}", conversation=conversation)
                answered.append(f"number {number}")
        except httpx.TransportError:
            return

    talking = threading.Thread(target=converse)
    talking.start()
    until(lambda: len(answered) >= 5, 60)
    box.on.cut_power()
    talking.join(60)
    database = box.on.root / "var/lib/chatapi/history.sqlite3"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    box.on.boot()
    until(box.ready, 60)
    kept = box.client.get(f"/conversations/{conversation}").json()["messages"]
    asked = [message["text"] for message in kept if message["role"] == "user"]
    assert asked[1 : len(answered) + 1] == answered and len(asked) <= len(answered) + 2
    assert box.ask("go on", conversation=conversation)["conversation"] == conversation


class Depot(http.server.BaseHTTPRequestHandler):
    """One file, slowly, with what was asked of it."""

    content = os.urandom(SIZE)
    ranges: list[str] = []  # noqa: RUF012 - of one test
    pause = 0.05

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.ranges.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(SIZE - first))
        self.send_header("ETag", '"one"')
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{SIZE - 1}/{SIZE}")
        self.end_headers()
        try:
            for start in range(first, SIZE, 64 << 10):
                self.wfile.write(self.content[start : start + (64 << 10)])
                time.sleep(self.pause)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_fetch_goes_on_after_a_power_cut(box: Box) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Depot) as depot:
        threading.Thread(target=depot.serve_forever, daemon=True).start()
        own = box.on.root / "var/lib/chatapi/manifests/slow.toml"
        own.parent.mkdir(exist_ok=True)
        text = (Path(__file__).parent / "slow.toml").read_text()
        sha = hashlib.sha256(Depot.content).hexdigest()
        own.write_text(text.format(sha256=sha, size=SIZE, port=depot.server_address[1]))
        os.chown(own.parent, *_owner(box))
        os.chown(own, *_owner(box))
        box.on.run("systemctl", "restart", "--no-block", "chatapi")
        folder = box.on.root / "var/lib/chatapi"

        def part() -> int:
            return max((file.stat().st_size for file in folder.rglob("*.part")), default=0)

        until(lambda: part() > SIZE // 4, 60)
        assert "slow" in box.on.shown("StatusText")
        box.on.cut_power()
        kept = part()
        Depot.pause = 0
        box.on.boot()
        until(box.ready, 60)
        assert not list(folder.rglob("*.part"))
        assert Depot.ranges[-1] == f"bytes={kept}-" and kept > SIZE // 4
        whole = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size == SIZE]
        assert [file.read_bytes() for file in whole] == [Depot.content]
        own.unlink()
        depot.shutdown()


def _owner(box: Box) -> tuple[int, int]:
    found = (box.on.root / "var/lib/chatapi").stat()
    return found.st_uid, found.st_gid


ELSEWHERE = """#!/bin/sh
exec systemd-run --quiet --wait --pipe --collect --setenv=NOTIFY_SOCKET="$NOTIFY_SOCKET" /opt/tell
"""
"""Runs something in another unit's cgroup, as a container's processes are in that of the container's daemon."""
TELL = """#!/opt/template/make
import os, socket, time
address = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1\\nSTATUS=from elsewhere", address)
time.sleep(60)
"""
RELAYED = """[Service]
Type=notify
NotifyAccess={access}
RuntimeDirectory={name}
TimeoutStartSec=3
ExecStart={relay} /opt/elsewhere
"""


def test_what_is_said_from_another_cgroup_arrives_through_the_relay_alone(box: Box) -> None:
    box.on.write("/opt/elsewhere", ELSEWHERE, 0o755)
    box.on.write("/opt/tell", TELL, 0o755)
    relay = "/opt/template/make /opt/chatapi/current/systemd/notify_relay.py"
    for name, access, through in (("direct", "all", ""), ("relayed", "main", relay)):
        text = RELAYED.format(access=access, name=name, relay=through)
        box.on.write(f"/etc/systemd/system/{name}.service", text)
    box.on.run("systemctl", "daemon-reload")
    with pytest.raises(RefusedError):
        box.on.run("systemctl", "start", "direct")
    box.on.run("systemctl", "start", "relayed")
    assert box.on.run("systemctl", "show", "--value", "--property=StatusText", "relayed") == "from elsewhere"
    box.on.run("systemctl", "stop", "relayed")


def test_two_at_once_and_without_rights_are_told_so(box: Box) -> None:
    box.on.run("systemd-run", "--quiet", "--unit=first", "flock", "/run/lock/chatapi", "sleep", "60")
    time.sleep(0.5)
    with pytest.raises(RefusedError) as second:
        box.on.run("/opt/source/run.sh", "update")
    assert "another install, update or uninstall is running" in str(second.value)
    box.on.run("systemctl", "stop", "first")
    with pytest.raises(RefusedError) as nobody:
        box.on.run("setpriv", "--reuid=65534", "--clear-groups", "/opt/source/run.sh", "install")
    told = str(nobody.value)
    assert "install needs root" in told and "sudo ./run.sh install" in told and told.count("\n") == 0


def test_an_update_that_does_not_start_goes_back_and_one_that_does_stays(box: Box) -> None:
    until(box.ready, 60)
    before = box.on.run("readlink", "/opt/chatapi/current")
    serve = box.on.root / "opt/source/chatapi/cli/serve.py"
    works = serve.read_text()
    serve.write_text(works + "\nraise RuntimeError('broken')\n")
    begun = time.monotonic()
    with pytest.raises(RefusedError) as failed:
        box.on.run("/opt/source/run.sh", "update", timeout=180)
    print(f"back after {time.monotonic() - begun:.1f} s")
    assert "the previous one runs again" in str(failed.value)
    assert box.on.run("readlink", "/opt/chatapi/current") == before and box.ready()
    assert box.on.run("ls", "/opt/chatapi/releases").split() == [Path(before).name]
    serve.write_text(works)
    box.on.run("/opt/source/run.sh", "update", timeout=180)
    assert box.on.run("readlink", "/opt/chatapi/current") != before and box.ready()


def test_support_status_and_uninstall(box: Box) -> None:
    archive = box.on.run("/opt/source/run.sh", "support")
    listed = box.on.run("tar", "-tzf", archive)
    for name in ("log.txt", "unit.txt", "health.json", "check.json", "machine.txt"):
        assert name in listed
    assert "active (running)" in box.on.run("/opt/source/run.sh", "status")
    box.on.run("/opt/source/run.sh", "uninstall")
    assert not box.ready() and (box.on.root / "var/lib/chatapi/history.sqlite3").exists()
    assert not (box.on.root / "opt/chatapi").exists()
    box.on.run("/opt/source/run.sh", "uninstall", "--purge")
    assert not (box.on.root / "var/lib/chatapi").exists()
