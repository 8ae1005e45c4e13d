"""SIGKILL during writes: acknowledged data must be stored, and deleted data must stay deleted."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chatapi import auth
from fuzz.client import Client, Outcome
from fuzz.inputs import JSON, Input, as_json, request
from fuzz.server_process import ServerProcess, StartFailed

KEY = "kills-all-the-time"
CLIENTS = 6


@dataclass
class AcknowledgedConversation:
    """The acknowledged state of a conversation."""

    prompts: list[str] = field(default_factory=list)
    pending: str | None = None
    """Sent, but not answered before the kill: it may be stored or not."""
    deleted: bool = False
    deleting: bool = False
    """Whether a deletion was requested, but not acknowledged before the kill."""


class KillTest:
    """Starts a server, kills it, and verifies its data, repeatedly."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self._server, self._rng = server, random.Random(seed)
        self._conversations: dict[str, AcknowledgedConversation] = {}
        self._busy: set[str] = set()
        self._keys: dict[str, str] = {}
        """The added API keys by name."""
        self._revoked: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, kills: int) -> None:
        """Kills the server this many times."""
        for number in range(kills):
            try:
                await self._server.start()
            except StartFailed as error:
                self.faults.append(f"after kill {number} it did not start: {error}")
                return
            await self._verify(limit=40)
            await self._kill_during_traffic()
            self.counts["kills"] += 1
            if self.faults:
                return
        await self._server.start()
        await self._verify(limit=10**9)
        for log_error in self._server.new_log_errors():
            self.faults.append(log_error.signature)
        await self._server.stop()

    async def _kill_during_traffic(self) -> None:
        working = [asyncio.create_task(self._work(number)) for number in range(CLIENTS)]
        adding = asyncio.create_task(self._add_keys())
        await asyncio.sleep(0.1 + self._rng.random() * 1.2)
        await self._server.kill()
        adding.cancel()
        await asyncio.wait([*working, adding], timeout=10)
        for task in working:
            task.cancel()
        self._busy.clear()

    async def _work(self, number: int) -> None:
        client = Client(self._server.port, self._server.wyoming)
        while self._server.alive:
            roll = self._rng.random()
            free = [
                name
                for name, conversation in self._conversations.items()
                if name not in self._busy and not conversation.deleted
            ]
            if roll < 0.45 or not free:
                await self._begin(client, number)
            elif roll < 0.8:
                await self._continue(client, self._rng.choice(free[-30:]))
            else:
                await self._delete(client, self._rng.choice(free))
        client.close()

    async def _begin(self, client: Client, number: int) -> None:
        prompt = f"started {number} {self.counts['started']}"
        found = await self._ask(client, {"prompt": prompt})
        if found is not None:
            self._conversations[found["conversation"]] = AcknowledgedConversation([prompt])
            self.counts["started"] += 1

    async def _continue(self, client: Client, name: str) -> None:
        conversation, prompt = self._conversations[name], f"continued {self.counts['continued']}"
        self._busy.add(name)
        conversation.pending = prompt
        if await self._ask(client, {"prompt": prompt, "conversation": name}) is not None:
            conversation.prompts.append(prompt)
            conversation.pending = None
            self.counts["continued"] += 1
            self._busy.discard(name)

    async def _delete(self, client: Client, name: str) -> None:
        conversation = self._conversations[name]
        self._busy.add(name)
        conversation.deleting = True
        outcome = await self._send(client, request("DELETE", f"/conversations/{name}", None, self._headers))
        if outcome.status == 204:
            conversation.deleted = True
            self.counts["deleted"] += 1
            self._busy.discard(name)

    async def _add_keys(self) -> None:
        """Adds API keys from time to time; a key counts once `add` has returned."""
        while True:
            name = f"k{self.counts['keys added']}"
            made = await asyncio.to_thread(auth.add, self._server.data, name, [auth.TALK])
            self._keys[name] = made
            self.counts["keys added"] += 1
            if len(self._keys) > 20:
                old = next(iter(self._keys))
                # Until `revoke` has returned it may be either: a kill cancels this task and not its thread.
                key = self._keys.pop(old)
                await asyncio.to_thread(auth.revoke, self._server.data, old)
                self._revoked[old] = key
                self.counts["keys revoked"] += 1
            await asyncio.sleep(0.15)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    async def _ask(self, client: Client, document: dict[str, Any]) -> dict[str, Any] | None:
        """The reply; None if there is none."""
        body = as_json({**document, "max_tokens": 8})
        outcome = await self._send(client, request("POST", "/completion", body, {**JSON, **self._headers}))
        if outcome.status != 200 or outcome.end != "whole":
            self.counts[f"status {outcome.status}" if outcome.status else "broken off"] += 1
            return None
        found: dict[str, Any] = json.loads(outcome.body)
        return found

    async def _send(self, client: Client, data: bytes) -> Outcome:
        return await client.send(Input("http", "kills", "", (data,)))

    async def _verify(self, limit: int) -> None:
        """Verifies the last `limit` conversations, and the keys."""
        client = Client(self._server.port, self._server.wyoming)
        for name in list(reversed(self._conversations))[:limit]:
            path = request("GET", f"/conversations/{name}", None, self._headers)
            self._judge(name, await self._send(client, path))
        await self._verify_keys(client)
        started = time.monotonic()
        if await self._ask(client, {"prompt": "after the start"}) is None:
            self.faults.append(f"the server did not answer a turn after its start ({time.monotonic() - started:.1f} s)")
        client.close()

    def _judge(self, name: str, outcome: Outcome) -> None:
        conversation = self._conversations[name]
        gone = outcome.status == 404
        if not gone and outcome.status != 200:
            self.faults.append(f"conversation {name}: status {outcome.status} {outcome.end}")
        elif conversation.deleted and not gone:
            self.faults.append(f"conversation {name} was deleted, and is there")
        elif gone and not (conversation.deleted or conversation.deleting):
            self.faults.append(f"conversation {name} was acknowledged, and is gone: {conversation}")
        elif not gone:
            self._judge_messages(name, conversation, outcome)
        if gone:
            conversation.deleted = True
        elif conversation.deleting:
            # It was not acknowledged and not done; the conversation may continue.
            conversation.deleting = False

    def _judge_messages(self, name: str, conversation: AcknowledgedConversation, outcome: Outcome) -> None:
        messages = json.loads(outcome.body)["messages"]
        found = [each["text"] for each in messages if each["role"] == "user"]
        possible = (
            [conversation.prompts]
            if conversation.pending is None
            else [conversation.prompts, [*conversation.prompts, conversation.pending]]
        )
        if found not in possible:
            self.faults.append(f"conversation {name} has {found}, and {conversation.prompts} was acknowledged")
        conversation.prompts, conversation.pending = found, None

    async def _verify_keys(self, client: Client) -> None:
        for name, key in [*self._keys.items(), *list(self._revoked.items())[-5:]]:
            path = request("GET", "/models", None, {"Authorization": f"Bearer {key}"})
            status = (await self._send(client, path)).status
            if status != (200 if name in self._keys else 401):
                self.faults.append(
                    f"the key {name} got {status}, and was {'added' if name in self._keys else 'revoked'}"
                )

    def table(self) -> str:
        """The results as text."""
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return "\n".join([f"kill test: {counts}", f"{len(self.faults)} faults", *(f"  {each}" for each in self.faults)])


def kill_test(folder: Any, seed: int) -> KillTest:
    """A kill test on a new server, which requires an API key."""
    return KillTest(ServerProcess(folder, "fake", f"server.api_key={KEY}"), seed)
