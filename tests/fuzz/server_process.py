"""A server under test: `python -m chatapi serve` in a child process, and measurements of it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatapi import settings

ROOT = Path(__file__).parents[2]
FAKE = tuple(f"{role}.engine=fake" for role in ("vad", "wake_word", "turn_detection", "asr", "llm", "tts"))
REAL = ("asr.model=whisper-tiny.en-ct2", "llm.model=smollm2-135m-instruct", "tts.model=en_US-joe-medium")
ENGINES = {"fake": FAKE, "real": REAL}
COMMON = (
    "server.port=0", "wyoming.enabled=true", "wyoming.port=0", "log.format=json", "live.sessions=8",
    "llm.max_tokens=24",
)  # fmt: skip
START_TIMEOUT = 120
"""Seconds until a server must be ready: loading models on a busy machine takes long."""


PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Usage:
    """Resources of the process tree."""

    rss: int
    """Bytes."""
    pss: int
    """Bytes; memory shared between processes counts once."""
    anonymous: int
    """Bytes of the PSS without files; files that other programs map too would change it."""
    descriptors: int
    threads: int
    each: tuple[int, ...]
    """The PSS of every process, that of the server first."""

    @property
    def processes(self) -> int:
        return len(self.each)


@dataclass(frozen=True)
class LogError:
    """An entry of the log that a client's input must not cause."""

    signature: str
    text: str


def _die_with_parent() -> None:
    """Runs in the child: kills the server when the test run is killed."""
    os.setsid()
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class StartFailed(Exception):
    """The server ended or did not become ready; the message has the end of its log."""


class ServerProcess:
    """A server with its own data directory and the models of this machine."""

    def __init__(self, folder: Path, engines: str = "fake", *more: str) -> None:
        self.engines = engines
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = self.wyoming = 0
        self.starts = 0
        self._out = folder / "out"
        self._settings = (*ENGINES[engines], *COMMON, f"data={self.data}", *more)
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self.data.mkdir(parents=True, exist_ok=True)
        models = Path(os.environ.get("CHATAPI_DATA") or settings.Settings().data) / "models"
        if models.is_dir() and not (self.data / "models").exists():
            (self.data / "models").symlink_to(models)

    @property
    def command(self) -> list[str]:
        options = [word for setting in self._settings for word in ("--set", setting)]
        return [sys.executable, "-m", "chatapi", "serve", *options]

    @property
    def environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.ENVIRONMENT)}
        return {**environment, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}

    async def start(self) -> None:
        """Starts it, and waits until it is ready; raises StartFailed."""
        self._spawn()
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            output = self._out.read_text(errors="replace")
            if "ready after" in output:
                self.port = int(re.findall(r"listening on https?://127\.0\.0\.1:(\d+)", output)[0])
                self.wyoming = int(re.findall(r"Wyoming.*?127\.0\.0\.1:(\d+)", output)[0])
                return
            if not self.alive or time.monotonic() > deadline:
                await self.kill()
                raise StartFailed(output + self.log.read_text(errors="replace")[-3000:])
            await asyncio.sleep(0.02)

    def _spawn(self) -> None:
        with self._out.open("wb") as out, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdout=out, stderr=log, cwd=self.data, env=self.environment, preexec_fn=_die_with_parent
            )
        self.starts += 1

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ending(self) -> str:
        """How the process ended: an exit status or the name of a signal."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return "is running" if code is None else f"exit status {code}"

    async def stop(self, seconds: float = 15) -> str:
        """Stops it like a service manager; returns how it ended."""
        if self.alive:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while self.alive and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
        ending = self.ending
        await self.kill()
        return ending

    async def kill(self) -> None:
        """Kills it and its children with SIGKILL."""
        if self._process is None:
            return
        processes = self._process_tree()
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()
        psutil.wait_procs(processes, 10)

    def _process_tree(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self._process.pid if self._process is not None else -1)
            return [parent, *parent.children(recursive=True)]
        except (psutil.NoSuchProcess, ValueError):
            return []

    def cpu(self) -> float:
        """Seconds of processor time of the process tree."""
        total = 0.0
        for each in self._process_tree():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def usage(self) -> Usage:
        """The usage of the whole process tree now."""
        rss = anonymous = descriptors = threads = 0
        each_pss = []
        for each in self._process_tree():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = each.memory_full_info()
                rss, anonymous = rss + memory.rss, anonymous + _anonymous_pss(each.pid)
                descriptors, threads = descriptors + _descriptors(each.pid), threads + each.num_threads()
                each_pss.append(memory.pss)
        return Usage(rss, sum(each_pss), anonymous, descriptors, threads, tuple(each_pss))

    async def idle_usage(self, seconds: float = 20) -> Usage:
        """The usage when idle: waits until the memory stops falling, for at most this time."""
        end = time.monotonic() + seconds
        usage = self.usage()
        while time.monotonic() < end:
            await asyncio.sleep(2)
            before, usage = usage, self.usage()
            same = usage.descriptors == before.descriptors and usage.threads <= before.threads
            if same and before.pss - usage.pss < 1 << 19 and time.monotonic() > end - seconds + 6:
                break
        return usage

    def new_log_errors(self) -> Iterator[LogError]:
        """Tracebacks and errors logged since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        # An incomplete line is read by the next call.
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        yield from log_errors(new.decode(errors="replace").splitlines())

    @property
    def logged(self) -> int:
        """Size of the log in bytes."""
        return self.log.stat().st_size


def _descriptors(pid: int) -> int:
    """Open descriptors of a process; those of one database count once: SQLite keeps that of a closed connection for the
    next one while another holds a lock (unixClose in os_unix.c)."""
    targets = []
    # A process or a descriptor may be gone by then.
    with suppress(FileNotFoundError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                targets.append(str(each.readlink()))
    databases = [each for each in targets if each.endswith(".sqlite3")]
    return len(targets) - len(databases) + len(set(databases))


def _anonymous_pss(pid: int) -> int:
    """Bytes of the PSS of a process without files."""
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem): +(\d+)", rollup)))
    return 0


def log_errors(lines: list[str]) -> Iterator[LogError]:
    """The errors in these lines of a log; lines that are not JSON come from Python or a library."""
    plain: list[str] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            plain.append(line)
        elif "exception" in entry:
            yield LogError(f"traceback: {entry['message'][:60]}: {_location(entry['exception'])}", entry["exception"])
        elif entry.get("level") in ("error", "critical") or "unexpected error" in entry.get("message", ""):
            yield LogError(f"log: {_without_details(entry['message'])}", line)
    text = "\n".join(plain)
    if "Traceback (most recent call last)" in text:
        yield LogError(f"traceback: {_location(text)}", text)
    elif "Fatal Python error" in text:
        yield LogError("native: " + re.findall(r"Fatal Python error: .*", text)[0], text)


def _location(exception: str) -> str:
    """The last location in our code and the kind of error: the same for the same fault."""
    frames = re.findall(r'File "[^"]*?(chatapi/[^"]+)", line \d+, in (\w+)', exception)
    location = ":".join(frames[-1]) if frames else "?"
    kind = exception.strip().splitlines()[-1].split(":")[0][:80]
    return f"{location}: {kind}"


def _without_details(message: str) -> str:
    """The message without numbers and names, which differ each time."""
    return re.sub(r"'[^']*'|\d+(\.\d+)?", "#", message)[:120]
