"""The order of roles that a chat template accepts, and messages in that order: some templates reject all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatapi.engines import PromptMessage
from chatapi.engines.llm.chat_template import ChatTemplate

OPENING = PromptMessage("user", "Hello.")
"""Precedes an answer that nothing precedes, where the user has to begin."""


@dataclass(frozen=True)
class RoleRules:
    """What a chat template accepts."""

    takes_repeated: bool = True
    """Whether two messages of a role may follow one another, and the assistant may begin."""
    takes_system: bool = True
    """Whether a system message may come first."""
    takes_later_system: bool = True
    """Whether system messages may come later."""

    @classmethod
    def of(cls, template: ChatTemplate | None) -> RoleRules:
        """The rules of a template, found by rendering; None, or one that renders no message: it takes everything."""
        if template is None or not _renders(template, "user"):
            return cls()
        takes_system = _renders(template, "system", "user")
        return cls(
            _renders(template, "user", "user") and _renders(template, "assistant", "user"),
            takes_system,
            takes_system and _renders(template, "system", "user", "assistant", "system", "user"),
        )

    def fitted(self, messages: Sequence[PromptMessage]) -> list[PromptMessage]:
        """The messages with neighbours of a role joined, and system messages moved to where the template takes them."""
        if self == RoleRules() or not messages:
            return list(messages)
        found: list[PromptMessage] = []
        for message in messages:
            at_start = all(each.role == "system" for each in found)
            moved = message.role == "system" and not at_start and not self.takes_later_system
            self._append(found, PromptMessage("user", message.text) if moved else message)
        return self._with_start(found)

    def _append(self, found: list[PromptMessage], message: PromptMessage) -> None:
        repeated = bool(found) and found[-1].role == message.role
        if repeated and (not self.takes_repeated or message.role == "system"):
            found[-1] = _joined(found[-1], message)
        else:
            found.append(message)

    def _with_start(self, found: list[PromptMessage]) -> list[PromptMessage]:
        """The messages with a start that the template takes."""
        first, rest = found[0], found[1:]
        if first.role == "assistant" and not self.takes_repeated:
            return [OPENING, *found]
        if first.role != "system":
            return found
        begins_with_user = bool(rest) and rest[0].role == "user"
        if self.takes_system and (begins_with_user or self.takes_repeated):
            return found
        first = PromptMessage("user", first.text)
        return [_joined(first, rest[0]), *rest[1:]] if begins_with_user else [first, *rest]


def _joined(first: PromptMessage, second: PromptMessage) -> PromptMessage:
    return PromptMessage(first.role, "\n\n".join(text for text in (first.text, second.text) if text))


def _renders(template: ChatTemplate, *roles: str) -> bool:
    return template.opened([{"role": role, "content": "a"} for role in roles]) is not None
