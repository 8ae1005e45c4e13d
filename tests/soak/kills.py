"""SIGKILL in the middle of writing traffic: what was acknowledged is kept, and what was deleted stays deleted."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chatapi import auth
from fuzz.box import Box, DidNotStart
from fuzz.client import Client, Outcome
from fuzz.inputs import JSON, Input, as_json, request

KEY = "kills-all-the-time"
CLIENTS = 6


@dataclass
class Kept:
    """A conversation as far as the server acknowledged it."""

    asked: list[str] = field(default_factory=list)
    pending: str | None = None
    """Asked, and not answered before the end: it may be there or not."""
    deleted: bool = False
    deleting: bool = False
    """Whether a deletion was asked for, and not acknowledged before the end."""


class Kills:
    """Starts a server, kills it, and looks; again and again."""

    def __init__(self, box: Box, seed: int) -> None:
        self._box, self._rng = box, random.Random(seed)
        self._kept: dict[str, Kept] = {}
        self._busy: set[str] = set()
        self._keys: dict[str, str] = {}
        """Name -> key, of those that were added."""
        self._revoked: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, kills: int) -> None:
        """So many times."""
        for number in range(kills):
            try:
                await self._box.start()
            except DidNotStart as error:
                self.faults.append(f"after kill {number} it did not start: {error}")
                return
            await self._look(most=40)
            await self._killed_in_traffic()
            self.counts["kills"] += 1
            if self.faults:
                return
        await self._box.start()
        await self._look(most=10**9)
        for trouble in self._box.troubles():
            self.faults.append(trouble.signature)
        await self._box.stop()

    async def _killed_in_traffic(self) -> None:
        working = [asyncio.create_task(self._work(number)) for number in range(CLIENTS)]
        adding = asyncio.create_task(self._add_keys())
        await asyncio.sleep(0.1 + self._rng.random() * 1.2)
        await self._box.kill()
        adding.cancel()
        await asyncio.wait([*working, adding], timeout=10)
        for task in working:
            task.cancel()
        self._busy.clear()

    async def _work(self, number: int) -> None:
        client = Client(self._box.port, self._box.wyoming)
        while self._box.alive:
            roll = self._rng.random()
            free = [name for name, kept in self._kept.items() if name not in self._busy and not kept.deleted]
            if roll < 0.45 or not free:
                await self._begin(client, number)
            elif roll < 0.8:
                await self._go_on(client, self._rng.choice(free[-30:]))
            else:
                await self._delete(client, self._rng.choice(free))
        client.close()

    async def _begin(self, client: Client, number: int) -> None:
        prompt = f"begun {number} {self.counts['begun']}"
        found = await self._ask(client, {"prompt": prompt})
        if found is not None:
            self._kept[found["conversation"]] = Kept([prompt])
            self.counts["begun"] += 1

    async def _go_on(self, client: Client, name: str) -> None:
        kept, prompt = self._kept[name], f"continued {self.counts['continued']}"
        self._busy.add(name)
        kept.pending = prompt
        if await self._ask(client, {"prompt": prompt, "conversation": name}) is not None:
            kept.asked.append(prompt)
            kept.pending = None
            self.counts["continued"] += 1
            self._busy.discard(name)

    async def _delete(self, client: Client, name: str) -> None:
        kept = self._kept[name]
        self._busy.add(name)
        kept.deleting = True
        outcome = await self._send(client, request("DELETE", f"/conversations/{name}", None, self._headers))
        if outcome.status == 204:
            kept.deleted = True
            self.counts["deleted"] += 1
            self._busy.discard(name)

    async def _add_keys(self) -> None:
        """Every now and then; a key counts once `add` has returned."""
        while True:
            name = f"k{self.counts['keys added']}"
            made = await asyncio.to_thread(auth.add, self._box.data, name, [auth.TALK])
            self._keys[name] = made
            self.counts["keys added"] += 1
            if len(self._keys) > 20:
                old = next(iter(self._keys))
                # Until `revoke` has returned it may be either: a kill cancels this task and not its thread.
                key = self._keys.pop(old)
                await asyncio.to_thread(auth.revoke, self._box.data, old)
                self._revoked[old] = key
                self.counts["keys revoked"] += 1
            await asyncio.sleep(0.15)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    async def _ask(self, client: Client, document: dict[str, Any]) -> dict[str, Any] | None:
        """The reply; None: there was none."""
        body = as_json({**document, "max_tokens": 8})
        outcome = await self._send(client, request("POST", "/completion", body, {**JSON, **self._headers}))
        if outcome.status != 200 or outcome.end != "whole":
            self.counts[f"status {outcome.status}" if outcome.status else "broken off"] += 1
            return None
        found: dict[str, Any] = json.loads(outcome.body)
        return found

    async def _send(self, client: Client, data: bytes) -> Outcome:
        return await client.send(Input("http", "kills", "", (data,)))

    async def _look(self, most: int) -> None:
        """Whether up to `most` conversations, the last ones first, and the keys are as they were acknowledged."""
        client = Client(self._box.port, self._box.wyoming)
        for name in list(reversed(self._kept))[:most]:
            path = request("GET", f"/conversations/{name}", None, self._headers)
            self._judge(name, await self._send(client, path))
        await self._look_at_keys(client)
        begun = time.monotonic()
        if await self._ask(client, {"prompt": "after the start"}) is None:
            self.faults.append(f"the box did not answer a turn after its start ({time.monotonic() - begun:.1f} s)")
        client.close()

    def _judge(self, name: str, outcome: Outcome) -> None:
        kept = self._kept[name]
        gone = outcome.status == 404
        if not gone and outcome.status != 200:
            self.faults.append(f"conversation {name}: status {outcome.status} {outcome.end}")
        elif kept.deleted and not gone:
            self.faults.append(f"conversation {name} was deleted, and is there")
        elif gone and not (kept.deleted or kept.deleting):
            self.faults.append(f"conversation {name} was acknowledged, and is gone: {kept}")
        elif not gone:
            self._judge_words(name, kept, outcome)
        if gone:
            kept.deleted = True
        elif kept.deleting:
            # It was not acknowledged and did not happen; it may go on.
            kept.deleting = False

    def _judge_words(self, name: str, kept: Kept, outcome: Outcome) -> None:
        messages = json.loads(outcome.body)["messages"]
        found = [each["text"] for each in messages if each["role"] == "user"]
        possible = [kept.asked] if kept.pending is None else [kept.asked, [*kept.asked, kept.pending]]
        if found not in possible:
            self.faults.append(f"conversation {name} has {found}, and {kept.asked} was acknowledged")
        kept.asked, kept.pending = found, None

    async def _look_at_keys(self, client: Client) -> None:
        for name, key in [*self._keys.items(), *list(self._revoked.items())[-5:]]:
            path = request("GET", "/models", None, {"Authorization": f"Bearer {key}"})
            status = (await self._send(client, path)).status
            if status != (200 if name in self._keys else 401):
                self.faults.append(
                    f"the key {name} got {status}, and was {'added' if name in self._keys else 'revoked'}"
                )

    def table(self) -> str:
        """For people."""
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return "\n".join([f"kill test: {counts}", f"{len(self.faults)} faults", *(f"  {each}" for each in self.faults)])


def make(folder: Any, seed: int) -> Kills:
    """With a server of its own, which wants a key from the first start on."""
    return Kills(Box(folder, "fake", f"server.api_key={KEY}"), seed)
