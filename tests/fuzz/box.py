"""A server under test: `python -m chatapi serve` as a process of its own, measured from outside."""

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
START = 120
"""Seconds until a server that has not become ready is a fault; the models are loaded on a busy machine."""


PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Usage:
    """What the process tree holds."""

    rss: int
    """Bytes."""
    pss: int
    """Bytes; what is shared between processes counts once."""
    own: int
    """Bytes of the PSS that are no file's: what other programs load at the same time changes nothing of them."""
    descriptors: int
    threads: int
    each: tuple[int, ...]
    """The PSS of every process, the server itself first."""

    @property
    def processes(self) -> int:
        return len(self.each)


@dataclass(frozen=True)
class Trouble:
    """An entry of the log that a client's input must not cause."""

    signature: str
    text: str


def _die_with_parent() -> None:
    """In the child: a run that is ended by force leaves no server behind."""
    os.setsid()
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class DidNotStart(Exception):
    """The server ended or did not become ready; the message has the end of its log."""


class Box:
    """A server with a data directory of its own, whose models are those of the machine."""

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
        kept = {name: value for name, value in os.environ.items() if not name.startswith(settings.ENVIRONMENT)}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}

    async def start(self) -> None:
        """Raises DidNotStart."""
        self._spawn()
        end = time.monotonic() + START
        while True:
            told = self._out.read_text(errors="replace")
            if "ready after" in told:
                self.port = int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", told)[0])
                self.wyoming = int(re.findall(r"Wyoming.*?127\.0\.0\.1:(\d+)", told)[0])
                return
            if not self.alive or time.monotonic() > end:
                await self.kill()
                raise DidNotStart(told + self.log.read_text(errors="replace")[-3000:])
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
        """How the process ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return "is running" if code is None else f"exit status {code}"

    async def stop(self, seconds: float = 15) -> str:
        """End it as a service manager does; how it ended."""
        if self.alive:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            end = time.monotonic() + seconds
            while self.alive and time.monotonic() < end:
                await asyncio.sleep(0.02)
        how = self.ending
        await self.kill()
        return how

    async def kill(self) -> None:
        """SIGKILL, also for the children that it may have."""
        if self._process is None:
            return
        family = self._family()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()
        psutil.wait_procs(family, 10)

    def _family(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self._process.pid if self._process is not None else -1)
            return [parent, *parent.children(recursive=True)]
        except (psutil.NoSuchProcess, ValueError):
            return []

    def cpu(self) -> float:
        """Seconds of processor time of the process tree."""
        total = 0.0
        for each in self._family():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def usage(self) -> Usage:
        """Of the whole process tree."""
        rss = own = descriptors = threads = 0
        each_pss = []
        for each in self._family():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = each.memory_full_info()
                rss, own = rss + memory.rss, own + _own(each.pid)
                descriptors, threads = descriptors + each.num_fds(), threads + each.num_threads()
                each_pss.append(memory.pss)
        return Usage(rss, sum(each_pss), own, descriptors, threads, tuple(each_pss))

    async def settled(self, seconds: float = 20) -> Usage:
        """What it holds when idle: read until the memory stops falling, for so long at most."""
        end = time.monotonic() + seconds
        found = self.usage()
        while time.monotonic() < end:
            await asyncio.sleep(2)
            before, found = found, self.usage()
            same = found.descriptors == before.descriptors and found.threads <= before.threads
            if same and before.pss - found.pss < 1 << 19 and time.monotonic() > end - seconds + 6:
                break
        return found

    def troubles(self) -> Iterator[Trouble]:
        """Tracebacks and errors that were logged since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        # Half a line is read when it is whole.
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        yield from troubles(new.decode(errors="replace").splitlines())

    @property
    def logged(self) -> int:
        """Bytes of the log."""
        return self.log.stat().st_size


def _own(process: int) -> int:
    """Bytes of its PSS that are no file's."""
    with suppress(OSError):
        told = Path(f"/proc/{process}/smaps_rollup").read_text()
        return 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem): +(\d+)", told)))
    return 0


def troubles(lines: list[str]) -> Iterator[Trouble]:
    """Those of a log's lines; what is no JSON is Python's or a library's own."""
    plain: list[str] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            plain.append(line)
        elif "exception" in entry:
            yield Trouble(f"traceback: {entry['message'][:60]}: {_place(entry['exception'])}", entry["exception"])
        elif entry.get("level") in ("error", "critical") or "unexpected error" in entry.get("message", ""):
            yield Trouble(f"log: {_plain(entry['message'])}", line)
    text = "\n".join(plain)
    if "Traceback (most recent call last)" in text:
        yield Trouble(f"traceback: {_place(text)}", text)
    elif "Fatal Python error" in text:
        yield Trouble("native: " + re.findall(r"Fatal Python error: .*", text)[0], text)


def _place(exception: str) -> str:
    """The last line of our own code and the kind of error: the same fault has the same words."""
    own = re.findall(r'File "[^"]*?(chatapi/[^"]+)", line \d+, in (\w+)', exception)
    where = ":".join(own[-1]) if own else "?"
    kind = exception.strip().splitlines()[-1].split(":")[0][:80]
    return f"{where}: {kind}"


def _plain(message: str) -> str:
    """Without the numbers and names that differ each time."""
    return re.sub(r"'[^']*'|\d+(\.\d+)?", "#", message)[:120]
