"""What an answer is given to: a question in a conversation of ours, as messages for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from chatapi.engines import ContextOverflow, LanguageModel, PromptMessage, Sampling, Stop, TokenChunk
from chatapi.errors import TooLarge
from chatapi.services.turns import tool_call_parser
from chatapi.storage.history import ConversationState, ToolResult

KEPT = 0.7
"""Share of the context that is filled after the oldest exchanges left; the rest lets the prompt cache live a while."""


class Prompt(Protocol):
    """What the model is told, and how it is asked."""

    def messages(self) -> list[PromptMessage]:
        """What the model is told."""

    def generate(
        self, engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop
    ) -> Iterator[TokenChunk]:
        """The answer, as `LanguageModel.generate` has it."""

    def shortened(self: P, overflow: ContextOverflow, sampling: Sampling) -> P:
        """One that fits. Raises CallerError where there is none."""


P = TypeVar("P", bound=Prompt)


@dataclass(frozen=True)
class Question:
    """What is asked next in a conversation."""

    conversation_state: ConversationState
    asked: str
    system: str
    """What the model is told where the conversation does not say."""
    results: tuple[ToolResult, ...] = ()
    """What functions gave since the last answer."""

    def messages(self) -> list[PromptMessage]:
        conversation_state = self.conversation_state
        messages = [
            PromptMessage("system", conversation_state.system if conversation_state.system is not None else self.system)
        ]
        for exchange in conversation_state.exchanges:
            _put(messages, exchange.results, exchange.asked)
            messages.append(PromptMessage("assistant", exchange.answered))
        _put(messages, self.results, self.asked)
        return [message for message in messages if message.text or message.calls or message.call]

    def generate(
        self, engine: LanguageModel, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop
    ) -> Iterator[TokenChunk]:
        return tool_call_parser.generate(engine, messages, sampling, stop)

    def shortened(self, overflow: ContextOverflow, sampling: Sampling) -> Question:
        """Without its oldest exchanges, so that it fits with room to spare. Raises TooLarge (prompt_too_long)."""
        conversation_state = self.conversation_state
        if not conversation_state.exchanges:
            raise TooLarge(
                f"the prompt needs {overflow.needed} tokens with the room for its answer; {overflow.context} fit the "
                "model",
                code="prompt_too_long",
                details={"needed_tokens": overflow.needed, "context_tokens": overflow.context},
            )
        lengths = [
            len(exchange.asked) + len(exchange.answered) + _length(exchange.results)
            for exchange in conversation_state.exchanges
        ]
        asked = len(self.asked) + _length(self.results)
        tokens_per_char = overflow.needed / (sum(lengths) + asked + len(conversation_state.system or "") + 1)
        excess = (overflow.needed - KEPT * overflow.context) / tokens_per_char
        left_out = 1
        while left_out < len(lengths) and sum(lengths[:left_out]) < excess:
            left_out += 1
        return replace(
            self, conversation_state=replace(conversation_state, exchanges=conversation_state.exchanges[left_out:])
        )


def _put(messages: list[PromptMessage], results: Sequence[ToolResult], asked: str) -> None:
    """Calls stand with what they gave: servers that know functions refuse a call without its result, or the reverse."""
    if results:
        # In one with what was said before the call: templates (Mistral's) refuse two messages of the same role.
        text = messages.pop().text if messages and messages[-1].role == "assistant" else ""
        messages.append(PromptMessage("assistant", text, tuple(result.call for result in results)))
        messages += [PromptMessage("tool", result.output, call=result.call.id) for result in results]
    messages.append(PromptMessage("user", asked))


def _length(results: Sequence[ToolResult]) -> int:
    return sum(len(result.call.name) + len(result.call.arguments) + len(result.output) for result in results)
