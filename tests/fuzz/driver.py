"""Sends inputs to a server from several clients at once, restarts it when it dies, and finds out which input it was."""

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
from fuzz.box import Box, Usage
from fuzz.client import STALL, Client
from fuzz.inputs import FORM, Input, form, request
from fuzz.interfaces import Makers, conversation_of
from fuzz.judge import Judge
from fuzz.pools import Pools, pools

NONE = Pools((), (), (), ())
CLIENTS = {"fake": 12, "real": 3}
"""Who send at once: a few more than are answered at once."""
WARM = {"fake": 1500, "real": 150}
"""Inputs before memory is read for the first time: by then everything was loaded and used."""
TRANSCRIBE = "/v1/audio/transcriptions"
ATONCE = 5
"""Seconds between two lines of progress."""


@dataclass
class Span:
    """What the server held before and after, since its last start."""

    before: Usage
    after: Usage

    @property
    def growth(self) -> float:
        """Of the memory, as a share."""
        return self.after.pss / self.before.pss - 1


class Campaign:
    """One run against one kind of engines."""

    def __init__(self, box: Box, judge: Judge, seed: int, skip: Collection[str] = (), pool: int = 40) -> None:
        """`pool`: how many examples hypothesis makes of each thing; its own way of making them is slow."""
        self._box, self._judge, self._seed, self._pool = box, judge, seed, pool
        self._skip = set(skip)
        self._clients: list[Client] = []
        self._recent: deque[Input] = deque(maxlen=40)
        self._restarting = asyncio.Lock()
        self._before: Usage | None = None
        self.span: Span | None = None
        self.seconds = self.own_cpu = self.box_cpu = 0.0
        """Seconds in which inputs were sent, and of processor time of the clients and of the server meanwhile."""
        self.makers: Makers | None = None

    async def run(
        self, most: int, seconds: float, first: Sequence[Input] = (), tell: Callable[[str], None] = print
    ) -> None:
        """`first`, then up to `most` inputs that are made, for so many seconds. Raises DidNotStart."""
        await self._box.start()
        self.makers = Makers(self._seed, await asyncio.to_thread(self._pools) if most else NONE)
        self.makers.blocked |= self._skip
        end = time.monotonic() + seconds
        warm = min(WARM[self._box.engines], most // 4)
        numbers = itertools.count()
        await self._send(iter(first), end, tell)
        await self._send(self._made(numbers, warm), end, tell)
        if most:
            self._before = await self._held()
        await self._send(self._made(numbers, most - self._judge.inputs), end, tell)
        await self._finish()

    def _pools(self) -> Pools:
        with urlopen(f"http://127.0.0.1:{self._box.port}/openapi.json") as reply:
            return pools(json.load(reply), self._seed, self._pool)

    def _made(self, numbers: Iterator[int], most: int) -> Iterator[Input]:
        """Inputs until they are so many, an event of a session counting as one."""
        assert self.makers is not None
        while most > 0:
            made = self.makers.make(next(numbers))
            most -= made.count
            yield made

    async def _send(self, inputs: Iterator[Input], end: float, tell: Callable[[str], None]) -> None:
        begun, own, box, starts = time.monotonic(), time.process_time(), self._box.cpu(), self._box.starts
        self._clients = [Client(self._box.port, self._box.wyoming) for _ in range(CLIENTS[self._box.engines])]
        watching = asyncio.create_task(self._watch(tell))
        try:
            await asyncio.gather(*(self._worker(client, inputs, end) for client in self._clients))
        finally:
            watching.cancel()
            for client in self._clients:
                client.close()
        self.seconds += time.monotonic() - begun
        self.own_cpu += time.process_time() - own
        if self._box.starts == starts:
            self.box_cpu += self._box.cpu() - box

    async def _worker(self, client: Client, inputs: Iterator[Input], end: float) -> None:
        for given in inputs:
            if time.monotonic() > end:
                return
            await self._restarted()
            starts = self._box.starts
            self._recent.append(given)
            outcome = await client.send(given)
            if outcome.end in ("none", "cut"):
                # A process that dies takes a moment to be gone.
                await asyncio.sleep(0.3)
            if starts == self._box.starts and self._box.alive:
                self._judge.judge(given, outcome)
                self._learn(given, outcome.body)
            else:
                # Whose fault it was is found out once; what else was being sent says nothing.
                self._judge.inputs += given.count
                await self._died(starts)

    def _learn(self, given: Input, body: bytes) -> None:
        assert self.makers is not None
        if given.interface == "completion JSON" and (found := conversation_of(body)):
            self.makers.conversations = [*self.makers.conversations[-50:], found]

    async def _restarted(self) -> None:
        if self._restarting.locked():
            async with self._restarting:
                return

    async def _died(self, starts: int) -> None:
        """Find the input that ended the server, and go on with a new one."""
        async with self._restarting:
            if self._box.starts != starts:
                return
            # The process may have been seen before its end was known.
            await asyncio.sleep(0.05)
            ending = self._box.ending
            self._judge.deaths += 1
            suspects = [client.sending for client in self._clients if client.sending is not None]
            suspects += [each for each in reversed(self._recent) if each not in suspects]
            self._report_log()
            await self._restart()
            for suspect in suspects:
                if await self._kills(suspect):
                    self._judge.found(f"death {self._box.ending}", suspect, ending)
                    self._block(suspect)
                    await self._restart()
                    return
            self._judge.found(f"death {ending}, by none of the last inputs alone", None, repr(suspects))

    async def _kills(self, suspect: Input) -> bool:
        client = Client(self._box.port, self._box.wyoming)
        sending = asyncio.create_task(client.send(suspect))
        await asyncio.wait([sending], timeout=5)
        sending.cancel()
        client.close()
        await asyncio.sleep(0.1)
        return not self._box.alive

    async def _restart(self) -> None:
        await self._box.kill()
        await self._box.start()
        for client in self._clients:
            client.close()
            client.move(self._box.port, self._box.wyoming)
        self._before = None

    def _block(self, suspect: Input) -> None:
        assert self.makers is not None
        if self._judge.exhausted(suspect.interface):
            self.makers.blocked.add(suspect.interface)

    def _report_log(self) -> None:
        for trouble in self._box.troubles():
            self._judge.found(trouble.signature, None, trouble.text[-3000:])

    async def _watch(self, tell: Callable[[str], None]) -> None:
        """Give up on what hangs, read the log, and say how far it is."""
        begun, before = time.monotonic(), self._judge.inputs
        for tick in itertools.count(1):
            await asyncio.sleep(1)
            for client in self._clients:
                client.check()
            if tick % ATONCE == 0:
                self._report_log()
                rate = (self._judge.inputs - before) / (time.monotonic() - begun)
                found = len(self._judge.findings)
                tell(f"{self._box.engines}: {self._judge.inputs} inputs, {rate:.0f}/s, {found} kinds of findings")

    async def _held(self) -> Usage:
        """What the server holds at rest, with a decoder that waits: some inputs end it, and it is there again after the
        next good file."""
        data = form([], [("file", "a.flac", media.files()["flac"])])
        client = Client(self._box.port, self._box.wyoming)
        good = Input("http", "transcriptions", "good", (request("POST", TRANSCRIBE, data, FORM),))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.send(good), STALL)
        client.close()
        return await self._box.settled()

    async def _finish(self) -> None:
        """Compare what it holds with what it held, and end it."""
        if self._before is not None:
            self.span = Span(self._before, await self._held())
        ending = await self._box.stop()
        self._report_log()
        if ending != "exit status 0":
            self._judge.found(f"stopped badly: {ending}", None, "")


def judge_span(judge: Judge, span: Span | None, most: float = 0.10) -> None:
    """Memory within 10 % of before, descriptors the same."""
    if span is None:
        return
    if span.growth > most:
        judge.found("memory grew", None, f"{span.before.pss >> 20} MiB to {span.after.pss >> 20} MiB (PSS)")
    if span.after.descriptors > span.before.descriptors:
        judge.found("descriptors grew", None, f"{span.before.descriptors} to {span.after.descriptors}")
