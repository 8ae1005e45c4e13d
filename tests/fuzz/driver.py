"""Sends inputs from several clients at once; restarts a server that dies, and finds the input that killed it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.request import urlopen

from fuzz import media
from fuzz.client import STALL, Client
from fuzz.inputs import FORM, Input, form, request
from fuzz.interfaces import InputGenerator, conversation_of
from fuzz.judge import Judge
from fuzz.pools import Pools, pools
from fuzz.server_process import ServerProcess, Usage

NO_POOLS = Pools((), (), (), ())
CLIENTS = {"fake": 12, "real": 3}
"""Concurrent clients: a few more than the server answers at once."""
WARM_UP_INPUTS = {"fake": 1500, "real": 150}
"""Inputs before the first measurement of memory: by then everything is loaded and used."""
TRANSCRIBE = "/v1/audio/transcriptions"
PROGRESS_INTERVAL = 5
"""Seconds between lines of progress."""


@dataclass
class UsageChange:
    """The usage of the server before and after, since its last start."""

    before: Usage
    after: Usage

    @property
    def growth(self) -> float:
        """Growth of the memory, as a fraction."""
        return self.after.pss / self.before.pss - 1


class Campaign:
    """A run against one kind of engines."""

    def __init__(
        self, server: ServerProcess, judge: Judge, seed: int, skip: Collection[str] = (), pool: int = 40
    ) -> None:
        """`pool`: the number of examples that hypothesis generates of each kind; it is slow."""
        self._server, self._judge, self._seed, self._pool = server, judge, seed, pool
        self._skip = set(skip)
        self._clients: list[Client] = []
        self._recent: deque[Input] = deque(maxlen=40)
        self._restarting = asyncio.Lock()
        self._before: Usage | None = None
        self.usage_change: UsageChange | None = None
        self.seconds = self.client_cpu = self.server_cpu = 0.0
        """Seconds of sending, and CPU time of the clients and the server meanwhile."""
        self.generator: InputGenerator | None = None

    async def run(
        self, limit: int, seconds: float, initial: Sequence[Input] = (), report: Callable[[str], None] = print
    ) -> None:
        """Sends `initial`, then up to `limit` generated inputs for so many seconds. Raises StartFailed."""
        await self._server.start()
        self.generator = InputGenerator(self._seed, await asyncio.to_thread(self._pools) if limit else NO_POOLS)
        self.generator.blocked |= self._skip
        end = time.monotonic() + seconds
        warm = min(WARM_UP_INPUTS[self._server.engines], limit // 4)
        numbers = itertools.count()
        await self._send(iter(initial), end, report)
        await self._send(self._generated(numbers, warm), end, report)
        if limit:
            self._before = await self._idle_usage()
        await self._send(self._generated(numbers, limit - self._judge.inputs), end, report)
        await self._finish()

    def _pools(self) -> Pools:
        with urlopen(f"http://127.0.0.1:{self._server.port}/openapi.json") as reply:
            return pools(json.load(reply), self._seed, self._pool)

    def _generated(self, numbers: Iterator[int], limit: int) -> Iterator[Input]:
        """Generates so many inputs; each event of a session counts as one."""
        assert self.generator is not None
        while limit > 0:
            made = self.generator.make(next(numbers))
            limit -= made.count
            yield made

    async def _send(self, inputs: Iterator[Input], end: float, report: Callable[[str], None]) -> None:
        started, client_time, server_time, starts = (
            time.monotonic(),
            time.process_time(),
            self._server.cpu(),
            self._server.starts,
        )
        self._clients = [Client(self._server.port, self._server.wyoming) for _ in range(CLIENTS[self._server.engines])]
        watcher = asyncio.create_task(self._watch(report))
        try:
            await asyncio.gather(*(self._worker(client, inputs, end) for client in self._clients))
        finally:
            watcher.cancel()
            for client in self._clients:
                client.close()
        self.seconds += time.monotonic() - started
        self.client_cpu += time.process_time() - client_time
        if self._server.starts == starts:
            self.server_cpu += self._server.cpu() - server_time

    async def _worker(self, client: Client, inputs: Iterator[Input], end: float) -> None:
        for given in inputs:
            if time.monotonic() > end:
                return
            await self._wait_for_restart()
            starts = self._server.starts
            self._recent.append(given)
            outcome = await client.send(given)
            if outcome.end in ("none", "cut"):
                # A dying process takes a moment to end.
                await asyncio.sleep(0.3)
            if starts == self._server.starts and self._server.alive:
                self._judge.judge(given, outcome)
                self._learn(given, outcome.body)
            else:
                # The first client finds the input that did it; the outcomes of the others mean nothing.
                self._judge.inputs += given.count
                await self._handle_death(starts)

    def _learn(self, given: Input, body: bytes) -> None:
        assert self.generator is not None
        if given.interface == "completion JSON" and (found := conversation_of(body)):
            self.generator.conversations = [*self.generator.conversations[-50:], found]

    async def _wait_for_restart(self) -> None:
        if self._restarting.locked():
            async with self._restarting:
                return

    async def _handle_death(self, starts: int) -> None:
        """Restarts the server, and finds the input that killed it."""
        async with self._restarting:
            if self._server.starts != starts:
                return
            # The exit status may not be known yet.
            await asyncio.sleep(0.05)
            ending = self._server.ending
            self._judge.deaths += 1
            suspects = [client.sending for client in self._clients if client.sending is not None]
            suspects += [each for each in reversed(self._recent) if each not in suspects]
            self._report_log()
            await self._restart()
            for suspect in suspects:
                if await self._is_deadly(suspect):
                    self._judge.found(f"death {self._server.ending}", suspect, ending)
                    self._block(suspect)
                    await self._restart()
                    return
            self._judge.found(f"death {ending}, by none of the last inputs alone", None, repr(suspects))

    async def _is_deadly(self, suspect: Input) -> bool:
        client = Client(self._server.port, self._server.wyoming)
        sending = asyncio.create_task(client.send(suspect))
        await asyncio.wait([sending], timeout=5)
        sending.cancel()
        client.close()
        await asyncio.sleep(0.1)
        return not self._server.alive

    async def _restart(self) -> None:
        await self._server.kill()
        await self._server.start()
        for client in self._clients:
            client.close()
            client.set_ports(self._server.port, self._server.wyoming)
        self._before = None

    def _block(self, suspect: Input) -> None:
        assert self.generator is not None
        if self._judge.exhausted(suspect.interface):
            self.generator.blocked.add(suspect.interface)

    def _report_log(self) -> None:
        for log_error in self._server.new_log_errors():
            self._judge.found(log_error.signature, None, log_error.text[-3000:])

    async def _watch(self, report: Callable[[str], None]) -> None:
        """Closes hung connections, reads the log, and reports the progress."""
        started, before = time.monotonic(), self._judge.inputs
        for tick in itertools.count(1):
            await asyncio.sleep(1)
            for client in self._clients:
                client.check()
            if tick % PROGRESS_INTERVAL == 0:
                self._report_log()
                rate = (self._judge.inputs - before) / (time.monotonic() - started)
                found = len(self._judge.findings)
                report(f"{self._server.engines}: {self._judge.inputs} inputs, {rate:.0f}/s, {found} kinds of findings")

    async def _idle_usage(self) -> Usage:
        """The usage of the idle server, after a good file: it restarts a decoder that an input killed."""
        data = form([], [("file", "a.flac", media.files()["flac"])])
        client = Client(self._server.port, self._server.wyoming)
        # The second is a job: the first one of a box opens the store of jobs.
        for path in (TRANSCRIBE, "/transcriptions"):
            good = Input("http", "transcriptions", "good", (request("POST", path, data, FORM),))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.send(good), STALL)
        client.close()
        return await self._server.idle_usage()

    async def _finish(self) -> None:
        """Compares the usage with that of before, and stops the server."""
        if self._before is not None:
            self.usage_change = UsageChange(self._before, await self._idle_usage())
        ending = await self._server.stop()
        self._report_log()
        if ending != "exit status 0":
            self._judge.found(f"stopped badly: {ending}", None, "")


def judge_usage_change(judge: Judge, change: UsageChange | None, limit: float = 0.10) -> None:
    """Reports memory that grew by more than 10 %, and more descriptors."""
    if change is None:
        return
    if change.growth > limit:
        judge.found("memory grew", None, f"{change.before.pss >> 20} MiB to {change.after.pss >> 20} MiB (PSS)")
    if change.after.descriptors > change.before.descriptors:
        judge.found("descriptors grew", None, f"{change.before.descriptors} to {change.after.descriptors}")
