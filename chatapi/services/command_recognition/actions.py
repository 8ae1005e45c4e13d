"""What commands do: stop or repeat the answer, speak a phrase, or tell another program by a webhook or over MQTT."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from chatapi.errors import SettingsError
from chatapi.events import CommandDetection

log = logging.getLogger(__name__)

ActionKind = Literal["stop", "again", "say", "webhook", "mqtt"]
NEEDS_TEXT = ("say", "mqtt")
"""Actions that have an argument: a phrase, a topic."""
TOPIC = 200
"""Longest topic, in characters."""


@dataclass(frozen=True)
class CommandAction:
    """What one command does."""

    kind: ActionKind
    text: str = ""
    """The phrase to speak, or the topic."""

    @classmethod
    def of(cls, entry: str) -> tuple[str, CommandAction]:
        """The word and its action, of `WORD=ACTION [TEXT]`. Raises SettingsError."""
        word, _, rest = entry.partition("=")
        kind, _, text = rest.strip().partition(" ")
        word, text = word.strip().lower(), text.strip()
        if not word or kind not in get_args(ActionKind):
            kinds = ", ".join(get_args(ActionKind))
            raise SettingsError(f"commands.actions: {entry!r} is not WORD=ACTION, with one of the actions {kinds}")
        if bool(text) != (kind in NEEDS_TEXT):
            wanted = "a text behind it" if kind in NEEDS_TEXT else "nothing behind it"
            raise SettingsError(f"commands.actions: {entry!r}: the action {kind} has {wanted}")
        if kind == "mqtt" and (len(text) > TOPIC or any(each in text for each in "+#\0")):
            raise SettingsError(f"commands.actions: {text!r} is no topic to publish to")
        return word, cls(cast("ActionKind", kind), text)


class CommandedSession(Protocol):
    """A live session that commands control."""

    def drop_command(self) -> None:
        """Discard the speech that is the command."""

    async def cancel(self) -> bool:
        """Stop the answer."""

    async def repeat(self) -> None:
        """Speak the last answer again."""

    async def say(self, text: str) -> None:
        """Speak a phrase."""


Deliver = Callable[[str, bytes], Awaitable[None]]
"""Delivers a message: for a webhook its id, for MQTT its topic; and its body."""


class CommandActions:
    """The actions of the settings."""

    def __init__(self, entries: tuple[str, ...], deliveries: Mapping[ActionKind, Deliver]) -> None:
        """`deliveries`: of the kinds that tell another program. Raises SettingsError."""
        self._actions = dict(CommandAction.of(each) for each in entries)
        self._deliveries = deliveries
        for word, action in self._actions.items():
            if action.kind in ("webhook", "mqtt") and action.kind not in deliveries:
                raise SettingsError(f"commands.actions: {word} uses {action.kind}, and {action.kind}.url is not set")

    async def run(self, found: CommandDetection, session: CommandedSession) -> None:
        """Run the action of a command; a command without one is left to the conversation."""
        action = self._actions.get(found.label)
        if action is None:
            return
        session.drop_command()
        if action.kind == "stop":
            await session.cancel()
        elif action.kind == "again":
            await session.repeat()
        elif action.kind == "say":
            await session.say(action.text)
        else:
            await self._deliver(action, found)

    async def _deliver(self, action: CommandAction, found: CommandDetection) -> None:
        data = {"command": found.label, "probability": round(found.probability, 4), "version": found.version}
        body = json.dumps({"type": "command.detected", "timestamp": round(time.time(), 3), "data": data}).encode()
        target = action.text or f"command.{secrets.token_hex(8)}"
        try:
            await self._deliveries[action.kind](target, body)
        except Exception as error:
            log.warning("%s of the command failed: %s", action.kind, error)
